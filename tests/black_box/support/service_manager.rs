// SPDX-License-Identifier: Apache-2.0

//! The service manager's end of sd_notify(3).

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Instant;

use tempfile::TempDir;

use super::PATIENCE;

pub struct Manager {
    socket: UnixDatagram,
    dir: TempDir,
}

impl Manager {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, dir }
    }

    /// The command as a unit of this manager.
    pub fn manage(&self, mut command: Command) -> Command {
        command.env("NOTIFY_SOCKET", self.dir.path().join("notify"));
        command
    }

    /// The next message.
    pub fn receive(&self) -> String {
        let mut buffer = [0; 4096];
        let length = self.socket.recv(&mut buffer).expect("a message in time");
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }

    /// The next message that contains `part`.
    pub fn wait_for(&self, part: &str) -> String {
        let start = Instant::now();
        while start.elapsed() < PATIENCE {
            let message = self.receive();
            if message.contains(part) {
                return message;
            }
        }
        panic!("no {part}");
    }
}
