// SPDX-License-Identifier: Apache-2.0

//! A second copy of the daemon: it takes no address from a process that answers there, and no address is left
//! unserved.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;

use nix::sys::signal::Signal;

use crate::support::daemon::{Daemon, Root, one};
use crate::support::service_manager::Manager;
use crate::support::wait_for;
use crate::support::wire::{g2, get};

const CREDENTIAL: &str = "/default/credential/test";

fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().ino()
}

/// A copy started by hand or by kata-agent exits if another process serves all addresses, and says so.
#[test]
fn a_copy_by_hand_leaves_a_live_address() {
    let root = Root::with(&one("Credential", "x"));
    let first = root.start();
    let before = inode(&root.socket());
    let mut second = Daemon::spawn(root.serve());
    assert_eq!(second.wait().code(), Some(0));
    let log = second.log();
    let holder = format!("pid {} answers there", first.pid());
    assert!(log.contains(&holder), "{log}");
    assert_eq!(inode(&root.socket()), before);
    assert_eq!(get(&root.socket(), &g2(CREDENTIAL)).unwrap(), b"x");
}

/// A socket of another program is left alone, whatever that program serves.
#[test]
fn a_foreign_live_socket_is_left_alone() {
    let root = Root::new();
    fs::create_dir_all(root.socket().parent().unwrap()).unwrap();
    let foreign = UnixListener::bind(root.socket()).unwrap();
    let before = inode(&root.socket());
    let mut command = root.serve();
    command.args(["--keyprovider-sock", "none", "--attestation-sock", "none"]);
    assert_eq!(Daemon::spawn(command).wait().code(), Some(0));
    assert_eq!(inode(&root.socket()), before);
    drop(foreign);
}

/// The unit's instance waits for the address, says so, and takes over when the other process ends, in
/// whatever way.
#[test]
fn the_units_instance_takes_over() {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let root = Root::with(&one("Credential", "x"));
        let mut first = root.start();
        let manager = Manager::new();
        let second = Daemon::spawn(manager.manage(root.serve()));
        manager.wait_for("READY=1");
        let status = manager.wait_for("STATUS=");
        let status = if status.contains("waiting for") {
            status
        } else {
            manager.wait_for("waiting for")
        };
        assert!(status.contains("where another process answers"), "{status}");
        first.signal(signal);
        first.wait();
        manager.wait_for(
            "STATUS=serving 1 resource; credential: not an auth.json; 1 problem, see the log\n",
        );
        wait_for("the second to answer", || get_if_there(&root.socket()));
        assert!(
            second.log().contains("the other process is gone"),
            "{}",
            second.log()
        );
    }
}

fn get_if_there(socket: &Path) -> Option<Vec<u8>> {
    std::os::unix::net::UnixStream::connect(socket).ok()?;
    get(socket, &g2(CREDENTIAL)).ok()
}

/// An instance whose socket was replaced does not remove its successor's socket when it ends.
#[test]
fn the_end_of_one_leaves_the_others_socket() {
    let root = Root::with(&one("Credential", "x"));
    let mut first = root.start();
    fs::remove_file(root.socket()).unwrap();
    let mut second = root.start();
    first.signal(Signal::SIGTERM);
    assert_eq!(first.wait().code(), Some(0));
    assert_eq!(get(&root.socket(), &g2(CREDENTIAL)).unwrap(), b"x");
    second.signal(Signal::SIGTERM);
    assert_eq!(second.wait().code(), Some(0));
    assert!(!root.socket().exists());
}

/// If the other process still runs but its path was removed, the unit's instance binds the path.
#[test]
fn the_units_instance_notices_that_the_path_is_gone() {
    let root = Root::with(&one("Credential", "x"));
    let _first = root.start();
    let manager = Manager::new();
    let _second = Daemon::spawn(manager.manage(root.serve()));
    manager.wait_for("waiting for");
    fs::remove_file(root.socket()).unwrap();
    wait_for("the second to answer", || get_if_there(&root.socket()));
}

/// A copy that kata-agent starts may inherit the environment of kata-agent's unit.
#[test]
fn an_inherited_notify_socket_makes_no_unit() {
    let root = Root::with(&one("Credential", "x"));
    let _first = root.start();
    let manager = Manager::new();
    let mut command = manager.manage(root.serve());
    command.env("SYSTEMD_EXEC_PID", "1");
    assert_eq!(Daemon::spawn(command).wait().code(), Some(0));
}

/// Many copies at once: each address is served by one of them, copies without an address exit, and none
/// breaks another's socket.
#[test]
fn a_race_has_one_winner_for_each_address() {
    let root = Root::with(&one("Credential", "x"));
    for _ in 0..5 {
        let mut copies: Vec<_> = (0..6).map(|_| Daemon::spawn(root.serve())).collect();
        for (index, copy) in copies.iter().enumerate() {
            wait_for(&format!("copy {index} to decide"), || {
                let log = copy.log();
                let decided = log.contains("resources.json: 1 entry");
                (decided || log.contains("other processes answer on all addresses")).then_some(())
            });
        }
        for name in [
            "getresource.sock",
            "keyprovider.sock",
            "attestation-agent.sock",
        ] {
            let line = format!(
                "listening on unix://{}\n",
                root.socket_called(name).display()
            );
            let winners = copies.iter().filter(|copy| copy.log().contains(&line));
            assert_eq!(winners.count(), 1, "{name}");
            UnixStream::connect(root.socket_called(name)).expect(name);
        }
        assert_eq!(get(&root.socket(), &g2(CREDENTIAL)).unwrap(), b"x");
        for copy in &mut copies {
            if copy
                .log()
                .contains("other processes answer on all addresses")
            {
                assert_eq!(copy.wait().code(), Some(0));
            }
        }
    }
}
