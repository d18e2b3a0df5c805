// SPDX-License-Identifier: Apache-2.0

//! Which copies wait for an address, and how: a copy that systemd started never ends by itself, and a process that
//! holds an address is not bothered by those that wait.

use std::fs;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::support::daemon::{ANONYMOUS, Daemon, Root, command, one, output, started_by};
use crate::support::service_manager::Manager;
use crate::support::wait_for;
use crate::support::wire::{g2, get};

const CREDENTIAL: &str = "/default/credential/test";

/// The command with getresource.sock alone.
fn one_socket(mut command: Command) -> Command {
    command.args(["--keyprovider-sock", "none", "--attestation-sock", "none"]);
    command
}

/// The command as systemd starts that of a unit of `Type=simple`: without NOTIFY_SOCKET.
fn as_service(inner: &Command) -> Command {
    let script = "export SYSTEMD_EXEC_PID=$$; exec \"$@\"";
    started_by("sh", &["-c", script, "sh"], inner)
}

/// Whether a client gets the credential.
fn answered(root: &Root) -> Option<()> {
    UnixStream::connect(root.socket()).ok()?;
    let got = get(&root.socket(), &g2(CREDENTIAL)).ok()?;
    (got == ANONYMOUS.as_bytes()).then_some(())
}

/// The next connection that waits to be accepted, if there is one.
fn accept(holder: &UnixListener) -> Option<UnixStream> {
    Some(holder.accept().ok()?.0)
}

/// A socket of another program, from which connections are accepted without waiting.
fn foreign(root: &Root) -> UnixListener {
    fs::create_dir_all(root.socket().parent().unwrap()).unwrap();
    let holder = UnixListener::bind(root.socket()).unwrap();
    holder.set_nonblocking(true).unwrap();
    holder
}

/// A unit without notifications, such as cloud-api-adaptor's own attestation-agent.service, is started again by
/// `Restart=always` if its process ends, until systemd gives up on it. So this copy waits, and takes over.
#[test]
fn a_copy_that_systemd_started_waits() {
    let shell = "export SYSTEMD_EXEC_PID=$$; if true; then setpriv --pdeathsig KILL \"$@\"; fi";
    let by_shell = |inner: &Command| started_by("bash", &["-c", shell, "bash"], inner);
    // The first process of a PID namespace is the parent, as systemd is before version 248.
    let alone = ["--map-root-user", "--pid", "--fork", "--kill-child"];
    let first = "export INVOCATION_ID=1; \"$@\" & wait";
    let by_the_first = |inner: &Command| {
        let args = [&alone[..], &["bash", "-c", first, "bash"]].concat();
        started_by("unshare", &args, inner)
    };
    let ways: [&dyn Fn(&Command) -> Command; 3] = [&as_service, &by_shell, &by_the_first];
    for (index, way) in ways.iter().enumerate() {
        let root = Root::with(&one("Credential", ANONYMOUS));
        let mut first = root.start();
        let second = Daemon::spawn(way(&root.serve()));
        second.wait_for_log("answers there; waiting to take over");
        first.signal(Signal::SIGKILL);
        first.wait();
        wait_for(&format!("the second to answer, way {index}"), || {
            answered(&root)
        });
        second.wait_for_log("the other process is gone");
        assert!(!second.log().contains("exiting"), "{}", second.log());
    }
}

/// A copy that kata-agent starts is none of systemd's, although it has kata-agent's environment: it ends where
/// another process answers, in place of waiting beside the unit for the VM's life.
#[test]
fn a_copy_that_kata_agent_started_does_not_wait() {
    let root = Root::with(&one("Credential", ANONYMOUS));
    let _first = root.start();
    // Since version 248 of systemd, and before.
    for variable in ["SYSTEMD_EXEC_PID", "INVOCATION_ID"] {
        let script = "import os, subprocess, sys
os.environ[sys.argv[1]] = str(os.getpid())
sys.exit(subprocess.run(sys.argv[2:]).returncode)";
        let args = ["-c", script, variable];
        let mut copy = Daemon::spawn(started_by("python3", &args, &root.serve()));
        assert_eq!(copy.wait().code(), Some(0));
        let log = copy.log();
        assert!(log.contains("answers there; not serving it"), "{log}");
    }
}

/// A process that keeps the connection is left alone: one connection for each address, however long it takes.
#[test]
fn a_holder_is_asked_once() {
    let root = Root::with(&one("Credential", ANONYMOUS));
    let holder = foreign(&root);
    let second = Daemon::spawn(as_service(&one_socket(root.serve())));
    let kept = wait_for("the connection", || accept(&holder));
    second.wait_for_log("waiting to take over");
    // Each connection that it makes in this time is one too many.
    thread::sleep(Duration::from_secs(3));
    assert!(accept(&holder).is_none());
    drop(holder);
    drop(kept);
    wait_for("the second to answer", || answered(&root));
}

/// A process that closes each connection at once is asked more and more seldom; if its path is removed, that shows at
/// once nevertheless.
#[test]
fn a_holder_that_closes_connections_is_asked_seldom() {
    let root = Root::with(&one("Credential", ANONYMOUS));
    let holder = foreign(&root);
    let start = Instant::now();
    let _second = Daemon::spawn(as_service(&one_socket(root.serve())));
    let mut connections = 0;
    while start.elapsed() < Duration::from_secs(4) {
        match accept(&holder) {
            Some(_closed) => connections += 1,
            None => thread::sleep(Duration::from_millis(5)),
        }
    }
    // At the start, and after pauses of 0.1, 0.2, 0.4, 0.8 and 1.6 s.
    assert!((1..=6).contains(&connections), "{connections}");
    fs::remove_file(root.socket()).unwrap();
    wait_for("the second to answer", || answered(&root));
}

/// Many copies may wait for one address. One of them takes it, and none complains about the others.
#[test]
fn one_of_many_takes_over() {
    let root = Root::with(&one("Credential", ANONYMOUS));
    let mut first = root.start();
    let mut others: Vec<_> = (0..3)
        .map(|_| Daemon::spawn(as_service(&one_socket(root.serve()))))
        .collect();
    for other in &others {
        other.wait_for_log("waiting to take over");
    }
    first.signal(Signal::SIGTERM);
    first.wait();
    for _ in 0..3 {
        let winner = wait_for("one to take over", || {
            let took_over = |other: &Daemon| other.log().contains("the other process is gone");
            others.iter().position(took_over)
        });
        wait_for("an answer", || answered(&root));
        let mut winner = others.swap_remove(winner);
        winner.signal(Signal::SIGTERM);
        assert_eq!(winner.wait().code(), Some(0));
        assert!(!winner.log().contains("ERROR"), "{}", winner.log());
    }
}

/// A unit whose process was killed is started again, and has its socket and its clients again: a copy that waits
/// does not take its address meanwhile.
#[test]
fn a_killed_unit_keeps_its_address() {
    let root = Root::with(&one("Credential", ANONYMOUS));
    let manager = Manager::new();
    let mut first = manager.start(root.serve());
    let second = Daemon::spawn(as_service(&one_socket(root.serve())));
    second.wait_for_log("waiting to take over");
    // The second's connection.
    manager.wait_until_kept(1);
    first.signal(Signal::SIGKILL);
    first.wait();
    first = manager.start(root.serve());
    let log = first.log();
    assert!(!log.contains("waiting to take over"), "{log}");
    assert!(!second.log().contains("gone"), "{}", second.log());
    first.signal(Signal::SIGTERM);
    first.wait();
    second.wait_for_log("the other process is gone");
    wait_for("an answer", || answered(&root));
}

/// A socket of a socket unit was made by the service manager, which is no process to look for.
#[test]
fn a_socket_of_a_socket_unit_is_called_so() {
    let script = "import os, socket, subprocess, sys
subprocess.run(['mount', '-t', 'tmpfs', 'none', '/run'], check=True)
os.makedirs('/run/confidential-containers/attestation-agent')
if sys.argv[1] == 'systemd':
    os.makedirs('/run/systemd/system')
holder = socket.socket(socket.AF_UNIX)
holder.bind('/run/confidential-containers/attestation-agent/getresource.sock')
holder.listen()
sys.exit(subprocess.run(sys.argv[2:]).returncode)";
    for (manager, said) in [
        (
            "systemd",
            "the service manager listens there for a socket unit (pid 1); not serving it",
        ),
        ("another", "pid 1 answers there; not serving it"),
    ] {
        let mut serve = command();
        serve.arg("serve");
        let namespaces = [
            "--map-root-user",
            "--mount",
            "--pid",
            "--fork",
            "--kill-child",
        ];
        let args = [&namespaces[..], &["python3", "-c", script, manager]].concat();
        let (_, log, code) = output(&mut started_by("unshare", &args, &one_socket(serve)));
        assert_eq!(code, Some(0), "{log}");
        assert!(log.contains(said), "{log}");
    }
}
