// SPDX-License-Identifier: Apache-2.0

//! A registry in memory, with the faults of networks and of servers.

use std::collections::VecDeque;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::image::{Image, digest_of};
use crate::random::Random;

/// How long a client may send nothing.
const SILENCE: Duration = Duration::from_secs(30);

/// How long the registry says nothing in the middle of an answer, now and then.
const STALL: Duration = Duration::from_secs(1);

/// How many images it has. Older ones go.
const IMAGES: usize = 60;

/// How often in a hundred requests something goes wrong. guest-pull tries seven times, so that it hardly ever gives up.
const FAULTS: usize = 12;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// The connection ends in the middle.
    Cut,
    /// Nothing comes for a while.
    Stall,
    /// It is told to come again.
    Status(u16),
    /// It sends all, although a part was asked for.
    NoRange,
}

/// The registry.
pub struct Registry {
    pub address: String,
    images: Mutex<VecDeque<Image>>,
    random: Mutex<Random>,
    faults: AtomicBool,
    /// How many faults there were.
    pub failed: AtomicU64,
    /// How many bytes of blobs were sent.
    pub sent: AtomicU64,
}

impl Registry {
    /// Starts one without images, for everybody.
    pub fn start(random: Random) -> io::Result<Arc<Self>> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let registry = Arc::new(Self {
            address: listener.local_addr()?.to_string(),
            images: Mutex::default(),
            random: Mutex::new(random),
            faults: AtomicBool::new(true),
            failed: AtomicU64::new(0),
            sent: AtomicU64::new(0),
        });
        let served = Arc::clone(&registry);
        // It ends with the program.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let served = Arc::clone(&served);
                // Clients end connections as they like.
                thread::spawn(move || drop(served.converse(stream)));
            }
        });
        Ok(registry)
    }

    /// Adds an image.
    pub fn add(&self, image: Image) {
        let mut images = lock(&self.images);
        images.push_back(image);
        if images.len() > IMAGES {
            images.pop_front();
        }
    }

    /// An image that is there.
    pub fn any(&self, random: &mut Random) -> Option<Image> {
        let images = lock(&self.images);
        // The oldest may be gone before they are pulled.
        let oldest = images.len().saturating_sub(IMAGES * 2 / 3);
        let at = oldest + random.below(images.len() - oldest);
        images.get(at).cloned()
    }

    /// Behaves from now on.
    pub fn behave(&self) {
        self.faults.store(false, Ordering::SeqCst);
    }

    /// Answers the requests of a connection.
    fn converse(&self, stream: TcpStream) -> io::Result<()> {
        stream.set_read_timeout(Some(SILENCE))?;
        stream.set_write_timeout(Some(SILENCE))?;
        let mut lines = BufReader::new(stream.try_clone()?);
        let mut stream = stream;
        loop {
            let mut first = String::new();
            if lines.read_line(&mut first)? == 0 {
                return Ok(());
            }
            let mut from = 0;
            loop {
                let mut line = String::new();
                lines.read_line(&mut line)?;
                let line = line.trim_end().to_ascii_lowercase();
                if let Some(range) = line.strip_prefix("range: bytes=") {
                    from = range.trim_end_matches('-').parse().unwrap_or_default();
                }
                if line.is_empty() {
                    break;
                }
            }
            let path = first.split(' ').nth(1).unwrap_or_default();
            self.answer(&mut stream, path, from, first.starts_with("HEAD "))?;
        }
    }

    fn answer(
        &self,
        stream: &mut TcpStream,
        path: &str,
        from: usize,
        is_head: bool,
    ) -> io::Result<()> {
        let fault = self.fault();
        if fault.is_some() {
            self.failed.fetch_add(1, Ordering::Relaxed);
        }
        if let Some(Fault::Status(status)) = fault {
            let again = if status == 429 {
                "Retry-After: 1\r\n"
            } else {
                ""
            };
            return write!(
                stream,
                "HTTP/1.1 {status} -\r\n{again}Content-Length: 0\r\n\r\n"
            );
        }
        let Some((media_type, body)) = self.found(path) else {
            let text = r#"{"errors":[{"code":"UNKNOWN","message":"not here"}]}"#;
            let length = text.len();
            return write!(
                stream,
                "HTTP/1.1 404 -\r\nContent-Length: {length}\r\n\r\n{text}"
            );
        };
        let from = match fault {
            Some(Fault::NoRange) => 0,
            _ => from.min(body.len()),
        };
        let part = &body[from..];
        let range = match from {
            0 => String::new(),
            _ => format!(
                "Content-Range: bytes {from}-{}/{}\r\n",
                body.len() - 1,
                body.len()
            ),
        };
        let status = if from > 0 { 206 } else { 200 };
        let length = part.len();
        write!(
            stream,
            "HTTP/1.1 {status} -\r\nContent-Type: {media_type}\r\n{range}Content-Length: {length}\r\n\r\n"
        )?;
        if is_head {
            return Ok(());
        }
        let half = lock(&self.random).below(length);
        let end = if matches!(fault, Some(Fault::Cut | Fault::Stall)) {
            half
        } else {
            length
        };
        stream.write_all(&part[..end])?;
        self.sent.fetch_add(end as u64, Ordering::Relaxed);
        match fault {
            Some(Fault::Cut) => Err(io::ErrorKind::ConnectionReset.into()),
            Some(Fault::Stall) => {
                stream.flush()?;
                thread::sleep(STALL);
                stream.write_all(&part[end..])
            }
            _ => Ok(()),
        }
    }

    /// What goes wrong with the next answer.
    fn fault(&self) -> Option<Fault> {
        let mut random = lock(&self.random);
        let is_due = self.faults.load(Ordering::SeqCst) && random.percent(FAULTS);
        let all = [
            Fault::Cut,
            Fault::Cut,
            Fault::Stall,
            Fault::Status(503),
            Fault::Status(429),
            Fault::NoRange,
        ];
        is_due.then(|| random.one_of(&all).copied())?
    }

    /// What a path leads to: a manifest by the tag `1` or its digest, or a blob.
    fn found(&self, path: &str) -> Option<(&'static str, Arc<Vec<u8>>)> {
        let path = path.strip_prefix("/v2/")?;
        let (name, kind, reference) = match path.split_once("/manifests/") {
            Some((name, reference)) => (name, "manifests", reference),
            None => path
                .split_once("/blobs/")
                .map(|(name, reference)| (name, "blobs", reference))?,
        };
        let images = lock(&self.images);
        let image = images.iter().find(|image| image.name == name)?;
        if kind == "manifests" {
            let is_it = reference == "1" || reference == digest_of(&image.manifest);
            let media_type = "application/vnd.oci.image.manifest.v1+json";
            return is_it.then(|| (media_type, Arc::clone(&image.manifest)));
        }
        let media_type = "application/octet-stream";
        if reference == digest_of(&image.config) {
            return Some((media_type, Arc::clone(&image.config)));
        }
        let layer = image
            .layers
            .iter()
            .find(|layer| layer.digest == reference)?;
        Some((media_type, Arc::clone(&layer.blob)))
    }
}

/// Locks the mutex. Nothing panics while it holds it.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
