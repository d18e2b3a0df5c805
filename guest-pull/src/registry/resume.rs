// SPDX-License-Identifier: Apache-2.0

//! A blob on its way, which goes on where a connection broke.

use std::io::{self, Read};

use ureq::http::StatusCode;
use ureq::http::header::{CONTENT_RANGE, HeaderName, RANGE};

use crate::digest::Digest;
use crate::registry::client::{Client, tell};
use crate::registry::connection::{answered_within, said, within};
use crate::registry::error::Error;
use crate::registry::retry::{Patience, SILENCE, wait};
use crate::registry::times::STALL;

/// How often a blob is fetched from its beginning again, where the registry gives no parts.
const MAX_BEGINNINGS: u32 = 3;

/// How much is read at once of what is known already.
const PART: usize = 64 * 1024;

/// The bytes of a blob. An error that it reads as is a registry's: [`Error`].
pub struct Blob<'c> {
    client: &'c Client,
    path: String,
    what: String,
    size: u64,
    /// How many bytes were read.
    at: u64,
    /// Where they come from; none after a connection broke.
    reader: Option<Box<dyn Read + Send>>,
    patience: Patience,
    /// Whether the registry may be asked for a part.
    gives_parts: bool,
    beginnings: u32,
    /// Whether nobody wants the blob any more.
    is_over: &'c (dyn Fn() -> bool + Sync),
}

impl Client {
    /// A blob of this size, to be read as it comes. It goes on after failures that pass, until `is_over`.
    ///
    /// # Errors
    ///
    /// If the registry doesn't give it, or not in this size.
    pub fn blob<'c>(
        &'c self,
        digest: &Digest,
        size: u64,
        is_over: &'c (dyn Fn() -> bool + Sync),
    ) -> Result<Blob<'c>, Error> {
        Blob::open(self, digest, size, is_over)
    }
}

impl<'c> Blob<'c> {
    /// Asks for it.
    fn open(
        client: &'c Client,
        digest: &Digest,
        size: u64,
        is_over: &'c (dyn Fn() -> bool + Sync),
    ) -> Result<Self, Error> {
        let mut blob = Self {
            client,
            path: format!("blobs/{digest}"),
            what: format!("blob {digest}"),
            size,
            at: 0,
            reader: None,
            patience: client.patience(),
            gives_parts: true,
            beginnings: 0,
            is_over,
        };
        while let Err(error) = blob.connect() {
            blob.wait_after(error)?;
        }
        Ok(blob)
    }

    /// Asks once for what is not there yet.
    fn connect(&mut self) -> Result<(), Error> {
        let range = format!("bytes={}-", self.at);
        let headers: &[(HeaderName, &str)] = match self.at > 0 && self.gives_parts {
            true => &[(RANGE, &range)],
            false => &[],
        };
        // A redirect leads to a URL of the moment, so the registry itself is asked each time.
        let time = self.patience.answer_time();
        let asked = || answered_within(time, || self.client.get(&self.path, &self.what, headers));
        let response = match within(SILENCE, asked) {
            // Whoever says that there is no such part may still have the whole.
            Err(Error::Answer { host, what }) if !headers.is_empty() => {
                self.gives_parts = false;
                let after = None;
                return Err(Error::Busy { host, what, after });
            }
            other => other?,
        };
        if response.status() == StatusCode::PARTIAL_CONTENT {
            let range = response.headers().get(CONTENT_RANGE);
            let range = range.and_then(|value| value.to_str().ok());
            if !range.is_some_and(|range| is_rest(range, self.at, self.size)) {
                self.gives_parts = false;
                return Err(self.cut("it sends another part than the one that was asked for"));
            }
            self.reader = Some(Box::new(response.into_body().into_reader()));
            return Ok(());
        }
        let body = response.into_body();
        if let Some(length) = body.content_length().filter(|length| *length != self.size) {
            return Err(Error::Answer {
                host: self.client.host().to_owned(),
                what: format!(
                    "with {length} bytes for the {}, and the manifest says {}",
                    self.what, self.size
                ),
            });
        }
        let mut reader = Box::new(body.into_reader());
        if self.at > 0 {
            self.skip(&mut reader)?;
        }
        self.reader = Some(reader);
        Ok(())
    }

    /// Reads what is known already.
    fn skip(&mut self, reader: &mut dyn Read) -> Result<(), Error> {
        self.gives_parts = false;
        self.beginnings += 1;
        if self.beginnings > MAX_BEGINNINGS {
            return Err(Error::Incompatible {
                host: self.client.host().to_owned(),
                what: format!(
                    "its connection broke again and again while it sent the {}, and it gives no parts of it",
                    self.what
                ),
            });
        }
        let mut part = vec![0; PART];
        let mut left = self.at;
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(PART).min(PART);
            match within(STALL, || reader.read(&mut part[..length])) {
                Ok(0) => return Err(self.cut("the connection ended")),
                Ok(read) => left = left.saturating_sub(read as u64),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(self.cut(&said(&error))),
            }
            self.patience.heard();
            if (self.is_over)() {
                break;
            }
        }
        Ok(())
    }

    fn cut(&self, why: &str) -> Error {
        let what = format!("while it sent the {}: {why}", self.what);
        let host = self.client.host().to_owned();
        Error::Unreachable { host, what }
    }

    /// Waits for the next try, or says why there is none.
    fn wait_after(&mut self, error: Error) -> Result<(), Error> {
        let Some(time) = self.patience.wait_after(&error) else {
            let tries = self.patience.tries();
            return Err(match (tries, self.at) {
                // What does not pass has nothing to do with how far it came.
                (1, 0) if !error.passes() => error,
                (_, at) => error.given_up(format!(
                    "after {at} of {} bytes, and {tries} {}",
                    self.size,
                    if tries == 1 { "try" } else { "tries" },
                )),
            });
        };
        let what = format!("{}, at byte {} of {},", self.what, self.at, self.size);
        tell(&error, time, &what);
        match wait(time, self.is_over) {
            true => Ok(()),
            false => Err(error),
        }
    }
}

impl Read for Blob<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.patience.listening();
        loop {
            if (self.is_over)() {
                return Err(given_up());
            }
            let error = match &mut self.reader {
                // All of it came: how the connection ends does not matter.
                None if self.at >= self.size => return Ok(0),
                None => match self.connect() {
                    Ok(()) => continue,
                    Err(error) => error,
                },
                Some(reader) => match within(STALL, || reader.read(buffer)) {
                    Ok(0) if self.at < self.size && !buffer.is_empty() => {
                        self.cut("the connection ended")
                    }
                    Ok(read) => {
                        self.at += read as u64;
                        if read > 0 {
                            self.patience.advanced();
                        }
                        return Ok(read);
                    }
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
                    Err(error) => self.cut(&said(&error)),
                },
            };
            self.reader = None;
            if self.at >= self.size {
                return Ok(0);
            }
            if let Err(error) = self.wait_after(error) {
                // Whoever gave it up has the reason. It would be lost if this were the registry's failure.
                return Err(match (self.is_over)() {
                    true => given_up(),
                    false => io::Error::other(error),
                });
            }
        }
    }
}

/// Nobody wants the rest.
fn given_up() -> io::Error {
    io::Error::other("given up, since nobody reads it any more")
}

/// Whether an answer has the rest of something from a byte on, by its header Content-Range: `bytes 5-9/10`.
pub fn is_rest(range: &str, from: u64, size: u64) -> bool {
    let Some((range, total)) = range
        .strip_prefix("bytes ")
        .and_then(|range| range.split_once('/'))
    else {
        return false;
    };
    let first = range.split_once('-').map(|(first, _)| first.parse());
    first == Some(Ok(from)) && (total == "*" || total.parse() == Ok(size))
}
