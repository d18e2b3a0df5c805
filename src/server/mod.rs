// SPDX-License-Identifier: Apache-2.0

//! Sockets, frames and peers: who calls, how many, and in which order they are answered.
//!
//! It calls methods by a table, and knows nothing of what is served.

pub mod admission;
pub mod connection;
pub mod endpoint;
pub mod fdstore;
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

use crate::rate::Rate;
use crate::server::admission::Admission;
use crate::server::fdstore::FdStore;
use crate::server::listener::BoundPath;
use crate::server::peer::Peer;
use crate::server::router::Router;

/// What the connections of one address share.
#[derive(Clone)]
pub struct Serving {
    /// Who answers.
    pub router: Arc<Router>,
    /// Who is let in.
    pub admission: Arc<Admission>,
    /// Where connections outlive the process.
    pub fdstore: Arc<FdStore>,
    /// The end, when it turns true or its sender is gone.
    pub stop: watch::Receiver<bool>,
}

/// A connection from the service manager's store, with its name there.
pub type Kept = (UnixStream, String);

impl Serving {
    /// Serves the connection in a task of its own, unless its peer is not let in: then it is closed.
    fn start(&self, stream: UnixStream, kept: Option<String>, tasks: &mut Connections) {
        let place = match kept {
            Some(name) => Some(self.fdstore.place_of_kept(name)),
            None => self.fdstore.place(&stream),
        };
        if let Some(ticket) = self.admission.admit(Peer::of(&stream)) {
            let (router, stop) = (Arc::clone(&self.router), self.stop.clone());
            tasks.spawn(connection::run(stream, ticket, place, router, stop));
        }
    }
}

/// The tasks of connections.
type Connections = JoinSet<io::Result<()>>;

/// Answers the peers of connections that outlived another process, whose callers are checked anew.
pub async fn resume(kept: Vec<Kept>, serving: Serving) {
    let mut connections = JoinSet::new();
    for (stream, name) in kept {
        serving.start(stream, Some(name), &mut connections);
    }
    let mut stop = serving.stop;
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

/// The next connection; none ever where nobody listens.
async fn accept(listener: Option<&UnixListener>) -> io::Result<UnixStream> {
    match listener {
        Some(listener) => Ok(listener.accept().await?.0),
        None => pending().await,
    }
}

/// Answers every peer of `listener` until the end. What has arrived by then is still answered.
///
/// When a socket of this process's own is `gone` from its path nobody is accepted any more, and this ends with the last
/// connection.
///
/// `path` is removed at the end, before connections are closed: nobody is to connect to a socket that
/// nobody serves. Without one the socket lives on elsewhere, and who waits there is left to the next
/// process.
pub async fn serve(
    listener: UnixListener,
    mut path: Option<BoundPath>,
    gone: Arc<Notify>,
    serving: Serving,
) {
    let mut listener = Some(listener);
    let mut connections = JoinSet::new();
    let mut stop = serving.stop.clone();
    let failures = Rate::new(1);
    // The most connections since memory was given back.
    let mut crowd = 0;
    loop {
        let accepted = tokio::select! {
            accepted = accept(listener.as_ref()) => accepted,
            // Nobody finds it any more, but who had connected. The path is another's. A socket that was handed over
            // may have its path where this process doesn't see it.
            () = gone.notified(), if path.is_some() => {
                path = None;
                for stream in listener.take().map(backlog).unwrap_or_default() {
                    serving.start(stream, None, &mut connections);
                }
                if connections.is_empty() {
                    return;
                }
                continue;
            }
            // An error means that the sender is gone, which stops too.
            _ = stop.wait_for(|stop| *stop) => break,
            // Collects what ended, so that the set doesn't grow.
            Some(ended) = connections.join_next() => {
                log_ended(ended);
                if listener.is_none() && connections.is_empty() {
                    return;
                }
                let left = connections.len();
                if crowd >= limits::CROWD && left <= crowd / 4 {
                    crowd = left;
                    serving.admission.give_back();
                }
                continue;
            }
        };
        match accepted {
            Ok(stream) => {
                serving.start(stream, None, &mut connections);
                crowd = crowd.max(connections.len());
            }
            Err(error) => {
                if let Some(before) = failures.now() {
                    warn!("can't accept a connection, trying on: {error}{before}");
                }
                sleep(limits::ACCEPT_BACK_OFF).await;
            }
        }
    }
    if let (Some(path), Some(listener)) = (path, listener) {
        if let Err(error) = path.remove() {
            warn!("{error}");
        }
        // Who connected before the end is among those whose requests have arrived.
        for stream in backlog(listener) {
            serving.start(stream, None, &mut connections);
        }
    }
    finish(connections).await;
}

/// Waits for the connections' last answers, for a while.
async fn finish(mut connections: Connections) {
    let rest = async {
        while let Some(ended) = connections.join_next().await {
            log_ended(ended);
        }
    };
    if timeout(limits::LAST_ANSWERS, rest).await.is_err() {
        warn!("a peer did not take its last answers; its connection is closed");
    }
}

/// The connections that wait to be accepted. The kernel is asked, since the runtime may not have heard
/// of the last of them.
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
            static PANICS: Rate = Rate::new(1);
            if let Some(before) = PANICS.now() {
                error!("a bug: a connection's task panicked; the daemon goes on: {error}{before}");
            }
        }
    }
}
