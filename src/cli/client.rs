// SPDX-License-Identifier: Apache-2.0

//! One request to a running daemon.

use std::io;
use std::time::Duration;

use anyhow::{anyhow, bail};
use offline_fs_kbc::client::{self, Error};
use offline_fs_kbc::server::listener::Address;
use protobuf::Message;

/// How long the daemon may take: the deadline of most clients of 2023.
const DEADLINE: Duration = Duration::from_secs(10);

/// Calls a method of the daemon at `address`.
///
/// # Errors
///
/// If nobody answers, or the daemon refuses the request; the text says which.
pub fn call<A: Message>(
    address: &Address,
    method: (&str, &str),
    request: &impl Message,
) -> anyhow::Result<A> {
    client::call(address.path(), method, request, DEADLINE).or_else(|error| match error {
        Error::Connect(error) => {
            let what = match error.kind() {
                io::ErrorKind::NotFound => {
                    "there is no socket; `systemctl start offline-fs-kbc` starts the daemon, or in peer pods of today \
                     attestation-agent.service"
                }
                io::ErrorKind::PermissionDenied => "only root may connect",
                io::ErrorKind::WouldBlock => {
                    "the daemon listens but does not answer; is it stopped or too busy?"
                }
                _ => "nobody answers; `systemctl status offline-fs-kbc` shows the daemon",
            };
            Err(anyhow!(error).context(format!("{address}: {what}")))
        }
        Error::Late => bail!("no answer from {address} within {} s", DEADLINE.as_secs()),
        Error::Exchange(error) => {
            Err(anyhow!(error).context(format!("no answer from {address}")))
        }
        Error::Refused(status) => {
            bail!("{address} answers {:?}: {}", status.code(), status.message)
        }
        Error::Decode(error) => {
            Err(anyhow!(error).context(format!("the answer from {address} does not decode")))
        }
    })
}
