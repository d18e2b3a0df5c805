// SPDX-License-Identifier: Apache-2.0

//! The Makefile as the image build of cloud-api-adaptor and people who install call it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::daemon::{output, program};

fn make(args: &[&str]) -> Output {
    let mut command = Command::new("make");
    // As a recipe of another make would: nothing of the outer one's flags.
    for variable in [
        "MAKEFLAGS",
        "MAKELEVEL",
        "MFLAGS",
        "RUSTFLAGS",
        "CARGO_TARGET_DIR",
    ] {
        command.env_remove(variable);
    }
    command.arg("-C").arg(env!("CARGO_MANIFEST_DIR")).args(args);
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

/// The image build takes the binary from one of two places and runs it in an image that may have
/// another C library, or none.
#[test]
fn the_image_build_finds_a_static_binary_at_both_places() {
    let arch = std::env::consts::ARCH;
    let places = ["target", "app/target"].map(|target| {
        let place = format!("{target}/{arch}-unknown-linux-gnu/release/attestation-agent");
        Path::new(env!("CARGO_MANIFEST_DIR")).join(place)
    });
    for place in &places {
        let _ = fs::remove_file(place);
    }
    let arch = format!("ARCH={arch}");
    let made = make(&["KBC=offline_fs_kbc", "LIBC=gnu", "ttrpc=true", &arch, "CC="]);
    assert!(made.status.success(), "{}", text(&made));
    for place in &places {
        assert!(!has_interpreter(place), "{} is dynamic", place.display());
        let (_, stderr, code) = output(Command::new(place).arg("--version"));
        assert_eq!(code, Some(0), "{stderr}");
        // Without what only a build host needs.
        let (_, stderr, code) = output(Command::new(place).args(["pack", "--help"]));
        assert_eq!(code, Some(2), "{stderr}");
    }
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

/// What can't be built stops with a line that says why.
#[test]
fn what_cannot_be_built_is_said() {
    let output = make(&["KBC=cc_kbc", "LIBC=gnu"]);
    assert!(!output.status.success());
    assert!(text(&output).contains("KBC=cc_kbc"), "{}", text(&output));
    let output = make(&["LIBC=uclibc"]);
    assert!(!output.status.success());
    assert!(text(&output).contains("LIBC=uclibc"), "{}", text(&output));
    let output = make(&["LIBC=musl", "ARCH=s390x"]);
    assert!(!output.status.success());
    let text = text(&output);
    assert!(
        text.contains("rustup target add s390x-unknown-linux-musl"),
        "{text}"
    );
}

/// An image gets the program under both names, and the unit that starts it from where it is.
#[test]
fn install_fills_an_image_and_uninstall_empties_it() {
    let image = tempfile::tempdir().unwrap();
    let destdir = format!("DESTDIR={}", image.path().display());
    let bin = format!("BIN={}", program().display());
    for prefix in ["/usr/local", "/usr"] {
        let prefix_arg = format!("PREFIX={prefix}");
        let output = make(&["install", &destdir, &prefix_arg, &bin]);
        assert!(output.status.success(), "{}", text(&output));
        let path = |path: &str| image.path().join(path.trim_start_matches('/'));
        let program = path(&format!("{prefix}/bin/offline-fs-kbc"));
        assert!(
            Command::new(&program)
                .arg("--version")
                .output()
                .unwrap()
                .status
                .success()
        );
        let historic = path(&format!("{prefix}/bin/attestation-agent"));
        assert_eq!(
            fs::read_link(historic).unwrap(),
            Path::new("offline-fs-kbc")
        );
        let unit = path(&format!(
            "{prefix}/lib/systemd/system/offline-fs-kbc.service"
        ));
        let unit = fs::read_to_string(unit).unwrap();
        assert!(
            unit.contains(&format!("ExecStart={prefix}/bin/offline-fs-kbc serve\n")),
            "{unit}"
        );
        let output = make(&["uninstall", &destdir, &prefix_arg]);
        assert!(output.status.success(), "{}", text(&output));
        let left = walk(image.path());
        assert!(left.is_empty(), "{left:?}");
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
