// SPDX-License-Identifier: Apache-2.0

//! One pull for the daemon: a request comes over a connection, the image is mounted, the answer goes back.
//!
//! The caller's connection is its hold on the pull: when it is closed, the pull ends, and what was mounted is unmounted. A
//! mount that nobody waits for would stay for ever.

mod answer;
mod progress;
mod request;

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

use crate::config::{CREDENTIAL_VARIABLE, Image};
use crate::credential::{self, Found};
use crate::digest::Digest;
use crate::failure::{Failure, Kind};
use crate::mount::{self, By, Mounted};
use crate::policy;
use crate::question::{Answer, Question};
use crate::registry;
use crate::registry::platform::Platform;
use crate::store::Store;
use crate::until::Until;
use crate::worker::{self, Place};
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
        Ok((digest, mounted)) => {
            eprintln!(
                "guest-pull: {shown}: {digest} is mounted at {}",
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

/// Pulls and mounts the image.
fn pull(call: &Call, caller: &Caller, options: &Options) -> Result<(Digest, Mounted), Failure> {
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
    let variable = std::env::var_os(CREDENTIAL_VARIABLE);
    let variable = variable.as_ref().map(|value| value.to_string_lossy());
    let image = Image::read(options.config.as_deref(), variable.as_deref())?;
    for warning in &image.warnings {
        eprintln!("guest-pull: {warning}");
    }
    let plain_http = image.allow(&name)?;
    let reference = registry::reference(&name);
    let reference = reference.map_err(|what| Failure::new(Kind::Invalid, what))?;
    let reference = reference.to_owned();
    let directory = options.store.as_ref().unwrap_or(&image.work_dir);
    let store = open(directory)?;
    let rules = policy::rules_for(&image.signatures, &options.daemon, &name)?;
    let found = credential::fetch(&image.credential, &options.daemon, &name)?;
    until.check().map_err(late)?;
    let (login, why_anonymous) = match found {
        Found::Login(login) => (Some(login), None),
        Found::Anonymous(why) => {
            eprintln!(
                "guest-pull: {}: {why}: pulled anonymously",
                shown(&call.image)
            );
            (None, Some(why))
        }
    };
    let place = Place {
        registry: name.registry.clone(),
        repository: name.repository.clone(),
        reference,
        login,
        plain_http,
    };
    let request = worker::Request {
        places: vec![place],
        platform: Platform::of_this_machine(),
        rules,
        certificates: image.extra_root_certificates.clone(),
        layers_at_once: image.layers_at_once,
        store: store.directory().to_owned(),
    };
    let progress = Progress::new(call.wants_progress, |message| {
        caller.tell(call.stream_id, message);
    });
    let pulled = worker::start(
        &options.worker,
        &request,
        &until,
        &|question| answer_worker(question, &image, options, &name),
        &|event| progress.take(event),
    );
    let pulled = pulled.map_err(|failure| {
        // A worker that was ended leaves the layers that it was making.
        store.sweep();
        let advice = advice(failure.kind, &image, why_anonymous.as_deref(), &store);
        let message = format!("{}{advice}", failure.message);
        late(Failure::new(failure.kind, message))
    })?;
    until.check().map_err(late)?;
    let mounted =
        mount::mount_stored(&store, &pulled.layers, &call.bundle, By::File).map_err(|error| {
            let kind = error.io().map_or(Kind::Other, Kind::of_io);
            let advice = advice(kind, &image, None, &store);
            Failure::new(kind, format!("it can't be mounted: {error}{advice}"))
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
    Ok((pulled.manifest, mounted))
}

/// Answers what the worker asks.
fn answer_worker(
    question: &Question,
    image: &Image,
    options: &Options,
    name: &ImageName,
) -> Result<Answer, Failure> {
    match question {
        Question::Login(_) => {
            let found = credential::fetch(&image.credential, &options.daemon, name)?;
            Ok(Answer::Login(match found {
                Found::Login(login) => Some(login),
                Found::Anonymous(_) => None,
            }))
        }
        Question::Key { .. } => {
            let text = "encrypted layers are not supported yet";
            Err(Failure::new(Kind::Configuration, text))
        }
    }
}

/// Opens the store, and gives back what earlier pulls left in it.
fn open(directory: &Path) -> Result<Store, Failure> {
    let store = Store::open(directory).map_err(|error| {
        let text = format!("the store of layers: {error}; check work_dir in [image] of cdh.toml");
        Failure::new(Kind::of_io(error.io()), text)
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

/// What can be done about it.
fn advice(kind: Kind, image: &Image, why_anonymous: Option<&str>, store: &Store) -> String {
    let credential = &image.credential;
    match (kind, why_anonymous) {
        (Kind::Refused | Kind::Forbidden, Some(why)) => {
            format!("; {why}: if the image is private, put a login for its registry there")
        }
        (Kind::Refused, None) => {
            format!("; check the login for this registry in the credential {credential}")
        }
        (Kind::Forbidden, None) => {
            format!("; give the user of the credential {credential} the right to pull this repository")
        }
        (Kind::Missing, Some(why)) => {
            format!("; check the image's name and tag; some registries hide private images so, and {why}")
        }
        (Kind::Missing, None) => "; check the image's name and tag".to_owned(),
        (Kind::Unreachable, _) => {
            "; check the VM's network and name resolution, and extra_root_certificates in [image] of cdh.toml if the \
             registry's certificate is not from a public authority"
                .to_owned()
        }
        (Kind::NoRoom, _) => format!(
            "; {} has no room: give the VM more memory, or set work_dir in [image] of cdh.toml to a larger disk",
            store.directory().display()
        ),
        _ => String::new(),
    }
}
