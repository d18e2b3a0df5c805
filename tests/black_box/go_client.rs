// SPDX-License-Identifier: Apache-2.0

//! Each service, called by containerd's Go client (`tests/go-client/`), another implementation of ttrpc.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use offline_fs_kbc::proto::guest_pull::Progress;
use serde_json::{Value, json};

use crate::support::daemon::{Root, one, output};
use crate::support::puller::Socket;

fn program() -> PathBuf {
    match std::env::var_os("GO_CLIENT") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("target/go/go-client"),
    }
}

/// The lines that the client prints for `count` calls at once on one connection.
fn ask(
    root: &Root,
    socket: &str,
    call: &[&str],
    count: usize,
    kind: &str,
    fields: &[&str],
) -> Vec<String> {
    let program = program();
    assert!(
        program.exists(),
        "{} is missing; `make go-client` builds it",
        program.display()
    );
    let mut command = Command::new(program);
    command
        .arg(root.socket_called(socket))
        .args(call)
        .arg(count.to_string())
        .arg(kind)
        .args(fields);
    let (stdout, stderr, code) = output(&mut command);
    assert_eq!(code, Some(0), "{stderr}");
    let lines: Vec<_> = stdout.lines().map(str::to_owned).collect();
    assert_eq!(lines.len(), count);
    lines
}

/// The three generations of GetResource, one call and many at once.
#[test]
fn three_generations_of_get_resource() {
    let root = Root::with(&one("Credential", "x"));
    let _daemon = root.start_hub();
    let old = ["getresource.GetResourceService", "GetResource", "bytes"];
    let new = ["api.GetResourceService", "GetResource", "bytes"];
    let description = r#"{"name":"Credential","optional":{}}"#;
    for count in [1, 200] {
        for (socket, call, fields) in [
            (
                "getresource.sock",
                old,
                &["offline_fs_kbc", "null", description][..],
            ),
            (
                "getresource.sock",
                old,
                &["/default/credential/test", "offline_fs_kbc", "localhost"],
            ),
            ("cdh.sock", new, &["kbs:///default/credential/test"]),
        ] {
            let lines = ask(&root, socket, &call, count, "string", fields);
            assert!(lines.iter().all(|line| line == "OK x"), "{lines:?}");
        }
    }
    let lines = ask(&root, "cdh.sock", &new, 1, "string", &["kbs:///a/b/c"]);
    assert!(
        lines[0].starts_with("NotFound no resource a/b/c;"),
        "{lines:?}"
    );
    let lines = ask(
        &root,
        "getresource.sock",
        &new,
        1,
        "string",
        &["kbs:///a/b/c"],
    );
    assert!(
        lines[0].starts_with("Unimplemented no service api."),
        "{lines:?}"
    );
}

#[test]
fn keys_are_unwrapped() {
    let vectors: Value = serde_json::from_str(include_str!("../vectors/keyprovider.json")).unwrap();
    let root = Root::new();
    root.write_keys(&vectors["keys"].to_string());
    let _daemon = root.start_hub();
    let annotation = STANDARD.encode(vectors["packets"]["G4, GCM, all members"].to_string());
    let request = json!({"op": "keyunwrap", "keyunwrapparams": {"annotation": annotation}});
    let request = STANDARD.encode(request.to_string());
    let text = vectors["text"].as_str().unwrap().as_bytes();
    let expected = format!("OK {}", json!({"keyunwrapresults": {"optsdata": text}}));
    for socket in ["keyprovider.sock", "cdh.sock"] {
        let unwrap = ["keyprovider.KeyProviderService", "UnWrapKey", "bytes"];
        let lines = ask(&root, socket, &unwrap, 1, "base64", &[&request]);
        assert_eq!(lines.join("\n"), expected);
        let wrap = ["keyprovider.KeyProviderService", "WrapKey", "bytes"];
        let lines = ask(&root, socket, &wrap, 1, "base64", &[&request]);
        assert!(
            lines[0].starts_with("Unimplemented keys are wrapped"),
            "{lines:?}"
        );
    }
}

#[test]
fn sealed_secrets_are_opened() {
    let vectors: Value =
        serde_json::from_str(include_str!("../vectors/sealedsecret.json")).unwrap();
    let root = Root::new();
    let resources = json!({
        "default/signing-key/1": STANDARD.encode(vectors["jwk"].to_string()),
        "default/secret/1": STANDARD.encode("the plaintext"),
    });
    root.write_resources(&resources.to_string());
    let _daemon = root.start_hub();
    let call = ["api.SealedSecretService", "UnsealSecret", "bytes"];
    for (name, expected) in [
        ("good", "OK the plaintext"),
        (
            "by another key",
            "InvalidArgument the sealed secret's signature",
        ),
        ("envelope", "Unimplemented "),
    ] {
        let secret = STANDARD.encode(vectors["sealed"][name].as_str().unwrap());
        let lines = ask(&root, "cdh.sock", &call, 1, "base64", &[&secret]);
        assert!(lines[0].starts_with(expected), "{lines:?}");
    }
    let call = ["api.SecureMountService", "SecureMount", "bytes"];
    let lines = ask(&root, "cdh.sock", &call, 1, "string", &["x", ""]);
    assert!(lines[0].starts_with("Unimplemented "), "{lines:?}");
}

#[test]
fn attestation_is_refused_and_measurements_are_not_supported() {
    let root = Root::new();
    let _daemon = root.start();
    let service = "attestation_agent.AttestationAgentService";
    let call = [service, "ExtendRuntimeMeasurement", "number"];
    let lines = ask(
        &root,
        "attestation-agent.sock",
        &call,
        1,
        "string",
        &["d", "o", "c"],
    );
    assert_eq!(lines, ["OK 1"]);
    for method in [
        "GetEvidence",
        "GetAdditionalEvidence",
        "GetToken",
        "BindInitData",
    ] {
        let lines = ask(
            &root,
            "attestation-agent.sock",
            &[service, method, "bytes"],
            1,
            "base64",
            &[""],
        );
        assert!(
            lines[0].starts_with("Unimplemented "),
            "{method}: {lines:?}"
        );
    }
}

/// PullImage by containerd's client, several at once on one connection: each gets the answer of its own image, in whatever
/// order they come.
#[test]
fn pulls_by_the_go_client() {
    let root = Root::new();
    let socket = Socket::new(&root);
    let _daemon = root.start_hub();
    let answered = thread::spawn(move || {
        let mut passed: Vec<_> = (0..4).map(|_| socket.next()).collect();
        for passed in passed.iter_mut().rev() {
            assert_eq!(passed.image(), "quay.io/a:1");
            passed.tell(&Progress::default());
            passed.answer("sha256:0");
        }
    });
    let call = ["api.ImagePullService", "PullImage", "bytes"];
    let fields = ["quay.io/a:1", "/run/kata-containers/1"];
    let lines = ask(&root, "cdh.sock", &call, 4, "string", &fields);
    assert_eq!(lines, ["OK sha256:0"; 4]);
    answered.join().unwrap();
}
