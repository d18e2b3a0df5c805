// SPDX-License-Identifier: Apache-2.0

//! What containerd refuses, and guest-pull takes on purpose.

use crate::archive_oracle::{Listing, refused_by_containerd};
use crate::host::is_root;
use crate::raw_tar::{Entry, FILE, GNU, LINK, LONG_NAME, MAGIC, SPARSE, archive};

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
