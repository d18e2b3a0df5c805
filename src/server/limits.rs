// SPDX-License-Identifier: Apache-2.0

//! The server's limits, each with its reason.

use std::time::Duration;

/// The largest body of a frame, in both directions: ttrpc's own limit, which every client has too.
pub const MAX_MESSAGE_BYTES: usize = ttrpc::proto::MESSAGE_LENGTH_MAX;

/// The most connections over all sockets. A pod VM has a handful of clients, and a test with 1,024
/// connections at once must pass. Each connection costs a few KiB.
pub const MAX_CONNECTIONS: usize = 1_500;

/// The most connections of one process, so that a process that leaks connections leaves some for others.
pub const MAX_CONNECTIONS_OF_PROCESS: usize = 1_100;

/// After so many connections, memory is released when most of them have closed: about a quarter of a MiB.
pub const MANY_CONNECTIONS: usize = 64;

/// What a connection may buffer without being counted: enough for any request of today's clients and its
/// answer. All connections together can use 24 MiB of it.
pub const UNCOUNTED_BYTES: usize = 16 << 10;

/// What all connections together may buffer beyond that: some frames and answers of the largest size at once.
/// A pod VM may have only 256 MiB of memory.
pub const MAX_BUFFERED_BYTES: usize = 32 << 20;

/// How long a frame may take from its first byte to its last. Clients write a frame at once; their own
/// deadline is 50 s at most.
pub const FRAME_TIME: Duration = Duration::from_secs(10);

/// How long a connection is idle before it is put into the service manager's store: a busy peer should not
/// make the service manager busy too, and a crash so soon after an answer is rare.
pub const STORE_AFTER: Duration = Duration::from_millis(100);

/// How long a peer may take to read the answers of a batch: longer than any client waits.
pub const ANSWER_TIME: Duration = Duration::from_secs(60);

/// How much is read before it is answered: enough for hundreds of requests of today's clients, and little
/// enough that one busy peer does not delay the others.
pub const BATCH_BYTES: usize = 64 << 10;

/// How many bytes of answers are made before they are written. Without this limit, a peer that asks for many
/// large resources at once would make the daemon hold all of them.
pub const ANSWERED_BYTES: usize = 256 << 10;

/// The size of the buffer that an idle connection keeps; a larger one is freed. Requests have about 120
/// bytes.
pub const IDLE_BUFFER_BYTES: usize = 512;

/// The pause after a failed accept: long enough not to spin at the descriptor limit, and a small part of the
/// clients' shortest usual deadline (10 s).
pub const ACCEPT_BACK_OFF: Duration = Duration::from_millis(100);

/// How long peers have to read their last answers when the daemon stops: systemd kills the process after 90
/// s, clients give up after 10 s, and a restart should be quick.
pub const LAST_ANSWERS: Duration = Duration::from_secs(5);

/// How long to wait for another copy of the daemon that holds the lock on a directory of sockets; it needs
/// the lock for a few system calls.
pub const LOCK_WAIT: Duration = Duration::from_secs(5);

/// The pause between two attempts at that lock.
pub const LOCK_RETRY: Duration = Duration::from_millis(20);

/// The interval of checks whether a path still leads to the socket that was bound there, if no inotify watch
/// is available: kata-agent removes a path, but only once in a VM's life.
pub const PATH_CHECK: Duration = Duration::from_secs(10);

/// The same interval if there is a watch, which does not see changes further up the path: so seldom that the
/// wake-ups cost nothing.
pub const WATCHED_PATH_CHECK: Duration = Duration::from_secs(60);

/// How long the daemon waits before it binds a removed path again: kata-agent starts a copy of the agent
/// then, which takes a second or two while a VM boots.
pub const PATH_GONE_PAUSE: Duration = Duration::from_secs(5);

/// The first pause between two attempts to take over an address: the time that a process which has closed a
/// connection may still need for its end. It is doubled at each attempt, up to [`TAKE_OVER_MAX_PAUSE`].
pub const TAKE_OVER_PAUSE: Duration = Duration::from_millis(100);

/// The longest pause between two attempts to take over an address from a process that closes the connections made
/// to it, or that can't be bound for another reason. The end of such a process may show only at an attempt, so
/// this is also how long an address may stay unserved then.
pub const TAKE_OVER_MAX_PAUSE: Duration = Duration::from_secs(30);

/// How long an attempt waits for the lock on the directory, which another waiting copy has for a moment: both notice
/// at the same time that the address is free. No request is answered while it waits.
pub const TAKE_OVER_LOCK_WAIT: Duration = LOCK_RETRY;
