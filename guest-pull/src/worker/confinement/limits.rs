// SPDX-License-Identifier: Apache-2.0

//! Limits of what the worker can take.

use std::fs;

use nix::unistd::geteuid;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// How much memory the worker can have, beside its code and the stack of its first thread: twice what it ever uses, as
/// [`memory`](crate::memory) adds it up, since what is never touched counts too (8 MiB of stacks, 6 MiB of pages). An image
/// that takes more, by a bug, ends the worker, and not what else runs in the VM.
const MAX_MEMORY_BYTES: u64 = 128 << 20;

/// How many descriptors it can have. A layer takes up to eight: three files, again while they are written, and connections;
/// and there are three layers at once. The rest is room for what libraries open.
const MAX_DESCRIPTORS: u64 = 256;

/// How many threads its user can have. The kernel counts those of all pulls together, some twenty each, and one pull must not
/// fail by others. The limit of memory ends one worker's sooner, by their stacks. It can start no processes.
const MAX_THREADS: u64 = 2_048;

/// How large a file can be that it writes. The store's room ends a layer earlier.
const MAX_FILE_BYTES: u64 = 64 << 30;

/// The kernel ends first who has the most of this when memory is short.
const OOM_SCORE_ADJUSTMENT: &str = "1000";

/// The limits.
const LIMITS: [(Resource, u64); 7] = [
    (Resource::Data, MAX_MEMORY_BYTES),
    (Resource::Nofile, MAX_DESCRIPTORS),
    (Resource::Nproc, MAX_THREADS),
    (Resource::Fsize, MAX_FILE_BYTES),
    (Resource::Memlock, 0),
    (Resource::Msgqueue, 0),
    (Resource::Core, 0),
];

/// Sets them. They can't be raised again without a capability.
pub(super) fn set() -> Result<(), String> {
    // A person's own processes are counted where the user stays the same.
    let is_counted = geteuid().is_root();
    let limits = LIMITS.into_iter();
    let limits = limits.filter(|(resource, _)| is_counted || *resource != Resource::Nproc);
    for (resource, most) in limits {
        // Who begins with less keeps that.
        let now = getrlimit(resource).maximum;
        let most = Some(now.map_or(most, |now| now.min(most)));
        let limit = Rlimit {
            current: most,
            maximum: most,
        };
        setrlimit(resource, limit).map_err(|error| format!("{resource:?}: {error}"))?;
    }
    Ok(())
}

/// Has the kernel end this process first when memory is short: its layer is given up with it, and the mounter can say so.
/// That needs `/proc`, and root: of a process that is not dumpable, the files there are root's.
pub fn be_ended_first() {
    let set = fs::write("/proc/self/oom_score_adj", OOM_SCORE_ADJUSTMENT);
    if let Some(error) = set.err().filter(|_| geteuid().is_root()) {
        eprintln!("guest-pull: if memory is short, the kernel may end something else: {error}");
    }
}
