// SPDX-License-Identifier: Apache-2.0

//! `cdh.sock`: resources, sealed secrets, and the services that only the stock confidential-data-hub has.

use std::fs;

use offline_fs_kbc::proto::api::{
    GetResourceRequest, GetResourceResponse, SecureMountRequest, SecureMountResponse,
};
use serde_json::{Value, json};
use ttrpc::Code;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::support::daemon::{Daemon, Root, one, run};
use crate::support::wire::{self, RECORDED_G2, RECORDED_G3, RECORDED_SEALED, Wire, call, outcome};

/// Asks as kata-agents from 3.3 on do.
pub fn get(root: &Root, path: &str) -> Result<Vec<u8>, (Code, String)> {
    let request = GetResourceRequest {
        ResourcePath: path.to_owned(),
        ..GetResourceRequest::default()
    };
    let socket = root.socket_called("cdh.sock");
    let answer: GetResourceResponse =
        call(&socket, "api.GetResourceService", "GetResource", &request)?;
    Ok(answer.Resource)
}

fn refused<T: std::fmt::Debug>(result: Result<T, (Code, String)>, code: Code) -> String {
    let (found, text) = result.expect_err("it is served");
    assert_eq!(found, code, "{text}");
    text
}

/// The bytes that a released image-rs sent, and each spelling of the path.
#[test]
fn resources_are_served_as_image_rs_asks() {
    let root = Root::with(&one("Credential", "x"));
    let _daemon = root.start_hub();
    let mut wire = Wire::connect(&root.socket_called("cdh.sock"));
    wire.send(RECORDED_G3);
    let (header, body) = wire.receive_raw();
    assert_eq!((&header[8..], &body[..2]), (&[2, 0][..], &[0x0a, 0x00][..]));
    assert_eq!(wire.ask(RECORDED_G3).unwrap(), b"x");
    for path in [
        "kbs:///default/credential/test",
        "kbs://h:1/default/credential/test?a=b",
        "/default/credential/test",
        "Credential",
    ] {
        assert_eq!(get(&root, path).unwrap(), b"x", "{path}");
    }
    refused(
        get(&root, "kbs+x:///default/credential/test"),
        Code::INVALID_ARGUMENT,
    );
    let text = refused(get(&root, "kbs:///default/a/b"), Code::NOT_FOUND);
    assert!(
        text.contains("the resources are: default/credential/test"),
        "{text}"
    );
    // The service of the other generation is on its own socket.
    wire.send(RECORDED_G2);
    refused(outcome(&wire.receive().1), Code::UNIMPLEMENTED);
}

/// Later clients than those of 2023 fail every pull if they get no credential, so the log warns about it, whatever the
/// reason is.
#[test]
fn a_credential_that_is_not_served_is_warned_about() {
    let root = Root::new();
    let daemon = root.start_hub();
    for (code, file) in [
        (Code::NOT_FOUND, None),
        (
            Code::FAILED_PRECONDITION,
            Some(r#"{"Credential":"?"}"#.to_owned()),
        ),
    ] {
        if let Some(file) = file {
            root.rename_resources(&file);
        }
        refused(get(&root, "kbs:///default/credential/test"), code);
        daemon.wait_for_log(&format!("asked for the credential and got {code:?}: "));
    }
    let log = daemon.log();
    let warned = log.lines().filter(|line| {
        line.contains(" WARN pid ") && line.ends_with("pull no image, not even a public one")
    });
    assert_eq!(warned.count(), 2, "{log}");
}

/// With repair off, what a client does with an unusable credential depends on its age too.
#[test]
fn a_rejected_credential_is_warned_about() {
    let root = Root::with(&one("Credential", r#"{"auths":{"q":{}}}"#));
    let daemon = root.start_hub();
    get(&root, "kbs:///default/credential/test").unwrap();
    daemon.wait_for_log(
        "asked for the credential and got a credential that it rejects as a whole (--repair-credential is off): \
         kata-agents before 3.8 then pull anonymously, those of 3.8 to 3.17 and guest-pull pull no image",
    );
}

/// `get` chooses this client if the socket's name is cdh.sock, and finds that socket by default.
#[test]
fn get_asks_on_cdh_sock() {
    let root = Root::with(&one("Credential", "x"));
    let _daemon = root.start_hub();
    let dir = root.dir().display().to_string();
    let socket = root.socket_called("cdh.sock").display().to_string();
    for args in [
        &["get", "Credential", "--as", "cdh", "--root", &dir][..],
        &["get", "default/credential/test", "--socket", &socket],
    ] {
        let (stdout, stderr, code) = run(args);
        assert_eq!((stdout.as_str(), code), ("x", Some(0)), "{stderr}");
    }
}

/// Image keys are served only with --expose-keys; a resource of the same name then overrides a key.
#[test]
fn keys_are_exposed_only_on_request() {
    let root = Root::with(&one("default/key/both", "resource"));
    let keys = json!({"default/key/1": STANDARD.encode([7; 32]), "default/key/both": STANDARD.encode([8; 32])});
    root.write_keys(&keys.to_string());
    let daemon = root.start_hub();
    let text = refused(get(&root, "kbs:///default/key/1"), Code::NOT_FOUND);
    assert!(
        text.contains("it is a key in the keys file, and keys are not served as resources"),
        "{text}"
    );
    assert_eq!(get(&root, "kbs:///default/key/both").unwrap(), b"resource");
    drop(daemon);

    let mut command = root.serve_hub();
    command.arg("--expose-keys");
    let _daemon = Daemon::start(command, &root.socket_called("cdh.sock"));
    assert_eq!(get(&root, "kbs:///default/key/1").unwrap(), [7; 32]);
    assert_eq!(get(&root, "kbs:///default/key/both").unwrap(), b"resource");
    // On getresource.sock they are never served.
    let socket = root.socket();
    let old = crate::support::wire::get(&socket, &crate::support::wire::g2("/default/key/1"));
    refused(old, Code::NOT_FOUND);
}

fn vectors() -> Value {
    serde_json::from_str(include_str!("../vectors/sealedsecret.json")).unwrap()
}

/// A root whose store has the signing keys, a secret and an image key.
fn root_with_secrets() -> Root {
    let vectors = vectors();
    let root = Root::new();
    let entry = |text: &str| STANDARD.encode(text);
    let resources = json!({
        "default/signing-key/1": entry(&vectors["jwk"].to_string()),
        "default/signing-key/p384": entry(&vectors["jwk p384"].to_string()),
        "default/secret/1": entry("the plaintext"),
        "default/other/1": entry("another one"),
    });
    root.write_resources(&resources.to_string());
    root.write_keys(&one("default/key/1", [7; 32]));
    let keys = root.path("run/confidential-containers/cdh/sealed-secret");
    fs::create_dir_all(&keys).unwrap();
    fs::write(keys.join("signer.jwk"), vectors["jwk"].to_string()).unwrap();
    // A file that a name with `..` would find.
    fs::write(root.path("signer.jwk"), vectors["jwk"].to_string()).unwrap();
    fs::write(root.path("run/signer.jwk"), vectors["jwk"].to_string()).unwrap();
    root
}

fn unseal(root: &Root, secret: &str) -> Result<String, (Code, String)> {
    let plaintext = wire::unseal(&root.socket_called("cdh.sock"), secret)?;
    Ok(String::from_utf8(plaintext).unwrap())
}

/// A correctly signed secret is opened; every other one is refused with the reason.
#[test]
fn sealed_secrets_are_verified() {
    let root = root_with_secrets();
    let _daemon = root.start_hub();
    let sealed = vectors()["sealed"].clone();
    let secret = |name: &str| {
        sealed[name]
            .as_str()
            .unwrap_or_else(|| panic!("{name}"))
            .to_owned()
    };
    for name in ["good", "good, key in a file", "good, padded payload"] {
        assert_eq!(
            unseal(&root, &secret(name)).unwrap(),
            "the plaintext",
            "{name}"
        );
        assert_eq!(
            unseal(&root, &format!("{}\n", secret(name))).unwrap(),
            "the plaintext"
        );
    }
    for (name, code, part) in [
        (
            "names a key of the keys file",
            Code::NOT_FOUND,
            "keys are not served as resources",
        ),
        ("names nothing", Code::NOT_FOUND, "default/secret/none"),
        ("of another provider", Code::UNIMPLEMENTED, "\"aliyun\""),
        ("envelope", Code::UNIMPLEMENTED, "\"aliyun\""),
        (
            "of an unknown type",
            Code::INVALID_ARGUMENT,
            "neither \"vault\" nor",
        ),
        (
            "by another key",
            Code::INVALID_ARGUMENT,
            "signature is not by the key",
        ),
        ("alg none", Code::INVALID_ARGUMENT, "alg \"none\""),
        ("alg HS256", Code::INVALID_ARGUMENT, "alg \"HS256\""),
        ("without alg", Code::INVALID_ARGUMENT, "alg none"),
        ("without kid", Code::INVALID_ARGUMENT, "no string \"kid\""),
        (
            "kid of another curve",
            Code::FAILED_PRECONDITION,
            "not a JWK of an EC key on P-256",
        ),
        (
            "kid that is missing",
            Code::NOT_FOUND,
            "signing key: no resource default/signing-key/none",
        ),
        (
            "kid of a missing file",
            Code::NOT_FOUND,
            "signing key \"missing.jwk\" in",
        ),
        ("kid of a plugin", Code::INVALID_ARGUMENT, "names a plugin"),
        (
            "alg twice",
            Code::INVALID_ARGUMENT,
            "header has a duplicate name",
        ),
        (
            "critical extension",
            Code::INVALID_ARGUMENT,
            "critical extensions",
        ),
        (
            "kid that climbs",
            Code::INVALID_ARGUMENT,
            "neither a kbs:// URI nor a file name",
        ),
        (
            "kid that is absolute",
            Code::INVALID_ARGUMENT,
            "neither a kbs:// URI nor a file name",
        ),
        (
            "kid that is dots",
            Code::INVALID_ARGUMENT,
            "neither a kbs:// URI nor a file name",
        ),
        (
            "signature cut",
            Code::INVALID_ARGUMENT,
            "signature is not by the key",
        ),
        (
            "signature empty",
            Code::INVALID_ARGUMENT,
            "signature is not by the key",
        ),
        (
            "payload exchanged",
            Code::INVALID_ARGUMENT,
            "signature is not by the key",
        ),
        (
            "placeholder header",
            Code::INVALID_ARGUMENT,
            "header is not",
        ),
    ] {
        let text = refused(unseal(&root, &secret(name)), code);
        assert!(text.contains(part), "{name}: {text}");
    }
    assert_eq!(
        sealed.as_object().unwrap().len(),
        26,
        "a vector is not tried"
    );
    // A secret that the daemon can't open is refused before its signature is checked.
    let payload = secret("envelope");
    let payload = payload.split('.').nth(2).unwrap();
    let unsigned = format!("sealed.fakejwsheader.{payload}.fakesignature");
    let text = refused(unseal(&root, &unsigned), Code::UNIMPLEMENTED);
    assert!(text.contains("\"aliyun\""), "{text}");
    for text in [
        "",
        "hunter2",
        "sealed.",
        "sealed.a.b",
        "sealed.a.b.c.d",
        "sealed...",
    ] {
        let said = refused(unseal(&root, text), Code::INVALID_ARGUMENT);
        assert!(!said.contains("hunter2"), "{said}");
    }
}

/// Verification can be switched off in three ways; then only the signature is not checked, and the log says
/// so.
#[test]
fn verification_can_be_switched_off() {
    let root = root_with_secrets();
    let sealed = vectors()["sealed"].clone();
    let placeholder = sealed["placeholder header"].as_str().unwrap();
    let flag = {
        let mut command = root.serve_hub();
        command.arg("--skip-sealed-secret-verification");
        command
    };
    let environment = {
        let mut command = root.serve_hub();
        command.env("SKIP_SEALED_SECRET_VERIFICATION", "true");
        command
    };
    for command in [flag, environment] {
        let daemon = Daemon::start(command, &root.socket_called("cdh.sock"));
        assert_eq!(unseal(&root, placeholder).unwrap(), "the plaintext");
        let exchanged = sealed["payload exchanged"].as_str().unwrap();
        assert_eq!(unseal(&root, exchanged).unwrap(), "another one");
        refused(
            unseal(&root, sealed["envelope"].as_str().unwrap()),
            Code::UNIMPLEMENTED,
        );
        let key = sealed["names a key of the keys file"].as_str().unwrap();
        refused(unseal(&root, key), Code::NOT_FOUND);
        assert!(daemon.log().contains("without verifying their signatures"));
    }
    let mut command = root.serve_hub();
    command.env("SKIP_SEALED_SECRET_VERIFICATION", "false");
    let _daemon = Daemon::start(command, &root.socket_called("cdh.sock"));
    refused(unseal(&root, placeholder), Code::INVALID_ARGUMENT);
}

/// The bytes that a kata-agent of November 2023 sent, which cuts `sealed.` off. Nobody has the key that signed the
/// secret, so it is opened only without verification.
#[test]
fn a_recorded_secret_without_its_prefix() {
    let root = Root::with(
        &json!({"default/secret/db-password": STANDARD.encode("recorded"),
        "default/signing-key/1": STANDARD.encode(vectors()["jwk"].to_string())})
        .to_string(),
    );
    let socket = root.socket_called("cdh.sock");
    let mut command = root.serve_hub();
    command.arg("--skip-sealed-secret-verification");
    let daemon = Daemon::start(command, &socket);
    let mut wire = Wire::connect(&socket);
    // The answer has the form of GetResource's.
    assert_eq!(wire.ask(RECORDED_SEALED).unwrap(), b"recorded");
    drop(daemon);
    let _daemon = Daemon::start(root.serve_hub(), &socket);
    let mut wire = Wire::connect(&socket);
    let text = refused(wire.ask(RECORDED_SEALED), Code::INVALID_ARGUMENT);
    assert!(text.contains("signature is not by the key"), "{text}");
}

/// A secret in the forms of late 2023 is verified as every other: without its prefix, with a payload in padded standard
/// base64, and with both.
#[test]
fn the_forms_of_2023_are_verified() {
    let root = root_with_secrets();
    let vectors = vectors();
    let _daemon = root.start_hub();
    for name in ["good", "good, padded payload"] {
        let sealed = vectors["sealed"][name].as_str().unwrap();
        let bare = sealed.strip_prefix("sealed.").unwrap();
        assert_eq!(unseal(&root, sealed).unwrap(), "the plaintext", "{name}");
        assert_eq!(unseal(&root, bare).unwrap(), "the plaintext", "{name}");
    }
    for name in [
        "payload exchanged",
        "by another key",
        "signature empty",
        "placeholder header",
    ] {
        let sealed = vectors["sealed"][name].as_str().unwrap();
        let bare = sealed.strip_prefix("sealed.").unwrap();
        refused(unseal(&root, bare), Code::INVALID_ARGUMENT);
    }
    // The other way to write the same payload is another text, which nobody signed.
    let padded = vectors["sealed"]["good, padded payload"].as_str().unwrap();
    assert!(
        padded.contains('=') && padded.contains(['+', '/']),
        "{padded}"
    );
    let other = padded.replace('=', "").replace('+', "-").replace('/', "_");
    let text = refused(unseal(&root, &other), Code::INVALID_ARGUMENT);
    assert!(text.contains("signature is not by the key"), "{text}");
}

/// Exposed keys are served as resources, and never through sealed secrets.
#[test]
fn a_sealed_secret_never_names_a_key() {
    let root = root_with_secrets();
    let mut command = root.serve_hub();
    command.arg("--expose-keys");
    let _daemon = Daemon::start(command, &root.socket_called("cdh.sock"));
    let sealed = vectors()["sealed"].clone();
    let key = sealed["names a key of the keys file"].as_str().unwrap();
    refused(unseal(&root, key), Code::NOT_FOUND);
}

/// A request for a mount is refused, and the text says what to run for it.
#[test]
fn mounts_are_left_to_the_stock_hub() {
    let root = Root::new();
    let _daemon = root.start_hub();
    let socket = root.socket_called("cdh.sock");
    let mount: Result<SecureMountResponse, _> = call(
        &socket,
        "api.SecureMountService",
        "SecureMount",
        &SecureMountRequest {
            volume_type: "BlockDevice".to_owned(),
            mount_point: "/x".to_owned(),
            ..SecureMountRequest::default()
        },
    );
    let text = refused(mount, Code::UNIMPLEMENTED);
    assert!(
        text.contains("run the stock confidential-data-hub"),
        "{text}"
    );
}
