// SPDX-License-Identifier: Apache-2.0

//! Who is calling.

use std::fmt;

use tokio::net::UnixStream;

/// The process at the other end of a connection, as the kernel recorded it when it connected.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peer {
    /// Its process id, if it is in a pid namespace that this process sees.
    pub pid: Option<i32>,
}

impl Peer {
    /// The peer of `stream`.
    pub fn of(stream: &UnixStream) -> Self {
        let pid = stream.peer_cred().ok().and_then(|cred| cred.pid());
        Self { pid }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "pid {pid}"),
            None => f.write_str("an unknown process"),
        }
    }
}
