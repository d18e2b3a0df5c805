// SPDX-License-Identifier: Apache-2.0

//! The service manager's descriptor store, which keeps connections across a restart of the process.
//!
//! Today's clients hold one connection for the life of the VM and never make another. So an idle connection
//! is put into systemd's store, and systemd passes it to the next process after a restart, an upgrade or a
//! crash. It is taken out of the store before a byte is read: if the process dies with a request half read,
//! the connection must end too, or the client would wait for its answer for ever.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::stat::fstat;
use tokio::net::UnixStream;

use crate::server::notify;

/// The prefix of the names of connections in the store.
const PREFIX: &str = "connection-";

/// The descriptor store, for all connections together.
#[derive(Debug, Default)]
pub struct FdStore {
    /// How many more descriptors the store takes.
    free: AtomicUsize,
    /// Whether there is a store.
    exists: bool,
}

impl FdStore {
    /// A store that takes `slots` descriptors; with 0 there is no store.
    pub fn new(slots: usize) -> Self {
        Self {
            free: AtomicUsize::new(slots),
            exists: slots > 0,
        }
    }

    /// A slot in the store for the connection, if there is a store. The connection is not yet in it.
    pub fn slot(self: &Arc<Self>, stream: &UnixStream) -> Option<Slot> {
        if !self.exists {
            return None;
        }
        Some(Slot {
            fdstore: Arc::clone(self),
            name: name_of(stream.as_fd())?,
            stored: false,
        })
    }

    /// The slot of a connection that came from the store and is still in it.
    pub fn stored_slot(self: &Arc<Self>, name: String) -> Slot {
        let full = |free: usize| Some(free.saturating_sub(1));
        let _ = self
            .free
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, full);
        Slot {
            fdstore: Arc::clone(self),
            name,
            stored: true,
        }
    }
}

/// Whether a descriptor of this name is a connection that was put into the store.
pub fn is_connection(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// The name of a connection in the store. It has the socket's inode number, so no two connections have the
/// same name, whichever process stored them.
fn name_of(stream: BorrowedFd<'_>) -> Option<String> {
    let inode = fstat(stream).ok()?.st_ino;
    Some(format!("{PREFIX}{inode}"))
}

/// The slot of one connection in the store. When it is dropped, the connection is removed from the store.
#[derive(Debug)]
pub struct Slot {
    fdstore: Arc<FdStore>,
    name: String,
    stored: bool,
}

impl Slot {
    /// Whether the connection is in the store.
    pub fn is_stored(&self) -> bool {
        self.stored
    }

    /// Puts the connection into the store. Returns whether it is in the store.
    pub fn store(&mut self, stream: &UnixStream) -> bool {
        if !self.stored {
            let one_less = |free: usize| free.checked_sub(1);
            let free = &self.fdstore.free;
            self.stored = free
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
                .is_ok();
            if self.stored && !notify::store(&self.name, stream.as_fd()) {
                self.free_slot();
            }
        }
        self.stored
    }

    /// Removes the connection from the store.
    pub fn remove(&mut self) {
        if self.stored {
            notify::remove(&self.name);
            self.free_slot();
        }
    }

    /// Leaves the connection in the store for the next process.
    pub fn leave_in_store(mut self) {
        self.stored = false;
    }

    fn free_slot(&mut self) {
        self.stored = false;
        self.fdstore.free.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.remove();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// No more connections are stored than the store takes: systemd would silently drop one, which would end
    /// the connection.
    #[tokio::test]
    async fn slots_are_counted() {
        let fdstore = Arc::new(FdStore::new(1));
        let (first, second) = UnixStream::pair().unwrap();
        let mut one = fdstore.slot(&first).unwrap();
        let mut other = fdstore.slot(&second).unwrap();
        assert_ne!(one.name, other.name);
        assert!(one.store(&first));
        assert!(!other.store(&second));
        one.remove();
        assert!(other.store(&second));
        drop(other);
        let kept = fdstore.stored_slot("connection-1".to_owned());
        assert!(!one.store(&first));
        drop(kept);
        assert!(one.store(&first));
        assert!(Arc::new(FdStore::new(0)).slot(&first).is_none());
    }
}
