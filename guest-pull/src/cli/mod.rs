// SPDX-License-Identifier: Apache-2.0

//! The commands.

mod check;
mod inspect;
mod plan;
mod progress;
mod pull;
mod serve;

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use clap::{Args, Parser, Subcommand, ValueEnum};
use common::auth_json::image::ImageName;
use guest_pull::credential;
use guest_pull::encryption::provider;
use guest_pull::proxy::Proxies;
use guest_pull::pull::LAYERS_AT_ONCE;
use guest_pull::question::{Answer, Question};
use guest_pull::registry::platform::Platform;
use guest_pull::registry::{self, Client, Login, Options};
use guest_pull::store::PullLayers;
use guest_pull::worker::{self, Failure, Kind, Place, Request};
use zeroize::Zeroizing;

/// Pull container images into compressed read-only layers, and mount them
#[derive(Parser)]
#[command(version)]
pub struct Command {
    #[command(subcommand)]
    command: Which,
}

#[derive(Subcommand)]
enum Which {
    Pull(pull::Pull),
    Inspect(inspect::Inspect),
    Plan(plan::Show),
    Check(check::Check),
    Serve(serve::Serve),
    /// Fetch and parse, as the process that has no privileges
    #[command(hide = true)]
    Worker,
}

impl Command {
    /// Runs it.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Which::Pull(pull) => pull.run(),
            Which::Inspect(inspect) => inspect.run(),
            Which::Plan(plan) => plan.run(),
            Which::Check(check) => check.run(),
            Which::Serve(serve) => serve.run(),
            Which::Worker => {
                worker::run()?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The daemon, and the configuration that it shares with guest-pull.
#[derive(Args)]
pub struct Daemon {
    /// The daemon's socket, which has the registry's credential
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "unix:///run/confidential-containers/cdh.sock",
        value_parser = address
    )]
    cdh_sock: PathBuf,

    /// The configuration [default: cdh.toml of the pod's initdata, or of peer pods, else the kernel command line]
    #[arg(long, value_name = "FILE")]
    cdh_config: Option<PathBuf>,
}

/// The path of a socket.
fn address(text: &str) -> Result<PathBuf, String> {
    let path = text
        .strip_prefix("unix://")
        .or_else(|| text.strip_prefix("unix:"))
        .unwrap_or(text);
    match Path::new(path).is_absolute() {
        true => Ok(path.into()),
        false => Err("write it as unix:///PATH".to_owned()),
    }
}

/// The image, and how its registry is asked.
#[derive(Args)]
pub struct Source {
    /// The image: REGISTRY/REPOSITORY:TAG or @DIGEST
    #[arg(value_name = "IMAGE", value_parser = ImageName::parse)]
    image: ImageName,

    /// A containers auth.json with the registry's login
    #[arg(long, value_name = "FILE")]
    auth_file: Option<PathBuf>,

    /// The platform, if the image is for several [default: this machine's]
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = platform)]
    platform: Option<Platform>,

    /// Certificates of the registry's CA in PEM, beside the system's; may be repeated
    #[arg(long, value_name = "FILE")]
    ca_file: Vec<PathBuf>,

    /// Ask the registry without TLS
    #[arg(long)]
    plain_http: bool,
}

fn platform(text: &str) -> Result<Platform, String> {
    Platform::parse(text).ok_or_else(|| "write it as linux/amd64 or linux/arm/v7".to_owned())
}

impl Source {
    /// What the worker is asked for.
    fn request(&self) -> anyhow::Result<Request> {
        let place = Place {
            registry: self.image.registry.clone(),
            repository: self.image.repository.clone(),
            reference: self.reference()?.to_owned(),
            login: self.login()?,
            plain_http: self.plain_http,
            rules: None,
        };
        Ok(Request {
            places: vec![place],
            platform: self.platform(),
            certificates: self.certificates()?,
            proxies: Proxies::default(),
            layers_at_once: LAYERS_AT_ONCE,
            only_verify: false,
        })
    }

    /// Answers the worker; keys are asked of the daemon at the socket, if there is one.
    fn answer(
        &self,
        question: &Question,
        pull_layers: &RefCell<PullLayers<'_>>,
        daemon: Option<&Path>,
    ) -> Result<Answer, Failure> {
        match question {
            Question::Login(_) => {
                let login = self.login();
                let failed = |error| Failure::new(Kind::Configuration, format!("{error:#}"));
                login.map(Answer::Login).map_err(failed)
            }
            Question::Key { provider, packet } => {
                let daemon = daemon.ok_or_else(|| {
                    let text = "the image is encrypted, and its keys come from the daemon: name its socket (--cdh-sock)";
                    Failure::new(Kind::Other, text)
                })?;
                provider::unwrap_key(daemon, provider, packet).map(Answer::Key)
            }
            // There is no policy.
            Question::Signature(_) => Err(Failure::new(Kind::Other, "no rule wants a signature")),
            of_layers => pull_layers.borrow_mut().answer(of_layers),
        }
    }

    fn certificates(&self) -> anyhow::Result<Vec<String>> {
        let read = |path: &PathBuf| {
            fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))
        };
        self.ca_file.iter().map(read).collect()
    }

    /// A client for the image's repository.
    fn client(&self) -> anyhow::Result<Client> {
        let additional = self.certificates()?;
        let roots = registry::roots(&additional).map_err(|number| {
            let path = self
                .ca_file
                .get(number.saturating_sub(1))
                .cloned()
                .unwrap_or_default();
            anyhow!("{}: no certificate in PEM", path.display())
        })?;
        let options = Options {
            roots,
            plain_http: self.plain_http,
            ..Options::default()
        };
        let (registry, repository) = (&self.image.registry, &self.image.repository);
        Ok(Client::new(registry, repository, self.login()?, &options))
    }

    /// The login for the image, if there is one.
    fn login(&self) -> anyhow::Result<Option<Login>> {
        let Some(path) = &self.auth_file else {
            return Ok(None);
        };
        let shown = path.display();
        let text = Zeroizing::new(fs::read(path).with_context(|| format!("can't read {shown}"))?);
        credential::login(&text, &self.image).map_err(|error| anyhow!("{shown}: {error}"))
    }

    /// The tag or digest.
    fn reference(&self) -> anyhow::Result<&str> {
        registry::reference(&self.image).map_err(|what| anyhow!("{}: {what}", self.image))
    }

    fn platform(&self) -> Platform {
        self.platform
            .clone()
            .unwrap_or_else(Platform::of_this_machine)
    }
}
