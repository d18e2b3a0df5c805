// SPDX-License-Identifier: Apache-2.0

//! Asking a running daemon.

use std::future::Future;
use std::io;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use anyhow::{anyhow, bail};
use offline_fs_kbc::server::listener::Address;
use tokio::time::timeout;
use ttrpc::asynchronous::Client;

/// How long the daemon may take: the deadline that clients had for most of 2023.
const DEADLINE: Duration = Duration::from_secs(10);

/// Calls the daemon at `address`.
///
/// # Errors
///
/// Where nobody answers there, or by a refusal; the text says which.
pub fn call<T, F>(
    address: &Address,
    call: impl FnOnce(Client, ttrpc::context::Context) -> F,
) -> anyhow::Result<T>
where
    F: Future<Output = ttrpc::Result<T>>,
{
    // The client's own error would not tell these apart.
    if let Err(error) = UnixStream::connect(address.path()) {
        let what = match error.kind() {
            io::ErrorKind::NotFound => {
                "there is no socket; `systemctl start offline-fs-kbc` starts the daemon"
            }
            io::ErrorKind::PermissionDenied => "only root may connect",
            _ => "nobody answers; `systemctl status offline-fs-kbc` shows the daemon",
        };
        return Err(anyhow!(error).context(format!("{address}: {what}")));
    }
    let context = ttrpc::context::with_timeout(DEADLINE.as_nanos() as i64);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let answer = async {
            let client = Client::connect(&address.to_string()).await?;
            call(client, context).await
        };
        match timeout(DEADLINE, answer).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(ttrpc::Error::RpcStatus(status))) => {
                bail!("{address} answers {:?}: {}", status.code(), status.message)
            }
            Ok(Err(error)) => Err(anyhow!("{error}").context(format!("no answer from {address}"))),
            Err(_) => bail!("no answer from {address} within {} s", DEADLINE.as_secs()),
        }
    })
}
