// SPDX-License-Identifier: Apache-2.0

//! What containerd refuses, and guest-pull takes on purpose.

use crate::archive_oracle::{Listing, refused_by_containerd, taken_by_umoci};
use crate::host::is_root;
use crate::raw_tar::{Entry, FILE, GNU, LINK, LONG_NAME, MAGIC, SPARSE, SYMLINK, archive};

fn last<'l>(listing: &'l Listing, name: &str) -> &'l str {
    listing[&format!("b'{name}'")].last().unwrap()
}

/// A whiteout after an entry of the same layer means the lower layers' one. containerd's overlayfs snapshotter fails to make
/// the whiteout where the entry is; its others remove what the layer has. The specification says that order means nothing.
#[test]
fn whiteouts_after_what_the_layer_has() {
    if !is_root() {
        return;
    }
    let ours = refused_by_containerd(archive(&[
        Entry::file("kept", "kept"),
        Entry::new(FILE, ".wh.kept"),
        Entry::directory("directory/"),
        Entry::file("directory/file", "x"),
        Entry::new(FILE, ".wh.directory"),
    ]));
    for name in ["kept", "directory/file"] {
        assert!(ours.contains_key(&format!("b'{name}'")), "{ours:#?}");
    }
}

/// A hard link may come before its target: it has the target's inode, and what the target's entry says.
#[test]
fn hard_links_before_their_target() {
    if !is_root() {
        return;
    }
    let ours = refused_by_containerd(archive(&[
        Entry::link(LINK, "first", "target"),
        Entry::file("target", "x").mode(0o4711).owner(1, 2),
    ]));
    assert_eq!(ours["b'first'"], ours["b'target'"]);
    assert!(last(&ours, "first").starts_with("2, 1, "), "{ours:#?}");
    assert_eq!(ours["b'first'"][0], "'0o104711'");
}

/// Sparse files in the form of GNU tar's own, with a map in the header and in blocks after it: Go reads them, but containerd
/// knows no such type. GNU tar does, and the tests of layers compare with it.
#[test]
fn sparse_files_of_gnu_tar() {
    if !is_root() {
        return;
    }
    let number = |number: usize| format!("{number:011o}\0").into_bytes();
    let part = |at: usize| [number(at * 10_000), number(4)].concat();
    let parts = |from: usize, to: usize| -> Vec<u8> { (from..to).flat_map(part).collect() };
    let data: String = (0..30).map(|at| format!("<{at:02}>")).collect();
    // Four parts are in the header, and 21 in each block after it.
    let mut first = parts(4, 25);
    first.resize(512, 0);
    first[504] = 1;
    let mut second = parts(25, 30);
    second.resize(512, 0);
    let sparse = Entry::new(SPARSE, "cut")
        .set(MAGIC, GNU)
        .content([&first[..], &second, data.as_bytes()].concat())
        .number((124, 12), data.len() as u64)
        .set((386, 96), &parts(0, 4))
        .set((482, 1), b"\x01")
        .number((483, 12), 300_000)
        .long(LONG_NAME, "sparse");
    let mut expected = vec![0; 300_000];
    for at in 0..30 {
        let text = format!("<{at:02}>");
        expected[at * 10_000..][..4].copy_from_slice(text.as_bytes());
    }
    let ours = refused_by_containerd(archive(&[
        sparse,
        Entry::file("plain", &expected),
        Entry::file("after", "what follows is read at its place"),
    ]));
    assert_eq!(last(&ours, "sparse"), last(&ours, "plain"));
    assert!(last(&ours, "after").starts_with("1, 33, "), "{ours:#?}");
}

/// The size and the digest of an entry's content.
fn content(listing: &Listing, name: &str) -> Vec<String> {
    let rest = last(listing, name).split(", ").skip(1);
    let of_content = |part: &&str| part.starts_with('\'') || part.parse::<u64>().is_ok();
    rest.filter(of_content).map(str::to_owned).collect()
}

/// A hard link to a file of a lower layer is a copy of that file as it was in that layer, with what the link's entry says.
/// containerd finds nothing to link to, since it extracts each layer into a directory of its own. umoci, which extracts all
/// into one, makes the same.
#[test]
fn hard_links_to_files_of_lower_layers() {
    if !is_root() {
        return;
    }
    let link = |name: &str, target: &str| Entry::link(LINK, name, target);
    let note = |name: &'static str| [(name, &b"x"[..])];
    let lower = archive(&[
        Entry::directory("d/"),
        Entry::file("d/file", b"content\n".repeat(50_000))
            .mode(0o755)
            .pax(&note("SCHILY.xattr.user.of-file")),
        Entry::file("d/other", "other"),
        Entry::file("d/small", "small"),
        Entry::link(SYMLINK, "d/symbolic", "file"),
        Entry::directory("deep/").mode(0o711).owner(3, 4),
    ]);
    let middle = archive(&[
        link("one", "d/file")
            .mode(0o4711)
            .owner(7, 8)
            .pax(&note("SCHILY.xattr.user.of-link")),
        link("two", "one").mode(0o4711).owner(7, 8),
        link("deep/three", "./d//other").mode(0o600),
        link("deep/four", "d/other").mode(0o640),
        link("symbolic", "d/symbolic").owner(5, 6),
        link("replaced", "d/small"),
        link("gone", "d/small"),
    ]);
    let upper = archive(&[
        Entry::file("replaced", "by another"),
        Entry::new(FILE, ".wh.gone"),
        Entry::file("d/other", "changed"),
        link("again", "one").mode(0o755),
    ]);
    let both = taken_by_umoci(&[lower, middle, upper]);
    for name in [
        "one",
        "two",
        "deep/three",
        "deep/four",
        "replaced",
        "symbolic",
        "again",
    ] {
        let [ours, theirs] = [&both.ours, &both.theirs].map(|all| content(all, name));
        assert_eq!(ours, theirs, "{name}");
        assert!(both.ours[&format!("b'{name}'")][0].starts_with("'0o1"));
    }
    // umoci leaves out what the links' entries say, which containerd gives to the file.
    let said = |name: &str| &both.ours[&format!("b'{name}'")][..3];
    assert_eq!(said("one"), ["'0o104711'", "7", "8"]);
    assert_eq!(said("again"), ["'0o100755'", "0", "0"]);
    assert_eq!(said("symbolic"), ["'0o120777'", "5", "6"]);
    // Of two links to one file, the last says it.
    assert_eq!(said("deep/three"), ["'0o100640'", "0", "0"]);
    let one = last(&both.ours, "one");
    assert!(
        one.contains("user.of-file") && one.contains("user.of-link"),
        "{one}"
    );
    for (one, other) in [("one", "two"), ("deep/three", "deep/four")] {
        let [one, other] = [one, other].map(|name| &both.ours[&format!("b'{name}'")]);
        assert_eq!(one, other);
    }
    assert!(!both.ours.contains_key("b'gone'"), "{:#?}", both.ours);
    assert_eq!(said("deep"), ["'0o40711'", "3", "4"]);
}
