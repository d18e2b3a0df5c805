// SPDX-License-Identifier: Apache-2.0

//! One address for as long as the daemon runs: waited for while another process answers there, then
//! served.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::AsyncReadExt as _;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout_at};
use tracing::{error, info};

use crate::server::limits::TAKE_OVER_PAUSE;
use crate::server::listener::{self, Address, Bound, Claim};
use crate::server::router::Router;

/// Serves `address` until `stop` turns true. While another process answers there it waits, and takes
/// over when that one is gone.
///
/// `waiting` is told whether it waits, at the beginning and at each change.
///
/// # Errors
///
/// Where the socket can't be handed to the runtime.
pub async fn serve(
    address: Address,
    first: Claim,
    router: Arc<Router>,
    mut stop: watch::Receiver<bool>,
    waiting: impl Fn(bool),
) -> io::Result<()> {
    let bound = match first {
        Claim::Bound(bound) => bound,
        Claim::Live(holder) => {
            waiting(true);
            tokio::select! {
                bound = take_over(&address, holder) => {
                    info!("listening on {address}, which the other process has left");
                    bound
                }
                // An error means that the sender is gone, which stops too.
                _ = stop.wait_for(|stop| *stop) => return Ok(()),
            }
        }
    };
    waiting(false);
    let listener = UnixListener::from_std(bound.listener)?;
    super::serve(listener, Some(bound.path), router, stop).await;
    Ok(())
}

/// Waits until nobody else answers on the address, and takes it.
async fn take_over(address: &Address, holder: UnixStream) -> Bound {
    let mut holder = Some(holder);
    let mut said = None;
    loop {
        // Their end shows at once; that the path was taken from them, only a look at it.
        let next = Instant::now() + TAKE_OVER_PAUSE;
        match holder.take() {
            Some(holder) => drop(timeout_at(next, end_of(holder)).await),
            None => sleep_until(next).await,
        }
        match listener::claim(address, Duration::ZERO) {
            Ok(Claim::Bound(bound)) => return bound,
            // The end of a connection need not be the end of the process.
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

/// Waits until the other end closes the connection, on which nothing is asked.
async fn end_of(stream: UnixStream) {
    let wait = async {
        stream.set_nonblocking(true)?;
        let mut stream = tokio::net::UnixStream::from_std(stream)?;
        let mut buffer = [0; 64];
        while stream.read(&mut buffer).await? > 0 {}
        io::Result::Ok(())
    };
    // However it ends, the next attempt shows what is so.
    let _ = wait.await;
}
