// SPDX-License-Identifier: Apache-2.0

//! `serve`: the daemon. Binds first, loads second, then answers until it is told to stop.

use std::collections::{BTreeSet, HashMap};
use std::env;
use std::io;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::bail;
use clap::Args;
use offline_fs_kbc::rate::{self, Rate};
use offline_fs_kbc::resource::store::{LOGGED_PROBLEMS, Store};
use offline_fs_kbc::resource::watch::Watch;
use offline_fs_kbc::rpc::sealedsecret::Verification;
use offline_fs_kbc::rpc::{
    attestation, getresource, keyprovider, resource, sealedsecret, unavailable,
};
use offline_fs_kbc::server::admission::Admission;
use offline_fs_kbc::server::keep::Keep;
use offline_fs_kbc::server::limits::LOCK_WAIT;
use offline_fs_kbc::server::listener::{self, Address, Claim};
use offline_fs_kbc::server::router::Router;
use offline_fs_kbc::server::{Serving, endpoint, notify};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{error, info, warn};
use ttrpc::asynchronous::Service;

use crate::cli::findings;
use crate::cli::inherited::Inherited;
use crate::config::{Component, Files, Role, Root, Sockets, kbc};
use crate::logging::{self, LogLevel};
use crate::process;

/// What `--help` and the manual show at the end.
const EXAMPLE: &str = "Example:
  offline-fs-kbc serve --log-level debug
  offline-fs-kbc serve --root /tmp/try --resources resources.json";

/// Serve the resources until SIGTERM or SIGINT; SIGHUP reloads every file
#[derive(Args, Default)]
#[command(after_help = EXAMPLE)]
pub struct Serve {
    #[command(flatten)]
    pub files: Files,

    #[command(flatten)]
    pub sockets: Sockets,

    /// Hand out image keys as resources on cdh.sock, as the stock confidential-data-hub does
    #[arg(long)]
    pub expose_keys: bool,

    /// Open sealed secrets without verifying their signatures
    #[arg(long)]
    pub skip_sealed_secret_verification: bool,

    #[command(flatten)]
    pub root: Root,

    /// How much to log
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: LogLevel,

    /// Which component's sockets are served by default.
    #[arg(skip)]
    pub component: Component,

    /// What the command line asks for and doesn't get, for the log.
    #[arg(skip)]
    pub warnings: Vec<String>,

    /// What on the command line can't be right, for the log.
    #[arg(skip)]
    pub mistakes: Vec<String>,
}

impl Serve {
    /// Serves. The exit status is 0 after a signal, and where another process answers on every
    /// address already.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        logging::start(self.log_level);
        process::seclude()?;
        process::raise_descriptor_limit();
        let inherited = Inherited::take();
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(self.serve(inherited))
    }

    async fn serve(self, mut inherited: Inherited) -> anyhow::Result<ExitCode> {
        info!("offline-fs-kbc {}", env!("CARGO_PKG_VERSION"));
        if !process::lock_memory() {
            warn!(
                "memory can't be locked, and may be written to swap; set LimitMEMLOCK=infinity in the \
                 unit, or `swapoff -a`"
            );
        }
        for warning in &self.warnings {
            warn!("{warning}");
        }
        for mistake in &self.mistakes {
            error!("{mistake}");
        }
        // Handlers first: a signal that comes from here on ends the daemon in order.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;

        let mut sockets = self.sockets.clone();
        let beyond = inherited.choose(&mut sockets);
        let mut addresses = sockets.addresses(&self.root, self.component)?;
        addresses.extend(beyond);
        let claims = match claim(addresses, &mut inherited)? {
            Claims::Ours(claims) => claims,
            Claims::AllLive => return Ok(ExitCode::SUCCESS),
        };

        for mistake in kbc::mismatches(&self.root) {
            error!("{mistake}");
        }
        self.warn_about_switches(&claims);
        if self.root.has_swap() {
            warn!("swap is active, and secrets may be written to it; `swapoff -a`");
        }
        let sources = self.files.sources(&self.root);
        // Before the first load, so that no change after it is missed.
        let watch = Watch::new(sources.iter().map(|source| source.path.clone()).collect());
        let store = Arc::new(Store::new(sources));
        store.refresh();
        let status = Arc::new(Status::new(Arc::clone(&store)));
        let line = status.look();

        let (stop, stopped) = watch::channel(false);
        let admission = Arc::new(Admission::new(process::give_back));
        let keep = Arc::new(Keep::new(notify::store_size()));
        let mut endpoints = JoinSet::new();
        let vigilant = notify::is_unit();
        for (address, roles, claim) in claims {
            let services = roles
                .iter()
                .flat_map(|&role| self.services(role, &store))
                .collect();
            let refreshed = Arc::clone(&status);
            let serving = Serving {
                router: Arc::new(Router::new(services, move || refreshed.refresh())),
                admission: Arc::clone(&admission),
                keep: Arc::clone(&keep),
                stop: stopped.clone(),
            };
            let kept = inherited.connections(&address);
            let status = Arc::clone(&status);
            endpoints.spawn(async move {
                let waiting = |waits| status.waiting(&address, waits);
                endpoint::serve(address.clone(), claim, vigilant, kept, serving, waiting).await
            });
        }
        inherited.close_rest();
        notify::ready(&line);

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
            () = status.follow(watch) => None,
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

    /// What is asked on a role's socket.
    fn services(&self, role: Role, store: &Arc<Store>) -> HashMap<String, Service> {
        let store = || Arc::clone(store);
        match role {
            Role::GetResource => getresource::service(store()),
            Role::KeyProvider => keyprovider::service(store()),
            Role::Attestation => attestation::service(),
            Role::ConfidentialDataHub => {
                let verification = if self.skips_verification() {
                    Verification::Off
                } else {
                    Verification::On(self.root.sealed_secret_keys())
                };
                let mut services = resource::service(store(), self.expose_keys);
                services.extend(sealedsecret::service(store(), verification));
                services.extend(keyprovider::service(store()));
                services.extend(unavailable::services());
                services
            }
        }
    }

    /// Whether sealed secrets' signatures don't count, by the flag, a file or the environment.
    fn skips_verification(&self) -> bool {
        let by_environment = env::var(SKIP_VERIFICATION).is_ok_and(|value| value == "true");
        self.skip_sealed_secret_verification || by_environment
    }

    /// Says which switches of cdh.sock weaken it, or do nothing because it isn't served.
    fn warn_about_switches(&self, claims: &[Claimed]) {
        let hub = |(_, roles, _): &Claimed| roles.contains(&Role::ConfidentialDataHub);
        match (claims.iter().any(hub), self.expose_keys) {
            (true, true) => warn!("image keys are handed out as resources on cdh.sock"),
            (false, true) => warn!("--expose-keys does nothing without cdh.sock (--cdh-sock)"),
            (_, false) => {}
        }
        if claims.iter().any(hub) && self.skips_verification() {
            warn!("sealed secrets are opened without verifying their signatures");
        }
    }
}

/// The environment variable of the stock confidential-data-hub.
const SKIP_VERIFICATION: &str = "SKIP_SEALED_SECRET_VERIFICATION";

/// An address, what is asked there, and what became of the attempt to take it.
type Claimed = (Address, Vec<Role>, Claim);

/// What there is to serve.
enum Claims {
    /// What this process has bound, and what it waits for.
    Ours(Vec<Claimed>),
    /// Nothing: another process answers everywhere.
    AllLive,
}

/// Takes each address on its own. What another process answers on is left to it: the unit's instance
/// waits for it, a copy started by hand or by kata-agent does not.
fn claim(
    addresses: Vec<(Address, Vec<Role>)>,
    inherited: &mut Inherited,
) -> anyhow::Result<Claims> {
    let is_unit = notify::is_unit();
    let mut claims = Vec::new();
    let mut failed = false;
    for (address, roles) in addresses {
        if let Some(bound) = inherited.listener(&address) {
            info!("listening on {address}, by the service manager's socket");
            claims.push((address, roles, Claim::Bound(bound)));
            continue;
        }
        match listener::claim(&address, LOCK_WAIT) {
            Ok(claim @ Claim::Bound(_)) => {
                info!("listening on {address}");
                claims.push((address, roles, claim));
            }
            Ok(claim @ Claim::Live(_)) => {
                let who = match claim.holder() {
                    Some(pid) => format!("pid {pid}"),
                    None => "another process".to_owned(),
                };
                if is_unit {
                    info!("{address}: {who} answers there; waiting to take over");
                    claims.push((address, roles, claim));
                } else {
                    info!("{address}: {who} answers there; it is left to that one");
                }
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
    logged: Mutex<BTreeSet<String>>,
    /// What the service manager was told last.
    said: Mutex<String>,
    /// How often either is said.
    rate: Rate,
    /// Whether there is news that was not said, since there is too much of it.
    behind: AtomicBool,
}

impl Status {
    fn new(store: Arc<Store>) -> Self {
        Self {
            store,
            waiting: Mutex::default(),
            logged: Mutex::default(),
            said: Mutex::default(),
            rate: Rate::new(rate::CHANGES),
            behind: AtomicBool::new(false),
        }
    }

    /// Brings the store up to date before requests are answered.
    fn refresh(&self) {
        if self.store.refresh() || self.behind.load(Ordering::Relaxed) {
            self.say();
        }
    }

    fn is_behind(&self) -> bool {
        self.store.is_behind() || self.behind.load(Ordering::Relaxed)
    }

    fn reload(&self) {
        notify::reloading();
        info!("reloading every file");
        self.store.reload();
        notify::ready(&self.look());
    }

    /// Looks at the files when something happens to them, for the log and the service manager. Never
    /// ends.
    async fn follow(&self, watch: io::Result<Watch>) {
        let lost = match watch {
            Ok(mut watch) => loop {
                // A while after the last change there is room to say what there was no room for.
                let looked = match self.is_behind() {
                    true => timeout(rate::PERIOD, watch.changed())
                        .await
                        .unwrap_or(Ok(())),
                    false => watch.changed().await,
                };
                match looked {
                    Ok(()) => self.refresh(),
                    Err(error) => break error,
                }
            },
            Err(error) => error,
        };
        info!("changes of the files are logged when somebody asks, not before: no watch: {lost}");
        std::future::pending().await
    }

    fn waiting(&self, address: &Address, waits: bool) {
        let changed = if waits {
            lock(&self.waiting).insert(address.to_string())
        } else {
            lock(&self.waiting).remove(&address.to_string())
        };
        if changed {
            self.say();
        }
    }

    /// Logs and tells the service manager how it stands, if that is news.
    fn say(&self) {
        let (line, found) = self.state();
        let news = *lock(&self.said) != line || !found.is_subset(&lock(&self.logged));
        let left_out = news && self.rate.now().is_none();
        self.behind.store(left_out, Ordering::Relaxed);
        if news && !left_out {
            notify::status(&line);
            self.log(line, found);
        }
    }

    /// How it stands, for the service manager at a start or a reload; it is logged.
    fn look(&self) -> String {
        let (line, found) = self.state();
        self.log(line.clone(), found);
        line
    }

    /// A line for the service manager, and what is wrong with the content of what was loaded.
    fn state(&self) -> (String, BTreeSet<String>) {
        let snapshot = self.store.snapshot();
        let found = findings::of_content(&snapshot);
        let mut line = findings::summary(&snapshot, found.len());
        for address in lock(&self.waiting).iter() {
            line.push_str(&format!(
                "; waiting for {address}, where another process answers"
            ));
        }
        (line, found.into_iter().collect())
    }

    /// Logs what is newly wrong with the content; the store logs the rest.
    fn log(&self, line: String, found: BTreeSet<String>) {
        let mut logged = lock(&self.logged);
        for finding in found.difference(&logged).take(LOGGED_PROBLEMS) {
            error!("{finding}");
        }
        *logged = found;
        *lock(&self.said) = line;
    }
}

/// The lock; a thread that panicked in it, which none does, leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
