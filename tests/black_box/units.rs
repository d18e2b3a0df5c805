// SPDX-License-Identifier: Apache-2.0

//! The units, installed as an image would have them and read by systemd's own tools.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::support::both::guest_pull;
use crate::support::daemon::{output, program};

const SERVICE: &str = "offline-fs-kbc.service";

/// The variable by which `make install` finds the built guest-pull.
pub fn puller() -> String {
    format!("GUEST_PULL_BIN={}", guest_pull().display())
}

/// Installs into a directory.
pub fn install_into(directory: &Path, variables: &[&str]) {
    let mut make = Command::new("make");
    make.current_dir(env!("CARGO_MANIFEST_DIR")).arg("install");
    make.arg(format!("DESTDIR={}", directory.display()));
    make.arg(format!("BIN={}", program().display()))
        .args(variables);
    // The settings of the make that runs the tests are not meant for this one.
    make.env_remove("MAKEFLAGS").env_remove("MAKELEVEL");
    expect_success(&mut make);
}

/// A directory after `make install`, with what else a VM has.
pub fn installed(variables: &[&str]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    install_into(dir.path(), variables);
    // What systemd-analyze looks for in a VM.
    fs::create_dir_all(dir.path().join("bin")).unwrap();
    fs::copy("/bin/sh", dir.path().join("bin/sh")).unwrap();
    let system = dir.path().join("usr/lib/systemd/system");
    fs::create_dir_all(&system).unwrap();
    for unit in [
        "sysinit.target",
        "sockets.target",
        "multi-user.target",
        "basic.target",
    ] {
        fs::write(system.join(unit), "[Unit]\nDescription=a stand-in\n").unwrap();
    }
    for unit in ["shutdown.target", "-.mount", "system.slice"] {
        fs::write(system.join(unit), "[Unit]\nDescription=a stand-in\n").unwrap();
    }
    fs::write(
        system.join("-.mount"),
        "[Unit]\n[Mount]\nWhat=/dev/vda\nWhere=/\n",
    )
    .unwrap();
    dir
}

/// Removes from the image what was installed with these variables.
pub fn uninstall(root: &Path, variables: &[&str]) {
    let mut make = Command::new("make");
    make.current_dir(env!("CARGO_MANIFEST_DIR"))
        .arg("uninstall");
    make.arg(format!("DESTDIR={}", root.display()))
        .args(variables);
    make.env_remove("MAKEFLAGS").env_remove("MAKELEVEL");
    expect_success(&mut make);
}

/// Runs the command, which must succeed; gives what it printed.
pub fn expect_success(command: &mut Command) -> String {
    let (stdout, stderr, code) = output(command);
    assert_eq!(code, Some(0), "{command:?}: {stdout}{stderr}");
    format!("{stdout}{stderr}")
}

/// What one of systemd's tools says of an image.
pub fn systemd(tool: &str, root: &Path, args: &[&str]) -> String {
    let mut command = Command::new(tool);
    command.arg(format!("--root={}", root.display())).args(args);
    expect_success(&mut command)
}

/// The security score of the service, and of the service with an image's drop-in.
#[test]
fn the_service_is_hardened() {
    for variables in [
        &[][..],
        &["DROP_INS=both-roles console attestation-agent-alias"],
    ] {
        let root = installed(variables);
        let args = [
            "security",
            "--offline=yes",
            "--no-pager",
            "--threshold=5",
            SERVICE,
        ];
        systemd("systemd-analyze", root.path(), &args);
    }
}

/// systemd reads the units without warnings, whatever prefix they are installed with.
#[test]
fn systemd_understands_the_units() {
    for variables in [
        &[][..],
        &["PREFIX=/usr", "DROP_INS=both-roles no-activation"],
    ] {
        let root = installed(variables);
        let mut args = vec!["verify", SERVICE];
        let sockets = SOCKETS.map(|(name, _)| format!("offline-fs-kbc-{name}.socket"));
        args.extend(sockets.iter().map(String::as_str));
        let said = systemd("systemd-analyze", root.path(), &args);
        assert_eq!(said, "");
    }
}

/// The sockets by the names of their units and descriptors.
const SOCKETS: [(&str, &str); 4] = [
    ("getresource", "attestation-agent/getresource.sock"),
    ("keyprovider", "attestation-agent/keyprovider.sock"),
    ("attestation", "attestation-agent/attestation-agent.sock"),
    ("cdh", "cdh.sock"),
];

/// Each socket unit listens where the daemon itself would, has the descriptor name of its role (the socket
/// activation tests use the same names), and is private from the start.
#[test]
fn socket_units_are_where_the_daemon_would_bind() {
    let root = installed(&[]);
    for (name, path) in SOCKETS {
        let unit = format!("usr/local/lib/systemd/system/offline-fs-kbc-{name}.socket");
        let unit = fs::read_to_string(root.path().join(unit)).unwrap();
        for line in [
            format!("ListenStream=/run/confidential-containers/{path}"),
            format!("FileDescriptorName={name}"),
            format!("Service={SERVICE}"),
            "SocketMode=0600".to_owned(),
            "Before=kata-agent.service".to_owned(),
        ] {
            assert!(unit.lines().any(|found| found == line), "{name}: {line}");
        }
    }
}

/// The links below `/etc/systemd/system`: each enables a unit, or is another name of one.
pub fn links(root: &Path) -> Vec<String> {
    let mut links = Vec::new();
    let mut directories = vec![root.join("etc/systemd/system")];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_symlink() {
                let place = path.strip_prefix(root.join("etc/systemd/system")).unwrap();
                links.push(place.to_str().unwrap().to_owned());
            } else if path.is_dir() {
                directories.push(path);
            }
        }
    }
    links.sort();
    links
}

/// `systemctl preset-all` enables all units but cdh.sock's, which another program may serve.
#[test]
fn the_preset_enables_all_but_cdh_sock() {
    let root = installed(&[]);
    systemd("systemctl", root.path(), &["preset-all"]);
    let enabled = [
        "multi-user.target.wants/offline-fs-kbc.service",
        "sockets.target.wants/offline-fs-kbc-attestation.socket",
        "sockets.target.wants/offline-fs-kbc-getresource.socket",
        "sockets.target.wants/offline-fs-kbc-keyprovider.socket",
    ];
    assert_eq!(links(root.path()), enabled);
}

/// An image whose units are ordered after the upstream's unit can use that unit's name.
#[test]
fn the_alias_is_another_name_of_the_service() {
    let root = installed(&["DROP_INS=attestation-agent-alias"]);
    systemd("systemctl", root.path(), &["enable", SERVICE]);
    let links = links(root.path());
    assert!(
        links.contains(&"attestation-agent.service".to_owned()),
        "{links:?}"
    );
    assert_eq!(links.len(), 5, "{links:?}");
}

/// The directories exist before a socket unit would create all of them with the same mode.
#[test]
fn the_directories_have_exact_modes() {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "this test needs root");
        eprintln!("left out: only root can make root's directories");
        return;
    }
    let root = installed(&["PREFIX=/usr"]);
    systemd(
        "systemd-tmpfiles",
        root.path(),
        &["--create", "offline-fs-kbc.conf"],
    );
    for (path, mode) in [("", 0o755), ("attestation-agent", 0o700)] {
        let path = root.path().join("run/confidential-containers").join(path);
        let found = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(found & 0o7777, mode, "{path:?}");
    }
}

/// `make uninstall` removes the binary, the units and the drop-ins, and no files of others.
#[test]
fn uninstall_leaves_nothing() {
    let variables = ["PREFIX=/usr", "CDH=1", "DROP_INS=console no-activation"];
    let root = installed(&variables);
    let foreign = root.path().join("usr/lib/systemd/system/foreign.service");
    fs::write(&foreign, "").unwrap();
    uninstall(root.path(), &variables);
    let mut find = Command::new("find");
    find.arg(root.path()).args(["-name", "*offline-fs-kbc*"]);
    assert_eq!(expect_success(&mut find), "");
    assert!(foreign.exists());
}
