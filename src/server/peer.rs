// SPDX-License-Identifier: Apache-2.0

//! Who is calling.

use std::fmt;
use std::fs;

use tokio::net::UnixStream;

use crate::text::Quoted;

/// The process at the other end of a connection, as the kernel recorded it when it connected.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peer {
    /// Its process id, if it is in a pid namespace that this process sees.
    pub pid: Option<i32>,
    /// Its user.
    pub uid: Option<u32>,
}

impl Peer {
    /// The peer of `stream`.
    pub fn of(stream: &UnixStream) -> Self {
        let credentials = stream.peer_cred().ok();
        Self {
            pid: credentials.as_ref().and_then(|cred| cred.pid()),
            uid: credentials.map(|cred| cred.uid()),
        }
    }

    /// The process with what can be found out about it, for the log.
    pub fn describe(&self) -> String {
        let mut text = self.to_string();
        let comm = self
            .pid
            .map(|pid| fs::read_to_string(format!("/proc/{pid}/comm")));
        if let Some(Ok(comm)) = comm {
            text.push_str(&format!(" ({})", Quoted(comm.trim_end())));
        }
        if let Some(uid) = self.uid {
            text.push_str(&format!(" of uid {uid}"));
        }
        text
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
