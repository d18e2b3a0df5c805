// SPDX-License-Identifier: Apache-2.0

//! An attestation-agent that refuses everything.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::thread;

use protobuf::Message as _;
use ttrpc::{Code, Request, Response, get_status};

use crate::subject::ATTESTATION_SOCKET;

/// The methods that it was asked for.
pub type Noted = Arc<Mutex<Vec<String>>>;

/// An attestation-agent that notes what it is asked, and refuses all of it.
pub fn start(noted: &Noted) {
    let _ = fs::remove_file(ATTESTATION_SOCKET);
    let listener = UnixListener::bind(ATTESTATION_SOCKET).expect("a socket");
    let noted = Arc::clone(noted);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let noted = Arc::clone(&noted);
            thread::spawn(move || refuse_all(stream, &noted));
        }
    });
}

fn refuse_all(mut stream: UnixStream, asked: &Mutex<Vec<String>>) -> Option<()> {
    loop {
        let mut header = [0; 10];
        stream.read_exact(&mut header).ok()?;
        let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
        let mut body = vec![0; length as usize];
        stream.read_exact(&mut body).ok()?;
        let request = Request::parse_from_bytes(&body).ok()?;
        asked.lock().expect("no panics").push(request.method);
        let mut response = Response::new();
        response.set_status(get_status(Code::INTERNAL, "no quote today"));
        let body = response.write_to_bytes().ok()?;
        let length = u32::try_from(body.len()).ok()?;
        let frame = [&length.to_be_bytes()[..], &header[4..8], &[2, 0], &body].concat();
        stream.write_all(&frame).ok()?;
    }
}
