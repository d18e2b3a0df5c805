// SPDX-License-Identifier: Apache-2.0

//! `status`: what a person or a program learns about the running daemon.

use std::collections::HashMap;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;

use serde_json::Value;
use tokio::sync::oneshot;
use ttrpc::asynchronous::Service;

use crate::support::daemon::{ANONYMOUS, Daemon, Root, called, command, one, output};
use crate::support::wait_for;
use crate::support::wire::{Wire, frame, g2, get};

fn status(root: &Root, args: &[&str]) -> (String, String, Option<i32>) {
    output(
        command()
            .args(["status", "--root"])
            .arg(root.dir())
            .args(args),
    )
}

fn json(root: &Root) -> Value {
    let (stdout, stderr, code) = status(root, &["--format", "json"]);
    assert_eq!(code, Some(0), "{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

/// In a peer pod two units run the program, and the pulls are those of the one on cdh.sock: both are shown, each once.
#[test]
fn each_process_is_shown_once() {
    let root = Root::with(&one("Credential", ANONYMOUS));
    let agent = root.start_as_installed();
    let alone = json(&root);
    assert_eq!(alone["others"], Value::Null);
    let socket = root.socket_called("cdh.sock");
    let config = root.path("cdh.toml");
    fs::write(
        &config,
        format!("socket = \"unix://{}\"\n", socket.display()),
    )
    .unwrap();
    let mut hub = called("/usr/local/bin/confidential-data-hub");
    hub.arg("-c").arg(&config);
    hub.env("OFFLINE_FS_KBC_EXTRA_FILE_PATH", root.resources());
    let hub = Daemon::start(hub, &socket);
    let both = json(&root);
    assert_eq!(both["pid"], agent.pid());
    let others = both["others"].as_array().unwrap();
    assert_eq!(others.len(), 1, "{both}");
    assert_eq!(others[0]["pid"], hub.pid());
    let (text, _, _) = status(&root, &[]);
    assert_eq!(text.matches("offline-fs-kbc ").count(), 2, "{text}");
    assert!(
        text.contains(&format!("on unix://{}", socket.display())),
        "{text}"
    );
}

/// The status has files with their last error, entries with their sizes, outcomes and the last requests, and
/// no value.
#[test]
fn the_daemon_reports_its_status() {
    let root = Root::with(&one(
        "Credential",
        r#"{"auths":{"q":{"auth":"dTpodW50ZXIy"},"r":{}}}"#,
    ));
    root.write_keys(&one("default/key/1", [9; 32]));
    let _daemon = root.start_as_installed();
    get(&root.socket(), &g2("default/credential/test")).unwrap();
    get(&root.socket(), &g2("a/b/none")).unwrap_err();
    root.write_resources("{\"Cred");
    get(&root.socket(), &g2("a/b/none")).unwrap_err();
    let _ = Wire::connect(&root.socket()).ask(&frame(1, 2, b""));
    let found = json(&root);
    assert_eq!(found["version"], 1);
    assert_eq!(found["program_version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(
        found["outcomes"],
        serde_json::json!({"OK": 1, "NOT_FOUND": 2, "INVALID_ARGUMENT": 1})
    );
    let files = found["files"].as_array().unwrap();
    let resources = files
        .iter()
        .find(|file| file["path"] == *root.resources().to_str().unwrap())
        .unwrap();
    assert_eq!(
        (&resources["kind"], &resources["state"]),
        (&"resources".into(), &"kept".into())
    );
    assert!(
        resources["last_error"]
            .as_str()
            .unwrap()
            .contains("ends too early")
    );
    assert!(
        resources["loaded_seconds_ago"].is_number()
            && resources["last_error_seconds_ago"].is_number()
    );
    assert_eq!(found["resources"][0]["name"], "default/credential/test");
    assert_eq!(
        found["resources"][0]["changes"][0],
        "registry \"r\": left out: no member \"auth\""
    );
    assert_eq!(
        (&found["keys"][0]["name"], &found["keys"][0]["bytes"]),
        (&"default/key/1".into(), &32.into())
    );
    let recent = found["recent"].as_array().unwrap();
    assert_eq!(recent.len(), 4);
    assert_eq!(
        (&recent[0]["outcome"], &recent[1]["name"]),
        (&"INVALID_ARGUMENT".into(), &"a/b/none".into())
    );
    assert!(recent[1]["peer"].as_str().unwrap().starts_with("pid "));
    // A call for the status is not counted as a request, and changes nothing in the status.
    assert_eq!(json(&root)["outcomes"], found["outcomes"]);
    let (text, _, _) = status(&root, &[]);
    for line in [
        "offline-fs-kbc ",
        "can't be used; the content of ",
        "    last error ",
        "  default/credential/test: 39 bytes, from ",
        "    repaired: registry \"r\": left out",
        "requests: 1 OK, 1 INVALID_ARGUMENT, 2 NOT_FOUND",
        "GetResourceService/GetResource a/b/none: NOT_FOUND",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
    assert!(!text.contains("hunter") && !text.contains("dTpodW50ZXIy"));
    // The last error is still shown after it was fixed.
    root.rename_resources(&one("Credential", ANONYMOUS));
    get(&root.socket(), &g2("default/credential/test")).unwrap();
    let (text, _, _) = status(&root, &[]);
    assert!(
        text.contains("last error ") && text.contains("1 entry, "),
        "{text}"
    );
}

/// Every socket has the status.
#[test]
fn every_socket_has_it() {
    let root = Root::new();
    let daemon = root.start_hub();
    daemon.wait_for_log("cdh.sock");
    for name in [
        "getresource.sock",
        "keyprovider.sock",
        "attestation-agent.sock",
        "cdh.sock",
    ] {
        let socket = root.socket_called(name).display().to_string();
        let (stdout, stderr, code) = status(&root, &["--socket", &socket]);
        assert_eq!(code, Some(0), "{stderr}");
        assert!(stdout.contains(name), "{stdout}");
    }
}

/// A missing daemon and another program get different messages, each with what to do.
#[test]
fn a_missing_daemon_and_another_program_are_told_apart() {
    let root = Root::new();
    let (_, stderr, code) = status(&root, &[]);
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains("there is no socket; `systemctl start offline-fs-kbc` starts the daemon"),
        "{stderr}"
    );
    fs::create_dir_all(root.socket().parent().unwrap()).unwrap();
    let _upstream = Upstream::start(&root.socket());
    let socket = root.socket().display().to_string();
    let (_, stderr, code) = status(&root, &["--socket", &socket]);
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains("another program answers there, and it has no status"),
        "{stderr}"
    );
}

/// A server like upstream agents: the ttrpc crate's server, with other services.
pub struct Upstream {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Upstream {
    pub fn start(socket: &Path) -> Self {
        fs::create_dir_all(socket.parent().unwrap()).unwrap();
        let address = format!("unix://{}", socket.display());
        let (stop, stopped) = oneshot::channel();
        let serve = async move {
            let server = ttrpc::asynchronous::Server::new().bind(&address).unwrap();
            let service = Service {
                methods: HashMap::new(),
                streams: HashMap::new(),
            };
            let name = "attestation_agent.AttestationAgentService".to_owned();
            let mut server = server.register_service(HashMap::from([(name, service)]));
            server.start().await.unwrap();
            let _ = stopped.await;
            let _ = server.shutdown().await;
        };
        let thread = thread::spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            runtime.unwrap().block_on(serve);
        });
        wait_for("the upstream agent", || UnixStream::connect(socket).ok());
        Self {
            stop: Some(stop),
            thread: Some(thread),
        }
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}
