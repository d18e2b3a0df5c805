// SPDX-License-Identifier: Apache-2.0

//! What the program mounts of an image is what Debian's containerd extracts of it.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

#[path = "support/containerd.rs"]
mod containerd;
#[path = "support/host.rs"]
mod host;
#[path = "support/image.rs"]
mod image;
#[path = "support/stand_in.rs"]
mod stand_in;

use std::path::{Path, PathBuf};
use std::process::Command;

use containerd::Containerd;
use host::{
    Mounted, TIME, assert_equal, guest_pull, implied, is_root, listing, output, run, support, text,
    tool,
};
use image::Repository;
use stand_in::StandIn;

/// Pulls the image `test` of a layout, has each layer's file checked, and mounts it.
fn mount(layout: &Path, dir: &Path) -> (PathBuf, Mounted) {
    let repository = Repository::of_layout(layout);
    let registry = StandIn::start(move |asked| repository.answer(&asked.path));
    let [store, bundle] = ["store", "bundle"].map(|name| dir.join(name));
    let image = format!("{}/a/b:1", registry.address);
    let args = [
        "pull",
        "--plain-http",
        "--store",
        text(&store),
        "--bundle",
        text(&bundle),
        &image,
    ];
    let stdout = run(&mut guest_pull(&args));
    for file in stdout.lines().filter(|line| line.ends_with(".erofs")) {
        run(tool("FSCK_EROFS", "fsck.erofs").arg(file));
    }
    let root = bundle.join("rootfs");
    (root.clone(), Mounted(root))
}

/// Everything about each entry is the same. One thing is not containerd's to say: the time of a directory for which a
/// layer has no entry, since it writes into that directory while it extracts. There the topmost entry's time counts.
fn assert_as_containerd(layout: &Path, ours: &Path, theirs: &Path) {
    let [mut ours, mut theirs] = [ours, theirs].map(listing);
    for (name, time) in implied(layout) {
        if let (Some(ours), Some(theirs)) = (ours.get_mut(&name), theirs.get_mut(&name)) {
            assert_eq!(ours[TIME], time, "the time of {name}");
            theirs[TIME] = time;
            ours[TIME] = theirs[TIME].clone();
        }
    }
    assert_equal(&ours, &theirs);
}

/// What ordinary images have, entry by entry as it was meant: `make-image` lists it.
#[test]
fn an_image_of_all_kinds_of_entries_is_as_containerd_extracts_it() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    run(support("make-image").arg("--rare").arg(&layout));
    let containerd = Containerd::start();
    let (theirs, _theirs) = containerd.mount(&layout, "kinds");
    let (ours, _ours) = mount(&layout, dir.path());
    assert_as_containerd(&layout, &ours, &theirs);
}

/// Whether a Debian can be made here. Where it must (CI is set), the test fails if it can't.
fn has_mmdebstrap() -> bool {
    let has = Command::new("mmdebstrap").arg("--version").output().is_ok();
    let must = std::env::var_os("CI").is_some();
    assert!(has || !must, "this test needs mmdebstrap");
    has
}

/// A Debian, and on top of it a layer that an image builder made of changes: deleted, replaced and changed entries, hard
/// links, devices, and programs with more rights than who calls them. Its programs run, and have those rights.
#[test]
fn a_changed_debian_is_as_containerd_extracts_it_and_runs() {
    if !is_root() || !has_mmdebstrap() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let [layout, work] = ["layout", "work"].map(|name| dir.path().join(name));
    // Kept between runs, since it takes most of the test's time.
    let debian = Path::new(env!("CARGO_TARGET_TMPDIR")).join("debian-root");
    run(support("make-debian-root").arg(&debian));
    run(support("make-debian-image")
        .arg(debian.join("root.tar"))
        .args([&layout, &work]));
    let containerd = Containerd::start();
    let (theirs, _theirs) = containerd.mount(&layout, "debian");
    let (ours, _ours) = mount(&layout, dir.path());
    assert_as_containerd(&layout, &ours, &theirs);

    let root = text(&ours);
    let in_root = |user: &[&str], program: &[&str]| {
        let mut command = Command::new("chroot");
        command.args(user).arg(root).args(program);
        output(&mut command)
    };
    let nobody = ["--userspec=65534:65534", "--groups="];
    let (stdout, stderr, code) = in_root(&[], &["/bin/sh", "-c", "exec cat /root/secret"]);
    assert_eq!(
        (stdout.as_str(), code),
        ("for root alone\n", Some(0)),
        "{stderr}"
    );
    let (stdout, _, code) = in_root(&nobody, &["/bin/cat", "/root/secret"]);
    assert_eq!((stdout.as_str(), code), ("", Some(1)));
    let (stdout, stderr, code) =
        in_root(&nobody, &["/opt/programs/privileged-cat", "/root/secret"]);
    assert_eq!(
        (stdout.as_str(), code),
        ("for root alone\n", Some(0)),
        "{stderr}"
    );
    for (program, user) in [
        ("/usr/bin/id", "65534\n"),
        ("/opt/programs/setuid-id", "0\n"),
        ("/opt/odd/setuid-too", "0\n"),
    ] {
        let (stdout, stderr, code) = in_root(&nobody, &[program, "-u"]);
        assert_eq!(
            (stdout.as_str(), code),
            (user, Some(0)),
            "{program}: {stderr}"
        );
    }
}
