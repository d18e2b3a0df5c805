// SPDX-License-Identifier: Apache-2.0

//! The worker's side: what it tells the mounter, and asks it.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::process;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::failure::{Failure, Kind};
use crate::memory::STACK;
use crate::pull::Event;
use crate::question::{Answer, Question};
use crate::registry::Login;
use crate::worker::channel::{receive, send};
use crate::worker::message::{MAX_LINE, failure_to_json, parse_answer};

/// How many bytes are read until the mounter is told: a line for each read would be thousands.
const TOLD_AT_ONCE: u64 = 1 << 20;

/// How much is read at once.
const PART: usize = 64 << 10;

/// A line of the mounter, with the files that came along.
type Line = (Zeroizing<String>, Vec<OwnedFd>);

/// The mounter, at the other end of standard input, which is a socket.
#[derive(Debug)]
pub struct Mounter {
    out: Mutex<UnixStream>,
    /// How many bytes were read that the mounter was not told of.
    untold: Mutex<u64>,
    /// The lines that it writes. Who asks holds this until the answer is there, so that each gets its own.
    answers: Mutex<Receiver<Line>>,
}

impl Mounter {
    /// Reads the first line, which is the request. The process ends when the mounter has closed its end.
    pub(super) fn of_standard_input() -> io::Result<(Zeroizing<String>, Self)> {
        let stream = UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
        let out = stream.try_clone()?;
        let mut lines = Lines::new(stream);
        let (first, _) = lines.next()?;
        let (pass_on, answers) = sync_channel(0);
        let reading = move || {
            while let Ok(line) = lines.next() {
                if line.0.is_empty() || pass_on.send(line).is_err() {
                    break;
                }
            }
            process::exit(1);
        };
        if let Err(error) = thread::Builder::new().stack_size(STACK).spawn(reading) {
            let failure = failure_to_json(&Failure::no_thread(&error));
            send(&out, &failure.to_string(), &[])?;
            return Err(error);
        }
        let mounter = Self {
            out: Mutex::new(out),
            untold: Mutex::default(),
            answers: Mutex::new(answers),
        };
        Ok((first, mounter))
    }

    /// Writes a line.
    pub(super) fn send(&self, value: &Value) -> io::Result<()> {
        send(&lock(&self.out), &value.to_string(), &[])
    }

    /// Tells what happened. That it can't be told is no matter, since the result can't be told either then.
    pub(super) fn tell(&self, event: Event) {
        let value = match event {
            Event::Read(bytes) => {
                let mut untold = lock(&self.untold);
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
                let untold = std::mem::take(&mut *lock(&self.untold));
                let _ = self.send(&json!({"read": untold}));
                json!({"layer": {"bytes": bytes, "stored": stored}})
            }
        };
        let _ = self.send(&value);
    }

    /// Asks for the login of today for a place, by its number.
    ///
    /// # Errors
    ///
    /// What the mounter says, or that it says nothing.
    pub(super) fn login(&self, place: usize) -> Result<Option<Login>, Failure> {
        match self.ask(&Question::Login(place))? {
            Answer::Login(login) => Ok(login),
            _ => Err(Failure::new(Kind::Other, "the mounter gives no login")),
        }
    }

    /// Asks for something, and waits for the answer.
    ///
    /// # Errors
    ///
    /// What the mounter says, or that it says nothing.
    pub fn ask(&self, question: &Question) -> Result<Answer, Failure> {
        let gone = || Failure::new(Kind::Other, "the mounter gives no answer: see the log");
        let answers = lock(&self.answers);
        self.send(&question.to_json()).map_err(|_| gone())?;
        let (line, files) = answers.recv().map_err(|_| gone())?;
        parse_answer(&line, files).ok_or_else(gone)?
    }
}

/// The lines that come.
struct Lines {
    stream: UnixStream,
    /// What came of the next ones.
    text: Zeroizing<Vec<u8>>,
    files: Vec<OwnedFd>,
}

impl Lines {
    fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            text: Zeroizing::default(),
            files: Vec::new(),
        }
    }

    /// The next one; empty at the end.
    fn next(&mut self) -> io::Result<Line> {
        let mut part = Zeroizing::new([0; PART]);
        loop {
            if let Some(end) = self.text.iter().position(|byte| *byte == b'\n') {
                let line = Zeroizing::new(self.text.get(..end).unwrap_or_default().to_vec());
                let rest = self.text.get(end + 1..).unwrap_or_default().to_vec();
                self.text = Zeroizing::new(rest);
                let text = std::str::from_utf8(&line).map_err(io::Error::other)?;
                let files = std::mem::take(&mut self.files);
                return Ok((Zeroizing::new(text.to_owned()), files));
            }
            if self.text.len() > MAX_LINE {
                return Err(io::Error::other("the line is too long"));
            }
            match receive(&self.stream, &mut part[..], &mut self.files) {
                Ok(0) => return Ok((Zeroizing::default(), Vec::new())),
                Ok(length) => {
                    // Memory that grows by itself leaves what it had behind.
                    let mut longer = Vec::with_capacity(self.text.len() + length);
                    longer.extend_from_slice(&self.text);
                    longer.extend_from_slice(part.get(..length).unwrap_or_default());
                    self.text = Zeroizing::new(longer);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Locks the mutex. Nothing panics while it holds it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
