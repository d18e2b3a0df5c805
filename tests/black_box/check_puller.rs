// SPDX-License-Identifier: Apache-2.0

//! `check` of an image with guest-pull: a good one has no finding, and each thing that would make pulls fail has one.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use crate::check_vm::findings_in;
use crate::support::both::guest_pull;
use crate::support::daemon::{ANONYMOUS, Root, one};

const MOUNTS_BY_LOOP: &str = "6.1.0-9-amd64";

/// A root file system of a VM with both programs, in which nothing is wrong.
struct Vm {
    root: Root,
    /// The loader that the program names.
    loader: String,
}

impl Vm {
    fn new() -> Self {
        let vm = Self {
            root: Root::with(&one("default/credential/test", ANONYMOUS)),
            loader: loader(),
        };
        fs::create_dir_all(vm.at("usr/bin")).unwrap();
        // What is looked at of it.
        vm.write(
            "usr/bin/guest-pull",
            &format!("\0{}\0GLIBC_2.34\0", vm.loader),
        );
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(vm.at("usr/bin/guest-pull"), mode).unwrap();
        vm.write(vm.loader.trim_start_matches('/'), "");
        for unit in [
            "offline-fs-kbc.service",
            "offline-fs-kbc-cdh.socket",
            "guest-pull.socket",
        ] {
            vm.write(&format!("usr/lib/systemd/system/{unit}"), "");
        }
        for unit in ["offline-fs-kbc-cdh.socket", "guest-pull.socket"] {
            vm.enable(unit);
        }
        vm.write(
            "proc/filesystems",
            "nodev\ttmpfs\nnodev\toverlay\n\terofs\n",
        );
        vm.write(
            "proc/devices",
            "Character devices:\n  1 mem\n\nBlock devices:\n  7 loop\n",
        );
        vm.write("proc/sys/kernel/osrelease", &format!("{MOUNTS_BY_LOOP}\n"));
        vm.write("etc/resolv.conf", "nameserver 10.0.0.2\n");
        vm.write("etc/nsswitch.conf", "hosts: files dns\n");
        vm.write("etc/ssl/certs/ca-certificates.crt", "");
        vm
    }

    fn at(&self, path: &str) -> std::path::PathBuf {
        self.root.path(path)
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.at(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn remove(&self, path: &str) {
        fs::remove_file(self.at(path)).unwrap();
    }

    fn enable(&self, unit: &str) {
        let wants = self.at("etc/systemd/system/sockets.target.wants");
        fs::create_dir_all(&wants).unwrap();
        // As systemctl makes it: nowhere below another root.
        symlink(format!("/usr/lib/systemd/system/{unit}"), wants.join(unit)).unwrap();
    }

    /// The findings but the one that no daemon runs.
    fn found(&self) -> (Vec<(String, String)>, Option<i32>) {
        let (mut found, code) = findings_in(self.root.dir(), &[]);
        found.retain(|(code, _)| code != "daemon-absent");
        (found, code)
    }

    /// Expects this finding alone.
    fn expect(&self, code: &str, severity: &str) {
        let status = i32::from(severity == "error");
        let one = vec![(code.to_owned(), severity.to_owned())];
        assert_eq!(self.found(), (one, Some(status)));
        assert_documented(code);
    }

    fn expect_none(&self) {
        assert_eq!(self.found(), (vec![], Some(0)));
    }
}

/// Fails if the list of findings for people lacks this one.
pub fn assert_documented(code: &str) {
    let docs = include_str!("../../docs/troubleshooting.md");
    let lines = docs.lines().filter(|line| line.starts_with("| `"));
    let mut findings = lines.filter_map(|line| line.split(" | ").next());
    assert!(
        findings.any(|codes| codes.contains(&format!("`{code}`"))),
        "{code}"
    );
}

/// The loader that the program names.
fn loader() -> String {
    let said = Command::new("readelf")
        .arg("-l")
        .arg(guest_pull())
        .output()
        .unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let (_, rest) = said.split_once("program interpreter: ").unwrap();
    rest.split(']').next().unwrap().to_owned()
}

/// What is right has no finding, whatever else of the same kind is right.
#[test]
fn a_good_image_has_no_finding() {
    let vm = Vm::new();
    vm.expect_none();
    fs::copy(guest_pull(), vm.at("usr/bin/guest-pull")).unwrap();
    vm.expect_none();
    // A kernel that has nothing built in, and modules for all of it, under the names of distributions.
    vm.write("proc/filesystems", "nodev\ttmpfs\n");
    vm.write("proc/devices", "Block devices:\n");
    let modules = format!("lib/modules/{MOUNTS_BY_LOOP}");
    vm.write(
        &format!("{modules}/modules.dep"),
        "kernel/fs/erofs/erofs.ko.xz: kernel/lib/lz4.ko.xz\nkernel/drivers/block/loop.ko.zst:\n",
    );
    vm.write(
        &format!("{modules}/modules.builtin"),
        "kernel/fs/overlayfs/overlay.ko\n",
    );
    vm.expect_none();
    // An image that is being built: nothing runs, and what starts the network writes the name servers.
    fs::remove_dir_all(vm.at("proc")).unwrap();
    vm.expect_none();
    // No kernel at all: it comes from elsewhere, as kata's does.
    fs::remove_dir_all(vm.at("lib/modules")).unwrap();
    vm.expect_none();
    // Neither units nor a socket: kata-agent starts the programs by itself.
    fs::remove_dir_all(vm.at("usr/lib/systemd")).unwrap();
    fs::remove_dir_all(vm.at("etc/systemd")).unwrap();
    fs::create_dir_all(vm.at("usr/local/bin")).unwrap();
    symlink(
        "/usr/bin/offline-fs-kbc",
        vm.at("usr/local/bin/confidential-data-hub"),
    )
    .unwrap();
    vm.expect_none();
}

/// A program that is missing, not executable, or for another C library.
#[test]
fn a_program_that_can_not_be_started_is_found() {
    let vm = Vm::new();
    let loader = vm.loader.trim_start_matches('/');
    vm.remove(loader);
    vm.expect("guest-pull-missing", "error");
    vm.write(loader, "");
    let program = vm.at("usr/bin/guest-pull");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o644)).unwrap();
    vm.expect("guest-pull-missing", "error");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    for (version, severity) in [("2.34", "error"), ("2.999", "none")] {
        vm.write(
            "usr/lib/some-machine/libc.so.6",
            &format!("GLIBC_2.2.5\0GLIBC_{version}\0"),
        );
        fs::write(
            &program,
            format!("\0{}\0GLIBC_2.4\0GLIBC_2.35\0", vm.loader),
        )
        .unwrap();
        match severity {
            "error" => vm.expect("guest-pull-missing", severity),
            _ => vm.expect_none(),
        }
    }
    // Agents before 3.18 need none.
    vm.remove("usr/bin/guest-pull");
    vm.expect("guest-pull-missing", "warning");
}

/// A socket unit that is missing, disabled or masked.
#[test]
fn a_socket_that_is_not_enabled_is_found() {
    let link = "etc/systemd/system/sockets.target.wants/guest-pull.socket";
    let vm = Vm::new();
    vm.remove(link);
    vm.expect("guest-pull-disabled", "error");
    vm.remove("usr/lib/systemd/system/guest-pull.socket");
    vm.expect("guest-pull-disabled", "error");
    let vm = Vm::new();
    symlink("/dev/null", vm.at("etc/systemd/system/guest-pull.socket")).unwrap();
    vm.expect("guest-pull-disabled", "error");
}

/// In a VM that runs, the socket's unit can be enabled and nobody listen.
#[test]
fn a_socket_on_which_nobody_listens_is_found() {
    let vm = Vm::new();
    let socket = vm.root.socket_called("guest-pull.sock");
    let list = |kind: &str| {
        let head = "Num RefCount Protocol Flags Type St Inode Path";
        let line = format!("0: 00000002 00000000 {kind} 0001 01 1 {}", socket.display());
        vm.write("proc/net/unix", &format!("{head}\n{line}\n"));
    };
    list("00010000");
    vm.expect_none();
    // One end of a connection.
    list("00000000");
    vm.expect("guest-pull-disabled", "error");
}

/// The stock hub on cdh.sock: guest-pull is installed for nothing.
#[test]
fn a_stock_hub_beside_it_is_found() {
    let vm = Vm::new();
    vm.remove("etc/systemd/system/sockets.target.wants/offline-fs-kbc-cdh.socket");
    vm.write("usr/local/bin/confidential-data-hub", "another program");
    vm.write(
        "etc/systemd/system/confidential-data-hub.service",
        "[Service]\n",
    );
    vm.expect("hub-stock", "warning");
}

/// What the kernel lacks, built in or as a module.
#[test]
fn what_the_kernel_lacks_is_found() {
    let vm = Vm::new();
    vm.write("proc/filesystems", "nodev\ttmpfs\nnodev\toverlay\n");
    vm.expect("kernel-erofs", "error");
    vm.write("proc/filesystems", "nodev\ttmpfs\n\terofs\n");
    vm.expect("kernel-overlay", "error");
    vm.write("proc/filesystems", "nodev\toverlay\n\terofs\n");
    vm.write(
        "proc/devices",
        "Character devices:\n  7 loop-like\nBlock devices:\n",
    );
    vm.expect("kernel-loop", "error");
    // By Linux 6.12, a store on a disk needs none.
    vm.write("proc/sys/kernel/osrelease", "6.12.1\n");
    vm.expect("kernel-loop", "error");
    vm.write(
        "run/peerpod/cdh.toml",
        "[image]\nwork_dir = '/var/lib/images'\n",
    );
    vm.expect_none();
    vm.write("proc/sys/kernel/osrelease", "6.11.0\n");
    vm.expect("kernel-loop", "error");
    vm.write("proc/devices", "Block devices:\n  7 loop\n");
    // It can't read what layers are.
    vm.write("proc/sys/kernel/osrelease", "5.10.0-30-cloud-amd64\n");
    vm.expect("kernel-erofs", "error");
}

/// An image that is being built has modules, and nothing of a kernel that runs.
#[test]
fn modules_that_an_image_lacks_are_found() {
    let vm = Vm::new();
    fs::remove_dir_all(vm.at("proc")).unwrap();
    let modules = "lib/modules/6.1.0-9-cloud/modules.dep";
    vm.write(modules, "kernel/fs/overlayfs/overlay.ko:\nkernel/drivers/block/loop.ko:\nkernel/fs/x.ko: kernel/fs/erofs.ko\n");
    vm.expect("kernel-erofs", "error");
}

/// A store that can't be written, or has no room; in a mount of its own, so that nothing else is there.
#[test]
fn a_store_without_room_is_found() {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "this test needs root");
        return;
    }
    let vm = Vm::new();
    let place = vm.at("run/kata-containers");
    fs::create_dir_all(&place).unwrap();
    for (options, code) in [
        ("size=8m", "store-room"),
        ("size=64m,nr_inodes=8", "store-room"),
        ("size=64m,ro", "store-unusable"),
    ] {
        let _mounted = Tmpfs::mount(&place, options);
        vm.expect(code, "error");
    }
    {
        let _mounted = Tmpfs::mount(&place, "size=64m,noexec");
        // An overlay is a mount of its own.
        vm.expect_none();
    }
    fs::write(place.join("image"), "").unwrap();
    vm.expect("store-unusable", "error");
}

/// A file system in memory, which is unmounted when this is dropped.
pub struct Tmpfs(std::path::PathBuf);

impl Tmpfs {
    pub fn mount(at: &Path, options: &str) -> Self {
        let mount = ["-t", "tmpfs", "-o", options, "tmpfs"];
        let status = Command::new("mount").args(mount).arg(at).status().unwrap();
        assert!(status.success());
        Self(at.to_owned())
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// What keeps names from being found by the worker.
#[test]
fn what_keeps_names_from_being_found_is_found() {
    let vm = Vm::new();
    // What starts the network may write them.
    vm.write("etc/resolv.conf", "search example.com\n");
    vm.expect("name-resolution", "note");
    vm.remove("etc/resolv.conf");
    vm.expect("name-resolution", "note");
    vm.write("etc/resolv.conf", "nameserver 127.0.0.53\n");
    vm.expect_none();
    let head = "  sl  local_address rem_address   st tx_queue rx_queue";
    let line = |at: &str| format!("{head}\n  1: {at} 00000000:0000 07 00000000:00000000\n");
    vm.write("proc/net/udp", &line("3500007F:0035"));
    vm.expect_none();
    vm.write("proc/net/udp", &line("0100007F:0035"));
    vm.expect("name-resolution", "warning");
    vm.write(
        "etc/resolv.conf",
        "nameserver 127.0.0.53\nnameserver 10.0.0.2\n",
    );
    vm.expect_none();
    vm.write(
        "etc/nsswitch.conf",
        "passwd: files dns\nhosts: files resolve # dns\n",
    );
    vm.expect("name-resolution", "warning");
    vm.write(
        "etc/nsswitch.conf",
        "hosts: resolve [!UNAVAIL=return] dns\n",
    );
    vm.expect("name-resolution", "warning");
    vm.remove("etc/nsswitch.conf");
    vm.expect_none();
}

/// Without authorities of its own, the VM has those of the program.
#[test]
fn missing_authorities_are_noted() {
    let vm = Vm::new();
    vm.remove("etc/ssl/certs/ca-certificates.crt");
    vm.expect("roots-missing", "note");
    vm.write("etc/pki/tls/certs/ca-bundle.crt", "");
    vm.expect_none();
}

/// A configuration that refuses every image: since it can't be read, or by its policy. What it has wrong otherwise is a warning.
#[test]
fn a_configuration_that_refuses_everything_is_found() {
    let vm = Vm::new();
    let configure = |text: &str| vm.write("run/peerpod/cdh.toml", &format!("[image]\n{text}\n"));
    let accept = r#"[{"type": "insecureAcceptAnything"}]"#;
    let policy = |text: &str| configure(&format!("image_security_policy = '{text}'"));
    configure("surprise = 1");
    vm.expect("pull-configuration", "warning");
    configure("work_dir = 1");
    vm.expect("pull-configuration", "error");
    configure("extra_root_certificates = ['/etc/ca.pem']");
    vm.expect("pull-configuration", "error");
    policy(r#"{"default": [{"type": "reject"}]}"#);
    vm.expect("policy-refuses-all", "error");
    // Of another transport nothing is pulled.
    policy(&format!(
        r#"{{"default": [{{"type": "reject"}}], "transports": {{"dir": {{"": {accept}}}}}}}"#
    ));
    vm.expect("policy-refuses-all", "error");
    policy(&format!(
        r#"{{"default": [{{"type": "reject"}}], "transports": {{"docker": {{"quay.io": {accept}}}}}}}"#
    ));
    vm.expect_none();
    policy(r#"{"default": [{"type": "hope"}]}"#);
    vm.expect("policy-unreadable", "error");
    configure("image_security_policy_uri = 'file:///etc/policy.json'");
    vm.expect("policy-missing", "error");
    vm.write("etc/policy.json", &format!(r#"{{"default": {accept}}}"#));
    vm.expect_none();
    // The daemon has it, and it is checked with its other resources.
    configure("image_security_policy_uri = 'kbs:///default/security-policy/test'");
    vm.expect_none();
}
