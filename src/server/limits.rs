// SPDX-License-Identifier: Apache-2.0

//! The bounds of the server, each with its reason.

use std::time::Duration;

/// The largest body of a frame, in both directions: ttrpc's own cap, which every client has too.
pub const MAX_MESSAGE_BYTES: usize = ttrpc::proto::MESSAGE_LENGTH_MAX;

/// How much is read before what was read is answered: hundreds of requests of today's clients, and
/// little enough that one busy peer does not hold up the others.
pub const BATCH_BYTES: usize = 64 << 10;

/// How much is answered before it is written: beyond this a peer that asks for large resources in one
/// breath would make the daemon hold them all.
pub const ANSWERED_BYTES: usize = 256 << 10;

/// What a connection keeps for its next request; more is given back. Requests have about 120 bytes.
pub const KEPT_BYTES: usize = 512;

/// The pause after a failed accept: long enough not to spin at the descriptor limit, and a small part
/// of the clients' shortest usual deadline (10 s).
pub const ACCEPT_BACK_OFF: Duration = Duration::from_millis(100);

/// How long connections have at the end to take the answers to what was read: systemd kills after
/// 90 s, clients give up after 10 s, and a restart should be quick.
pub const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// How long another copy of the daemon may hold the lock on a directory of sockets, which it needs
/// for a few system calls.
pub const LOCK_WAIT: Duration = Duration::from_secs(5);

/// The pause between two attempts at that lock.
pub const LOCK_RETRY: Duration = Duration::from_millis(20);

/// The least time between two attempts to take over an address that another process answers.
pub const TAKE_OVER_PAUSE: Duration = Duration::from_secs(1);
