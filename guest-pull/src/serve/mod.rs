// SPDX-License-Identifier: Apache-2.0

//! One pull for the daemon: a request comes over a connection, the image is mounted, the answer goes back.
//!
//! The caller's connection is its hold on the pull: when it is closed, the pull ends, and what was mounted is unmounted. A
//! mount that nobody waits for would stay for ever.

mod answer;
mod progress;
mod request;
pub mod verify;

use std::cell::{Cell, RefCell};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::auth_json::image::ImageName;
use common::text::{Escaped, RegistryName};
use nix::sys::socket::getsockopt;
use nix::sys::socket::sockopt::PeerCredentials;
use nix::unistd::geteuid;
use thiserror::Error;
use ttrpc::get_status;

use crate::config::Image;
use crate::credential::{self, Found};
use crate::digest::Digest;
use crate::encryption::provider;
use crate::failure::{Failure, Kind};
use crate::measure::{Measured, measure};
use crate::mount::{self, By, Mounted};
use crate::plan::{Plan, Planned};
use crate::policy;
use crate::pull::Event;
use crate::question::{Answer, Question};
use crate::registry::platform::Platform;
use crate::store::{PullLayers, Store};
use crate::until::Until;
use crate::worker::{self, Service, log_confinement};
use crate::writable;

use answer::{Caller, Taken};
use progress::Progress;
use request::{Call, Refused};

/// What the command line says.
#[derive(Clone, Debug)]
pub struct Options {
    /// The daemon's socket, which has the credential.
    pub daemon: PathBuf,
    /// `cdh.toml`.
    pub config: Option<PathBuf>,
    /// Where layers are kept, whatever the configuration says.
    pub store: Option<PathBuf>,
    /// The program to start as the worker.
    pub worker: PathBuf,
}

/// Why a caller gets no answer.
#[derive(Debug, Error)]
pub enum Error {
    /// The connection is no unix socket.
    #[error(
        "standard input is no unix socket; this command is for the daemon, and for a socket unit with Accept=yes"
    )]
    NotASocket,
    /// Somebody else than root calls.
    #[error("the caller has the user id {0}; only root may have images mounted")]
    Stranger(u32),
    /// No request came.
    #[error("no request: {0}")]
    NoRequest(String),
    /// The caller went away, and what was done for it is undone.
    #[error("{0}; nothing is mounted")]
    Gone(String),
    /// The answer was not taken, and the image can't be unmounted.
    #[error("the answer was not taken, and {} can't be unmounted: {error}; unmount it by hand", root.display())]
    Stays {
        /// Where it is mounted.
        root: PathBuf,
        /// Why.
        error: std::io::Error,
    },
}

/// Serves one request of the connection.
///
/// # Errors
///
/// If there is nobody to answer. Everything else that fails is answered.
pub fn run(stream: UnixStream, options: &Options) -> Result<(), Error> {
    if stream.local_addr().is_err() {
        return Err(Error::NotASocket);
    }
    let peer = getsockopt(&stream, PeerCredentials).map_err(|_| Error::NotASocket)?;
    if ![0, geteuid().as_raw()].contains(&peer.uid()) {
        return Err(Error::Stranger(peer.uid()));
    }
    let mut caller = Caller::new(stream);
    let call = match request::read(&mut caller.stream) {
        Ok(call) => call,
        Err(Refused::Silently(what)) => return Err(Error::NoRequest(what)),
        Err(Refused::Answered(stream_id, status)) => {
            eprintln!("guest-pull: refused: {}", Escaped(&status.message));
            caller.refuse(stream_id, status);
            return Ok(());
        }
    };
    let shown = shown(&call.image);
    match pull(&call, &caller, options) {
        Ok(pulled) => {
            let Pulled {
                digest,
                mounted,
                measured,
            } = pulled;
            eprintln!(
                "guest-pull: {shown}: {digest} is mounted at {}; {measured}",
                mounted.root.display()
            );
            match caller.succeed(call.stream_id, &digest) {
                Taken::Yes => {
                    mounted.keep();
                    Ok(())
                }
                Taken::No(what) => {
                    let root = mounted.root.clone();
                    mounted
                        .undo()
                        .map_err(|error| Error::Stays { root, error })?;
                    Err(Error::Gone(format!("{shown}: {what}")))
                }
            }
        }
        Err(failure) if failure.kind == Kind::Gone => {
            Err(Error::Gone(format!("{shown}: {failure}")))
        }
        Err(failure) => {
            let text = answer::one_line(&format!("{shown}: {failure}"));
            eprintln!("guest-pull: {text}");
            caller.refuse(call.stream_id, get_status(answer::code(failure.kind), text));
            Ok(())
        }
    }
}

/// The name of an image, as messages show it: without line breaks, and without a login that somebody wrote into it.
fn shown(image: &str) -> String {
    Escaped(&RegistryName(image).plain()).to_string()
}

/// An image that is mounted.
struct Pulled {
    digest: Digest,
    mounted: Mounted,
    measured: Measured,
}

/// Pulls, measures and mounts the image.
fn pull(call: &Call, caller: &Caller, options: &Options) -> Result<Pulled, Failure> {
    let until = Until {
        caller: Some(&caller.stream),
        deadline: Some(call.deadline),
    };
    let late = |failure: Failure| match failure.kind {
        Kind::Late => late(call.time, &failure),
        _ => failure,
    };
    let name = ImageName::parse(&call.image)
        .map_err(|error| Failure::new(Kind::Invalid, error.to_string()))?;
    check_bundle(&call.bundle)?;
    let mut image = Image::of_environment(options.config.as_deref())?;
    let mut plan = Plan::make(&image, &call.image, &options.daemon)?;
    for warning in &plan.warnings {
        eprintln!("guest-pull: {warning}");
    }
    until.check().map_err(late)?;
    for place in &plan.places {
        if let Some(problem) = &place.problem {
            eprintln!("guest-pull: {}: {problem}: not asked", place.image);
        }
        if let Some(why) = &place.why_anonymous {
            eprintln!("guest-pull: {}: {why}: pulled anonymously", place.image);
        }
    }
    let directory = options.store.as_ref().unwrap_or(&image.work_dir);
    let store = open(directory)?;
    let request = request_of(&mut plan, &mut image, false);
    let asked: Vec<_> = plan.asked().collect();
    let pull_layers = RefCell::new(PullLayers::new(&store));
    let progress = Progress::new(call.wants_progress, |message| {
        caller.tell(call.stream_id, message);
    });
    let bytes = Cell::new(None);
    let service = Service {
        answer: &|question| {
            answer_worker(
                question,
                Some(&pull_layers),
                &image,
                &options.daemon,
                &asked,
            )
        },
        tell: &|event| {
            if let Event::Started { bytes: all, .. } = event {
                bytes.set(Some(all));
            }
            progress.take(event);
        },
        confined: &|confinement| {
            log_confinement(confinement);
            progress.confined(confinement);
        },
    };
    let pulled = worker::start(&options.worker, request, &until, &service);
    let mut pull_layers = pull_layers.into_inner();
    let pulled = pulled.map_err(|failure| {
        pull_layers.give_back();
        let room = || store.shortage(bytes.get());
        let message = explained(&failure, &name, &plan, &image, &room);
        late(Failure::new(failure.kind, message))
    })?;
    let from = asked
        .get(pulled.place)
        .filter(|planned| planned.image != name);
    if let Some(planned) = from {
        let mirror = if planned.is_mirror { "the mirror " } else { "" };
        eprintln!(
            "guest-pull: {}: pulled from {mirror}{}",
            shown(&call.image),
            planned.image
        );
    }
    until.check().map_err(late)?;
    let measured = measure(&image.agent_socket, &call.image, &pulled.manifest)?;
    until.check().map_err(late)?;
    let go_on = || until.check().map_err(std::io::Error::other);
    let layers = pull_layers.take(&pulled.layers)?;
    let mounted =
        mount::mount(&store, &layers, &call.bundle, By::File, &go_on).map_err(|error| {
            if let Err(failure) = until.check() {
                return late(failure);
            }
            let failure = Failure::from(error);
            let room = || store.shortage(None);
            let advice = advice(failure.kind, &image, None, &room);
            Failure::new(failure.kind, format!("{}{advice}", failure.message))
        })?;
    if let Err(failure) = until.check() {
        let undone = mounted.undo();
        return Err(match undone {
            Ok(()) => late(failure),
            Err(error) => Failure::new(
                failure.kind,
                format!("{failure}, and it can't be unmounted: {error}"),
            ),
        });
    }
    Ok(Pulled {
        digest: pulled.manifest,
        mounted,
        measured,
    })
}

/// What the worker is asked for. The logins of registries and proxies go along.
fn request_of(plan: &mut Plan, image: &mut Image, only_verify: bool) -> worker::Request {
    worker::Request {
        places: plan.hand_over(),
        platform: Platform::of_this_machine(),
        certificates: image.extra_root_certificates.clone(),
        proxies: std::mem::take(&mut image.proxies),
        layers_at_once: image.layers_at_once,
        only_verify,
    }
}

/// Answers what the worker asks.
fn answer_worker(
    question: &Question,
    pull_layers: Option<&RefCell<PullLayers<'_>>>,
    image: &Image,
    daemon: &Path,
    asked: &[&Planned],
) -> Result<Answer, Failure> {
    match question {
        Question::Login(number) => {
            let planned = asked.get(*number);
            let planned =
                planned.ok_or_else(|| Failure::new(Kind::Other, "there is no such place"))?;
            eprintln!(
                "guest-pull: {}/{} refuses what it was asked with: the credential is read anew",
                Escaped(&planned.place.registry),
                Escaped(&planned.place.repository)
            );
            let found = credential::fetch(&image.credential, daemon, &planned.image);
            let found = found.inspect_err(|failure| eprintln!("guest-pull: {failure}"))?;
            Ok(Answer::Login(match found {
                Found::Login(login) => Some(login),
                Found::Anonymous(_) => None,
            }))
        }
        Question::Key { provider, packet } => {
            provider::unwrap_key(daemon, provider, packet).map(Answer::Key)
        }
        Question::Signature(wanted) => {
            let rules = asked
                .iter()
                .filter_map(|planned| planned.place.rules.as_ref());
            policy::local_signature(rules, wanted).map(Answer::Signature)
        }
        of_layers => match pull_layers {
            Some(pull_layers) => pull_layers.borrow_mut().answer(of_layers),
            None => Err(Failure::new(Kind::Other, "nothing is stored")),
        },
    }
}

/// Opens the store, and gives back what earlier pulls left in it.
fn open(directory: &Path) -> Result<Store, Failure> {
    let store = Store::open(directory).map_err(|error| {
        let what = format_args!("the store of layers: {}", error.path().display());
        let failure = Failure::of_io(what, error.io());
        let text = format!("{}; check work_dir in [image] of cdh.toml", failure.message);
        Failure::new(failure.kind, text)
    })?;
    store.sweep();
    for error in writable::reclaim(&store) {
        eprintln!("guest-pull: a writable layer that nobody uses stays: {error}");
    }
    Ok(store)
}

/// kata-agent makes the bundle's directory.
fn check_bundle(bundle: &Path) -> Result<(), Failure> {
    let what = if !bundle.is_absolute() {
        "is not an absolute path"
    } else if !bundle.is_dir() {
        "is not a directory, which kata-agent makes"
    } else {
        return Ok(());
    };
    let shown = bundle.display().to_string();
    let text = format!("the bundle's path \"{}\" {what}", Escaped(&shown));
    Err(Failure::new(Kind::Invalid, text))
}

fn late(time: Duration, failure: &Failure) -> Failure {
    let text = format!(
        "not pulled within {} s: {failure}; raise image_pull_timeout of kata-agent and create_container_timeout of kata's \
         runtime, or use a smaller image",
        time.as_secs()
    );
    Failure::new(Kind::Late, text)
}

/// What is told of a failed pull: why the last place that was asked has no image, why those before have none, and which were
/// not asked; each with what can be done about it, once.
fn explained(
    failure: &Failure,
    name: &ImageName,
    plan: &Plan,
    image: &Image,
    room: &dyn Fn() -> String,
) -> String {
    let asked: Vec<_> = plan.asked().collect();
    let of = |failure: &Failure| failure.place.and_then(|place| asked.get(place).copied());
    let with_advice = |failure: &Failure, so_far: &str| {
        let planned = of(failure);
        let why_anonymous = planned.and_then(|planned| planned.why_anonymous.as_deref());
        let mut advice = advice(failure.kind, image, why_anonymous, room);
        if failure.kind == Kind::Refused {
            advice.extend(planned.and_then(doubt));
        }
        if so_far.contains(&advice) {
            advice.clear();
        }
        format!("{}{advice}", failure.message)
    };
    let mut text = String::new();
    // Where there is a choice, and the text does not begin with that name anyway.
    let named = of(failure).filter(|planned| plan.places.len() > 1 && planned.image != *name);
    if let Some(planned) = named {
        text = format!("{}: ", planned.image);
    }
    text.push_str(&with_advice(failure, ""));
    let mut before = String::new();
    for earlier in &failure.before {
        let so_far = format!("{text}{before}");
        let place = of(earlier).map_or_else(String::new, |planned| format!("{}: ", planned.image));
        before.push_str(&format!("; {place}{}", with_advice(earlier, &so_far)));
    }
    if let Some(before) = before.strip_prefix("; ") {
        text.push_str(&format!(" (before that, {before})"));
    }
    for planned in &plan.places {
        if let Some(problem) = &planned.problem {
            text.push_str(&format!(" ({} was not asked: {problem})", planned.image));
        }
    }
    text
}

/// Without TLS, a proxy's refusal of its own login can look like the registry's: tinyproxy answers 401 to a wrong one.
fn doubt(planned: &Planned) -> Option<String> {
    let proxy = planned
        .proxy
        .as_ref()
        .filter(|_| planned.place.plain_http)?;
    Some(format!(
        "; or it is the proxy {proxy} that refuses the login in http_proxy"
    ))
}

/// What can be done about it. `room` says how much there is in the store.
fn advice(
    kind: Kind,
    image: &Image,
    why_anonymous: Option<&str>,
    room: &dyn Fn() -> String,
) -> String {
    let credential = &image.credential;
    match (kind, why_anonymous) {
        (Kind::Refused | Kind::Forbidden, Some(why)) => {
            format!("; {why}: if the image is private, put a login for its registry there")
        }
        (Kind::Refused, None) => {
            format!("; check the login for this registry in the credential {credential}")
        }
        (Kind::Forbidden, None) => {
            // Some say so to a login that is wrong, or too old.
            format!(
                "; check that the login in the credential {credential} is still good, and may pull this repository"
            )
        }
        (Kind::Missing, Some(why)) => {
            format!("; check the image's name and tag; some registries hide private images so, and {why}")
        }
        (Kind::Missing, None) => "; check the image's name and tag".to_owned(),
        (Kind::Unreachable, _) => {
            "; check the VM's network and name resolution, and extra_root_certificates in [image] of cdh.toml if the \
             registry's certificate is not from a public authority; if the VM reaches registries through a proxy, \
             image_pull_proxy"
                .to_owned()
        }
        (Kind::Busy, _) => {
            "; the registry was reached and is out of order, or limits how much it is asked: let the image be pulled again \
             later, or add a mirror of it to registry_config in [image] of cdh.toml"
                .to_owned()
        }
        (Kind::NoRoom, _) => format!(
            "; {}; give the VM more memory, or set work_dir in [image] of cdh.toml to a larger disk",
            room()
        ),
        _ => String::new(),
    }
}
