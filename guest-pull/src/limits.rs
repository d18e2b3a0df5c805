// SPDX-License-Identifier: Apache-2.0

//! What the mounter sets for itself before a pull. The worker has limits of its own: [`crate::worker::confinement`].

use std::fs;

use nix::unistd::geteuid;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::sys;

/// The kernel ends who has more of this first when memory is short: the worker, which has the most, then this process, and
/// both before what has none, as the daemon and kata-agent.
const OOM_SCORE_ADJUSTMENT: i32 = 500;

/// Where it is: proc_pid_oom_score_adj(5).
const OOM_SCORE_FILE: &str = "/proc/self/oom_score_adj";

/// How many descriptors are wanted: the layers of an image, of which each has a file and, before Linux 6.12, a loop device;
/// and some. Processes begin with 1024.
const DESCRIPTORS: u64 = 4096;

/// Sets them, as far as the system lets it.
pub fn set() {
    let adjustment = fs::read_to_string(OOM_SCORE_FILE).ok();
    let adjustment = adjustment.and_then(|text| text.trim().parse::<i32>().ok());
    // Nobody has less of it than before.
    if adjustment.is_none_or(|now| now < OOM_SCORE_ADJUSTMENT) {
        let set = fs::write(OOM_SCORE_FILE, OOM_SCORE_ADJUSTMENT.to_string());
        // Without root it can't be set: of a process that is not dumpable, the files there are root's.
        if let Some(error) = set.err().filter(|_| geteuid().is_root()) {
            eprintln!("guest-pull: if memory is short, the kernel may end something else: {error}");
        }
    }
    let limit = getrlimit(Resource::Nofile);
    let wanted = limit
        .maximum
        .map_or(DESCRIPTORS, |most| most.min(DESCRIPTORS));
    if limit.current.is_some_and(|now| now < wanted) {
        // Most images have few layers; one that has too many says so.
        let _ = setrlimit(
            Resource::Nofile,
            Rlimit {
                current: Some(wanted),
                ..limit
            },
        );
    }
    // The worker begins with this too.
    sys::take_no_signal_for_large_files();
}
