// SPDX-License-Identifier: Apache-2.0

//! Layers that try to reach out of the image, or to take from lower layers what nobody gave: by links, whiteouts and
//! directories that are replaced. The mounted image is what containerd makes of the layers, or they are refused; a tree
//! outside, to which their links lead, stays as it was.

use std::fs;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::archive_oracle::{Listing, both, refusals};
use crate::containerd::Containerd;
use crate::host::{Mounted, TIME, assert_equal, guest_pull, is_root, listing, run, text};
use crate::image::Repository;
use crate::raw_tar::{CHARACTER, Entry, FILE, LINK, PIPE, SYMLINK, archive};
use crate::repositories::serve;

/// A tree that no image may change or show.
struct Outside(TempDir);

impl Outside {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/secret"), "outside").unwrap();
        Self(dir)
    }

    fn path(&self) -> PathBuf {
        self.0.path().to_owned()
    }

    fn listing(&self) -> Listing {
        listing(self.0.path())
    }
}

/// What counts of a tree: without the times of directories, many of which have no entry and so the time of containerd's
/// extraction.
fn comparable(listing: &Listing) -> Listing {
    let mut listing = listing.clone();
    for entry in listing.values_mut() {
        if entry[0].starts_with("'0o4") {
            entry[TIME] = String::new();
        }
    }
    listing
}

fn file(name: &str) -> Entry {
    Entry::file(name, name)
}

fn link_to(name: &str, target: impl AsRef<Path>) -> Entry {
    Entry::link(SYMLINK, name, target.as_ref().to_str().unwrap())
}

fn whiteout(name: &str) -> Entry {
    Entry::new(FILE, name)
}

/// Directories that are replaced by links that lead out, and entries below them; opaque directories in what was replaced;
/// whiteouts of links, through links, and of what is new.
#[test]
fn directories_and_links_across_layers() {
    if !is_root() {
        return;
    }
    let outside = Outside::new();
    let before = outside.listing();
    let out = outside.path();
    let directory = || vec![Entry::directory("t/d/"), file("t/d/a"), file("t/d/b")];
    let cases: Vec<(&str, Vec<Vec<Entry>>)> = vec![
        (
            "a directory becomes a link to the root, and has a file below it",
            vec![directory(), vec![link_to("t/d", "/"), file("t/d/new")]],
        ),
        (
            "the file comes one layer later",
            vec![
                directory(),
                vec![link_to("t/d", "/")],
                vec![file("t/d/new")],
            ],
        ),
        (
            "a link to another tree, and files below it in its layer and the next",
            vec![
                directory(),
                vec![link_to("t/d", &out), file("t/d/d/secret")],
                vec![file("t/d/d/secret"), Entry::directory("t/d/new/")],
            ],
        ),
        (
            "a link with many steps up",
            vec![
                directory(),
                vec![link_to("t/d", "../../../../../.."), file("t/d/new")],
            ],
        ),
        (
            "a link by way of /proc",
            vec![
                vec![link_to("t/root", "/proc/self/root"), file("t/root/new")],
                vec![file("t/root/etc/new"), link_to("t/fd", "/proc/self/fd/0")],
            ],
        ),
        (
            "a whiteout through a link of its layer",
            vec![
                vec![
                    Entry::directory("t/real/"),
                    file("t/real/a"),
                    file("t/real/b"),
                ],
                vec![link_to("t/l", "real"), whiteout("t/l/.wh.a")],
            ],
        ),
        (
            "a whiteout of a link to the tree outside",
            vec![
                vec![link_to("t/l", &out), file("t/x")],
                vec![whiteout("t/.wh.l")],
            ],
        ),
        (
            "an opaque directory in the place of a file in the place of a directory",
            vec![
                directory(),
                vec![file("t/d")],
                vec![
                    Entry::directory("t/d/"),
                    whiteout("t/d/.wh..wh..opq"),
                    file("t/d/c"),
                ],
            ],
        ),
        (
            "an opaque directory that a link replaces in the same layer",
            vec![
                directory(),
                vec![
                    Entry::directory("t/d/"),
                    whiteout("t/d/.wh..wh..opq"),
                    link_to("t/d", "real"),
                    Entry::directory("t/real/"),
                ],
            ],
        ),
        (
            "an opaque mark through a link to the tree outside",
            vec![
                directory(),
                vec![link_to("t/l", &out), whiteout("t/l/d/.wh..wh..opq")],
            ],
        ),
        (
            "a directory that is taken away, and comes again",
            vec![
                directory(),
                vec![whiteout("t/.wh.d")],
                vec![Entry::directory("t/d/"), file("t/d/c")],
            ],
        ),
        (
            "a pipe in the place of a directory, and a directory in the place of a device",
            vec![
                vec![
                    Entry::directory("t/d/"),
                    Entry::new(CHARACTER, "t/e").device(5, 0),
                ],
                vec![Entry::new(PIPE, "t/d"), Entry::directory("t/e/")],
            ],
        ),
    ];
    let containerd = Containerd::start();
    for (number, (name, layers)) in cases.into_iter().enumerate() {
        let layers: Vec<_> = layers.iter().map(|layer| archive(layer)).collect();
        println!("{name}");
        let both = both(&containerd, &format!("case-{number}"), &layers);
        assert_equal(&comparable(&both.ours), &comparable(&both.theirs));
        assert_eq!(outside.listing(), before, "{name}");
    }
}

/// Hard links to what a layer may not have: a file outside, by way of links; a directory; a device and a pipe, which are
/// never opened; what an upper layer took away. Each is refused with both names.
#[test]
fn hard_links_to_lower_layers() {
    if !is_root() {
        return;
    }
    let outside = Outside::new();
    let before = outside.listing();
    let out = outside.path();
    let linked = |target: &str| vec![Entry::link(LINK, "t/link", target)];
    let through = "it leads through a symbolic link of a lower layer";
    let none = "neither its layer nor one below has that";
    let no_file = "it is neither a file nor a symbolic link";
    let cases: Vec<(Vec<Vec<Entry>>, &str)> = vec![
        (
            vec![vec![link_to("t/way", &out)], linked("t/way/d/secret")],
            through,
        ),
        (
            vec![vec![link_to("t/way", "/")], linked("t/way/etc/shadow")],
            through,
        ),
        (
            vec![
                vec![link_to("t/way", "/proc/self/root")],
                linked("t/way/etc/shadow"),
            ],
            through,
        ),
        (
            vec![vec![link_to("t/way", "/proc/self/fd")], linked("t/way/3")],
            through,
        ),
        // The link is in the same layer, where it is followed: to a name below the root, which there isn't.
        (
            vec![
                vec![file("t/x")],
                vec![
                    link_to("t/way", &out),
                    Entry::link(LINK, "t/link", "t/way/d/secret"),
                ],
            ],
            none,
        ),
        (vec![vec![Entry::directory("t/d/")], linked("t/d")], no_file),
        (
            vec![
                vec![Entry::new(CHARACTER, "t/tty").device(5, 0)],
                linked("t/tty"),
            ],
            no_file,
        ),
        (
            vec![vec![Entry::new(PIPE, "t/pipe")], linked("t/pipe")],
            no_file,
        ),
        (
            vec![
                vec![file("t/file")],
                vec![whiteout("t/.wh.file")],
                linked("t/file"),
            ],
            none,
        ),
        (
            vec![
                vec![Entry::directory("t/d/"), file("t/d/file")],
                vec![Entry::directory("t/d/"), whiteout("t/d/.wh..wh..opq")],
                linked("t/d/file"),
            ],
            none,
        ),
        // What an upper layer replaced is not the file of the lower one any more.
        (
            vec![
                vec![Entry::directory("t/d/"), file("t/d/file")],
                vec![link_to("t/d", &out)],
                linked("t/d/file"),
            ],
            through,
        ),
    ];
    let containerd = Containerd::start();
    for (number, (layers, expected)) in cases.into_iter().enumerate() {
        let layers: Vec<_> = layers.iter().map(|layer| archive(layer)).collect();
        let name = format!("link-{number}");
        let (ours, theirs) = refusals(&containerd, &name, &layers);
        let ours = ours.unwrap_or_else(|| panic!("{number}: it is taken"));
        assert!(ours.contains(expected), "{number}: {ours}");
        assert!(ours.contains("t/link: a hard link to"), "{number}: {ours}");
        assert!(theirs.is_some(), "{number}: containerd takes it");
        assert_eq!(outside.listing(), before, "{number}");
    }
}

/// A whiteout by way of a link of a lower layer does nothing to what the link leads to: the layer has a directory there. As
/// with containerd, overlayfs lists a name in it that isn't there.
#[test]
fn whiteouts_through_links_of_lower_layers() {
    if !is_root() {
        return;
    }
    let outside = Outside::new();
    let before = outside.listing();
    let lower = [
        Entry::directory("t/real/"),
        file("t/real/a"),
        link_to("t/l", "real"),
        link_to("t/o", outside.path()),
    ];
    // Through a link of its own layer it is below the root, wherever that leads.
    let upper = [
        whiteout("t/l/.wh.a"),
        whiteout("t/o/d/.wh.secret"),
        link_to("t/own", outside.path()),
        whiteout("t/own/d/.wh.secret"),
    ];
    let below = outside.path().strip_prefix("/").unwrap().join("d");
    let (repository, _) = Repository::of(&[archive(&lower), archive(&upper)]);
    let dir = tempfile::tempdir().unwrap();
    repository.write_layout(&dir.path().join("layout"));
    let registry = serve(repository);
    let [store, bundle] = ["store", "bundle"].map(|name| dir.path().join(name));
    let image = format!("{}/a/b:1", registry.address);
    let mut pull = guest_pull(&["pull", "--plain-http", "--store", text(&store), "--bundle"]);
    run(pull.args([text(&bundle), &image]));
    let ours = bundle.join("rootfs");
    let _mounted = Mounted(ours.clone());
    let containerd = Containerd::start();
    let (theirs, _mounted) = containerd.mount(&dir.path().join("layout"), "through");
    for root in [ours, theirs] {
        assert_eq!(fs::read(root.join("t/real/a")).unwrap(), b"t/real/a");
        let places = [
            (Path::new("t/l"), "a"),
            (Path::new("t/o/d"), "secret"),
            (&below, "secret"),
        ];
        for (directory, name) in places {
            let directory = root.join(directory);
            assert!(fs::symlink_metadata(&directory).unwrap().is_dir());
            let names = fs::read_dir(&directory).unwrap();
            let names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
            assert_eq!(names, [name]);
            let gone = fs::symlink_metadata(directory.join(name)).unwrap_err();
            assert_eq!(gone.kind(), std::io::ErrorKind::NotFound);
        }
    }
    assert_eq!(outside.listing(), before);
}
