// SPDX-License-Identifier: Apache-2.0

//! Real faults, caused by the kernel's own limits and by strace, which makes system calls fail: the last good
//! content is kept, others are served, and the next start works.

use std::fs;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use nix::sys::signal::Signal;

use crate::support::daemon::{Daemon, Root, one, output, program, started_by};
use crate::support::wait_for;
use crate::support::wire::{Wire, g2, get, get_frame};

const CREDENTIAL: &str = "/default/credential/test";

/// `serve` under strace, whose `faults` make system calls about the file fail.
fn faulty(root: &Root, about: Option<&Path>, faults: &[&str]) -> Command {
    // With -D the daemon is this process's child, and strace ends with it.
    let mut args = vec!["-D", "-f", "-qq", "-o", "/dev/null"];
    if let Some(path) = about {
        args.extend(["-P", path.to_str().unwrap()]);
    }
    for fault in faults {
        args.extend(["-e", fault]);
    }
    started_by("strace", &args, &root.serve())
}

fn answer(root: &Root) -> Vec<u8> {
    get(&root.socket(), &g2(CREDENTIAL)).unwrap()
}

/// Faults that are injected into a running daemon until the value is dropped.
struct Faults(Child);

impl Faults {
    fn inject(daemon: &Daemon, fault: &str, path: &Path) -> Self {
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-o", "/dev/null", "-e", fault, "-P"]);
        command.arg(path).args(["-p", &daemon.pid().to_string()]);
        let faults = Self(command.spawn().unwrap());
        wait_for("strace", || {
            let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
            let tracer = status.lines().find(|line| line.starts_with("TracerPid:"));
            tracer.filter(|line| !line.ends_with("\t0")).map(|_| ())
        });
        faults
    }
}

impl Drop for Faults {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A file that can't be read at the start is reported, affects nothing else, and is served once it can be
/// read.
#[test]
fn a_file_that_cannot_be_read_at_first() {
    for fault in [
        "inject=read:error=EIO:when=1",
        "inject=openat:error=EIO:when=1",
        "inject=openat:error=ENOMEM:when=1",
        // The first calls are those of the watch, which checks for links in the path.
        "inject=statx,fstat,newfstatat:error=EIO:when=1..6",
    ] {
        let root = Root::with(&one("Credential", "x"));
        let other = root.path("etc/other.json");
        fs::write(&other, one("a/b/c", "y")).unwrap();
        let mut command = faulty(&root, Some(&root.resources()), &[fault]);
        command.arg("--extra-file").arg(&other);
        let daemon = Daemon::start(command, &root.socket());
        let served = wait_for(fault, || get(&root.socket(), &g2(CREDENTIAL)).ok());
        assert_eq!(served, b"x", "{fault}");
        assert_eq!(get(&root.socket(), &g2("a/b/c")).unwrap(), b"y");
        let log = daemon.log();
        assert!(
            log.contains("resources.json: can't be read: "),
            "{fault}: {log}"
        );
    }
}

/// If a later read fails, the last good content stays in use.
#[test]
fn a_file_that_cannot_be_read_any_more() {
    let root = Root::with(&one("Credential", "x"));
    let daemon = root.start();
    assert_eq!(answer(&root), b"x");
    let _faults = Faults::inject(&daemon, "inject=read:error=EIO", &root.resources());
    fs::write(root.resources(), one("Credential", "other")).unwrap();
    for _ in 0..3 {
        assert_eq!(answer(&root), b"x");
    }
    daemon.wait_for_log("can't be read: Input/output error");
    assert!(
        daemon
            .log()
            .contains("its last good content is still served")
    );
}

/// An interrupted call is repeated; a call that fails once costs at most one connection.
#[test]
fn calls_that_fail_now_and_then() {
    let root = Root::with(&one("Credential", "x"));
    let resources = root.resources();
    let file_faults = ["read", "openat", "statx"];
    for call in file_faults {
        let fault = format!("inject={call}:error=EINTR:when=2+3");
        let command = faulty(&root, Some(&resources), &[&fault]);
        let _daemon = Daemon::start(command, &root.socket());
        for _ in 0..12 {
            assert_eq!(answer(&root), b"x", "{fault}");
        }
    }
    for (fault, all) in [
        ("inject=epoll_wait:error=EINTR:when=2+2", true),
        ("inject=accept4:error=EINTR:when=1+2", true),
        ("inject=accept4:error=ECONNABORTED:when=1+3", true),
        ("inject=accept4:error=EMFILE:when=1+3", true),
        ("inject=accept4:error=ENFILE:when=1+3", true),
        ("inject=accept4:error=ENOMEM:when=1+3", true),
        // The calls that bring a request or take an answer, and those that bring the end of a connection.
        ("inject=recvfrom:error=EINTR:when=1+2", true),
        ("inject=recvfrom:error=EINTR:when=2+2", true),
        ("inject=sendto:error=EINTR:when=1+2", true),
        ("inject=sendto:error=EINTR:when=2+2", true),
        ("inject=recvfrom:error=ECONNRESET:when=2+4", false),
        ("inject=sendto:error=EPIPE:when=2+4", false),
    ] {
        let daemon = Daemon::start(faulty(&root, None, &[fault]), &root.socket());
        let mut answered = 0;
        for _ in 0..12 {
            use std::io::{Read as _, Write as _};
            let mut wire = Wire::connect(&root.socket());
            let sent = wire.0.write_all(&get_frame(1, &g2(CREDENTIAL)));
            if sent.is_ok() && wire.0.read(&mut [0; 64]).is_ok_and(|read| read > 0) {
                answered += 1;
            }
        }
        let log = daemon.log();
        assert!(
            answered == 12 || !all && answered >= 6,
            "{fault}: {answered} of 12: {log}"
        );
        assert!(!log.contains("panick"), "{fault}: {log}");
    }
}

/// A failing accept is logged at a limited rate, and does not spin.
#[test]
fn a_lasting_fault_is_logged_once() {
    let root = Root::with(&one("Credential", "x"));
    let fault = ["inject=accept4:error=ENFILE:when=3+"];
    let daemon = Daemon::start(faulty(&root, None, &fault), &root.socket());
    let _waiting: Vec<_> = (0..5).map(|_| Wire::connect(&root.socket())).collect();
    daemon.wait_for_log("can't accept a connection, trying again");
    thread::sleep(std::time::Duration::from_secs(1));
    let said = daemon.log().matches("can't accept").count();
    assert!(said <= 2, "{said}");
}

/// If the disk is full, the existing file stays, and no half-written file is left.
#[test]
fn pack_on_a_full_disk() {
    let root = Root::new();
    let disk = root.path("disk");
    fs::create_dir(&disk).unwrap();
    let many: Vec<_> = (0..3000)
        .map(|n| format!("\"registry{n}.example\":{{\"auth\":\"dTpw\"}}"))
        .collect();
    let large = root.path("large.json");
    fs::write(&large, format!("{{\"auths\":{{{}}}}}", many.join(","))).unwrap();
    let script = "mount -t tmpfs -o size=64k none \"$2\" && cd \"$2\" && echo '{}' > out &&
        { \"$1\" pack --credential \"$3\" -o out; echo \"status $?\"; cat out; ls -A; }";
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--mount", "bash", "-c", script, "bash"]);
    command.arg(program()).arg(&disk).arg(&large);
    let (stdout, stderr, _) = output(&mut command);
    assert_eq!(stdout, "status 1\n{}\nout\n", "{stderr}");
    assert!(
        stderr.contains("out") && stderr.contains("No space left"),
        "{stderr}"
    );
}

/// With 16 MiB of address space the daemon serves; a file or a peer that needs too much affects nothing else.
#[test]
fn little_memory() {
    let root = Root::with(&one("Credential", "x"));
    let limit = ["--as=16777216", "--"];
    let start = || Daemon::start(started_by("prlimit", &limit, &root.serve()), &root.socket());
    let daemon = start();
    assert_eq!(answer(&root), b"x");
    // A file that does not fit in memory is an error, and the last good content stays.
    let large = one("Credential", vec![b'y'; 9 << 20]);
    root.rename_resources(&large);
    assert_eq!(answer(&root), b"x");
    daemon.wait_for_log("no memory for its");
    // The same for a file that fits, while its decoded values do not. How large that is differs between
    // machines.
    for quarters in (8..40).rev() {
        let value = "AAAA".repeat(quarters << 16);
        root.rename_resources(&format!(r#"{{"a/b/c":"{value}","Credential":"eA=="}}"#));
        assert_eq!(answer(&root), b"x");
    }
    daemon.wait_for_log("that it may decode to");
    root.rename_resources(&one("Credential", "z"));
    assert_eq!(answer(&root), b"z");
    // Peers that send more than fits in memory lose their connections; announced sizes cost nothing.
    let mut peers: Vec<_> = (0..50).map(|_| Wire::connect(&root.socket())).collect();
    for peer in &mut peers {
        use std::io::Write as _;
        peer.0.set_nonblocking(true).unwrap();
        let mut frame = (4u32 << 20).to_be_bytes().to_vec();
        frame.extend([0, 0, 0, 1, 1, 0]);
        frame.extend(vec![0; 1 << 20]);
        let _ = peer.0.write(&frame);
    }
    assert_eq!(answer(&root), b"z");
    drop(peers);
    assert_eq!(answer(&root), b"z");
    drop(daemon);
    let _daemon = start();
    assert_eq!(answer(&root), b"z");
}

/// The daemon is killed again and again under load while the file is replaced: the next start serves the
/// present content in its first answer, and no answer is a mix of two versions.
#[test]
fn killed_under_load() {
    let root = Root::with(&one("Credential", "content 0"));
    let (stop, answers) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                use std::io::{Read as _, Write as _};
                while !stop.load(Ordering::Relaxed) {
                    let Ok(mut stream) = std::os::unix::net::UnixStream::connect(root.socket())
                    else {
                        thread::yield_now();
                        continue;
                    };
                    let mut answer = [0; 256];
                    while stream.write_all(&get_frame(1, &g2(CREDENTIAL))).is_ok() {
                        match stream.read(&mut answer) {
                            Ok(length) if length > 0 => {
                                let text = String::from_utf8_lossy(&answer[..length]);
                                assert!(text.contains("content "), "{text:?}");
                                answers.fetch_add(1, Ordering::Relaxed);
                            }
                            _ => break,
                        }
                    }
                }
            });
        }
        for round in 1..10 {
            let mut daemon = root.start();
            let before = answers.load(Ordering::Relaxed);
            wait_for("load", || {
                (answers.load(Ordering::Relaxed) > before + 50).then_some(())
            });
            root.rename_resources(&one("Credential", format!("content {round}")));
            daemon.signal(Signal::SIGKILL);
            daemon.wait();
            let _daemon = root.start();
            assert_eq!(answer(&root), format!("content {round}").as_bytes());
        }
        stop.store(true, Ordering::Relaxed);
    });
}

/// A file that changes at every check does not flood the log, and its last state is logged.
#[test]
fn a_file_that_flaps_is_logged_at_a_rate() {
    let root = Root::with(&one("Credential", "x"));
    let daemon = root.start();
    assert_eq!(answer(&root), b"x");
    for round in 0..200 {
        let text = match round % 2 {
            0 => "{".to_owned(),
            _ => one("Credential", "y".repeat(round)),
        };
        root.rename_resources(&text);
        answer(&root);
    }
    fs::remove_file(root.resources()).unwrap();
    wait_for("the last state", || {
        let log = daemon.log();
        let last = log
            .lines()
            .rfind(|line| line.contains("resources.json: absent"));
        last.map(|line| assert!(line.contains("times more since"), "{line}"))
    });
    let lines = daemon
        .log()
        .lines()
        .filter(|line| !line.contains("DEBUG"))
        .count();
    assert!(lines < 60, "{lines}");
}
