// SPDX-License-Identifier: Apache-2.0

//! The measured servers, all started in the same way.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;

use crate::client::{Client, Exchange, PATIENCE, learn};
use crate::process::{Processors, leave_service_manager, run_on, start_apart};
use crate::running::Running;
use crate::wire;

/// The path of the requested resource.
pub const RESOURCE: &str = "default/bench/answer";

/// The paths of the programs.
#[derive(Clone)]
pub struct Programs {
    /// The daemon.
    pub daemon: PathBuf,
    /// The directory of the floors.
    pub floors: PathBuf,
}

/// The kind of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The daemon.
    Daemon,
    /// The echo server on tokio.
    Echo,
    /// The ttrpc crate's own server.
    Ttrpc,
}

/// All three kinds.
pub const KINDS: [Kind; 3] = [Kind::Daemon, Kind::Echo, Kind::Ttrpc];

/// A directory with a server's files and socket.
pub struct Place {
    dir: TempDir,
    bytes: usize,
}

impl Place {
    /// A place with a resource of this number of bytes.
    pub fn new(bytes: usize) -> Self {
        Self::with(&resources([(RESOURCE.to_owned(), bytes)]), bytes)
    }

    /// A place whose resources file has this text, which includes a resource of this number of bytes.
    pub fn with(text: &str, bytes: usize) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        fs::create_dir(dir.path().join("etc")).expect("a directory");
        let place = Self { dir, bytes };
        fs::write(place.file(), text).expect("a file");
        fs::set_permissions(place.file(), fs::Permissions::from_mode(0o600)).expect("a file");
        // A file that has just changed would be read twice.
        thread::sleep(Duration::from_millis(60));
        place
    }

    /// The root directory.
    pub fn root(&self) -> &Path {
        self.dir.path()
    }

    /// The resources file.
    pub fn file(&self) -> PathBuf {
        self.root().join("etc/aa-offline_fs_kbc-resources.json")
    }

    /// The file for the daemon's standard error.
    pub fn log(&self) -> PathBuf {
        self.root().join("log")
    }

    /// The socket of a kind of server.
    pub fn socket(&self, kind: Kind) -> PathBuf {
        self.root().join(match kind {
            Kind::Daemon => "run/confidential-containers/attestation-agent/getresource.sock",
            Kind::Echo => "echo.sock",
            Kind::Ttrpc => "ttrpc.sock",
        })
    }

    /// The request and answer of the ttrpc servers; the echo server uses the same sizes.
    fn exchange(&self) -> Exchange {
        let request = wire::request(RESOURCE);
        let answer = wire::answer_bytes(self.bytes);
        Exchange { request, answer }
    }
}

/// A resources file with entries of these names and sizes.
pub fn resources(entries: impl IntoIterator<Item = (String, usize)>) -> String {
    let mut text = String::from("{");
    for (name, bytes) in entries {
        if text.len() > 1 {
            text.push_str(",\n");
        }
        let value: Vec<u8> = (0..bytes).map(|at| (at * 7 % 251) as u8).collect();
        text.push_str(&format!("\"{name}\":\"{}\"", STANDARD.encode(value)));
    }
    text.push_str("}\n");
    text
}

/// A running server.
pub struct Server {
    running: Running,
    /// Its socket.
    pub socket: PathBuf,
    /// The request and its answer.
    pub exchange: Exchange,
    /// The time from before its start to its first answer.
    pub started: Duration,
}

impl Server {
    /// Starts the server, and waits for its first answer.
    pub fn start(kind: Kind, programs: &Programs, place: &Place) -> Self {
        let socket = place.socket(kind);
        // A killed server has left its socket.
        let _ = fs::remove_file(&socket);
        let exchange = place.exchange();
        let mut command = command(kind, programs, place, &exchange);
        start_apart();
        let start = Instant::now();
        let running = Running(command.spawn().expect("the program starts"));
        run_on(running.pid(), Processors::Two);
        let mut server = Self {
            running,
            socket,
            exchange,
            started: Duration::ZERO,
        };
        let mut client = loop {
            match Client::connect(&server.socket, &server.exchange) {
                Ok(client) => break client,
                Err(error) if start.elapsed() > PATIENCE => panic!("{kind:?}: {error}"),
                Err(_) => thread::yield_now(),
            }
        };
        client.ask().expect("a first answer");
        server.started = start.elapsed();
        run_on(server.pid(), Processors::Any);
        if kind != Kind::Echo {
            // The length was checked; now check the content.
            let request = &server.exchange.request;
            let learnt = learn(&server.socket, request, place.bytes).expect("the resource");
            assert_eq!(learnt.answer, server.exchange.answer, "another length");
        }
        server
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.running.pid()
    }

    /// A new connection to it.
    pub fn connect(&self) -> Client {
        Client::connect(&self.socket, &self.exchange).expect("a connection")
    }
}

fn command(kind: Kind, programs: &Programs, place: &Place, exchange: &Exchange) -> Command {
    let socket = place.socket(kind);
    let mut command = match kind {
        Kind::Daemon => {
            let mut command = Command::new(&programs.daemon);
            command.args(["serve", "--root"]).arg(place.root());
            command.stderr(File::create(place.log()).expect("a log"));
            command
        }
        Kind::Echo => {
            let mut command = Command::new(programs.floors.join("echo"));
            command.arg(socket).arg(exchange.request.len().to_string());
            command.arg(exchange.answer.to_string());
            command
        }
        Kind::Ttrpc => {
            let mut command = Command::new(programs.floors.join("ttrpc-server"));
            command.arg(socket).arg(place.bytes.to_string());
            command
        }
    };
    leave_service_manager(&mut command);
    command.stdin(Stdio::null());
    command
}

/// How long the floor takes to read a file of base64 lines and to decode them, in ms, and its peak in KiB.
pub fn decode(programs: &Programs, lines: &Path) -> io::Result<(f64, f64)> {
    let output = Command::new(programs.floors.join("decode"))
        .arg(lines)
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut words = text.split_whitespace().map(str::parse::<f64>);
    match (words.next(), words.next()) {
        (Some(Ok(time)), Some(Ok(peak))) => Ok((time, peak)),
        _ => Err(io::Error::other(format!("decode said {text:?}"))),
    }
}
