// SPDX-License-Identifier: Apache-2.0

//! Sockets, frames and peers: which peers are admitted, how many, and in which order their requests are
//! answered.
//!
//! It calls methods from a table, and does not depend on what is served.

pub mod admission;
pub mod connection;
pub mod endpoint;
pub mod fdstore;
pub mod later;
pub mod limits;
pub mod listener;
pub mod method;
pub mod notify;
pub mod output;
pub mod peer;
pub mod request_log;
pub mod router;

use std::future::pending;
use std::io;
use std::sync::Arc;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, error, warn};

use crate::rate::RateLimit;
use crate::server::admission::Admission;
use crate::server::fdstore::FdStore;
use crate::server::listener::BoundPath;
use crate::server::peer::Peer;
use crate::server::router::Router;

/// What the connections of one address share.
#[derive(Clone)]
pub struct Shared {
    /// Answers the requests.
    pub router: Arc<Router>,
    /// Decides which peers are admitted.
    pub admission: Arc<Admission>,
    /// Keeps connections across a restart of the process.
    pub fdstore: Arc<FdStore>,
    /// Tells the daemon to stop, when it becomes true or its sender is dropped.
    pub stop: watch::Receiver<bool>,
}

/// A connection from the service manager's store, with its name there.
pub type StoredConnection = (UnixStream, String);

impl Shared {
    /// Serves the connection in a task of its own, or closes it if the peer is refused.
    fn start(&self, stream: UnixStream, kept: Option<String>, tasks: &mut Connections) {
        let slot = match kept {
            Some(name) => Some(self.fdstore.stored_slot(name)),
            None => self.fdstore.slot(&stream),
        };
        if let Some(permit) = self.admission.admit(Peer::of(&stream)) {
            let (router, stop) = (Arc::clone(&self.router), self.stop.clone());
            tasks.spawn(connection::run(stream, permit, slot, router, stop));
        }
    }
}

/// The tasks of connections.
type Connections = JoinSet<io::Result<()>>;

/// Serves the connections of an earlier process, from the descriptor store. Their peers are checked again.
pub async fn resume(kept: Vec<StoredConnection>, shared: Shared) {
    let mut connections = JoinSet::new();
    for (stream, name) in kept {
        shared.start(stream, Some(name), &mut connections);
    }
    let mut stop = shared.stop;
    loop {
        tokio::select! {
            ended = connections.join_next() => match ended {
                Some(ended) => log_ended(ended),
                None => return,
            },
            // An error means that the sender is gone, which stops too.
            _ = stop.wait_for(|stop| *stop) => break,
        }
    }
    finish(connections).await;
}

/// Waits for the next connection, or for ever if there is no listener.
async fn accept(listener: Option<&UnixListener>) -> io::Result<UnixStream> {
    match listener {
        Some(listener) => Ok(listener.accept().await?.0),
        None => pending().await,
    }
}

/// Serves every peer of `listener` until the end. Requests that have arrived by then are still answered.
///
/// `gone` says that the path of a socket that this process bound was removed: no connection is accepted any
/// more, and this function returns after the last connection.
///
/// `path` is removed at the end, before connections are closed, so that nobody connects to a socket that
/// nobody serves. Without a `path`, the service manager keeps the socket, and clients that are waiting to
/// connect are left to the next process.
pub async fn serve(
    listener: UnixListener,
    mut path: Option<BoundPath>,
    gone: Arc<Notify>,
    shared: Shared,
) {
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    let mut stop = shared.stop.clone();
    let failures = RateLimit::new(1);
    // The most connections since memory was last released.
    let mut most = 0;
    loop {
        let accepted = tokio::select! {
            accepted = accept(listener.as_ref()) => accepted,
            // Nobody can connect to the socket any more; only connections that are waiting to be accepted are
            // left. The path belongs to another process now. A socket from the service manager may have its
            // path where this process can't see it.
            () = gone.notified(), if path.is_some() => {
                path = None;
                for stream in listener.take().map(backlog).unwrap_or_default() {
                    shared.start(stream, None, &mut connections);
                }
                if connections.is_empty() {
                    return;
                }
                continue;
            }
            // An error means that the sender is gone, which stops too.
            _ = stop.wait_for(|stop| *stop) => break,
            // Removes tasks that have ended, so that the set does not grow.
            Some(ended) = connections.join_next() => {
                log_ended(ended);
                if listener.is_none() && connections.is_empty() {
                    return;
                }
                let left = connections.len();
                if most >= limits::MANY_CONNECTIONS && left <= most / 4 {
                    most = left;
                    shared.admission.release_memory();
                }
                continue;
            }
        };
        match accepted {
            Ok(stream) => {
                shared.start(stream, None, &mut connections);
                most = most.max(connections.len());
            }
            Err(error) => {
                if let Some(suppressed) = failures.allow() {
                    warn!("can't accept a connection, trying again: {error}{suppressed}");
                }
                sleep(limits::ACCEPT_BACK_OFF).await;
            }
        }
    }
    if let (Some(path), Some(listener)) = (path, listener) {
        if let Err(error) = path.remove() {
            warn!("{error}");
        }
        // Clients that connected before the end are answered too.
        for stream in backlog(listener) {
            shared.start(stream, None, &mut connections);
        }
    }
    finish(connections).await;
}

/// Waits, for a limited time, until the connections' last answers are written.
async fn finish(mut connections: Connections) {
    let rest = async {
        while let Some(ended) = connections.join_next().await {
            log_ended(ended);
        }
    };
    if timeout(limits::LAST_ANSWERS, rest).await.is_err() {
        warn!("a peer did not read its last answers; its connection is closed");
    }
}

/// The connections that wait to be accepted. The kernel is asked directly, since tokio may not know of the
/// last ones yet.
fn backlog(listener: UnixListener) -> Vec<UnixStream> {
    let Ok(listener) = listener.into_std() else {
        return Vec::new();
    };
    let waiting = std::iter::from_fn(|| listener.accept().ok());
    let streams = waiting.filter_map(|(stream, _)| {
        stream.set_nonblocking(true).ok()?;
        UnixStream::from_std(stream).ok()
    });
    streams.collect()
}

fn log_ended(ended: Result<io::Result<()>, tokio::task::JoinError>) {
    match ended {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!("connection ended: {error}"),
        Err(error) => {
            static PANICS: RateLimit = RateLimit::new(1);
            if let Some(suppressed) = PANICS.allow() {
                error!(
                    "a bug: the task of a connection panicked; the daemon goes on: {error}{suppressed}"
                );
            }
        }
    }
}
