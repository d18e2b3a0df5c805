// SPDX-License-Identifier: Apache-2.0

//! The mounter's side: starts the worker, answers it, and waits for its result.

use std::io::{self, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::Value;

use crate::failure::{Failure, Kind};
use crate::pull::Event;
use crate::question::{Answer, Question};
use crate::until::Until;
use crate::worker::message::{MAX_LINE, Outcome, Request, answer_to_json, outcome, parse_failure};

/// A worker that runs. It is ended when this is dropped.
struct Running {
    child: Child,
    /// Kept open, since the worker ends when it is closed.
    input: ChildStdin,
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
            // What is large goes back to the kernel when it is freed. Otherwise the C library keeps it from the second time on,
            // and a window of zstd would take its memory again beside the one before.
            .env("MALLOC_MMAP_THRESHOLD_", "131072")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let (Some(input), Some(output)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let mut running = Self {
            child,
            input,
            output: Lines {
                source: output,
                text: Vec::new(),
            },
        };
        running.write_line(&request.to_json())?;
        Ok(running)
    }

    fn write_line(&mut self, line: &str) -> io::Result<()> {
        self.input.write_all(line.as_bytes())?;
        self.input.write_all(b"\n")
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

/// Starts `program` as the worker, answers what it asks, passes on what happens, and waits for its result.
///
/// # Errors
///
/// The worker's, or that it ended without a result, or was ended because nobody waits for it any more.
pub fn start(
    program: &Path,
    request: &Request,
    until: &Until<'_>,
    answer: &dyn Fn(&Question) -> Result<Answer, Failure>,
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
            let question = Question::parse(asked).ok_or_else(ended)?;
            let line = answer_to_json(&answer(&question));
            // A worker that is gone says so by its output.
            let _ = running.write_line(&line);
        } else if let Some(failure) = parse_failure(&value) {
            return Err(failure);
        } else {
            return outcome(&value["pulled"]).ok_or_else(ended);
        }
    }
}
