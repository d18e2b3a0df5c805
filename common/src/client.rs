// SPDX-License-Identifier: Apache-2.0

//! A blocking ttrpc client for one request: that needs neither a runtime nor a full client.

use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::sockopt::SendTimeout;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, setsockopt, socket};
use nix::sys::time::{TimeVal, TimeValLike as _};
use protobuf::Message;
use thiserror::Error;
use ttrpc::proto::{MESSAGE_HEADER_LENGTH, MESSAGE_LENGTH_MAX, MESSAGE_TYPE_RESPONSE};
use ttrpc::{Code, MessageHeader, Request, Response, Status};
use zeroize::{Zeroize as _, Zeroizing};

/// The stream id of the request; clients use odd ones.
const STREAM: u32 = 1;

/// Why a call has no answer.
#[derive(Debug, Error)]
pub enum Error {
    /// Nobody listens there, or the connection is refused.
    #[error("{0}")]
    Connect(io::Error),
    /// No answer came in time.
    #[error("no answer in time")]
    Late,
    /// Something else came, or nothing.
    #[error("{0}")]
    Exchange(io::Error),
    /// The answer is a refusal.
    #[error("{:?}: {}", .0.code(), .0.message)]
    Refused(Status),
    /// The answer can't be decoded.
    #[error("the answer does not decode: {0}")]
    Decode(protobuf::Error),
}

/// Calls a method of the server on the socket at `path`, and waits for the answer as long as `deadline` says.
///
/// # Errors
///
/// If nobody answers in time, or the answer is a refusal.
pub fn call<A: Message>(
    path: &Path,
    (service, method): (&str, &str),
    request: &impl Message,
    deadline: Duration,
) -> Result<A, Error> {
    let stream = connect(path, deadline).map_err(Error::Connect)?;
    let request = Request {
        service: service.to_owned(),
        method: method.to_owned(),
        payload: request.write_to_bytes().map_err(Error::Decode)?,
        timeout_nano: i64::try_from(deadline.as_nanos()).unwrap_or(i64::MAX),
        ..Request::default()
    };
    let mut response = match exchange(stream, &request, deadline) {
        Err(error) if is_late(&error) => return Err(Error::Late),
        answer => answer.map_err(Error::Exchange)?,
    };
    if response.status().code() != Code::OK {
        return Err(Error::Refused(response.take_status()));
    }
    // It may be a secret.
    let answer = A::parse_from_bytes(&response.payload).map_err(Error::Decode);
    response.payload.zeroize();
    answer
}

/// Connects. If the backlog is full this waits, but not longer than the deadline.
fn connect(path: &Path, deadline: Duration) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let stream = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    let seconds = i64::try_from(deadline.as_secs().max(1)).unwrap_or(i64::MAX);
    setsockopt(&stream, SendTimeout, &TimeVal::seconds(seconds))?;
    socket::connect(stream.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(stream.into())
}

fn is_late(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// Sends the request and reads its answer, both within the deadline.
fn exchange(mut stream: UnixStream, request: &Request, deadline: Duration) -> io::Result<Response> {
    let end = Instant::now() + deadline;
    let body = request.write_to_bytes()?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    let mut frame = Vec::from(MessageHeader::new_request(STREAM, length));
    frame.extend(body);
    stream.set_write_timeout(Some(deadline))?;
    stream.write_all(&frame)?;
    let no_ttrpc = || io::Error::other("the program that answers there does not speak ttrpc");
    let (header, body) = read_frame(&mut stream, end)?.ok_or_else(no_ttrpc)?;
    if (header.stream_id, header.type_) != (STREAM, MESSAGE_TYPE_RESPONSE) {
        return Err(no_ttrpc());
    }
    Ok(Response::parse_from_bytes(&body)?)
}

/// Reads one frame until `end`. None if its header says that it is larger than ttrpc's frames may be.
///
/// # Errors
///
/// If the connection ends before the frame does, or the frame is not there in time.
pub fn read_frame(
    stream: &mut UnixStream,
    end: Instant,
) -> io::Result<Option<(MessageHeader, Zeroizing<Vec<u8>>)>> {
    let header = read(stream, MESSAGE_HEADER_LENGTH, end)?;
    let header = MessageHeader::from(&header[..]);
    let length = header.length as usize;
    if length > MESSAGE_LENGTH_MAX {
        return Ok(None);
    }
    Ok(Some((header, read(stream, length, end)?)))
}

fn read(stream: &mut UnixStream, length: usize, end: Instant) -> io::Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(vec![0; length]);
    let mut done = 0;
    while done < length {
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut bytes[done..]) {
            Ok(0) => return Err(io::Error::other("the connection was closed")),
            Ok(more) => done += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(bytes)
}
