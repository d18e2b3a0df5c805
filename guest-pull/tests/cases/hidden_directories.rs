// SPDX-License-Identifier: Apache-2.0

//! Directories that a later layer takes away stay away, although layers below have something in them without an entry for
//! them, which the mount makes up for. (Comparisons of random archives with containerd found that they were seen.)

use crate::archive_oracle::both;
use crate::containerd::Containerd;
use crate::host::is_root;
use crate::raw_tar::{Entry, FILE, archive};

/// By an opaque directory above, by a whiteout, and by both with a new one in the place.
#[test]
fn hidden_directories_stay_hidden() {
    if !is_root() {
        return;
    }
    let lowest = archive(&[
        Entry::directory("top/").mode(0o711),
        Entry::directory("top/d/").mode(0o700).owner(7, 8),
        Entry::file("top/d/file", "lowest"),
    ]);
    // Neither directory has an entry here.
    let middle = archive(&[Entry::file("top/d/more", "middle")]);
    let opaque = |then: &[&str]| {
        let first = Entry::new(FILE, "top/.wh..wh..opq");
        let rest = then.iter().map(|name| Entry::file(name, "upper"));
        archive(&std::iter::once(first).chain(rest).collect::<Vec<_>>())
    };
    let containerd = Containerd::start();
    for (name, upper, expected) in [
        ("opaque", opaque(&["top/other"]), &["other"][..]),
        ("whiteout", archive(&[Entry::new(FILE, "top/.wh.d")]), &[]),
        ("again", opaque(&["top/d/new"]), &["d", "d/new"]),
    ] {
        let both = both(&containerd, name, &[lowest.clone(), middle.clone(), upper]);
        both.assert_same("top", expected, &["", "/d"]);
    }
}
