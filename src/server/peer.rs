// SPDX-License-Identifier: Apache-2.0

//! The peer of a connection, by its peer credentials.

use std::fmt;
use std::fs;

use tokio::net::UnixStream;

use crate::text::Quoted;

/// The process at the other end of a connection, as the kernel recorded it when the connection was made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peer {
    /// Its process id, if this process's pid namespace has one for it.
    pub pid: Option<i32>,
    /// Its user id.
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

    /// The process id with the command and the user id, for the log.
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
