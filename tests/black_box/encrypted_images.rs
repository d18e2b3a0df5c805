// SPDX-License-Identifier: Apache-2.0

//! `keyprovider` as the command of a stock skopeo, and the daemon with the same keys file.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::unistd::geteuid;
use offline_fs_kbc::proto::keyprovider::{
    KeyProviderKeyWrapProtocolInput, KeyProviderKeyWrapProtocolOutput,
};
use serde_json::{Value, json};
use ttrpc::Code;

use crate::support::both::{Both, Mounted, program_layer, registry_with};
use crate::support::daemon::{Root, command, one, output, program, run};
use crate::support::registry::{MOTD, tar};
use crate::support::skopeo;
use crate::support::wire::call;

const ANNOTATION: &str = "org.opencontainers.image.enc.keys.provider.attestation-agent";

/// The content of the layers, which an encrypted image must not show.
const TEXTS: [&str; 2] = ["the first layer's text", "the second layer's text"];

pub fn keys_file(root: &Root) -> PathBuf {
    root.path("etc/aa-offline_fs_kbc-keys.json")
}

pub fn keygen(name: &str, keys: &Path) {
    let keys = keys.display().to_string();
    let (_, stderr, code) = run(&["keygen", name, "--keys", &keys]);
    assert_eq!((stderr.as_str(), code), ("", Some(0)));
}

/// The file that `OCICRYPT_KEYPROVIDER_CONFIG` names.
pub fn provider(root: &Root) -> PathBuf {
    let args = json!(["keyprovider", "--keys", keys_file(root)]);
    let config = json!({"key-providers": {"attestation-agent":
        {"cmd": {"path": program(), "args": args}}}});
    let path = root.path("ocicrypt.conf");
    fs::write(&path, config.to_string()).unwrap();
    path
}

/// Runs `keyprovider` with this request.
fn ask(keys: &Path, request: &str) -> (String, String, Option<i32>) {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in");
    fs::write(&input, request).unwrap();
    let mut command = command();
    command.arg("keyprovider").arg("--keys").arg(keys);
    output(command.stdin(File::open(input).unwrap()))
}

fn wrap(parameters: Value) -> String {
    json!({"op": "keywrap", "keywrapparams": {"ec": {"Parameters": parameters,
        "DecryptConfig": {"Parameters": {}}}, "optsdata": STANDARD.encode("a layer's key")},
        "keyunwrapparams": {"dc": null, "annotation": null}})
    .to_string()
}

fn unwrap(parameters: Value, annotation: &str) -> String {
    json!({"op": "keyunwrap", "keywrapparams": {"ec": null, "optsdata": null},
        "keyunwrapparams": {"dc": {"Parameters": parameters}, "annotation": annotation}})
    .to_string()
}

fn of(parameters: &str) -> Value {
    json!({"attestation-agent": [STANDARD.encode(parameters)]})
}

fn annotation(answer: &str) -> String {
    let answer: Value = serde_json::from_str(answer).unwrap();
    let annotation = &answer["keywrapresults"]["annotation"];
    annotation.as_str().unwrap().to_owned()
}

fn packet(annotation: &str) -> Value {
    serde_json::from_slice(&STANDARD.decode(annotation).unwrap()).unwrap()
}

/// The layer's key that the daemon unwraps from an annotation.
fn served(root: &Root, socket: &str, annotation: &str) -> Vec<u8> {
    let request = json!({"op": "keyunwrap", "keywrapparams": {},
        "keyunwrapparams": {"dc": {"Parameters": {}}, "annotation": annotation}});
    let request = KeyProviderKeyWrapProtocolInput {
        KeyProviderKeyWrapProtocolInput: request.to_string().into_bytes(),
        ..KeyProviderKeyWrapProtocolInput::default()
    };
    let answer: KeyProviderKeyWrapProtocolOutput = call(
        &root.socket_called(socket),
        "keyprovider.KeyProviderService",
        "UnWrapKey",
        &request,
    )
    .unwrap();
    let answer: Value = serde_json::from_slice(&answer.KeyProviderKeyWrapProtocolOutput).unwrap();
    serde_json::from_value(answer["keyunwrapresults"]["optsdata"].clone()).unwrap()
}

/// Makes skopeo encrypt the image `plain` as `encrypted`, with these parameters after the provider's name.
fn encrypt(root: &Root, parameters: &str) -> (String, Option<i32>) {
    let key = format!("provider:attestation-agent{parameters}");
    copy(
        root,
        ["--encryption-key", &key, "oci:plain:1", "oci:encrypted:1"],
    )
}

/// Makes skopeo decrypt `encrypted` as `decrypted`.
fn decrypt(root: &Root) -> (String, Option<i32>) {
    let key = "provider:attestation-agent";
    copy(
        root,
        [
            "--decryption-key",
            key,
            "oci:encrypted:1",
            "oci:decrypted:1",
        ],
    )
}

fn copy(root: &Root, args: [&str; 4]) -> (String, Option<i32>) {
    let args = [&["copy"], &args[..]].concat();
    let (_, stderr, code) = skopeo::run(root.dir(), Some(&provider(root)), &args);
    (stderr, code)
}

/// A stock skopeo encrypts an image with the command and decrypts it again; the daemon, started with the same
/// keys file, gives each layer's key to clients of both generations.
#[test]
fn stock_skopeo_encrypts_and_the_daemon_unwraps() {
    let root = Root::new();
    keygen("kbs:///default/key/k1", &keys_file(&root));
    skopeo::write_image(&root.path("plain"), &TEXTS);
    let _daemon = root.start_hub();
    for (parameters, wrap_type) in [
        ("keyid=kbs:///default/key/k1::algorithm=A256GCM", "A256GCM"),
        ("keyid=default/key/k1", "A256GCM"),
        ("keyid=kbs:///default/key/k1::algorithm=A256CTR", "A256CTR"),
    ] {
        for dir in ["encrypted", "decrypted"] {
            let _ = fs::remove_dir_all(root.path(dir));
        }
        let (stderr, code) = encrypt(&root, &format!(":{parameters}"));
        assert_eq!(code, Some(0), "{stderr}");

        let plain = skopeo::layers(&root.path("plain"));
        let encrypted = skopeo::layers(&root.path("encrypted"));
        assert_eq!(encrypted.len(), TEXTS.len());
        for ((layer, content), (_, plain)) in encrypted.iter().zip(&plain) {
            let kind = layer["mediaType"].as_str().unwrap();
            assert!(kind.ends_with("+encrypted"), "{kind}");
            assert_ne!(content, plain);
            let annotation = layer["annotations"][ANNOTATION].as_str().unwrap();
            let packet = packet(annotation);
            assert_eq!(packet["kid"], "kbs:///default/key/k1");
            assert_eq!(packet["wrap_type"], wrap_type);
            let keys = [
                served(&root, "keyprovider.sock", annotation),
                served(&root, "cdh.sock", annotation),
            ];
            assert_eq!(keys[0], keys[1]);
            // What ocicrypt keeps for a layer: its key, and the digest of the plain text.
            let kept: Value = serde_json::from_slice(&keys[0]).unwrap();
            assert!(kept["symkey"].is_string());
            let (answer, stderr, code) = ask(&keys_file(&root), &unwrap(json!({}), annotation));
            assert_eq!((stderr.as_str(), code), ("", Some(0)));
            let answer: Value = serde_json::from_str(&answer).unwrap();
            let by_command = answer["keyunwrapresults"]["optsdata"].as_str().unwrap();
            assert_eq!(STANDARD.decode(by_command).unwrap(), keys[0]);
        }

        let (stderr, code) = decrypt(&root);
        assert_eq!(code, Some(0), "{stderr}");
        let decrypted = skopeo::layers(&root.path("decrypted"));
        for ((layer, content), (original, plain)) in decrypted.iter().zip(&plain) {
            assert_eq!(layer["digest"], original["digest"]);
            assert_eq!(content, plain);
        }
    }
}

/// From skopeo to a running program: a stock skopeo encrypts an image on its way into a private registry, and guest-pull,
/// which the daemon starts, decrypts it with the layer keys that the daemon unwraps, however the layers are compressed and
/// for whom else they are encrypted. Without the key, and with another of that name, the pod's event says so, and nothing is
/// mounted or stored.
#[test]
fn an_image_that_skopeo_encrypted_is_pulled_and_runs() {
    if !geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "this test needs root");
        return;
    }
    let layers = vec![tar("etc/motd", MOTD.as_bytes()), program_layer("/bin/cat")];
    let (registry, plain) = registry_with(layers);
    for (format, for_another) in [("gzip", false), ("zstd", true)] {
        let root = Root::new();
        keygen("kbs:///default/key/k1", &keys_file(&root));
        let login = root.path("auth.json");
        fs::write(&login, registry.auth_json()).unwrap();
        let image = plain.replace(":1", &format!(":{format}"));
        let another = root.path("another.pem");
        let key = rcgen::KeyPair::generate().unwrap();
        fs::write(&another, key.public_key_pem()).unwrap();
        let (login, another) = (login.display().to_string(), another.display().to_string());
        let certificates = registry.cert_dir().display().to_string();
        let (from, to) = (format!("docker://{plain}"), format!("docker://{image}"));
        let jwe = format!("jwe:{another}");
        let mut args = vec![
            "copy",
            "--authfile",
            &login,
            "--src-cert-dir",
            &certificates,
        ];
        args.extend(["--dest-cert-dir", &certificates]);
        args.extend(["--dest-compress-format", format]);
        if for_another {
            args.extend(["--encryption-key", &jwe]);
        }
        let ours = "provider:attestation-agent:keyid=kbs:///default/key/k1";
        args.extend(["--encryption-key", ours, &from, &to]);
        let (_, stderr, code) = skopeo::run(root.dir(), Some(&provider(&root)), &args);
        assert_eq!(code, Some(0), "{stderr}");
        let args = [
            "inspect",
            "--raw",
            "--authfile",
            &login,
            "--cert-dir",
            &certificates,
            &to,
        ];
        let (manifest, ..) = skopeo::run(root.dir(), None, &args);
        let kind = format!("tar+{format}+encrypted");
        assert_eq!(manifest.matches(&kind).count(), 2, "{manifest}");
        assert_eq!(manifest.contains("enc.keys.jwe"), for_another, "{manifest}");

        // As published set-ups have it, the key is among the resources.
        let keys: Value = serde_json::from_slice(&fs::read(keys_file(&root)).unwrap()).unwrap();
        let right = keys["default/key/k1"].as_str().unwrap();
        let resources = |key: Option<&str>| {
            let credential = STANDARD.encode(registry.auth_json());
            let mut resources = json!({"Credential": credential});
            if let Some(key) = key {
                resources["default/key/k1"] = key.into();
            }
            resources.to_string()
        };
        root.write_resources(&resources(None));
        let both = Both::start(&root, &registry);
        let wrong = STANDARD.encode([7; 32]);
        for (number, key, part) in [
            (1, None, "NOT_FOUND: no key default/key/k1"),
            (2, Some(&*wrong), "cannot be decrypted with its key"),
        ] {
            root.rename_resources(&resources(key));
            let (bundle, answer) = both.pull(&image, &format!("bundle-{number}"));
            let (code, text) = answer.unwrap_err();
            assert_eq!(code, Code::FAILED_PRECONDITION, "{text}");
            for part in [
                part,
                "key provider attestation-agent",
                // Which of them is asked for first is no matter.
                "of 2 (sha256:",
                &image,
            ] {
                assert!(text.contains(part), "{text}");
            }
            assert!(!bundle.join("rootfs/etc").exists());
            let stored = fs::read_dir(both.store.join("layers")).unwrap();
            assert_eq!(stored.count(), 0);
        }
        root.rename_resources(&resources(Some(right)));
        let (bundle, answer) = both.pull(&image, "bundle-3");
        answer.unwrap();
        let rootfs = bundle.join("rootfs");
        let mounted = Mounted(rootfs.clone());
        let mut cat = Command::new("chroot");
        cat.arg(&rootfs).args(["/bin/cat", "/etc/motd"]);
        assert_eq!(output(&mut cat), (MOTD.to_owned(), String::new(), Some(0)));
        drop(mounted);
        let log = both.daemon.log();
        assert!(!log.contains(right) && !log.contains("symkey"), "{log}");
    }
}

/// Errors reach the user through skopeo's own error message.
#[test]
fn skopeo_shows_what_is_wrong() {
    let root = Root::new();
    keygen("kbs:///default/key/k1", &keys_file(&root));
    skopeo::write_image(&root.path("plain"), &TEXTS);
    for (parameters, part) in [
        (
            "",
            "no key is given; write provider:attestation-agent:keyid=",
        ),
        (":keyid=kbs:///default/key/k2", "has no key default/key/k2"),
        (
            ":keyid=kbs:///default/key/k1::algorithm=x",
            "algorithm \\\"x\\\" is unknown",
        ),
    ] {
        let (stderr, code) = encrypt(&root, parameters);
        assert_eq!(code, Some(1), "{stderr}");
        assert!(stderr.contains(part), "{parameters}: {stderr}");
    }

    let (stderr, code) = encrypt(&root, ":keyid=kbs:///default/key/k1");
    assert_eq!(code, Some(0), "{stderr}");
    // Another key under the same id.
    fs::remove_file(keys_file(&root)).unwrap();
    keygen("kbs:///default/key/k1", &keys_file(&root));
    let (stderr, code) = decrypt(&root);
    assert_eq!(code, Some(1), "{stderr}");
    assert!(
        stderr.contains("cannot be decrypted with its key"),
        "{stderr}"
    );
}

/// Packets have the members that each generation of clients needs, and always a fresh iv.
#[test]
fn packets_have_the_members_of_old_and_new_ones() {
    let root = Root::new();
    let keys = keys_file(&root);
    keygen("kbs:///default/key/k1", &keys);
    keygen("old_id", &keys);
    for (id, kid) in [
        ("kbs:///default/key/k1", "kbs:///default/key/k1"),
        ("kbs://host/default/key/k1", "kbs:///default/key/k1"),
        ("/default/key/k1", "kbs:///default/key/k1"),
        ("old_id", "old_id"),
    ] {
        let request = wrap(of(&format!("keyid={id}")));
        let packets = [(); 2].map(|()| {
            let (answer, stderr, code) = ask(&keys, &request);
            assert_eq!((stderr.as_str(), code), ("", Some(0)));
            packet(&annotation(&answer))
        });
        assert_ne!(packets[0]["iv"], packets[1]["iv"]);
        let mut packet = packets[0].clone();
        for (member, bytes) in [("iv", 12), ("wrapped_data", "a layer's key".len() + 16)] {
            let value = packet[member].as_str().unwrap();
            assert_eq!(STANDARD.decode(value).unwrap().len(), bytes, "{member}");
            packet.as_object_mut().unwrap().remove(member);
        }
        let rest = json!({"version": "0.1.0", "kid": kid, "wrap_type": "A256GCM", "provider": "kbs",
            "provider_settings": {}, "annotations": {}});
        assert_eq!(packet, rest);
    }
}

/// A key in a file gets its id from the file's name or from `keyid`.
#[test]
fn a_key_may_be_a_file() {
    let root = Root::new();
    let keys = root.path("none.json");
    let path = root.path("k1");
    fs::write(&path, [7; 32]).unwrap();
    for (more, kid, warns) in [
        ("", "kbs:///default/key/k1", true),
        ("::keyid=a/b/c", "kbs:///a/b/c", false),
    ] {
        let parameters = of(&format!("keypath={}{more}", path.display()));
        let (answer, stderr, code) = ask(&keys, &wrap(parameters.clone()));
        assert_eq!(code, Some(0), "{stderr}");
        assert_eq!(
            stderr.contains("keyid=ID chooses another"),
            warns,
            "{stderr}"
        );
        let annotation = annotation(&answer);
        assert_eq!(packet(&annotation)["kid"], kid);
        let (answer, stderr, code) = ask(&keys, &unwrap(parameters, &annotation));
        assert_eq!((stderr.as_str(), code), ("", Some(0)));
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let expected = json!({"keyunwrapresults": {"optsdata": STANDARD.encode("a layer's key")}});
        assert_eq!(answer, expected);
        // The daemon finds it under that id.
        root.write_keys(&one(kid, [7; 32]));
        let _daemon = root.start();
        assert_eq!(
            served(&root, "keyprovider.sock", &annotation),
            b"a layer's key"
        );
    }
}

/// Requests that can't be answered: exit status 1, nothing on standard output, and never a key.
#[test]
fn requests_that_cannot_be_answered_are_refused() {
    let root = Root::new();
    let keys = keys_file(&root);
    root.write_keys(
        &json!({"default/key/1": STANDARD.encode([7; 32]), "short": "c2hvcnQ="}).to_string(),
    );
    fs::write(root.path("base64"), STANDARD.encode([7; 32])).unwrap();
    let path = |name: &str| format!("keypath={}", root.path(name).display());
    let good = annotation(&ask(&keys, &wrap(of("keyid=default/key/1"))).0);
    let of_nobody = STANDARD.encode(
        json!({"kid": "kbs:///a/b/c", "wrapped_data": "", "iv": "",
        "wrap_type": "A256GCM"})
        .to_string(),
    );
    for (request, part) in [
        (String::new(), "not ocicrypt's key-provider protocol: empty"),
        ("hunter2".to_owned(), "not ocicrypt's key-provider protocol"),
        ("{}".to_owned(), "no string \"op\""),
        (r#"{"op":"sing"}"#.to_owned(), "op \"sing\" is neither"),
        (
            r#"{"op":"keywrap"}"#.to_owned(),
            "no object \"keywrapparams\"",
        ),
        (
            r#"{"op":"keywrap","keywrapparams":null}"#.to_owned(),
            "no object \"keywrapparams\"",
        ),
        (
            wrap(json!({})),
            "no parameters of the provider attestation-agent",
        ),
        (
            wrap(json!({"other": ["eA=="]})),
            "no parameters of the provider attestation-agent",
        ),
        (wrap(of("Enabled")), "no key is given"),
        (wrap(of("algorithm=A256GCM")), "no key is given"),
        (
            wrap(of("keyid=default/key/1::sample=true")),
            "\"sample\" is unknown",
        ),
        (
            wrap(of("keyid=default/key/1::algorithm=AES")),
            "\"AES\" is unknown",
        ),
        (
            wrap(of("keyid=default/key/2")),
            "has no key default/key/2; `offline-fs-kbc keygen",
        ),
        (
            wrap(of("keyid=short")),
            "the key \"short\" decodes to 5 bytes; a key has 32",
        ),
        (
            wrap(of(&path("missing"))),
            "missing\n  because: No such file",
        ),
        (
            wrap(of(&path("base64"))),
            "has 44 bytes; a key file has 32, raw and not base64",
        ),
        (
            wrap(json!({"attestation-agent": ["eA==", "eA=="]})),
            "2 sets were given",
        ),
        (unwrap(json!({}), "!"), "\"annotation\" is not base64"),
        (unwrap(json!({}), "e30="), "annotation packet is malformed"),
        (unwrap(json!({}), &of_nobody), "has no key a/b/c"),
        (unwrap(of("hello=1"), &good), "\"hello\" is unknown"),
        (" ".repeat((1 << 20) + 1), "over 1048576 bytes"),
    ] {
        let (stdout, stderr, code) = ask(&keys, &request);
        assert_eq!(
            (stdout.as_str(), code),
            ("", Some(1)),
            "{request:.200}: {stderr}"
        );
        assert!(stderr.contains(part), "{request:.200}: {stderr}");
        for secret in ["hunter2", "a layer's key", &STANDARD.encode([7; 32])] {
            assert!(!stderr.contains(secret), "{stderr}");
        }
    }
    let (stdout, stderr, code) = ask(&root.path("none.json"), &wrap(of("keyid=default/key/1")));
    assert_eq!((stdout.as_str(), code), ("", Some(1)));
    assert!(stderr.contains("can't read the keys file"), "{stderr}");
    // What a client of 2023 sends next to the packet names no key.
    let (_, stderr, code) = ask(&keys, &unwrap(of("offline_fs_kbc::null"), &good));
    assert_eq!(code, Some(0), "{stderr}");
}
