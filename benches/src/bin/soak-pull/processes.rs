// SPDX-License-Identifier: Apache-2.0

//! The processes of pulls: their memory, their end, and what they leave.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use offline_fs_kbc_bench::process::{children, descriptors, memory, peak};

use crate::figures::{MOST_OF_WORKER, Rested};
use crate::random::Random;
use crate::registry::lock;
use crate::world::{BUNDLES, STORE, World, taken};

/// How often the memory of processes is looked at. The kernel counts its peak; only shorter processes are missed.
const LOOK: Duration = Duration::from_millis(20);

/// How long what ends may take until it is gone.
const PATIENCE: Duration = Duration::from_secs(15);

/// How much more than its files the store may take: directories.
const MOST_BESIDE: u64 = 64 << 10;

/// The part that a process of guest-pull has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Mounter,
    Worker,
}

/// The processes that the daemon started for pulls, and those that they started.
pub fn all(daemon: u32) -> Vec<(u32, Part)> {
    let mounters = children(daemon);
    let mut all = Vec::new();
    for mounter in mounters {
        all.push((mounter, Part::Mounter));
        all.extend(
            children(mounter)
                .into_iter()
                .map(|worker| (worker, Part::Worker)),
        );
    }
    all
}

/// The most memory of the daemon, of a mounter, of a worker, in KiB.
#[derive(Default)]
pub struct Peaks(pub Mutex<[f64; 3]>);

/// Looks at the memory of all processes as long as the load goes on.
pub fn watch(world: &World, daemon: u32, peaks: &Peaks) {
    while world.goes_on() {
        let mut next = vec![(0, daemon)];
        for (pid, part) in all(daemon) {
            next.push((if part == Part::Mounter { 1 } else { 2 }, pid));
        }
        for (at, pid) in next {
            // Between fork and exec, a worker is a copy of its mounter.
            let peak = peak(pid).unwrap_or_default();
            let mut peaks = lock(&peaks.0);
            if at == 2 && peak > MOST_OF_WORKER && peaks[at] <= MOST_OF_WORKER {
                world.counts.fault(format!("a worker has {peak:.0} KiB"));
            }
            peaks[at] = peaks[at].max(peak);
        }
        thread::sleep(LOOK);
    }
}

/// Kills one process of a pull now and then.
pub fn kill_some(
    world: &World,
    daemon: u32,
    mut random: Random,
    workers: &AtomicU64,
    mounters: &AtomicU64,
) {
    while world.goes_on() {
        thread::sleep(Duration::from_millis(300 + random.below(4_000) as u64));
        if let Some((pid, part)) = random.one_of(&all(daemon)) {
            if world.kill(*pid) {
                let count = if *part == Part::Worker {
                    workers
                } else {
                    mounters
                };
                count.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Changes the store's room now and then.
pub fn resize(world: &World, mut random: Random) {
    while world.goes_on() {
        let more = random.percent(40).then(|| 1 << (18 + random.below(5)));
        if let Err(error) = world.resize(more) {
            world
                .counts
                .fault(format!("the store can't be resized: {error}"));
        }
        thread::sleep(Duration::from_millis(500 + random.below(4_000) as u64));
    }
}

/// The idle daemon.
pub fn rested(daemon: u32) -> Rested {
    Rested {
        anonymous: memory(daemon).anonymous,
        descriptors: descriptors(daemon),
    }
}

/// What is left when nothing runs any more and all containers are gone.
pub fn leaks(daemon: u32) -> Vec<String> {
    let end = Instant::now() + PATIENCE;
    loop {
        let found = left(daemon).unwrap_or_else(|error| vec![error.to_string()]);
        if found.is_empty() || Instant::now() > end {
            return found;
        }
        thread::sleep(Duration::from_millis(100));
    }
}

fn left(daemon: u32) -> io::Result<Vec<String>> {
    let mut found: Vec<_> = all(daemon)
        .into_iter()
        .map(|process| format!("the process {process:?} is left"))
        .collect();
    let mounts = fs::read_to_string("/proc/self/mountinfo")?;
    let is_ours = |line: &&str| {
        let place = line.split(' ').nth(4).unwrap_or_default();
        line.contains(BUNDLES) && place != STORE
    };
    found.extend(
        mounts
            .lines()
            .filter(is_ours)
            .map(|line| format!("a mount is left: {line}")),
    );
    for entry in fs::read_dir("/sys/block").into_iter().flatten().flatten() {
        let file = fs::read_to_string(entry.path().join("loop/backing_file")).unwrap_or_default();
        if file.contains(STORE) {
            found.push(format!("a loop device is left: {}", file.trim()));
        }
    }
    for entry in fs::read_dir(BUNDLES)? {
        let path = entry?.path();
        if path != Path::new(STORE) {
            found.push(format!("{} is left", path.display()));
        }
    }
    for entry in fs::read_dir(Path::new(STORE).join("layers"))? {
        let path = entry?.path();
        let other = match path.extension().and_then(|kind| kind.to_str()) {
            Some("erofs") => "notes",
            Some("notes") => "erofs",
            _ => "",
        };
        if other.is_empty() || !path.with_extension(other).exists() {
            found.push(format!("{} is left", path.display()));
        }
    }
    let (files, used) = taken()?;
    if used > files + MOST_BESIDE {
        found.push(format!(
            "the store takes {used} bytes, and its files {files}: some are gone and still held"
        ));
    }
    Ok(found)
}
