// SPDX-License-Identifier: Apache-2.0

//! Replacing attestation-agent and confidential-data-hub: sockets, command lines, and two copies at the same
//! time.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use nix::sys::signal::Signal;
use offline_fs_kbc::proto::api::{
    GetResourceRequest, GetResourceResponse, UnsealSecretInput, UnsealSecretOutput,
};

use crate::support::daemon::{ANONYMOUS, Daemon, Root, called, called_apart, complaints, one};
use crate::support::service_manager::Manager;
use crate::support::wire::{RECORDED_G2, Wire, call, g2, get};

const AGENT_SOCKETS: [&str; 3] = [
    "getresource.sock",
    "keyprovider.sock",
    "attestation-agent.sock",
];

fn live(root: &Root, name: &str) -> bool {
    UnixStream::connect(root.socket_called(name)).is_ok()
}

fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).unwrap().ino()
}

fn get_from_hub(socket: &Path) -> Vec<u8> {
    let request = GetResourceRequest {
        ResourcePath: "kbs:///default/credential/test".to_owned(),
        ..GetResourceRequest::default()
    };
    let answer: GetResourceResponse =
        call(socket, "api.GetResourceService", "GetResource", &request).unwrap();
    answer.Resource
}

/// Waits until the unit's instance watches its attestation-agent.sock. When that path is removed, the
/// instance does not bind it for 5 s, in which kata-agent's copy binds it.
fn is_watching(root: &Root) {
    let mut wire = Wire::connect(&root.socket_called("attestation-agent.sock"));
    wire.ask(RECORDED_G2).expect_err("another service");
}

/// The agent's three sockets are served by default, the hub's on request; `none` switches each off.
#[test]
fn which_sockets_are_served() {
    let root = Root::new();
    let daemon = root.start();
    assert!(AGENT_SOCKETS.iter().all(|name| live(&root, name)));
    assert!(!root.socket_called("cdh.sock").exists());
    drop(daemon);

    for off in ["keyprovider", "attestation"] {
        let root = Root::new();
        let mut command = root.serve();
        command.args([&format!("--{off}-sock"), "none"]);
        let daemon = Daemon::start(command, &root.socket());
        for name in AGENT_SOCKETS {
            assert_eq!(
                live(&root, name),
                !name.starts_with(off),
                "{off}: {}",
                daemon.log()
            );
        }
    }

    let mut command = root.serve();
    command.args([
        "--getresource-sock",
        "none",
        "--keyprovider-sock",
        "none",
        "--attestation-sock",
        "none",
    ]);
    let mut daemon = Daemon::spawn(command);
    assert_eq!(daemon.wait().code(), Some(1));
    assert!(
        daemon.log().contains("all sockets are switched off"),
        "{}",
        daemon.log()
    );

    // Several sockets may have the same address, which then has the services of all of them.
    let mut command = root.serve();
    command.arg("--cdh-sock").arg(root.socket());
    root.write_resources(&one("Credential", ANONYMOUS));
    let _daemon = Daemon::start(command, &root.socket());
    assert_eq!(get_from_hub(&root.socket()), ANONYMOUS.as_bytes());
    assert_eq!(
        get(&root.socket(), &g2("/default/credential/test")).unwrap(),
        ANONYMOUS.as_bytes()
    );
}

/// Under the hub's name only its own socket is served; its configuration file may give the address.
#[test]
fn the_hub_serves_its_own_socket() {
    let root = Root::with(&one("Credential", ANONYMOUS));
    let socket = root.path("hub/cdh.sock");
    let config = root.path("cdh.toml");
    fs::write(
        &config,
        format!(
            "socket = \"unix://{}\"\nskip_sealed_secret_verification = true\n[kbc]\nname = \"cc_kbc\"\nurl = \"http://x\"\n\
             [[credentials]]\npath = \"/x\"\nresource_uri = \"kbs:///a/b/c\"\n[image]\na = 1\n[log]\nlevel = \"debug\"\n",
            socket.display()
        ),
    )
    .unwrap();
    let mut command = called_apart("/usr/local/bin/confidential-data-hub");
    command.arg("-c").arg(&config);
    command.env("OFFLINE_FS_KBC_EXTRA_FILE_PATH", root.resources());
    let daemon = Daemon::start(command, &socket);
    assert_eq!(get_from_hub(&socket), ANONYMOUS.as_bytes());
    let payload = r#"{"type":"vault","name":"kbs:///default/credential/test"}"#;
    let payload = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(payload);
    let request = UnsealSecretInput {
        secret: format!("sealed.fakejwsheader.{payload}.fakesignature").into_bytes(),
        ..UnsealSecretInput::default()
    };
    let answer: UnsealSecretOutput =
        call(&socket, "api.SealedSecretService", "UnsealSecret", &request).unwrap();
    assert_eq!(
        answer.plaintext,
        ANONYMOUS.as_bytes(),
        "the file switches verification off"
    );
    let log = daemon.log();
    for part in [
        "ERROR",
        "[kbc] name asks for the KBC \"cc_kbc\", but this daemon is offline_fs_kbc",
        "ignored: [[credentials]]",
        "ignored: url in [kbc]",
        "DEBUG",
        "without verifying their signatures",
    ] {
        assert!(log.contains(part), "{part}: {log}");
    }
    assert_eq!(log.matches("listening on").count(), 1, "{log}");
}

/// Every command line that kata-agent and units have used starts the daemon, which reports the arguments that
/// it can't use. The default addresses are in a /run of the daemon's own.
#[test]
fn every_legacy_command_line_starts() {
    let root = Root::with(&one("Credential", ANONYMOUS));
    let a = root.path("a.sock");
    let address = format!("unix://{}", a.display());
    let config = root.path("aa.toml");
    fs::write(&config, "[token_configs.kbs]\nurl = \"hunter2\"\n").unwrap();
    let config = config.display().to_string();
    for (line, warned) in [
        (vec!["--attestation_sock", &address], vec![]),
        (
            vec![
                "--attestation_sock",
                &address,
                "--initdata-toml",
                "x",
                "-c",
                &config,
            ],
            vec!["not measured and not verified", "ignored: [token_configs]"],
        ),
        (
            vec!["--attestation_sock", &address, "-c", "y"],
            vec!["y: can't read the file"],
        ),
        (
            vec!["-a", &address, "-i", "digest", "-t", "x"],
            vec!["-i; the initdata", "-t; the initdata"],
        ),
    ] {
        let mut command = called_apart("/usr/local/bin/attestation-agent");
        command.args(&line);
        let mut daemon = Daemon::start(command, &a);
        let log = daemon.log();
        for part in &warned {
            assert!(log.contains(part), "{part}: {log}");
        }
        assert_eq!(complaints(&log), warned.len(), "{log}");
        assert!(!log.contains("hunter2"));
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait().code(), Some(0));
    }
}

/// The hub starts too, even if its configuration file is missing.
#[test]
fn the_hub_starts_without_its_file() {
    let mut command = called_apart("/usr/local/bin/confidential-data-hub");
    command.args(["-c", "z"]);
    let daemon = Daemon::spawn(command);
    daemon.wait_for_log("listening on unix:///run/confidential-containers/cdh.sock\n");
    let log = daemon.log();
    assert!(log.contains("z: can't read the file"), "{log}");
    assert_eq!(log.matches("listening on").count(), 1, "{log}");
}

/// kata-agent starts a copy while the unit's instance runs: it removes attestation-agent.sock, starts a copy,
/// and waits for the socket. Each address is answered all the time, and the end of a copy does not affect the
/// other.
#[test]
fn kata_agents_start_beside_the_unit() {
    let root = Root::with(&one("Credential", ANONYMOUS));
    let manager = Manager::new();
    let mut unit = Daemon::spawn(manager.manage(root.serve()));
    manager.wait_for("READY=1");
    is_watching(&root);
    let before = inode(&root.socket());

    let attestation = root.socket_called("attestation-agent.sock");
    fs::remove_file(&attestation).unwrap();
    let mut command = called("/usr/local/bin/attestation-agent");
    for name in AGENT_SOCKETS {
        let flag = match name {
            "getresource.sock" => "--getresource_sock",
            "keyprovider.sock" => "--keyprovider_sock",
            _ => "--attestation_sock",
        };
        command.arg(flag);
        command.arg(format!("unix://{}", root.socket_called(name).display()));
    }
    let mut copy = Daemon::start(command, &attestation);
    assert!(AGENT_SOCKETS.iter().all(|name| live(&root, name)));
    assert_eq!(
        inode(&root.socket()),
        before,
        "getresource.sock stays where it is"
    );
    assert_eq!(
        get(&root.socket(), &g2("/default/credential/test")).unwrap(),
        ANONYMOUS.as_bytes()
    );
    let log = copy.log();
    assert_eq!(log.matches("not serving it").count(), 2, "{log}");
    assert_eq!(log.matches("listening on").count(), 1, "{log}");

    // The unit's instance has noticed that its path belongs to the copy now, and takes over when the copy is
    // killed.
    manager.wait_for("waiting for");
    copy.signal(Signal::SIGKILL);
    copy.wait();
    crate::support::wait_for("the unit to take over", || {
        live(&root, "attestation-agent.sock").then_some(())
    });
    assert_eq!(
        get(&root.socket(), &g2("/default/credential/test")).unwrap(),
        ANONYMOUS.as_bytes()
    );
    assert_eq!(inode(&root.socket()), before);

    // At its end it leaves nothing behind, including the path that was removed and bound again.
    unit.signal(Signal::SIGTERM);
    assert_eq!(unit.wait().code(), Some(0));
    assert!(
        AGENT_SOCKETS
            .iter()
            .all(|name| !root.socket_called(name).exists())
    );
}

/// The other order: the unit's instance ends, and leaves the copy's socket alone.
#[test]
fn the_units_end_leaves_the_copys_socket() {
    let root = Root::with(&one("Credential", ANONYMOUS));
    let manager = Manager::new();
    let mut unit = Daemon::spawn(manager.manage(root.serve()));
    manager.wait_for("READY=1");
    is_watching(&root);
    let attestation = root.socket_called("attestation-agent.sock");
    fs::remove_file(&attestation).unwrap();
    let mut copy = Daemon::start(root.serve(), &attestation);
    unit.signal(Signal::SIGTERM);
    assert_eq!(unit.wait().code(), Some(0));
    assert!(live(&root, "attestation-agent.sock"));
    assert!(!root.socket().exists());

    let _unit = Daemon::spawn(manager.manage(root.serve()));
    manager.wait_for("READY=1");
    assert!(AGENT_SOCKETS.iter().all(|name| live(&root, name)));
    copy.signal(Signal::SIGTERM);
    assert_eq!(copy.wait().code(), Some(0));
    crate::support::wait_for("the unit to take over", || {
        live(&root, "attestation-agent.sock").then_some(())
    });
}

/// A client that connects while kata-agent removes a path and starts a copy is answered.
#[test]
fn a_client_is_answered_while_the_path_changes_hands() {
    let root = Root::with(&one("Credential", ANONYMOUS));
    let _unit = root.start();
    let attestation = root.socket_called("attestation-agent.sock");
    let mut answers = 0;
    let mut copies = Vec::new();
    for _ in 0..5 {
        fs::remove_file(&attestation).unwrap();
        let copy = Daemon::spawn(root.serve());
        while !live(&root, "attestation-agent.sock") {
            let found = get(&root.socket(), &g2("/default/credential/test"));
            assert_eq!(found.unwrap(), ANONYMOUS.as_bytes());
            answers += 1;
        }
        copies.push(copy);
    }
    assert!(answers > 0);
}

/// Two copies on overlapping addresses, started in either order: every address is answered, and the end of
/// one copy does not affect the other's sockets.
#[test]
fn overlapping_copies() {
    for hub_first in [true, false] {
        let root = Root::with(&one("Credential", ANONYMOUS));
        let hub_only = || {
            let mut command = root.serve_hub();
            command.args(["--keyprovider-sock", "none"]);
            command
        };
        let commands: [Command; 2] = if hub_first {
            [hub_only(), root.serve()]
        } else {
            [root.serve(), hub_only()]
        };
        let mut copies = commands.map(|command| {
            let daemon = Daemon::spawn(command);
            daemon.wait_for_log("aa-offline_fs_kbc-resources.json: 1 entry");
            daemon
        });
        let all = [&AGENT_SOCKETS[..], &["cdh.sock"]].concat();
        assert!(all.iter().all(|name| live(&root, name)));
        let mine: Vec<_> = copies
            .iter()
            .map(|copy| {
                all.iter()
                    .filter(|name| {
                        copy.log().contains(&format!(
                            "listening on unix://{}\n",
                            root.socket_called(name).display()
                        ))
                    })
                    .copied()
                    .collect::<Vec<_>>()
            })
            .collect();
        assert_eq!(mine[0].len() + mine[1].len(), 4, "{mine:?}");
        copies[0].signal(Signal::SIGTERM);
        assert_eq!(copies[0].wait().code(), Some(0));
        for name in &mine[0] {
            assert!(!root.socket_called(name).exists(), "{name}");
        }
        assert!(mine[1].iter().all(|name| live(&root, name)), "{mine:?}");
    }
}

/// A stock confidential-data-hub that runs next to the daemon keeps its socket, even if the daemon is told to
/// serve it.
#[test]
fn a_stock_hub_keeps_its_socket() {
    let root = Root::with(&one("Credential", ANONYMOUS));
    fs::create_dir_all(root.path("run/confidential-containers")).unwrap();
    let path = root.socket_called("cdh.sock");
    let stock = UnixListener::bind(&path).unwrap();
    let before = inode(&path);
    for command in [root.serve(), root.serve_hub()] {
        let mut daemon = Daemon::start(command, &root.socket());
        assert_eq!(inode(&path), before);
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait().code(), Some(0));
        assert_eq!(inode(&path), before);
    }
    drop(stock);
}

/// If another KBC is configured, in any place, the log says that this is the wrong daemon.
#[test]
fn another_kbc_in_the_configuration_is_logged() {
    let root = Root::new();
    fs::write(
        root.path("etc/agent-config.toml"),
        "aa_kbc_params = \"cc_kbc::http://h\"\n",
    )
    .unwrap();
    fs::create_dir(root.path("proc")).unwrap();
    fs::write(
        root.path("proc/cmdline"),
        "ro agent.aa_kbc_params=eaa_kbc::x quiet\n",
    )
    .unwrap();
    let mut command = root.serve();
    command.env("AA_KBC_PARAMS", "online_sev_kbc::y");
    let daemon = Daemon::start(command, &root.socket());
    let log = daemon.log();
    for name in ["cc_kbc", "eaa_kbc", "online_sev_kbc"] {
        let part = format!("asks for the KBC \"{name}\"");
        assert!(
            log.lines()
                .any(|line| line.contains("ERROR") && line.contains(&part)),
            "{log}"
        );
    }
    drop(daemon);
    for (path, text) in [
        (
            "etc/agent-config.toml",
            "aa_kbc_params = \"offline_fs_kbc::null\"\n",
        ),
        ("proc/cmdline", "ro\n"),
    ] {
        fs::write(root.path(path), text).unwrap();
    }
    let daemon = root.start();
    assert!(
        !daemon.log().contains("asks for the KBC"),
        "{}",
        daemon.log()
    );
}

/// A path that was removed and that nobody else binds is bound again, each time. The old listener is closed,
/// and connected clients are still served.
#[test]
fn a_removed_path_is_bound_again() {
    let root = Root::with(&one("Credential", ANONYMOUS));
    let manager = Manager::new();
    let unit = Daemon::spawn(manager.manage(root.serve()));
    manager.wait_for("READY=1");
    is_watching(&root);
    let mut wire = Wire::connect(&root.socket());
    wire.ask(RECORDED_G2).unwrap();
    let open = || {
        let descriptors = fs::read_dir(format!("/proc/{}/fd", unit.pid())).unwrap();
        descriptors.count()
    };
    let before = open();
    for _ in 0..2 {
        fs::remove_file(root.socket()).unwrap();
        crate::support::wait_for("the path to be taken again", || {
            live(&root, "getresource.sock").then_some(())
        });
        wire.ask(RECORDED_G2).unwrap();
    }
    crate::support::wait_for("no descriptor more", || (open() <= before).then_some(()));
}
