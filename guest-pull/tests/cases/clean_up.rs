// SPDX-License-Identifier: Apache-2.0

//! Containers that come and go: what stays of them.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use guest_pull::digest::Digest;
use guest_pull::mount::{By, mount};
use guest_pull::store::Store;
use nix::mount::{MntFlags, umount2};
use ttrpc::Code;

use crate::caller::{Place, children, daemon, recorded, runs, wait_until};
use crate::file_systems::FileSystem;
use crate::host::{has_tool, is_root, loop_devices, mounts_below, text};
use crate::image::{Repository, archive, noise};
use crate::stand_in::StandIn;
use crate::stored::Images;

/// How often a container is started again.
const RESTARTS: usize = 100;

/// What a container writes.
const WRITTEN: usize = 500_000;

/// What there is of containers, beside the store's layers.
#[derive(Debug, PartialEq, Eq)]
struct Rest {
    mounts: usize,
    loop_devices: usize,
    /// Of the file system of store and bundles.
    files: u64,
}

impl Rest {
    fn of(room: &FileSystem) -> Self {
        Self {
            // But for itself.
            mounts: mounts_below(&room.path) - 1,
            loop_devices: loop_devices(&room.path),
            files: room.used().1,
        }
    }
}

/// What kata-agent does when a container is gone.
fn remove(bundle: &Path) {
    umount2(&bundle.join("rootfs"), MntFlags::MNT_DETACH).unwrap();
    fs::remove_dir_all(bundle).unwrap();
}

/// How many other processes have this in their command line.
fn processes_with(part: &str) -> usize {
    let entries = fs::read_dir("/proc").unwrap();
    let lines = entries.filter_map(|entry| fs::read(entry.ok()?.path().join("cmdline")).ok());
    lines
        .filter(|line| String::from_utf8_lossy(line).contains(part))
        .count()
}

fn configured(images: &Images) -> Place {
    let place = Place::new(false);
    let address = &images.registry.address;
    place.configure(&format!(
        "[image]\n[[image.registry_config.registry]]\nlocation = \"{address}\"\ninsecure = true\n"
    ));
    place
}

/// After a hundred containers, each of which wrote something, there is as much as after the first: no mount, no process, and
/// no more files or bytes, which a store in memory takes from the VM. A store on a disk keeps what one container wrote, until
/// the next pull.
#[test]
fn restarts_leave_nothing() {
    if !is_root() || !has_tool("MKFS_EXT4", "mkfs.ext4") {
        return;
    }
    let images = Images::of_sizes(&[&[100_000, 50_000]]);
    let place = configured(&images);
    for (room, is_on_disk) in [
        (FileSystem::tmpfs("size=8m"), false),
        (FileSystem::ext4(8 * 1024), true),
    ] {
        let store = room.path.join("store");
        let mut first = None;
        for number in 0..RESTARTS {
            let bundle = room.path.join(format!("bundle-{number}"));
            fs::create_dir(&bundle).unwrap();
            daemon(&place, Err(Code::NOT_FOUND));
            let mut serve = place.serve_into(Some(&store));
            serve.send(&recorded(&images.name(0), &bundle));
            serve.answer().digest();
            // What still runs then must end with the mounter.
            let started = serve.children();
            serve.stream = None;
            assert!(serve.child.wait().unwrap().success());
            drop(serve);
            wait_until("a process stays", || started.iter().all(|id| !runs(*id)));
            assert_eq!(processes_with(text(&room.path)), 0, "{number}");
            fs::write(bundle.join("rootfs/written"), noise(9, WRITTEN)).unwrap();
            let writable = store.join("writable");
            let kept = fs::read_dir(&writable).into_iter().flatten().count();
            // Those of other tests have a copy of all mounts for a moment, and then the next pull removes it.
            let most = if is_on_disk { 1..4 } else { 0..1 };
            assert!(most.contains(&kept), "{number}: {kept}");
            remove(&bundle);
            // The kernel lets them go a little later.
            wait_until("loop devices stay", || loop_devices(&room.path) == 0);
            let rest = Rest::of(&room);
            let bytes = room.used().0;
            let first = first.get_or_insert((rest, bytes));
            let rest = Rest::of(&room);
            assert_eq!((rest.mounts, rest.loop_devices), (0, 0), "{number}");
            if !is_on_disk {
                assert_eq!(rest, first.0, "{number}");
                assert!(bytes <= first.1, "{number}: {bytes}, {}", first.1);
            }
        }
        assert_eq!(images.asked(0, 0), 1 + usize::from(is_on_disk));
    }
}

/// The same where layers are mounted by loop devices, as before Linux 6.12: each goes with its container.
#[test]
fn loop_devices_go_with_their_containers() {
    if !is_root() {
        return;
    }
    let images = Images::of_sizes(&[&[100_000, 50_000]]);
    let room = FileSystem::tmpfs("size=8m");
    let path = room.path.join("store");
    images.pull(0, &path).unwrap();
    let store = Store::open(&path).unwrap();
    let ids = images.images[0].diff_ids.iter();
    let ids: Vec<_> = ids.map(|id| Digest::parse(id).unwrap()).collect();
    let mut first = None;
    for number in 0..RESTARTS {
        let bundle = room.path.join("bundle");
        fs::create_dir(&bundle).unwrap();
        let held: Vec<_> = ids
            .iter()
            .map(|id| store.held(id).unwrap().unwrap())
            .collect();
        let layers: Vec<_> = ids.iter().copied().zip(&held).collect();
        mount(&store, &layers, &bundle, By::LoopDevice, &|| Ok(()))
            .unwrap()
            .keep();
        drop(held);
        assert_eq!(loop_devices(&room.path), 2, "{number}");
        fs::write(bundle.join("rootfs/written"), noise(9, WRITTEN)).unwrap();
        remove(&bundle);
        // The kernel lets them go a little later.
        wait_until("loop devices stay", || loop_devices(&room.path) == 0);
        let used = room.used();
        let first = first.get_or_insert(used);
        assert_eq!(used, *first, "{number}");
        assert_eq!(mounts_below(&room.path), 1);
    }
}

/// A pull that takes long holds nothing of containers that are removed meanwhile: its worker has forgotten their mounts.
#[test]
fn a_running_pull_holds_no_container() {
    if !is_root() {
        return;
    }
    let (repository, image) = Repository::of(&[archive(&[("file".to_owned(), noise(1, 1000))])]);
    let layer = image.layers[0].clone();
    let stalling = StandIn::start(move |asked| {
        let mut answer = repository.answer(&asked.path);
        if asked.path.ends_with(&layer) {
            answer = answer.cut(100);
            answer.stalls = true;
        }
        answer
    });
    let images = Images::of_sizes(&[&[1000]]);
    let room = FileSystem::tmpfs("size=8m");
    let [store, bundle] = ["store", "a bundle"].map(|name| room.path.join(name));
    let mut command = images.command(0, &store);
    command.arg("--bundle").arg(&bundle);
    crate::host::run(&mut command);
    let name = format!("{}/a/b:1", stalling.address);
    let args = ["pull", "--plain-http", "--store", text(&store), &name];
    let mut running = crate::host::guest_pull(&args);
    let mut running = running.stderr(Stdio::null()).spawn().unwrap();
    wait_until("the layer is asked for", || stalling.asked().len() > 2);
    let worker = children(running.id())[0];
    let mounts = fs::read_to_string(format!("/proc/{worker}/mountinfo")).unwrap();
    assert!(bundle.join("rootfs/file-1").exists());
    remove(&bundle);
    running.kill().unwrap();
    running.wait().unwrap();
    assert!(mounts.contains(text(&room.path)), "{mounts}");
    assert!(!mounts.contains("bundle"), "{mounts}");
}
