// SPDX-License-Identifier: Apache-2.0

//! What stands between the puller and the registry: it notes each request, and does with it what a point wants.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How long a connection may be silent, except where a point wants it.
const SILENCE: Duration = Duration::from_secs(60);

/// What is done with a request.
#[derive(Clone, Debug)]
pub enum Does {
    /// The registry answers.
    Forward,
    /// The registry answers, and the connection ends after so many bytes of the body.
    Cut(usize),
    /// The registry answers, and after so many bytes of the body nothing comes until the point releases it.
    Stall(usize),
    /// The registry answers, and the last byte of the body is another one.
    Alter,
    /// This status line, more lines of the header, and the body.
    Answer(&'static str, String, String),
}

/// A request.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    /// As it was sent: with scheme and host if the client takes this for a proxy.
    pub target: String,
    pub authorization: String,
    pub has_range: bool,
    pub body: String,
    /// How many requests for the same there were before.
    pub before: usize,
}

impl Asked {
    /// Whether it asks for this blob.
    pub fn is_blob(&self, digest: &str) -> bool {
        self.method == "GET" && self.target.ends_with(&format!("/blobs/{digest}"))
    }
}

/// Decides what is done with a request.
type Decide = dyn Fn(&Asked) -> Does + Send + Sync;

#[derive(Default)]
struct Shared {
    asked: Mutex<Vec<Asked>>,
    /// The ports of the clients whose answers stall, and whether they have gone away meanwhile.
    stalled: Mutex<Vec<(u16, bool)>>,
    changed: Condvar,
    released: AtomicBool,
}

/// A server on loopback before the registry.
pub struct Front {
    pub address: String,
    shared: Arc<Shared>,
}

impl Front {
    /// Starts it. It ends with the program.
    pub fn start(
        registry: &str,
        decide: impl Fn(&Asked) -> Does + Send + Sync + 'static,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let front = Self {
            address: listener.local_addr()?.to_string(),
            shared: Arc::default(),
        };
        let (shared, registry) = (Arc::clone(&front.shared), registry.to_owned());
        let decide: Arc<Decide> = Arc::new(decide);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (shared, registry) = (Arc::clone(&shared), registry.clone());
                let decide = Arc::clone(&decide);
                // Clients end connections as they like.
                thread::spawn(move || drop(converse(&stream, &registry, &shared, &*decide)));
            }
        });
        Ok(front)
    }

    /// All requests until now.
    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().expect("no panics").clone()
    }

    /// Waits until an answer stalls; gives the client's port.
    pub fn wait_for_stall(&self, patience: Duration) -> Option<u16> {
        self.wait(patience, |stalled| stalled.first().map(|(port, _)| *port))
    }

    /// Waits until the client of a stalled answer has closed its connection.
    pub fn wait_for_end(&self, patience: Duration) -> bool {
        let ended = |stalled: &[(u16, bool)]| stalled.iter().any(|(_, ended)| *ended).then_some(());
        self.wait(patience, ended).is_some()
    }

    fn wait<T>(
        &self,
        patience: Duration,
        found: impl Fn(&[(u16, bool)]) -> Option<T>,
    ) -> Option<T> {
        let end = Instant::now() + patience;
        let mut stalled = self.shared.stalled.lock().expect("no panics");
        loop {
            if let Some(it) = found(&stalled) {
                return Some(it);
            }
            let left = end.checked_duration_since(Instant::now())?;
            let waited = self.shared.changed.wait_timeout(stalled, left);
            stalled = waited.expect("no panics").0;
        }
    }

    /// Lets what stalls go on, and nothing stall any more.
    pub fn release(&self) {
        self.shared.released.store(true, Ordering::SeqCst);
    }
}

/// Reads one request, and answers it. Each connection has one.
fn converse(
    client: &TcpStream,
    registry: &str,
    shared: &Shared,
    decide: &Decide,
) -> io::Result<()> {
    client.set_read_timeout(Some(SILENCE))?;
    let mut reader = BufReader::new(client);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let line = line.trim_end().to_owned();
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let value = |name: &str| {
        let found = lines.iter().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        });
        found.unwrap_or_default().to_owned()
    };
    let mut body = vec![0; value("content-length").parse().unwrap_or_default()];
    reader.read_exact(&mut body)?;
    let first = lines.first().cloned().unwrap_or_default();
    let mut words = first.split(' ').map(str::to_owned);
    let (method, target) = (
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    );
    let mut asked = Asked {
        authorization: value("authorization"),
        has_range: !value("range").is_empty(),
        body: String::from_utf8_lossy(&body).into_owned(),
        before: 0,
        method,
        target,
    };
    {
        let mut all = shared.asked.lock().expect("no panics");
        let same = |other: &&Asked| other.target == asked.target && other.method == asked.method;
        asked.before = all.iter().filter(same).count();
        all.push(asked.clone());
    }
    let mut to = client;
    let does = decide(&asked);
    if let Does::Answer(status, more, text) = does {
        // Where a header names this server itself.
        let more = more.replace("HOST", &client.local_addr()?.to_string());
        let length = text.len();
        return write!(
            to,
            "HTTP/1.1 {status}\r\n{more}Content-Length: {length}\r\nConnection: close\r\n\r\n{text}"
        );
    }
    let path = match asked.target.strip_prefix("http://") {
        Some(rest) => rest.find('/').map_or("/", |at| &rest[at..]),
        None => &asked.target,
    };
    let mut upstream = TcpStream::connect(registry)?;
    let kept = lines.iter().skip(1).filter(|line| {
        let name = line.split(':').next().unwrap_or_default();
        // The login is for what the point plays.
        let drops = ["connection", "authorization", "proxy-connection"];
        !drops.contains(&&*name.to_ascii_lowercase())
    });
    let kept: String = kept.map(|line| format!("{line}\r\n")).collect();
    write!(
        upstream,
        "{} {path} HTTP/1.1\r\n{kept}Connection: close\r\n\r\n",
        asked.method
    )?;
    let mut answer = Vec::new();
    upstream.read_to_end(&mut answer)?;
    let head = answer.windows(4).position(|end| end == b"\r\n\r\n");
    let head = head.map_or(answer.len(), |at| at + 4);
    match does {
        Does::Cut(bytes) => {
            to.write_all(&answer[..answer.len().min(head + bytes)])?;
            return client.shutdown(Shutdown::Both);
        }
        Does::Stall(bytes) if !shared.released.load(Ordering::SeqCst) => {
            let part = answer.len().min(head + bytes);
            to.write_all(&answer[..part])?;
            if !stall(client, shared)? {
                return Ok(());
            }
            to.write_all(&answer[part..])?;
        }
        Does::Alter => {
            if let Some(last) = answer.last_mut() {
                *last ^= 1;
            }
            to.write_all(&answer)?;
        }
        _ => to.write_all(&answer)?,
    }
    client.shutdown(Shutdown::Write)
}

/// Says nothing until the point releases it, or the client goes away; gives whether the client is still there.
fn stall(client: &TcpStream, shared: &Shared) -> io::Result<bool> {
    let port = client.peer_addr()?.port();
    let index = {
        let mut stalled = shared.stalled.lock().expect("no panics");
        stalled.push((port, false));
        shared.changed.notify_all();
        stalled.len() - 1
    };
    client.set_read_timeout(Some(Duration::from_millis(50)))?;
    let mut from = client;
    loop {
        if shared.released.load(Ordering::SeqCst) {
            return Ok(true);
        }
        match from.read(&mut [0; 16]) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                ) => {}
            Ok(count) if count > 0 => {}
            _ => break,
        }
    }
    let mut stalled = shared.stalled.lock().expect("no panics");
    stalled[index].1 = true;
    shared.changed.notify_all();
    Ok(false)
}
