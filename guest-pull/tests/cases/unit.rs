// SPDX-License-Identifier: Apache-2.0

//! The units, read by systemd's own tools. The daemon's are tested in the daemon's package.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

use crate::host::{has_tool, output, project, text};

/// The unit of one pull.
pub const SERVICE: &str = "guest-pull@.service";

/// How exposed it is, times ten: the unit says what stays open, and why.
const MOST_EXPOSED: u32 = 53;

/// What a unit's settings of this name have, all together.
pub fn setting(unit: &str, name: &str) -> Vec<String> {
    let text = fs::read_to_string(units().join(unit)).unwrap();
    let values = text
        .lines()
        .filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    values
        .flat_map(str::split_whitespace)
        .map(str::to_owned)
        .collect()
}

fn units() -> PathBuf {
    project().join("systemd/guest-pull")
}

/// A directory with the units, and what else systemd looks for.
fn image() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (system, bin) = (
        dir.path().join("usr/lib/systemd/system"),
        dir.path().join("usr/local/bin"),
    );
    fs::create_dir_all(&system).unwrap();
    fs::create_dir_all(&bin).unwrap();
    for unit in [SERVICE, "guest-pull.socket"] {
        fs::copy(units().join(unit), system.join(unit)).unwrap();
    }
    for unit in [
        "sysinit.target",
        "sockets.target",
        "basic.target",
        "shutdown.target",
        "system.slice",
    ] {
        fs::write(system.join(unit), "[Unit]\nDescription=a stand-in\n").unwrap();
    }
    let module = "[Unit]\nDescription=a stand-in\n[Service]\nType=oneshot\nExecStart=/usr/local/bin/guest-pull\n";
    fs::write(system.join("modprobe@.service"), module).unwrap();
    let mount = "[Unit]\n[Mount]\nWhat=/dev/vda\nWhere=/\n";
    fs::write(system.join("-.mount"), mount).unwrap();
    let program = bin.join("guest-pull");
    fs::write(&program, "").unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// What `systemd-analyze` says of the image, and its exit status.
fn analyze(image: &TempDir, args: &[&str]) -> (String, Option<i32>) {
    let root = format!("--root={}", text(image.path()));
    let (stdout, stderr, code) = output(Command::new("systemd-analyze").arg(root).args(args));
    (format!("{stdout}{stderr}"), code)
}

/// The security score of the service is no worse than its comments say.
#[test]
fn the_service_is_hardened() {
    if !has_tool("SYSTEMD_ANALYZE", "systemd-analyze") {
        return;
    }
    let threshold = format!("--threshold={MOST_EXPOSED}");
    let args = [
        "security",
        "--offline=yes",
        "--no-pager",
        &threshold,
        SERVICE,
    ];
    let (said, code) = analyze(&image(), &args);
    assert_eq!(code, Some(0), "{said}");
    let unit = fs::read_to_string(units().join(SERVICE)).unwrap();
    let (whole, tenth) = (MOST_EXPOSED / 10, MOST_EXPOSED % 10);
    let named = format!("`systemd-analyze security` gives {whole}.{tenth} of 10");
    assert!(unit.contains(&named), "{named}");
}

/// systemd reads the units without warnings.
#[test]
fn systemd_understands_the_units() {
    if !has_tool("SYSTEMD_ANALYZE", "systemd-analyze") {
        return;
    }
    let args = ["verify", "guest-pull.socket", "guest-pull@image.service"];
    let (said, code) = analyze(&image(), &args);
    assert_eq!((said.as_str(), code), ("", Some(0)));
}

/// The settings of the service. Whoever adds one looks first whether systemd gives a service mounts of its own for it:
/// `exec_needs_mount_namespace` of its sources.
const WITHOUT_OWN_MOUNTS: [&str; 29] = [
    "AmbientCapabilities",
    "CapabilityBoundingSet",
    "DeviceAllow",
    "DevicePolicy",
    "ExecStart",
    "KeyringMode",
    "LimitCORE",
    "LimitNOFILE",
    "LockPersonality",
    "MemoryDenyWriteExecute",
    "MemorySwapMax",
    "NoNewPrivileges",
    "OOMPolicy",
    "OOMScoreAdjust",
    "ProtectClock",
    "ProtectHostname",
    "RestrictAddressFamilies",
    "RestrictNamespaces",
    "RestrictRealtime",
    "RuntimeMaxSec",
    "StandardError",
    "StandardInput",
    "StandardOutput",
    "SystemCallArchitectures",
    "SystemCallErrorNumber",
    "SystemCallFilter",
    "TasksMax",
    "TimeoutStopSec",
    "UMask",
];

/// The mount must be seen outside, so the service has no setting with which systemd gives it mounts of its own.
#[test]
fn the_service_has_the_mounts_of_the_vm() {
    let unit = fs::read_to_string(units().join(SERVICE)).unwrap();
    let (_, service) = unit.split_once("\n[Service]\n").unwrap();
    let settings = service.lines().filter(|line| !line.starts_with('#'));
    let settings: Vec<_> = settings.filter_map(|line| line.split_once('=')).collect();
    assert!(settings.len() > 20, "{settings:?}");
    for (name, value) in settings {
        assert!(WITHOUT_OWN_MOUNTS.contains(&name), "{name}={value}");
    }
}
