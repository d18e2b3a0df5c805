// SPDX-License-Identifier: Apache-2.0

//! The daemon itself, as kata-agent starts it where no service manager does: it starts this program for each pull.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::client::read_frame;
use protobuf::Message as _;
use ttrpc::Response;

use crate::caller::{children, frame, recorded, wait_until};

/// How long an answer of the daemon is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// A running daemon in a directory, and where its configuration is.
pub struct Hub {
    directory: PathBuf,
    socket: PathBuf,
    child: Child,
}

/// The daemon's program: what `OFFLINE_FS_KBC_BIN` names, or the one beside this program. Where it must be there (CI is
/// set), the test fails if it isn't.
fn program() -> Option<PathBuf> {
    let path = match std::env::var_os("OFFLINE_FS_KBC_BIN") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_BIN_EXE_guest-pull")).with_file_name("offline-fs-kbc"),
    };
    let must = std::env::var_os("CI").is_some();
    assert!(path.exists() || !must, "{} is missing", path.display());
    path.exists().then_some(path)
}

impl Hub {
    /// Starts it in an empty directory, where the store will be too; the registry at the address may be asked without TLS.
    /// None if the program is missing.
    pub fn start(directory: &Path, registry: &str) -> Option<Self> {
        let bin = directory.join("bin");
        fs::create_dir(&bin).unwrap();
        fs::copy(program()?, bin.join("offline-fs-kbc")).unwrap();
        symlink(env!("CARGO_BIN_EXE_guest-pull"), bin.join("guest-pull")).unwrap();
        let socket = directory.join("cdh.sock");
        let text = format!(
            "socket = \"unix://{}\"\n[image]\nwork_dir = \"{}\"\n\
             [[image.registry_config.registry]]\nlocation = \"{registry}\"\ninsecure = true\n",
            socket.display(),
            directory.join("store").display()
        );
        fs::write(directory.join("cdh.toml"), text).unwrap();
        fs::write(directory.join("resources.json"), "{}").unwrap();
        let child = Self::spawn(directory, &socket);
        Some(Self {
            directory: directory.to_owned(),
            socket,
            child,
        })
    }

    fn spawn(directory: &Path, socket: &Path) -> Child {
        let mut command = Command::new(directory.join("bin/offline-fs-kbc"));
        let log = fs::File::options();
        let log = log
            .clone()
            .create(true)
            .append(true)
            .open(directory.join("log"));
        command
            .arg0("confidential-data-hub")
            .arg("-c")
            .arg(directory.join("cdh.toml"))
            .env(
                "OFFLINE_FS_KBC_EXTRA_FILE_PATH",
                directory.join("resources.json"),
            )
            .env_remove("INVOCATION_ID")
            .env_remove("SYSTEMD_EXEC_PID")
            .env_remove("NOTIFY_SOCKET")
            .env_remove("CDH_DEFAULT_IMAGE_AUTHENTICATED_REGISTRY_CREDENTIALS")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.unwrap());
        let mut child = None;
        // A process that another thread has just started may have the copy of the program open for writing still.
        wait_until("the daemon starts", || match command.spawn() {
            Err(error) if error.kind() == std::io::ErrorKind::ExecutableFileBusy => false,
            started => {
                child = Some(started.unwrap());
                true
            }
        });
        let child = child.unwrap();
        wait_until("the daemon listens", || UnixStream::connect(socket).is_ok());
        child
    }

    /// Starts it again, after it was killed.
    pub fn restart(&mut self) {
        self.child.wait().unwrap();
        let _ = fs::remove_file(&self.socket);
        self.child = Self::spawn(&self.directory, &self.socket);
    }

    /// The daemon's process, the mounter's if there is one, and the worker's. One pull runs at most.
    pub fn processes(&self) -> Vec<u32> {
        let mut all = vec![self.child.id()];
        while let [next] = children(all[all.len() - 1])[..] {
            all.push(next);
        }
        all
    }

    /// Asks for an image, without waiting for the answer.
    pub fn ask(&self, image: &str, bundle: &Path) -> UnixStream {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream
            .write_all(&frame(1, &recorded(image, bundle)))
            .unwrap();
        stream
    }
}

/// The daemon's answer; none if it went away.
pub fn answer(mut stream: UnixStream) -> Option<Response> {
    let (_, body) = read_frame(&mut stream, Instant::now() + PATIENCE).ok()??;
    Some(Response::parse_from_bytes(&body).unwrap())
}

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
