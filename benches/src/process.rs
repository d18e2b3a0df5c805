// SPDX-License-Identifier: Apache-2.0

//! Figures of the kernel about a process, and the environment and processors of a started program.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

/// Removes the variables that would make the program a service of this process's service manager.
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
    /// Both on one processor, so that only their work counts.
    One,
    /// Each on its own processor, so that one must wake the other from idle.
    Two,
    /// The kernel chooses.
    Any,
}

/// Moves this thread and a server to these processors, if there are enough.
pub fn run_on(server: u32, processors: Processors) {
    let (ours, theirs) = match processors {
        Processors::One => (nth(0), nth(0)),
        Processors::Two => (nth(0), nth(1)),
        Processors::Any => (allowed(), allowed()),
    };
    keep_to(0, ours);
    keep_to(server, theirs);
}

/// Moves this thread to the processor on which the server that it starts next should run, since a server
/// can't be moved before its first instruction.
pub fn start_apart() {
    keep_to(0, nth(1));
}

/// Restricts a process, or this thread if `pid` is 0, to these processors. If that is not allowed, the kernel
/// still chooses.
fn keep_to(pid: u32, processors: &[usize]) {
    let mut set = CpuSet::new();
    for processor in processors {
        set.set(*processor).expect("a processor");
    }
    let pid = Pid::from_raw(i32::try_from(pid).expect("a pid"));
    let _ = sched_setaffinity(pid, &set);
}

/// The processor of this index, or the last one if there are fewer.
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
    /// The proportional set size (PSS). If that can't be read (the daemon can't be traced, so only root may),
    /// the resident set size.
    pub pss: f64,
    /// The memory that is not shared with other processes.
    pub private: f64,
    /// The private memory that belongs to no file: heap and stack.
    pub anonymous: f64,
    /// The peak of the resident set size.
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

/// The number of voluntary context switches, which is how often the process was woken.
pub fn wakes(pid: u32) -> f64 {
    let status = figures(&format!("/proc/{pid}/status"));
    figure(&status, "voluntary_ctxt_switches:").unwrap_or_default()
}

/// The number of open descriptors; none if they can't be read.
pub fn descriptors(pid: u32) -> Option<usize> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
    Some(entries.count())
}

/// The peak of the resident set size, in KiB; none if the process is gone.
pub fn peak(pid: u32) -> Option<f64> {
    figure(&figures(&format!("/proc/{pid}/status")), "VmHWM:")
}

/// The processes that this one started and that run.
pub fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task"));
    let threads = threads.into_iter().flatten().flatten();
    let mut all = Vec::new();
    for thread in threads {
        let list = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        let pids = list.split_whitespace();
        all.extend(pids.filter_map(|pid| pid.parse::<u32>().ok()));
    }
    all
}

/// What files in memory take on this machine, in KiB.
pub fn shared_memory() -> f64 {
    figure(&figures("/proc/meminfo"), "Shmem:").expect("Linux")
}

fn figures(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn figure(text: &str, name: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// The machine, without its name.
pub struct Machine {
    /// The model of its processor.
    pub cpu: String,
    /// The processors that this process may use.
    pub cores: usize,
    /// The version of Linux.
    pub kernel: String,
}

impl Machine {
    /// This one.
    pub fn here() -> Self {
        let cpus = figures("/proc/cpuinfo");
        let release = figures("/proc/sys/kernel/osrelease");
        let model = cpus
            .lines()
            .find_map(|line| line.strip_prefix("model name"));
        let model = model.and_then(|rest| rest.split(':').nth(1));
        Self {
            cpu: model.unwrap_or("unknown").trim().to_owned(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            // What follows the version is the name of a build.
            kernel: release
                .split('-')
                .next()
                .unwrap_or_default()
                .trim()
                .to_owned(),
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} cores of {}, Linux {}",
            self.cores, self.cpu, self.kernel
        )
    }
}

/// A file's size in bytes; none if it does not exist.
pub fn size(path: &Path) -> Option<f64> {
    fs::metadata(path)
        .ok()
        .map(|metadata| metadata.len() as f64)
}
