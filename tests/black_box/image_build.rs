// SPDX-License-Identifier: Apache-2.0

//! The Makefile, called as the image build of cloud-api-adaptor and people who install do.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::support::daemon::{output, output_within, program};

/// How long a build of the whole program may take.
const BUILD: Duration = Duration::from_secs(900);

/// Removes the settings of the make that runs the tests from the environment.
fn clean(command: &mut Command) {
    for variable in ["MAKEFLAGS", "MAKELEVEL", "MFLAGS", "RUSTFLAGS"] {
        command.env_remove(variable);
    }
}

/// What make printed, and its exit status.
fn make(args: &[&str]) -> (String, Option<i32>) {
    let mut command = Command::new("make");
    clean(&mut command);
    command.arg("-C").arg(env!("CARGO_MANIFEST_DIR")).args(args);
    let (stdout, stderr, code) = output_within(&mut command, BUILD);
    (stdout + &stderr, code)
}

/// The build steps of both generations of 2023, in a copy in which nothing was built: the image gets a static
/// binary, which runs whatever C library the image has.
#[test]
fn the_image_build_of_either_generation_gets_a_static_binary() {
    let source = clean_copy();
    for generation in ["early", "mid"] {
        let files = tempfile::tempdir().unwrap();
        // The build for one generation must not use what the other one left.
        for target in ["target", "app/target"] {
            let place = format!("{target}/{}/release/attestation-agent", triple());
            let _ = fs::remove_file(source.join(place));
        }
        let recipe = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/image-recipe.mk");
        let mut make = Command::new("make");
        clean(&mut make);
        make.current_dir(files.path())
            .args(["-f", recipe, generation]);
        make.arg(format!("ATTESTATION_AGENT_SRC={}", source.display()));
        let (stdout, stderr, code) = output_within(&mut make, BUILD);
        assert_eq!(code, Some(0), "{stdout}{stderr}");

        let agent = files.path().join("files/usr/local/bin/attestation-agent");
        assert!(!has_interpreter(&agent), "it is dynamic");
        let (_, stderr, code) = output(Command::new(&agent).arg("--version"));
        assert_eq!(code, Some(0), "{stderr}");
        // The binary has no commands that only a build host needs.
        for tool in ["pack", "unpack", "keygen", "keyprovider", "seal", "unseal"] {
            let (_, stderr, code) = output(Command::new(&agent).args([tool, "--help"]));
            assert_eq!(code, Some(2), "{stderr}");
        }
    }
}

/// The target triple of the build.
fn triple() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

/// A copy of the checkout without build output. The output of an earlier run is kept in a directory of its
/// own, so that only the first run takes minutes.
fn clean_copy() -> PathBuf {
    let copy = Path::new(env!("CARGO_TARGET_TMPDIR")).join("image-build");
    fs::create_dir_all(&copy).unwrap();
    for entry in fs::read_dir(&copy).unwrap().map(Result::unwrap) {
        if entry.file_name() == "target" {
            continue;
        } else if entry.file_type().unwrap().is_dir() {
            fs::remove_dir_all(entry.path()).unwrap();
        } else {
            fs::remove_file(entry.path()).unwrap();
        }
    }
    let mut tar = Command::new("sh");
    tar.current_dir(env!("CARGO_MANIFEST_DIR")).args([
        "-c",
        "tar -cf - --exclude=./target --exclude=./app --exclude=./.git . | tar -xf - -C \"$1\"",
        "sh",
    ]);
    let (_, stderr, code) = output_within(tar.arg(&copy), BUILD);
    assert_eq!(code, Some(0), "{stderr}");
    copy
}

/// Whether the ELF file asks for a dynamic loader (a program header of type 3).
fn has_interpreter(path: &PathBuf) -> bool {
    let elf = fs::read(path).unwrap();
    assert_eq!(elf[..5], *b"\x7fELF\x02", "not a 64-bit ELF file");
    let word = |at: usize| u16::from_le_bytes(elf[at..at + 2].try_into().unwrap()) as usize;
    let offset = u64::from_le_bytes(elf[32..40].try_into().unwrap()) as usize;
    let (size, count) = (word(54), word(56));
    (0..count).any(|header| word(offset + header * size) == 3)
}

/// A build that is not possible stops with a line that says why.
#[test]
fn impossible_builds_are_reported() {
    let dir = tempfile::tempdir().unwrap();
    let cargo = dir.path().join("cargo");
    fs::write(&cargo, "#!/bin/sh\necho 'cargo 1.84.1 (x)'\n").unwrap();
    fs::set_permissions(&cargo, fs::Permissions::from_mode(0o755)).unwrap();
    let old_cargo = format!("CARGO={}", cargo.display());
    for (args, said) in [
        (&["KBC=cc_kbc", "LIBC=gnu"][..], "KBC=cc_kbc"),
        (&["LIBC=uclibc"], "LIBC=uclibc"),
        (
            &["LIBC=musl", "ARCH=s390x"],
            "rustup target add s390x-unknown-linux-musl",
        ),
        (
            &["build", &old_cargo],
            "cargo 1.85 or newer is needed; found: 1.84.1",
        ),
        (&["build", "CARGO=/nowhere"], "found: none"),
        (
            &["install", "BIN=/nowhere", "DESTDIR=/nowhere"],
            "BIN=/nowhere is missing",
        ),
        (
            &[
                "install",
                "GUEST_PULL=1",
                "GUEST_PULL_BIN=/nowhere",
                "DESTDIR=/nowhere",
            ],
            "GUEST_PULL_BIN=/nowhere is missing; 'make guest-pull' builds it",
        ),
        (
            &[
                "install",
                "GUEST_PULL=/usr/bin/guest-pull",
                "DESTDIR=/nowhere",
            ],
            "it must be 1 or empty",
        ),
    ] {
        let (text, code) = make(args);
        assert_eq!(code, Some(2), "{text}");
        assert!(text.contains(said), "{text}");
    }
}

/// An image gets the program under both names, and the unit that starts it from where it is.
#[test]
fn install_fills_an_image_and_uninstall_empties_it() {
    let image = tempfile::tempdir().unwrap();
    let destdir = format!("DESTDIR={}", image.path().display());
    let bin = format!("BIN={}", program().display());
    for (prefix, hub) in [("/usr/local", ""), ("/usr", "1")] {
        let (prefix_arg, hub_arg) = (format!("PREFIX={prefix}"), format!("CDH={hub}"));
        let (made, code) = make(&["install", &destdir, &prefix_arg, &bin, &hub_arg]);
        assert_eq!(code, Some(0), "{made}");
        let path = |path: &str| image.path().join(path.trim_start_matches('/'));
        let program = path(&format!("{prefix}/bin/offline-fs-kbc"));
        assert_eq!(output(Command::new(&program).arg("--version")).2, Some(0));
        for (name, expected) in [
            ("attestation-agent", true),
            ("confidential-data-hub", hub == "1"),
        ] {
            let link = fs::read_link(path(&format!("{prefix}/bin/{name}"))).ok();
            let expected = expected.then(|| PathBuf::from("offline-fs-kbc"));
            assert_eq!(link, expected, "{name}");
        }
        let unit = path(&format!(
            "{prefix}/lib/systemd/system/offline-fs-kbc.service"
        ));
        let unit = fs::read_to_string(unit).unwrap();
        let start = format!("ExecStart={prefix}/bin/offline-fs-kbc serve\n");
        assert!(unit.contains(&start), "{unit}");
        // An upstream component that was installed again is left.
        let upstream = path(&format!("{prefix}/bin/confidential-data-hub"));
        let _ = fs::remove_file(&upstream);
        fs::write(&upstream, "upstream").unwrap();
        let (made, code) = make(&["uninstall", &destdir, &prefix_arg]);
        assert_eq!(code, Some(0), "{made}");
        assert_eq!(walk(image.path()), std::slice::from_ref(&upstream));
        fs::remove_file(upstream).unwrap();
    }
}

fn walk(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            files.extend(walk(&entry.path()));
        } else {
            files.push(entry.path());
        }
    }
    files
}
