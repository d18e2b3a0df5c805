// SPDX-License-Identifier: Apache-2.0

//! Archives that are refused, by containerd too unless it is said why not.

use crate::archive_oracle::refusals;
use crate::archives::acl;
use crate::containerd::Containerd;
use crate::host::is_root;
use crate::raw_tar::{
    CHARACTER, DISK, Entry, FILE, LINK, LONG_NAME, MAGIC, MAJOR, MODE, PAX, SIZE, SPARSE, SYMLINK,
    TIME, UID, V7, archive, open_archive,
};

/// What an archive is refused for, and the archive.
type Case = (&'static str, Vec<u8>);

/// Fails unless guest-pull refuses each of them with these words, and containerd refuses it too if it should.
fn assert_refused(by_containerd: bool, cases: Vec<Case>) {
    if !is_root() {
        return;
    }
    let containerd = Containerd::start();
    let mut wrong = Vec::new();
    for (number, (expected, archive)) in cases.into_iter().enumerate() {
        let (ours, theirs) = refusals(&containerd, &format!("case-{number}"), &[archive]);
        let is_ours = ours.as_ref().is_some_and(|said| said.contains(expected));
        if !is_ours || theirs.is_some() != by_containerd {
            wrong.push(format!("{expected}:\n  ours {ours:?}\n  theirs {theirs:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn one(entry: Entry) -> Vec<u8> {
    archive(&[entry])
}

fn pax(list: &[(&str, &[u8])]) -> Vec<u8> {
    one(Entry::file("file", "x").pax(list))
}

/// A file of this content in the third form of sparse files.
fn sparse(content: &str) -> Vec<u8> {
    one(Entry::file("x", content).pax(&[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"sparse"),
        ("GNU.sparse.realsize", b"1000"),
    ]))
}

/// What is cut off in a header, a content, or between the blocks at the end.
#[test]
fn archive_cut_off() {
    let whole = archive(&[
        Entry::file("first", "x"),
        Entry::file("second", [b'y'; 2000]),
    ]);
    let cut = |length: usize| whole[..length].to_vec();
    let special = one(Entry::file("file", "x").long(LONG_NAME, "n".repeat(2000)));
    assert_refused(
        true,
        vec![
            ("cut off in a header", cut(100)),
            ("after 1 entry: it is cut off in a header", cut(1024 + 511)),
            (
                "second: it is cut off in the content",
                cut(1024 + 512 + 1999),
            ),
            (
                "cut off in the content of an entry",
                special[..1024].to_vec(),
            ),
            ("cut off in the blocks of zeros", cut(whole.len() - 1)),
            (
                "follows a single block of zeros",
                [
                    &open_archive(&[Entry::file("first", "x")])[..],
                    &[0; 512],
                    &one(Entry::file("second", "x")),
                ]
                .concat(),
            ),
            ("cut off in a header", b"garbage".to_vec()),
            ("the checksum of a header is wrong", vec![b'x'; 1024]),
        ],
    );
}

/// A header whose sum is wrong, or none.
#[test]
fn wrong_checksum() {
    let with = |text: &[u8]| {
        archive(&[
            Entry::file("first", "x"),
            Entry::file("x", "x").checksum(text),
        ])
    };
    assert_refused(
        true,
        vec![
            ("after 1 entry: the checksum", with(b"000001\0 ")),
            ("the checksum", with(b"")),
            ("the checksum", with(b"12345x\0 ")),
        ],
    );
}

/// Numbers that are none, and lengths below zero.
#[test]
fn broken_fields() {
    let file = || Entry::file("file", "x");
    assert_refused(
        true,
        vec![
            (
                "file: its owner is no number: 12x",
                one(file().set(UID, b"12x")),
            ),
            ("file: its mode is no number", one(file().set(MODE, b"-1"))),
            (
                "file: its time is no number",
                one(file().set(TIME, b"\x80\0\0\x01\0\0\0\0\0\0\0\0")),
            ),
            ("file: its size is -1", one(file().base_256(SIZE, -1))),
            (
                "its major device number is no number",
                one(file().set(MAJOR, b"x")),
            ),
        ],
    );
}

/// PAX headers that are not made of records, or whose records are not what they should be.
#[test]
fn broken_pax_headers() {
    let text =
        |text: &[u8]| one(Entry::file("file", "x").after(Entry::new(PAX, "x").content(text)));
    assert_refused(
        true,
        vec![
            ("a broken record", text(b"30 path=a\n")),
            ("a broken record", text(b"9 path=ab\n")),
            ("a broken record", text(b"path=a\n")),
            ("a broken record", text(b"8 path=a")),
            ("a broken record", text(b"7 path\n")),
            ("a broken record", text(b"5 =a\n")),
            ("a broken record", text(b"12 path=a\0b\n")),
            (
                "the PAX header's uid is no number: x",
                pax(&[("uid", b"x")]),
            ),
            (
                "the PAX header's size is no number",
                pax(&[("size", b"1.5")]),
            ),
            (
                "the PAX header's mtime is no number",
                pax(&[("mtime", b".5")]),
            ),
            (
                "the PAX header's atime is no number",
                pax(&[("atime", b"now")]),
            ),
            ("file: its size is -5", pax(&[("size", b"-5")])),
            (
                "has more than 1024 KiB",
                pax(&[("comment", &vec![b'x'; 1 << 20][..])]),
            ),
            (
                "has more than 64 KiB",
                one(Entry::file("x", "x").long(LONG_NAME, vec![b'n'; 1 << 20])),
            ),
        ],
    );
}

/// Maps that are broken, or don't fit the file or its data.
#[test]
fn broken_sparse_files() {
    let pad = |map: &str, data: &str| map.to_owned() + &"\0".repeat(512 - map.len()) + data;
    let old = |list: &[(&str, &[u8])]| {
        let size = ("GNU.sparse.size", &b"1000"[..]);
        one(Entry::file("file", "abc").pax(&[&[size], list].concat()))
    };
    assert_refused(
        true,
        vec![
            (
                "sparse: the parts of a sparse file",
                sparse(&pad("1\n999\n2\n", "ab")),
            ),
            (
                "the parts of a sparse file",
                sparse(&pad("2\n5\n2\n4\n2\n", "abcd")),
            ),
            (
                "the parts of a sparse file",
                sparse(&pad("1\n-1\n2\n", "ab")),
            ),
            (
                "something else than numbers",
                sparse(&pad("1\n1\nx\n", "a")),
            ),
            ("no number of parts", sparse(&pad("-1\n", "a"))),
            ("no number of parts", sparse(&pad("x\n", "a"))),
            (
                "less data than its map says",
                sparse(&pad("1\n0\n3\n", "ab")),
            ),
            (
                "more data than its map says",
                sparse(&pad("1\n0\n3\n", "abcd")),
            ),
            ("cut off in the map", sparse(&pad("9\n0\n3\n", ""))),
            ("cut off in the map", sparse("short")),
            (
                "not as long as it says",
                old(&[("GNU.sparse.numblocks", b"2"), ("GNU.sparse.map", b"0,3")]),
            ),
            (
                "not as long as it says",
                old(&[("GNU.sparse.numblocks", b"1"), ("GNU.sparse.map", b"0,3,5")]),
            ),
            ("not as long as it says", old(&[("GNU.sparse.map", b"0,3")])),
            (
                "out of order",
                old(&[("GNU.sparse.numbytes", b"3"), ("GNU.sparse.offset", b"0")]),
            ),
            (
                "the header is of another format",
                one(Entry::new(SPARSE, "file")),
            ),
        ],
    );
}

/// Parts over the kernel's limits.
#[test]
fn names_over_255_bytes_and_paths_over_4095() {
    let deep = "a/".repeat(2047) + "bb";
    assert_refused(
        true,
        vec![
            (
                "longer than 255 bytes",
                pax(&[("path", &[b'n'; 256])]).clone(),
            ),
            ("longer than 4095", pax(&[("path", deep.as_bytes())])),
            (
                "target is longer than 4095",
                one(Entry::new(SYMLINK, "l").pax(&[("linkpath", &[b't'; 4096])])),
            ),
            ("NUL byte", {
                let map = [
                    ("GNU.sparse.map", &b"0,1"[..]),
                    ("GNU.sparse.numblocks", b"1"),
                    ("GNU.sparse.size", b"1"),
                    ("GNU.sparse.name", b"a\0b"),
                ];
                pax(&map)
            }),
        ],
    );
}

/// Links that lead to nothing: the error has both names.
#[test]
fn hard_links_to_nothing() {
    let link = |name: &str, target: &str| Entry::link(LINK, name, target);
    let file = || Entry::file("file", "x");
    assert_refused(
        true,
        vec![
            (
                "entry /link: a hard link to /missing/file: neither its layer nor one below has that",
                one(link("link", "missing/file")),
            ),
            // What has the link's own name goes first.
            (
                "entry file: a hard link to itself",
                archive(&[file(), link("file", "file")]),
            ),
            (
                "entry /d: a hard link to /d/file: neither",
                archive(&[Entry::file("d/file", "x"), link("d", "d/file")]),
            ),
            (
                "which is a directory",
                archive(&[Entry::directory("d/"), link("link", "d")]),
            ),
            ("has an empty target", one(link("link", ""))),
            ("has an empty target", one(Entry::link(SYMLINK, "link", ""))),
        ],
    );
}

/// A hard link to a file of a lower layer through a symbolic link of a lower layer: the error says so.
#[test]
fn hard_links_through_links_of_lower_layers() {
    if !is_root() {
        return;
    }
    let lower = archive(&[
        Entry::file("real/file", "x"),
        Entry::link(SYMLINK, "way", "real"),
    ]);
    let upper = archive(&[Entry::link(LINK, "link", "way/file")]);
    let (ours, _) = refusals(&Containerd::start(), "way", &[lower, upper]);
    let ours = ours.unwrap();
    let expected = "a hard link to /way/file: it leads through a symbolic link of a lower layer";
    assert!(ours.contains(expected), "{ours}");
}

/// Types that the format doesn't have or containerd doesn't know, sockets as some programs write them among them.
#[test]
fn sockets_and_unknown_types() {
    let kinds = *b"7s8DMNVXAz\xff";
    let cases = kinds.map(|kind| ("of the unknown type", one(Entry::new(kind, "entry"))));
    assert_refused(true, cases.to_vec());
}

/// Entries below a file of the same layer.
#[test]
fn entries_below_a_file() {
    let below = [Entry::file("file", "x"), Entry::file("file/below", "x")];
    let link = Entry::link(SYMLINK, "link", "file");
    let through = [
        Entry::file("file", "x"),
        link,
        Entry::file("link/below", "x"),
    ];
    let links = [
        Entry::link(SYMLINK, "a", "b"),
        Entry::link(SYMLINK, "b", "a"),
        Entry::file("a/below", "x"),
    ];
    assert_refused(
        true,
        vec![
            ("entry file/below: it is below file", archive(&below)),
            ("entry link/below: it is below file", archive(&through)),
            ("leads through more than 255 links", archive(&links)),
        ],
    );
}

/// Extended attributes that the kernel refuses.
#[test]
fn extended_attributes_that_no_file_can_have() {
    let xattr = |name: &str, value: &[u8]| pax(&[(&format!("SCHILY.xattr.{name}"), value)]);
    assert_refused(
        true,
        vec![
            (
                "security.capability has no value",
                xattr("security.capability", b"x"),
            ),
            (
                "security.capability has no value",
                xattr("security.capability", &[0; 20]),
            ),
            ("has no name after its prefix", xattr("user.", b"x")),
            (
                "has a name over 255 bytes",
                xattr(&format!("user.{}", "n".repeat(251)), b"x"),
            ),
            (
                "its ACL is broken",
                xattr("system.posix_acl_access", b"\x02\0\0\0x"),
            ),
            (
                "its ACL is broken",
                xattr("system.posix_acl_access", &acl(&[(1, 7, !0)])),
            ),
            (
                "it has a default ACL, and is no directory",
                xattr(
                    "system.posix_acl_default",
                    &acl(&[(1, 7, !0), (4, 7, !0), (0x20, 7, !0)]),
                ),
            ),
            ("and at most", xattr("user.large", &[b'x'; 70_000])),
        ],
    );
}

/// Whiteouts of nothing.
#[test]
fn whiteouts_of_nothing() {
    let cases = [".wh.", ".wh..", ".wh..."];
    let cases = cases.map(|name| {
        (
            "it takes away nothing",
            one(Entry::new(FILE, format!("d/{name}"))),
        )
    });
    assert_refused(true, cases.to_vec());
}

/// What leads out of a directory. containerd takes it for a path below the root; no image needs it, and readers of a layer
/// understand it in different ways.
#[test]
fn dot_dot_in_a_name_or_a_hard_links_target() {
    let file = |name: &str| one(Entry::file(name, "x"));
    assert_refused(
        false,
        vec![
            ("entry ../file: the path has \"..\"", file("../file")),
            ("the path has \"..\"", file("a/../file")),
            ("the path has \"..\"", pax(&[("path", b"a/../../file")])),
            (
                "a hard link to ../file",
                archive(&[
                    Entry::file("file", "x"),
                    Entry::link(LINK, "link", "../file"),
                ]),
            ),
        ],
    );
}

/// What containerd takes in a way that nobody meant: it cuts owners to 32 bits, so that 2^32 becomes root, and devices to
/// what the kernel can hold; it makes what overlayfs takes for a whiteout.
#[test]
fn owners_and_devices_that_do_not_exist() {
    let device =
        |kind: u8, major: u64, minor: u64| one(Entry::new(kind, "device").device(major, minor));
    assert_refused(
        false,
        vec![
            ("its owner is 4294967296", pax(&[("uid", b"4294967296")])),
            ("its group is 4294967295", pax(&[("gid", b"4294967295")])),
            (
                "its owner is -2",
                one(Entry::file("file", "x").base_256(UID, -2)),
            ),
            ("the device 0/0", device(CHARACTER, 0, 0)),
            (
                "the device 0/0",
                one(Entry::new(CHARACTER, "device").set(MAGIC, V7).device(1, 3)),
            ),
            ("there is no device 4096/0", device(DISK, 4096, 0)),
            ("there is no device 0/1048576", device(DISK, 0, 1 << 20)),
        ],
    );
}
