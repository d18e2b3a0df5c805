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
use crate::server::listener::{self, Address, Bound, Claim, Mark};
use crate::server::{Kept, Serving};
use crate::watch::Watch;

/// Serves `address` until the end. While another process answers there, it waits, and takes over when that
/// process is gone. Connections in `kept`, from the descriptor store, are served at once.
///
/// If `vigilant`, it also notices when its path is removed, as kata-agent does before it starts a copy: it
/// goes on serving the connections that it has, and waits to bind the address again.
///
/// `waiting` is called at each change with whether it waits.
///
/// # Errors
///
/// If tokio can't register the socket.
pub async fn serve(
    address: Address,
    first: Claim,
    vigilant: bool,
    kept: Vec<Kept>,
    serving: Serving,
    waiting: impl Fn(bool),
) -> io::Result<()> {
    let mut stop = serving.stop.clone();
    let mut tasks = JoinSet::new();
    if !kept.is_empty() {
        tasks.spawn(super::resume(kept, serving.clone()));
    }
    let mut claim = first;
    loop {
        let bound = match claim {
            Claim::Bound(bound) => bound,
            Claim::Live(holder) => {
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
        let serve = super::serve(listener, bound.path, Arc::clone(&gone), serving.clone());
        tasks.spawn(serve);
        tokio::select! {
            () = lost(&bound.mark), if vigilant => gone.notify_one(),
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
        claim = match listener::claim(&address, Duration::ZERO) {
            Ok(claim) => claim,
            Err(_) => tokio::select! {
                bound = take_over(&address, None) => Claim::Bound(bound),
                _ = stop.wait_for(|stop| *stop) => break,
            },
        };
    }
    while tasks.join_next().await.is_some() {}
    Ok(())
}

/// Waits until the path no longer leads to the socket that was bound there.
async fn lost(mark: &Mark) {
    let mut watch = Watch::new(vec![mark.path().to_owned()], Vec::new).ok();
    while mark.is_there() {
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
async fn take_over(address: &Address, mut holder: Option<UnixStream>) -> Bound {
    let mut said = None;
    loop {
        // The end of the other process shows at once. That its path was removed shows only when it is
        // checked.
        let next = Instant::now() + TAKE_OVER_PAUSE;
        match holder.take() {
            Some(holder) => drop(timeout_at(next, end_of(holder)).await),
            None => sleep_until(next).await,
        }
        match listener::claim(address, Duration::ZERO) {
            Ok(Claim::Bound(bound)) => return bound,
            // The other process may have closed this connection and still run.
            Ok(Claim::Live(stream)) => {
                holder = Some(stream);
                sleep_until(next).await;
            }
            Err(failure) => {
                let failure = failure.to_string();
                if said.as_ref() != Some(&failure) {
                    error!("{failure}");
                }
                said = Some(failure);
            }
        }
    }
}

/// Waits until the other end closes the connection. No request is sent on it.
async fn end_of(stream: UnixStream) {
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
