// SPDX-License-Identifier: Apache-2.0

//! The program under test, started with a root directory of its own.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::{PATIENCE, wait_for, wait_within};

/// The path of the program under test.
pub fn program() -> PathBuf {
    match std::env::var_os("OFFLINE_FS_KBC_BIN") {
        Some(path) => PathBuf::from(path),
        // cargo sets this variable for tests, and not for examples.
        None => match option_env!("CARGO_BIN_EXE_offline-fs-kbc") {
            Some(path) => PathBuf::from(path),
            None => panic!("OFFLINE_FS_KBC_BIN doesn't name the program"),
        },
    }
}

/// The program, without the variables of this process's environment that it would read.
pub fn command() -> Command {
    called("offline-fs-kbc")
}

/// The program under another name, as if it were started through a symbolic link.
pub fn called(name: &str) -> Command {
    called_from(&program(), name)
}

/// The same from another copy of the program.
pub fn called_from(program: &Path, name: &str) -> Command {
    let mut command = match std::env::var_os("OFFLINE_FS_KBC_SYSTEM_CALLS") {
        // Under the unit's system call filter, which kills the process at any other call.
        Some(list) => {
            let filter = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/under-filter");
            let mut command = Command::new(filter);
            command.arg(list).arg(name).arg(program);
            command
        }
        None => {
            let mut command = Command::new(program);
            command.arg0(name);
            command
        }
    };
    clean(&mut command);
    command
}

/// Runs the command by another program, with these arguments before it.
pub fn started_by<S: AsRef<OsStr>>(starter: &str, args: &[S], inner: &Command) -> Command {
    let mut command = Command::new(starter);
    clean(&mut command);
    command.args(args).arg(inner.get_program());
    command.args(inner.get_args());
    for (name, value) in inner.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command
}

fn clean(command: &mut Command) {
    command
        .env_remove("AA_KBC_PARAMS")
        .env_remove("SKIP_SEALED_SECRET_VERIFICATION")
        .env_remove("OFFLINE_FS_KBC_EXTRA_FILE_PATH")
        .env_remove("NOTIFY_SOCKET")
        .env_remove("SYSTEMD_EXEC_PID")
        .env_remove("INVOCATION_ID")
        .env_remove("WATCHDOG_USEC")
        .env_remove("WATCHDOG_PID")
        .env_remove("JOURNAL_STREAM")
        .env_remove("CREDENTIALS_DIRECTORY")
        .stdin(Stdio::null());
}

/// A directory that stands for `/`.
pub struct Root {
    dir: TempDir,
}

impl Root {
    pub fn new() -> Self {
        let root = Self {
            dir: tempfile::tempdir().unwrap(),
        };
        fs::create_dir(root.path("etc")).unwrap();
        root
    }

    /// A root whose resources file has this text.
    pub fn with(text: &str) -> Self {
        let root = Self::new();
        root.write_resources(text);
        root
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.dir.path().join(relative)
    }

    pub fn resources(&self) -> PathBuf {
        self.path("etc/aa-offline_fs_kbc-resources.json")
    }

    pub fn write_resources(&self, text: &str) {
        fs::write(self.resources(), text).unwrap();
        // No mode that the daemon would warn about.
        fs::set_permissions(self.resources(), fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Replaces the resources file as editors and cloud-init do.
    pub fn rename_resources(&self, text: &str) {
        let temporary = self.path("etc/new");
        fs::write(&temporary, text).unwrap();
        fs::rename(temporary, self.resources()).unwrap();
    }

    pub fn socket(&self) -> PathBuf {
        self.path("run/confidential-containers/attestation-agent/getresource.sock")
    }

    /// The path of another socket, by its file name.
    pub fn socket_called(&self, name: &str) -> PathBuf {
        let directory = match name {
            "cdh.sock" | "guest-pull.sock" => "run/confidential-containers",
            _ => "run/confidential-containers/attestation-agent",
        };
        self.path(directory).join(name)
    }

    /// Writes the keys file.
    pub fn write_keys(&self, text: &str) {
        fs::write(self.path("etc/aa-offline_fs_kbc-keys.json"), text).unwrap();
    }

    /// `serve` below this root, with cdh.sock.
    pub fn serve_hub(&self) -> Command {
        let mut command = self.serve();
        command
            .arg("--cdh-sock")
            .arg(self.socket_called("cdh.sock"));
        command
    }

    /// The same from a copy of the program that has no other program beside it.
    pub fn serve_hub_apart(&self) -> Command {
        let directory = self.path("bin");
        let program = super::both::copy_to(&directory, false);
        let mut command = called_from(&program, "offline-fs-kbc");
        command.args(["serve", "--log-level", "debug", "--root"]);
        command.arg(self.dir()).arg("--cdh-sock");
        command.arg(self.socket_called("cdh.sock"));
        command
    }

    /// A running daemon with cdh.sock.
    pub fn start_hub(&self) -> Daemon {
        Daemon::start(self.serve_hub(), &self.socket_called("cdh.sock"))
    }

    /// `serve` below this root, with repair off, so that a credential may be any bytes.
    pub fn serve(&self) -> Command {
        let mut command = self.serve_as_installed();
        command.args(["--repair-credential", "off"]);
        command
    }

    /// `serve` below this root, without further flags.
    pub fn serve_as_installed(&self) -> Command {
        let mut command = command();
        command.args(["serve", "--log-level", "debug", "--root"]);
        command.arg(self.dir());
        command
    }

    /// A running daemon below this root, which has loaded its files.
    pub fn start(&self) -> Daemon {
        Daemon::start(self.serve(), &self.socket())
    }

    /// The same without further flags.
    pub fn start_as_installed(&self) -> Daemon {
        Daemon::start(self.serve_as_installed(), &self.socket())
    }
}

/// A resources file with one value under one name.
pub fn one(name: &str, value: impl AsRef<[u8]>) -> String {
    format!("{{\"{name}\":\"{}\"}}", STANDARD.encode(value))
}

/// A credential that every client can read, without registries.
pub const ANONYMOUS: &str = r#"{"auths":{}}"#;

/// A running daemon, which is killed when the value is dropped.
pub struct Daemon {
    child: Ended,
    log: TempDir,
}

/// Waits until the daemon handles the connection, which it does when all its sockets are bound and its files
/// are loaded. No request is sent: the daemon sees the end of the stream, and closes the connection too.
fn wait_until_served(mut stream: UnixStream) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // This fails if the daemon was quicker.
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let end = std::io::Read::read(&mut stream, &mut [0]);
    let timed_out = end.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
    assert!(!timed_out, "the daemon does not come to its connections");
}

impl Daemon {
    /// Starts the daemon and waits until it serves on `socket`.
    pub fn start(command: Command, socket: &Path) -> Self {
        let mut daemon = Self::spawn(command);
        let stream = wait_for("the socket", || {
            daemon.expect_alive();
            UnixStream::connect(socket).ok()
        });
        wait_until_served(stream);
        daemon
    }

    /// Fails the test, with the log, if the process has ended.
    pub fn expect_alive(&mut self) {
        if let Some(status) = self.child.0.try_wait().unwrap() {
            panic!("ended with {status}: {}", self.log());
        }
    }

    /// The same, with its log written elsewhere.
    pub fn start_with_log(mut command: Command, log: Stdio, socket: &Path) -> Self {
        let child = Ended(command.stderr(log).spawn().unwrap());
        wait_until_served(wait_for("the socket", || UnixStream::connect(socket).ok()));
        let log = tempfile::tempdir().unwrap();
        Self { child, log }
    }

    /// Starts the daemon without waiting.
    pub fn spawn(mut command: Command) -> Self {
        let log = tempfile::tempdir().unwrap();
        let stderr = File::create(log.path().join("log")).unwrap();
        let child = command.stderr(stderr).spawn().unwrap();
        Self {
            child: Ended(child),
            log,
        }
    }

    /// Starts the daemon with JOURNAL_STREAM set, as if its log went to the journal.
    pub fn spawn_under_journal(mut command: Command) -> Self {
        use std::os::unix::fs::MetadataExt as _;
        let log = tempfile::tempdir().unwrap();
        let stderr = File::create(log.path().join("log")).unwrap();
        let file = stderr.metadata().unwrap();
        command.env("JOURNAL_STREAM", format!("{}:{}", file.dev(), file.ino()));
        let child = command.stderr(stderr).spawn().unwrap();
        Self {
            child: Ended(child),
            log,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// Where the log is.
    pub fn log_file(&self) -> PathBuf {
        self.log.path().join("log")
    }

    /// The log until now.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_file()).unwrap()
    }

    pub fn wait_for_log(&self, part: &str) {
        wait_for(part, || self.log().contains(part).then_some(()));
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.child.0.id().try_into().unwrap()), signal).unwrap();
    }

    /// Waits for the end of the process.
    pub fn wait(&mut self) -> ExitStatus {
        wait_for("the daemon's end", || self.child.0.try_wait().unwrap())
    }
}

/// The program's standard output, standard error and exit status.
pub fn run<S: AsRef<OsStr>>(args: &[S]) -> (String, String, Option<i32>) {
    output(command().args(args))
}

/// The same of any command. One that doesn't end fails the test.
pub fn output(command: &mut Command) -> (String, String, Option<i32>) {
    output_within(command, PATIENCE)
}

/// The same of a command that may take longer.
pub fn output_within(command: &mut Command, limit: Duration) -> (String, String, Option<i32>) {
    let dir = tempfile::tempdir().unwrap();
    let [out, err] = ["out", "err"].map(|name| dir.path().join(name));
    command.stdout(File::create(&out).unwrap());
    command.stderr(File::create(&err).unwrap());
    let mut child = Ended(command.spawn().unwrap());
    let status = wait_within(limit, &format!("{command:?}"), || {
        child.0.try_wait().unwrap()
    });
    let read = |path| fs::read_to_string(path).unwrap();
    (read(out), read(err), status.code())
}

/// A child process that is killed when the value is dropped.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The same with a `/run` of its own, so that what it serves by default touches no other process.
pub fn called_apart(name: &str) -> Command {
    let script = "mount -t tmpfs none /run && exec \"$@\"";
    let inner = called(name);
    // A shell that replaces itself passes the name on only with `exec -a`.
    let script = match std::env::var_os("OFFLINE_FS_KBC_SYSTEM_CALLS") {
        Some(_) => script.to_owned(),
        None => script.replace("exec", &format!("exec -a {name}")),
    };
    let apart = ["--map-root-user", "--mount", "bash", "-c", &script, "bash"];
    started_by("unshare", &apart, &inner)
}

/// The program started by `path`, with the directory `run` as its `/run`, which other processes may share.
pub fn called_in(run: &Path, path: &str) -> Command {
    let script = "mount --bind \"$0\" /run && exec \"$@\"";
    let mut command = Command::new("unshare");
    clean(&mut command);
    command.args(["--map-root-user", "--mount", "bash", "-c", script]);
    command.arg(run);
    if let Some(list) = std::env::var_os("OFFLINE_FS_KBC_SYSTEM_CALLS") {
        let filter = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/under-filter");
        command.arg(filter).arg(list).arg(path);
    }
    command.arg(path);
    command
}

/// The same as root, who can mount, with `/usr/local/bin` of the root too. Mounts are seen by this process alone.
pub fn called_in_as_root(root: &Root, path: &str) -> Command {
    let script = "for dir in /run /usr/local/bin; do mount --bind \"$0$dir\" $dir || exit; done; cd / && exec \"$@\"";
    for directory in ["run", "usr/local/bin"] {
        fs::create_dir_all(root.path(directory)).unwrap();
    }
    let mut command = Command::new("unshare");
    clean(&mut command);
    command.args(["--mount", "bash", "-c", script]);
    command.arg(root.dir()).arg(path);
    command
}

/// The number of warnings and errors in a log, without the one that memory can't be locked in a user
/// namespace.
pub fn complaints(log: &str) -> usize {
    let complains = |line: &&str| line.contains(" WARN ") || line.contains(" ERROR ");
    let lines = log.lines().filter(complains);
    lines
        .filter(|line| !line.contains("can't lock memory"))
        .count()
}
