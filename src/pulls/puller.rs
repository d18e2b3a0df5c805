// SPDX-License-Identifier: Apache-2.0

//! Passes a client's request for an image on to guest-pull, and its answer back.
//!
//! The request goes to a process of its own: the service manager starts it for a connection to its socket, or this
//! program does where no service manager started this one. That process ends when the connection does.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use protobuf::Message as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use ttrpc::proto::{MESSAGE_HEADER_LENGTH, MESSAGE_TYPE_DATA, MESSAGE_TYPE_RESPONSE};
use ttrpc::{Code, MessageHeader, Request, Response, Status, get_status};

use crate::child;
use crate::proto::guest_pull::Progress;
use crate::server::listener::Address;

/// The stream id of the one request.
const STREAM: u32 = 1;

/// The largest frame that is taken from guest-pull: an answer has a digest or a line of text.
const MAX_FRAME_BYTES: u32 = 64 << 10;

/// How guest-pull is reached.
#[derive(Clone, Debug, Default)]
pub struct Puller {
    /// The socket on which the service manager starts it.
    pub socket: Option<Address>,
    /// The program, if this process may start it, and its arguments.
    pub program: Option<(PathBuf, Vec<OsString>)>,
}

impl Puller {
    /// Passes the request on, calls `progress` with what guest-pull tells, and returns its answer.
    ///
    /// # Errors
    ///
    /// The status for the client, if there is no answer.
    pub async fn pull(
        &self,
        request: &Request,
        progress: impl Fn(Progress),
    ) -> Result<Response, Status> {
        let mut stream = self.connect().await?;
        match exchange(&mut stream, request, progress).await {
            Ok(Some(response)) => Ok(response),
            Ok(None) => Err(unavailable(
                "guest-pull ended without an answer; its log says why: journalctl -u 'guest-pull@*'",
            )),
            Err(error) => Err(unavailable(format!("no answer from guest-pull: {error}"))),
        }
    }

    async fn connect(&self) -> Result<UnixStream, Status> {
        if let Some(socket) = &self.socket {
            match UnixStream::connect(socket.path()).await {
                Ok(stream) => return Ok(stream),
                Err(error) => match error.kind() {
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {}
                    _ => return Err(unavailable(format!("{socket}: {error}"))),
                },
            }
        }
        let Some((program, args)) = self.program.as_ref().filter(|(path, _)| path.exists()) else {
            return Err(get_status(Code::UNIMPLEMENTED, self.missing()));
        };
        start(program, args)
            .map_err(|error| unavailable(format!("can't start {}: {error}", program.display())))
    }

    /// What to do where guest-pull is not there.
    fn missing(&self) -> String {
        let mut text = "offline-fs-kbc pulls no images by itself, and guest-pull does not answer: install the package \
                        offline-fs-kbc-guest-pull and enable guest-pull.socket"
            .to_owned();
        if let Some(socket) = &self.socket {
            text.push_str(&format!(" (it listens on {socket})"));
        }
        if let Some((program, _)) = &self.program {
            text.push_str(&format!(", or put the program at {}", program.display()));
        }
        text.push_str(
            "; or run the stock confidential-data-hub on cdh.sock in this program's place",
        );
        text
    }
}

fn unavailable(text: impl ToString) -> Status {
    get_status(Code::UNAVAILABLE, text)
}

/// Starts guest-pull with one end of a connection, and returns the other. Nobody waits for the process: its end shows at
/// the connection, and the program has the kernel remove it then.
fn start(program: &Path, args: &[OsString]) -> io::Result<UnixStream> {
    let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
    ours.set_nonblocking(true)?;
    child::start(
        program.as_os_str(),
        args,
        [Some(theirs.as_fd()), None, None],
    )?;
    UnixStream::from_std(ours)
}

/// The answer; none if the connection ends before it.
async fn exchange(
    stream: &mut UnixStream,
    request: &Request,
    progress: impl Fn(Progress),
) -> io::Result<Option<Response>> {
    let body = request.write_to_bytes()?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    let mut frame = Vec::from(MessageHeader::new_request(STREAM, length));
    frame.extend(body);
    stream.write_all(&frame).await?;
    loop {
        let mut header = [0; MESSAGE_HEADER_LENGTH];
        match stream.read_exact(&mut header).await {
            Ok(_) => {}
            Err(error) => match error.kind() {
                // It may have left the request unread.
                io::ErrorKind::UnexpectedEof | io::ErrorKind::ConnectionReset => return Ok(None),
                _ => return Err(error),
            },
        }
        let header = MessageHeader::from(&header[..]);
        if header.length > MAX_FRAME_BYTES {
            return Err(io::Error::other("it sends a frame that is too large"));
        }
        let mut body = vec![0; header.length as usize];
        stream.read_exact(&mut body).await?;
        match header.type_ {
            MESSAGE_TYPE_DATA => progress(Progress::parse_from_bytes(&body)?),
            MESSAGE_TYPE_RESPONSE => {
                let mut response = Response::parse_from_bytes(&body)?;
                // Clients want a status in each answer.
                response.status.mut_or_insert_default();
                return Ok(Some(response));
            }
            _ => return Err(io::Error::other("it sends frames of an unknown type")),
        }
    }
}
