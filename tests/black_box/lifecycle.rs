// SPDX-License-Identifier: Apache-2.0

//! Starting in every way, stopping, and being killed.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::sys::signal::Signal;

use crate::support::daemon::{
    ANONYMOUS, Daemon, Root, called, called_apart, complaints, one, output, run,
};
use crate::support::wire::{RECORDED_G2, Wire, g2, get, outcome};

const CREDENTIAL: &str = "/default/credential/test";

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

/// After a signal, requests that have arrived are answered, the socket is removed, and the exit status is 0.
#[test]
fn a_signal_ends_it_in_order() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let root = Root::with(&one("Credential", "x"));
        let mut daemon = root.start();
        let mut wire = Wire::connect(&root.socket());
        wire.ask(RECORDED_G2).unwrap();
        // While it is stopped, it can't see the request before the signal.
        daemon.signal(Signal::SIGSTOP);
        wire.send(RECORDED_G2);
        let mut unaccepted = Wire::connect(&root.socket());
        unaccepted.send(RECORDED_G2);
        daemon.signal(signal);
        daemon.signal(Signal::SIGCONT);
        for wire in [&mut wire, &mut unaccepted] {
            assert_eq!(outcome(&wire.receive().1).unwrap(), b"x");
            assert!(wire.is_closed());
        }
        assert_eq!(daemon.wait().code(), Some(0));
        assert!(!root.socket().exists());
    }
}

/// A peer that does not read does not delay the end.
#[test]
fn a_stuck_peer_does_not_hold_up_the_end() {
    let root = Root::with(&one("Credential", vec![b'x'; 1 << 20]));
    let mut daemon = root.start();
    let mut wire = Wire::connect(&root.socket());
    wire.send(&RECORDED_G2.repeat(20));
    daemon.wait_for_log("credential/test OK");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
}

/// After a kill at any moment, the daemon starts again without manual cleanup.
#[test]
fn kill_and_start_again() {
    let root = Root::with(&one("Credential", "x"));
    for _ in 0..5 {
        let mut daemon = root.start();
        assert_eq!(get(&root.socket(), &g2(CREDENTIAL)).unwrap(), b"x");
        daemon.signal(Signal::SIGKILL);
        daemon.wait();
        assert!(root.socket().exists(), "a killed process removes nothing");
    }
    // Killed in the middle of its start, without waiting until it is ready.
    for pause in 0..20 {
        let mut daemon = Daemon::spawn(root.serve());
        std::thread::sleep(std::time::Duration::from_micros(pause * 200));
        daemon.signal(Signal::SIGKILL);
        daemon.wait();
    }
    let _daemon = root.start();
    assert_eq!(get(&root.socket(), &g2(CREDENTIAL)).unwrap(), b"x");
}

/// Nobody else can connect, whatever umask the daemon was started with.
#[test]
fn sockets_and_directories_have_exact_modes() {
    for mask in ["0000", "0777"] {
        let root = Root::with(&one("Credential", "x"));
        let mut shell = std::process::Command::new("sh");
        let script = format!("umask {mask}; exec \"$@\"");
        shell.args(["-c", &script, "sh"]);
        shell
            .arg(root.serve().get_program())
            .args(root.serve().get_args());
        let _daemon = Daemon::start(shell, &root.socket());
        let directory = root.socket().parent().unwrap().to_owned();
        assert_eq!(mode(&root.socket()), 0o600);
        assert_eq!(mode(&directory), 0o700);
        assert_eq!(mode(directory.parent().unwrap()), 0o755);
        assert_eq!(mode(&directory.join(".offline-fs-kbc.lock")), 0o600);
    }
}

/// Existing directories are left as they are, with a warning if others can write to them.
#[test]
fn an_open_directory_is_warned_about() {
    use std::os::unix::fs::PermissionsExt as _;
    let root = Root::with(&one("Credential", "x"));
    let directory = root.socket().parent().unwrap().to_owned();
    fs::create_dir_all(&directory).unwrap();
    for (bits, warned) in [(0o770, true), (0o755, false), (0o1777, true)] {
        fs::set_permissions(&directory, fs::Permissions::from_mode(bits)).unwrap();
        let daemon = root.start();
        assert_eq!(mode(&directory), bits);
        let fix = format!("chmod go-w {}", directory.display());
        assert_eq!(daemon.log().contains(&fix), warned, "{}", daemon.log());
    }
}

/// A file that is not a socket is never removed; the error names it, and the other sockets are served.
#[test]
fn a_file_that_is_not_a_socket_is_left_alone() {
    let root = Root::with(&one("Credential", "x"));
    fs::create_dir_all(root.socket().parent().unwrap()).unwrap();
    fs::write(root.socket(), "precious").unwrap();
    let named = "getresource.sock is a file, not a socket";
    let daemon = Daemon::start(root.serve(), &root.socket_called("keyprovider.sock"));
    assert!(daemon.log().contains(named), "{}", daemon.log());
    drop(daemon);
    let mut command = root.serve();
    command.args(["--keyprovider-sock", "none", "--attestation-sock", "none"]);
    let mut daemon = Daemon::spawn(command);
    assert_eq!(daemon.wait().code(), Some(1));
    assert!(daemon.log().contains(named), "{}", daemon.log());
    assert_eq!(fs::read_to_string(root.socket()).unwrap(), "precious");
}

/// kata-agent's command lines of 2023, by the name it looks for and by the flags alone.
#[test]
fn legacy_command_lines_serve() {
    let root = Root::with(&one("Credential", ANONYMOUS));
    let path = root.path("sockets/g.sock");
    let address = |name: &str| format!("unix://{}", root.path("sockets").join(name).display());
    let (g, k, a) = (address("g.sock"), address("k.sock"), address("a.sock"));
    let lines = [
        vec!["--keyprovider_sock", &k, "--getresource_sock", &g],
        vec![
            "--keyprovider_sock",
            &k,
            "--getresource_sock",
            &g,
            "--attestation_sock",
            &a,
        ],
        vec!["-k", &k, "-g", &g],
        vec![
            "--getresource_sock",
            &g,
            "--from-the-future",
            "x",
            "-z",
            "y",
        ],
    ];
    for line in &lines {
        for name in ["/usr/local/bin/attestation-agent", "offline-fs-kbc"] {
            let mut command = called_apart(name);
            command.args(line);
            command.env("OFFLINE_FS_KBC_EXTRA_FILE_PATH", root.resources());
            let mut daemon = Daemon::start(command, &path);
            let got = get(&path, &g2(CREDENTIAL)).unwrap();
            assert_eq!(got, ANONYMOUS.as_bytes(), "{line:?}");
            let log = daemon.log();
            let unknown = ["--from-the-future", "-z"];
            let unknown = unknown.iter().filter(|flag| line.contains(flag));
            assert_eq!(complaints(&log), unknown.clone().count(), "{log}");
            for flag in unknown {
                assert!(log.contains(flag), "{log}");
            }
            daemon.signal(Signal::SIGTERM);
            assert_eq!(daemon.wait().code(), Some(0));
        }
    }
}

/// If the log can't be written, because its reader is gone or the disk is full, the daemon starts and goes
/// on.
#[test]
fn a_log_that_cannot_be_written_is_lost() {
    let root = Root::with(&one("Credential", "x"));
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let full = fs::OpenOptions::new()
        .write(true)
        .open("/dev/full")
        .unwrap();
    for log in [std::process::Stdio::from(writer), full.into()] {
        let mut daemon = Daemon::start_with_log(root.serve(), log, &root.socket());
        for value in ["a", "b"] {
            root.rename_resources(&one("Credential", value));
            assert_eq!(
                get(&root.socket(), &g2(CREDENTIAL)).unwrap(),
                value.as_bytes()
            );
        }
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait().code(), Some(0));
    }
}

/// A request that was sent in time is answered, however close it is to the end.
#[test]
fn the_end_under_load_loses_no_request() {
    let root = Root::with(&one("Credential", "x"));
    for _ in 0..10 {
        let mut daemon = root.start();
        // Each request is answered before the end.
        let under_load = std::sync::Arc::new(std::sync::Barrier::new(5));
        let clients: Vec<_> = (0..4)
            .map(|_| {
                let socket = root.socket();
                let under_load = std::sync::Arc::clone(&under_load);
                std::thread::spawn(move || {
                    let mut answered = 0;
                    // Until the path is gone, or the daemon has ended before the request could be sent.
                    while let Ok(stream) = std::os::unix::net::UnixStream::connect(&socket) {
                        let mut wire = Wire(stream);
                        if std::io::Write::write_all(&mut wire.0, RECORDED_G2).is_err() {
                            break;
                        }
                        assert_eq!(outcome(&wire.receive().1).unwrap(), b"x");
                        answered += 1;
                        if answered == 1 {
                            under_load.wait();
                        }
                    }
                    answered
                })
            })
            .collect();
        under_load.wait();
        daemon.signal(Signal::SIGTERM);
        for client in clients {
            let answered = client.join().expect("a request was lost");
            assert!(answered > 0, "the client was not in time to see the end");
        }
        assert_eq!(daemon.wait().code(), Some(0));
    }
}

/// Under the legacy name, the program's own commands still work: the image has only one file.
#[test]
fn commands_work_under_the_legacy_name() {
    let root = Root::with(&one("Credential", "x"));
    let mut command = called("attestation-agent");
    let (text, _, code) = output(command.arg("check").arg("--root").arg(root.dir()));
    assert_eq!(code, Some(1), "no auth.json");
    assert!(text.contains("default/credential/test"), "{text}");
    for (args, expected) in [("--version", 0), ("--help", 0), ("chekc", 2)] {
        let (_, stderr, code) = output(called("attestation-agent").arg(args));
        assert_eq!(code, Some(expected), "{stderr}");
    }
}

/// An address that can't be a socket is a usage error that says how to write one.
#[test]
fn a_wrong_address_is_a_usage_error() {
    for address in ["vsock://1:1", "relative.sock", "unix://relative.sock"] {
        let (_, text, code) = run(&["serve", "--getresource-sock", address]);
        assert_eq!(code, Some(2));
        assert!(text.contains("unix:///absolute/path"), "{text}");
    }
}
