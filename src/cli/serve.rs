// SPDX-License-Identifier: Apache-2.0

//! `serve`: the daemon. Binds first, loads second, then answers until it is told to stop.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::bail;
use clap::Args;
use offline_fs_kbc::resource::store::Store;
use offline_fs_kbc::rpc::getresource;
use offline_fs_kbc::server::listener::{self, Address, Claim};
use offline_fs_kbc::server::router::Router;
use offline_fs_kbc::server::{endpoint, notify};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::cli::findings;
use crate::config::{Files, Root};
use crate::logging::{self, LogLevel};

/// Serve the resources until SIGTERM or SIGINT; SIGHUP reloads every file
#[derive(Args, Default)]
pub struct Serve {
    #[command(flatten)]
    pub files: Files,

    /// Address of getresource.sock
    /// [default: unix:///run/confidential-containers/attestation-agent/getresource.sock]
    #[arg(long, value_name = "ADDR")]
    pub getresource_sock: Option<Address>,

    #[command(flatten)]
    pub root: Root,

    /// How much to log
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: LogLevel,

    /// What the command line asks for and doesn't get, for the log.
    #[arg(skip)]
    pub warnings: Vec<String>,
}

impl Serve {
    /// Adds what is said as soon as there is a log.
    pub fn warn(&mut self, warning: String) {
        self.warnings.push(warning);
    }

    /// Serves. The exit status is 0 after a signal, and where another process answers on every
    /// address already.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        logging::start(self.log_level);
        crate::process::seclude()?;
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(self.serve())
    }

    async fn serve(self) -> anyhow::Result<ExitCode> {
        info!("offline-fs-kbc {}", env!("CARGO_PKG_VERSION"));
        for warning in &self.warnings {
            warn!("{warning}");
        }
        // Handlers first: a signal that comes from here on ends the daemon in order.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;

        let address = match self.getresource_sock {
            Some(address) => address,
            None => self.root.getresource_sock()?,
        };
        let claims = match claim(vec![address])? {
            Claims::Ours(claims) => claims,
            Claims::AllLive => return Ok(ExitCode::SUCCESS),
        };

        let store = Arc::new(Store::new(self.files.sources(&self.root)));
        store.refresh();
        let status = Arc::new(Status::new(store));
        status.log();
        let router = {
            let status = Arc::clone(&status);
            let services = getresource::service(Arc::clone(&status.store));
            Arc::new(Router::new(services, move || status.refresh()))
        };

        let (stop, stopped) = watch::channel(false);
        let mut endpoints = JoinSet::new();
        for (address, claim) in claims {
            let (router, stopped) = (Arc::clone(&router), stopped.clone());
            let status = Arc::clone(&status);
            endpoints.spawn(async move {
                let waiting = |waits| status.waiting(&address, waits);
                endpoint::serve(address.clone(), claim, router, stopped, waiting).await
            });
        }
        notify::ready(&status.line());

        let signals = async {
            loop {
                tokio::select! {
                    _ = terminate.recv() => break,
                    _ = interrupt.recv() => break,
                    _ = hangup.recv() => status.reload(),
                }
            }
        };
        let failed = tokio::select! {
            () = signals => None,
            () = notify::keep_alive() => None,
            // An endpoint ends by itself only where the runtime doesn't take its socket.
            Some(ended) = endpoints.join_next() => ended?.err(),
        };
        info!("stopping");
        notify::stopping();
        let _ = stop.send(true);
        while endpoints.join_next().await.is_some() {}
        match failed {
            None => Ok(ExitCode::SUCCESS),
            Some(error) => Err(error.into()),
        }
    }
}

/// What there is to serve.
enum Claims {
    /// What this process has bound, and what it waits for.
    Ours(Vec<(Address, Claim)>),
    /// Nothing: another process answers everywhere.
    AllLive,
}

/// Takes each address on its own. What another process answers on is left to it: the unit's instance
/// waits for it, a copy started by hand or by kata-agent does not.
fn claim(addresses: Vec<Address>) -> anyhow::Result<Claims> {
    let is_unit = notify::is_unit();
    let mut claims = Vec::new();
    let mut failed = false;
    for address in addresses {
        match listener::claim(&address) {
            Ok(claim @ Claim::Bound(_)) => {
                info!("listening on {address}");
                claims.push((address, claim));
            }
            Ok(claim @ Claim::Live(_)) if is_unit => claims.push((address, claim)),
            Ok(Claim::Live(_)) => {
                info!("{address}: another process answers there; it is left to that one");
            }
            Err(error) => {
                error!("{error}");
                failed = true;
            }
        }
    }
    match (claims.is_empty(), failed) {
        (false, _) => Ok(Claims::Ours(claims)),
        (true, false) => {
            info!("nothing left to serve");
            Ok(Claims::AllLive)
        }
        (true, true) => bail!("no address could be served; see above"),
    }
}

/// How the daemon stands, for its log and for the service manager.
struct Status {
    store: Arc<Store>,
    /// The addresses that another process answers on.
    waiting: Mutex<BTreeSet<String>>,
    /// What is wrong with the content and was logged.
    logged: Mutex<Vec<String>>,
}

impl Status {
    fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            waiting: Mutex::default(),
            logged: Mutex::default(),
        }
    }

    /// Brings the store up to date before requests are answered.
    fn refresh(&self) {
        if self.store.refresh() {
            self.log();
            notify::status(&self.line());
        }
    }

    fn reload(&self) {
        notify::reloading();
        info!("reloading every file");
        self.store.reload();
        self.log();
        notify::ready(&self.line());
    }

    fn waiting(&self, address: &Address, waits: bool) {
        let changed = {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if waits {
                waiting.insert(address.to_string())
            } else {
                waiting.remove(&address.to_string())
            }
        };
        if changed {
            notify::status(&self.line());
        }
    }

    /// Logs what is newly wrong with the content of what was loaded; the store logs the rest.
    fn log(&self) {
        let found = findings::of_content(&self.store.snapshot());
        let mut logged = self.logged.lock().unwrap_or_else(PoisonError::into_inner);
        for finding in found.iter().filter(|finding| !logged.contains(finding)) {
            error!("{finding}");
        }
        *logged = found;
    }

    fn line(&self) -> String {
        let mut line = findings::summary(&self.store.snapshot());
        let waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        for address in waiting.iter() {
            line.push_str(&format!(
                "; waiting for {address}, where another process answers"
            ));
        }
        line
    }
}
