// SPDX-License-Identifier: Apache-2.0

//! A ttrpc client for one request to a running daemon.

use std::io::{self, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};
use nix::sys::socket::sockopt::SendTimeout;
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr, setsockopt, socket};
use nix::sys::time::{TimeVal, TimeValLike as _};
use offline_fs_kbc::server::limits::MAX_MESSAGE_BYTES;
use offline_fs_kbc::server::listener::Address;
use protobuf::Message;
use ttrpc::proto::{MESSAGE_HEADER_LENGTH, MESSAGE_TYPE_RESPONSE};
use ttrpc::{Code, MessageHeader, Request, Response};

/// How long the daemon may take: the deadline of most clients of 2023.
const DEADLINE: Duration = Duration::from_secs(DEADLINE_SECONDS as u64);
const DEADLINE_SECONDS: i64 = 10;

/// The stream id of the request; clients use odd ones.
const STREAM: u32 = 1;

/// Calls a method of the daemon at `address`. One request needs neither a runtime nor a full client.
///
/// # Errors
///
/// If nobody answers, or the daemon refuses the request; the text says which.
pub fn call<A: Message>(
    address: &Address,
    (service, method): (&str, &str),
    request: &impl Message,
) -> anyhow::Result<A> {
    let stream = connect(address).map_err(|error| {
        let what = match error.kind() {
            io::ErrorKind::NotFound => {
                "there is no socket; `systemctl start offline-fs-kbc` starts the daemon, or in peer pods of today \
                 attestation-agent.service"
            }
            io::ErrorKind::PermissionDenied => "only root may connect",
            io::ErrorKind::WouldBlock => {
                "the daemon listens but does not answer; is it stopped or too busy?"
            }
            _ => "nobody answers; `systemctl status offline-fs-kbc` shows the daemon",
        };
        anyhow!(error).context(format!("{address}: {what}"))
    })?;
    let request = Request {
        service: service.to_owned(),
        method: method.to_owned(),
        payload: request.write_to_bytes()?,
        timeout_nano: i64::try_from(DEADLINE.as_nanos())?,
        ..Request::default()
    };
    let response = match exchange(stream, &request) {
        Err(error) if is_late(&error) => {
            bail!("no answer from {address} within {} s", DEADLINE.as_secs())
        }
        answer => answer.with_context(|| format!("no answer from {address}"))?,
    };
    let status = response.status();
    if status.code() != Code::OK {
        bail!("{address} answers {:?}: {}", status.code(), status.message);
    }
    A::parse_from_bytes(&response.payload)
        .with_context(|| format!("the answer from {address} does not decode"))
}

/// Connects. If the backlog is full this waits, but not longer than the deadline.
fn connect(address: &Address) -> io::Result<UnixStream> {
    let flags = SockFlag::SOCK_CLOEXEC;
    let stream = socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    setsockopt(&stream, SendTimeout, &TimeVal::seconds(DEADLINE_SECONDS))?;
    socket::connect(stream.as_raw_fd(), &UnixAddr::new(address.path())?)?;
    Ok(stream.into())
}

fn is_late(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
    )
}

/// Sends the request and reads its answer, both within the deadline.
fn exchange(mut stream: UnixStream, request: &Request) -> io::Result<Response> {
    let end = Instant::now() + DEADLINE;
    let body = request.write_to_bytes()?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    let mut frame = Vec::from(MessageHeader::new_request(STREAM, length));
    frame.extend(body);
    stream.set_write_timeout(Some(DEADLINE))?;
    stream.write_all(&frame)?;
    let header = read(&mut stream, MESSAGE_HEADER_LENGTH, end)?;
    let header = MessageHeader::from(&header[..]);
    let length = header.length as usize;
    if (header.stream_id, header.type_) != (STREAM, MESSAGE_TYPE_RESPONSE)
        || length > MAX_MESSAGE_BYTES
    {
        return Err(io::Error::other(
            "the program that answers there does not speak ttrpc",
        ));
    }
    Ok(Response::parse_from_bytes(&read(
        &mut stream,
        length,
        end,
    )?)?)
}

fn read(stream: &mut UnixStream, length: usize, end: Instant) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
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
