// SPDX-License-Identifier: Apache-2.0

//! The mounter's side: starts the worker, answers it, and waits for its result.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::text::Escaped;
use nix::sched::{CloneFlags, setns, unshare};
use serde_json::Value;

use crate::failure::{Failure, Kind};
use crate::pull::Event;
use crate::question::{Answer, Question};
use crate::registry::manifest::MAX_LAYERS;
use crate::until::Until;
use crate::worker::channel::send;
use crate::worker::confinement::Confinement;
use crate::worker::log::Log;
use crate::worker::message::{
    MAX_LINE_OF_WORKER, Outcome, Request, answer_to_json, files_of, outcome, parse_confinement,
    parse_failure,
};
use crate::worker::quota::Quota;

/// Where the certificates of authorities are, if not where the system has them.
const ENVIRONMENT: [&str; 2] = ["SSL_CERT_FILE", "SSL_CERT_DIR"];

/// How long the worker may leave a line unread that the mounter writes. It always reads.
const WRITE_TIME: Duration = Duration::from_secs(10);

/// How many layers a worker may say are there: an image's, once again for each that is made anew.
const MAX_LAYERS_TOLD: usize = 2 * MAX_LAYERS;

/// How long a worker may take to end that says nothing any more.
const ENDING_TIME: Duration = Duration::from_secs(2);

/// The pause until it is looked for again.
const PAUSE: Duration = Duration::from_millis(5);

/// A worker that runs. It is ended when this is dropped.
struct Running {
    child: Child,
    /// The worker ends when it is closed.
    stream: UnixStream,
    log: Log,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        // What it has logged comes before what is said of it.
        self.log.end();
    }
}

impl Running {
    fn start(program: &Path) -> io::Result<Self> {
        let (stream, theirs) = UnixStream::pair()?;
        stream.set_write_timeout(Some(WRITE_TIME))?;
        let (log, their_log) = Log::start()?;
        let mut command = Command::new(program);
        command
            .arg("worker")
            // A dozen threads pass large pieces around and allocate little else. With a heap for each, the C library would
            // hold several MiB more.
            .env_clear()
            .envs(kept_environment())
            .env("MALLOC_ARENA_MAX", "1")
            // What is large goes back to the kernel when it is freed. Otherwise the C library keeps it from the second time on,
            // and a window of zstd would take its memory again beside the one before.
            .env("MALLOC_MMAP_THRESHOLD_", "131072")
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(Stdio::null())
            .stderr(Stdio::from(their_log));
        let child = spawn_apart(&mut command)?;
        Ok(Self { child, stream, log })
    }

    /// Why there is no result.
    fn ended(&mut self) -> Failure {
        let end = Instant::now() + ENDING_TIME;
        let status = loop {
            match self.child.try_wait() {
                Ok(None) if Instant::now() < end => thread::sleep(PAUSE),
                Ok(status) => break status,
                Err(_) => break None,
            }
        };
        let text = "the worker ended without a result";
        match status.map(|status| (status, status.signal())) {
            Some((_, Some(libc::SIGKILL))) => Failure::new(
                Kind::Exhausted,
                format!(
                    "{text}: it was killed (SIGKILL), as the kernel does when memory is short: see the kernel's log; give the \
                     VM more memory, or set work_dir in [image] of cdh.toml to a disk"
                ),
            ),
            // An allocation that fails ends it so too.
            Some((
                status,
                Some(libc::SIGABRT | libc::SIGSEGV | libc::SIGBUS | libc::SIGILL | libc::SIGTRAP),
            )) => Failure::new(
                Kind::Exhausted,
                format!(
                    "{text}: it crashed ({status}), perhaps at its limit of memory: see the log, and report it with the image's \
                     name; it is a bug"
                ),
            ),
            Some((status, _)) => {
                Failure::new(Kind::Other, format!("{text} ({status}): see the log"))
            }
            None => Failure::new(Kind::Other, format!("{text}: see the log")),
        }
    }

    fn answer(&self, answer: &Result<Answer, Failure>) -> io::Result<()> {
        send(&self.stream, &answer_to_json(answer), &files_of(answer))
    }
}

/// The variables that the worker keeps of the mounter's.
fn kept_environment() -> impl Iterator<Item = (&'static str, OsString)> {
    let names = ENVIRONMENT.into_iter();
    names.filter_map(|name| Some((name, std::env::var_os(name)?)))
}

/// Starts a process as the first one of a namespace of processes: it sees no other, and all that it could start end with it.
/// Where that can't be had, it starts all the same, and says what it lacks.
fn spawn_apart(command: &mut Command) -> io::Result<Child> {
    let here = File::open("/proc/self/ns/pid").ok();
    let Some(here) = here.filter(|_| unshare(CloneFlags::CLONE_NEWPID).is_ok()) else {
        return command.spawn();
    };
    let child = command.spawn();
    // The threads and processes that this one starts later belong here.
    if let Err(error) = setns(here, CloneFlags::CLONE_NEWPID) {
        if let Ok(mut child) = child {
            let _ = child.kill();
            let _ = child.wait();
        }
        return Err(error.into());
    }
    child
}

/// The lines of the worker. They are waited for with an eye on the caller, even within a line.
struct Lines {
    source: UnixStream,
    text: Vec<u8>,
}

impl Lines {
    /// The next one, as JSON; none if there is none, or it is something else.
    fn next(&mut self, until: &Until<'_>) -> Result<Option<Value>, Failure> {
        // Many may have come at once.
        until.check()?;
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
            if self.text.len() > MAX_LINE_OF_WORKER {
                return Ok(None);
            }
        }
    }
}

/// What a worker has told, so that one that was taken over tells it neither without end nor anew.
#[derive(Default)]
struct Told {
    anything: bool,
    started: bool,
    layers: usize,
}

impl Told {
    /// Whether the next line may be told.
    fn take(&mut self, value: &Value) -> bool {
        let is_first = !std::mem::replace(&mut self.anything, true);
        if value["started"].is_object() {
            return !std::mem::replace(&mut self.started, true);
        }
        if value["layer"].is_object() {
            self.layers += 1;
            return self.layers <= MAX_LAYERS_TOLD;
        }
        is_first || value["confinement"].is_null()
    }
}

/// What the mounter does for a worker.
pub struct Service<'s> {
    /// Answers what it asks.
    pub answer: &'s dyn Fn(&Question) -> Result<Answer, Failure>,
    /// Is told what happens.
    pub tell: &'s dyn Fn(Event),
    /// Is told what confines the worker, before anything else.
    pub confined: &'s dyn Fn(&Confinement),
}

/// Starts `program` as the worker, answers what it asks, passes on what happens, and waits for its result. When this returns,
/// the worker has ended. The request has logins, of which this process keeps no copy once it is sent.
///
/// # Errors
///
/// The worker's, or that it ended without a result, or was ended because nobody waits for it any more.
pub fn start(
    program: &Path,
    request: Request,
    until: &Until<'_>,
    service: &Service<'_>,
) -> Result<Outcome, Failure> {
    let not_started = |error: io::Error| {
        let what = format_args!("{} can't be started as the worker", program.display());
        match error.kind() {
            // Of fork(2), this is a limit.
            io::ErrorKind::WouldBlock => {
                let failure = Failure::no_thread(&error);
                Failure::new(failure.kind, format!("{what}: {failure}"))
            }
            _ => Failure::of_io(what, &error),
        }
    };
    let mut running = Running::start(program).map_err(not_started)?;
    let mut lines = Lines {
        source: running.stream.try_clone().map_err(not_started)?,
        text: Vec::new(),
    };
    let sent = send(&running.stream, &request.to_json(), &[]);
    drop(request);
    // It is gone, or does not read.
    if sent.is_err() {
        return Err(running.ended());
    }
    let tell = service.tell;
    let mut quota = Quota::default();
    let mut told = Told::default();
    loop {
        let Some(value) = lines.next(until)? else {
            return Err(running.ended());
        };
        if !told.take(&value) {
            let text = "the worker told more than a pull can have: report it; it has a bug, or was taken over";
            return Err(Failure::new(Kind::Other, text));
        }
        let number = |value: &Value| value.as_u64().unwrap_or_default();
        let (started, layer, asked) = (&value["started"], &value["layer"], &value["ask"]);
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
        } else if asked.is_object() {
            let Some(question) = Question::parse(asked) else {
                return Err(running.ended());
            };
            let answer = quota.take(&question);
            let answer = answer.and_then(|()| (service.answer)(&question));
            // Otherwise one that does not read would hold up the mounter at each question.
            if running.answer(&answer).is_err() {
                return Err(running.ended());
            }
        } else if let Some(confinement) = parse_confinement(&value) {
            (service.confined)(&confinement);
        } else if let Some(failure) = parse_failure(&value) {
            return Err(failure);
        } else {
            return outcome(&value["pulled"]).ok_or_else(|| running.ended());
        }
    }
}

/// Logs what of the worker's confinement does not hold.
pub fn log_confinement(confinement: &Confinement) {
    for (part, why) in &confinement.parts {
        if let Some(why) = why {
            eprintln!(
                "guest-pull: the worker runs without this part of its confinement: {}: {}",
                part.name(),
                Escaped(why)
            );
        }
    }
}
