// SPDX-License-Identifier: Apache-2.0

//! The load on the daemon: clients that check every answer, a thread that changes the file, and hostile
//! peers.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use offline_fs_kbc_bench::client::receive;
use offline_fs_kbc_bench::wire;
use tempfile::TempDir;

use crate::supervisor::create;

/// Two resources, so that large answers mix with small ones.
const SMALL: &str = "default/soak/small";
const LARGE: &str = "default/soak/large";
const LARGE_BYTES: usize = 300_000;

/// How long a client tries to connect before the daemon counts as gone: a restart takes milliseconds, and an
/// orderly end up to 5 s.
const PATIENCE: Duration = Duration::from_secs(20);

/// The longest time for an answer on a busy machine: half of a client's shortest deadline.
const ANSWER: Duration = Duration::from_secs(5);

/// The state that all threads share.
pub struct World {
    dir: TempDir,
    running: AtomicBool,
    /// Locked while the file is half-written, and while a process starts: a process that has not loaded a
    /// good file yet has nothing to serve meanwhile.
    whole: Mutex<()>,
    /// The version that the file certainly has.
    pub committed: AtomicU64,
    /// The version that the file is about to have.
    pending: AtomicU64,
    /// Good answers.
    pub answers: AtomicU64,
    /// Connections of hostile peers.
    pub attacks: AtomicU64,
    /// How often a client reconnected.
    pub reconnects: AtomicU64,
    /// What must not happen and did.
    pub errors: Errors,
}

/// What must not happen and did.
#[derive(Default)]
pub struct Errors(Mutex<Vec<String>>);

impl Errors {
    /// Adds a fault.
    pub fn add(&self, error: String) {
        eprintln!("soak: {error}");
        self.lock().push(error);
    }

    /// All faults.
    pub fn all(&self) -> Vec<String> {
        self.lock().clone()
    }

    /// Removes the faults from before the soak.
    pub fn clear(&self) {
        self.lock().clear();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<String>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl World {
    /// A root directory with the first version of the file.
    pub fn new() -> io::Result<Self> {
        let dir = tempfile::tempdir()?;
        fs::create_dir(dir.path().join("etc"))?;
        let world = Self {
            dir,
            running: AtomicBool::new(false),
            whole: Mutex::default(),
            committed: AtomicU64::new(0),
            pending: AtomicU64::new(0),
            answers: AtomicU64::new(0),
            attacks: AtomicU64::new(0),
            reconnects: AtomicU64::new(0),
            errors: Errors::default(),
        };
        world.replace(&content(0))?;
        Ok(world)
    }

    /// The root directory.
    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    fn socket(&self) -> PathBuf {
        self.root()
            .join("run/confidential-containers/attestation-agent/getresource.sock")
    }

    /// Starts the threads' work.
    pub fn go(&self) {
        self.running.store(true, Ordering::SeqCst);
    }

    /// Tells the threads to end.
    pub fn halt(&self) {
        self.running.store(false, Ordering::SeqCst);
    }

    fn goes_on(&self) -> bool {
        self.running.load(Ordering::SeqCst)
    }

    /// Keeps the file complete until the guard is dropped.
    pub fn whole(&self) -> MutexGuard<'_, ()> {
        self.whole.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Replaces the resources file by a rename.
    fn replace(&self, text: &str) -> io::Result<()> {
        let new = self.root().join("etc/new");
        create(&new)?.write_all(text.as_bytes())?;
        fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
        fs::rename(new, self.file())
    }

    fn file(&self) -> PathBuf {
        self.root().join("etc/aa-offline_fs_kbc-resources.json")
    }

    fn connect(&self, patience: Duration) -> io::Result<UnixStream> {
        let start = Instant::now();
        loop {
            match UnixStream::connect(self.socket()) {
                Ok(stream) => {
                    stream.set_read_timeout(Some(ANSWER))?;
                    stream.set_write_timeout(Some(ANSWER))?;
                    return Ok(stream);
                }
                Err(error) if start.elapsed() > patience => return Err(error),
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
        }
    }

    /// Sends a request and checks the answer. An error is one of the connection, as at a restart; a wrong
    /// answer is added to the faults.
    fn ask(&self, stream: &mut UnixStream, path: &str) -> io::Result<()> {
        let least = self.committed.load(Ordering::SeqCst);
        stream.write_all(&wire::request(path))?;
        let body = receive(stream).inspect_err(|error| {
            if matches!(
                error.kind(),
                io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
            ) {
                self.errors.add(format!("no answer within {ANSWER:?}"));
            }
        })?;
        let most = self.pending.load(Ordering::SeqCst);
        match wire::resource(&body) {
            Err(code) => self.errors.add(format!("{path} is refused: {code:?}")),
            Ok(value) => match version(path, &value) {
                None => self
                    .errors
                    .add(format!("{path}: {} wrong bytes", value.len())),
                Some(version) if version < least || version > most => self.errors.add(format!(
                    "{path}: content {version}, when the file had {least} to {most}"
                )),
                Some(_) => {
                    self.answers.fetch_add(1, Ordering::Relaxed);
                }
            },
        }
        Ok(())
    }
}

/// The file's text of a version; both values contain the version.
fn content(version: u64) -> String {
    let small = format!("content {version}");
    let mut large = small.clone().into_bytes();
    large.resize(LARGE_BYTES, b'.');
    format!(
        "{{\"{SMALL}\":\"{}\",\"{LARGE}\":\"{}\"}}",
        STANDARD.encode(small),
        STANDARD.encode(large)
    )
}

/// The version of a value, if it has one.
fn version(path: &str, value: &[u8]) -> Option<u64> {
    if path == LARGE && value.len() != LARGE_BYTES {
        return None;
    }
    let text = std::str::from_utf8(value).ok()?;
    let number = text.trim_end_matches('.').strip_prefix("content ")?;
    number.parse().ok()
}

/// A client that keeps one connection as long as it lasts, as kata-agent does.
pub fn steady(world: &World) {
    while world.goes_on() {
        let Ok(mut stream) = world.connect(PATIENCE) else {
            world
                .errors
                .add(format!("no connection within {PATIENCE:?}"));
            continue;
        };
        let mut asked = 0;
        while world.goes_on() {
            let path = if asked % 50 == 7 { LARGE } else { SMALL };
            if world.ask(&mut stream, path).is_err() {
                world.reconnects.fetch_add(1, Ordering::Relaxed);
                break;
            }
            asked += 1;
            if asked % 20 == 0 {
                thread::sleep(Duration::from_millis(1));
            }
        }
    }
}

/// A client that connects for each request.
pub fn brief(world: &World) {
    while world.goes_on() {
        match world.connect(PATIENCE) {
            // A restart may close the connection before the answer.
            Ok(mut stream) => drop(world.ask(&mut stream, SMALL)),
            Err(error) => world.errors.add(format!("no connection: {error}")),
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// Changes the file: mostly by a rename, sometimes in place, so that it is half-written for a moment.
pub fn write(world: &World) {
    while world.goes_on() {
        let next = world.committed.load(Ordering::SeqCst) + 1;
        world.pending.store(next, Ordering::SeqCst);
        let text = content(next);
        let written = if next % 10 == 0 {
            // Write in place and in two parts, as a careless script would; half of it is not JSON, so the
            // last good content must still be served.
            let _guard = world.whole();
            create(&world.file()).and_then(|mut file| {
                let (one, other) = text.as_bytes().split_at(text.len() / 2);
                file.write_all(one)?;
                thread::sleep(Duration::from_millis(30));
                file.write_all(other)
            })
        } else {
            world.replace(&text)
        };
        match written {
            Ok(()) => world.committed.store(next, Ordering::SeqCst),
            Err(error) => world.errors.add(format!("the soak can't write: {error}")),
        }
        thread::sleep(Duration::from_millis(40 + next % 7 * 20));
    }
}

/// Waits until the last content is served.
pub fn settled(world: &World) {
    let asked = world
        .connect(PATIENCE)
        .and_then(|mut stream| world.ask(&mut stream, LARGE));
    if let Err(error) = asked {
        world.errors.add(format!("no answer: {error}"));
    }
}

/// Hostile peers, one after another.
pub fn hostile(world: &World) {
    let attacks: [fn(&World) -> io::Result<()>; 6] = [
        garbage,
        half_a_frame,
        an_oversized_frame,
        never_read,
        a_crowd,
        nonsense,
    ];
    for attack in attacks.iter().cycle() {
        if !world.goes_on() {
            return;
        }
        // The daemon may close such a connection, or be restarted meanwhile.
        let _ = attack(world);
        world.attacks.fetch_add(1, Ordering::Relaxed);
        thread::sleep(Duration::from_millis(10));
    }
}

fn garbage(world: &World) -> io::Result<()> {
    let mut stream = world.connect(ANSWER)?;
    let bytes: Vec<u8> = (0..4096u32).map(|at| (at * at % 251) as u8).collect();
    stream.write_all(&bytes)
}

fn half_a_frame(world: &World) -> io::Result<()> {
    let mut stream = world.connect(ANSWER)?;
    let frame = wire::request(SMALL);
    stream.write_all(&frame[..frame.len() / 2])?;
    thread::sleep(Duration::from_millis(20));
    Ok(())
}

/// A frame above the limit, whose bytes are discarded part by part.
fn an_oversized_frame(world: &World) -> io::Result<()> {
    let mut stream = world.connect(ANSWER)?;
    let length: u32 = 5 << 20;
    let mut header = length.to_be_bytes().to_vec();
    header.extend([0, 0, 0, 1, 1, 0]);
    stream.write_all(&header)?;
    let part = vec![b'x'; 64 << 10];
    for _ in 0..length / (64 << 10) {
        stream.write_all(&part)?;
    }
    receive(&mut stream).map(drop)
}

/// Asks for large answers until the daemon stops reading, and reads none.
fn never_read(world: &World) -> io::Result<()> {
    let mut stream = world.connect(ANSWER)?;
    stream.set_write_timeout(Some(Duration::from_millis(100)))?;
    let frame = wire::request(LARGE);
    while world.goes_on() && stream.write_all(&frame).is_ok() {}
    Ok(())
}

/// Many connections at once, each with a request, that are closed without reading.
fn a_crowd(world: &World) -> io::Result<()> {
    let mut crowd = Vec::new();
    for _ in 0..200 {
        let mut stream = world.connect(ANSWER)?;
        stream.write_all(&wire::request(SMALL))?;
        crowd.push(stream);
    }
    Ok(())
}

/// Requests for unknown services and names; each is refused.
fn nonsense(world: &World) -> io::Result<()> {
    let mut stream = world.connect(ANSWER)?;
    for frame in [
        wire::call("no.such.Service", SMALL),
        wire::request("default/soak/none"),
        wire::request("../../etc/shadow"),
        wire::request(&"x".repeat(100_000)),
    ] {
        stream.write_all(&frame)?;
        if wire::resource(&receive(&mut stream)?).is_ok() {
            world
                .errors
                .add("nonsense was answered with a resource".to_owned());
        }
    }
    // And nothing more comes.
    stream.set_read_timeout(Some(Duration::from_millis(5)))?;
    match stream.read(&mut [0]) {
        Ok(0) | Err(_) => Ok(()),
        Ok(_) => {
            world.errors.add("an answer to nothing".to_owned());
            Ok(())
        }
    }
}
