// SPDX-License-Identifier: Apache-2.0

//! A reader whose bytes other threads have made. The steps of a layer (reading, decompressing, two digests, the file
//! system) each take about as long as the others, so that all go on at once.
//!
//! Bytes go from thread to thread in vectors that are used again, and are not copied on the way. What ends early, by an
//! error or because nobody reads any more, closes its channels, and by that ends the threads before and after it.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Builder, Scope, ScopedJoinHandle};

use crate::digest::{Digest, Hash};
use crate::memory::STACK;

/// How much is passed on at once: three layers at once have 33 of these. Twice as much takes the same processor time, and
/// more memory than a pull should.
const PART: usize = 64 * 1024;

/// How many parts may wait between two threads.
const WAITING: usize = 2;

/// Reads what a thread reads from another reader.
pub struct Pipe {
    parts: Receiver<io::Result<Vec<u8>>>,
    part: Vec<u8>,
    at: usize,
    /// Gives used vectors back, so that few are made.
    used: SyncSender<Vec<u8>>,
}

impl Pipe {
    /// Starts a thread that reads `reader` to its end. It gives the reader back when it has ended, or when the pipe is gone.
    ///
    /// # Errors
    ///
    /// If no thread can be started.
    pub fn start<'scope, 'env, R: Read + Send + 'scope>(
        scope: &'scope Scope<'scope, 'env>,
        mut reader: R,
    ) -> io::Result<(Self, ScopedJoinHandle<'scope, R>)> {
        let (send, parts) = sync_channel(WAITING);
        // None of those that may be on their way has to be dropped.
        let (used, reuse) = sync_channel::<Vec<u8>>(4 * WAITING);
        let thread = Builder::new().stack_size(STACK);
        let thread = thread.spawn_scoped(scope, move || {
            loop {
                let part = reuse.try_recv().unwrap_or_default();
                let (part, failed) = fill(&mut reader, part);
                let has_ended = part.is_empty();
                if !has_ended && send.send(Ok(part)).is_err() {
                    break;
                }
                if let Some(error) = failed {
                    let _ = send.send(Err(error));
                    break;
                }
                if has_ended {
                    break;
                }
            }
            reader
        })?;
        Ok((Self::of(parts, used), thread))
    }

    /// Starts a thread that makes the digest of what comes by. It gives the digest when the pipe has ended, or when this one
    /// is gone.
    ///
    /// # Errors
    ///
    /// If no thread can be started.
    pub fn digested<'scope, 'env>(
        self,
        scope: &'scope Scope<'scope, 'env>,
    ) -> io::Result<(Self, ScopedJoinHandle<'scope, Digest>)> {
        let (send, parts) = sync_channel(WAITING);
        let Self {
            parts: receive,
            used,
            ..
        } = self;
        let thread = Builder::new().stack_size(STACK);
        let thread = thread.spawn_scoped(scope, move || {
            let mut hash = Hash::new();
            for part in receive {
                if let Ok(part) = &part {
                    hash.update(part);
                }
                if send.send(part).is_err() {
                    break;
                }
            }
            hash.finish()
        })?;
        Ok((Self::of(parts, used), thread))
    }

    fn of(parts: Receiver<io::Result<Vec<u8>>>, used: SyncSender<Vec<u8>>) -> Self {
        Self {
            parts,
            part: Vec::new(),
            at: 0,
            used,
        }
    }
}

/// Reads a whole part, or up to the end, or up to an error.
fn fill(reader: &mut impl Read, mut part: Vec<u8>) -> (Vec<u8>, Option<io::Error>) {
    part.resize(PART, 0);
    let mut length = 0;
    let mut failed = None;
    while length < PART {
        match reader.read(&mut part[length..]) {
            Ok(0) => break,
            Ok(read) => length += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => {
                failed = Some(error);
                break;
            }
        }
    }
    part.truncate(length);
    (part, failed)
}

impl BufRead for Pipe {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.at == self.part.len() {
            let empty = std::mem::take(&mut self.part);
            if empty.capacity() > 0 {
                let _ = self.used.try_send(empty);
            }
            self.at = 0;
            match self.parts.recv() {
                Ok(part) => self.part = part?,
                // The thread has ended: so has what it read.
                Err(_) => return Ok(&[]),
            }
        }
        Ok(&self.part[self.at..])
    }

    fn consume(&mut self, amount: usize) {
        self.at = self.part.len().min(self.at + amount);
    }
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = self.fill_buf()?;
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        self.consume(length);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::thread;

    /// Gives some bytes, and then an error.
    struct Failing(usize);

    impl Read for Failing {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let length = self.0.min(buffer.len()).min(1000);
            if length == 0 {
                return Err(io::Error::other("broken"));
            }
            self.0 -= length;
            buffer[..length].fill(7);
            Ok(length)
        }
    }

    /// All bytes come through in order, and the digest is that of all of them.
    #[test]
    fn bytes_come_through() {
        let bytes: Vec<u8> = (0..500_000_u32).flat_map(u32::to_le_bytes).collect();
        thread::scope(|scope| {
            let (pipe, reading) = Pipe::start(scope, &bytes[..]).unwrap();
            let (mut pipe, hashing) = pipe.digested(scope).unwrap();
            let mut read = Vec::new();
            pipe.read_to_end(&mut read).unwrap();
            assert!(read == bytes);
            assert!(reading.join().unwrap().is_empty());
            drop(pipe);
            assert_eq!(hashing.join().unwrap(), Digest::of(&bytes));
        });
    }

    /// What was read before an error is still there, and then the error; so a cut connection is never taken for the end.
    #[test]
    fn an_error_comes_after_what_was_read() {
        thread::scope(|scope| {
            let (pipe, _reading) = Pipe::start(scope, Failing(PART + 10)).unwrap();
            let (mut pipe, _hashing) = pipe.digested(scope).unwrap();
            let mut read = Vec::new();
            let error = pipe.read_to_end(&mut read).unwrap_err();
            assert_eq!(
                (read.len(), error.to_string().as_str()),
                (PART + 10, "broken")
            );
        });
    }

    /// Who stops reading ends the threads, though there is more: a failure does not wait for the rest of a layer.
    #[test]
    fn threads_end_when_nobody_reads() {
        thread::scope(|scope| {
            let (pipe, reading) = Pipe::start(scope, io::repeat(1)).unwrap();
            let (mut pipe, hashing) = pipe.digested(scope).unwrap();
            let mut some = [0; 10];
            pipe.read_exact(&mut some).unwrap();
            drop(pipe);
            assert!(hashing.join().is_ok());
            assert!(reading.join().is_ok());
        });
    }
}
