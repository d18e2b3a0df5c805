// SPDX-License-Identifier: Apache-2.0

//! The worker's side: what it tells the mounter, and asks it.

use std::io::{self, BufRead as _, Read as _, Stdout, Write as _};
use std::process;
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::failure::{Failure, Kind};
use crate::pull::Event;
use crate::question::{Answer, Question};
use crate::registry::Login;
use crate::worker::message::{MAX_LINE, parse_answer};

/// How many bytes are read until the mounter is told: a line for each read would be thousands.
const TOLD_AT_ONCE: u64 = 1 << 20;

/// The mounter, at the other ends of the standard streams.
pub(super) struct Mounter {
    out: Mutex<Stdout>,
    /// How many bytes were read that the mounter was not told of.
    untold: Mutex<u64>,
    /// The lines that it writes. Who asks holds this until the answer is there, so that each gets its own.
    answers: Mutex<Receiver<Zeroizing<String>>>,
}

impl Mounter {
    /// Reads the first line, which is the request. The process ends when the mounter has closed its end.
    pub(super) fn of_standard_streams() -> io::Result<(Zeroizing<String>, Self)> {
        let first = line()?;
        let (send, answers) = sync_channel(0);
        thread::spawn(move || {
            while let Ok(line) = line() {
                if line.is_empty() || send.send(line).is_err() {
                    break;
                }
            }
            process::exit(1);
        });
        let mounter = Self {
            out: Mutex::new(io::stdout()),
            untold: Mutex::default(),
            answers: Mutex::new(answers),
        };
        Ok((first, mounter))
    }

    /// Writes a line.
    pub(super) fn send(&self, value: &Value) -> io::Result<()> {
        let mut out = lock(&self.out);
        writeln!(out, "{value}")?;
        out.flush()
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
            Answer::Key(_) => Err(Failure::new(Kind::Other, "the mounter gives no login")),
        }
    }

    /// Asks for something, and waits for the answer.
    ///
    /// # Errors
    ///
    /// What the mounter says, or that it says nothing.
    pub(super) fn ask(&self, question: &Question) -> Result<Answer, Failure> {
        let gone = || Failure::new(Kind::Other, "the mounter gives no answer: see the log");
        let answers = lock(&self.answers);
        self.send(&question.to_json()).map_err(|_| gone())?;
        let line = answers.recv().map_err(|_| gone())?;
        parse_answer(&line).ok_or_else(gone)?
    }
}

/// The next line of standard input; empty at its end.
fn line() -> io::Result<Zeroizing<String>> {
    let mut line = Zeroizing::new(String::new());
    let input = io::stdin().lock();
    input.take(MAX_LINE as u64).read_line(&mut line)?;
    Ok(line)
}

/// Locks the mutex. Nothing panics while it holds it.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
