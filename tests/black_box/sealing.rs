// SPDX-License-Identifier: Apache-2.0

//! `seal` and `unseal`, with each other and with the daemon.

use std::fs::{self, File};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use ttrpc::Code;

use crate::support::daemon::{Root, command, output, program, run};
use crate::support::wire;

const KID: &str = "kbs:///default/signing-key/1";

/// A root with a key pair, whose public half is a resource, and a secret.
fn root_with_keys() -> Root {
    let root = Root::new();
    let private = root.path("private.jwk").display().to_string();
    let (public, stderr, code) = run(&["keygen", "--signing", &private]);
    assert_eq!((stderr.as_str(), code), ("", Some(0)));
    fs::write(root.path("public.jwk"), &public).unwrap();
    let resources = json!({"default/signing-key/1": STANDARD.encode(&public),
        "default/secret/1": STANDARD.encode("the plaintext")});
    root.write_resources(&resources.to_string());
    root
}

fn path(root: &Root, name: &str) -> String {
    root.path(name).display().to_string()
}

fn seal(root: &Root, name: &str, kid: &str) -> String {
    let key = path(root, "private.jwk");
    let (stdout, stderr, code) = run(&["seal", name, "--key", &key, "--kid", kid]);
    assert_eq!((stderr.as_str(), code), ("", Some(0)));
    // In a file it is exact: confidential-data-hub refuses a line break after it.
    assert!(
        stdout.starts_with("sealed.") && !stdout.contains(char::is_whitespace),
        "{stdout}"
    );
    stdout
}

fn unseal(root: &Root, secret: &str) -> Result<Vec<u8>, (Code, String)> {
    wire::unseal(&root.socket_called("cdh.sock"), secret)
}

/// The daemon opens what `seal` makes, with verification on: with the public key among the resources, and in
/// a file.
#[test]
fn the_daemon_opens_what_is_sealed() {
    let root = root_with_keys();
    let directory = root.path("run/confidential-containers/cdh/sealed-secret");
    fs::create_dir_all(&directory).unwrap();
    fs::copy(root.path("public.jwk"), directory.join("signer.jwk")).unwrap();
    let _daemon = root.start_hub();
    for name in [
        "default/secret/1",
        "kbs:///default/secret/1",
        "/default/secret/1",
    ] {
        for kid in [KID, "kbs://host/default/signing-key/1", "signer.jwk"] {
            let secret = seal(&root, name, kid);
            assert_eq!(
                unseal(&root, &secret).unwrap(),
                b"the plaintext",
                "{name} {kid}"
            );
        }
    }
    // It is refused if another key signed it.
    fs::remove_file(root.path("private.jwk")).unwrap();
    assert_eq!(
        run(&["keygen", "--signing", &path(&root, "private.jwk")]).2,
        Some(0)
    );
    let (code, text) = unseal(&root, &seal(&root, "default/secret/1", KID)).unwrap_err();
    assert_eq!(code, Code::INVALID_ARGUMENT);
    assert!(text.contains("signature is not by the key"), "{text}");
}

/// On a terminal the shell's prompt is on a line of its own.
#[test]
fn a_terminal_gets_a_line_break() {
    let root = root_with_keys();
    let seal = format!(
        "'{}' seal a/b/c --kid {KID} --key '{}'",
        program().display(),
        path(&root, "private.jwk")
    );
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &seal, "/dev/null"]);
    let (stdout, _, code) = output(&mut script);
    assert_eq!(code, Some(0));
    let secret = stdout
        .strip_suffix("\r\n")
        .unwrap_or_else(|| panic!("{stdout:?}"));
    assert!(
        secret.starts_with("sealed.") && !secret.contains('\n'),
        "{stdout:?}"
    );
}

/// A sealed secret has the form that other implementations read.
#[test]
fn a_sealed_secret_has_the_published_form() {
    let root = root_with_keys();
    let secret = seal(&root, "default/secret/1", KID);
    let parts: Vec<_> = secret.trim_end().split('.').collect();
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).unwrap();
    let json = |part: &str| serde_json::from_slice::<Value>(&decode(part)).unwrap();
    assert_eq!((parts.len(), parts[0]), (4, "sealed"));
    assert_eq!(json(parts[1]), json!({"alg": "ES256", "kid": KID}));
    let payload = json!({"version": "0.1.0", "type": "vault", "name": "kbs:///default/secret/1",
        "provider": "kbs", "provider_settings": {}, "annotations": {}});
    assert_eq!(json(parts[2]), payload);
    assert_eq!(decode(parts[3]).len(), 64);
}

/// The private key is readable only by its owner, is never replaced, and is refused if others can read it.
#[test]
fn the_private_key_is_private() {
    let root = root_with_keys();
    let private = root.path("private.jwk");
    assert_eq!(fs::metadata(&private).unwrap().mode() & 0o7777, 0o600);
    let before = fs::read_to_string(&private).unwrap();
    let jwk: Value = serde_json::from_str(&before).unwrap();
    let secret = jwk["d"].as_str().unwrap();
    let public = fs::read_to_string(root.path("public.jwk")).unwrap();
    assert!(
        !public.contains(secret) && !public.contains("\"d\""),
        "{public}"
    );
    let shown = private.display().to_string();
    let (stdout, stderr, code) = run(&["keygen", "--signing", &shown]);
    assert_eq!((stdout.as_str(), code), ("", Some(1)));
    assert!(
        stderr.contains("can't create") && stderr.contains("it exists and is never replaced"),
        "{stderr}"
    );
    assert_eq!(fs::read_to_string(&private).unwrap(), before);

    fs::set_permissions(&private, fs::Permissions::from_mode(0o640)).unwrap();
    let args = ["seal", "a/b/c", "--kid", KID, "--key", &shown];
    let (stdout, stderr, code) = run(&args);
    assert_eq!((stdout.as_str(), code), ("", Some(1)));
    assert!(
        stderr.contains("others can read it (mode 0640); `chmod 0600"),
        "{stderr}"
    );
    assert!(!stderr.contains(secret), "{stderr}");
    fs::set_permissions(&private, fs::Permissions::from_mode(0o600)).unwrap();
    for (text, part) in [
        (public.as_str(), "a public key"),
        ("hunter2", "not a JWK of an EC key on P-256"),
    ] {
        fs::write(&private, text).unwrap();
        let (stdout, stderr, code) = run(&args);
        assert_eq!((stdout.as_str(), code), ("", Some(1)));
        assert!(
            stderr.contains(part) && !stderr.contains("hunter2"),
            "{stderr}"
        );
    }
    let left = fs::read_dir(root.dir()).unwrap().count();
    assert_eq!(left, 3, "a temporary file is left");
}

/// Names that no VM can look up are usage errors.
#[test]
fn what_cannot_be_looked_up_is_not_sealed() {
    let root = root_with_keys();
    let key = path(&root, "private.jwk");
    for (name, kid, part) in [
        ("name", KID, "is not <repository>/<type>/<tag>"),
        ("kbs+x:///a/b/c", KID, "names a plugin"),
        (
            "a/b/c",
            "default/signing-key/1",
            "write kbs:///default/signing-key/1",
        ),
        (
            "a/b/c",
            "kbs:///a/b",
            "write kbs:///<repository>/<type>/<tag>",
        ),
        ("a/b/c", "../x", "neither a kbs:// URI nor a file name"),
        ("a/b/c", "..", "neither a kbs:// URI nor a file name"),
        (
            "a/b/c",
            "http://h/a/b/c",
            "write kbs:///<repository>/<type>/<tag>",
        ),
    ] {
        let (stdout, stderr, code) = run(&["seal", name, "--key", &key, "--kid", kid]);
        assert_eq!((stdout.as_str(), code), ("", Some(2)), "{stderr}");
        assert!(stderr.contains(part), "{stderr}");
    }
}

/// Without a daemon, `unseal` shows the content of a correctly signed secret; otherwise the exit status is 1.
#[test]
fn unseal_verifies_and_shows() {
    let root = root_with_keys();
    let secret = seal(&root, "default/secret/1", KID);
    let public = path(&root, "public.jwk");
    let shown = format!(
        "type: vault\nname: kbs:///default/secret/1\nprovider: kbs\nsigner: {KID}\nsignature: good, by {public}\n"
    );
    let (stdout, stderr, code) = run(&["unseal", "--show", secret.trim_end(), "--key", &public]);
    assert_eq!(
        (stdout.as_str(), stderr.as_str(), code),
        (shown.as_str(), "", Some(0))
    );
    // From standard input, with a line break at its end.
    fs::write(root.path("secret"), secret.clone() + "\n").unwrap();
    let mut unseal = command();
    unseal.args(["unseal", "--show", "-", "--key", &public]);
    let (stdout, _, code) = output(unseal.stdin(File::open(root.path("secret")).unwrap()));
    assert_eq!((stdout.as_str(), code), (shown.as_str(), Some(0)));
    let (stdout, stderr, code) = run(&["unseal", secret.trim_end(), "--key", &public]);
    assert_eq!((stdout.as_str(), stderr.as_str(), code), ("", "", Some(0)));

    let other = path(&root, "other.jwk");
    let (other_public, _, _) = run(&["keygen", "--signing", &other]);
    fs::write(root.path("other.pub"), other_public).unwrap();
    let vectors: Value =
        serde_json::from_str(include_str!("../vectors/sealedsecret.json")).unwrap();
    let sealed = |name: &str| vectors["sealed"][name].as_str().unwrap().to_owned();
    let good = secret.trim_end().to_owned();
    fs::write(root.path("vectors.jwk"), vectors["jwk"].to_string()).unwrap();
    fs::write(root.path("p384.jwk"), vectors["jwk p384"].to_string()).unwrap();
    let cut = good[..good.len() - 4].to_owned();
    for (secret, key, part) in [
        (good.clone(), "other.pub", "the signature is wrong"),
        (cut, "public.jwk", "the signature is wrong"),
        (good.clone(), "missing.jwk", "can't read"),
        (good, "p384.jwk", "not a JWK of an EC key on P-256"),
        (
            sealed("payload exchanged"),
            "vectors.jwk",
            "the signature is wrong",
        ),
        (
            sealed("placeholder header"),
            "vectors.jwk",
            "its header is not",
        ),
        (sealed("alg none"), "vectors.jwk", "alg \"none\""),
        (sealed("envelope"), "vectors.jwk", "this daemon has none"),
        ("hunter2".to_owned(), "public.jwk", "not a sealed secret"),
        (
            "sealed.a.b".to_owned(),
            "public.jwk",
            "it is not sealed.<header>",
        ),
    ] {
        let (_, stderr, code) = run(&["unseal", "--show", &secret, "--key", &path(&root, key)]);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(
            stderr.contains(part) && !stderr.contains("hunter2"),
            "{stderr}"
        );
    }
    // A secret that another implementation signed.
    let key = path(&root, "vectors.jwk");
    let (stdout, stderr, code) = run(&["unseal", "--show", &sealed("good"), "--key", &key]);
    assert_eq!((stderr.as_str(), code), ("", Some(0)));
    assert!(stdout.contains("signature: good"), "{stdout}");
}

/// Skipping the verification needs a flag, and is shown on both outputs.
#[test]
fn skipped_verification_is_shown() {
    let root = root_with_keys();
    let secret = seal(&root, "default/secret/1", KID);
    let (stdout, stderr, code) = run(&["unseal", "--show", secret.trim_end(), "--no-verify"]);
    assert_eq!(code, Some(0));
    assert!(stdout.ends_with("signature: NOT VERIFIED\n"), "{stdout}");
    assert!(
        stderr.contains("warning: the signature is NOT VERIFIED"),
        "{stderr}"
    );
    let (_, stderr, code) = run(&["unseal", "--show", secret.trim_end()]);
    assert_eq!(code, Some(2), "{stderr}");
    // An older secret has only a placeholder as its header.
    let payload = secret.split('.').nth(2).unwrap();
    let placeholder = format!("sealed.fakejwsheader.{payload}.fakesignature");
    let (stdout, _, code) = run(&["unseal", "--show", &placeholder, "--no-verify"]);
    assert_eq!(code, Some(0));
    assert!(stdout.contains("signer: unknown: "), "{stdout}");
}

/// The exact commands of docs/interfaces.md, and the daemon with the files that they make.
#[test]
fn the_docs_commands_work() {
    let docs = include_str!("../../docs/interfaces.md");
    let (_, script) = docs
        .split_once("```sh\noffline-fs-kbc keygen --signing")
        .unwrap();
    let (script, _) = script.split_once("```").unwrap();
    let root = Root::new();
    fs::create_dir(root.path("bin")).unwrap();
    symlink(program(), root.path("bin/offline-fs-kbc")).unwrap();
    fs::write(root.path("db-password"), "hunter2").unwrap();
    let path = std::env::var("PATH").unwrap();
    let mut bash = Command::new("bash");
    bash.args(["-euc", &format!("offline-fs-kbc keygen --signing{script}")])
        .env("PATH", format!("{}:{path}", root.path("bin").display()))
        .current_dir(root.dir());
    let (stdout, stderr, code) = output(&mut bash);
    assert_eq!((stderr.as_str(), code), ("", Some(0)));
    assert!(
        stdout.ends_with("signature: good, by signer.pub.jwk\n"),
        "{stdout}"
    );
    fs::rename(
        root.path("aa-offline_fs_kbc-resources.json"),
        root.resources(),
    )
    .unwrap();
    let _daemon = root.start_hub();
    let secret = fs::read_to_string(root.path("sealed")).unwrap();
    assert_eq!(unseal(&root, &secret).unwrap(), b"hunter2");
}
