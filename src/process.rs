// SPDX-License-Identifier: Apache-2.0

//! Settings of the whole process, made once at the start.

use std::time::Duration;

use nix::sys::mman::{MlockAllFlags, mlockall, munlockall};
use nix::sys::prctl;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use tokio::time::sleep;

use crate::sys;

/// Raises the soft limit of open descriptors to the hard limit, so that the server's own caps bound the
/// number of connections. If that fails, the limit stays as it is.
pub fn raise_descriptor_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Locks the process's memory so that it is not written to swap. Returns whether that succeeded.
///
/// Pages are locked when they are first used (`MCL_ONFAULT`), so locking takes no extra memory. Memory is
/// locked only if there is no limit on locked memory: under a limit, later allocations would fail and end the
/// process. The program's code is not locked.
pub fn lock_memory() -> bool {
    // nix has no constant for MCL_ONFAULT.
    let flags = libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT;
    let limit = Resource::RLIMIT_MEMLOCK;
    if setrlimit(limit, RLIM_INFINITY, RLIM_INFINITY).is_err() {
        // With a soft limit of 0, only a process with CAP_IPC_LOCK can lock memory, and the limit does not
        // apply to it.
        if let Ok((_, hard)) = getrlimit(limit) {
            let _ = setrlimit(limit, 0, hard);
        }
    }
    let locked = mlockall(MlockAllFlags::from_bits_retain(flags)).is_ok();
    // Locking file-backed pages would only make them resident for good.
    sys::unlock_code();
    locked
}

/// How long after the start the memory that only the start needed is released: later than the first clients,
/// so that they do not wait for it.
const START_TIME: Duration = Duration::from_secs(1);

/// Waits until the start is over, then releases the memory that only the start needed: that of parsing the
/// command line and the files, and the code of both.
pub async fn release_after_start() {
    sleep(START_TIME).await;
    release_memory();
}

/// Returns free heap memory and the pages of the program's code to the system. Code that runs later is read
/// again from the file or the page cache.
///
/// The C library uses a call (`madvise`) that the kernel refuses for locked memory, so memory is unlocked for
/// that moment; no other thread of the process runs meanwhile.
pub fn release_memory() {
    let locked = munlockall().is_ok();
    sys::trim_heap();
    if locked {
        lock_memory();
    }
    sys::release_code();
}

/// Hardens the process: no core dumps, no tracing by other processes of the same user, and new files readable
/// only by their owner.
///
/// # Errors
///
/// Never on Linux: each of these is allowed to any process.
pub fn harden() -> nix::Result<()> {
    umask(Mode::from_bits_truncate(0o077));
    prctl::set_dumpable(false)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)
}
