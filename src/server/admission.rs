// SPDX-License-Identifier: Apache-2.0

//! Admission control over all sockets together: which peers are accepted, how many connections there may be,
//! and how much memory they may use.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::unistd::geteuid;
use thiserror::Error;
use tracing::warn;

use crate::rate::RateLimit;
use crate::server::limits::{
    MAX_BUFFERED_BYTES, MAX_CONNECTIONS, MAX_CONNECTIONS_OF_PROCESS, UNCOUNTED_BYTES,
};
use crate::server::peer::Peer;

/// Why a connection is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
enum Refusal {
    #[error("its user is neither root nor the daemon's own")]
    User,
    #[error("there are {MAX_CONNECTIONS} connections, the limit")]
    TooMany,
    #[error("it has {MAX_CONNECTIONS_OF_PROCESS} connections, the limit for one process")]
    TooManyOfProcess,
}

/// The counts over all sockets.
pub struct Admission {
    counts: Mutex<Counts>,
    refusals: RateLimit,
    release_memory: fn(),
}

#[derive(Default)]
struct Counts {
    connections: usize,
    by_process: HashMap<i32, usize>,
    buffered: usize,
    refused: u64,
}

impl Admission {
    /// Starts with no connections. `release_memory` is called after many connections have closed, to return their
    /// memory to the system.
    pub fn new(release_memory: fn()) -> Self {
        Self {
            counts: Mutex::default(),
            refusals: RateLimit::new(1),
            release_memory,
        }
    }

    /// Admits the peer, or logs why it is refused; the caller then closes the connection.
    pub fn admit(self: &Arc<Self>, peer: Peer) -> Option<Permit> {
        let mut counts = self.counts();
        let refusal = match counts.check(peer) {
            Ok(()) => {
                counts.connections += 1;
                if let Some(pid) = peer.pid {
                    *counts.by_process.entry(pid).or_default() += 1;
                }
                let admission = Arc::clone(self);
                return Some(Permit {
                    admission,
                    peer,
                    counted: 0,
                });
            }
            Err(refusal) => {
                counts.refused += 1;
                refusal
            }
        };
        drop(counts);
        if let Some(suppressed) = self.refusals.allow() {
            let peer = peer.describe();
            warn!("refused a connection from {peer}: {refusal}{suppressed}");
        }
        None
    }

    /// The number of open connections, and of those refused since the start.
    pub fn tally(&self) -> (usize, u64) {
        let counts = self.counts();
        (counts.connections, counts.refused)
    }

    /// Returns free memory to the system.
    pub fn release_memory(&self) {
        (self.release_memory)();
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn check(&self, peer: Peer) -> Result<(), Refusal> {
        let of_process = peer.pid.and_then(|pid| self.by_process.get(&pid));
        if !peer
            .uid
            .is_some_and(|uid| uid == 0 || uid == geteuid().as_raw())
        {
            Err(Refusal::User)
        } else if self.connections >= MAX_CONNECTIONS {
            Err(Refusal::TooMany)
        } else if of_process.is_some_and(|&count| count >= MAX_CONNECTIONS_OF_PROCESS) {
            Err(Refusal::TooManyOfProcess)
        } else {
            Ok(())
        }
    }
}

/// The admission of one connection. It ends when the value is dropped.
pub struct Permit {
    admission: Arc<Admission>,
    peer: Peer,
    /// How many of the counted bytes belong to this connection.
    counted: usize,
}

impl Permit {
    /// The peer.
    pub fn peer(&self) -> Peer {
        self.peer
    }

    /// Sets how many bytes the connection buffers now. Returns false if all connections together would buffer
    /// too much. The first `UNCOUNTED_BYTES` of each connection are not counted, so that large buffers do not
    /// block small ones.
    #[must_use]
    pub fn set_buffered(&mut self, bytes: usize) -> bool {
        let bytes = bytes.saturating_sub(UNCOUNTED_BYTES);
        if bytes == self.counted {
            return true;
        }
        let mut counts = self.admission.counts();
        let buffered = counts.buffered - self.counted + bytes;
        if bytes > self.counted && buffered > MAX_BUFFERED_BYTES {
            return false;
        }
        counts.buffered = buffered;
        self.counted = bytes;
        true
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut counts = self.admission.counts();
        counts.connections -= 1;
        counts.buffered -= self.counted;
        if let Some(pid) = self.peer.pid {
            if let Entry::Occupied(mut count) = counts.by_process.entry(pid) {
                *count.get_mut() -= 1;
                if *count.get() == 0 {
                    count.remove();
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn peer(pid: i32) -> Peer {
        Peer {
            pid: Some(pid),
            uid: Some(0),
        }
    }

    /// One process can't use all connections, all processes together can't have more than the limit, and a
    /// closed connection makes room for another.
    #[test]
    fn places_are_counted() {
        let admission = Arc::new(Admission::new(|| {}));
        let mut permits: Vec<_> = (0..MAX_CONNECTIONS_OF_PROCESS)
            .map(|_| admission.admit(peer(1)).unwrap())
            .collect();
        assert!(admission.admit(peer(1)).is_none());
        let others = MAX_CONNECTIONS - MAX_CONNECTIONS_OF_PROCESS;
        permits.extend((0..others).map(|_| admission.admit(peer(2)).unwrap()));
        assert!(admission.admit(peer(3)).is_none());
        permits.clear();
        assert!(admission.admit(peer(1)).is_some());
        assert!(admission.counts().by_process.is_empty());
    }

    #[test]
    fn another_users_process_is_refused() {
        let admission = Arc::new(Admission::new(|| {}));
        let stranger = geteuid().as_raw() + 12_345;
        for uid in [Some(stranger), None] {
            assert!(admission.admit(Peer { pid: Some(1), uid }).is_none());
        }
        assert!(admission.admit(peer(1)).is_some());
    }

    /// The total of buffered bytes is limited; small buffers are always allowed.
    #[test]
    fn bytes_are_counted() {
        let admission = Arc::new(Admission::new(|| {}));
        let mut large = admission.admit(peer(1)).unwrap();
        let mut other = admission.admit(peer(1)).unwrap();
        assert!(large.set_buffered(UNCOUNTED_BYTES + MAX_BUFFERED_BYTES));
        assert!(!other.set_buffered(UNCOUNTED_BYTES + 1));
        assert!(other.set_buffered(UNCOUNTED_BYTES));
        assert!(large.set_buffered(UNCOUNTED_BYTES + 10));
        assert!(other.set_buffered(UNCOUNTED_BYTES + 1));
        drop((large, other));
        assert_eq!(admission.counts().buffered, 0);
    }
}
