// SPDX-License-Identifier: Apache-2.0

//! A server on loopback that sends any bytes at all, at any pace.

// Each of the tests' programs uses a part of it.
#![allow(dead_code)]

use std::collections::HashMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How long a client may send nothing.
const SILENCE: Duration = Duration::from_secs(120);

/// How long what is endless goes on, so that a test ends even if the client does not.
const ENDLESS: Duration = Duration::from_secs(120);

/// A part of an answer.
#[derive(Clone, Debug)]
pub enum Part {
    /// These bytes.
    Bytes(Vec<u8>),
    /// These bytes one by one, with pauses between them.
    Drip(Vec<u8>, Duration),
    /// These bytes again and again, with pauses, until the client has enough.
    Endless(Vec<u8>, Duration),
    /// Nothing until the client ends the connection.
    Hold,
    /// The next request of the connection is answered too.
    Next,
}

/// A client's request.
#[derive(Clone, Debug)]
pub struct Asked {
    /// The path, with the query.
    pub path: String,
    /// The first byte that is asked for.
    pub from: Option<usize>,
    /// How many requests for the same path there were before.
    pub before: usize,
    pub authorization: Option<String>,
}

type Answering = dyn Fn(&Asked) -> Vec<Part> + Send + Sync;

/// A server, which ends with the test.
pub struct RawServer {
    /// Host and port.
    pub address: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    ended: Arc<AtomicBool>,
}

impl RawServer {
    pub fn start(answer: impl Fn(&Asked) -> Vec<Part> + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let started = Self {
            address: listener.local_addr().unwrap().to_string(),
            asked: Arc::default(),
            ended: Arc::default(),
        };
        let answer: Arc<Answering> = Arc::new(answer);
        let counts = Arc::<Mutex<HashMap<String, usize>>>::default();
        let (asked, ended) = (Arc::clone(&started.asked), Arc::clone(&started.ended));
        thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let (answer, asked, counts) =
                    (Arc::clone(&answer), Arc::clone(&asked), Arc::clone(&counts));
                // Clients end connections as they like.
                thread::spawn(move || converse(stream?, &*answer, &asked, &counts));
            }
        });
        started
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

impl Drop for RawServer {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(&self.address);
    }
}

fn converse(
    stream: TcpStream,
    answer: &Answering,
    asked: &Mutex<Vec<Asked>>,
    counts: &Mutex<HashMap<String, usize>>,
) -> io::Result<()> {
    stream.set_read_timeout(Some(SILENCE))?;
    stream.set_nodelay(true)?;
    let mut lines = BufReader::new(stream);
    loop {
        let mut line = String::new();
        lines.read_line(&mut line)?;
        let Some(path) = line.split(' ').nth(1) else {
            return Ok(());
        };
        let before = {
            let mut counts = counts.lock().unwrap();
            let count = counts.entry(path.to_owned()).or_default();
            *count += 1;
            *count - 1
        };
        let mut request = Asked {
            path: path.to_owned(),
            from: None,
            before,
            authorization: None,
        };
        loop {
            line.clear();
            lines.read_line(&mut line)?;
            let Some((name, value)) = line.trim_end().split_once(": ") else {
                break;
            };
            if name.eq_ignore_ascii_case("range") {
                let from = value.trim_start_matches("bytes=").trim_end_matches('-');
                request.from = from.parse().ok();
            } else if name.eq_ignore_ascii_case("authorization") {
                request.authorization = Some(value.to_owned());
            }
        }
        asked.lock().unwrap().push(request.clone());
        let mut is_over = true;
        for part in answer(&request) {
            let stream = lines.get_mut();
            match part {
                Part::Bytes(bytes) => stream.write_all(&bytes)?,
                Part::Drip(bytes, pause) => {
                    for byte in bytes {
                        stream.write_all(&[byte])?;
                        thread::sleep(pause);
                    }
                }
                Part::Endless(bytes, pause) => {
                    let end = Instant::now() + ENDLESS;
                    while Instant::now() < end {
                        stream.write_all(&bytes)?;
                        thread::sleep(pause);
                    }
                }
                Part::Hold => drop(stream.read(&mut [0])),
                Part::Next => is_over = false,
            }
        }
        if is_over {
            return Ok(());
        }
    }
}

/// A whole answer of HTTP/1.1, after which the connection ends.
pub fn whole(status: &str, headers: &str, body: &[u8]) -> Part {
    let length = body.len();
    with_head(
        &format!("HTTP/1.1 {status} -\r\nContent-Length: {length}\r\n{headers}"),
        body,
    )
}

/// A header, to which its last line is added, and a body.
pub fn with_head(head: &str, body: &[u8]) -> Part {
    Part::Bytes([head.as_bytes(), b"\r\n", body].concat())
}

/// A body in chunks of this length, without its end.
pub fn chunks(body: &[u8], length: usize) -> Vec<u8> {
    let chunk = |part: &[u8]| {
        let size = format!("{:x}\r\n", part.len());
        [size.as_bytes(), part, b"\r\n"].concat()
    };
    body.chunks(length).flat_map(chunk).collect()
}
