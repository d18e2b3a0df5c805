// SPDX-License-Identifier: Apache-2.0

//! A stand-in for guest-pull behind its socket: the test says what it answers, and when.

use std::fs;
use std::os::unix::net::UnixListener;

use offline_fs_kbc::proto::api::{ImagePullRequest, ImagePullResponse};
use offline_fs_kbc::proto::guest_pull::Progress;
use protobuf::Message as _;
use ttrpc::{Code, Request, Response, get_status};

use super::daemon::Root;
use super::wire::{Wire, frame};
use super::{PATIENCE, wait_for};

/// kata-agent 4.1.0 asking for an image.
pub const RECORDED_PULL: &[u8] =
    include_bytes!("../../vectors/g4-kata-4.1.0-pullimage.request.bin");

/// The socket of guest-pull, without the program.
pub struct Socket(UnixListener);

/// One request that was passed on.
pub struct Passed {
    /// The request as it came.
    pub request: Request,
    stream_id: u32,
    wire: Wire,
}

impl Socket {
    /// Listens at the default address below the root.
    pub fn new(root: &Root) -> Self {
        let path = root.socket_called("guest-pull.sock");
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let listener = UnixListener::bind(path).unwrap();
        listener.set_nonblocking(true).unwrap();
        Self(listener)
    }

    /// The next request that is passed on.
    pub fn next(&self) -> Passed {
        wait_for("a request", || self.try_next())
    }

    /// The same, if it is there already.
    pub fn try_next(&self) -> Option<Passed> {
        let (stream, _) = self.0.accept().ok()?;
        stream.set_nonblocking(false).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut wire = Wire(stream);
        let (header, body) = wire.receive_raw();
        assert_eq!(header[8], 1, "no request");
        Some(Passed {
            request: Request::parse_from_bytes(&body).unwrap(),
            stream_id: u32::from_be_bytes(header[4..8].try_into().unwrap()),
            wire,
        })
    }
}

impl Passed {
    /// The image that is asked for.
    pub fn image(&self) -> String {
        let pull = ImagePullRequest::parse_from_bytes(&self.request.payload).unwrap();
        pull.image_url
    }

    /// Tells how it goes.
    pub fn tell(&mut self, progress: &Progress) {
        let body = progress.write_to_bytes().unwrap();
        self.wire.send(&frame(3, self.stream_id, &body));
    }

    /// Answers with this digest.
    pub fn answer(&mut self, digest: &str) {
        let answer = ImagePullResponse {
            manifest_digest: digest.to_owned(),
            ..ImagePullResponse::default()
        };
        let response = Response {
            payload: answer.write_to_bytes().unwrap(),
            ..Response::default()
        };
        self.respond(&response);
    }

    /// Refuses.
    pub fn refuse(&mut self, code: Code, text: &str) {
        let mut response = Response::new();
        response.set_status(get_status(code, text));
        self.respond(&response);
    }

    fn respond(&mut self, response: &Response) {
        let body = response.write_to_bytes().unwrap();
        self.wire.send(&frame(2, self.stream_id, &body));
    }

    /// Sends any bytes.
    pub fn send(&mut self, bytes: &[u8]) {
        self.wire.send(bytes);
    }

    /// Whether the daemon has closed the connection; waits until it does.
    pub fn is_given_up(&mut self) -> bool {
        self.wire.is_closed()
    }
}
