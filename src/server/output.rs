// SPDX-License-Identifier: Apache-2.0

//! Answers that are to be written to a peer. They hold secrets, so they are in one buffer that is wiped.

use std::io;

use protobuf::rt::WireType;
use protobuf::{CodedOutputStream, Message};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixStream;
use tokio::time::timeout;
use ttrpc::proto::{MESSAGE_HEADER_LENGTH, MESSAGE_TYPE_RESPONSE};
use ttrpc::{Code, Response, Status, get_status};
use zeroize::Zeroize as _;

use crate::server::limits::{ANSWER_TIME, IDLE_BUFFER_BYTES, MAX_MESSAGE_BYTES};

/// The field numbers of ttrpc's `Response`.
const STATUS: u32 = 1;
const PAYLOAD: u32 = 2;

/// Answers that were not yet written.
#[derive(Default)]
pub struct Output(Vec<u8>);

impl Output {
    /// How many bytes there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[cfg(test)]
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// How much memory the buffer takes.
    pub fn size(&self) -> usize {
        self.0.capacity()
    }

    /// Where to write the answer to the request of this stream id.
    pub fn reply(&mut self, stream_id: u32) -> Reply<'_> {
        Reply {
            stream_id,
            output: self,
        }
    }

    /// Adds a refusal.
    ///
    /// # Errors
    ///
    /// If there is no memory for it.
    pub fn refuse(&mut self, stream_id: u32, status: Status) -> io::Result<()> {
        let mut response = Response::new();
        response.set_status(status);
        self.respond(stream_id, &response)
    }

    /// Adds an answer that is there as a whole.
    ///
    /// # Errors
    ///
    /// If there is no memory for it.
    pub fn respond(&mut self, stream_id: u32, response: &Response) -> io::Result<()> {
        let size = response.compute_size();
        self.frame(stream_id, size, |stream| {
            response.write_to_with_cached_sizes(stream)
        })
    }

    /// Removes and wipes what follows the first `length` bytes.
    pub fn cut(&mut self, length: usize) {
        if let Some(rest) = self.0.get_mut(length..) {
            rest.zeroize();
            self.0.truncate(length);
        }
    }

    /// Adds a frame with a body of `size` bytes.
    fn frame(
        &mut self,
        stream_id: u32,
        size: u64,
        write: impl FnOnce(&mut CodedOutputStream<'_>) -> protobuf::Result<()>,
    ) -> io::Result<()> {
        let length = u32::try_from(size).map_err(io::Error::other)?;
        self.make_room(MESSAGE_HEADER_LENGTH + length as usize)?;
        let mut header = [0; MESSAGE_HEADER_LENGTH];
        header[..4].copy_from_slice(&length.to_be_bytes());
        header[4..8].copy_from_slice(&stream_id.to_be_bytes());
        header[8] = MESSAGE_TYPE_RESPONSE;
        self.0.extend_from_slice(&header);
        let mut stream = CodedOutputStream::vec(&mut self.0);
        write(&mut stream)
            .and_then(|()| stream.flush())
            .map_err(io::Error::other)
    }

    /// Makes room for `more` bytes. If the buffer must move, the old memory is wiped.
    fn make_room(&mut self, more: usize) -> io::Result<()> {
        if self.0.capacity() - self.0.len() < more {
            let mut larger = Vec::new();
            let capacity = (self.0.len() + more)
                .max(IDLE_BUFFER_BYTES)
                .next_power_of_two();
            larger
                .try_reserve_exact(capacity)
                .map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))?;
            larger.extend_from_slice(&self.0);
            self.0.zeroize();
            self.0 = larger;
        }
        Ok(())
    }

    /// Writes all answers to the peer, and wipes the buffer.
    ///
    /// # Errors
    ///
    /// If writing to the socket fails, or the peer does not read in time.
    pub async fn flush(&mut self, stream: &mut UnixStream) -> io::Result<()> {
        if self.0.is_empty() {
            return Ok(());
        }
        // Mostly the socket takes all of it at once, and no timer is needed.
        let taken = loop {
            match stream.try_write(&self.0) {
                Ok(taken) => break taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break 0,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        };
        let rest = &self.0[taken..];
        let written = if rest.is_empty() {
            Ok(())
        } else {
            match timeout(ANSWER_TIME, stream.write_all(rest)).await {
                Ok(written) => written,
                Err(_) => Err(io::Error::other(
                    "the peer did not read its answers in time",
                )),
            }
        };
        self.0.zeroize();
        if self.0.capacity() > IDLE_BUFFER_BYTES {
            self.0 = Vec::new();
        }
        written
    }
}

impl Drop for Output {
    /// Wipes answers that a closed connection did not write.
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// Where to write one successful answer.
pub struct Reply<'a> {
    stream_id: u32,
    output: &'a mut Output,
}

impl Reply<'_> {
    /// Writes the answer.
    ///
    /// # Errors
    ///
    /// RESOURCE_EXHAUSTED if the answer is larger than a client accepts, or than the memory that is free.
    pub fn send(self, answer: &impl Message) -> Result<(), Status> {
        let payload = answer.compute_size();
        let size = response_bytes(payload);
        if size > MAX_MESSAGE_BYTES as u64 {
            return Err(get_status(
                Code::RESOURCE_EXHAUSTED,
                format!("the answer has {size} bytes; ttrpc's limit is {MAX_MESSAGE_BYTES}"),
            ));
        }
        let written = self.output.frame(self.stream_id, size, |stream| {
            // Released clients require a status in each answer, and take an empty one for OK.
            stream.write_tag(STATUS, WireType::LengthDelimited)?;
            stream.write_raw_varint64(0)?;
            if payload > 0 {
                stream.write_tag(PAYLOAD, WireType::LengthDelimited)?;
                stream.write_raw_varint64(payload)?;
            }
            answer.write_to_with_cached_sizes(stream)
        });
        written.map_err(|error| {
            let text = format!("the answer of {size} bytes can't be made: {error}");
            get_status(Code::RESOURCE_EXHAUSTED, text)
        })
    }
}

/// The length of a frame's body that carries a successful answer with a payload of `payload` bytes.
pub fn response_bytes(payload: u64) -> u64 {
    // An empty status has a tag and a length.
    let status = 2;
    let tag_and_length = 1 + protobuf::rt::compute_raw_varint64_size(payload);
    status
        + if payload == 0 {
            0
        } else {
            tag_and_length + payload
        }
}
