// SPDX-License-Identifier: Apache-2.0

//! What is set once for the process.

use nix::sys::prctl;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::stat::{Mode, umask};

/// Raises the soft limit of open descriptors to the hard one, so that the caps on connections are what
/// bounds them. Where that fails the limit stays as it is, which is survived.
pub fn raise_descriptor_limit() {
    if let Ok((_, hard)) = getrlimit(Resource::RLIMIT_NOFILE) {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

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
