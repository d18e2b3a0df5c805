// SPDX-License-Identifier: Apache-2.0

//! The process that fetches and parses, apart from the one that mounts.
//!
//! The mounter needs privileges, and the worker reads what came from outside; so they are two processes of the same
//! program. The mounter writes one request to the worker's standard input, and the worker writes what happens to its
//! standard output: a JSON object a line. The mounter takes digests and numbers from them, and checks both.

use std::io::{self, BufRead as _, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{self, Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;

use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::digest::Digest;
pub use crate::failure::{Failure, Kind};
use crate::pull::{self, Event};
use crate::registry::manifest::MAX_LAYERS;
use crate::registry::platform::Platform;
use crate::registry::{self, Client, Login, Options};
use crate::store::Store;
use crate::until::Until;

/// The longest line of either side: a request has certificates, a result has a digest for each layer.
const MAX_LINE: usize = 4 << 20;

/// How many bytes are read until the mounter is told: a line for each read would be thousands.
const TOLD_AT_ONCE: u64 = 1 << 20;

/// How much memory the worker can have: twenty times what a pull takes, and so little that an image which takes more (a
/// header of gigabytes, millions of long names) ends the worker, and not what else runs in the VM.
const MAX_MEMORY_BYTES: u64 = 640 << 20;

/// What the worker is to do.
#[derive(Clone)]
pub struct Request {
    /// The registry, with its port.
    pub registry: String,
    /// The repository.
    pub repository: String,
    /// The tag or digest.
    pub reference: String,
    /// The platform.
    pub platform: Platform,
    /// The login for the registry.
    pub login: Option<Login>,
    /// Certificates of authorities in PEM, beside the system's.
    pub certificates: Vec<String>,
    /// Without TLS.
    pub plain_http: bool,
    /// How many layers are fetched at once.
    pub layers_at_once: usize,
    /// The store's directory.
    pub store: PathBuf,
}

/// The layers that the worker has put into the store.
#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The digest of the image's manifest.
    pub manifest: Digest,
    /// The digests of the layers' archives, the lowest first.
    pub layers: Vec<Digest>,
}

impl Request {
    fn to_json(&self) -> Zeroizing<String> {
        let login = self
            .login
            .as_ref()
            .map(|login| json!({"user": login.user, "password": login.password.as_str()}));
        let request = json!({
            "registry": self.registry, "repository": self.repository, "reference": self.reference,
            "platform": self.platform.to_string(), "login": login, "certificates": self.certificates,
            "plain_http": self.plain_http, "layers_at_once": self.layers_at_once, "store": self.store,
        });
        Zeroizing::new(request.to_string())
    }

    fn parse(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        let text = |name: &str| value[name].as_str().map(str::to_owned);
        let login = match &value["login"] {
            Value::Null => None,
            login => Some(Login {
                user: login["user"].as_str()?.to_owned(),
                password: Zeroizing::new(login["password"].as_str()?.to_owned()),
            }),
        };
        let certificates = value["certificates"].as_array()?.iter();
        let certificates = certificates.map(|text| Some(text.as_str()?.to_owned()));
        Some(Self {
            registry: text("registry")?,
            repository: text("repository")?,
            reference: text("reference")?,
            platform: Platform::parse(&text("platform")?)?,
            login,
            certificates: certificates.collect::<Option<_>>()?,
            plain_http: value["plain_http"].as_bool()?,
            layers_at_once: value["layers_at_once"].as_u64()?.try_into().ok()?,
            store: text("store")?.into(),
        })
    }
}

/// Runs as the worker: reads the request from standard input, and ends when the pull has.
///
/// # Errors
///
/// If the mounter is gone, or sends no request.
pub fn run() -> io::Result<()> {
    // The mounter may be killed, and then nobody wants the layers. The kernel tells by a signal, but not if that happened
    // before this call; the end of standard input tells at any time.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let most = Some(MAX_MEMORY_BYTES);
    setrlimit(
        Resource::Data,
        Rlimit {
            current: most,
            maximum: most,
        },
    )?;
    let mut line = Zeroizing::new(String::new());
    io::stdin()
        .lock()
        .take(MAX_LINE as u64)
        .read_line(&mut line)?;
    thread::spawn(|| {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        process::exit(1);
    });
    let Some(request) = Request::parse(&line) else {
        return Err(io::Error::other(
            "no request; this command is for guest-pull itself",
        ));
    };
    let out = Mutex::new(io::stdout());
    let send = |value: &Value| -> io::Result<()> {
        let mut out = out.lock().unwrap_or_else(PoisonError::into_inner);
        writeln!(out, "{value}")?;
        out.flush()
    };
    let untold = Mutex::new(0);
    let tell = |event: Event| {
        let value = match event {
            Event::Read(bytes) => {
                let mut untold = untold.lock().unwrap_or_else(PoisonError::into_inner);
                *untold += bytes;
                if *untold < TOLD_AT_ONCE {
                    return;
                }
                json!({"read": std::mem::take(&mut *untold)})
            }
            Event::Started { layers, bytes } => {
                json!({"started": {"layers": layers, "bytes": bytes}})
            }
            Event::Layer { bytes, stored } => {
                // So that the numbers add up at each layer.
                let mut untold = untold.lock().unwrap_or_else(PoisonError::into_inner);
                let _ = send(&json!({"read": std::mem::take(&mut *untold)}));
                json!({"layer": {"bytes": bytes, "stored": stored}})
            }
        };
        // The result tells the mounter the same.
        let _ = send(&value);
    };
    let last = match pull(&request, &tell) {
        Ok(outcome) => {
            let layers: Vec<_> = outcome.layers.iter().map(Digest::to_string).collect();
            json!({"pulled": {"manifest": outcome.manifest.to_string(), "layers": layers}})
        }
        Err(failure) => {
            json!({"failed": {"kind": failure.kind.name(), "message": failure.message}})
        }
    };
    send(&last)
}

fn pull(request: &Request, tell: &(dyn Fn(Event) + Sync)) -> Result<Outcome, Failure> {
    let other = |message: String| Failure::new(Kind::Other, message);
    // Without TLS too: tokens and blobs may be elsewhere, where there is TLS.
    let roots = registry::roots(&request.certificates).map_err(|number| {
        other(format!(
            "the additional certificate {number} is none in PEM"
        ))
    })?;
    let options = Options {
        roots,
        plain_http: request.plain_http,
    };
    let client = Client::new(
        &request.registry,
        &request.repository,
        request.login.clone(),
        &options,
    );
    let store = Store::open(&request.store)
        .map_err(|error| Failure::new(Kind::of_io(error.io()), error.to_string()))?;
    let pulled = pull::pull(
        &client,
        &request.reference,
        &request.platform,
        &store,
        request.layers_at_once,
        tell,
    );
    let pulled = pulled.map_err(|error| Failure::new(error.kind(), error.to_string()))?;
    Ok(Outcome {
        manifest: pulled.manifest,
        layers: pulled.layers.into_iter().map(|(id, _)| id).collect(),
    })
}

/// A worker that runs. It is ended when this is dropped.
struct Running {
    child: Child,
    /// Kept open, since the worker ends when it is closed.
    _input: ChildStdin,
    output: Lines,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    fn start(program: &Path, request: &Request) -> io::Result<Self> {
        let mut command = Command::new(program);
        command
            .arg("worker")
            // A dozen threads pass large pieces around and allocate little else. With a heap for each, the C library would
            // hold several MiB more.
            .env("MALLOC_ARENA_MAX", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let (Some(mut input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let written = input
            .write_all(request.to_json().as_bytes())
            .and_then(|()| input.write_all(b"\n"));
        let running = Self {
            child,
            _input: input,
            output: Lines {
                source: output,
                text: Vec::new(),
            },
        };
        written.map(|()| running)
    }
}

/// The lines of the worker. They are waited for with an eye on the caller, even within a line.
struct Lines {
    source: ChildStdout,
    text: Vec<u8>,
}

impl Lines {
    /// The next one, as JSON; none if there is none, or it is something else.
    fn next(&mut self, until: &Until<'_>) -> Result<Option<Value>, Failure> {
        loop {
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<_> = self.text.drain(..=end).collect();
                return Ok(serde_json::from_slice(&line).ok());
            }
            until.wait_for(self.source.as_fd())?;
            let mut part = [0; 4096];
            match self.source.read(&mut part) {
                Ok(0) => return Ok(None),
                Ok(length) => self.text.extend(&part[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Ok(None),
            }
            if self.text.len() > MAX_LINE {
                return Ok(None);
            }
        }
    }
}

/// Starts `program` as the worker, passes on what happens, and waits for its result.
///
/// # Errors
///
/// The worker's, or that it ended without a result, or was ended because nobody waits for it any more.
pub fn start(
    program: &Path,
    request: &Request,
    until: &Until<'_>,
    tell: &dyn Fn(Event),
) -> Result<Outcome, Failure> {
    let mut running = Running::start(program, request).map_err(|error| {
        let text = format!(
            "{} can't be started as the worker: {error}",
            program.display()
        );
        Failure::new(Kind::Other, text)
    })?;
    let ended = || {
        Failure::new(
            Kind::Other,
            "the worker ended without a result: see the log",
        )
    };
    loop {
        let value = running.output.next(until)?.ok_or_else(ended)?;
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        let (started, layer, failed) = (&value["started"], &value["layer"], &value["failed"]);
        if let Some(bytes) = value["read"].as_u64() {
            tell(Event::Read(bytes));
        } else if started.is_object() {
            tell(Event::Started {
                layers: number(&started["layers"]) as usize,
                bytes: number(&started["bytes"]),
            });
        } else if layer.is_object() {
            tell(Event::Layer {
                bytes: number(&layer["bytes"]),
                stored: layer["stored"].as_bool().unwrap_or_default(),
            });
        } else if failed.is_object() {
            return Err(Failure::new(
                Kind::parse(failed["kind"].as_str().unwrap_or_default()),
                failed["message"].as_str().unwrap_or_default(),
            ));
        } else {
            return outcome(&value["pulled"]).ok_or_else(ended);
        }
    }
}

fn outcome(value: &Value) -> Option<Outcome> {
    let layers = value["layers"].as_array()?;
    if layers.len() > MAX_LAYERS {
        return None;
    }
    let layers = layers.iter().map(|layer| Digest::parse(layer.as_str()?));
    Some(Outcome {
        manifest: Digest::parse(value["manifest"].as_str()?)?,
        layers: layers.collect::<Option<_>>()?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What the mounter sends is what the worker gets.
    #[test]
    fn a_request_comes_through() {
        let request = Request {
            registry: "r.example:5000".to_owned(),
            repository: "a/b".to_owned(),
            reference: "1".to_owned(),
            platform: Platform::parse("linux/arm/v7").unwrap(),
            login: Some(Login {
                user: "u\n\"".to_owned(),
                password: Zeroizing::new("p\u{e9}".to_owned()),
            }),
            certificates: vec!["x\ny".to_owned()],
            plain_http: true,
            layers_at_once: 2,
            store: "/a b".into(),
        };
        let text = request.to_json();
        assert!(!text.contains('\n'));
        let parsed = Request::parse(&text).unwrap();
        assert_eq!(*parsed.to_json(), *text);
        assert!(Request::parse("{}").is_none());
    }

    /// A worker that was taken over can name digests, and nothing else.
    #[test]
    fn a_result_has_digests_alone() {
        let id = Digest::of(b"x");
        let good = json!({"manifest": id.to_string(), "layers": [id.to_string()]});
        assert_eq!(outcome(&good).unwrap().layers, [id]);
        for bad in [
            json!({"manifest": id.to_string(), "layers": ["../../etc"]}),
            json!({"manifest": "sha256:x", "layers": []}),
            json!({"manifest": id.to_string(), "layers": vec![id.to_string(); 501]}),
            json!(null),
        ] {
            assert_eq!(outcome(&bad), None);
        }
    }
}
