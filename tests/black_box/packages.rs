// SPDX-License-Identifier: Apache-2.0

//! guest-pull beside the daemon: what `make install GUEST_PULL=1` and the second package put into an image, and what they
//! leave.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::peer_pod_units::add_their_units;
use crate::support::daemon::output;
use crate::units::{expect_success, install_into, installed, links, puller, systemd, uninstall};

/// What guest-pull adds to an image, below the prefix.
const ADDED: [&str; 7] = [
    "bin/confidential-data-hub",
    "bin/guest-pull",
    "lib/systemd/system-preset/79-guest-pull.preset",
    "lib/systemd/system/guest-pull.socket",
    "lib/systemd/system/guest-pull@.service",
    "lib/tmpfiles.d/guest-pull.conf",
    "share/offline-fs-kbc/peerpod/confidential-data-hub.service.conf",
];

/// What is enabled with both programs, in an image of its own.
const ENABLED: [&str; 6] = [
    "multi-user.target.wants/offline-fs-kbc.service",
    "sockets.target.wants/guest-pull.socket",
    "sockets.target.wants/offline-fs-kbc-attestation.socket",
    "sockets.target.wants/offline-fs-kbc-cdh.socket",
    "sockets.target.wants/offline-fs-kbc-getresource.socket",
    "sockets.target.wants/offline-fs-kbc-keyprovider.socket",
];

/// What is enabled in an image with cloud-api-adaptor's units: nothing that could start the VM before its user data.
const ENABLED_BESIDE_THEIRS: [&str; 3] = [
    "multi-user.target.wants/attestation-agent.path",
    "multi-user.target.wants/confidential-data-hub.path",
    "sockets.target.wants/guest-pull.socket",
];

const HUB_DROP_IN: &str =
    "usr/lib/systemd/system/confidential-data-hub.service.d/10-offline-fs-kbc.conf";

/// The files and links below the directory.
fn files(directory: &Path) -> BTreeSet<String> {
    let mut find = Command::new("find");
    find.arg(directory)
        .args(["!", "-type", "d", "-printf", "%P\n"]);
    expect_success(&mut find)
        .lines()
        .map(str::to_owned)
        .collect()
}

/// Exactly these files come with guest-pull, and they go again: with `uninstall`, and when the daemon is installed alone.
#[test]
fn make_install_adds_guest_pull_and_takes_it_away() {
    let bin = puller();
    for prefix in ["usr", "usr/local"] {
        let prefix_arg = format!("PREFIX=/{prefix}");
        let root = tempfile::tempdir().unwrap();
        install_into(root.path(), &[&prefix_arg]);
        let alone = files(root.path());
        install_into(root.path(), &["GUEST_PULL=1", &bin, &prefix_arg]);
        let added: Vec<_> = files(root.path()).difference(&alone).cloned().collect();
        let wanted = ADDED.map(|file| format!("{prefix}/{file}"));
        assert_eq!(added, wanted);

        let unit = root
            .path()
            .join(prefix)
            .join("lib/systemd/system/guest-pull@.service");
        let unit = fs::read_to_string(unit).unwrap();
        let start = format!("ExecStart=/{prefix}/bin/guest-pull serve");
        assert!(unit.lines().any(|line| line == start), "{unit}");
        let hub = root.path().join(prefix).join("bin/confidential-data-hub");
        assert_eq!(fs::read_link(hub).unwrap(), Path::new("offline-fs-kbc"));

        install_into(root.path(), &[&prefix_arg]);
        assert_eq!(files(root.path()), alone);
        install_into(root.path(), &["GUEST_PULL=1", &bin, &prefix_arg]);
        uninstall(root.path(), &[&prefix_arg]);
        assert_eq!(files(root.path()), BTreeSet::new());
    }
}

/// Without `GUEST_PULL=1` a guest-pull that somebody put beside the daemon stays: kata-agents start that one.
#[test]
fn a_guest_pull_that_was_copied_there_stays() {
    let root = tempfile::tempdir().unwrap();
    let program = root.path().join("usr/local/bin/guest-pull");
    fs::create_dir_all(program.parent().unwrap()).unwrap();
    fs::write(&program, "copied").unwrap();
    install_into(root.path(), &[]);
    uninstall(root.path(), &[]);
    assert_eq!(fs::read_to_string(program).unwrap(), "copied");
}

/// systemd reads the units without warnings, wherever they are installed.
#[test]
fn systemd_understands_the_units_of_guest_pull() {
    for prefix in ["PREFIX=/usr", "PREFIX=/usr/local"] {
        let root = installed(&["GUEST_PULL=1", &puller(), prefix]);
        let units = ["verify", "guest-pull.socket", "guest-pull@1.service"];
        assert_eq!(systemd("systemd-analyze", root.path(), &units), "");
    }
}

/// With guest-pull the presets give the hub's socket to the daemon.
#[test]
fn the_presets_enable_guest_pull_and_cdh_sock() {
    let root = installed(&["GUEST_PULL=1", &puller()]);
    systemd("systemctl", root.path(), &["preset-all"]);
    assert_eq!(links(root.path()), ENABLED);
}

/// In an image with cloud-api-adaptor's units, confidential-data-hub.service runs the daemon, and of the own units only
/// guest-pull's socket is enabled.
#[test]
fn their_units_run_the_daemon_with_guest_pull() {
    let root = installed(&["IMAGE=peerpod", "GUEST_PULL=1", &puller(), "PREFIX=/usr"]);
    add_their_units(root.path());
    systemd("systemctl", root.path(), &["preset-all"]);
    assert_eq!(links(root.path()), ENABLED_BESIDE_THEIRS);
    assert!(root.path().join(HUB_DROP_IN).exists());
}

/// Packages of two versions, made of a program that is small.
fn packages(format: &str) -> Option<TempDir> {
    let tools = match format {
        "deb" => ["dpkg", "dpkg-deb"],
        _ => ["rpm", "rpmbuild"],
    };
    let missing = tools.iter().find(|tool| {
        let mut which = Command::new("sh");
        let (_, _, code) = output(which.args(["-c", &format!("command -v {tool}")]));
        code != Some(0)
    });
    if let Some(tool) = missing {
        assert!(std::env::var_os("CI").is_none(), "{tool} is missing");
        eprintln!("left out: {tool} is missing");
        return None;
    }
    let made = tempfile::tempdir().unwrap();
    for version in ["7.1", "7.2"] {
        let mut build = Command::new("packaging/build");
        build
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args([format, version, std::env::consts::ARCH])
            .args(["/bin/true", "/bin/true"])
            .arg(made.path().join(version));
        build.env_remove("MAKEFLAGS").env_remove("MAKELEVEL");
        expect_success(&mut build);
    }
    Some(made)
}

/// The package of this version.
fn package(made: &TempDir, version: &str, is_guest_pull: bool) -> PathBuf {
    let directory = fs::read_dir(made.path().join(version)).unwrap();
    let mut paths = directory.map(|entry| entry.unwrap().path());
    let with_name =
        |path: &PathBuf| path.to_str().unwrap().contains("-guest-pull") == is_guest_pull;
    paths.find(with_name).unwrap()
}

/// What the second package contains.
fn contents() -> BTreeSet<String> {
    let own = [
        "usr/local/bin/confidential-data-hub",
        "usr/share/doc/offline-fs-kbc-guest-pull",
    ];
    let added = ADDED.iter().map(|file| format!("usr/{file}"));
    added.chain(own.map(str::to_owned)).collect()
}

/// A root file system for packages, or none where this isn't root.
fn minimal_root() -> Option<TempDir> {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "this test needs root");
        eprintln!("left out: only root can install packages");
        return None;
    }
    let root = tempfile::tempdir().unwrap();
    let mut make = Command::new("tests/minimal-root");
    make.current_dir(env!("CARGO_MANIFEST_DIR"))
        .arg(root.path());
    expect_success(&mut make);
    Some(root)
}

/// A tool of packages, run on this root.
fn on(root: &TempDir, tool: &str, args: &[&str], packages: &[&Path]) {
    let mut command = Command::new(tool);
    command.arg(format!("--root={}", root.path().display()));
    command.args(args).args(packages);
    expect_success(&mut command);
}

/// What is left of the packages in the root.
fn left(root: &TempDir) -> Vec<String> {
    let ours = ["offline-fs-kbc", "guest-pull", "data-hub", "attestation"];
    let is_ours =
        |file: &String| !file.starts_with("var/") && ours.iter().any(|name| file.contains(name));
    files(root.path()).into_iter().filter(is_ours).collect()
}

/// Whatever is done to the packages: what is enabled, what upgrades keep, and that nothing stays.
fn in_an_image(tool: &str, [install, upgrade, erase]: [&[&str]; 3], made: &TempDir) {
    let both = |version| [true, false].map(|which| package(made, version, which));
    let (old, new) = (both("7.1"), both("7.2"));
    let Some(root) = minimal_root() else {
        return;
    };
    let names = ["offline-fs-kbc-guest-pull", "offline-fs-kbc"].map(Path::new);
    // The daemon alone, and guest-pull later.
    on(&root, tool, install, &[&old[1]]);
    assert!(!links(root.path()).iter().any(|link| link.contains("cdh")));
    on(&root, tool, install, &[&old[0]]);
    assert_eq!(links(root.path()), ENABLED);
    assert!(!root.path().join(HUB_DROP_IN).exists());
    // What somebody disabled stays so with an upgrade.
    systemd("systemctl", root.path(), &["disable", "guest-pull.socket"]);
    on(&root, tool, upgrade, &[&new[0], &new[1]]);
    let rest: Vec<_> = ENABLED
        .into_iter()
        .filter(|link| !link.contains("guest-pull"))
        .collect();
    assert_eq!(links(root.path()), rest);
    // guest-pull goes, and with it the hub's place.
    on(&root, tool, erase, &names[..1]);
    assert!(!links(root.path()).iter().any(|link| link.contains("cdh")));
    assert!(!left(&root).iter().any(|file| file.contains("data-hub")));
    assert!(root.path().join("usr/bin/offline-fs-kbc").exists());
    // Both at once, in the wrong order.
    on(&root, tool, erase, &names[1..]);
    on(&root, tool, install, &[&new[0], &new[1]]);
    assert_eq!(links(root.path()), ENABLED);
    on(&root, tool, erase, &names);
    assert_eq!(left(&root), [""; 0]);
}

/// The same in an image with cloud-api-adaptor's units.
fn beside_their_units(tool: &str, [install, upgrade, erase]: [&[&str]; 3], made: &TempDir) {
    let both = |version| [true, false].map(|which| package(made, version, which));
    let (old, new) = (both("7.1"), both("7.2"));
    let Some(root) = minimal_root() else {
        return;
    };
    let names = ["offline-fs-kbc-guest-pull", "offline-fs-kbc"].map(Path::new);
    // The hub's program, which the package brings.
    add_their_units(root.path());
    for program in ["attestation-agent", "confidential-data-hub"] {
        fs::remove_file(root.path().join("usr/local/bin").join(program)).unwrap();
    }
    let theirs = left(&root);
    on(&root, tool, install, &[&old[0], &old[1]]);
    systemd("systemctl", root.path(), &["preset-all"]);
    assert_eq!(links(root.path()), ENABLED_BESIDE_THEIRS);
    assert!(root.path().join(HUB_DROP_IN).exists());
    on(&root, tool, upgrade, &[&new[0], &new[1]]);
    assert_eq!(links(root.path()), ENABLED_BESIDE_THEIRS);
    assert!(root.path().join(HUB_DROP_IN).exists());
    let agent = "usr/lib/systemd/system/attestation-agent.service.d/10-offline-fs-kbc.conf";
    on(&root, tool, erase, &names[..1]);
    assert!(!root.path().join(HUB_DROP_IN).parent().unwrap().exists());
    assert!(root.path().join(agent).exists());
    on(&root, tool, erase, &names[1..]);
    let kept = |file: &String| !file.starts_with("etc/systemd/system/multi-user.target.wants/");
    let left: Vec<_> = left(&root).into_iter().filter(kept).collect();
    assert_eq!(left, theirs);
}

/// The packages for Debian.
#[test]
fn debian_packages_work_in_images() {
    let Some(made) = packages("deb") else { return };
    let deb = package(&made, "7.1", true);
    let unpacked = tempfile::tempdir().unwrap();
    let mut unpack = Command::new("dpkg-deb");
    expect_success(unpack.arg("-x").arg(&deb).arg(unpacked.path()));
    assert_eq!(files(unpacked.path()), contents());
    let mut ask = Command::new("dpkg-deb");
    let depends = expect_success(ask.arg("-f").arg(&deb).arg("Depends"));
    assert_eq!(
        depends.trim(),
        "offline-fs-kbc (= 7.1), libc6 (>= 2.34), libgcc-s1"
    );
    let commands: [&[&str]; 3] = [&["--install"], &["--install"], &["--purge"]];
    in_an_image("dpkg", commands, &made);
    beside_their_units("dpkg", commands, &made);
}

/// The packages in RPM's format. The root is a Debian's, whose packages rpm does not know.
#[test]
fn rpm_packages_work_in_images() {
    let Some(made) = packages("rpm") else { return };
    let rpm = package(&made, "7.1", true);
    let mut list = Command::new("rpm");
    let listed = expect_success(list.arg("-qpl").arg(&rpm));
    let listed: BTreeSet<_> = listed
        .lines()
        .map(|path| path.trim_start_matches('/').to_owned())
        .collect();
    assert_eq!(listed, contents());
    let mut ask = Command::new("rpm");
    let requires = expect_success(ask.arg("-qpR").arg(&rpm));
    for wanted in [
        "offline-fs-kbc = 7.1-1",
        "libc.so.6(GLIBC_2.34)(64bit)",
        "libgcc_s.so.1(GCC_4.2.0)(64bit)",
    ] {
        assert!(requires.lines().any(|line| line == wanted), "{requires}");
    }
    let commands: [&[&str]; 3] = [
        &["--force-debian", "--nodeps", "--install"],
        &["--force-debian", "--nodeps", "--upgrade"],
        &["--force-debian", "--nodeps", "--erase"],
    ];
    in_an_image("rpm", commands, &made);
    beside_their_units("rpm", commands, &made);
}

/// A program that needs a newer C library than it may is found before it is shipped, with what it needs.
#[test]
fn a_program_that_is_linked_for_newer_systems_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (source, program) = (dir.path().join("a.c"), dir.path().join("a"));
    // A symbol of which this machine's C library needs to know nothing.
    fs::write(
        &source,
        "extern int newer(void);\nint main(void) { return newer(); }\n",
    )
    .unwrap();
    let library = dir.path().join("libnewer.so");
    fs::write(dir.path().join("lib.c"), "int newer(void) { return 0; }\n").unwrap();
    fs::write(
        dir.path().join("versions"),
        "GLIBC_2.38 { global: newer; };\n",
    )
    .unwrap();
    let mut cc = Command::new("cc");
    cc.current_dir(dir.path())
        .args(["-shared", "-fPIC", "lib.c", "-Wl,-soname,libm.so.6"])
        .args(["-Wl,--version-script=versions", "-o"])
        .arg(&library);
    expect_success(&mut cc);
    let mut cc = Command::new("cc");
    cc.current_dir(dir.path())
        .args(["a.c", "libnewer.so", "-o", "a"]);
    expect_success(&mut cc);
    let mut check = Command::new("packaging/check-glibc");
    check.current_dir(env!("CARGO_MANIFEST_DIR")).arg(&program);
    let (_, stderr, code) = output(&mut check);
    assert_eq!(code, Some(1), "{stderr}");
    for part in ["needs newer of GLIBC_2.38", "GLIBC_2.34; fix: "] {
        assert!(stderr.contains(part), "{stderr}");
    }
}
