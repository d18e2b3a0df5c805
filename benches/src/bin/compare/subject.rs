// SPDX-License-Identifier: Apache-2.0

//! Who is compared: a program on `cdh.sock`, in a VM that is no more than a mount namespace with a `/run` and an `/etc` of its own.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use offline_fs_kbc::proto::api::ImagePullRequest;
use offline_fs_kbc_bench::process::leave_service_manager;
use protobuf::Message as _;
use serde_json::{Map, Value};
use ttrpc::{Code, Request, Response};

use crate::agent::{self, Noted};

/// What kata-agent of kata 4.1.0 sent to pull an image: one frame.
const RECORDED: &[u8] =
    include_bytes!("../../../../tests/vectors/g4-kata-4.1.0-pullimage.request.bin");

/// The length of a frame's header.
const HEADER: usize = 10;

/// The sockets of the VM.
const SOCKET: &str = "/run/confidential-containers/cdh.sock";
pub const ATTESTATION_SOCKET: &str =
    "/run/confidential-containers/attestation-agent/attestation-agent.sock";

/// Where kata-agent has its bundles, and pullers their layers.
pub const BUNDLES: &str = "/run/kata-containers";

/// What the comparison itself needs, out of the subject's way.
pub const OWN: &str = "/run/compare";

/// How long a program may take to start, and what is expected of it may take to happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The program that serves `cdh.sock`.
#[derive(Clone, Debug)]
pub enum Subject {
    /// This project's daemon, with guest-pull beside it.
    Ours {
        daemon: PathBuf,
        guest_pull: PathBuf,
    },
    /// A stock confidential-data-hub.
    Stock(PathBuf),
}

impl Subject {
    /// Makes the VM, which is gone with this process.
    pub fn enter(&self) -> io::Result<()> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        let copies = match self {
            Self::Ours { daemon, guest_pull } => {
                vec![
                    ("confidential-data-hub", daemon),
                    ("guest-pull", guest_pull),
                ]
            }
            Self::Stock(hub) => vec![("confidential-data-hub", hub)],
        };
        // They may be below /run.
        let copies = copies
            .into_iter()
            .map(|(name, path)| Ok((name, fs::read(path)?)));
        let copies: Vec<_> = copies.collect::<io::Result<_>>()?;
        mount(
            Some("compare"),
            "/run",
            Some("tmpfs"),
            flags,
            Some("mode=755"),
        )?;
        for name in ["bin", "upper", "work"] {
            fs::create_dir_all(Path::new(OWN).join(name))?;
        }
        let options = format!("lowerdir=/etc,upperdir={OWN}/upper,workdir={OWN}/work");
        mount(
            Some("compare"),
            "/etc",
            Some("overlay"),
            MsFlags::empty(),
            Some(&*options),
        )?;
        for (name, content) in copies {
            let path = Path::new(OWN).join("bin").join(name);
            fs::write(&path, content)?;
            fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        }
        Ok(())
    }
}

/// What a program is started with.
#[derive(Clone, Debug, Default)]
pub struct Setting<'a> {
    /// Lines of `cdh.toml` before the first table.
    pub top: &'a str,
    /// `[kbc]`, if it is not the one that reads files.
    pub kbc: &'a str,
    /// Lines of `[image]`, and tables in it.
    pub image: String,
    /// The resources file.
    pub resources: Vec<(&'a str, Vec<u8>)>,
    /// If there is an attestation-agent: where it notes what it is asked for.
    pub agent: Option<&'a Noted>,
}

/// A running program. With it, all of its mounts and files go.
pub struct Hub {
    child: Child,
}

/// Why it refuses.
#[derive(Clone, Debug)]
pub struct Refused {
    pub code: Code,
    pub text: String,
}

/// An answer: its payload, or why there is none.
pub type Answer = Result<Vec<u8>, Refused>;

impl Hub {
    /// Starts it as kata-agent does.
    pub fn start(setting: &Setting) -> Self {
        clear();
        for directory in ["/run/confidential-containers/attestation-agent", BUNDLES] {
            fs::create_dir_all(directory).expect("a directory");
        }
        write_resources(&setting.resources);
        if let Some(noted) = setting.agent {
            agent::start(noted);
        }
        let kbc = match setting.kbc {
            "" => "[kbc]\nname = \"offline_fs_kbc\"\nurl = \"\"\n",
            kbc => kbc,
        };
        let (top, image) = (setting.top, &setting.image);
        let text = format!("socket = \"unix://{SOCKET}\"\n{top}{kbc}[image]\n{image}");
        let config = "/run/confidential-containers/cdh.toml";
        fs::write(config, text).expect("a file");
        let mut command = Command::new(Path::new(OWN).join("bin/confidential-data-hub"));
        leave_service_manager(&mut command);
        for name in [
            "INVOCATION_ID",
            "SYSTEMD_EXEC_PID",
            "OFFLINE_FS_KBC_EXTRA_FILE_PATH",
            "CDH_DEFAULT_IMAGE_AUTHENTICATED_REGISTRY_CREDENTIALS",
        ] {
            command.env_remove(name);
        }
        let log = File::create(Path::new(OWN).join("log")).expect("a file");
        command.arg0("confidential-data-hub").args(["-c", config]);
        command
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a descriptor"))
            .stderr(log);
        let mut hub = Self {
            child: command.spawn().expect("the program"),
        };
        let started = wait_until(|| {
            let ended = hub.child.try_wait().is_ok_and(|status| status.is_some());
            assert!(!ended, "the program ends: {}", log_text());
            UnixStream::connect(SOCKET).is_ok()
        });
        assert!(started, "the program does not listen: {}", log_text());
        hub
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks for an image in a new bundle of this name.
    pub fn pull(&self, image: &str, bundle: &str) -> Answer {
        let mut connection = Connection::new();
        connection.ask_for_image(1, image, bundle);
        connection.answer(1).unwrap_or_else(|| no_answer(PATIENCE))
    }

    /// Sends any other request, and waits for the answer.
    pub fn call(&self, service: &str, method: &str, payload: Vec<u8>) -> Answer {
        let mut connection = Connection::new();
        connection.send(1, service, method, payload);
        connection.answer(1).unwrap_or_else(|| no_answer(PATIENCE))
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        clear();
    }
}

/// Replaces the resources file.
pub fn write_resources(resources: &[(&str, Vec<u8>)]) {
    let entries = resources.iter().map(|(name, content)| {
        let value = Value::String(STANDARD.encode(content));
        ((*name).to_owned(), value)
    });
    let text = Value::Object(entries.collect::<Map<_, _>>()).to_string();
    let path = "/etc/aa-offline_fs_kbc-resources.json";
    let new = "/etc/.new-resources.json";
    fs::write(new, text).expect("a file");
    fs::set_permissions(new, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("a mode");
    fs::rename(new, path).expect("a file");
}

/// Unmounts and removes what a program has left.
fn clear() {
    // What it started ends with its connections.
    let gone = wait_until(|| {
        let _ = unmount_below(BUNDLES);
        let _ = unmount_below("/run/confidential-containers");
        let removed = ["/run/confidential-containers", BUNDLES].map(fs::remove_dir_all);
        removed.iter().all(|result| {
            !result
                .as_ref()
                .is_err_and(|error| error.kind() != io::ErrorKind::NotFound)
        })
    });
    assert!(gone, "what a program left can't be removed");
}

fn unmount_below(directory: &str) -> io::Result<()> {
    for place in mounts_below(directory).iter().rev() {
        umount2(Path::new(place), MntFlags::MNT_DETACH)?;
    }
    // A point may have mounted something at the directory itself.
    match umount2(Path::new(directory), MntFlags::MNT_DETACH) {
        Err(nix::errno::Errno::EINVAL | nix::errno::Errno::ENOENT) => Ok(()),
        done => done.map_err(io::Error::from),
    }
}

/// Where something is mounted below a directory.
pub fn mounts_below(directory: &str) -> Vec<String> {
    let text = fs::read_to_string("/proc/self/mountinfo").expect("Linux");
    let places = text.lines().filter_map(|line| line.split(' ').nth(4));
    let below = places.filter(|place| place.starts_with(&format!("{directory}/")));
    below.map(str::to_owned).collect()
}

/// Waits for a condition; gives whether it came true.
pub fn wait_until(is_so: impl FnMut() -> bool) -> bool {
    wait_within(PATIENCE, is_so)
}

/// The same, within a time.
pub fn wait_within(patience: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    let end = Instant::now() + patience;
    while !is_so() {
        if Instant::now() > end {
            return false;
        }
        thread::sleep(Duration::from_millis(20));
    }
    true
}

/// What the program has logged.
pub fn log_text() -> String {
    fs::read_to_string(Path::new(OWN).join("log")).unwrap_or_default()
}

/// Where an image is mounted.
pub fn rootfs(bundle: &str) -> PathBuf {
    Path::new(BUNDLES).join(bundle).join("rootfs")
}

/// What is said where nothing was answered.
fn no_answer(patience: Duration) -> Answer {
    Err(Refused {
        code: Code::DEADLINE_EXCEEDED,
        text: format!("no answer within {} s", patience.as_secs()),
    })
}

/// A connection to `cdh.sock`.
pub struct Connection(UnixStream);

impl Connection {
    pub fn new() -> Self {
        Self::to(SOCKET)
    }

    /// To another socket.
    pub fn to(socket: &str) -> Self {
        let stream = UnixStream::connect(socket).expect("the program listens");
        stream.set_write_timeout(Some(PATIENCE)).expect("a time");
        Self(stream)
    }

    /// Asks for an image as kata-agent did.
    pub fn ask_for_image(&mut self, id: u32, image: &str, bundle: &str) {
        let path = Path::new(BUNDLES).join(bundle);
        fs::create_dir_all(&path).expect("a directory");
        let mut request = Request::parse_from_bytes(&RECORDED[HEADER..]).expect("a recording");
        let mut pull = ImagePullRequest::parse_from_bytes(&request.payload).expect("a recording");
        pull.image_url = image.to_owned();
        pull.bundle_path = path.display().to_string();
        request.payload = pull.write_to_bytes().expect("a message encodes");
        self.write(id, &request);
    }

    pub fn send(&mut self, id: u32, service: &str, method: &str, payload: Vec<u8>) {
        let request = Request {
            service: service.to_owned(),
            method: method.to_owned(),
            payload,
            timeout_nano: i64::try_from(PATIENCE.as_nanos()).expect("a short time"),
            ..Request::default()
        };
        self.write(id, &request);
    }

    fn write(&mut self, id: u32, request: &Request) {
        let body = request.write_to_bytes().expect("a message encodes");
        let length = u32::try_from(body.len()).expect("a short message");
        let frame = [&length.to_be_bytes()[..], &id.to_be_bytes(), &[1, 0], &body].concat();
        self.0.write_all(&frame).expect("the program reads");
    }

    /// Waits for the answer to this request.
    pub fn answer(&mut self, id: u32) -> Option<Answer> {
        self.answer_within(id, PATIENCE)
    }

    /// The same, within a time.
    pub fn answer_within(&mut self, id: u32, patience: Duration) -> Option<Answer> {
        let end = Instant::now() + patience;
        loop {
            let left = end.checked_duration_since(Instant::now())?;
            self.0
                .set_read_timeout(Some(left.max(Duration::from_millis(1))))
                .ok()?;
            let mut header = [0; HEADER];
            self.0.read_exact(&mut header).ok()?;
            let number = |at: usize| {
                u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]])
            };
            let mut body = vec![0; number(0) as usize];
            self.0.read_exact(&mut body).ok()?;
            if number(4) != id {
                continue;
            }
            let response = Response::parse_from_bytes(&body).expect("a response");
            let status = response.status.unwrap_or_default();
            return Some(match status.code() {
                Code::OK => Ok(response.payload),
                code => Err(Refused {
                    code,
                    text: status.message,
                }),
            });
        }
    }
}
