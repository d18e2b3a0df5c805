// SPDX-License-Identifier: Apache-2.0

//! The service manager's side of sd_notify(3) and sd_listen_fds(3): it receives the daemon's messages, stores
//! descriptors, and starts the next daemon with them.

use std::cell::RefCell;
use std::fs;
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};
use tempfile::TempDir;

use super::PATIENCE;
use super::daemon::{Daemon, started_by};

pub struct Manager {
    socket: UnixDatagram,
    dir: TempDir,
    /// The sockets of socket units, with their names.
    listeners: Vec<(String, UnixListener)>,
    /// The descriptor store.
    store: RefCell<Vec<(String, OwnedFd)>>,
}

/// The size of the descriptor store in the tests' unit.
const STORE_SIZE: usize = 8;

impl Manager {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(dir.path().join("notify")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self {
            socket,
            dir,
            listeners: Vec::new(),
            store: RefCell::default(),
        }
    }

    /// The command as a unit of this manager.
    pub fn manage(&self, mut command: Command) -> Command {
        command.env("NOTIFY_SOCKET", self.dir.path().join("notify"));
        command
    }

    /// Listens as a socket unit does.
    pub fn listen(&mut self, name: &str, path: &Path) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let listener = UnixListener::bind(path).unwrap();
        self.listeners.push((name.to_owned(), listener));
    }

    /// Starts the command with the sockets and the store, and waits until it is ready.
    pub fn start(&self, command: Command) -> Daemon {
        self.start_with_store(command, STORE_SIZE)
    }

    /// The same with a store of another size.
    pub fn start_with_store(&self, command: Command, size: usize) -> Daemon {
        let launch = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/launch");
        let mut launched = started_by::<&str>(launch, &[], &command);
        launched.env("FDSTORE", size.to_string());
        let (ours, theirs) = UnixStream::pair().unwrap();
        launched.stdin(Stdio::from(OwnedFd::from(theirs)));
        let daemon = Daemon::spawn(self.manage(launched));
        self.hand_over(&ours);
        self.wait_for("READY=1");
        daemon
    }

    fn hand_over(&self, channel: &UnixStream) {
        // Messages of the previous daemon still count.
        self.kept();
        let store = self.store.borrow();
        let listeners = self.listeners.iter();
        let listeners = listeners.map(|(name, listener)| (name.as_str(), listener.as_fd()));
        let kept = store
            .iter()
            .map(|(name, kept)| (name.as_str(), kept.as_fd()));
        let (names, descriptors): (Vec<&str>, Vec<BorrowedFd>) = listeners.chain(kept).unzip();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(64))];
        let mut message = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            assert!(message.push(SendAncillaryMessage::ScmRights(&descriptors)));
        }
        let names = names.join(":") + "\n";
        let names = [IoSlice::new(names.as_bytes())];
        sendmsg(channel, &names, &mut message, SendFlags::empty()).unwrap();
    }

    /// The next message.
    pub fn receive(&self) -> String {
        self.try_receive().expect("a message in time")
    }

    fn try_receive(&self) -> Option<String> {
        let mut buffer = [0; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut descriptors = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            &self.socket,
            &mut [IoSliceMut::new(&mut buffer)],
            &mut descriptors,
            RecvFlags::CMSG_CLOEXEC,
        );
        let length = received.ok()?.bytes;
        let message = String::from_utf8(buffer[..length].to_vec()).unwrap();
        let name = || {
            let name = message
                .lines()
                .find_map(|line| line.strip_prefix("FDNAME="));
            name.expect("a name").to_owned()
        };
        let mut store = self.store.borrow_mut();
        if message.contains("FDSTORE=1\n") {
            for descriptor in descriptors.drain() {
                if let RecvAncillaryMessage::ScmRights(descriptors) = descriptor {
                    store.extend(descriptors.map(|descriptor| (name(), descriptor)));
                }
            }
        } else if message.contains("FDSTOREREMOVE=1\n") {
            let before = store.len();
            store.retain(|(kept, _)| *kept != name());
            assert!(store.len() < before, "{message} and it isn't there");
        }
        Some(message)
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

    /// The number of descriptors in the store, after all messages.
    pub fn kept(&self) -> usize {
        self.socket.set_nonblocking(true).unwrap();
        while self.try_receive().is_some() {}
        self.socket.set_nonblocking(false).unwrap();
        self.store.borrow().len()
    }

    /// Waits until the store has this number of descriptors.
    pub fn wait_until_kept(&self, count: usize) {
        while self.kept() != count {
            self.receive();
        }
    }

    /// Puts a descriptor into the store that the daemon did not store.
    pub fn keep(&self, name: &str, descriptor: impl Into<OwnedFd>) {
        let mut store = self.store.borrow_mut();
        store.push((name.to_owned(), descriptor.into()));
    }
}
