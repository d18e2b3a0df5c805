// SPDX-License-Identifier: Apache-2.0

//! `serve`: the daemon. It binds the sockets, loads the files, and answers requests until it is told to stop.

use std::env;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::bail;
use clap::{Args, ValueEnum};
use offline_fs_kbc::credential::served::Delivery;
use offline_fs_kbc::pulls::Pulls;
use offline_fs_kbc::pulls::puller::Puller;
use offline_fs_kbc::resource::directory;
use offline_fs_kbc::resource::file::Kind;
use offline_fs_kbc::resource::snapshot::Source;
use offline_fs_kbc::resource::store::Store;
use offline_fs_kbc::rpc::report::{self, Report};
use offline_fs_kbc::rpc::sealedsecret::Verification;
use offline_fs_kbc::rpc::{
    attestation, getresource, keyprovider, pull, resource, sealedsecret, unavailable,
};
use offline_fs_kbc::server::admission::Admission;
use offline_fs_kbc::server::fdstore::FdStore;
use offline_fs_kbc::server::limits::LOCK_WAIT;
use offline_fs_kbc::server::listener::{self, Address, BindOutcome};
use offline_fs_kbc::server::method::Method;
use offline_fs_kbc::server::request_log::RequestLog;
use offline_fs_kbc::server::router::Router;
use offline_fs_kbc::server::{Shared, endpoint, notify};
use offline_fs_kbc::watch::Watch;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::{error, info, warn};

use crate::cli::service_status::ServiceStatus;
use crate::cli::socket_activation::Activation;
use crate::config::{self, Choice, Component, Files, Role, Root, Sockets, kbc, tee};
use crate::logging::{self, LogLevel};
use crate::process;
use crate::sys;

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

    /// Serve image keys as resources on cdh.sock, as the stock confidential-data-hub does
    #[arg(long)]
    pub expose_keys: bool,

    /// Open sealed secrets without verifying their signatures
    #[arg(long)]
    pub skip_sealed_secret_verification: bool,

    /// Repair a credential that clients would reject as a whole, and refuse one that can't be repaired
    #[arg(long, value_name = "on|off", default_value = "on")]
    pub repair_credential: Switch,

    /// If no credential is configured, serve one without registries instead of answering NOT_FOUND; only for VMs that never
    /// get one, because clients keep it
    #[arg(long)]
    pub empty_credential: bool,

    #[command(flatten)]
    pub root: Root,

    /// How much to log
    #[arg(long, value_name = "LEVEL", default_value = "info")]
    pub log_level: LogLevel,

    /// The component whose sockets are served by default.
    #[arg(skip)]
    pub component: Component,

    /// The configuration file of confidential-data-hub on a legacy command line, for guest-pull.
    #[arg(skip)]
    pub hub_config: Option<PathBuf>,

    /// What a legacy command line asks for and this program ignores, for the log.
    #[arg(skip)]
    pub warnings: Vec<String>,

    /// What is wrong on a legacy command line, for the log.
    #[arg(skip)]
    pub mistakes: Vec<String>,
}

/// A flag that is on by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// On.
    #[default]
    On,
    /// Off.
    Off,
}

impl Serve {
    /// Runs the daemon. The exit status is 0 after a signal, and if another process answers on every address.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        logging::start(self.log_level);
        process::harden()?;
        process::raise_descriptor_limit();
        let activation = Activation::take();
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?
            .block_on(self.serve(activation))
    }

    async fn serve(self, mut activation: Activation) -> anyhow::Result<ExitCode> {
        info!("offline-fs-kbc {}", env!("CARGO_PKG_VERSION"));
        if !process::lock_memory() {
            warn!(
                "can't lock memory, so secrets may be written to swap; set LimitMEMLOCK=infinity in the \
                 unit, or run `swapoff -a`"
            );
        }
        for warning in &self.warnings {
            warn!("{warning}");
        }
        for mistake in &self.mistakes {
            error!("{mistake}");
        }
        // The signal handlers come first, so that a signal from here on stops the daemon in order.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut hangup = signal(SignalKind::hangup())?;

        let mut sockets = self.sockets.clone();
        let additional = activation.assign_to(&mut sockets);
        let mut addresses = sockets.addresses(&self.root, self.component)?;
        addresses.extend(additional);
        let endpoints = match bind_all(addresses, &mut activation)? {
            Endpoints::ToServe(endpoints) => endpoints,
            Endpoints::AllInUse => return Ok(ExitCode::SUCCESS),
        };

        for mistake in kbc::mismatches(&self.root) {
            error!("{mistake}");
        }
        self.warn_about_switches(&endpoints);
        if self.root.has_swap() {
            warn!("swap is on, and secrets may be written to it; run `swapoff -a`");
        }
        let sources = self.files.sources(&self.root, config::credentials());
        let watched = sources.clone();
        let delivery = Delivery {
            repair: self.repair_credential == Switch::On,
            empty: self.empty_credential,
        };
        let store = Store::with_preparation(sources, move |snapshot| delivery.apply(snapshot));
        let store = Arc::new(store);
        store.refresh();
        let service_status = Arc::new(ServiceStatus::new(Arc::clone(&store), delivery.repair));
        let line = service_status.report();

        let (stop, stopped) = watch::channel(false);
        let admission = Arc::new(Admission::new(process::release_memory));
        let fdstore = Arc::new(FdStore::new(notify::store_size()));
        let request_log = Arc::new(RequestLog::default());
        let pulls = Arc::new(Pulls::default());
        let puller = self.puller(&endpoints)?;
        let summary = Arc::clone(&service_status);
        let report = Arc::new(Report {
            version: env!("CARGO_PKG_VERSION"),
            store: Arc::clone(&store),
            admission: Arc::clone(&admission),
            request_log: Arc::clone(&request_log),
            pulls: Arc::clone(&pulls),
            summary: Box::new(move || summary.summary()),
        });
        let mut tasks = JoinSet::new();
        let watch_path = notify::is_service();
        for (address, roles, outcome) in endpoints {
            let methods = roles
                .iter()
                .flat_map(|&role| self.services(role, &store, &puller, &pulls))
                .chain(report::service(Arc::clone(&report)))
                .collect();
            let refreshed = Arc::clone(&service_status);
            let shared = Shared {
                router: Arc::new(Router::new(methods, Arc::clone(&request_log), move || {
                    refreshed.refresh();
                })),
                admission: Arc::clone(&admission),
                fdstore: Arc::clone(&fdstore),
                stop: stopped.clone(),
            };
            let kept = activation.connections(&address);
            let service_status = Arc::clone(&service_status);
            tasks.spawn(async move {
                let waiting = |waits| service_status.set_waiting(&address, waits);
                endpoint::serve(address.clone(), outcome, watch_path, kept, shared, waiting).await
            });
        }
        activation.close_unserved();
        notify::ready(&line);
        tokio::spawn(process::release_after_start());

        let signals = async {
            loop {
                tokio::select! {
                    _ = terminate.recv() => break,
                    _ = interrupt.recv() => break,
                    _ = hangup.recv() => service_status.reload(),
                }
            }
        };
        let failed = tokio::select! {
            () = signals => None,
            () = notify::keep_alive() => None,
            () = service_status.watch_files(|| watch_over(&watched)) => None,
            // An endpoint ends by itself only if tokio can't register its socket.
            Some(ended) = tasks.join_next() => ended?.err(),
        };
        info!("stopping");
        notify::stopping();
        let _ = stop.send(true);
        while tasks.join_next().await.is_some() {}
        match failed {
            None => Ok(ExitCode::SUCCESS),
            Some(error) => Err(error.into()),
        }
    }

    /// The services on a socket of this role.
    fn services(
        &self,
        role: Role,
        store: &Arc<Store>,
        puller: &Puller,
        pulls: &Arc<Pulls>,
    ) -> Vec<Method> {
        let store = || Arc::clone(store);
        match role {
            Role::GetResource => getresource::service(store()),
            Role::KeyProvider => keyprovider::service(store()),
            Role::Attestation => {
                let root = self.root.clone();
                attestation::service(move || tee::name(&root))
            }
            Role::ConfidentialDataHub => {
                let verification = if self.skips_verification() {
                    Verification::Off
                } else {
                    Verification::On(self.root.sealed_secret_keys())
                };
                let mut services = resource::service(store(), self.expose_keys);
                services.extend(sealedsecret::service(store(), verification));
                services.extend(keyprovider::service(store()));
                services.extend(unavailable::service());
                services.extend(pull::service(puller.clone(), Arc::clone(pulls)));
                services
            }
        }
    }

    /// How guest-pull is reached. Under a service manager it has a unit of its own, since this program's sandbox has no
    /// network; elsewhere this process starts it, from beside its own program.
    fn puller(&self, endpoints: &[Endpoint]) -> anyhow::Result<Puller> {
        let mut hubs = endpoints.iter();
        let Some((hub, ..)) = hubs.find(|(_, roles, _)| roles.contains(&Role::ConfidentialDataHub))
        else {
            return Ok(Puller::default());
        };
        let socket = match &self.sockets.guest_pull_sock {
            Some(Choice::Off) => return Ok(Puller::default()),
            Some(Choice::At(address)) => address.clone(),
            None => self.root.guest_pull_socket()?,
        };
        let program = match env::current_exe() {
            Ok(program) if !notify::is_service() => {
                sys::remove_ended_children();
                let mut args = vec!["serve".into(), "--cdh-sock".into(), hub.to_string().into()];
                if let Some(config) = &self.hub_config {
                    args.extend(["--cdh-config".into(), config.into()]);
                }
                Some((program.with_file_name(GUEST_PULL), args))
            }
            _ => None,
        };
        Ok(Puller {
            socket: Some(socket),
            program,
        })
    }

    /// Whether the signatures of sealed secrets are not verified, by a flag, a configuration file or the
    /// environment.
    fn skips_verification(&self) -> bool {
        let by_environment = env::var(SKIP_VERIFICATION).is_ok_and(|value| value == "true");
        self.skip_sealed_secret_verification || by_environment
    }

    /// Warns of flags that make cdh.sock less safe, or that do nothing because it isn't served.
    fn warn_about_switches(&self, endpoints: &[Endpoint]) {
        let hub = |(_, roles, _): &Endpoint| roles.contains(&Role::ConfidentialDataHub);
        match (endpoints.iter().any(hub), self.expose_keys) {
            (true, true) => warn!("image keys are served as resources on cdh.sock (--expose-keys)"),
            (false, true) => warn!("--expose-keys has no effect without cdh.sock (--cdh-sock)"),
            (_, false) => {}
        }
        if endpoints.iter().any(hub) && self.skips_verification() {
            warn!("sealed secrets are opened without verifying their signatures");
        }
    }
}

/// The environment variable by which the stock confidential-data-hub skips verification.
const SKIP_VERIFICATION: &str = "SKIP_SEALED_SECRET_VERIFICATION";

/// The name of the image puller's program.
const GUEST_PULL: &str = "guest-pull";

/// An address, its roles, and the result of the attempt to bind it.
type Endpoint = (Address, Vec<Role>, BindOutcome);

/// The addresses to serve.
enum Endpoints {
    /// Those that this process has bound, and those that it waits for.
    ToServe(Vec<Endpoint>),
    /// None: another process answers on each address.
    AllInUse,
}

/// A watch on the sources' files, and on everything in the sources that are directories.
fn watch_over(sources: &[Source]) -> io::Result<Watch> {
    let paths = sources.iter().map(|source| source.path.clone()).collect();
    let directories = sources
        .iter()
        .filter(|source| source.kind == Kind::Directory);
    let directories: Vec<_> = directories.map(|source| source.path.clone()).collect();
    Watch::new(paths, move || {
        let lists = directories
            .iter()
            .filter_map(|path| directory::list(path).ok());
        lists.flat_map(|list| list.directories).collect()
    })
}

/// Exists if systemd is the service manager: sd_booted(3).
const SYSTEMD_RUNS: &str = "/run/systemd/system";

/// Binds each address on its own. If another process answers on one, a copy that systemd started waits for it, and a
/// copy started by hand or by kata-agent leaves it alone.
fn bind_all(
    addresses: Vec<(Address, Vec<Role>)>,
    activation: &mut Activation,
) -> anyhow::Result<Endpoints> {
    let is_service = notify::is_service();
    let mut endpoints = Vec::new();
    let mut failed = false;
    for (address, roles) in addresses {
        if let Some(bound) = activation.listener(&address) {
            info!("listening on {address}, a socket from the service manager");
            endpoints.push((address, roles, BindOutcome::Bound(bound)));
            continue;
        }
        match listener::bind(&address, LOCK_WAIT) {
            Ok(outcome @ BindOutcome::Bound(_)) => {
                info!("listening on {address}");
                endpoints.push((address, roles, outcome));
            }
            Ok(outcome @ BindOutcome::InUse(_)) => {
                let who = match outcome.peer_pid() {
                    // The credentials of a socket are those of the process that made it, whoever accepts.
                    Some(1) if Path::new(SYSTEMD_RUNS).exists() => {
                        "the service manager listens there for a socket unit (pid 1)".to_owned()
                    }
                    Some(pid) => format!("pid {pid} answers there"),
                    None => "another process answers there".to_owned(),
                };
                if is_service {
                    info!("{address}: {who}; waiting to take over");
                    endpoints.push((address, roles, outcome));
                } else {
                    info!("{address}: {who}; not serving it");
                }
            }
            Err(error) => {
                error!("{error}");
                failed = true;
            }
        }
    }
    match (endpoints.is_empty(), failed) {
        (false, _) => Ok(Endpoints::ToServe(endpoints)),
        (true, false) => {
            info!("other processes answer on all addresses; exiting");
            Ok(Endpoints::AllInUse)
        }
        (true, true) => bail!("can't serve any address; the errors are above"),
    }
}
