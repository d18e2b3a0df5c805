// SPDX-License-Identifier: Apache-2.0

//! How the worker gets the files of a layer, and hands them back: by asking the mounter.

use std::fs::File;
use std::io::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use crate::digest::Digest;
use crate::failure::{Failure, Kind};
use crate::layer::{MAX_NOTES_BYTES, Summary};
use crate::question::{Answer, Ask, Files, Question};
use crate::store::{MAX_NOTED_PATHS, Stored};

/// The pause until the mounter is asked again for a layer that another pull is making: that takes a second or more.
const PAUSE: Duration = Duration::from_millis(20);

/// What a pull that needs a layer finds.
pub enum Claim<'m> {
    /// It is stored.
    Stored,
    /// It is to be made, by who has this.
    ToMake(Making<'m>),
}

/// How often a layer is made anew because there is more room. Each time it had all the room that there was.
const MORE_TRIES: usize = 3;

/// The pause until the mounter is asked again for room, while other layers are made.
const PAUSE_FOR_ROOM: Duration = Duration::from_millis(100);

/// How long room is waited for: others that are short of it too give theirs back at once, and one that is stalled keeps it.
const TIME_FOR_ROOM: Duration = Duration::from_secs(10);

/// Makes a layer by `attempt`, and again if it had too little room and there is more by then: what the size of a blob
/// promises is a guess, and other pulls take room meanwhile. `attempt` is told whether there is no further one. While others
/// make layers, which may fail, waits for a while, as long as `wait` says so.
///
/// # Errors
///
/// Of the last attempt.
pub fn with_room<T>(
    ask: &Ask<'_>,
    layer: &Digest,
    wait: &dyn Fn() -> bool,
    attempt: &dyn Fn(bool) -> Result<T, Failure>,
) -> Result<T, Failure> {
    for _ in 0..MORE_TRIES {
        let failure = match attempt(false) {
            Err(failure) if failure.kind == Kind::NoRoom => failure,
            result => return result,
        };
        let end = Instant::now() + TIME_FOR_ROOM;
        loop {
            match ask(&Question::Room(*layer))? {
                Answer::Done(true) => break,
                Answer::Busy if wait() && Instant::now() < end => thread::sleep(PAUSE_FOR_ROOM),
                Answer::Done(false) | Answer::Busy => return Err(failure),
                _ => return Err(unexpected()),
            }
        }
    }
    attempt(true)
}

/// A layer that is being made. If it is dropped, nothing is left of it.
pub struct Making<'m> {
    id: Digest,
    files: Option<Files>,
    ask: &'m Ask<'m>,
}

fn other(message: impl Into<String>) -> Failure {
    Failure::new(Kind::Other, message)
}

fn unexpected() -> Failure {
    other("the mounter answers something else than it was asked")
}

/// Asks for a layer, whose blob has so many bytes. If another pull is making it, waits until that has succeeded or failed, as
/// long as `wait` says so.
///
/// # Errors
///
/// If the mounter refuses, or the wait was given up.
pub fn claim<'m>(
    ask: &'m Ask<'m>,
    layer: &Digest,
    bytes: u64,
    wait: &dyn Fn() -> bool,
) -> Result<Claim<'m>, Failure> {
    let question = Question::Claim {
        layer: *layer,
        bytes,
    };
    loop {
        match ask(&question)? {
            Answer::Stored => return Ok(Claim::Stored),
            Answer::Make(files) => {
                return Ok(Claim::ToMake(Making {
                    id: *layer,
                    files: Some(files),
                    ask,
                }));
            }
            Answer::Busy if wait() => thread::sleep(PAUSE),
            Answer::Busy => return Err(other("given up, since another layer failed")),
            _ => return Err(unexpected()),
        }
    }
}

impl Making<'_> {
    /// The file for the layer, and one for what need not stay. Both have to be closed before the end.
    ///
    /// # Errors
    ///
    /// If there are too many descriptors.
    pub fn files(&self) -> Result<(File, File), Failure> {
        let files = self.files.as_ref().ok_or_else(unexpected)?;
        let files = files.try_clone();
        let files = files.map_err(|error| Failure::of_io("the layer's files", &error))?;
        Ok((files.layer, files.scratch))
    }

    /// Hands the layer over, which is whole.
    ///
    /// # Errors
    ///
    /// If its files can't be written, or the mounter can't store it.
    pub fn finish(mut self, summary: Summary) -> Result<(), Failure> {
        let stored = Stored::from(summary);
        let notes = stored.encode();
        if notes.len() > MAX_NOTES_BYTES || stored.noted_paths() > MAX_NOTED_PATHS {
            return Err(other(
                "the layer has too many directories without entries, or links to lower layers",
            ));
        }
        if Stored::parse(&notes).is_none() {
            return Err(other(
                "a directory without an entry, or a link to a lower layer, has a name that no path can have",
            ));
        }
        let mut files = self.files.take().ok_or_else(unexpected)?;
        // On a disk this takes a while, and the mounter has other layers to attend to.
        let mut write = || {
            files.notes.write_all(&notes)?;
            files.notes.sync_data()?;
            files.layer.sync_data()
        };
        write().map_err(|error| Failure::of_io("the layer", &error))?;
        // Nobody may be able to change what is stored.
        drop(files);
        match (self.ask)(&Question::Finish(self.id))? {
            Answer::Done(_) => Ok(()),
            _ => Err(unexpected()),
        }
    }
}

impl Drop for Making<'_> {
    fn drop(&mut self) {
        if self.files.take().is_some() {
            let _ = (self.ask)(&Question::Release(self.id));
        }
    }
}
