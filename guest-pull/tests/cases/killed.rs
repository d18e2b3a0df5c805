// SPDX-License-Identifier: Apache-2.0

//! Pulls that are killed at any moment, and power that goes off: what the next pull finds, and leaves.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ttrpc::Code;

use crate::caller::{runs, wait_until};
use crate::file_systems::FileSystem;
use crate::host::{has_tool, is_root, listing, loop_devices, mounts_below, run, text, tool};
use crate::hub::{Hub, answer};
use crate::image::{archive, noise};
use crate::stored::{Images, files_of, names};

/// How many pulls are killed.
const KILLS: usize = 200;

/// How often each process of a pull is killed at least, and how many pulls are killed at most until it was: on a busy
/// machine, some of the processes may not be there for most of the time.
const KILLS_OF_EACH: usize = KILLS / 20;
const MOST_KILLS: usize = 5 * KILLS;

/// How many daemons have a pull at once.
const AT_ONCE: usize = 4;

/// How often the power goes off.
const POWER_CUTS: usize = 10;

/// Numbers that are the same in each run, so that a failure comes again.
struct Random(u64);

impl Random {
    fn new(seed: usize) -> Self {
        Self((seed as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % end
    }

    /// Between nothing and all of it.
    fn part_of(&mut self, whole: Duration) -> Duration {
        whole.mul_f64(self.below(1000) as f64 / 1000.0)
    }
}

/// An image of several layers, with a hard link to a lower layer's file, so that a mount has something to make too.
fn images() -> Images {
    let of_seed = |seed| archive(&[(format!("d/file-{seed}"), noise(seed, 60_000))]);
    let mut layers: Vec<_> = (1..4).map(of_seed).collect();
    let mut linking = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Link);
    header.set_mode(0o640);
    header.set_size(0);
    linking
        .append_link(&mut header, "e/link", "d/file-1")
        .unwrap();
    layers.push(linking.into_inner().unwrap());
    Images::of(&[layers])
}

/// The names and lengths of the files of a store's layers.
fn lengths(store: &Path) -> BTreeMap<String, u64> {
    let length = |name: String| {
        let file = fs::metadata(store.join("layers").join(&name)).unwrap();
        (name, file.len())
    };
    names(store).into_iter().map(length).collect()
}

/// What a right pull makes.
struct Right {
    tree: BTreeMap<String, Vec<String>>,
    lengths: BTreeMap<String, u64>,
    time: Duration,
}

/// One daemon, with pulls that are killed.
struct Trial<'i> {
    images: &'i Images,
    hub: Hub,
    dir: tempfile::TempDir,
    is_on_disk: bool,
}

impl<'i> Trial<'i> {
    fn new(images: &'i Images, is_on_disk: bool) -> Option<Self> {
        let dir = match is_on_disk {
            true => tempfile::tempdir(),
            false => tempfile::tempdir_in("/dev/shm"),
        };
        let dir = dir.unwrap();
        Some(Self {
            images,
            hub: Hub::start(dir.path(), &images.registry.address)?,
            dir,
            is_on_disk,
        })
    }

    /// A pull that nothing disturbs; the image is removed as kata-agent does it.
    fn pull(&self, when: &str) -> Right {
        let bundle = self.dir.path().join("bundle");
        let start = Instant::now();
        let response = answer(self.hub.ask(&self.images.name(0), &bundle)).expect(when);
        let time = start.elapsed();
        let status = response.status();
        assert_eq!(status.code(), Code::OK, "{when}: {}", status.message);
        let tree = listing(&bundle.join("rootfs"));
        assert_eq!(mounts_below(&bundle), 1, "{when}");
        self.remove(&bundle);
        Right {
            tree,
            lengths: lengths(&self.dir.path().join("store")),
            time,
        }
    }

    fn remove(&self, bundle: &Path) {
        let _ = umount2(&bundle.join("rootfs"), MntFlags::MNT_DETACH);
        fs::remove_dir_all(bundle).unwrap();
        fs::create_dir(bundle).unwrap();
    }

    /// Kills a process of a pull at a random moment, and pulls once more.
    fn kill_one(&mut self, random: &mut Random, right: &Right, seen: &[AtomicUsize; 3]) {
        let store = self.dir.path().join("store");
        let bundle = self.dir.path().join("bundle");
        fs::remove_dir_all(&store).unwrap();
        let asked = self.hub.ask(&self.images.name(0), &bundle);
        let wait = random.part_of(right.time);
        // The moment is what is tested, so nothing is waited for.
        sleep(wait);
        let processes = self.hub.processes();
        let which = random.below(processes.len());
        let when = format!("{which} of {} killed after {wait:?}", processes.len());
        seen[which].fetch_add(1, Ordering::Relaxed);
        let _ = kill(pid(processes[which]), Signal::SIGKILL);
        let response = answer(asked);
        let code = response.map(|response| response.status().code());
        match which {
            // It may have answered by then.
            0 => assert!([None, Some(Code::OK)].contains(&code), "{when}: {code:?}"),
            1 => assert!(
                [Some(Code::OK), Some(Code::UNAVAILABLE)].contains(&code),
                "{when}: {code:?}"
            ),
            _ => {
                let possible = [Some(Code::OK), Some(Code::RESOURCE_EXHAUSTED)];
                assert!(possible.contains(&code), "{when}: {code:?}");
            }
        }
        if which == 0 {
            self.hub.restart();
        }
        wait_until(&format!("{when}: processes stay"), || {
            processes[1..].iter().all(|id| !runs(*id))
        });
        // A mounter that is killed between the mount and the answer leaves the mount.
        let mounts = mounts_below(&bundle);
        assert!(
            mounts == 0 || code == Some(Code::OK) || which == 1,
            "{when}: {mounts}"
        );
        if mounts > 0 {
            let again = answer(self.hub.ask(&self.images.name(0), &bundle)).unwrap();
            let said = &again.status().message;
            assert!(said.contains("has a mount already"), "{when}: {said}");
            self.remove(&bundle);
        } else if bundle.join("work/work").exists() {
            // The overlay was made, and not mounted yet. The next pull can't tell it from one that is used elsewhere.
            assert!(which == 1 && !self.is_on_disk, "{when}");
            let again = answer(self.hub.ask(&self.images.name(0), &bundle)).unwrap();
            let said = &again.status().message;
            assert!(said.contains("it is there already"), "{when}: {said}");
            self.remove(&bundle);
        }
        let found = self.pull(&when);
        assert_eq!(found.tree, right.tree, "{when}");
        assert_eq!(found.lengths, right.lengths, "{when}");
        assert_eq!(self.left(), [""; 0], "{when}");
        if self.is_on_disk {
            // A pull of another test has a copy of all mounts for a moment, and the next one removes what this one used.
            wait_until(&format!("{when}: writable layers stay"), || {
                let missing = format!("{}/a/b:none", self.images.registry.address);
                let _ = answer(self.hub.ask(&missing, &bundle));
                let writable = fs::read_dir(store.join("writable")).into_iter().flatten();
                writable.count() == 0
            });
        }
        assert_eq!(mounts_below(self.dir.path()), 0, "{when}");
        // The kernel lets them go a little later.
        wait_until(&format!("{when}: loop devices stay"), || {
            loop_devices(self.dir.path()) == 0
        });
    }

    /// What is in the store and the bundle beside what must be there.
    fn left(&self) -> Vec<String> {
        let within = |name: &str| {
            let entries = fs::read_dir(self.dir.path().join(name)).unwrap();
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap())
        };
        let store = within("store").filter(|name| {
            let is_writable = self.is_on_disk && name == "writable";
            !is_writable && name != "layers" && name != "mounts"
        });
        store
            .chain(within("store/mounts"))
            .chain(within("bundle"))
            .collect()
    }
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(id.try_into().unwrap())
}

/// The daemon, the mounter or the worker is killed at any moment of a pull: the next pull, into the same bundle, gives the
/// right tree; the store has the image's layers and nothing else, and no mount, loop device, process or writable layer is
/// left. A mount can only stay if the mounter was killed after it had made it, and the next pull says so.
#[test]
fn a_kill_at_any_moment_leaves_nothing() {
    if !is_root() {
        return;
    }
    let images = images();
    let killed: [AtomicUsize; 3] = Default::default();
    thread::scope(|scope| {
        for number in 0..AT_ONCE {
            let (images, killed) = (&images, &killed);
            scope.spawn(move || {
                let Some(mut trial) = Trial::new(images, number % 2 == 1) else {
                    return;
                };
                fs::create_dir(trial.dir.path().join("bundle")).unwrap();
                trial.pull("at first");
                fs::remove_dir_all(trial.dir.path().join("store")).unwrap();
                let right = trial.pull("at second");
                assert_eq!(right.tree.len(), 7, "{:?}", right.tree);
                let mut random = Random::new(number);
                let is_enough = || {
                    let mut counts = killed.iter().map(|count| count.load(Ordering::Relaxed));
                    counts.all(|count| count >= KILLS_OF_EACH)
                };
                for count in 0..MOST_KILLS / AT_ONCE {
                    if count >= KILLS / AT_ONCE && is_enough() {
                        break;
                    }
                    trial.kill_one(&mut random, &right, killed);
                }
            });
        }
    });
    // Where the daemon's program is there, each of them was killed often.
    let killed = killed.map(AtomicUsize::into_inner);
    let all: usize = killed.iter().sum();
    assert!(
        all == 0 || killed.iter().all(|count| *count >= KILLS_OF_EACH),
        "{killed:?}"
    );
}

/// How many writes the loop device of a file has seen.
fn writes(disk: &Path) -> String {
    let devices = fs::read_dir("/sys/block").unwrap();
    let mut devices = devices.map(|entry| entry.unwrap().path());
    let device = devices.find(|device| {
        let file = fs::read_to_string(device.join("loop/backing_file")).unwrap_or_default();
        file.trim_end() == text(disk)
    });
    let stat = fs::read_to_string(device.unwrap().join("stat")).unwrap();
    stat.split_whitespace().nth(4).unwrap().to_owned()
}

/// The disk as it is at this moment: what was written to it, and not what waits in memory.
fn copy_disk(disk: &Path, to: &Path) {
    loop {
        let before = writes(disk);
        fs::copy(disk, to).unwrap();
        if writes(disk) == before {
            return;
        }
    }
}

/// The power goes off at any moment of a pull onto a disk: each layer that has its name then is whole, the next pull is
/// right, and nothing else is left.
#[test]
fn a_power_cut_leaves_whole_layers_alone() {
    if !is_root() || !has_tool("MKFS_EXT4", "mkfs.ext4") {
        return;
    }
    let images = images();
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let start = Instant::now();
    images.pull(0, &dir.path().join("right")).unwrap();
    let time = start.elapsed();
    let right = lengths(&dir.path().join("right"));
    let mut random = Random::new(0);
    let mut found = Vec::new();
    for number in 0..POWER_CUTS {
        let room = FileSystem::ext4(2048);
        let store = room.path.join("store");
        let mut command = images.command(0, &store);
        command.stdout(Stdio::null()).stderr(Stdio::null());
        let mut running = command.spawn().unwrap();
        // The last one after the end.
        match number + 1 < POWER_CUTS {
            true => sleep(random.part_of(time * 2)),
            false => {
                assert!(running.wait().unwrap().success());
                // Names are on the disk a little later than what they name.
                run(Command::new("sync").arg("--file-system").arg(&store));
            }
        }
        let copy = dir.path().join("copy");
        copy_disk(&room.disk(), &copy);
        running.wait().unwrap();
        drop(room);
        let room = FileSystem::of_disk(&copy);
        let store = room.path.join("store");
        let layers: Vec<_> = names(&store)
            .into_iter()
            .filter(|name| name.ends_with(".erofs"))
            .collect();
        for name in &layers {
            let file = store.join("layers").join(name);
            assert_eq!(fs::metadata(&file).unwrap().len(), right[name], "{number}");
            run(tool("FSCK_EROFS", "fsck.erofs").arg(file));
        }
        found.push(layers.len());
        images.pull(0, &store).unwrap();
        assert_eq!(lengths(&store), right, "{number}");
    }
    // It went off before or between the layers, and after them.
    assert_eq!(found.last(), Some(&4), "{found:?}");
    assert!(found.iter().any(|layers| *layers < 4), "{found:?}");
}

/// A layer has no name until its files are on the disk: both are synced before the first of them gets one.
#[test]
fn a_layer_is_synced_before_it_has_its_name() {
    if !is_root() || !has_tool("STRACE", "strace") {
        return;
    }
    let images = images();
    let dir = tempfile::tempdir().unwrap();
    // A file for each thread: in one file, a call that is interrupted by another thread's is cut in two.
    let traces = dir.path().join("traces");
    fs::create_dir(&traces).unwrap();
    let pull = images.command(0, &dir.path().join("store"));
    let mut command = Command::new("strace");
    command.args(["-ff", "-e", "trace=fdatasync,linkat,rename", "-o"]);
    command
        .arg(traces.join("of"))
        .arg(pull.get_program())
        .args(pull.get_args());
    run(&mut command);
    let files = fs::read_dir(traces).unwrap();
    let mut texts = files.map(|file| fs::read_to_string(file.unwrap().path()).unwrap());
    // One thread gives all their names.
    let trace = texts.find(|text| text.contains("linkat(")).unwrap();
    assert!(texts.all(|text| !text.contains("linkat(")), "{trace}");
    let mut synced = Vec::new();
    let mut linked = 0;
    let mut renamed = 0;
    for call in trace.lines() {
        if let Some(rest) = call.strip_prefix("fdatasync(") {
            synced.push(rest.split(')').next().unwrap().to_owned());
        } else if call.starts_with("linkat(") {
            let descriptor = call.split("/proc/self/fd/").nth(1).unwrap();
            let descriptor = descriptor.split('"').next().unwrap();
            assert!(synced.iter().any(|synced| synced == descriptor), "{trace}");
            linked += 1;
        } else if call.starts_with("rename(") {
            assert_eq!((linked, synced.len()), (2, 2), "{trace}");
            (linked, synced) = (0, Vec::new());
            renamed += 1;
        }
    }
    assert_eq!(renamed, 4, "{trace}");
    for id in &images.images[0].diff_ids {
        let [layer, _] = files_of(id);
        assert!(trace.contains(&layer), "{trace}");
    }
}
