// SPDX-License-Identifier: Apache-2.0

//! How archives say what they say: the forms of numbers, names and headers. The image of `archives` has these too.

use crate::archives::{Layers, assert_as_containerd};
use crate::raw_tar::{
    CHECKSUM, DIRECTORY, Entry, FILE, GID, GLOBAL, GNU, LINK, LONG_LINK, LONG_NAME, MAGIC, NAME,
    PREFIX, SIZE, SYMLINK, TIME, UID, USTAR, V7, archive, open_archive, records,
};

/// The layers of each test.
pub const ALL: [fn() -> Layers; 11] = [
    owners,
    times,
    sparse,
    long_names,
    global_headers,
    odd_bytes,
    longest,
    spellings,
    overrides,
    formats,
    fields,
];

fn upper(entries: Vec<Entry>) -> Layers {
    [Vec::new(), entries]
}

fn owners() -> Layers {
    upper(vec![
        Entry::directory("owners/"),
        Entry::file("owners/octal", "x").owner(0o7_777_777, 0o7_777_777),
        Entry::file("owners/base-256", "x")
            .base_256(UID, 3_000_000)
            .base_256(GID, 4_294_967_294),
        Entry::file("owners/pax", "x").pax(&[("uid", b"3000000"), ("gid", b"4000000000")]),
        Entry::file("owners/names", "x")
            .set((265, 32), b"nobody")
            .set((297, 32), b"nogroup")
            .pax(&[("uname", b"daemon"), ("gname", b"daemon")]),
    ])
}

/// Owners of any number of 32 bits, in each form; their names mean nothing.
#[test]
fn owners_above_2_21_and_base_256_numbers_are_read() {
    assert_as_containerd("owners", &["octal", "base-256", "pax", "names"], &[]);
}

fn times() -> Layers {
    let mut entries = vec![Entry::directory("times/")];
    for (name, time) in [
        ("negative", "-1"),
        ("negative-fraction", "-1.5"),
        ("less-than-a-second", "-0.25"),
        ("fraction", "1.5"),
        ("long-fraction", "1500000000.1234567899"),
        ("point", "1500000000."),
        ("plus", "+1500000000"),
        ("last", "9223372036.854775807"),
        ("too-late", "9223372036.854775808"),
        ("far", "9223372036854775807"),
    ] {
        let entry = Entry::file(format!("times/{name}"), "x");
        entries.push(entry.pax(&[("mtime", time.as_bytes()), ("atime", b"7"), ("ctime", b"8")]));
    }
    let base_256 =
        |name: &str, time| Entry::file(format!("times/{name}"), "x").base_256(TIME, time);
    entries.push(base_256("base-256", 8_589_934_592));
    entries.push(base_256("base-256-negative", -100));
    upper(entries)
}

/// Times with fractions are kept; those that containerd can't set, as before 1970, become the first of 1970.
#[test]
fn negative_and_fractional_times_are_as_containerd_sets_them() {
    let expected = ["negative", "fraction", "last", "too-late", "base-256"];
    assert_as_containerd("times", &expected, &[]);
}

/// A sparse file's content: data at 512, 100,000 and at the end.
fn sparse() -> Layers {
    let data = "a".repeat(512) + &"b".repeat(1000) + "the end";
    let pad = |mut map: String| {
        let length = map.len().next_multiple_of(512);
        map.extend(std::iter::repeat_n('\0', length - map.len()));
        map
    };
    let [start, middle, end] = ["512", "100000", "299993"].map(str::as_bytes);
    upper(vec![
        Entry::directory("sparse/"),
        Entry::file("sparse/0.0", &data).pax(&[
            ("GNU.sparse.size", b"300000"),
            ("GNU.sparse.numblocks", b"3"),
            ("GNU.sparse.offset", start),
            ("GNU.sparse.numbytes", b"512"),
            ("GNU.sparse.offset", middle),
            ("GNU.sparse.numbytes", b"1000"),
            ("GNU.sparse.offset", end),
            ("GNU.sparse.numbytes", b"7"),
        ]),
        Entry::file("sparse/GNUSparseFile.1/0.1", &data).pax(&[
            ("GNU.sparse.size", b"300000"),
            ("GNU.sparse.numblocks", b"3"),
            ("GNU.sparse.name", b"sparse/0.1"),
            ("GNU.sparse.map", b"512,512,100000,1000,299993,7"),
        ]),
        Entry::file(
            "sparse/GNUSparseFile.1/1.0",
            pad("3\n512\n512\n100000\n1000\n299993\n7\n".to_owned()) + &data,
        )
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"sparse/1.0"),
            ("GNU.sparse.realsize", b"300000"),
        ]),
        // Nothing but a hole, and a hole at the end.
        Entry::file("sparse/x", pad("0\n".to_owned())).pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"sparse/hole"),
            ("GNU.sparse.realsize", b"200000"),
        ]),
        Entry::file("sparse/x", pad("1\n0\n3\n".to_owned()) + "abc").pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"sparse/hole-at-the-end"),
            ("GNU.sparse.realsize", b"70000"),
        ]),
        // A map over several blocks.
        Entry::file(
            "sparse/x",
            pad("300\n".to_owned()
                + &(0..300)
                    .map(|at| format!("{}\n1\n", at * 1000))
                    .collect::<String>())
                + &"y".repeat(300),
        )
        .pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"sparse/many"),
            ("GNU.sparse.realsize", b"300000"),
        ]),
        // A form that nobody knows: the content as it stands.
        Entry::file("sparse/2.0", "as it is").pax(&[
            ("GNU.sparse.major", b"2"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.realsize", b"300000"),
        ]),
        Entry::file("sparse/after", "what follows is read at its place"),
    ])
}

/// Sparse files of PAX are files with zeros in their holes.
#[test]
fn sparse_files_of_pax_0_0_0_1_and_1_0_are_read() {
    let expected = [
        "0.0",
        "0.1",
        "1.0",
        "hole",
        "hole-at-the-end",
        "many",
        "2.0",
        "after",
    ];
    assert_as_containerd("sparse", &expected, &[]);
}

fn long_names() -> Layers {
    let name = format!("names/{}", "n".repeat(200));
    let target = "t".repeat(300);
    upper(vec![
        Entry::directory("names/"),
        Entry::new(DIRECTORY, "cut").long(LONG_NAME, format!("{name}/")),
        Entry::file("cut", "x").long(LONG_NAME, format!("{name}/file")),
        Entry::directory("cut").long(LONG_NAME, format!("{name}/")),
        Entry::link(SYMLINK, "names/link", "cut").long(LONG_LINK, &target),
        Entry::link(LINK, "names/hard", "cut")
            .long(LONG_LINK, format!("{name}/file"))
            .long(LONG_NAME, "names/both"),
        // Of two long names the last counts, and it counts more than PAX.
        Entry::file("cut", "x")
            .long(LONG_NAME, "names/first")
            .long(LONG_NAME, "names/second")
            .pax(&[("path", b"names/pax")]),
        // Nothing after the first NUL byte.
        Entry::file("cut", "x").long(LONG_NAME, "names/nul\0more"),
        Entry::file("names/empty", "x").long(LONG_NAME, ""),
    ])
}

/// GNU tar's long names and link targets.
#[test]
fn gnu_long_names_and_links_are_read() {
    assert_as_containerd("names", &["link", "both", "second", "nul", "empty"], &[]);
}

fn global_headers() -> Layers {
    let global =
        |name: &str, list: &[(&str, &[u8])]| Entry::new(GLOBAL, name).content(records(list));
    upper(vec![
        Entry::directory("global/"),
        global(
            "pax_global_header",
            &[("comment", b"a commit"), ("mtime", b"1"), ("uid", b"5")],
        ),
        Entry::file("global/file", "x"),
        // What it stands between is not the entry's.
        Entry::file("global/lost", "x")
            .after(global("global/nothing", &[]))
            .pax(&[("uid", b"7")]),
        Entry::file("global/still", "x")
            .pax(&[("uid", b"7")])
            .after(global("global/nothing", &[("mtime", b"1")])),
        // It makes directories, and takes the place of what has its name.
        global("global/made/header", &[]),
        Entry::file("global/replaced", "x"),
        global("x", &[("path", b"global/replaced")]),
        Entry::directory("global/"),
    ])
}

/// PAX global headers say nothing of the entries after them.
#[test]
fn pax_global_headers_are_passed_over() {
    assert_as_containerd("global", &["file", "lost", "still", "made"], &["/made"]);
}

fn odd_bytes() -> Layers {
    upper(vec![
        Entry::directory("bytes/"),
        Entry::file(b"bytes/\xff\xfe\x80", "x"),
        Entry::file("cut", "x").pax(&[("path", b"bytes/\xc3\x28 pax")]),
        Entry::file("cut", "x").long(LONG_NAME, b"bytes/\xe9 gnu"),
        Entry::file("bytes/line\nbreak\ttab \x07 \\", "x"),
        Entry::link(SYMLINK, "bytes/link", b"\xff\xfe"),
        Entry::file("cut", "x").pax(&[("path", b"bytes/with = and\nmore")]),
        Entry::file("bytes/ spaces ", "x"),
    ])
}

/// Names of any bytes.
#[test]
fn names_that_are_not_utf_8_are_kept() {
    assert_as_containerd(
        "bytes",
        &["\\xff\\xfe\\x80", "\\xc3( pax", "\\xe9 gnu"],
        &[],
    );
}

fn longest() -> Layers {
    let name = |letter: &str| letter.repeat(255);
    let mut entries = vec![Entry::directory("longest/")];
    let mut path = "longest".to_owned();
    for letter in "abcdefghijklmn".chars() {
        path += "/";
        path += &name(&letter.to_string());
        let directory = path.clone() + "/";
        entries.push(Entry::directory("cut").pax(&[("path", directory.as_bytes())]));
    }
    let target = "t".repeat(4095 - 64);
    let link = [
        ("path", &b"longest/link"[..]),
        ("linkpath", target.as_bytes()),
    ];
    entries.push(Entry::new(SYMLINK, "cut").pax(&link));
    upper(entries)
}

/// Names of 255 bytes, paths of thousands, and a link's target of almost a page.
#[test]
fn names_of_255_bytes_and_long_paths_are_kept() {
    let name = "a".repeat(255);
    assert_as_containerd("longest", &[&name, "link"], &[]);
}

fn spellings() -> Layers {
    upper(vec![
        Entry::directory("./spellings"),
        Entry::directory("spellings//double///"),
        Entry::directory("/spellings/absolute/"),
        Entry::file("./spellings/./dot/./file", "x"),
        Entry::file("spellings/file/", "with a slash after it"),
        Entry::link(SYMLINK, "spellings/link/", "file"),
        Entry::link(LINK, "spellings/hard", "./spellings//file"),
        Entry::directory("spellings/dot/."),
        Entry::file("", "no name"),
        Entry::file(".", "the root"),
        Entry::file("/", "the root"),
        Entry::link(SYMLINK, "./", "elsewhere"),
        Entry::directory("spellings/"),
    ])
}

/// `./`, `//`, a slash at the end, and absolute names: all are paths below the root. What would be the root itself is
/// passed over.
#[test]
fn names_with_dots_and_slashes_are_paths_below_the_root() {
    let expected = ["double", "absolute", "dot/file", "file", "link", "hard"];
    assert_as_containerd("spellings", &expected, &[]);
}

fn overrides() -> Layers {
    upper(vec![
        Entry::directory("overrides/"),
        Entry::new(FILE, "cut").pax(&[("path", b"overrides/path")]),
        Entry::link(SYMLINK, "overrides/symbolic", "cut").pax(&[("linkpath", b"path")]),
        Entry::link(LINK, "overrides/hard", "cut").pax(&[("linkpath", b"overrides/path")]),
        Entry::file("overrides/size", "five.")
            .set(SIZE, b"")
            .pax(&[("size", b"5")]),
        // Each replaces the one before it whole.
        Entry::file("overrides/several", "x")
            .pax(&[("uid", b"7"), ("SCHILY.xattr.user.a", b"x")])
            .pax(&[("gid", b"8")]),
        Entry::file("overrides/empty", "x")
            .owner(3, 4)
            .pax(&[("uid", b""), ("path", b"")]),
        Entry::file("overrides/last", "x").pax(&[("uid", b"5"), ("uid", b"6")]),
        Entry::file("overrides/withdrawn", "x").pax(&[("uid", b"5"), ("uid", b"")]),
    ])
}

/// Records of a PAX header count more than the entry's own fields; of several headers the last counts.
#[test]
fn pax_records_override_fields_and_the_last_header_counts() {
    let expected = ["path", "symbolic", "hard", "size", "several", "empty"];
    assert_as_containerd("overrides", &expected, &[]);
}

fn formats() -> Layers {
    let old = |kind: u8, name: &str| Entry::new(kind, name).set(MAGIC, V7);
    let star = |entry: Entry| entry.set((508, 4), b"tar\0");
    let of_go = Entry::file("go", "x").set(MAGIC, GNU);
    upper(vec![
        Entry::directory("formats/"),
        old(0, "formats/old-directory/").mode(0o700),
        old(0, "formats/old-file").content("x").owner(1, 2),
        old(b'2', "formats/old-link").set(crate::raw_tar::TARGET, b"old-file"),
        // The old format has no second part of names.
        old(b'0', "formats/no-prefix").set(PREFIX, b"prefix"),
        Entry::file("prefix", "x").set(PREFIX, b"formats"),
        star(Entry::file("star", "x").set((345, 131), b"formats")),
        star(Entry::file("formats/star-time", "x").set((476, 12), b"00000000007\0")),
        // GNU tar has times there, and Go once wrote the start of names.
        Entry::file("formats/gnu", "x")
            .set(MAGIC, GNU)
            .set((345, 12), b"00000000007\0"),
        of_go.set(PREFIX, b"formats"),
        // A magic with another version is a POSIX header all the same, and one with another ending is none.
        Entry::file("version", "x")
            .set(MAGIC, b"ustar\0xy")
            .set(PREFIX, b"formats"),
        Entry::file("formats/none", "x")
            .set(MAGIC, b"ustar 00")
            .set(PREFIX, b"prefix"),
        Entry::file("formats/magic", "x").set(MAGIC, USTAR),
    ])
}

/// Headers from before 1988, of star, of GNU tar, and of old versions of Go.
#[test]
fn headers_of_v7_star_and_gnu_tar_are_read() {
    let expected = [
        "old-directory",
        "old-file",
        "old-link",
        "no-prefix",
        "prefix",
        "star",
        "star-time",
        "gnu",
        "go",
        "version",
        "none",
        "magic",
    ];
    assert_as_containerd("formats", &expected, &[]);
}

fn fields() -> Layers {
    let signed = Entry::file(b"fields/signed-\xff\xfe", "x");
    let sum = format!("{:06o}\0 ", signed.sum(true)).into_bytes();
    let spaces = Entry::file("fields/spaces", "x");
    let spaced = format!("{:>6o}  ", spaces.sum(false)).into_bytes();
    upper(vec![
        Entry::directory("fields/"),
        Entry::file("fields/nothing", "")
            .set(UID, b"")
            .set(GID, b"        ")
            .set(TIME, b""),
        Entry::file("fields/padded", "x")
            .set(UID, b"    17 ")
            .set(GID, b" 17\0\0\0\0"),
        Entry::file("fields/full", "x")
            .set(UID, b"00000017")
            .set(GID, b"17777777"),
        Entry::file("fields/more-after-nul", "x").set(UID, b"17\0 xyz"),
        // The name has its whole field.
        Entry::file(format!("fields/{}", "f".repeat(93)), "x").set(CHECKSUM, b""),
        Entry::file("cut", "x").set(NAME, b"fields/nul\0more"),
        signed.checksum(&sum),
        spaces.checksum(&spaced),
    ])
}

/// Numbers with spaces, NUL bytes, or nothing; and checksums of signed bytes, as old tools made them.
#[test]
fn fields_are_read_in_each_of_their_forms() {
    let expected = [
        "nothing",
        "padded",
        "full",
        "more-after-nul",
        "nul",
        "spaces",
    ];
    assert_as_containerd("fields", &expected, &[]);
}

/// Archives that end in odd ways which are taken: each has a directory with one file.
pub fn odd_ends() -> Vec<Vec<u8>> {
    let entries = |name: &str| {
        let file = Entry::file(format!("ends/{name}"), "x");
        [Entry::directory("ends/"), file]
    };
    let with_more = |mut archive: Vec<u8>, more: &[u8]| {
        archive.extend(more);
        archive
    };
    let mut without_padding = open_archive(&entries("without-padding"));
    without_padding.truncate(without_padding.len() - 500);
    vec![
        with_more(archive(&entries("garbage-after-it")), b"garbage"),
        with_more(
            archive(&entries("an-archive-after-it")),
            &archive(&[Entry::file("ends/not-seen", "x")]),
        ),
        with_more(archive(&entries("zeros-after-it")), &[0; 100_000]),
        open_archive(&entries("without-an-end")),
        with_more(open_archive(&entries("with-one-block")), &[0; 512]),
        without_padding,
        Vec::new(),
        archive(&[]),
    ]
}

/// What follows the two blocks of zeros counts for nothing, be it zeros or not; the blocks may be missing, and the last
/// padding too; an empty archive is an empty layer.
#[test]
fn zero_filled_tails_garbage_after_the_end_and_missing_ends_are_taken() {
    let expected = [
        "garbage-after-it",
        "an-archive-after-it",
        "zeros-after-it",
        "without-an-end",
        "with-one-block",
        "without-padding",
    ];
    assert_as_containerd("ends", &expected, &[]);
}
