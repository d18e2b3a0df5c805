// SPDX-License-Identifier: Apache-2.0

//! Many layers, and pulls that are killed.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

#[path = "support/host.rs"]
mod host;
#[path = "support/image.rs"]
mod image;
#[path = "support/stand_in.rs"]
mod stand_in;

use std::fs;
use std::io::Read as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use guest_pull::digest::Digest;
use guest_pull::mount::By;
use guest_pull::store::Store;
use host::{PATIENCE, guest_pull, is_root, loop_devices, mount_stored, output, run, text, tool};
use image::{Repository, archive, noise};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use stand_in::StandIn;
use tempfile::TempDir;

/// What images have at most, by the limit that Docker had.
const MANY: usize = 127;

/// An image of these archives, the lowest first, in the store of a directory; and the layers' digests.
fn pulled(archives: &[Vec<u8>]) -> (TempDir, Store, Vec<Digest>) {
    pulled_in(&std::env::temp_dir(), archives)
}

/// The same, in a directory in another one.
fn pulled_in(parent: &Path, archives: &[Vec<u8>]) -> (TempDir, Store, Vec<Digest>) {
    let (repository, image) = Repository::of(archives);
    let registry = StandIn::start(move |asked| repository.answer(&asked.path));
    let dir = tempfile::tempdir_in(parent).unwrap();
    let store = dir.path().join("store");
    let name = format!("{}/a/b:1", registry.address);
    let args = ["pull", "--plain-http", "--store", text(&store), &name];
    run(&mut guest_pull(&args));
    let ids = image.diff_ids.iter().map(|id| Digest::parse(id).unwrap());
    (dir, Store::open(&store).unwrap(), ids.collect())
}

/// An image of as many layers as there are is mounted from files, and from loop devices as on older kernels: the upper
/// layer's file is seen, and each layer's own. Nothing is left of it when its root file system is unmounted.
#[test]
fn many_layers_are_stacked() {
    if !is_root() {
        return;
    }
    let layer = |number: usize| {
        let own = (format!("own/{number}"), vec![b'x'; number]);
        archive(&[own, ("last".to_owned(), number.to_string().into_bytes())])
    };
    let archives: Vec<_> = (0..MANY).map(layer).collect();
    let (dir, store, ids) = pulled(&archives);
    for (by, name) in [(By::File, "file"), (By::LoopDevice, "loop")] {
        let bundle = dir.path().join(name);
        fs::create_dir(&bundle).unwrap();
        let mounted = mount_stored(&store, &ids, &bundle, by, &|| Ok(())).unwrap();
        let root = bundle.join("rootfs");
        if by == By::LoopDevice {
            assert_eq!(loop_devices(dir.path()), MANY);
        }
        assert_eq!(
            fs::read_to_string(root.join("last")).unwrap(),
            (MANY - 1).to_string()
        );
        for number in 0..MANY {
            let own = fs::metadata(root.join(format!("own/{number}"))).unwrap();
            assert_eq!(own.len(), number as u64, "{by:?}");
        }
        mounted.undo().unwrap();
        assert!(!root.exists());
        let end = Instant::now() + PATIENCE;
        while loop_devices(dir.path()) > 0 {
            assert!(Instant::now() < end, "loop devices stay");
            sleep(Duration::from_millis(10));
        }
    }
}

/// An image with a hard link to a file of a lower layer, of so many MiB, in a directory in memory.
fn linked(mebibytes: usize) -> (TempDir, Store, Vec<Digest>) {
    let lower = archive(&[("d/file".to_owned(), noise(1, mebibytes << 20))]);
    let mut upper = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Link);
    header.set_mode(0o640);
    header.set_size(0);
    upper.append_link(&mut header, "e/link", "d/file").unwrap();
    let layers = [lower, upper.into_inner().unwrap()];
    pulled_in(Path::new("/dev/shm"), &layers)
}

/// Copies of files of lower layers that the writable layer has no room for are refused before they are begun, with both
/// numbers; so is all work when the caller goes. Nothing is left of either.
#[test]
fn copies_have_room_and_end_with_the_caller() {
    if !is_root() {
        return;
    }
    let (dir, store, ids) = linked(2);
    let bundle = dir.path().join("bundle");
    fs::create_dir(&bundle).unwrap();
    let gone = || Err(std::io::Error::other("the caller went away"));
    let error = mount_stored(&store, &ids, &bundle, By::File, &gone).unwrap_err();
    assert!(error.text.contains("the caller went away"), "{error:?}");
    // It goes after the layers are mounted, and while the copy is made.
    for most in 1..12 {
        let asked = AtomicUsize::new(0);
        let check = || match asked.fetch_add(1, Ordering::Relaxed) < most {
            true => Ok(()),
            false => gone(),
        };
        let mounted = mount_stored(&store, &ids, &bundle, By::File, &check);
        assert!(mounted.is_err(), "not asked more than {most} times");
    }
    assert_eq!(fs::read_dir(&bundle).unwrap().count(), 0);
    run(Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"])
        .arg(&bundle));
    let error = mount_stored(&store, &ids, &bundle, By::File, &|| Ok(())).unwrap_err();
    let left = fs::read_dir(&bundle).unwrap().count();
    run(Command::new("umount").arg(&bundle));
    let kind = error.kind.unwrap();
    assert_eq!((kind, left), (std::io::ErrorKind::StorageFull, 0));
    let expected = "have 2097152 bytes, and there is room for 10";
    assert!(error.text.contains(expected), "{error:?}");
}

/// What is made in the writable layer before the mount has no ACL from the bundle's directory.
#[test]
fn copies_inherit_no_acls() {
    if !is_root() {
        return;
    }
    let (dir, store, ids) = linked(1);
    let bundle = dir.path().join("bundle");
    fs::create_dir(&bundle).unwrap();
    let mut acl = 2_u32.to_le_bytes().to_vec();
    for (tag, id) in [(1, !0), (2, 1000), (4, !0), (0x10, !0), (0x20, !0_u32)] {
        let (tag, rights): (u16, u16) = (tag, 7);
        acl.extend(tag.to_le_bytes());
        acl.extend(rights.to_le_bytes());
        acl.extend(id.to_le_bytes());
    }
    let flags = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(&bundle, "system.posix_acl_default", &acl, flags).unwrap();
    let mounted = mount_stored(&store, &ids, &bundle, By::File, &|| Ok(())).unwrap();
    for name in ["", "e", "e/link"] {
        let mut names = [0; 4096];
        let path = mounted.root.join(name);
        let length = rustix::fs::listxattr(&path, &mut names).unwrap();
        let names = String::from_utf8_lossy(&names[..length]);
        assert!(!names.contains("posix_acl"), "{name}: {names}");
    }
    let content = fs::read(mounted.root.join("e/link")).unwrap();
    assert!(content == noise(1, 1 << 20));
    mounted.undo().unwrap();
}

/// What is in a store's directory of layers, by the ends of the names.
fn left(store: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(store.join("layers")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// A pull that is killed with all its processes at any moment leaves nothing that the next one takes for a layer. The next
/// one is right, and removes what was left.
#[test]
fn a_killed_pull_leaves_whole_layers_alone() {
    // Enough that a pull lasts as long as the longest of the waits.
    let archives: Vec<_> = (0..5)
        .map(|seed| archive(&[(format!("file-{seed}"), noise(seed + 1, 1_000_000))]))
        .collect();
    let (repository, image) = Repository::of(&archives);
    let registry = StandIn::start(move |asked| repository.answer(&asked.path));
    let name = format!("{}/a/b:1", registry.address);
    let dir = tempfile::tempdir().unwrap();
    let pull = |store: &Path| guest_pull(&["pull", "--plain-http", "--store", text(store), &name]);
    let start = Instant::now();
    run(&mut pull(&dir.path().join("whole")));
    let whole = start.elapsed();
    let mut seed = [0; 8];
    fs::File::open("/dev/urandom")
        .unwrap()
        .read_exact(&mut seed)
        .unwrap();
    let mut random = u64::from_le_bytes(seed) | 1;
    println!("the seed is {random}");
    for number in 0..15 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let wait = whole.mul_f64((random % 1000) as f64 / 1000.0);
        let store = dir.path().join(number.to_string());
        let mut command = pull(&store);
        command
            .process_group(0)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        // The moment is what is tested, so nothing is waited for.
        sleep(wait);
        let group = Pid::from_raw(i32::try_from(child.id()).unwrap());
        let _ = killpg(group, Signal::SIGKILL);
        child.wait().unwrap();
        if store.join("layers").exists() {
            let layers = left(&store);
            for layer in layers
                .iter()
                .filter(|path| path.extension().is_some_and(|kind| kind == "erofs"))
            {
                run(tool("FSCK_EROFS", "fsck.erofs").arg(layer));
            }
        }
        let (_, stderr, code) = output(&mut pull(&store));
        assert_eq!(code, Some(0), "after {wait:?}: {stderr}");
        let mut names: Vec<_> = left(&store)
            .iter()
            .map(|path| path.file_name().unwrap().to_str().unwrap().to_owned())
            .collect();
        names.sort();
        let ids = image
            .diff_ids
            .iter()
            .map(|id| id.trim_start_matches("sha256:"));
        let mut expected: Vec<_> = ids
            .flat_map(|id| [format!("{id}.erofs"), format!("{id}.notes")])
            .collect();
        expected.sort();
        assert_eq!(names, expected, "after {wait:?}");
    }
}
