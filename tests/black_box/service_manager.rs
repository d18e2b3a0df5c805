// SPDX-License-Identifier: Apache-2.0

//! The messages to systemd, and the form of the log for the journal.

use nix::sys::signal::Signal;

use crate::support::daemon::{Daemon, Root, one, output};
use crate::support::service_manager::Manager;
use crate::support::wait_for;
use crate::support::wire::{g2, get};

const AUTH: &str = r#"{"auths":{"a.example":{"auth":"dTpw"},"b.example":{"auth":"dTpw"}}}"#;

/// READY=1 means that clients are answered; the status says what is served.
#[test]
fn readiness_follows_the_first_load() {
    let root = Root::with(&one("Credential", AUTH));
    let manager = Manager::new();
    let _daemon = Daemon::spawn(manager.manage(root.serve()));
    let message = manager.receive();
    assert_eq!(
        message,
        "READY=1\nSTATUS=serving 1 resource; credential: 2 registries\n"
    );
    get(&root.socket(), &g2("/default/credential/test")).unwrap();
}

/// A failed load does not delay readiness: the file may come later.
#[test]
fn a_failed_load_is_ready_too() {
    let root = Root::with("{");
    let manager = Manager::new();
    let _daemon = Daemon::spawn(manager.manage(root.serve()));
    assert_eq!(
        manager.receive(),
        "READY=1\nSTATUS=serving 0 resources; credential: none; 1 problem, see the log\n"
    );
    root.write_resources(&one("Credential", AUTH));
    get(&root.socket(), &g2("/default/credential/test")).unwrap();
    assert_eq!(
        manager.receive(),
        "STATUS=serving 1 resource; credential: 2 registries\n"
    );
}

/// systemd tells reloads apart by their time, and ends one at the next READY=1.
#[test]
fn a_reload_is_announced_and_ended() {
    let root = Root::new();
    let manager = Manager::new();
    let daemon = Daemon::spawn(manager.manage(root.serve()));
    manager.wait_for("READY=1");
    root.write_resources(&one("Credential", AUTH));
    daemon.signal(Signal::SIGHUP);
    let message = manager.wait_for("RELOADING=1");
    let time = message
        .strip_prefix("RELOADING=1\nMONOTONIC_USEC=")
        .expect("a reload");
    assert!(time.trim_end().parse::<u64>().unwrap() > 0);
    assert_eq!(
        manager.receive(),
        "READY=1\nSTATUS=serving 1 resource; credential: 2 registries\n"
    );
    assert!(daemon.log().contains("reloading every file"));
}

/// The unit's way to reload needs no program that a minimal image lacks.
#[test]
fn the_units_reload_works_with_a_shell_alone() {
    let unit = include_str!("../../systemd/offline-fs-kbc.service");
    let reload = unit
        .lines()
        .find_map(|line| line.strip_prefix("ExecReload="));
    let script = reload
        .and_then(|reload| reload.strip_prefix("/bin/sh -c \""))
        .and_then(|rest| rest.strip_suffix('"'))
        .expect("the shell's own kill");
    let root = Root::new();
    let daemon = root.start();
    let mut shell = std::process::Command::new("/bin/sh");
    shell.args(["-c", script]).env_clear();
    shell
        .env("MAINPID", daemon.pid().to_string())
        .env("PATH", "");
    let (_, stderr, code) = output(&mut shell);
    assert_eq!(code, Some(0), "{stderr}");
    daemon.wait_for_log("reloading every file");
}

#[test]
fn the_end_is_announced() {
    let root = Root::new();
    let manager = Manager::new();
    let mut daemon = Daemon::spawn(manager.manage(root.serve()));
    manager.wait_for("READY=1");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(manager.receive(), "STOPPING=1\n");
    assert_eq!(daemon.wait().code(), Some(0));
}

/// The thread that serves feeds the watchdog: when it is stopped, nothing is sent.
#[test]
fn the_watchdog_is_kept_alive_by_the_serving_thread() {
    let root = Root::new();
    let manager = Manager::new();
    let mut command = manager.manage(root.serve());
    command.env("WATCHDOG_USEC", "20000");
    let _daemon = Daemon::spawn(command);
    manager.wait_for("READY=1");
    for _ in 0..5 {
        manager.wait_for("WATCHDOG=1\n");
    }
}

/// Inherited watchdog settings of another process are ignored.
#[test]
fn another_processs_watchdog_is_left_alone() {
    let root = Root::new();
    let manager = Manager::new();
    let mut command = manager.manage(root.serve());
    command.env("WATCHDOG_USEC", "1").env("WATCHDOG_PID", "1");
    let daemon = Daemon::spawn(command);
    manager.wait_for("READY=1");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(manager.receive(), "STOPPING=1\n");
}

/// The journal adds the time itself, and parses the priority at the beginning of the line.
#[test]
fn the_journal_gets_priorities_and_no_time() {
    let root = Root::with("{\"Credential\":\"!\"}");
    let daemon = Daemon::spawn_under_journal(root.serve());
    wait_for("the socket", || {
        std::os::unix::net::UnixStream::connect(root.socket()).ok()
    });
    get(&root.socket(), &g2("/a/b/c")).unwrap_err();
    daemon.wait_for_log("NOT_FOUND");
    let log = daemon.log();
    let starts: Vec<_> = log.lines().map(|line| &line[..3]).collect();
    assert!(log.starts_with("<6>offline-fs-kbc "), "{log}");
    assert!(starts.contains(&"<3>") && starts.contains(&"<7>"), "{log}");
    assert!(
        starts
            .iter()
            .all(|start| ["<3>", "<4>", "<6>", "<7>"].contains(start)),
        "{log}"
    );
}

/// An inherited JOURNAL_STREAM is ignored if standard error goes elsewhere.
#[test]
fn an_inherited_journal_stream_is_not_believed() {
    let root = Root::new();
    let mut command = root.serve();
    command.env("JOURNAL_STREAM", "1:1");
    let daemon = Daemon::start(command, &root.socket());
    assert!(
        daemon.log().contains(" INFO offline-fs-kbc"),
        "{}",
        daemon.log()
    );
}
