// SPDX-License-Identifier: Apache-2.0

//! `check --image` in a VM with guest-pull: what a pull would do, without asking a registry.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::support::both::copy_to;
use crate::support::daemon::{Daemon, Root, called_from, output};

/// A key that openssl made, of whose other half nothing is known.
pub const KEY: &str = "-----BEGIN PUBLIC KEY-----\n\
                   MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEaxfR8uEsQkf4vOblY6RA8ncDfYEt\n\
                   6zOg9KE5RdiYwpZP40Li/hp/m47n60p8D54WK84zV2sxXs7LtkBoN79R9Q==\n\
                   -----END PUBLIC KEY-----\n";

/// A daemon on `cdh.sock` with these resources, and guest-pull's configuration.
struct Vm {
    root: Root,
    _daemon: Daemon,
    program: PathBuf,
}

impl Vm {
    fn new(policy: &str, with_guest_pull: bool) -> Self {
        let auth = STANDARD.encode("robot:hunter2");
        let auth = json!({"auths": {"mirror.example/app": {"auth": auth}}}).to_string();
        let resources = [
            ("default/credential/test", auth.as_str()),
            ("default/security-policy/test", policy),
            ("default/cosign-key/test", KEY),
        ];
        let resources: Value = resources
            .iter()
            .map(|(name, value)| ((*name).to_owned(), json!(STANDARD.encode(value))))
            .collect::<serde_json::Map<_, _>>()
            .into();
        let root = Root::with(&resources.to_string());
        let daemon = root.start_hub();
        let config = "[image]\nimage_security_policy_uri = 'kbs:///default/security-policy/test'\n\
            [[image.registry_config.registry]]\nlocation = 'app.example'\n\
            [[image.registry_config.registry.mirror]]\nlocation = 'mirror.example/app'\n";
        fs::write(root.path("cdh.toml"), config).unwrap();
        let program = copy_to(&root.path("bin"), with_guest_pull);
        Self {
            root,
            _daemon: daemon,
            program,
        }
    }

    fn check(&self, args: &[&str]) -> (String, Option<i32>) {
        let mut command: Command = called_from(&self.program, "offline-fs-kbc");
        // Nothing there is guest-pull.
        command.env("PATH", self.root.dir());
        command
            .args(["check", "--image", "app.example/web:1", "--resources"])
            .arg(self.root.resources())
            .arg("--cdh-sock")
            .arg(format!(
                "unix://{}",
                self.root.socket_called("cdh.sock").display()
            ))
            .arg("--cdh-config")
            .arg(self.root.path("cdh.toml"))
            .args(args);
        let (stdout, stderr, code) = output(&mut command);
        assert!(!stdout.contains("hunter") && !stderr.contains("hunter"));
        (format!("{stdout}{stderr}"), code)
    }
}

/// `check` tells the mirror that would be asked, the credential's entry, the rule of the policy and its key: to people, and
/// to programs.
#[test]
fn check_tells_what_a_pull_would_do() {
    let policy = r#"{"default": [{"type": "reject"}], "transports": {"docker": {"app.example":
        [{"type": "sigstoreSigned", "keyPath": "kbs:///default/cosign-key/test"}]}}}"#;
    let vm = Vm::new(policy, true);
    let (said, _) = vm.check(&[]);
    for line in [
        "guest-pull: 1. mirror.example/app/web:1 (mirror): TLS, directly; with the login of robot by the entry \
         mirror.example/app; signed: ",
        "guest-pull: 2. app.example/web:1: TLS, directly; anonymously: ",
        "sigstoreSigned by kbs:///default/cosign-key/test",
        "guest-pull: policy: kbs:///default/security-policy/test",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert!(!said.contains("[pull-refused]"), "{said}");
    let (json, _) = vm.check(&["--format", "json"]);
    let json: Value = serde_json::from_str(&json).unwrap();
    let pull = json["images"][0]["pull"].as_array().unwrap();
    let first = |line: &Value| {
        line.as_str()
            .unwrap()
            .starts_with("1. mirror.example/app/web:1")
    };
    assert!(pull.iter().any(first), "{json:#}");
}

/// An image that the policy rejects is an error of `check`, with guest-pull's reason.
#[test]
fn check_tells_that_nothing_would_be_pulled() {
    let vm = Vm::new(r#"{"default": [{"type": "reject"}]}"#, true);
    let (said, code) = vm.check(&[]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("error: app.example/web:1: ")
            && said.contains("default: reject [pull-refused]"),
        "{said}"
    );
}

/// Without guest-pull, `check` says what the clients that pull images themselves would do, and nothing else.
#[test]
fn without_guest_pull_there_is_no_plan() {
    let vm = Vm::new(r#"{"default": [{"type": "reject"}]}"#, false);
    let (said, _) = vm.check(&[]);
    assert!(
        !said.contains("guest-pull:") && !said.contains("[pull-refused]"),
        "{said}"
    );
}
