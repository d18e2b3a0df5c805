// SPDX-License-Identifier: Apache-2.0

//! What the kernel says about a process, and what one is kept from hearing of the service manager.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Takes out of a program's environment what would make it a service of whatever runs this one.
pub fn leave_service_manager(command: &mut Command) {
    for name in [
        "NOTIFY_SOCKET",
        "WATCHDOG_USEC",
        "JOURNAL_STREAM",
        "LISTEN_FDS",
    ] {
        command.env_remove(name);
    }
}

/// Where a server and its client run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Processors {
    /// Both on one, so that nothing but their work counts.
    One,
    /// Each on its own, so that one has to wake the other from idle.
    Two,
    /// Wherever the kernel puts them.
    Any,
}

/// Puts this thread and a server's there, as far as there are as many.
pub fn run_on(server: u32, processors: Processors) {
    let (ours, theirs) = match processors {
        Processors::One => (nth(0), nth(0)),
        Processors::Two => (nth(0), nth(1)),
        Processors::Any => (allowed(), allowed()),
    };
    keep_to(0, ours);
    keep_to(server, theirs);
}

/// Puts this thread where the server that it starts next is to run: before the server's first instruction there is
/// nothing else to put there.
pub fn start_apart() {
    keep_to(0, nth(1));
}

/// Keeps a process, or this thread where it is 0, to these processors. Where that is not allowed, the kernel goes on
/// choosing.
fn keep_to(pid: u32, processors: &[usize]) {
    let mut set = CpuSet::new();
    for processor in processors {
        set.set(*processor).expect("a processor");
    }
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid"));
    let _ = sched_setaffinity(pid, &set);
}

/// One of the processors, the last of them where there are not as many.
fn nth(at: usize) -> &'static [usize] {
    let all = allowed();
    let at = at.min(all.len().saturating_sub(1));
    all.get(at..=at).unwrap_or_default()
}

/// The processors that this process had at first.
fn allowed() -> &'static [usize] {
    static ALLOWED: OnceLock<Vec<usize>> = OnceLock::new();
    ALLOWED.get_or_init(|| {
        let set = sched_getaffinity(Pid::from_raw(0)).unwrap_or_default();
        let all = 0..CpuSet::count();
        all.filter(|&at| set.is_set(at).unwrap_or(false)).collect()
    })
}

/// Memory of a process, in KiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct Memory {
    /// What it would free by ending, and its part of what it shares. Without the right to look (the daemon
    /// can't be traced, so only root has it), all that is resident.
    pub pss: f64,
    /// What is its own alone.
    pub private: f64,
    /// Its own and no file's: heap and stack.
    pub anonymous: f64,
    /// The most that was ever resident.
    pub peak: f64,
}

/// The memory of the process.
pub fn memory(pid: u32) -> Memory {
    let status = figures(&format!("/proc/{pid}/status"));
    let of = |figures: &str, name: &str| figure(figures, name).unwrap_or_default();
    let peak = of(&status, "VmHWM:");
    let anonymous = of(&status, "RssAnon:");
    let rollup = figures(&format!("/proc/{pid}/smaps_rollup"));
    match figure(&rollup, "Pss:") {
        Some(pss) => Memory {
            pss,
            private: of(&rollup, "Private_Clean:") + of(&rollup, "Private_Dirty:"),
            anonymous,
            peak,
        },
        None => {
            let resident = of(&status, "VmRSS:");
            Memory {
                pss: resident,
                private: resident,
                anonymous,
                peak,
            }
        }
    }
}

/// How often the process gave the processor up by itself: how often it was woken.
pub fn wakes(pid: u32) -> f64 {
    let status = figures(&format!("/proc/{pid}/status"));
    figure(&status, "voluntary_ctxt_switches:").unwrap_or_default()
}

/// How many descriptors the process has open; none without the right to look.
pub fn descriptors(pid: u32) -> Option<usize> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    Some(entries.count())
}

fn figures(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn figure(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The machine, without its name.
pub fn machine() -> String {
    let cpus = figures("/proc/cpuinfo");
    let model = cpus
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model.and_then(|rest| rest.split(':').nth(1));
    let model = model.unwrap_or("unknown").trim();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = figures("/proc/sys/kernel/osrelease");
    format!("{cores} cores of {model}, Linux {}", kernel.trim())
}

/// A file's size in bytes; none if it isn't there.
pub fn size(path: &Path) -> Option<f64> {
    fs::metadata(path)
        .ok()
        .map(|metadata| metadata.len() as f64)
}
