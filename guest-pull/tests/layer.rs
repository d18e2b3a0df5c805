// SPDX-License-Identifier: Apache-2.0

//! Archives made into file systems, compared with GNU tar's extraction of the same archive.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use guest_pull::layer;

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().expect(program);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{program} {args:?}: {said}");
}

/// Everything about each entry of a tree, one line each, sorted.
fn listing(root: &Path) -> String {
    let script = r#"
import os, stat, sys, hashlib
root = sys.argv[1].encode()
inodes = {}
for top, dirs, files in os.walk(root):
    for name in sorted(dirs + files) + ([b"."] if top == root else []):
        path = os.path.join(top, name)
        s = os.lstat(path)
        what = [os.path.relpath(path, root), oct(s.st_mode), s.st_uid, s.st_gid, s.st_mtime_ns, s.st_rdev]
        if not stat.S_ISDIR(s.st_mode):
            what += [s.st_nlink, s.st_size, inodes.setdefault(s.st_ino, os.path.relpath(path, root))]
        if stat.S_ISLNK(s.st_mode): what.append(os.readlink(path))
        if stat.S_ISREG(s.st_mode): what.append(hashlib.sha256(open(path, "rb").read()).hexdigest())
        what += [(n, os.getxattr(path, n, follow_symlinks=False)) for n in sorted(os.listxattr(path, follow_symlinks=False))]
        print(what)
"#;
    let output = Command::new("python3")
        .args(["-c", script])
        .arg(root)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let mut lines: Vec<_> = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect();
    lines.sort();
    lines.join("\n")
}

#[test]
fn an_archive_comes_out_as_gnu_tar_extracts_it() {
    let dir = tempfile::tempdir().unwrap();
    let [tar, image, out, mounted] =
        ["tar", "image", "out", "mounted"].map(|name| dir.path().join(name));
    let as_str = |path: &Path| path.to_str().unwrap().to_owned();
    fs::create_dir(&out).unwrap();
    fs::create_dir(&mounted).unwrap();
    let source = std::env::var("TREE").unwrap_or_else(|_| "/usr/share/perl".to_owned());
    run(
        "tar",
        &[
            "--xattrs",
            "--format=pax",
            "-C",
            &source,
            "-cf",
            &as_str(&tar),
            ".",
        ],
    );
    run(
        "tar",
        &[
            "--xattrs",
            "--xattrs-include=*",
            "--numeric-owner",
            "-C",
            &as_str(&out),
            "-xpf",
            &as_str(&tar),
        ],
    );
    let start = std::time::Instant::now();
    let summary = layer::convert(
        File::open(&tar).unwrap(),
        File::create(&image).unwrap(),
        true,
        [1; 16],
    )
    .unwrap();
    println!(
        "{:?} {} entries, {} bytes of {}",
        start.elapsed(),
        summary.entries,
        summary.bytes,
        fs::metadata(&tar).unwrap().len()
    );
    run("fsck.erofs", &[&as_str(&image)]);
    run(
        "mount",
        &[
            "-t",
            "erofs",
            "-o",
            "loop,ro",
            &as_str(&image),
            &as_str(&mounted),
        ],
    );
    let (ours, theirs) = (listing(&mounted), listing(&out));
    run("umount", &[&as_str(&mounted)]);
    let differences: Vec<_> = ours
        .lines()
        .zip(theirs.lines())
        .filter(|(a, b)| a != b)
        .take(5)
        .collect();
    assert!(ours == theirs, "{differences:#?}");
}
