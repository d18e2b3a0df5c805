// SPDX-License-Identifier: Apache-2.0

//! The bounds of the server, each with its reason.

use std::time::Duration;

/// The largest body of a frame, in both directions: ttrpc's own cap, which every client has too.
pub const MAX_MESSAGE_BYTES: usize = ttrpc::proto::MESSAGE_LENGTH_MAX;

/// The most connections, over all sockets: a pod VM has a handful of clients, and a test of 1,024 at once
/// must pass. Each costs a few KiB.
pub const MAX_CONNECTIONS: usize = 1_500;

/// The most connections of one process, so that one that leaks them leaves places for others.
pub const MAX_CONNECTIONS_OF_PROCESS: usize = 1_100;

/// How many connections make a crowd, after which memory is given back: about a quarter of a MiB.
pub const CROWD: usize = 64;

/// What a connection may buffer without being counted: any request of today's clients and its answer.
/// All connections together make it 24 MiB.
pub const FREE_BYTES: usize = 16 << 10;

/// What all connections together may buffer beyond that: some frames and answers of the largest size
/// at once. Pod VMs have as little as 256 MiB.
pub const MAX_BUFFERED_BYTES: usize = 32 << 20;

/// How long a frame may take from its first byte to its last. Clients write it in one go; their own
/// deadline is 50 s at most.
pub const FRAME_TIME: Duration = Duration::from_secs(10);

/// How long a connection rests before it is handed to the service manager's store: a busy peer is not
/// to keep the service manager busy too, and a crash within this time of an answer is rare.
pub const KEEP_AFTER: Duration = Duration::from_millis(100);

/// How long a peer may take to read the answers of a batch: longer than any client waits.
pub const ANSWER_TIME: Duration = Duration::from_secs(60);

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

/// The pause between two looks at whether a path still is the socket that was bound there, where the kernel
/// has no watch left that would tell: kata-agent takes one away, but once in a VM's life.
pub const PATH_CHECK: Duration = Duration::from_secs(10);

/// The same where there is a watch, which doesn't see what happens further up: seldom enough to be none of the
/// wake-ups that count.
pub const WATCHED_PATH_CHECK: Duration = Duration::from_secs(60);

/// How long a path that was taken away is left to who did it: kata-agent starts a copy then, which in a VM that
/// boots takes a second or two.
pub const PATH_GONE_PAUSE: Duration = Duration::from_secs(5);

/// The least time between two attempts to take over an address that another process answers.
pub const TAKE_OVER_PAUSE: Duration = Duration::from_secs(1);
