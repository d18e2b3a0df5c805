// SPDX-License-Identifier: Apache-2.0

//! A kata-agent that starts the components itself.
//!
//! This follows kata-agent of August 2026 (kata-containers 7c6ba40c) step by step: it makes a plan, its own or that of an
//! extension image's manifest; it starts nothing if a program is missing; for each process it removes the socket's file,
//! starts the program, and looks for the file once a second. At the end it connects to cdh.sock if it is a socket by then,
//! and it never looks again.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::both::guest_pull;
use super::daemon::{Daemon, Root, called_in, called_in_as_root, output, program};

/// Where the extension image is mounted.
pub const EXTENSION: &str = "/run/kata-extensions/coco";

/// The default of kata-agent's option `agent.launch_process_timeout` is 6 s; a machine that runs tests may be slower.
const LAUNCH_PROCESS_TIMEOUT: u64 = 20;

/// A process of the plan. All paths are those in the VM.
pub struct Launch {
    /// What the plan calls it.
    pub id: String,
    /// The program.
    pub path: String,
    args: Vec<String>,
    config: String,
    env: BTreeMap<String, String>,
    /// The socket whose file kata-agent waits for.
    pub wait_socket: String,
}

/// The plan with the confidential-data-hub: of the manifest in the extension image whose files are in this directory, with
/// these values of its variables; or kata-agent's own.
pub fn plan(extension: Option<&Path>, variables: &[&str]) -> Vec<Launch> {
    let reader = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/podvm/kata/launch_plan.py"
    );
    let mut command = Command::new("python3");
    command.args([reader, "2"]);
    if let Some(directory) = extension {
        command.arg("--extension").arg(directory);
    }
    let (plan, stderr, code) = output(command.args(variables));
    assert_eq!(code, Some(0), "{stderr}");
    let plan: Vec<Value> = serde_json::from_str(&plan).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let launch = |process: &Value| Launch {
        id: text(&process["id"]),
        path: text(&process["path"]),
        args: process["args"]
            .as_array()
            .unwrap()
            .iter()
            .map(text)
            .collect(),
        config: text(&process["config"]),
        env: process["env"]
            .as_object()
            .unwrap()
            .iter()
            .map(|(name, value)| (name.clone(), text(value)))
            .collect(),
        wait_socket: text(&process["wait_socket"]),
    };
    plan.iter().map(launch).collect()
}

/// A path of the VM, below the test's root.
pub fn below(root: &Root, path: &str) -> PathBuf {
    root.path(path.trim_start_matches('/'))
}

/// Makes the files of the extension image with the programs under test, below the root; gives their directory.
pub fn add_extension(root: &Root) -> PathBuf {
    let directory = below(root, EXTENSION);
    fs::create_dir_all(directory.parent().unwrap()).unwrap();
    let bundle = root.path("pause_bundle");
    pause_bundle(&bundle);
    let tree = concat!(env!("CARGO_MANIFEST_DIR"), "/packaging/extension/tree");
    let mut tree = Command::new(tree);
    tree.arg(program()).arg(guest_pull()).arg(&bundle);
    let (_, stderr, code) = output(tree.arg(&directory));
    assert_eq!(code, Some(0), "{stderr}");
    directory
}

/// Makes a pause bundle as umoci leaves it, with a program that is none.
pub fn pause_bundle(directory: &Path) {
    fs::create_dir_all(directory.join("rootfs")).unwrap();
    for (name, text) in [
        (
            "config.json",
            r#"{"ociVersion":"1.0.2","process":{"args":["/pause"]}}"#,
        ),
        ("umoci.json", "{}"),
        ("rootfs/pause", "a program"),
    ] {
        fs::write(directory.join(name), text).unwrap();
    }
}

/// kata-agent's step for one process, without rights: it may share its `/run` with the others, and can mount nothing. It
/// returns when the socket's file is there.
pub fn launch(root: &Root, process: &Launch) -> Daemon {
    launch_by(called_in(&root.path("run"), &process.path), root, process)
}

/// The same as root, in a mount namespace in which `/usr/local/bin` is that of the root too.
pub fn launch_as_root(root: &Root, process: &Launch) -> Daemon {
    launch_by(called_in_as_root(root, &process.path), root, process)
}

fn launch_by(mut command: Command, root: &Root, process: &Launch) -> Daemon {
    command.args(&process.args);
    if below(root, &process.config).exists() {
        command.args(["-c", &process.config]);
    }
    let socket = below(root, &process.wait_socket);
    if socket.exists() {
        fs::remove_file(&socket).unwrap();
    }
    command.envs(&process.env);
    // The only file that it shares with this machine's /etc.
    command.env("OFFLINE_FS_KBC_EXTRA_FILE_PATH", root.resources());
    let mut daemon = Daemon::spawn(command);
    for _ in 0..=LAUNCH_PROCESS_TIMEOUT {
        // Not to wait for luck: this is how kata-agent waits, the first time too.
        thread::sleep(Duration::from_secs(1));
        if socket.exists() {
            return daemon;
        }
        daemon.expect_alive();
    }
    panic!("kata-agent gives up {}: {}", process.path, daemon.log());
}
