// SPDX-License-Identifier: Apache-2.0

//! The program pulls from a real registry (Debian's docker-registry, `DOCKER_REGISTRY`), and what it mounts is compared,
//! entry by entry, with what umoci unpacks of the same image (`UMOCI`).

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

#[path = "support/host.rs"]
mod host;
#[path = "support/registry.rs"]
mod registry;

use std::fs;
use std::path::{Path, PathBuf};

use host::{Mounted, guest_pull, is_root, mounts_below, output, run, support, tool};
use registry::{PASSWORD, Registry};

/// Times of directories that no archive has an entry for: umoci has made them a moment ago.
fn without_implied(listing: &str) -> Vec<String> {
    let implied = [
        "dev",
        "etc",
        "opt",
        "opt/old",
        "opt/old/b",
        "run",
        "srv",
        "srv/only",
    ];
    let mut lines: Vec<_> = listing.lines().map(str::to_owned).collect();
    for line in &mut lines {
        let is_implied = implied
            .iter()
            .any(|name| line.starts_with(&format!("[b'{name}', '0o40755'")));
        if is_implied || line.starts_with("[b'name nn") && line.contains("0o40755") {
            line.truncate(line.find(", 0, 0, ").unwrap());
        }
        // umoci gives the root the time of the unpacking.
        if line.starts_with("[b'.', ") {
            line.truncate(line.find(", 0, 0, ").unwrap());
        }
    }
    lines
}

/// What is mounted is what an independent tool unpacks: types, modes, owners, times, links, devices, attributes and
/// contents; names that a layer takes away are gone, and what it says nothing about stays as it was. One mount is there
/// after the pull, and none of the layers'. Each layer's file is right for fsck.erofs.
#[test]
fn an_image_is_mounted_as_it_was_made() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let [layout, store, bundle, unpacked] =
        ["layout", "store", "bundle", "unpacked"].map(|name| dir.path().join(name));
    run(support("make-image").arg(&layout));
    let registry = Registry::start();
    let image = registry.push(&layout);
    let as_str = |path: &Path| path.to_str().unwrap().to_owned();
    let args = [
        "pull",
        "--plain-http",
        "--store",
        &as_str(&store),
        "--bundle",
        &as_str(&bundle),
        &image,
    ];
    let (stdout, stderr, code) = output(&mut guest_pull(&args));
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    let rootfs = bundle.join("rootfs");
    let _mounted = Mounted(rootfs.clone());
    assert_eq!(mounts_below(dir.path()), 1);
    assert_eq!(stderr.matches("fetched").count(), 3, "{stderr}");
    let files: Vec<_> = stdout
        .lines()
        .filter(|line| line.ends_with(".erofs"))
        .collect();
    assert_eq!(files.len(), 3, "{stdout}");
    for file in files {
        run(tool("FSCK_EROFS", "fsck.erofs").arg(file));
    }
    run(tool("UMOCI", "umoci")
        .args([
            "raw",
            "unpack",
            "--image",
            &format!("{}:test", layout.display()),
        ])
        .arg(&unpacked));
    let [ours, theirs] =
        [&rootfs, &unpacked].map(|root| without_implied(&run(support("listing").arg(root))));
    assert_eq!(ours, theirs);
    // Programs of the image run, and what they write stays there.
    fs::write(rootfs.join("etc/written"), "x").unwrap();
    assert!(rootfs.join("etc/written").exists());

    // What is stored is not fetched again.
    let second = dir.path().join("second");
    let args = [
        "pull",
        "--plain-http",
        "--store",
        &as_str(&store),
        "--bundle",
        &as_str(&second),
        &image,
    ];
    let (_, stderr, code) = output(&mut guest_pull(&args));
    let _second = Mounted(second.join("rootfs"));
    assert_eq!(
        (code, stderr.matches("stored already").count()),
        (Some(0), 3),
        "{stderr}"
    );
    assert!(!second.join("rootfs/etc/written").exists());
}

/// A registry's answers are told apart, by words and by exit status.
#[test]
fn inspect_tells_answers_apart() {
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    run(support("make-image").arg(&layout));
    let registry = Registry::start();
    let image = registry.push(&layout);
    let missing = image.replace(":1", ":2");
    for (image, answer, status) in [
        (image.as_str(), "accepted", 0),
        (missing.as_str(), "missing", 4),
        ("127.0.0.1:1/a/b", "unreachable", 5),
    ] {
        let (stdout, stderr, code) = output(&mut guest_pull(&["inspect", "--plain-http", image]));
        assert!(
            stdout.contains(&format!(": {answer}: ")),
            "{stdout}{stderr}"
        );
        assert_eq!(code, Some(status), "{stdout}{stderr}");
    }
    let (stdout, _, code) = output(&mut guest_pull(&[
        "inspect",
        "--plain-http",
        "--format",
        "json",
        "--platform",
        "linux/s390x",
        &image,
    ]));
    assert!(
        stdout.contains("\"accepted\"") && code == Some(0),
        "{stdout}"
    );
}

/// A private registry with TLS gives the image for the right login and the right CA alone. A refusal names the registry
/// and the user, and no password. Without root the layers are made, and the command says that mounting needs root.
#[test]
fn a_private_registry_wants_login_and_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let [layout, store] = ["layout", "store"].map(|name| dir.path().join(name));
    run(support("make-image").arg(&layout));
    let registry = Registry::start_private();
    let image = registry.push(&layout);
    let as_str = |path: PathBuf| path.to_str().unwrap().to_owned();
    let (ca, right, wrong) = (
        as_str(registry.ca_file()),
        as_str(registry.auth_file(PASSWORD)),
        as_str(registry.auth_file("hunter3")),
    );
    let with_ca = ["--ca-file", ca.as_str()];
    for (args, answer, status) in [
        (
            [&with_ca[..], &["--auth-file", &right]].concat(),
            "accepted",
            0,
        ),
        (
            [&with_ca[..], &["--auth-file", &wrong]].concat(),
            "refused",
            3,
        ),
        (with_ca.to_vec(), "refused", 3),
        (vec!["--auth-file", right.as_str()], "unreachable", 5),
        (vec!["--plain-http"], "other", 1),
    ] {
        let (stdout, stderr, code) = output(&mut guest_pull(
            &[&["inspect", image.as_str()], &args[..]].concat(),
        ));
        assert_eq!(code, Some(status), "{args:?}: {stdout}{stderr}");
        assert!(stdout.contains(&format!(": {answer}: ")), "{stdout}");
        assert!(!stdout.contains("hunter"), "{stdout}");
        if answer == "refused" {
            assert!(stdout.contains(&registry.address), "{stdout}");
        }
    }
    let store = as_str(store);
    let args = [
        "pull",
        "--auth-file",
        &right,
        "--ca-file",
        &ca,
        "--store",
        &store,
        "--format",
        "json",
        &image,
    ];
    let (stdout, stderr, code) = output(&mut guest_pull(&args));
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    let last = stdout.lines().last().unwrap();
    assert!(
        last.contains("\"digest\":\"sha256:") && last.contains("\"rootfs\":null"),
        "{last}"
    );
}
