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
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{error, info};

use crate::server::limits::{
    PATH_CHECK, PATH_GONE_PAUSE, TAKE_OVER_LOCK_WAIT, TAKE_OVER_MAX_PAUSE, TAKE_OVER_PAUSE,
    WATCHED_PATH_CHECK,
};
use crate::server::listener::{self, Address, BindOutcome, BoundSocket, Holder, SocketFile};
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

/// Waits until the path no longer leads to this socket.
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
///
/// While the connection to the other process stays open and the path leads to the same socket, nothing is tried:
/// each attempt is a connection that the other process must accept. A process whose idle connections are in the
/// service manager's store (as this program's are) does not close them when it is killed; but then it is started
/// again, and if it is not, the service manager closes them. When it ends in order, it removes the path.
async fn take_over(address: &Address, mut holder: Option<Holder>) -> BoundSocket {
    let mut logged = None;
    let mut pause = TAKE_OVER_PAUSE;
    loop {
        let last = Instant::now();
        let pause_ends = sleep_until(last + pause);
        pause = TAKE_OVER_MAX_PAUSE.min(pause * 2);
        match holder.take() {
            Some(Holder {
                connection,
                socket_file,
            }) => {
                let ended = async {
                    closed_by_peer(connection).await;
                    let open_for = last.elapsed();
                    pause_ends.await;
                    open_for
                };
                let start_over = tokio::select! {
                    open_for = ended => open_for > TAKE_OVER_MAX_PAUSE,
                    () = path_removed(&socket_file) => true,
                };
                // Long pauses are for a process that soon closes each connection.
                if start_over {
                    pause = TAKE_OVER_PAUSE;
                }
            }
            None => pause_ends.await,
        }
        match listener::bind(address, TAKE_OVER_LOCK_WAIT) {
            Ok(BindOutcome::Bound(bound)) => return bound,
            Ok(BindOutcome::InUse(other)) => holder = Some(other),
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
