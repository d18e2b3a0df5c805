// SPDX-License-Identifier: Apache-2.0

//! What a worker can do that was taken over: `examples/confined.rs` tries it in the place of a worker, within the same confinement.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use common::proto::guest_pull::Progress;
use guest_pull::serve::{self, Options};
use guest_pull::worker::confinement::{Part, USER};
use serde_json::json;
use ttrpc::Code;

use crate::caller::{Answer, Place, Serve, daemon, recorded, wait_until, with_progress};
use crate::host::{is_root, text};

/// What an attempt finds that nothing else can stop, for each part of the confinement that is left out.
const ONLY: [(Part, &[&str]); 6] = [
    (Part::Namespaces, &["process:seen"]),
    (Part::Limits, &["limit:memory", "limit:descriptors"]),
    (Part::User, &["user:root"]),
    (Part::Capabilities, &["outside:capabilities"]),
    (Part::Landlock, &["read:readable-file"]),
    (
        Part::SystemCalls,
        &[
            "socket:open-to-all",
            "socket:sctp",
            "log:flags",
            "process:new",
            "outside:system-calls",
        ],
    ),
];

/// What must be there for the rest to prove anything.
const NETWORK: &str = "network";

/// A process of somebody else, with a socket that is open to all, a file that all may read, a directory that all may write.
struct Scene {
    place: Place,
    dir: tempfile::TempDir,
    other: Child,
    _sockets: [UnixListener; 2],
    port: TcpListener,
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = self.other.kill();
        let _ = self.other.wait();
    }
}

impl Scene {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let open =
            |path: &Path, mode| fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        open(dir.path(), 0o755);
        for (name, mode) in [("readable", 0o644), ("secret", 0o600)] {
            fs::write(at(name), "x").unwrap();
            open(&at(name), mode);
        }
        fs::create_dir(at("writable")).unwrap();
        fs::write(at("writable/there"), "x").unwrap();
        open(&at("writable"), 0o777);
        open(&at("writable/there"), 0o666);
        let sockets = [("open.sock", 0o666), ("daemon.sock", 0o600)].map(|(name, mode)| {
            let listener = UnixListener::bind(at(name)).unwrap();
            open(&at(name), mode);
            listener
        });
        Self {
            place: Place::new(false),
            other: Command::new("sleep").arg("600").spawn().unwrap(),
            _sockets: sockets,
            port: TcpListener::bind("127.0.0.1:0").unwrap(),
            dir,
        }
    }

    /// What worked of all that a worker tries that is started by this name, and what is seen of it from outside.
    fn worked(&self, name: &str) -> (Vec<String>, Vec<Progress>) {
        let program = self.dir.path().join(name);
        thread::scope(|scope| {
            let outside = scope.spawn(|| self.outside(&program));
            let answer = self.answer(name);
            let mut worked = words(&answer);
            worked.extend(outside.join().unwrap());
            (worked, answer.progress)
        })
    }

    /// The answer to a pull whose worker is started by this name.
    fn answer(&self, name: &str) -> Answer {
        let at = |name: &str| self.dir.path().join(name);
        let targets = json!({
            "readable": at("readable"), "secret": at("secret"), "writable": at("writable"),
            "open_socket": at("open.sock"), "daemon_socket": at("daemon.sock"), "process": self.other.id(),
            "port": self.port.local_addr().unwrap().port(),
        });
        // What surrounds a certificate comes to the worker as it is.
        let certificate = rcgen::generate_simple_self_signed(vec!["a".to_owned()]).unwrap();
        let certificate = certificate.cert.pem();
        self.place.configure(&format!(
            "[image]\nextra_root_certificates = ['''{targets}\n{certificate}''']\n"
        ));
        daemon(&self.place, Err(Code::NOT_FOUND));
        let program = at(name);
        if !program.exists() {
            symlink(confined(), &program).unwrap();
        }
        let options = Options {
            daemon: self.place.at("cdh.sock"),
            config: Some(self.place.at("cdh.toml")),
            store: Some(self.place.at("store")),
            worker: program,
        };
        let (ours, theirs) = UnixStream::pair().unwrap();
        let request = with_progress(recorded("registry.example/a:1", &self.place.bundle()));
        thread::scope(|scope| {
            let serving = scope.spawn(|| serve::run(theirs, &options));
            let answer = Serve::ask_over(ours, &request);
            serving.join().unwrap().unwrap();
            answer
        })
    }

    /// Looks at the worker from outside while it waits at its connection; gives what it should not have.
    fn outside(&self, program: &Path) -> Vec<String> {
        self.port.set_nonblocking(true).unwrap();
        let mut stream = None;
        wait_until("the worker does not connect", || {
            stream = self.port.accept().ok();
            stream.is_some()
        });
        let (mut stream, _) = stream.unwrap();
        let worker = worker_of(program);
        let read = |name: &str| fs::read_to_string(format!("/proc/{worker}/{name}")).unwrap();
        let status = read("status");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            line.unwrap_or_else(|| panic!("{name} in {status}"))
                .trim()
                .to_owned()
        };
        let namespace = |process: &str, name: &str| {
            fs::read_link(format!("/proc/{process}/ns/{name}")).unwrap()
        };
        let worker = worker.to_string();
        let own = |name| namespace(&worker, name) != namespace("self", name);
        let user = USER.to_string();
        let mut found = Vec::new();
        let mut must = |what: &str, holds: bool| {
            if !holds {
                found.push(format!("outside:{what}"));
            }
        };
        let sets = ["CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"];
        let is_empty = |set: &str| field(set).bytes().all(|digit| digit == b'0');
        must("capabilities", sets.into_iter().all(is_empty));
        must("no-new-privileges", field("NoNewPrivs:") == "1");
        must("system-calls", field("Seccomp:") == "2");
        let ids = |name: &str| field(name).split_whitespace().all(|id| id == user);
        must(
            "user",
            ids("Uid:") && ids("Gid:") && field("Groups:").is_empty(),
        );
        must(
            "namespaces",
            ["mnt", "ipc", "uts", "cgroup", "pid"].into_iter().all(own),
        );
        must("environment", !read("environ").contains("PATH="));
        must("ended-first", read("oom_score_adj").trim() == "1000");
        must(
            "core",
            read("limits").lines().any(|line| {
                line.starts_with("Max core file size")
                    && line.split_whitespace().nth(4) == Some("0")
            }),
        );
        let descriptors = fs::read_dir(format!("/proc/{worker}/fd")).unwrap();
        let open = descriptors.filter_map(|entry| fs::read_link(entry.unwrap().path()).ok());
        // Three standard streams, the socket once more, and the connection.
        let open: Vec<PathBuf> = open.collect();
        must(&format!("descriptors:{open:?}"), open.len() <= 6);
        stream.write_all(b"x").unwrap();
        found
    }
}

/// The program, which is built with the tests.
fn confined() -> PathBuf {
    let program = Path::new(env!("CARGO_BIN_EXE_guest-pull"));
    let program = program.parent().unwrap().join("examples/confined");
    assert!(
        program.exists(),
        "{}: cargo test builds it, but not with --test; then: cargo build --package guest-pull --example confined",
        program.display()
    );
    program
}

/// The child of this process that runs the program.
fn worker_of(program: &Path) -> u32 {
    let mut found = None;
    wait_until("the worker is not there", || {
        let processes = fs::read_dir("/proc").unwrap();
        let ids = processes.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
        found = ids.into_iter().find(|id: &u32| {
            let line = fs::read(format!("/proc/{id}/cmdline")).unwrap_or_default();
            line.starts_with(text(program).as_bytes())
        });
        found.is_some()
    });
    found.unwrap()
}

/// What the worker says in the place of a reason.
fn words(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.code(), Code::INTERNAL, "{}", answer.text());
    let (_, said) = answer.text().split_once("registry.example/a:1: ").unwrap();
    said.split_whitespace().map(str::to_owned).collect()
}

/// From inside the confinement, nothing is to be had but the network.
#[test]
fn a_worker_that_was_taken_over_gets_nothing() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    let (worked, progress) = scene.worked("confined");
    assert_eq!(worked, [NETWORK]);
    // And who asks for the status sees what holds.
    let last = progress.last().unwrap();
    let names: Vec<_> = last.confined_by.split(' ').collect();
    assert_eq!(names.len(), Part::ALL.len(), "{names:?}");
    assert_eq!(last.not_confined_by, "");
    assert_eq!(scene.place.left_in_store(), [""; 0]);
}

/// Each part of the confinement stops something that no other does: without it, an attempt works. So the test above can fail.
#[test]
fn each_part_of_the_confinement_is_needed() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    let only: BTreeMap<_, _> = ONLY.into_iter().collect();
    for part in Part::ALL {
        let (worked, _) = scene.worked(&format!("without-{}", part.name()));
        assert!(worked.iter().any(|name| name == NETWORK), "{worked:?}");
        for expected in only[&part] {
            assert!(
                worked.iter().any(|name| name == expected),
                "{part:?}: {worked:?}"
            );
        }
    }
}

/// The mounter ends a worker that says anew what confines it, that tells more than a pull can have, or that reads no answer.
/// That takes no longer for a hundred thousand questions than for the first that can't be answered.
#[test]
fn a_worker_that_says_what_it_may_not_is_ended() {
    if !is_root() {
        return;
    }
    let scene = Scene::new();
    for name in ["boasts", "starts-twice", "counts-without-end"] {
        let answer = scene.answer(name);
        let text = answer.text();
        assert!(
            text.contains("told more than a pull can have"),
            "{name}: {text}"
        );
        assert!(answer.progress.len() < 1_100, "{name}");
    }
    let start = Instant::now();
    let answer = scene.answer("deaf");
    let text = answer.text();
    assert!(text.contains("ended without a result"), "{text}");
    assert!(start.elapsed() < Duration::from_secs(60));
}

/// Who runs this test anew as a process that logs to a file.
const LOGS_TO_A_FILE: &str = "GUEST_PULL_TEST_LOGS_TO_A_FILE";

/// A worker that was taken over can neither fill the log, nor write what is no line of its own, nor do anything else to the
/// file that the mounter logs to.
#[test]
fn what_a_worker_logs_is_bounded() {
    if !is_root() {
        return;
    }
    if std::env::var_os(LOGS_TO_A_FILE).is_some() {
        let (worked, _) = Scene::new().worked("noisy");
        assert_eq!(worked, [NETWORK]);
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let mut log = File::options()
        .append(true)
        .create(true)
        .open(&path)
        .unwrap();
    log.write_all(b"before\n").unwrap();
    let flags = rustix::fs::fcntl_getfl(&log).unwrap();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args([
            "--exact",
            "confined::what_a_worker_logs_is_bounded",
            "--nocapture",
        ])
        .env(LOGS_TO_A_FILE, "1")
        .stderr(log.try_clone().unwrap());
    assert!(command.status().unwrap().success(), "{}", logged(&path));
    assert_eq!(rustix::fs::fcntl_getfl(&log).unwrap(), flags);
    let logged = logged(&path);
    let lines: Vec<_> = logged.lines().collect();
    assert_eq!(lines[0], "before");
    let first = "guest-pull: the worker: \\u{1b}[2J\\rguest-pull: \u{fffd}\\0";
    assert!(lines.contains(&first), "{logged}");
    let is_odd = |c: char| c.is_control() && c != '\n';
    assert!(!logged.contains(is_odd));
    assert!(lines.iter().all(|line| line.chars().count() < 2_100));
    let many = lines.iter().filter(|line| line.ends_with("it is mounted"));
    assert!((100..1_000).contains(&many.count()), "{}", lines.len());
    let last = "guest-pull: the worker logs too much: the rest is left out";
    assert!(lines.contains(&last), "{logged}");
}

fn logged(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}
