// SPDX-License-Identifier: Apache-2.0

//! What is set once for the process.

use std::time::Duration;

use nix::sys::mman::{MlockAllFlags, mlockall, munlockall};
use nix::sys::prctl;
use nix::sys::resource::{RLIM_INFINITY, Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};
use tokio::time::sleep;

use crate::sys;

/// Raises the soft limit of open descriptors to the hard one, so that the caps on connections are what
/// bounds them. Where that fails the limit stays as it is, which is survived.
pub fn raise_descriptor_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// Keeps what the process holds from being written to swap; tells whether it is.
///
/// Pages are locked as they are used, so nothing is held that wouldn't be. It is done only where there is
/// no limit: under one, memory that is asked for later would be refused, and the process ended. The
/// program's code is not locked.
pub fn lock_memory() -> bool {
    // nix has no name for the last.
    let flags = libc::MCL_CURRENT | libc::MCL_FUTURE | libc::MCL_ONFAULT;
    let limit = Resource::RLIMIT_MEMLOCK;
    if setrlimit(limit, RLIM_INFINITY, RLIM_INFINITY).is_err() {
        // Where nothing may be locked, only who has the capability can, and that knows no limit.
        if let Ok((_, hard)) = getrlimit(limit) {
            let _ = setrlimit(limit, 0, hard);
        }
    }
    let locked = mlockall(MlockAllFlags::from_bits_retain(flags)).is_ok();
    // To lock what is only read from a file would make each page of it dearer.
    sys::unlock_code();
    locked
}

/// How long after the start is what only the start needed given back: the first clients should not wait for
/// it.
const SETTLED: Duration = Duration::from_secs(1);

/// Waits until the start is over, and gives back what only that needed: the memory of the command line and
/// of parsing, and the code of both.
pub async fn settle() {
    sleep(SETTLED).await;
    give_back();
}

/// Gives memory that is free back to the system, and the program's code. What of it runs after is read anew from the
/// file or its cache.
///
/// The C library does it by a call that the kernel refuses for locked memory, so that is unlocked for
/// as long as it takes; nothing else of the process runs meanwhile.
pub fn give_back() {
    let locked = munlockall().is_ok();
    sys::give_back();
    if locked {
        lock_memory();
    }
    sys::give_code_back();
}

/// Keeps what the process holds and makes to its owner: no core file, not traceable by other
/// processes of the same user, and files that only the owner can read.
///
/// # Errors
///
/// Never on Linux, where each of these is a process's own right.
pub fn harden() -> nix::Result<()> {
    umask(Mode::from_bits_truncate(0o077));
    prctl::set_dumpable(false)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)
}
