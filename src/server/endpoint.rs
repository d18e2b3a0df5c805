// SPDX-License-Identifier: Apache-2.0

//! One address for as long as the daemon runs: it waits while another process answers there, then serves it.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::UnixListener;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};
use tracing::{error, info};

use crate::server::limits::{PATH_CHECK, PATH_GONE_PAUSE, TAKE_OVER_PAUSE, WATCHED_PATH_CHECK};
use crate::server::listener::{self, Address, BindOutcome, BoundSocket, SocketFile};
use crate::server::{Shared, StoredConnection};
use crate::watch::Watch;

/// Serves `address` until the end. While another process answers there, it waits, and takes over when that
/// process is gone. Connections in `kept`, from the descriptor store, are served at once.
///
/// If `watch_path`, it also notices when its path is removed, as kata-agent does before it starts a copy: it
/// goes on serving the connections that it has, and waits to bind the address again.
///
/// `waiting` is called at each change with whether it waits.
///
/// # Errors
///
/// If tokio can't register the socket.
pub async fn serve(
    address: Address,
    first: BindOutcome,
    watch_path: bool,
    kept: Vec<StoredConnection>,
    shared: Shared,
    waiting: impl Fn(bool),
) -> io::Result<()> {
    let mut stop = shared.stop.clone();
    let mut tasks = JoinSet::new();
    if !kept.is_empty() {
        tasks.spawn(super::resume(kept, shared.clone()));
    }
    let mut outcome = first;
    loop {
        let bound = match outcome {
            BindOutcome::Bound(bound) => bound,
            BindOutcome::InUse(holder) => {
                waiting(true);
                tokio::select! {
                    bound = take_over(&address, Some(holder)) => {
                        info!("listening on {address}: the other process is gone");
                        bound
                    }
                    // An error means that the sender was dropped, which stops too.
                    _ = stop.wait_for(|stop| *stop) => break,
                }
            }
        };
        waiting(false);
        let listener = UnixListener::from_std(bound.listener)?;
        let gone = Arc::new(Notify::new());
        let serve = super::serve(listener, bound.path, Arc::clone(&gone), shared.clone());
        tasks.spawn(serve);
        tokio::select! {
            () = path_removed(&bound.socket_file), if watch_path => gone.notify_one(),
            _ = stop.wait_for(|stop| *stop) => break,
        }
        info!(
            "{address}: the path was removed; open connections are served, waiting to bind it again"
        );
        // Whoever removed the path is about to bind it.
        tokio::select! {
            () = sleep(PATH_GONE_PAUSE) => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
        outcome = match listener::bind(&address, Duration::ZERO) {
            Ok(outcome) => outcome,
            Err(_) => tokio::select! {
                bound = take_over(&address, None) => BindOutcome::Bound(bound),
                _ = stop.wait_for(|stop| *stop) => break,
            },
        };
    }
    while tasks.join_next().await.is_some() {}
    Ok(())
}

/// Waits until the path no longer leads to the socket that was bound there.
async fn path_removed(socket_file: &SocketFile) {
    let mut watch = Watch::new(vec![socket_file.path().to_owned()], Vec::new).ok();
    while socket_file.is_in_place() {
        match &mut watch {
            // The watch does not see changes further up, such as a parent directory that is renamed or
            // mounted over.
            Some(seen) => {
                if let Ok(Err(_)) = timeout(WATCHED_PATH_CHECK, seen.changed()).await {
                    watch = None;
                }
            }
            None => sleep(PATH_CHECK).await,
        }
    }
}

/// Waits until no other process answers on the address, then binds it.
async fn take_over(address: &Address, mut holder: Option<UnixStream>) -> BoundSocket {
    let mut logged = None;
    loop {
        // The end of the other process shows at once. That its path was removed shows only when it is
        // checked.
        let next = Instant::now() + TAKE_OVER_PAUSE;
        match holder.take() {
            Some(holder) => drop(timeout_at(next, closed_by_peer(holder)).await),
            None => sleep_until(next).await,
        }
        match listener::bind(address, Duration::ZERO) {
            Ok(BindOutcome::Bound(bound)) => return bound,
            // The other process may have closed this connection and still run.
            Ok(BindOutcome::InUse(stream)) => {
                holder = Some(stream);
                sleep_until(next).await;
            }
            Err(failure) => {
                let failure = failure.to_string();
                if logged.as_ref() != Some(&failure) {
                    error!("{failure}");
                }
                logged = Some(failure);
            }
        }
    }
}

/// Waits until the other end closes the connection. No request is sent on it.
async fn closed_by_peer(stream: UnixStream) {
    let wait = async {
        stream.set_nonblocking(true)?;
        let mut stream = tokio::net::UnixStream::from_std(stream)?;
        let mut buffer = [0; 64];
        while stream.read(&mut buffer).await? > 0 {}
        io::Result::Ok(())
    };
    // Whatever the result is, the next attempt to bind shows the state.
    let _ = wait.await;
}
