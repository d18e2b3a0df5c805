// SPDX-License-Identifier: Apache-2.0

//! What is set once for the process.

use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::stat::{Mode, umask};

/// Keeps what the process holds and makes to its owner: no core file, not traceable by other
/// processes of the same user, and files that only the owner can read.
///
/// # Errors
///
/// Never on Linux, where each of these is a process's own right.
pub fn seclude() -> nix::Result<()> {
    umask(Mode::from_bits_truncate(0o077));
    prctl::set_dumpable(false)?;
    setrlimit(Resource::RLIMIT_CORE, 0, 0)
}
