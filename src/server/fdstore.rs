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
    /// A store that takes `places` descriptors; with 0 there is no store.
    pub fn new(places: usize) -> Self {
        Self {
            free: AtomicUsize::new(places),
            exists: places > 0,
        }
    }

    /// A place in the store for the connection, if there is a store. The connection is not yet in it.
    pub fn place(self: &Arc<Self>, stream: &UnixStream) -> Option<Place> {
        if !self.exists {
            return None;
        }
        Some(Place {
            fdstore: Arc::clone(self),
            name: name_of(stream.as_fd())?,
            taken: false,
        })
    }

    /// The place of a connection that came from the store and is still in it.
    pub fn place_of_kept(self: &Arc<Self>, name: String) -> Place {
        let full = |free: usize| Some(free.saturating_sub(1));
        let _ = self
            .free
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, full);
        Place {
            fdstore: Arc::clone(self),
            name,
            taken: true,
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

/// The place of one connection in the store. When it is dropped, the connection is removed from the store.
#[derive(Debug)]
pub struct Place {
    fdstore: Arc<FdStore>,
    name: String,
    taken: bool,
}

impl Place {
    /// Whether the connection is in the store.
    pub fn is_taken(&self) -> bool {
        self.taken
    }

    /// Puts the connection into the store. Returns whether it is in the store.
    pub fn put(&mut self, stream: &UnixStream) -> bool {
        if !self.taken {
            let one_less = |free: usize| free.checked_sub(1);
            let free = &self.fdstore.free;
            self.taken = free
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_less)
                .is_ok();
            if self.taken && !notify::store(&self.name, stream.as_fd()) {
                self.give_back();
            }
        }
        self.taken
    }

    /// Removes the connection from the store.
    pub fn take_back(&mut self) {
        if self.taken {
            notify::remove(&self.name);
            self.give_back();
        }
    }

    /// Leaves the connection in the store for the next process.
    pub fn leave(mut self) {
        self.taken = false;
    }

    fn give_back(&mut self) {
        self.taken = false;
        self.fdstore.free.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.take_back();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// No more connections are stored than the store takes: systemd would silently drop one, which would end
    /// the connection.
    #[tokio::test]
    async fn places_are_counted() {
        let fdstore = Arc::new(FdStore::new(1));
        let (first, second) = UnixStream::pair().unwrap();
        let mut one = fdstore.place(&first).unwrap();
        let mut other = fdstore.place(&second).unwrap();
        assert_ne!(one.name, other.name);
        assert!(one.put(&first));
        assert!(!other.put(&second));
        one.take_back();
        assert!(other.put(&second));
        drop(other);
        let kept = fdstore.place_of_kept("connection-1".to_owned());
        assert!(!one.put(&first));
        drop(kept);
        assert!(one.put(&first));
        assert!(Arc::new(FdStore::new(0)).place(&first).is_none());
    }
}
