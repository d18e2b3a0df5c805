// SPDX-License-Identifier: Apache-2.0

//! How the tests run programs, and compare what is mounted.

// Each of the tests' programs uses a part of it.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use guest_pull::digest::Digest;
use guest_pull::mount;
use guest_pull::question::{Answer, Question};
use guest_pull::store::{PullLayers, Store};

/// For anything that a busy machine does in a moment.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// What a program writes to its two outputs, and its exit status.
pub fn output(command: &mut Command) -> (String, String, Option<i32>) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        text(output.stdout),
        text(output.stderr),
        output.status.code(),
    )
}

/// What a program that must succeed writes to its standard output.
pub fn run(command: &mut Command) -> String {
    let (stdout, stderr, code) = output(command);
    assert_eq!(code, Some(0), "{command:?}: {stdout}{stderr}");
    stdout
}

/// A program that a variable of the environment may name.
pub fn tool(name: &str, default: &str) -> Command {
    Command::new(std::env::var_os(name).unwrap_or_else(|| default.into()))
}

/// A program that a variable of the environment may name, and that few machines have. Where it must be there (CI is set),
/// the test fails if it isn't.
pub fn rare_tool(name: &str, default: &str) -> Option<Command> {
    let found = tool(name, default).arg("version").output().is_ok();
    let must = std::env::var_os("CI").is_some();
    assert!(
        found || !must,
        "this test needs {default}; name it by {name}"
    );
    found.then(|| tool(name, default))
}

/// A program beside this file.
pub fn support(name: &str) -> Command {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support");
    Command::new(directory.join(name))
}

/// The program itself, with the arguments; under the unit's list of system calls, if there is one.
pub fn guest_pull(args: &[&str]) -> Command {
    let program = env!("CARGO_BIN_EXE_guest-pull");
    let mut command = match std::env::var_os("GUEST_PULL_SYSTEM_CALLS") {
        None => Command::new(program),
        // Any other call kills the process that makes it.
        Some(list) => {
            let mut command = Command::new(project().join("tests/under-filter"));
            command.arg(list).args(["guest-pull", program]);
            command
        }
    };
    command.args(args);
    command
}

/// The directory of the whole project.
pub fn project() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// A path for a command line.
pub fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Why layers are not mounted.
#[derive(Debug)]
pub struct NotMounted {
    pub text: String,
    /// The kind of the file system's error, if that is the reason.
    pub kind: Option<io::ErrorKind>,
}

impl From<String> for NotMounted {
    fn from(text: String) -> Self {
        Self { text, kind: None }
    }
}

/// Mounts layers of a store, as the mounter does.
pub fn mount_stored(
    store: &Store,
    ids: &[Digest],
    bundle: &Path,
    by: mount::By,
    check: mount::Check<'_>,
) -> Result<mount::Mounted, NotMounted> {
    let mut pull_layers = PullLayers::new(store);
    for id in ids {
        let claim = Question::Claim {
            layer: *id,
            bytes: 0,
        };
        match pull_layers
            .answer(&claim)
            .map_err(|failure| failure.message)?
        {
            Answer::Stored => {}
            _ => return Err(format!("{id} is not stored").into()),
        }
    }
    let layers = pull_layers.take(ids).map_err(|failure| failure.message)?;
    mount::mount(store, &layers, bundle, by, check).map_err(|error| NotMounted {
        kind: error.io().map(io::Error::kind),
        text: error.to_string(),
    })
}

/// Whether the test can mount. Where it must (CI is set), it fails if it can't.
pub fn is_root() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    let must = std::env::var_os("CI").is_some();
    assert!(is_root || !must, "this test needs root");
    is_root
}

/// Whether a program is there that a variable of the environment may name. Where it must be (CI is set), it fails without.
pub fn has_tool(name: &str, default: &str) -> bool {
    let is_there = std::env::var_os(name).is_some()
        || std::env::var_os("PATH").is_some_and(|path| {
            std::env::split_paths(&path).any(|directory| directory.join(default).exists())
        });
    let must = std::env::var_os("CI").is_some();
    assert!(is_there || !must, "this test needs {default}");
    is_there
}

/// A mount that goes with the test.
pub struct Mounted(pub PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).output();
    }
}

/// Checks a layer's file, and mounts it in a new directory.
pub fn mount_layer(file: &Path, at: &Path) -> Mounted {
    run(tool("FSCK_EROFS", "fsck.erofs").arg(file));
    fs::create_dir(at).unwrap();
    let options = ["-t", "erofs", "-o", "loop,ro"];
    run(Command::new("mount").args(options).args([file, at]));
    Mounted(at.to_owned())
}

/// How many mounts there are that have to do with a directory: at a place in it, or of a file in it.
pub fn mounts_below(directory: &Path) -> usize {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let directory = directory.to_str().unwrap();
    text.lines().filter(|line| line.contains(directory)).count()
}

/// What `listing` says of each entry of a tree, by its name in Python's notation: mode, owner, group, time, device; then
/// what only some have.
pub fn listing(root: &Path) -> BTreeMap<String, Vec<String>> {
    let all = run(support("listing").arg(root));
    let entry = |line: &str| {
        let line = line
            .strip_prefix('[')
            .and_then(|line| line.strip_suffix(']'));
        let line = line.unwrap();
        // The mode follows the name.
        let end = line.find(", '0o").unwrap();
        let rest = line[end + 2..].splitn(6, ", ").map(str::to_owned);
        (line[..end].to_owned(), rest.collect())
    };
    all.lines().map(entry).collect()
}

/// Where the time is among what `listing` says.
pub const TIME: usize = 3;

/// The directories below which a layer of the image layout has something without an entry for the directory itself, with
/// the time in nanoseconds that the topmost entry for it says, or 0.
pub fn implied(layout: &Path) -> BTreeMap<String, String> {
    let all = run(support("implied").arg(layout));
    let lines = all.lines().map(|line| line.rsplit_once(' ').unwrap());
    lines
        .map(|(name, time)| (name.to_owned(), time.to_owned()))
        .collect()
}

/// Fails with the entries in which two trees differ.
pub fn assert_equal(ours: &BTreeMap<String, Vec<String>>, theirs: &BTreeMap<String, Vec<String>>) {
    let names: std::collections::BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    let different = names
        .into_iter()
        .filter(|name| ours.get(*name) != theirs.get(*name));
    let different: Vec<_> = different
        .map(|name| {
            format!(
                "{name}:\n  ours   {:?}\n  theirs {:?}",
                ours.get(name),
                theirs.get(name)
            )
        })
        .collect();
    assert!(
        different.is_empty(),
        "{} differ, among them\n{}",
        different.len(),
        different[..different.len().min(10)].join("\n")
    );
}

/// How many loop devices are over files of a directory.
pub fn loop_devices(directory: &Path) -> usize {
    let devices = fs::read_dir("/sys/block").unwrap();
    let files = devices.map(|entry| entry.unwrap().path().join("loop/backing_file"));
    let files = files.filter_map(|path| fs::read_to_string(path).ok());
    files
        .filter(|file| file.starts_with(text(directory)))
        .count()
}
