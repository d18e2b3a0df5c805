// SPDX-License-Identifier: Apache-2.0

//! A reader whose bytes another thread has made: decompressing a layer takes as long as all the rest, so that both go on
//! at once.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{Scope, ScopedJoinHandle};

/// How much is passed on at once: enough that the threads seldom wait, little enough for the caches.
const PART: usize = 256 * 1024;

/// How many parts may wait.
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
    pub fn start<'scope, 'env, R: Read + Send + 'scope>(
        scope: &'scope Scope<'scope, 'env>,
        mut reader: R,
    ) -> (Self, ScopedJoinHandle<'scope, R>) {
        let (send, parts) = sync_channel(WAITING);
        let (used, reuse) = sync_channel::<Vec<u8>>(WAITING + 1);
        let thread = scope.spawn(move || {
            loop {
                let mut part = reuse.try_recv().unwrap_or_default();
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
                let ended = length == 0;
                if !ended && send.send(Ok(part)).is_err() {
                    break;
                }
                if let Some(error) = failed {
                    let _ = send.send(Err(error));
                    break;
                }
                if ended {
                    break;
                }
            }
            reader
        });
        let pipe = Self {
            parts,
            part: Vec::new(),
            at: 0,
            used,
        };
        (pipe, thread)
    }
}

impl Read for Pipe {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.at == self.part.len() {
            let empty = std::mem::take(&mut self.part);
            if empty.capacity() > 0 {
                let _ = self.used.try_send(empty);
            }
            self.at = 0;
            match self.parts.recv() {
                Ok(part) => self.part = part?,
                // The thread has ended: so has what it read.
                Err(_) => return Ok(0),
            }
        }
        let rest = &self.part[self.at..];
        let length = rest.len().min(buffer.len());
        buffer[..length].copy_from_slice(&rest[..length]);
        self.at += length;
        Ok(length)
    }
}
