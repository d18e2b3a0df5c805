// SPDX-License-Identifier: Apache-2.0

//! Sockets, frames and peers: who calls, how many, and in which order they are answered.
//!
//! It calls what ttrpc's code generator makes of a service, and knows nothing of what is served.

pub mod admission;
pub mod call;
pub mod connection;
pub mod endpoint;
pub mod limits;
pub mod listener;
pub mod notify;
pub mod peer;
pub mod router;

use std::io;
use std::sync::Arc;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::server::admission::Admission;
use crate::server::listener::BoundPath;
use crate::server::peer::Peer;
use crate::server::router::Router;

/// Answers every peer of `listener` by `router` until `stop` turns true or its sender is gone. What
/// has arrived by then is still answered.
///
/// `path` is removed at the end, before connections are closed: nobody is to connect to a socket that
/// nobody serves.
pub async fn serve(
    listener: UnixListener,
    path: Option<BoundPath>,
    router: Arc<Router>,
    admission: Arc<Admission>,
    stop: watch::Receiver<bool>,
) {
    let start = |stream: UnixStream, connections: &mut JoinSet<_>| {
        // Who is not let in is closed.
        if let Some(ticket) = admission.admit(Peer::of(&stream)) {
            connections.spawn(connection::run(
                stream,
                ticket,
                Arc::clone(&router),
                stop.clone(),
            ));
        }
    };
    let mut connections = JoinSet::new();
    let mut stopping = stop.clone();
    let mut failing = false;
    // The most connections since memory was given back.
    let mut crowd = 0;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // An error means that the sender is gone, which stops too.
            _ = stopping.wait_for(|stop| *stop) => break,
            // Collects what ended, so that the set doesn't grow.
            Some(ended) = connections.join_next() => {
                log_ended(ended);
                let left = connections.len();
                if crowd >= limits::CROWD && left <= crowd / 4 {
                    crowd = left;
                    admission.give_back();
                }
                continue;
            }
        };
        match accepted {
            Ok((stream, _)) => {
                failing = false;
                start(stream, &mut connections);
                crowd = crowd.max(connections.len());
            }
            Err(error) => {
                // Said once until it works again: at the descriptor limit every attempt fails.
                if !failing {
                    warn!("can't accept a connection, trying on: {error}");
                }
                failing = true;
                sleep(limits::ACCEPT_BACK_OFF).await;
            }
        }
    }
    if let Some(Err(error)) = path.map(BoundPath::remove) {
        warn!("{error}");
    }
    // Who connected before the end is among those whose requests have arrived.
    for stream in backlog(listener) {
        start(stream, &mut connections);
    }
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
        Err(error) => warn!("connection ended: {error}"),
    }
}
