// SPDX-License-Identifier: Apache-2.0

//! What goes back to the caller, and whether it took it.

use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use common::proto::api::ImagePullResponse;
use common::proto::guest_pull::Progress;
use protobuf::Message;
use ttrpc::proto::{MESSAGE_TYPE_DATA, MESSAGE_TYPE_RESPONSE};
use ttrpc::{Code, MessageHeader, Response, Status};

use crate::digest::Digest;
use crate::failure::Kind;
use crate::until;

/// How long the caller may take to read its answer, and then to close the connection.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// The longest text of an answer: it becomes an event of the pod.
const MAX_TEXT: usize = 2000;

/// The other end of the connection.
pub struct Caller {
    /// The connection.
    pub stream: UnixStream,
}

/// Whether the caller has its answer.
#[derive(Debug)]
pub enum Taken {
    /// It has.
    Yes,
    /// It went away without it.
    No(String),
}

impl Caller {
    /// The caller at the other end.
    pub fn new(stream: UnixStream) -> Self {
        Self { stream }
    }

    /// Tells how it goes, unless the caller does not read: the next one says all of it again.
    pub fn tell(&self, stream_id: u32, progress: &Progress) {
        if until::has_room(&self.stream) {
            // Whether the caller is there is found out elsewhere.
            let _ = self.send(stream_id, MESSAGE_TYPE_DATA, progress);
        }
    }

    /// Answers with a refusal. If the caller does not take it, nothing is lost.
    pub fn refuse(&self, stream_id: u32, status: Status) {
        let mut response = Response::new();
        response.set_status(status);
        if self
            .send(stream_id, MESSAGE_TYPE_RESPONSE, &response)
            .is_ok()
        {
            let _ = self.is_taken();
        }
    }

    /// Answers that the image is there.
    pub fn succeed(&self, stream_id: u32, manifest: &Digest) -> Taken {
        let answer = ImagePullResponse {
            manifest_digest: manifest.to_string(),
            ..Default::default()
        };
        let mut response = Response::new();
        // Released clients want a status, and take an empty one for OK.
        response.set_status(Status::new());
        let sent = answer
            .write_to_bytes()
            .map_err(io::Error::from)
            .and_then(|payload| {
                response.payload = payload;
                self.send(stream_id, MESSAGE_TYPE_RESPONSE, &response)
            });
        match sent {
            Ok(()) => self.is_taken(),
            Err(error) => Taken::No(format!("the caller does not take the answer: {error}")),
        }
    }

    fn send(&self, stream_id: u32, kind: u8, message: &impl Message) -> io::Result<()> {
        let body = message.write_to_bytes()?;
        let header = MessageHeader {
            length: u32::try_from(body.len()).map_err(io::Error::other)?,
            stream_id,
            type_: kind,
            flags: 0,
        };
        let mut frame = Vec::from(header);
        frame.extend(body);
        self.stream.set_write_timeout(Some(ANSWER_TIME))?;
        (&self.stream).write_all(&frame)
    }

    /// Waits until the caller closes the connection, but not for ever: one that keeps it open may read the answer yet.
    fn is_taken(&self) -> Taken {
        let end = Instant::now() + ANSWER_TIME;
        let mut ignored = [0; 4096];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || self.stream.set_read_timeout(Some(left)).is_err() {
                return Taken::Yes;
            }
            match (&self.stream).read(&mut ignored) {
                // It read everything first, or the kernel would tell the next.
                Ok(0) => return Taken::Yes,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {
                    return Taken::No("the caller went away without reading the answer".to_owned());
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Taken::Yes,
            }
        }
    }
}

/// The status that a failure becomes.
pub fn code(kind: Kind) -> Code {
    match kind {
        Kind::Refused => Code::UNAUTHENTICATED,
        Kind::Forbidden => Code::PERMISSION_DENIED,
        Kind::Missing => Code::NOT_FOUND,
        Kind::Unreachable | Kind::Busy => Code::UNAVAILABLE,
        Kind::NoRoom | Kind::Exhausted => Code::RESOURCE_EXHAUSTED,
        Kind::Late => Code::DEADLINE_EXCEEDED,
        Kind::Gone => Code::CANCELLED,
        Kind::Configuration => Code::FAILED_PRECONDITION,
        Kind::Invalid => Code::INVALID_ARGUMENT,
        Kind::Other => Code::INTERNAL,
    }
}

/// The text in one line, of a length that an event can have.
pub fn one_line(text: &str) -> String {
    let mut line = String::new();
    for c in text.chars() {
        if line.len() >= MAX_TEXT {
            line.push('…');
            break;
        }
        match c.is_control() {
            true => line.extend(c.escape_default()),
            false => line.push(c),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An event is one line, whatever a registry says.
    #[test]
    fn a_text_is_one_line() {
        assert_eq!(one_line("a\nb\u{1b}[0m\u{e9}"), "a\\nb\\u{1b}[0m\u{e9}");
        assert!(one_line(&"x".repeat(10_000)).len() < MAX_TEXT + 10);
    }
}
