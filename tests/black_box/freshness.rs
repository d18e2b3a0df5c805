// SPDX-License-Identifier: Apache-2.0

//! An answer has the content of the file at the time of the request, however the file was changed, and on
//! every kind of file system.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::unistd::geteuid;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::support::daemon::{Daemon, Root, one, output, started_by};
use crate::support::wire::{Wire, g2, get_frame};

/// Asks on one connection for the life of the daemon, as kata-agents from 3.3 on do.
struct Client(Wire);

impl Client {
    fn served(&mut self) -> Result<Vec<u8>, String> {
        let frame = get_frame(1, &g2("/default/credential/test"));
        self.0.ask(&frame).map_err(|(_, text)| text)
    }
}

fn start(root: &Root, resources: &Path) -> (Daemon, Client) {
    let mut command = root.serve();
    command.arg("--resources").arg(resources);
    let daemon = Daemon::start(command, &root.socket());
    let client = Client(Wire::connect(&root.socket()));
    (daemon, client)
}

fn is_root() -> bool {
    if !geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "this test needs root");
        eprintln!("left out: only root may mount and drop capabilities");
        return false;
    }
    true
}

/// A Kubernetes secret volume replaces `..data`, a link to a directory, and never the file's own link.
#[test]
fn a_secret_volume_is_replaced_as_a_whole() {
    let root = Root::new();
    let volume = root.path("volume");
    fs::create_dir(&volume).unwrap();
    let publish = |version: u32| {
        let data = volume.join(format!("..{version}"));
        fs::create_dir(&data).unwrap();
        fs::write(
            data.join("resources.json"),
            one("Credential", format!("v{version}")),
        )
        .unwrap();
        symlink(format!("..{version}"), volume.join("..new")).unwrap();
        fs::rename(volume.join("..new"), volume.join("..data")).unwrap();
        if version > 1 {
            fs::remove_dir_all(volume.join(format!("..{}", version - 1))).unwrap();
        }
    };
    publish(1);
    symlink("..data/resources.json", volume.join("resources.json")).unwrap();
    let (_daemon, mut client) = start(&root, &volume.join("resources.json"));
    for version in 1..50 {
        assert_eq!(client.served().unwrap(), format!("v{version}").as_bytes());
        publish(version + 1);
    }
}

/// Rewrites of the same size within one tick of the clock, which change no time stamp, on file systems with
/// different clocks.
#[test]
fn same_size_rewrites_on_every_file_system() {
    if !is_root() {
        return;
    }
    let root = Root::new();
    let image = root.path("ext4.img");
    fs::File::create(&image).unwrap().set_len(8 << 20).unwrap();
    let (_, stderr, code) = output(Command::new("mkfs.ext4").arg("-q").arg(&image));
    assert_eq!(code, Some(0), "{stderr}");
    let image = image.display().to_string();
    for source in [
        &["-t", "ramfs", "none"][..],
        &["-t", "tmpfs", "none"],
        &["-o", "loop", &image],
    ] {
        let mount = Mounted::new(&root.path("mount"), source);
        let path = mount.0.join("resources.json");
        fs::write(&path, one("Credential", "start")).unwrap();
        let (_daemon, mut client) = start(&root, &path);
        for n in 0..500 {
            let value = format!("{n:05}");
            fs::write(&path, one("Credential", &value)).unwrap();
            assert_eq!(client.served().unwrap(), value.as_bytes(), "{source:?}");
        }
    }
}

/// A mount that is removed when the value is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn new(at: &Path, source: &[&str]) -> Self {
        fs::create_dir_all(at).unwrap();
        let (_, stderr, code) = output(Command::new("mount").args(source).arg(at));
        assert_eq!(code, Some(0), "{stderr}");
        Self(at.to_owned())
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Without capabilities, as in the unit, a file's mode applies to root too: a file that can't be read is
/// reported, and its last good content stays in use until it can be read again.
#[test]
fn permission_lost_and_regained() {
    if !is_root() {
        return;
    }
    let root = Root::with(&one("Credential", "one"));
    let powerless = [
        "--bounding-set=-all",
        "--inh-caps=-all",
        "--ambient-caps=-all",
        "--",
    ];
    let command = started_by("setpriv", &powerless, &root.serve());
    let daemon = Daemon::start(command, &root.socket());
    let mut client = Client(Wire::connect(&root.socket()));
    let mode = |path: &Path, mode: u32| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let directory = root.path("etc");
    for path in [root.resources(), directory.clone()] {
        assert_eq!(client.served().unwrap(), b"one");
        mode(&path, 0o000);
        for _ in 0..3 {
            assert_eq!(client.served().unwrap(), b"one", "what was good is kept");
        }
        mode(&path, 0o700);
    }
    let said = "resources.json: can't be read: Permission denied";
    assert_eq!(daemon.log().matches(said).count(), 2, "{}", daemon.log());
    // A change in the meantime is served as soon as the file can be read.
    mode(&root.resources(), 0o000);
    assert_eq!(client.served().unwrap(), b"one");
    fs::write(root.resources(), one("Credential", "two")).unwrap();
    mode(&root.resources(), 0o600);
    assert_eq!(client.served().unwrap(), b"two");
}

/// What may happen to the file.
#[derive(Clone, Debug)]
enum Step {
    Rename(u16),
    Rewrite(u16),
    HalfWrite(u16),
    Remove,
    Link(u16),
    Ask,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        any::<u16>().prop_map(Step::Rename),
        any::<u16>().prop_map(Step::Rewrite),
        any::<u16>().prop_map(Step::HalfWrite),
        Just(Step::Remove),
        any::<u16>().prop_map(Step::Link),
        Just(Step::Ask),
        Just(Step::Ask),
    ];
    prop::collection::vec(step, 1..40)
}

/// After any sequence of renames, rewrites, half-written files, links and removals, each answer is the
/// present content if that is complete, and otherwise the last complete content that the daemon has loaded,
/// at a request or because of its watch.
#[test]
fn any_interleaving_gives_the_present_content() {
    let root = Root::new();
    let path = root.resources();
    let (_daemon, mut client) = start(&root, &path);
    let client = std::cell::RefCell::new(&mut client);
    let mut runner = TestRunner::new(Config::with_cases(150));
    let result = runner.run(&steps(), |steps| {
        let mut client = client.borrow_mut();
        let _ = fs::remove_file(&path);
        prop_assert!(client.served().is_err());
        // The contents since the last request, and the present one if it is complete.
        let mut seen: Vec<Option<String>> = vec![None];
        let mut present: Option<Option<String>> = None;
        for step in steps {
            match step {
                Step::Rename(n) => {
                    fs::write(root.path("new"), one("Credential", format!("{n:05}"))).unwrap();
                    fs::rename(root.path("new"), &path).unwrap();
                    present = Some(Some(format!("{n:05}")));
                }
                Step::Rewrite(n) => {
                    let _ = fs::remove_file(&path).and_then(|()| fs::write(&path, ""));
                    fs::write(&path, one("Credential", format!("{n:05}"))).unwrap();
                    seen.push(None);
                    present = Some(Some(format!("{n:05}")));
                }
                Step::HalfWrite(n) => {
                    let text = one("Credential", format!("{n:05}"));
                    fs::write(root.path("new"), &text[..usize::from(n) % text.len()]).unwrap();
                    fs::rename(root.path("new"), &path).unwrap();
                    present = None;
                }
                Step::Remove => {
                    let _ = fs::remove_file(&path);
                    present = Some(None);
                }
                Step::Link(n) => {
                    let target = root.path(&format!("target{}", n % 3));
                    fs::write(&target, one("Credential", format!("{n:05}"))).unwrap();
                    let _ = fs::remove_file(&path);
                    symlink(&target, &path).unwrap();
                    seen.push(None);
                    present = Some(Some(format!("{n:05}")));
                }
                Step::Ask => {
                    let found = client.served().ok();
                    let found = found.map(|value| String::from_utf8(value).unwrap());
                    match &present {
                        Some(present) => prop_assert_eq!(&found, present),
                        None => prop_assert!(seen.contains(&found), "{:?} of {:?}", found, seen),
                    }
                    seen = vec![found];
                }
            }
            seen.extend(present.clone());
        }
        Ok(())
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
