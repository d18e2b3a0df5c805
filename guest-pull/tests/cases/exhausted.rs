// SPDX-License-Identifier: Apache-2.0

//! Machines that have no more of something: memory, descriptors, threads, loop devices. Each pull says what, and leaves
//! nothing.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use guest_pull::digest::Digest;
use guest_pull::failure::{Failure, Kind};
use guest_pull::mount::{By, mount};
use guest_pull::store::Store;
use nix::mount::{MsFlags, mount as mount_at};
use nix::sched::{CloneFlags, unshare};

use crate::file_systems::FileSystem;
use crate::host::{guest_pull, is_root, loop_devices, mounts_below, output, text};
use crate::image::{archive, noise};
use crate::stored::{Images, assert_whole, names};

/// A pull with a mount, in a shell that sets a limit first, as the manual page of the shell says.
fn limited(images: &Images, store: &Path, bundle: &Path, limit: &str) -> Result<(), String> {
    let name = images.name(0);
    let mut command = Command::new("sh");
    command
        .arg("-c")
        .arg(format!("{limit}; exec \"$@\""))
        .arg("sh");
    // Never by what loads a list of system calls first, which has its own trouble with limits.
    command.arg(env!("CARGO_BIN_EXE_guest-pull"));
    command.args(["pull", "--plain-http", "--store", text(store)]);
    command.arg("--bundle").arg(bundle).arg(name);
    let (_, said, code) = output(&mut command);
    match code {
        Some(0) => Ok(()),
        _ => Err(said),
    }
}

/// A small image with a hard link to a file of a lower layer, of so many bytes.
fn linked(bytes: usize) -> Images {
    let lower = archive(&[("d/file".to_owned(), noise(1, bytes))]);
    let mut upper = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Link);
    header.set_mode(0o640);
    header.set_size(0);
    upper.append_link(&mut header, "e/link", "d/file").unwrap();
    Images::of(&[vec![lower, upper.into_inner().unwrap()]])
}

/// Unmounts what a pull has mounted.
fn unmount(bundle: &Path) {
    let mut command = Command::new("umount");
    command.arg("--lazy").arg(bundle.join("rootfs"));
    crate::host::run(&mut command);
    fs::remove_dir_all(bundle).unwrap();
}

/// However few descriptors the mounter may have, the pull ends right, or says that there are too few.
#[test]
fn descriptors_run_out() {
    if !is_root() {
        return;
    }
    let images = linked(1000);
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let [store, bundle] = ["store", "bundle"].map(|name| dir.path().join(name));
    let mut ends = [0; 2];
    for most in (5..40).step_by(2) {
        let result = limited(&images, &store, &bundle, &format!("ulimit -n {most}"));
        ends[usize::from(result.is_ok())] += 1;
        match result {
            Ok(()) => unmount(&bundle),
            Err(said) => {
                assert!(said.contains("Too many open files"), "{most}: {said}");
                let left = fs::read_dir(&bundle).map_or(0, Iterator::count);
                assert_eq!((left, mounts_below(&bundle)), (0, 0), "{most}: {said}");
            }
        }
        assert_whole(&store, text(&store));
        let _ = fs::remove_dir_all(&store);
    }
    assert!(ends.iter().all(|count| *count > 2), "{ends:?}");
}

/// A file that would be larger than the process may make it is an error, and not the end of the process.
#[test]
fn files_may_not_be_large_enough() {
    if !is_root() {
        return;
    }
    let images = linked(300_000);
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let [store, bundle] = ["store", "bundle"].map(|name| dir.path().join(name));
    // In blocks of 512 bytes: at first the layer's file does not fit, and then it is stored, and the copy does not.
    for (part, is_stored) in [("layer 1 of 2", false), ("e/link", true)] {
        if is_stored {
            images.pull(0, &store).unwrap();
        }
        let said = limited(&images, &store, &bundle, "ulimit -f 200").unwrap_err();
        for part in ["File too large", part, "LimitFSIZE="] {
            assert!(said.contains(part), "{part}: {said}");
        }
        let left = fs::read_dir(&bundle).map_or(0, Iterator::count);
        assert_eq!(left, 0, "{said}");
        assert_whole(&store, &said);
    }
}

/// Where control groups are.
const GROUPS: &str = "/sys/fs/cgroup";

/// A control group of this machine, for the time of a test.
struct Group(PathBuf);

impl Group {
    /// One with this controller, and this limit, in the newer hierarchy or the older one. None if the machine gives none:
    /// a container, say, can't give its controllers to groups. Where the test must not be left out (CI is set), it fails if
    /// the group is there and the limit can't be set.
    fn new(controller: &str, limits: [(&str, &str); 2]) -> Option<Self> {
        // Tests of one process can have one at the same time.
        let name = format!("guest-pull-test-{controller}-{}", std::process::id());
        let [newer, older] = [
            Path::new(GROUPS).to_owned(),
            Path::new(GROUPS).join(controller),
        ];
        let given = newer.join("cgroup.subtree_control");
        if given.exists() {
            // Where that fails, the file of the limit is missing.
            let _ = fs::write(given, format!("+{controller}"));
        }
        let mut has_limit = false;
        for (parent, (file, value)) in [newer, older].iter().zip(limits) {
            let path = parent.join(&name);
            // A directory that is no hierarchy, of which the older ones are parts, has no such file.
            if !parent.join("cgroup.procs").exists() || fs::create_dir(&path).is_err() {
                continue;
            }
            let group = Self(path);
            let limit = group.0.join(file);
            has_limit |= limit.exists();
            if limit.exists() && fs::write(limit, value).is_ok() {
                return Some(group);
            }
        }
        let text = format!("the machine gives no control group of {controller}");
        let must = std::env::var_os("CI").is_some() && has_limit;
        assert!(!must, "{text}: this test needs one");
        eprintln!("{text}: not tested");
        None
    }

    /// Sets another limit, where this hierarchy and the kernel have it.
    fn limit(&self, file: &str, value: &str) {
        let file = self.0.join(file);
        if file.exists() {
            fs::write(file, value).unwrap();
        }
    }

    /// What a shell does to be in it.
    fn enter(&self) -> String {
        format!("echo $$ > {}/cgroup.procs", self.0.display())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Its processes have ended, and the kernel may not have noticed.
        crate::caller::wait_until("the group is empty", || fs::remove_dir(&self.0).is_ok());
    }
}

/// Memory is short: the kernel ends the worker, and nothing else of the pull. The mounter says so, and gives back what the
/// worker made.
#[test]
fn memory_runs_out() {
    if !is_root() {
        return;
    }
    let bytes = (48 << 20).to_string();
    let limits = [("memory.max", &*bytes), ("memory.limit_in_bytes", &*bytes)];
    let Some(group) = Group::new("memory", limits) else {
        return;
    };
    // No memory beside it, which with the older controller is what the limit of both together says.
    group.limit("memory.swap.max", "0");
    group.limit("memory.memsw.limit_in_bytes", &bytes);
    let images = Images::of_sizes(&[&[60 << 20]]);
    let room = FileSystem::tmpfs("size=200m");
    let (store, bundle) = (room.path.join("store"), room.path.join("bundle"));
    let said = limited(&images, &store, &bundle, &group.enter()).unwrap_err();
    for part in [
        "it was killed (SIGKILL)",
        "when memory is short",
        "give the VM more memory",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(names(&store), [].into());
    let (used, _) = room.used();
    assert!(used < 1 << 20, "{used}");
}

/// The worker is the first that the kernel ends, and then the mounter, whatever started it.
#[test]
fn others_outlive_a_pull() {
    if !is_root() {
        return;
    }
    let images = Images::of_sizes(&[&[1000]]);
    let dir = tempfile::tempdir().unwrap();
    let stalling = crate::stand_in::StandIn::start(|_| crate::stand_in::Answer {
        status: 200,
        length: Some(10),
        stalls: true,
        ..Default::default()
    });
    let name = images
        .name(0)
        .replace(&images.registry.address, &stalling.address);
    let store = dir.path().join("store");
    let args = ["pull", "--plain-http", "--store", text(&store), &name];
    let mut running = guest_pull(&args).spawn().unwrap();
    crate::caller::wait_until("the registry is asked", || !stalling.asked().is_empty());
    let adjustment = |id: u32| {
        let text = fs::read_to_string(format!("/proc/{id}/oom_score_adj")).unwrap();
        text.trim().parse::<i32>().unwrap()
    };
    let worker = crate::caller::children(running.id())[0];
    let found = [running.id(), worker].map(adjustment);
    running.kill().unwrap();
    running.wait().unwrap();
    assert_eq!(found, [500, 1000]);
}

/// How many processes and threads a pull may have in turn: not even a worker, a worker alone, some of its threads, and enough.
const FEW_TASKS: [usize; 9] = [1, 2, 3, 4, 6, 9, 13, 20, 100];

/// However few processes and threads there may be, the pull ends right, or says that there are too few.
#[test]
fn threads_run_out() {
    if !is_root() {
        return;
    }
    let images = Images::of_sizes(&[&[1000, 1000, 1000]]);
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let [store, bundle] = ["store", "bundle"].map(|name| dir.path().join(name));
    let mut ends = [0; 2];
    for most in FEW_TASKS {
        let most = most.to_string();
        let Some(group) = Group::new("pids", [("pids.max", &most), ("pids.max", &most)]) else {
            return;
        };
        let result = limited(&images, &store, &bundle, &group.enter());
        ends[usize::from(result.is_ok())] += 1;
        match result {
            Ok(()) => unmount(&bundle),
            Err(said) => {
                assert!(said.contains("no thread can be started"), "{most}: {said}");
                let left = fs::read_dir(&bundle).map_or(0, Iterator::count);
                assert_eq!((left, mounts_below(&bundle)), (0, 0), "{most}: {said}");
            }
        }
        assert_whole(&store, &most);
        let _ = fs::remove_dir_all(&store);
    }
    // How many are enough depends on how many are there at the same time.
    assert!(ends[0] >= 2 && ends[1] >= 1, "{ends:?}");
}

/// Where layers need loop devices and there are none, the error says so, and those that were made go.
#[test]
fn loop_devices_run_out() {
    if !is_root() {
        return;
    }
    let images = Images::of_sizes(&[&[1000, 1000, 1000]]);
    // Not below /dev, which is hidden.
    let dir = tempfile::tempdir().unwrap();
    let [path, bundle] = ["store", "bundle"].map(|name| dir.path().join(name));
    images.pull(0, &path).unwrap();
    fs::create_dir(&bundle).unwrap();
    let store = Store::open(&path).unwrap();
    let ids = images.images[0].diff_ids.iter();
    let ids: Vec<_> = ids.map(|id| Digest::parse(id).unwrap()).collect();
    // What is mounted over /dev in this thread's namespace, and what is said.
    type Prepare = fn(&Path);
    let cases: [(Prepare, &str); 3] = [
        (|_| {}, "/dev/loop-control can't be opened: No such file"),
        (
            |dev| {
                fs::write(dev.join("loop-control"), "").unwrap();
                let mode = fs::Permissions::from_mode(0o600);
                fs::set_permissions(dev.join("loop-control"), mode).unwrap();
            },
            "the kernel makes no more: Inappropriate ioctl",
        ),
        (
            |dev| {
                let control = dev.join("loop-control");
                // Major and minor of the kernel's Documentation/admin-guide/devices.txt.
                let number = nix::sys::stat::makedev(10, 237);
                let kind = nix::sys::stat::SFlag::S_IFCHR;
                let mode = nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR;
                nix::sys::stat::mknod(&control, kind, mode, number).unwrap();
            },
            "/dev/loop",
        ),
    ];
    for (prepare, expected) in cases {
        let result = thread::scope(|scope| {
            let apart = scope.spawn(|| {
                unshare(CloneFlags::CLONE_NEWNS).unwrap();
                let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
                mount_at(None::<&str>, "/", None::<&str>, private, None::<&str>).unwrap();
                mount_at(
                    Some("tmpfs"),
                    "/dev",
                    Some("tmpfs"),
                    MsFlags::empty(),
                    None::<&str>,
                )
                .unwrap();
                prepare(Path::new("/dev"));
                let held = ids.iter().map(|id| store.held(id).unwrap().unwrap());
                let held: Vec<_> = held.collect();
                let layers: Vec<_> = ids.iter().copied().zip(&held).collect();
                let result = mount(&store, &layers, &bundle, By::LoopDevice, &|| Ok(()));
                result.map(|_| ()).map_err(Failure::from)
            });
            apart.join().unwrap()
        });
        let failure = result.unwrap_err();
        let said = &failure.message;
        assert_eq!(failure.kind, Kind::Exhausted, "{said}");
        for part in [
            "a loop device for the layer sha256:",
            expected,
            "load the module loop",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert_eq!(fs::read_dir(&bundle).unwrap().count(), 0, "{said}");
        let writable = fs::read_dir(path.join("writable")).into_iter().flatten();
        assert_eq!(
            (loop_devices(dir.path()), writable.count()),
            (0, 0),
            "{said}"
        );
    }
}
