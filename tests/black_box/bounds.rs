// SPDX-License-Identifier: Apache-2.0

//! How much memory, time and log a hostile or broken peer can make the daemon use.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use offline_fs_kbc::server::limits::{
    ANSWER_TIME, BATCH_BYTES, FRAME_TIME, MAX_BUFFERED_BYTES, MAX_CONNECTIONS,
    MAX_CONNECTIONS_OF_PROCESS, UNCOUNTED_BYTES,
};

use crate::support::daemon::{Daemon, Root, one, output, program, run, started_by};
use crate::support::wire::{RECORDED_G2, Wire, frame, g2, get, get_frame, outcome};
use crate::support::{PATIENCE, wait_for};

const CREDENTIAL: &str = "/default/credential/test";

/// A figure of `/proc/PID/status` in KiB.
fn memory(daemon: &Daemon, figure: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with(figure))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Asks from another process, since this one may have used up its connections.
fn answered_elsewhere(root: &Root) {
    let dir = root.dir().display().to_string();
    let (stdout, stderr, code) = run(&["get", "Credential", "--root", &dir]);
    assert_eq!((stdout.as_str(), code), ("x", Some(0)), "{stderr}");
}

/// These tests open many connections. The daemon raises its own limit itself.
fn raise_own_limit() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).unwrap();
    assert!(
        hard > 8_000,
        "the tests need 8,000 descriptors; the hard limit is {hard}"
    );
}

/// Only root and the daemon's own user are served, whatever the modes of the socket have become.
#[test]
fn another_users_process_is_refused() {
    if !geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "this test needs root");
        eprintln!("left out: only root can start a process of another user");
        return;
    }
    let root = Root::with(&one("Credential", "x"));
    let daemon = root.start();
    let socket = root.socket();
    for path in socket
        .ancestors()
        .take_while(|path| path.starts_with(root.dir()))
    {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
    let ask = || {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
        command
            .arg(program())
            .args(["get", "Credential", "--socket"])
            .arg(&socket);
        output(&mut command)
    };
    for _ in 0..5 {
        let (stdout, stderr, code) = ask();
        assert_eq!((stdout.as_str(), code), ("", Some(1)), "{stderr}");
        assert!(
            stderr.contains("no answer") || stderr.contains("nobody"),
            "{stderr}"
        );
    }
    let log = daemon.log();
    assert_eq!(
        log.matches(": its user is neither root").count(),
        1,
        "{log}"
    );
    assert!(log.contains("(\"offline-fs-kbc\") of uid 65534"), "{log}");
    assert!(!log.contains("request from"), "{log}");
    answered_elsewhere(&root);
}

/// A process that leaks connections is refused at its limit. Others are served, and so is this process when
/// it closes some. The soft limit of descriptors, which is below these limits, does not matter.
#[test]
fn connections_are_capped_for_each_process() {
    raise_own_limit();
    let root = Root::with(&one("Credential", "x"));
    let command = started_by("prlimit", &["--nofile=64:8192", "--"], &root.serve());
    let daemon = Daemon::start(command, &root.socket());
    let mut held = Vec::new();
    for _ in 0..MAX_CONNECTIONS_OF_PROCESS {
        let mut wire = Wire::connect(&root.socket());
        wire.ask(RECORDED_G2).unwrap();
        held.push(wire);
    }
    assert!(Wire::connect(&root.socket()).is_closed());
    assert!(Wire::connect(&root.socket()).is_closed());
    answered_elsewhere(&root);
    let log = daemon.log();
    assert_eq!(log.matches("the limit for one process").count(), 1, "{log}");
    held.pop();
    wait_for("a place", || {
        let mut wire = Wire::connect(&root.socket());
        wire.0.write_all(RECORDED_G2).ok()?;
        let mut byte = [0];
        (wire.0.read(&mut byte).ok()? == 1).then_some(())
    });
    const { assert!(MAX_CONNECTIONS > MAX_CONNECTIONS_OF_PROCESS) };
}

/// Without free descriptors, the daemon waits; it does not spin or fill the log, and recovers.
#[test]
fn the_descriptor_limit_is_survived() {
    let root = Root::with(&one("Credential", "x"));
    let trace = root.path("trace").display().to_string();
    let log = [
        "-D",
        "-f",
        "-qq",
        "-ttt",
        "-e",
        "trace=accept4",
        "-o",
        &trace,
    ];
    let traced = started_by("strace", &log, &root.serve());
    // Enough for the daemon's own descriptors and inherited ones, and fewer than the peers need.
    let command = started_by("prlimit", &["--nofile=64:64", "--"], &traced);
    let daemon = Daemon::start(command, &root.socket());
    let held: Vec<_> = (0..100)
        .map(|_| UnixStream::connect(root.socket()).unwrap())
        .collect();
    daemon.wait_for_log("can't accept a connection");
    let failures = wait_for("some failures", || {
        let trace = fs::read_to_string(&trace).unwrap();
        let failed = trace.lines().filter(|line| line.contains("EMFILE"));
        let times = failed.filter_map(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
        let times: Vec<_> = times.collect();
        (times.len() > 5).then_some(times)
    });
    // A slow machine makes the pauses longer, and none makes them shorter.
    let spins = failures.windows(2).any(|pair| pair[1] - pair[0] < 0.05);
    assert!(!spins, "{failures:?}");
    assert_eq!(daemon.log().matches("can't accept").count(), 1);
    drop(held);
    wait_for("an answer", || {
        let mut stream = UnixStream::connect(root.socket()).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(RECORDED_G2).ok()?;
        (stream.read(&mut [0; 64]).ok()? > 0).then_some(())
    });
}

/// A frame that has begun must end in time; a connection may be idle between frames.
#[test]
fn a_frame_that_does_not_end_is_closed() {
    let root = Root::with(&one("Credential", "x"));
    let _daemon = root.start();
    let mut idle = Wire::connect(&root.socket());
    idle.ask(RECORDED_G2).unwrap();
    let start = Instant::now();
    let mut begun: Vec<_> = [
        &RECORDED_G2[..1],
        &RECORDED_G2[..50],
        &frame(1, 1, &[0; 4 << 20])[..100],
        &frame(1, 1, &[0; (4 << 20) + 1])[..100],
        &[RECORDED_G2, &RECORDED_G2[..5]].concat(),
    ]
    .map(|part| {
        let mut wire = Wire::connect(&root.socket());
        wire.send(part);
        wire
    })
    .into_iter()
    .collect();
    begun[4].receive();
    // A byte now and then does not extend the deadline.
    let mut dripping = Wire::connect(&root.socket());
    let mut dripped = 0;
    while dripped < 100
        && dripping
            .0
            .write_all(&RECORDED_G2[dripped..=dripped])
            .is_ok()
    {
        dripped += 1;
        thread::sleep(Duration::from_millis(200));
        assert!(start.elapsed() < PATIENCE);
    }
    assert!(dripped < 100, "a frame may take for ever");
    for wire in &mut begun {
        assert!(wire.is_closed());
    }
    assert!(start.elapsed() >= FRAME_TIME);
    assert_eq!(idle.ask(RECORDED_G2).unwrap(), b"x");
}

/// The connection of a peer that never reads its answers is closed, later than any client waits.
#[test]
fn unread_answers_close_the_connection() {
    let root = Root::with(&one("Credential", vec![b'x'; 1 << 20]));
    let daemon = root.start();
    let mut wire = Wire::connect(&root.socket());
    wire.send(&RECORDED_G2.repeat(3));
    let start = Instant::now();
    crate::support::wait_within(ANSWER_TIME + PATIENCE, "the end", || {
        daemon
            .log()
            .contains("did not read its answers in time")
            .then_some(())
    });
    assert!(start.elapsed() >= ANSWER_TIME - Duration::from_secs(1));
}

/// Starts a daemon that does not log each request, since these tests do not measure the log.
fn start_quiet(root: &Root) -> Daemon {
    let mut command = crate::support::daemon::command();
    command.args(["serve", "--repair-credential", "off", "--root"]);
    command.arg(root.dir());
    Daemon::start(command, &root.socket())
}

/// One peer sends 500,000 requests and does not read: memory does not grow, others are served, and when the
/// peer reads, it gets every answer.
#[test]
fn a_flood_of_requests_takes_no_memory() {
    const REQUESTS: usize = 500_000;
    let root = Root::with(&one("Credential", "x"));
    let daemon = start_quiet(&root);
    get(&root.socket(), &g2(CREDENTIAL)).unwrap();
    // The daemon's own memory, without the pages of its code, which are loaded as they are used.
    let before = memory(&daemon, "RssAnon");
    let mut peak = before;
    let reader = Wire::connect(&root.socket());
    let mut writer = reader.0.try_clone().unwrap();
    writer
        .set_write_timeout(Some(Duration::from_secs(120)))
        .unwrap();
    let sender = thread::spawn(move || {
        let batch = get_frame(1, &g2(CREDENTIAL)).repeat(1000);
        for _ in 0..REQUESTS / 1000 {
            writer.write_all(&batch).unwrap();
        }
    });
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(10) {
        assert_eq!(get(&root.socket(), &g2(CREDENTIAL)).unwrap(), b"x");
        peak = peak.max(memory(&daemon, "RssAnon"));
        thread::sleep(Duration::from_millis(20));
    }
    let mut reader = Wire(reader.0.try_clone().unwrap());
    for n in 0..REQUESTS {
        assert_eq!(outcome(&reader.receive().1).unwrap(), b"x");
        if n % 1000 == 0 {
            peak = peak.max(memory(&daemon, "RssAnon"));
        }
    }
    sender.join().unwrap();
    let grown = peak - before;
    assert!(grown < 1024, "grew by {grown} KiB");
}

/// Many peers send many requests at the same moment: the memory for all of them together is limited. Some
/// connections are closed for it, and the daemon goes on.
#[test]
fn a_storm_of_requests_is_bounded() {
    const PEERS: usize = 1_000;
    raise_own_limit();
    let root = Root::with(&one("Credential", "x"));
    let daemon = start_quiet(&root);
    get(&root.socket(), &g2(CREDENTIAL)).unwrap();
    let mut peers: Vec<_> = (0..PEERS).map(|_| Wire::connect(&root.socket())).collect();
    for peer in &mut peers {
        assert_eq!(peer.ask(RECORDED_G2).unwrap(), b"x");
    }
    let before = memory(&daemon, "VmRSS");
    // All requests have arrived when the daemon wakes.
    daemon.signal(Signal::SIGSTOP);
    let storm = RECORDED_G2.repeat(2 * BATCH_BYTES / RECORDED_G2.len());
    for peer in &mut peers {
        peer.0.set_nonblocking(true).unwrap();
        let _ = peer.0.write(&storm);
    }
    daemon.signal(Signal::SIGCONT);
    for peer in &mut peers {
        peer.0.set_nonblocking(false).unwrap();
        // An answer, or the end.
        let _ = peer.0.read(&mut [0; 1024]);
    }
    answered_elsewhere(&root);
    let grown = memory(&daemon, "VmHWM").saturating_sub(before);
    let most = (MAX_BUFFERED_BYTES + PEERS * UNCOUNTED_BYTES) as u64 >> 10;
    assert!(grown < most + (4 << 10), "grew by {grown} KiB");
}

/// Thousands of connections, half-sent headers and announced frames at once: others are answered, and the
/// memory is released afterwards.
#[test]
fn memory_is_released_after_many_connections() {
    raise_own_limit();
    let root = Root::with(&one("Credential", "x"));
    let daemon = start_quiet(&root);
    get(&root.socket(), &g2(CREDENTIAL)).unwrap();
    let before = memory(&daemon, "VmRSS");
    let announced = frame(1, 1, &[0; 4 << 20]);
    let mut crowd = Vec::new();
    for n in 0..5_000 {
        let stream = UnixStream::connect(root.socket()).unwrap();
        stream.set_nonblocking(true).unwrap();
        let mut wire = Wire(stream);
        let part = match n {
            0..500 => &announced[..5],
            500..700 => &announced[..1000],
            _ => &announced[..0],
        };
        let _ = wire.0.write(part);
        crowd.push(wire);
    }
    answered_elsewhere(&root);
    let grown = memory(&daemon, "VmRSS") - before;
    assert!(grown < 16 << 10, "grew by {grown} KiB");
    drop(crowd);
    wait_for("the memory to come back", || {
        answered_elsewhere(&root);
        (memory(&daemon, "VmRSS") <= before + before / 10).then_some(())
    });
}
