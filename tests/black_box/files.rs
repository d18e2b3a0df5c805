// SPDX-License-Identifier: Apache-2.0

//! The daemon serves the present files: files that are late, replaced, broken or removed, and their
//! precedence.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use crate::support::daemon::{Daemon, Root, one, run};
use crate::support::wire::{Wire, g2, get, get_frame};

const CREDENTIAL: &str = "/default/credential/test";

fn served(root: &Root) -> Option<Vec<u8>> {
    get(&root.socket(), &g2(CREDENTIAL)).ok()
}

/// cloud-init may write the file after the daemon has started, and a client may ask just then.
#[test]
fn a_late_file_is_served_at_once() {
    let root = Root::new();
    let _daemon = root.start();
    assert_eq!(served(&root), None);
    root.write_resources(&one("Credential", "first"));
    assert_eq!(served(&root).unwrap(), b"first");
    fs::remove_file(root.resources()).unwrap();
    assert_eq!(served(&root), None);
    root.rename_resources(&one("Credential", "again"));
    assert_eq!(served(&root).unwrap(), b"again");
}

/// A request gets the content of the file at the time when it was sent, however shortly before the file was
/// replaced, on new and old connections, with equal sizes and within one tick of the clock.
#[test]
fn a_replaced_file_is_served_at_once() {
    let root = Root::with(&one("Credential", "start"));
    let _daemon = root.start();
    let mut old = Wire::connect(&root.socket());
    for n in 0..300 {
        let value = format!("value {n:03}");
        let text = one("Credential", &value);
        if n % 2 == 0 {
            root.rename_resources(&text);
        } else {
            root.write_resources(&text);
        }
        let found = if n % 3 == 0 {
            get(&root.socket(), &g2(CREDENTIAL))
        } else {
            old.ask(&get_frame(2 * n + 1, &g2(CREDENTIAL)))
        };
        assert_eq!(String::from_utf8(found.unwrap()).unwrap(), value);
    }
}

/// If a file is half-written, empty or unreadable, its last good content stays in use, and the log names it
/// once.
#[test]
fn a_broken_file_keeps_its_last_good_content() {
    let root = Root::with(&one("Credential", "good"));
    let daemon = root.start();
    // The daemon answers before it has loaded anything.
    assert_eq!(served(&root).unwrap(), b"good");
    for broken in [
        "",
        "{\"Credential\": \"Z29v",
        "[1]",
        "{\"Credential\":\"Z2\n9v\"}",
    ] {
        root.write_resources(broken);
        for _ in 0..3 {
            assert_eq!(served(&root).unwrap(), b"good", "{broken:?}");
        }
    }
    fs::remove_file(root.resources()).unwrap();
    mkfifo(&root.resources(), Mode::S_IRWXU).unwrap();
    assert_eq!(served(&root).unwrap(), b"good");
    let log = daemon.log();
    for error in [
        "empty;",
        "ends too early",
        "an array instead of an object",
        "a raw line break",
        "a FIFO",
    ] {
        let times = log.matches(error).count();
        assert_eq!(times, 1, "{error}: {log}");
    }
    fs::remove_file(root.resources()).unwrap();
    root.write_resources("{}");
    assert_eq!(served(&root), None);
}

/// A FIFO must not block the start, nor keep the socket from answering.
#[test]
fn a_fifo_at_the_start_hangs_nothing() {
    let root = Root::new();
    mkfifo(&root.resources(), Mode::S_IRWXU).unwrap();
    let daemon = root.start();
    assert_eq!(served(&root), None);
    assert!(daemon.log().contains("a FIFO, not a regular file"));
}

/// A dangling or looping symbolic link must not take away the last good credential.
#[test]
fn links_are_followed_and_their_change_is_seen() {
    let root = Root::new();
    for (name, value) in [("a", "one"), ("b", "two")] {
        fs::write(root.path(name), one("Credential", value)).unwrap();
    }
    let link = |target: &str| {
        let _ = fs::remove_file(root.path("etc/link"));
        std::os::unix::fs::symlink(root.path(target), root.path("etc/link")).unwrap();
        fs::rename(root.path("etc/link"), root.resources()).unwrap();
    };
    link("a");
    let _daemon = root.start();
    assert_eq!(served(&root).unwrap(), b"one");
    link("b");
    assert_eq!(served(&root).unwrap(), b"two");
    link("nowhere");
    assert_eq!(served(&root), None);
    link("a");
    assert_eq!(served(&root).unwrap(), b"one");
    link("etc/aa-offline_fs_kbc-resources.json");
    assert_eq!(
        served(&root).unwrap(),
        b"one",
        "a loop is unreadable, not absent"
    );
}

/// Flags override the environment, and the environment overrides the resources file; a later file overrides
/// an earlier one.
#[test]
fn later_files_override_earlier_ones() {
    let root = Root::with(&one("default/credential/test", "resources"));
    for name in ["env1", "env2", "flag1", "flag2"] {
        fs::write(root.path(name), one("Credential", name)).unwrap();
    }
    let start = |env: &str, flags: &[&str]| {
        let mut command = root.serve();
        let env: Vec<_> = env.split_whitespace().map(|name| root.path(name)).collect();
        let env: Vec<_> = env.iter().map(|path| path.display().to_string()).collect();
        command.env("OFFLINE_FS_KBC_EXTRA_FILE_PATH", env.join(" , "));
        for flag in flags {
            command.arg("--extra-file").arg(root.path(flag));
        }
        let _daemon = Daemon::start(command, &root.socket());
        String::from_utf8(served(&root).unwrap()).unwrap()
    };
    assert_eq!(start("", &[]), "resources");
    assert_eq!(start("env1", &[]), "env1");
    assert_eq!(start("env1 env2", &[]), "env2");
    assert_eq!(start("env1 missing", &[]), "env1");
    assert_eq!(start("env1 env2", &["flag1"]), "flag1");
    assert_eq!(start("env1 env2", &["flag1", "flag2"]), "flag2");
}

/// At the start, the log has one line for each file.
#[test]
fn the_start_names_files_sizes_and_sockets() {
    let root = Root::with(&one("Credential", "x"));
    let daemon = root.start();
    daemon.wait_for_log("1 entry");
    let log = daemon.log();
    for part in [
        concat!("INFO offline-fs-kbc ", env!("CARGO_PKG_VERSION"), "\n"),
        "getresource.sock\n",
        "aa-offline_fs_kbc-keys.json: absent\n",
        "aa-offline_fs_kbc-resources.json: 1 entry, 21 bytes\n",
    ] {
        assert!(log.contains(part), "{log}");
    }
}

/// A value never reaches the log, whatever is wrong with it or with the file.
#[test]
fn no_value_is_logged() {
    let root = Root::new();
    let mut command = root.serve();
    command.env("RUST_LOG", "trace");
    let daemon = Daemon::start(command, &root.socket());
    for text in [
        "hunter2",
        "\"hunter2\"",
        "{\"Credential\":\"hunter2hunter2!\"}",
        "{\"Credential\":\"hunter2\nhunter2\"}",
        "{\"Credential\":hunter2}",
        "{\"Credential\":{\"auth\":\"hunter2\"}}",
        "{\"Credential\":\"eyJhdXRocyI6eyJodW50ZXIyIg==\"}",
        "{\"Credential\":\"\\u0068unter2!\"}",
        "{\"Credential\":\"hunter2\"} hunter2",
        "{\"hunter2\"}",
        "{\"Credential\":\"\",\"hunter2\"}",
        &format!("{{\"{}\":\"Credential\"}}", "hunter2".repeat(20)),
    ] {
        root.write_resources(text);
        let _ = served(&root);
    }
    let log = daemon.log();
    assert!(log.matches("ERROR").count() >= 9, "{log}");
    assert!(
        !log.contains("hunter2") && !log.contains("eyJhdXRo"),
        "{log}"
    );
    assert!(!log.contains("TRACE"));
}

/// A mode or owner that lets others read the secrets, or keeps root without capabilities from them, is logged
/// once with a fix; the file is served nevertheless.
#[test]
fn exposed_files_are_warned_about_and_served() {
    let root = Root::with(&one("Credential", "x"));
    fs::create_dir(root.path("proc")).unwrap();
    fs::write(
        root.path("proc/swaps"),
        "Filename Type\n/dev/vdb partition\n",
    )
    .unwrap();
    let daemon = root.start();
    let path = root.resources().display().to_string();
    assert!(daemon.log().contains("WARN swap is on"), "{}", daemon.log());
    assert!(!daemon.log().contains("others can"), "{}", daemon.log());
    let mode = |mode: u32| {
        fs::set_permissions(root.resources(), fs::Permissions::from_mode(mode)).unwrap();
        for _ in 0..3 {
            assert_eq!(served(&root).unwrap(), b"x");
        }
    };
    for (bits, said) in [
        (0o644, "others can read it (mode 0644)"),
        (0o622, "others can write to it (mode 0622)"),
        (0o666, "others can read it and write to it (mode 0666)"),
    ] {
        mode(bits);
        let line = format!("WARN {path}: {said}; `chmod 0600 {path}`\n");
        assert_eq!(daemon.log().matches(&line).count(), 1, "{}", daemon.log());
        let dir = root.dir().display().to_string();
        let (stdout, _, _) = run(&["check", "--root", &dir]);
        assert!(
            stdout.contains(&format!("warning: {path}: {said}")),
            "{stdout}"
        );
    }
    mode(0o600);
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(root.resources(), Some(65534), Some(65534)).unwrap();
        assert_eq!(served(&root).unwrap(), b"x");
        let said = format!(
            "ERROR {path}: the unit runs as root without capabilities and can't read it (owner 65534, mode 0600)"
        );
        assert!(daemon.log().contains(&said), "{}", daemon.log());
    }
    let other = Root::new();
    fs::create_dir(other.path("proc")).unwrap();
    fs::write(other.path("proc/swaps"), "Filename Type\n").unwrap();
    assert!(!other.start().log().contains("swap"));
}
