// SPDX-License-Identifier: Apache-2.0

//! The other ends of `guest-pull serve`: its caller, the daemon that has the credential, and a registry that stalls.

// Each of the tests' programs uses a part of it.
#![allow(dead_code)]

use std::fs;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use common::client::read_frame;
use common::proto::api::{
    GetResourceRequest, GetResourceResponse, ImagePullRequest, ImagePullResponse,
};
use common::proto::guest_pull::Progress;
use protobuf::Message as _;
use ttrpc::proto::{KeyValue, MESSAGE_TYPE_DATA, MESSAGE_TYPE_RESPONSE};
use ttrpc::{Code, MessageHeader, Request, Response, get_status};

use crate::host::{PATIENCE, guest_pull};

/// What kata-agent of kata 4.1.0 sent: one frame.
const RECORDED: &[u8] =
    include_bytes!("../../../tests/vectors/g4-kata-4.1.0-pullimage.request.bin");

/// Waits for something that a busy machine does in a moment.
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}");
        sleep(Duration::from_millis(20));
    }
}

/// The recorded request, for another image and bundle.
pub fn recorded(image: &str, bundle: &Path) -> Request {
    let mut request = Request::parse_from_bytes(&RECORDED[10..]).unwrap();
    let mut pull = ImagePullRequest::parse_from_bytes(&request.payload).unwrap();
    assert_eq!(pull.image_url, "registry.example/app:latest");
    pull.image_url = image.to_owned();
    pull.bundle_path = bundle.to_str().unwrap().to_owned();
    request.payload = pull.write_to_bytes().unwrap();
    request
}

/// The request, with the wish to be told how it goes.
pub fn with_progress(mut request: Request) -> Request {
    request.metadata.push(KeyValue {
        key: "progress".to_owned(),
        value: "1".to_owned(),
        ..Default::default()
    });
    request
}

/// A running `guest-pull serve`, and the caller's end of its connection.
pub struct Serve {
    pub child: Child,
    pub stream: Option<UnixStream>,
}

/// What came back.
pub struct Answer {
    pub response: Response,
    /// The body of the frame as it came.
    pub body: Vec<u8>,
    pub progress: Vec<Progress>,
}

impl Answer {
    pub fn code(&self) -> Code {
        self.response.status().code()
    }

    pub fn text(&self) -> &str {
        &self.response.status().message
    }

    pub fn digest(&self) -> String {
        assert_eq!(self.code(), Code::OK, "{}", self.text());
        let answer = ImagePullResponse::parse_from_bytes(&self.response.payload).unwrap();
        answer.manifest_digest
    }
}

/// A root for one test: where the store, the bundle, the configuration and the daemon's socket are.
pub struct Place {
    pub dir: tempfile::TempDir,
}

impl Place {
    /// In memory, as in a VM; or on a disk.
    pub fn new(on_disk: bool) -> Self {
        let dir = match on_disk {
            true => tempfile::tempdir(),
            false => tempfile::tempdir_in("/dev/shm"),
        };
        let place = Self { dir: dir.unwrap() };
        fs::create_dir(place.bundle()).unwrap();
        place.configure("");
        place
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn bundle(&self) -> PathBuf {
        self.at("bundle")
    }

    pub fn rootfs(&self) -> PathBuf {
        self.bundle().join("rootfs")
    }

    /// Writes `cdh.toml`. The attestation-agent is the test's own, if it starts one.
    pub fn configure(&self, text: &str) {
        let agent = self.at("agent.sock").display().to_string();
        let text = format!("{text}\n[aa]\naa_socket = \"unix://{agent}\"\n");
        fs::write(self.at("cdh.toml"), text).unwrap();
    }

    /// Starts the program with a connection as standard input.
    pub fn serve(&self) -> Serve {
        self.serve_into(Some(&self.at("store")))
    }

    /// The same with another store, or that of the configuration.
    pub fn serve_into(&self, store: Option<&Path>) -> Serve {
        self.serve_by(guest_pull(&[]), store)
    }

    /// The same by another command that starts the program.
    pub fn serve_by(&self, mut command: Command, store: Option<&Path>) -> Serve {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let [daemon, config] =
            ["cdh.sock", "cdh.toml"].map(|name| self.at(name).display().to_string());
        command.args(["serve", "--cdh-sock", &format!("unix://{daemon}")]);
        command.args(["--cdh-config", &config]);
        if let Some(store) = store {
            command.arg("--store").arg(store);
        }
        command
            .env_remove("CDH_DEFAULT_IMAGE_AUTHENTICATED_REGISTRY_CREDENTIALS")
            // They count for nothing, and would be asked for everything if they did.
            .env("HTTPS_PROXY", "http://127.0.0.1:1")
            .env("HTTP_PROXY", "http://127.0.0.1:1")
            .env("ALL_PROXY", "http://127.0.0.1:1")
            .stdin(OwnedFd::from(theirs))
            .stderr(fs::File::create(self.at("log")).unwrap());
        Serve {
            child: command.spawn().unwrap(),
            stream: Some(ours),
        }
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.at("log")).unwrap()
    }

    /// Sends a request and reads the answer.
    pub fn ask(&self, request: &Request) -> Answer {
        let mut serve = self.serve();
        serve.send(request);
        let answer = serve.answer();
        serve.stream = None;
        assert!(serve.child.wait().unwrap().success(), "{}", self.log());
        answer
    }

    /// What is in the store besides whole layers, sorted.
    pub fn left_in_store(&self) -> Vec<String> {
        let entries = fs::read_dir(self.at("store/layers")).into_iter().flatten();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names
            .filter(|name| !name.ends_with(".erofs") && !name.ends_with(".notes"))
            .collect();
        names.sort();
        names
    }

    /// That nothing is mounted, and nothing is left in the bundle or of a half-made layer.
    pub fn assert_nothing_left(&self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let bundle = self.bundle().display().to_string();
        assert!(!mounts.contains(&bundle), "{mounts}");
        let left: Vec<_> = fs::read_dir(self.bundle()).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(self.left_in_store(), [""; 0]);
        let writable = fs::read_dir(self.at("store/writable"))
            .into_iter()
            .flatten();
        assert_eq!(writable.count(), 0);
    }
}

/// Reads the answer, and what comes before it.
fn read_answer(stream: &mut UnixStream) -> Answer {
    let mut progress = Vec::new();
    loop {
        let (header, body) = read_frame(stream, Instant::now() + PATIENCE)
            .unwrap()
            .unwrap();
        if header.type_ == MESSAGE_TYPE_DATA {
            progress.push(Progress::parse_from_bytes(&body).unwrap());
            continue;
        }
        assert_eq!(header.type_, MESSAGE_TYPE_RESPONSE);
        return Answer {
            response: Response::parse_from_bytes(&body).unwrap(),
            body: body.to_vec(),
            progress,
        };
    }
}

impl Serve {
    pub fn send(&mut self, request: &Request) {
        self.send_raw(&frame(1, request));
    }

    /// Asks over a connection of the test's own.
    pub fn ask_over(mut stream: UnixStream, request: &Request) -> Answer {
        stream.write_all(&frame(1, request)).unwrap();
        read_answer(&mut stream)
    }

    pub fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.as_mut().unwrap().write_all(bytes).unwrap();
    }

    pub fn answer(&mut self) -> Answer {
        read_answer(self.stream.as_mut().unwrap())
    }

    /// The processes that it started.
    pub fn children(&self) -> Vec<u32> {
        children(self.child.id())
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A request's frame.
pub fn frame(stream_id: u32, request: &Request) -> Vec<u8> {
    let body = request.write_to_bytes().unwrap();
    let mut frame = Vec::from(MessageHeader::new_request(
        stream_id,
        body.len().try_into().unwrap(),
    ));
    frame.extend(body);
    frame
}

/// The processes that one has started.
pub fn children(id: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
    let ids = text.split_whitespace();
    ids.map(|id| id.parse().unwrap()).collect()
}

/// Whether a process runs, or a thread of it.
pub fn runs(id: u32) -> bool {
    // One that has ended and waits for its parent does not, once its last thread is gone.
    let status = fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    let has_threads = fs::read_dir(format!("/proc/{id}/task")).is_ok_and(|all| all.count() > 1);
    let state = status.rsplit(") ").next().unwrap_or_default();
    has_threads || !state.is_empty() && !state.starts_with('Z')
}

/// A daemon on `cdh.sock` that answers each request for the credential in the same way, and tells what it was asked for.
pub fn daemon(place: &Place, answer: Result<Vec<u8>, Code>) -> Receiver<String> {
    daemon_with(place, move |_| answer.clone())
}

/// A daemon on `cdh.sock` that answers as the function says, to the URI of a resource.
pub fn daemon_with(
    place: &Place,
    answer: impl Fn(&str) -> Result<Vec<u8>, Code> + Send + 'static,
) -> Receiver<String> {
    let path = place.at("cdh.sock");
    let _ = fs::remove_file(&path);
    let listener = UnixListener::bind(path).unwrap();
    let (send, asked) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            if answer_one(stream.unwrap(), &answer, &send).is_none() {
                return;
            }
        }
    });
    asked
}

fn answer_one(
    mut stream: UnixStream,
    answer: &dyn Fn(&str) -> Result<Vec<u8>, Code>,
    asked: &Sender<String>,
) -> Option<()> {
    let (header, body) = read_frame(&mut stream, Instant::now() + PATIENCE).ok()??;
    let request = Request::parse_from_bytes(&body).ok()?;
    assert_eq!(
        (&*request.service, &*request.method),
        ("api.GetResourceService", "GetResource")
    );
    let resource = GetResourceRequest::parse_from_bytes(&request.payload).ok()?;
    let mut response = Response::new();
    let answer = answer(&resource.ResourcePath);
    // The test need not look at it.
    let _ = asked.send(resource.ResourcePath);
    match answer {
        Ok(text) => {
            response.set_status(get_status(Code::OK, ""));
            let answer = GetResourceResponse {
                Resource: text,
                ..Default::default()
            };
            response.payload = answer.write_to_bytes().ok()?;
        }
        Err(code) => response.set_status(get_status(code, "no such thing")),
    }
    reply(&mut stream, header.stream_id, &response)
}

/// Sends the answer to a request.
fn reply(stream: &mut UnixStream, stream_id: u32, response: &Response) -> Option<()> {
    let body = response.write_to_bytes().ok()?;
    let header = MessageHeader {
        length: body.len().try_into().ok()?,
        stream_id,
        type_: MESSAGE_TYPE_RESPONSE,
        flags: 0,
    };
    stream.write_all(&[Vec::from(header), body].concat()).ok()
}

/// A registry that gives the manifest and configuration of an image layout, and of each layer only the beginning. It tells
/// when a layer was asked for.
pub struct Stalling {
    pub address: String,
    pub asked: Receiver<()>,
}

impl Stalling {
    pub fn start(layout: &Path) -> Self {
        let index: serde_json::Value =
            serde_json::from_slice(&fs::read(layout.join("index.json")).unwrap()).unwrap();
        let blobs = layout.join("blobs/sha256");
        let blob = move |digest: &str| {
            let path = blobs.join(digest.trim_start_matches("sha256:"));
            fs::read(path).unwrap()
        };
        let manifest = blob(index["manifests"][0]["digest"].as_str().unwrap());
        let parsed: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
        let config = parsed["config"]["digest"].as_str().unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (send, asked) = channel();
        // The client may be gone at any time.
        let answer = move |mut stream: &TcpStream, path: &str, asked: &Sender<()>| -> Option<()> {
            let body = match path.contains("/manifests/") {
                true => manifest.clone(),
                false => blob(path.rsplit('/').next()?),
            };
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
            stream.write_all(head.as_bytes()).ok()?;
            if path.contains("/blobs/") && !path.ends_with(&config) {
                stream.write_all(&body[..body.len() / 2]).ok()?;
                let _ = asked.send(());
                return None;
            }
            stream.write_all(&body).ok()
        };
        let answer = Arc::new(answer);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (stream, answer, send) = (stream.unwrap(), Arc::clone(&answer), send.clone());
                thread::spawn(move || {
                    while let Some(path) = request_path(&stream) {
                        if answer(&stream, &path, &send).is_none() {
                            break;
                        }
                    }
                    // It is kept open until the client closes it.
                    let _ = io::copy(&mut &stream, &mut io::sink());
                });
            }
        });
        Self { address, asked }
    }
}

/// The path of the next request of a connection, if one comes.
fn request_path(stream: &TcpStream) -> Option<String> {
    let mut lines = BufReader::new(stream).lines();
    let first = lines.next()?.ok()?;
    for line in lines {
        if line.ok()?.is_empty() {
            break;
        }
    }
    Some(first.split(' ').nth(1)?.to_owned())
}
