// SPDX-License-Identifier: Apache-2.0

//! `serve`: one pull for the daemon.

use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use guest_pull::limits;
use guest_pull::serve::{self, Options};

use crate::cli::Daemon;

/// Serve one request of the daemon: PullImage, which comes on standard input
///
/// Standard input is a connected unix socket: of the daemon, or of a socket unit with Accept=yes. The image is mounted at
/// rootfs in the bundle that the request names. If the caller closes the connection before it has the answer, nothing is
/// mounted.
#[derive(Args)]
pub struct Serve {
    #[command(flatten)]
    daemon: Daemon,

    /// Where the layers are kept [default: work_dir of the configuration]
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
}

impl Serve {
    /// Serves the request.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        let store = self.store.map(std::path::absolute).transpose()?;
        let options = Options {
            daemon: self.daemon.cdh_sock,
            config: self.daemon.cdh_config,
            store,
            // The program itself, even if its file was replaced.
            worker: "/proc/self/exe".into(),
        };
        limits::set();
        serve::run(stream, &options)?;
        Ok(ExitCode::SUCCESS)
    }
}
