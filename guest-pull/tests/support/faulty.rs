// SPDX-License-Identifier: Apache-2.0

//! A bad network in front of a registry: it cuts, resets, stalls, delays and slows down what it passes on, at any byte of a
//! request or an answer, and counts the bytes of blobs that it passed.

// Each of the tests' programs uses a part of it.
#![allow(dead_code)]

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};

/// How long a client may send nothing.
const SILENCE: Duration = Duration::from_secs(120);

/// How much of an answer is on its way at most when its connection is reset. What was not received by then is lost, and
/// counts as passed.
const ON_THE_WAY: usize = 8 << 10;

/// How long a client may take at most to read what it was sent, before its connection is reset.
const READING: Duration = Duration::from_secs(5);

/// What happens to one request and its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Nothing: the connection stays open for the next request.
    None,
    /// The connection ends after so many bytes of the answer, its header included.
    Cut(usize),
    /// It is reset there.
    Reset(usize),
    /// Nothing follows those bytes.
    Stall(usize),
    /// What follows them comes later.
    Delay(usize, Duration),
    /// So many bytes come at once, with pauses between them.
    Slow(usize, Duration),
    /// The connection is closed after so many bytes of the request, and by that reset.
    CutRequest(usize),
    /// These bytes come in place of the answer, and then the end.
    Instead(Vec<u8>),
    /// The answer is whole, and nothing says that the connection ends with it.
    CloseAfter,
    /// The answer is whole, and the connection is reset when the next request comes.
    ResetNext,
}

/// A request, as far as faults depend on it.
#[derive(Clone, Debug)]
pub struct Passing {
    pub path: String,
    /// How many requests for the same path there were before.
    pub before: usize,
}

/// Which faults happen.
pub type Plan = Arc<dyn Fn(&Passing) -> Fault + Send + Sync>;

/// Chooses faults by a number: for most numbers some that pass, for some those that do not. None takes long.
pub fn random(seed: u64) -> Plan {
    let of_seed = Random(seed);
    // How many faults of a hundred requests, and at most how many for one path.
    let share = [15, 40, 70, 100][of_seed.of("share", 4)];
    let most = match of_seed.of("lasts", 16) {
        0 => usize::MAX,
        _ => 1 + of_seed.of("most", 3),
    };
    Arc::new(move |passing| {
        let random =
            Random(of_seed.of(&format!("{}#{}", passing.path, passing.before), 1 << 40) as u64);
        if passing.before >= most || random.of("is", 100) >= share {
            return Fault::None;
        }
        // In the header, near its end, somewhere in the first bytes of the body, or anywhere.
        let at = random.of("at", [1, 50, 200, 2_000, 60_000][random.of("where", 5)]);
        let time = Duration::from_millis(random.of("time", 300) as u64);
        let status = |line: &str, headers: &str| {
            format!("HTTP/1.1 {line} -\r\n{headers}Content-Length: 2\r\n\r\n{{}}").into_bytes()
        };
        match random.of("kind", 20) {
            0..=3 => Fault::Cut(at),
            4..=7 => Fault::Reset(at),
            8 | 9 => Fault::Delay(at, time),
            10 => Fault::Slow(1_000 + at, time / 60),
            11 | 12 => Fault::CutRequest(at % 80),
            13 => Fault::CloseAfter,
            14 => Fault::ResetNext,
            15 => Fault::Instead(status("503", "Retry-After: 1\r\n")),
            16 => Fault::Instead(status("429", "")),
            17 => Fault::Instead(status("500", "")),
            18 => Fault::Instead(random.bytes(at)),
            _ => Fault::Cut(0),
        }
    })
}

/// Numbers that a seed stands for, by what they are for.
#[derive(Clone, Copy)]
struct Random(u64);

impl Random {
    /// One below `end`.
    fn of(self, what: &str, end: usize) -> usize {
        let mut hasher = DefaultHasher::new();
        (self.0, what).hash(&mut hasher);
        (hasher.finish() % end as u64) as usize
    }

    fn bytes(self, length: usize) -> Vec<u8> {
        let byte = |at: usize| self.of(&at.to_string(), 256) as u8;
        (0..length.min(500)).map(byte).collect()
    }
}

/// What was passed on.
#[derive(Clone, Debug)]
pub struct Passed {
    pub path: String,
    pub fault: Fault,
    /// How many bytes of the answer's body.
    pub body: usize,
}

/// The network, which ends with the test.
pub struct Faulty {
    /// Host and port, in the place of the server's.
    pub address: String,
    passed: Arc<Mutex<Vec<Passed>>>,
    ended: Arc<AtomicBool>,
}

impl Faulty {
    pub fn start(server: &str, plan: Plan) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let started = Self {
            address: listener.local_addr().unwrap().to_string(),
            passed: Arc::default(),
            ended: Arc::default(),
        };
        let network = Network {
            server: server.to_owned(),
            plan,
            passed: Arc::clone(&started.passed),
            asked: Arc::default(),
        };
        let ended = Arc::clone(&started.ended);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let network = network.clone();
                // Clients end connections as they like.
                thread::spawn(move || network.serve(stream?));
            }
        });
        started
    }

    pub fn passed(&self) -> Vec<Passed> {
        self.passed.lock().unwrap().clone()
    }

    /// How many faults there were.
    pub fn faults(&self) -> usize {
        let passed = self.passed();
        passed
            .iter()
            .filter(|passed| passed.fault != Fault::None)
            .count()
    }

    /// How many bytes of a blob were passed on.
    pub fn bytes_of(&self, digest: &str) -> usize {
        let passed = self.passed();
        let of_blob = passed.iter().filter(|passed| passed.path.ends_with(digest));
        of_blob.map(|passed| passed.body).sum()
    }
}

impl Drop for Faulty {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(&self.address);
    }
}

#[derive(Clone)]
struct Network {
    server: String,
    plan: Plan,
    passed: Arc<Mutex<Vec<Passed>>>,
    asked: Arc<Mutex<HashMap<String, usize>>>,
}

impl Network {
    /// One connection.
    fn serve(&self, mut client: TcpStream) -> io::Result<()> {
        client.set_read_timeout(Some(SILENCE))?;
        client.set_nodelay(true)?;
        let mut resets = false;
        loop {
            // It is not taken off the connection yet, so that any part of it can be left there.
            let Some(head) = peek_head(&client)? else {
                return Ok(());
            };
            if resets {
                return Ok(());
            }
            let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
            let before = {
                let mut asked = self.asked.lock().unwrap();
                let count = asked.entry(path.clone()).or_default();
                *count += 1;
                *count - 1
            };
            let passing = Passing { path, before };
            let fault = (self.plan)(&passing);
            if let Fault::CutRequest(at) = fault {
                client.read_exact(&mut vec![0; at.min(head.len() - 1)])?;
                self.note(&passing, fault, 0);
                return Ok(());
            }
            client.read_exact(&mut vec![0; head.len()])?;
            let (answer, length_of_head) = match &fault {
                Fault::Instead(bytes) => (bytes.clone(), bytes.len()),
                _ => self.ask(&head)?,
            };
            // Noted before it is sent, since the client may end before this thread does.
            let most = match fault {
                Fault::Cut(at) | Fault::Reset(at) | Fault::Stall(at) => at.min(answer.len()),
                _ => answer.len(),
            };
            self.note(&passing, fault.clone(), most.saturating_sub(length_of_head));
            send(&mut client, &answer, &fault)?;
            match fault {
                Fault::None | Fault::Delay(..) | Fault::Slow(..) => {}
                Fault::ResetNext => resets = true,
                Fault::Stall(_) => {
                    let _ = client.read(&mut [0]);
                    return Ok(());
                }
                _ => return Ok(()),
            }
        }
    }

    fn note(&self, passing: &Passing, fault: Fault, body: usize) {
        self.passed.lock().unwrap().push(Passed {
            path: passing.path.clone(),
            fault,
            body,
        });
    }

    /// The server's whole answer, and the length of its header.
    fn ask(&self, head: &str) -> io::Result<(Vec<u8>, usize)> {
        let mut server = TcpStream::connect(&self.server)?;
        let (first, rest) = head.split_once("\r\n").unwrap();
        write!(server, "{first}\r\nConnection: close\r\n{rest}")?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer)?;
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n");
        let (head, body) = answer.split_at(end.ok_or(io::ErrorKind::InvalidData)? + 4);
        // The client may send more on this connection.
        let head = String::from_utf8_lossy(head).replace("Connection: close\r\n", "");
        Ok(([head.as_bytes(), body].concat(), head.len()))
    }
}

fn send(client: &mut TcpStream, answer: &[u8], fault: &Fault) -> io::Result<()> {
    let (head, rest) = match *fault {
        Fault::Cut(at) | Fault::Stall(at) => (&answer[..at.min(answer.len())], &[][..]),
        Fault::Delay(at, _) => answer.split_at(at.min(answer.len())),
        Fault::Reset(at) => {
            setsockopt(client, sockopt::SndBuf, &ON_THE_WAY).map_err(io::Error::from)?;
            (&answer[..at.min(answer.len())], &[][..])
        }
        Fault::Slow(at_once, pause) => {
            for part in answer.chunks(at_once) {
                client.write_all(part)?;
                thread::sleep(pause);
            }
            return Ok(());
        }
        _ => (answer, &[][..]),
    };
    client.write_all(head)?;
    match fault {
        Fault::Delay(_, time) => {
            thread::sleep(*time);
            client.write_all(rest)?;
        }
        Fault::Reset(_) => {
            // What the client has not read by then would be lost, and how much that is depends on how busy it is.
            let end = Instant::now() + READING;
            while unread(client)? && Instant::now() < end {
                thread::sleep(Duration::from_millis(1));
            }
            let at_once = nix::libc::linger {
                l_onoff: 1,
                l_linger: 0,
            };
            setsockopt(client, sockopt::Linger, &at_once).map_err(io::Error::from)?;
        }
        _ => {}
    }
    Ok(())
}

/// Whether the client, which is on this machine, has not read all that it was sent: proc_net_tcp(5).
fn unread(client: &TcpStream) -> io::Result<bool> {
    let (SocketAddr::V4(own), SocketAddr::V4(theirs)) = (client.local_addr()?, client.peer_addr()?)
    else {
        return Ok(false);
    };
    let shown = |address: SocketAddrV4| {
        let bytes = u32::from_ne_bytes(address.ip().octets());
        format!("{bytes:08X}:{:04X}", address.port())
    };
    let (own, theirs) = (shown(own), shown(theirs));
    let table = std::fs::read_to_string("/proc/net/tcp")?;
    let queues = table.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let is_theirs = fields.get(1..3)? == [theirs.as_str(), own.as_str()];
        is_theirs.then(|| fields.get(4).map(|queues| (*queues).to_owned()))?
    });
    Ok(queues.is_some_and(|queues| !queues.ends_with(":00000000")))
}

/// The head of the next request, which stays where it is; none at the end.
fn peek_head(client: &TcpStream) -> io::Result<Option<String>> {
    let mut bytes = [0; 16 << 10];
    let mut seen = 0;
    loop {
        let length = client.peek(&mut bytes)?;
        if length == 0 || length == bytes.len() {
            return Ok(None);
        }
        let end = bytes[..length]
            .windows(4)
            .position(|four| four == b"\r\n\r\n");
        if let Some(end) = end {
            let head = &bytes[..end + 4];
            return Ok(Some(String::from_utf8_lossy(head).into_owned()));
        }
        if length == seen {
            thread::sleep(Duration::from_millis(1));
        }
        seen = length;
    }
}
