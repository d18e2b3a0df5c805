// SPDX-License-Identifier: Apache-2.0

//! Today's clients hold one connection for the life of the VM: it survives each restart of the daemon.
//! Sockets that systemd made are served, together with the clients that wait on them.

use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;

use nix::sys::signal::Signal;
use nix::unistd::geteuid;

use crate::support::daemon::{Daemon, Root, one};
use crate::support::service_manager::Manager;
use crate::support::wait_for;
use crate::support::wire::{Wire, g2, get, get_frame};

const CREDENTIAL: &str = "/default/credential/test";

fn frame(stream_id: u32) -> Vec<u8> {
    get_frame(stream_id, &g2(CREDENTIAL))
}

fn end(mut daemon: Daemon, signal: Signal) {
    daemon.signal(signal);
    daemon.wait();
}

/// The client does not notice that the daemon was stopped or killed.
#[test]
fn a_connection_outlives_the_daemon() {
    let root = Root::with(&one("Credential", "x"));
    let manager = Manager::new();
    let mut daemon = manager.start(root.serve());
    let mut client = Wire::connect(&root.socket());
    let mut stream_id = 1;
    for signal in [
        Signal::SIGTERM,
        Signal::SIGKILL,
        Signal::SIGKILL,
        Signal::SIGTERM,
    ] {
        for _ in 0..2 {
            assert_eq!(client.ask(&frame(stream_id)).unwrap(), b"x");
            stream_id += 2;
        }
        manager.wait_until_kept(1);
        end(daemon, signal);
        daemon = manager.start(root.serve());
    }
    assert_eq!(client.ask(&frame(stream_id)).unwrap(), b"x");
    // A connection that the client closes is removed from the store.
    drop(client);
    manager.wait_until_kept(0);
}

/// At SIGTERM every connection is stored, even if it was not idle for long.
#[test]
fn an_end_in_order_keeps_every_connection() {
    let root = Root::with(&one("Credential", "x"));
    let manager = Manager::new();
    let daemon = manager.start(root.serve());
    let mut clients: Vec<_> = (0..4).map(|_| Wire::connect(&root.socket())).collect();
    for client in &mut clients {
        client.ask(&frame(1)).unwrap();
    }
    end(daemon, Signal::SIGTERM);
    assert_eq!(manager.kept(), 4);
    let _daemon = manager.start(root.serve());
    for client in &mut clients {
        assert_eq!(client.ask(&frame(3)).unwrap(), b"x");
    }
}

/// A request that is sent while no daemon runs waits for the next one, and gets the content that the file has
/// then.
#[test]
fn a_request_between_two_daemons_is_answered_by_the_next() {
    let root = Root::with(&one("Credential", "x"));
    let manager = Manager::new();
    let daemon = manager.start(root.serve());
    let mut client = Wire::connect(&root.socket());
    manager.wait_until_kept(1);
    end(daemon, Signal::SIGKILL);
    client.send(&frame(1));
    root.rename_resources(&one("Credential", "y"));
    let _daemon = manager.start(root.serve());
    assert_eq!(client.ask(&[]).unwrap(), b"y");
}

/// A half-read request is lost with the process, so its connection must end too; an idle connection is not
/// affected.
#[test]
fn a_request_half_read_ends_with_the_process() {
    let root = Root::with(&one("Credential", "x"));
    let manager = Manager::new();
    let daemon = manager.start(root.serve());
    let mut resting = Wire::connect(&root.socket());
    let mut sending = Wire::connect(&root.socket());
    manager.wait_until_kept(2);
    sending.send(&frame(1)[..20]);
    manager.wait_until_kept(1);
    end(daemon, Signal::SIGKILL);
    assert!(sending.is_closed());
    let _daemon = manager.start(root.serve());
    assert_eq!(resting.ask(&frame(1)).unwrap(), b"x");
}

/// At SIGTERM a half-sent request is read to its end and answered, and then the connection is stored.
#[test]
fn a_request_half_sent_at_the_end_is_answered() {
    let root = Root::with(&one("Credential", "x"));
    let manager = Manager::new();
    let daemon = manager.start(root.serve());
    let mut client = Wire::connect(&root.socket());
    manager.wait_until_kept(1);
    let frame_ = frame(1);
    client.send(&frame_[..20]);
    manager.wait_until_kept(0);
    daemon.signal(Signal::SIGTERM);
    manager.wait_for("STOPPING=1");
    assert_eq!(client.ask(&frame_[20..]).unwrap(), b"x");
    manager.wait_until_kept(1);
    drop(daemon);
    let _daemon = manager.start(root.serve());
    assert_eq!(client.ask(&frame(3)).unwrap(), b"x");
}

/// If the store is full, further connections are served without it.
#[test]
fn a_full_store_does_not_limit_connections() {
    let root = Root::with(&one("Credential", "x"));
    let manager = Manager::new();
    let daemon = manager.start_with_store(root.serve(), 1);
    let mut first = Wire::connect(&root.socket());
    manager.wait_until_kept(1);
    let mut second = Wire::connect(&root.socket());
    assert_eq!(second.ask(&frame(1)).unwrap(), b"x");
    end(daemon, Signal::SIGTERM);
    assert_eq!(manager.kept(), 1);
    assert!(second.is_closed());
    let _daemon = manager.start(root.serve());
    assert_eq!(first.ask(&frame(1)).unwrap(), b"x");
}

/// A stored connection gets the services of the socket on which the kernel says it was accepted, and no
/// others.
#[test]
fn a_kept_connection_gets_the_services_of_its_socket() {
    let root = Root::with(&one("Credential", "x"));
    let manager = Manager::new();
    let daemon = manager.start(root.serve_hub());
    let mut hub = Wire::connect(&root.socket_called("cdh.sock"));
    let mut agent = Wire::connect(&root.socket());
    manager.wait_until_kept(2);
    end(daemon, Signal::SIGKILL);
    // cdh.sock is not served any more.
    let daemon = manager.start(root.serve());
    assert!(hub.is_closed());
    manager.wait_until_kept(1);
    assert!(
        daemon
            .log()
            .contains("cdh.sock, which is not served any more")
    );
    assert_eq!(agent.ask(&frame(1)).unwrap(), b"x");
}

/// The store bypasses no check: another user's connection is closed, whoever stored it, and so is a
/// descriptor that is not a connection.
#[test]
fn the_callers_of_kept_connections_are_checked() {
    if !geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "this test needs root");
        eprintln!("left out: only root can start a process of another user");
        return;
    }
    let root = Root::with(&one("Credential", "x"));
    let manager = Manager::new();
    fs::create_dir_all(root.socket().parent().unwrap()).unwrap();
    let listener = UnixListener::bind(root.socket()).unwrap();
    let script = "import os, socket, sys
s = socket.socket(socket.AF_UNIX)
os.setuid(65534)
s.connect(sys.argv[1])
sys.exit(len(s.recv(1)))";
    open_up(&root);
    let mut stranger = Command::new("/usr/bin/python3");
    stranger.args(["-c", script]).arg(root.socket());
    let mut stranger = stranger.spawn().unwrap();
    manager.keep("connection-1", listener.accept().unwrap().0);
    drop(listener);
    let (pair, _other) = UnixStream::pair().unwrap();
    manager.keep("connection-2", pair);
    manager.keep("connection-3", fs::File::open("/dev/null").unwrap());
    let daemon = manager.start(root.serve());
    manager.wait_until_kept(0);
    let status = wait_for("its end", || stranger.try_wait().unwrap());
    assert_eq!(status.code(), Some(0), "it was not closed");
    let log = daemon.log();
    assert!(log.contains(": its user is neither root"), "{log}");
    assert_eq!(get(&root.socket(), &g2(CREDENTIAL)).unwrap(), b"x");
}

/// Gives other users access to the socket.
fn open_up(root: &Root) {
    use std::os::unix::fs::PermissionsExt as _;
    for path in root
        .socket()
        .ancestors()
        .take_while(|path| path.starts_with(root.dir()))
    {
        fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
    }
}

/// A client that connects before the daemon runs, or between two runs, waits and is answered; the socket
/// belongs to systemd, and stays.
#[test]
fn a_socket_from_systemd_is_served() {
    let root = Root::with(&one("Credential", "x"));
    let mut manager = Manager::new();
    manager.listen("getresource", &root.socket());
    let mut early = Wire::connect(&root.socket());
    early.send(&frame(1));
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let daemon = manager.start(root.serve());
        assert_eq!(early.ask(&[]).unwrap(), b"x");
        let log = daemon.log();
        assert!(
            log.contains("getresource.sock, a socket from the service manager"),
            "{log}"
        );
        // The other sockets have no unit, so the daemon binds them.
        UnixStream::connect(root.socket_called("keyprovider.sock")).unwrap();
        end(daemon, signal);
        early = Wire::connect(&root.socket());
        early.send(&frame(1));
    }
}

/// The descriptor's name decides which services a socket has, wherever its path is.
#[test]
fn the_name_of_a_descriptor_is_its_role() {
    let root = Root::with(&one("Credential", "x"));
    let mut manager = Manager::new();
    let elsewhere = root.path("run/elsewhere.sock");
    manager.listen("getresource", &elsewhere);
    manager.listen("nobody", &root.path("run/nobody.sock"));
    let daemon = manager.start(root.serve());
    assert_eq!(get(&elsewhere, &g2(CREDENTIAL)).unwrap(), b"x");
    assert!(!root.socket().exists(), "the default was bound beside it");
    let log = daemon.log();
    assert!(log.contains("unknown descriptor \"nobody\""), "{log}");
    end(daemon, Signal::SIGTERM);
    // An address from a flag is served too; `none` leaves the socket out.
    let mut command = root.serve();
    command.arg("--getresource-sock").arg(root.socket());
    let daemon = manager.start(command);
    for socket in [&elsewhere, &root.socket()] {
        assert_eq!(get(socket, &g2(CREDENTIAL)).unwrap(), b"x");
    }
    end(daemon, Signal::SIGTERM);
    let mut command = root.serve();
    command.args(["--getresource-sock", "none"]);
    let daemon = manager.start(command);
    let log = daemon.log();
    assert!(log.contains("elsewhere.sock is switched off"), "{log}");
}

/// Descriptors that were meant for another process are not touched.
#[test]
fn descriptors_of_another_process_are_left_alone() {
    let root = Root::with(&one("Credential", "x"));
    let mut command = root.serve();
    command.env("LISTEN_PID", "1").env("LISTEN_FDS", "3");
    let _daemon = Daemon::start(command, &root.socket());
    assert_eq!(get(&root.socket(), &g2(CREDENTIAL)).unwrap(), b"x");
}

/// kata-agent removes the path of a socket: the unit's instance then binds a new one.
#[test]
fn a_removed_path_of_a_systemd_socket_is_bound_again() {
    let root = Root::with(&one("Credential", "x"));
    let mut manager = Manager::new();
    manager.listen("getresource", &root.socket());
    let _daemon = manager.start(root.serve());
    fs::remove_file(root.socket()).unwrap();
    wait_for("the path", || root.socket().exists().then_some(()));
    assert_eq!(get(&root.socket(), &g2(CREDENTIAL)).unwrap(), b"x");
}
