// SPDX-License-Identifier: Apache-2.0

//! Layers and notes that a worker which was taken over could leave in the store: what the mounter makes of them stays within
//! the image, and within its bounds. The layers are made by `mkfs.erofs`, and the notes by hand.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use guest_pull::digest::Digest;
use guest_pull::mount::By;
use guest_pull::store::Store;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::mkfifo;
use tempfile::TempDir;

use crate::host::{Mounted, is_root, listing, mount_stored, run, tool};

/// How long a mount may take that is refused or has little to do, on a busy machine.
const LONGEST: Duration = Duration::from_secs(60);

/// A link in notes: its path, and what it leads to.
type Link<'l> = (&'l str, &'l str);

/// A store, and a tree outside of it that nobody may touch.
struct Taken {
    dir: TempDir,
    ids: Vec<Digest>,
}

impl Taken {
    /// In memory, where files can have any attributes.
    fn new() -> Self {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let taken = Self {
            dir,
            ids: Vec::new(),
        };
        fs::create_dir_all(taken.outside().join("directory")).unwrap();
        fs::write(taken.outside().join("file"), "outside").unwrap();
        taken
    }

    fn outside(&self) -> PathBuf {
        self.dir.path().join("outside")
    }

    fn store(&self) -> Store {
        Store::open(&self.dir.path().join("store")).unwrap()
    }

    /// Puts a layer above the others: a tree, and what the notes say of directories without an entry and of links.
    fn layer(&mut self, tree: impl FnOnce(&Path), implied: &[&str], links: &[Link]) -> PathBuf {
        let mut notes = b"guest-pull 1\n\n".to_vec();
        for path in implied {
            notes.extend([path.as_bytes(), b"\0"].concat());
        }
        for (path, target) in links {
            notes.extend(format!("={path}\0{target}\0").into_bytes());
        }
        self.layer_with(tree, &notes)
    }

    fn layer_with(&mut self, tree: impl FnOnce(&Path), notes: &[u8]) -> PathBuf {
        let number = self.ids.len();
        let id = Digest::of(&number.to_le_bytes());
        let root = self.dir.path().join(format!("tree-{number}"));
        fs::create_dir(&root).unwrap();
        tree(&root);
        let path = self.store().path(&id);
        let mut mkfs = tool("MKFS_EROFS", "mkfs.erofs");
        mkfs.args(["--quiet", "-Eforce-inode-extended,nosbcrc"]);
        run(mkfs.arg(&path).arg(&root));
        fs::write(path.with_extension("notes"), notes).unwrap();
        self.ids.push(id);
        path
    }

    /// Mounts the layers, in bounded time. Whatever comes of it, what is outside stays as it was.
    fn mount(&self) -> Result<(PathBuf, Mounted), String> {
        let before = listing(&self.outside());
        let bundle = self.dir.path().join("bundle");
        fs::create_dir(&bundle).unwrap();
        let start = Instant::now();
        let mounted = mount_stored(&self.store(), &self.ids, &bundle, By::File, &|| Ok(()));
        assert!(start.elapsed() < LONGEST, "{:?}", start.elapsed());
        assert_eq!(listing(&self.outside()), before);
        match mounted {
            Ok(mounted) => {
                mounted.keep();
                let root = bundle.join("rootfs");
                Ok((root.clone(), Mounted(root)))
            }
            Err(error) => {
                assert_eq!(fs::read_dir(&bundle).unwrap().count(), 0);
                fs::remove_dir(&bundle).unwrap();
                Err(error.text)
            }
        }
    }

    fn assert_refused(&self, expected: &str) {
        let error = match self.mount() {
            Ok(_) => panic!("it is mounted, and should be refused: {expected}"),
            Err(error) => error,
        };
        assert!(error.contains(expected), "{expected}: {error}");
    }
}

/// An empty file, as the worker leaves where a link to a lower layer is.
fn place(root: &Path) {
    fs::write(root.join("link"), "").unwrap();
}

/// A link to what is no file: a pipe, which nobody is to wait for, a device, a directory, a whiteout.
#[test]
fn links_to_what_is_no_file() {
    if !is_root() {
        return;
    }
    let device = |root: &Path, major: u64, minor: u64| {
        let (kind, mode) = (SFlag::S_IFCHR, Mode::S_IRWXU);
        mknod(&root.join("target"), kind, mode, makedev(major, minor)).unwrap();
    };
    type Case<'c> = (&'c dyn Fn(&Path), &'c str);
    let cases: [Case; 5] = [
        (
            &|root| mkfifo(&root.join("target"), Mode::S_IRWXU).unwrap(),
            "it is neither a file nor a symbolic link",
        ),
        // One that waits for whoever opens it, and one that never ends.
        (
            &|root| device(root, 5, 0),
            "it is neither a file nor a symbolic link",
        ),
        (
            &|root| device(root, 1, 5),
            "it is neither a file nor a symbolic link",
        ),
        (
            &|root| fs::create_dir(root.join("target")).unwrap(),
            "it is neither a file nor a symbolic link",
        ),
        (
            &|root| device(root, 0, 0),
            "neither its layer nor one below has that",
        ),
    ];
    for (target, expected) in cases {
        let mut taken = Taken::new();
        taken.layer(target, &[], &[]);
        taken.layer(place, &[], &[("/link", "/target")]);
        taken.assert_refused(&format!("entry /link: a hard link to /target: {expected}"));
    }
}

/// A link to a file through a symbolic link, of a lower layer or of its own, that leads out of the root.
#[test]
fn links_through_links() {
    if !is_root() {
        return;
    }
    let mut taken = Taken::new();
    let outside = taken.outside();
    let way = |root: &Path| symlink(&outside, root.join("way")).unwrap();
    taken.layer(way, &[], &[]);
    taken.layer(place, &[], &[("/link", "/way/file")]);
    taken.assert_refused("it leads through a symbolic link of a lower layer");
    // The layer's own: whoever wrote the notes could say anything of it.
    let mut taken = Taken::new();
    let outside = taken.outside();
    let way = |root: &Path| symlink(&outside, root.join("way")).unwrap();
    taken.layer(|root| fs::write(root.join("file"), "x").unwrap(), &[], &[]);
    let notes: [Link; 2] = [("/way/file", "/file"), ("/way/directory/new", "/file")];
    taken.layer(way, &["/way", "/way/directory", "/way/new"], &notes);
    let (root, mounted) = taken.mount().unwrap();
    assert!(root.join("way").is_symlink());
    drop(mounted);
}

/// A copy of a symbolic link is not a way out for what comes after it.
#[test]
fn what_is_put_below_a_copied_link() {
    if !is_root() {
        return;
    }
    for notes in [
        [("/a", "/out"), ("/a/file", "/file")],
        [("/a/file", "/file"), ("/a", "/out")],
    ] {
        let mut taken = Taken::new();
        let outside = taken.outside();
        let lower = |root: &Path| {
            symlink(&outside, root.join("out")).unwrap();
            fs::write(root.join("file"), "inside").unwrap();
        };
        taken.layer(lower, &[], &[]);
        // The layer has a directory where its notes say that there is a link.
        let upper = |root: &Path| {
            fs::create_dir(root.join("a")).unwrap();
            fs::write(root.join("a/file"), "").unwrap();
        };
        taken.layer(upper, &[], &notes);
        taken.assert_refused("entry /a: a hard link to /out: File exists");
    }
    // The same name twice.
    let mut taken = Taken::new();
    taken.layer(|root| fs::write(root.join("file"), "x").unwrap(), &[], &[]);
    taken.layer(place, &[], &[("/link", "/file"), ("/link", "/file")]);
    taken.assert_refused("entry /link: a hard link to /file: File exists");
}

/// A file that says it has 16 TiB is not copied, whatever room there is.
#[test]
fn a_file_of_16_tib() {
    if !is_root() {
        return;
    }
    const LENGTH: u64 = 7 * 4096;
    let mut taken = Taken::new();
    let file = |root: &Path| fs::write(root.join("file"), [b'x'; LENGTH as usize]).unwrap();
    let path = taken.layer(file, &[], &[]);
    let mut bytes = fs::read(&path).unwrap();
    let at: Vec<_> = (0..bytes.len() - 8)
        .filter(|at| bytes[*at..*at + 8] == LENGTH.to_le_bytes())
        .collect();
    for at in at {
        bytes[at..at + 8].copy_from_slice(&(1_u64 << 44).to_le_bytes());
    }
    fs::write(&path, bytes).unwrap();
    taken.layer(place, &[], &[("/link", "/file")]);
    taken.assert_refused("have 17592186044416 bytes, and at most 17179869184 are copied");
}

/// Extended attributes, which the kernel keeps in its own memory, are copied up to a bound.
#[test]
fn attributes_without_end() {
    if !is_root() {
        return;
    }
    let names: Vec<_> = (0..300).map(|number| format!("/d{number}")).collect();
    let implied: Vec<_> = names.iter().map(String::as_str).collect();
    let value = vec![b'x'; 60_000];
    let mut taken = Taken::new();
    let attributes = |root: &Path| {
        for name in &names {
            let path = root.join(&name[1..]);
            fs::create_dir(&path).unwrap();
            let flags = rustix::fs::XattrFlags::empty();
            rustix::fs::setxattr(&path, "trusted.large", &value, flags).unwrap();
        }
    };
    taken.layer(attributes, &[], &[]);
    let directories = |root: &Path| {
        for name in &names {
            fs::create_dir(root.join(&name[1..])).unwrap();
        }
    };
    taken.layer(directories, &implied, &[]);
    taken.assert_refused("have more than 16 MiB together");
}

/// Notes that would have the mounter look for hours: deep directories, each of which is looked for from the root.
#[test]
fn looks_without_end() {
    if !is_root() {
        return;
    }
    let mut taken = Taken::new();
    taken.layer(|_| {}, &[], &[]);
    let deep = "/d".repeat(2000);
    // As many as notes have room for, which is 1 MiB.
    let implied: Vec<_> = (0..250).map(|number| format!("/{number}{deep}")).collect();
    let implied: Vec<_> = implied.iter().map(String::as_str).collect();
    taken.layer(|_| {}, &implied, &[]);
    taken.assert_refused("looks, and at most 50000000 are taken");
}

/// Many links lead to one, and that by a long way to its file: the way is looked for once.
#[test]
fn many_links_by_one_long_way() {
    if !is_root() {
        return;
    }
    const LINKS: usize = 20_000;
    let deep = "d/".repeat(1900);
    let mut taken = Taken::new();
    let lower = |root: &Path| {
        // A path of this length can't be named at once.
        let top = fs::File::open(root).unwrap();
        let mut at = std::os::fd::OwnedFd::from(top);
        for _ in 0..1900 {
            let mode = rustix::fs::Mode::from_raw_mode(0o755);
            rustix::fs::mkdirat(&at, "d", mode).unwrap();
            let flags = rustix::fs::OFlags::RDONLY | rustix::fs::OFlags::DIRECTORY;
            at = rustix::fs::openat(&at, "d", flags, rustix::fs::Mode::empty()).unwrap();
        }
        let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CREATE;
        let mode = rustix::fs::Mode::from_raw_mode(0o644);
        let file = rustix::fs::openat(&at, "file", flags, mode).unwrap();
        rustix::io::write(&file, b"content").unwrap();
    };
    taken.layer(lower, &[], &[]);
    let target = format!("/{deep}file");
    taken.layer(place, &[], &[("/link", &target)]);
    let names: Vec<_> = (0..LINKS).map(|number| format!("/l{number}")).collect();
    let upper = |root: &Path| {
        for name in &names {
            fs::write(root.join(&name[1..]), "").unwrap();
        }
    };
    let links: Vec<_> = names.iter().map(|name| (name.as_str(), "/link")).collect();
    taken.layer(upper, &[], &links);
    let (root, mounted) = taken.mount().unwrap();
    for name in ["link", "l0", "l19999"] {
        assert_eq!(fs::read_to_string(root.join(name)).unwrap(), "content");
    }
    drop(mounted);
}

/// Notes of more than the mounter keeps in memory, of one layer and of all together.
#[test]
fn notes_without_end() {
    if !is_root() {
        return;
    }
    let notes = |paths: usize| [b"guest-pull 1\n\n", &b"/a\0".repeat(paths)[..]].concat();
    let mut taken = Taken::new();
    taken.layer_with(|_| {}, &notes(40_001));
    taken.assert_refused("is not stored");
    let mut taken = Taken::new();
    for _ in 0..6 {
        taken.layer_with(|_| {}, &notes(40_000));
    }
    taken.assert_refused("more than 200000 directories without entries");
}

/// A layer's file that is a link to something else is not mounted, be it another file system; nor is what is none.
#[test]
fn layers_that_are_no_files() {
    if !is_root() {
        return;
    }
    let mut taken = Taken::new();
    let path = taken.layer(|_| {}, &[], &[]);
    let elsewhere = taken.dir.path().join("elsewhere");
    fs::rename(&path, &elsewhere).unwrap();
    symlink(&elsewhere, &path).unwrap();
    taken.assert_refused("no regular file");
    fs::remove_file(&path).unwrap();
    mkfifo(&path, Mode::S_IRWXU).unwrap();
    taken.assert_refused("no regular file");
    fs::remove_file(&path).unwrap();
    fs::write(&path, vec![b'x'; 8192]).unwrap();
    taken.assert_refused("the layer ");
    fs::remove_file(&path).unwrap();
    fs::rename(&elsewhere, &path).unwrap();
    let (_, mounted) = taken.mount().unwrap();
    drop(mounted);
}
