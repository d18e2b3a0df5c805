// SPDX-License-Identifier: Apache-2.0

//! `check` and the daemon never differ: what `check` says is served is what a client gets, and `check` reports an error
//! just where something of the file is refused or ignored.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::Value;
use ttrpc::Code;

use crate::support::daemon::{Root, command, output};
use crate::support::wire::{g2, get};

/// How many files are tried. Each takes two processes and a handful of requests.
const CASES: u32 = 500;

const CREDENTIAL: &str = "default/credential/test";

/// What clients could ask for in any of the generated files.
const NAMES: [&str; 4] = [CREDENTIAL, "default/key/1", "a/b/c", "a/b/d"];

const REGISTRIES: [&str; 4] = ["a.example", "b.example", "b.example/org", "c.example:5000"];

fn one_of(texts: &[&str]) -> BoxedStrategy<String> {
    let texts: Vec<String> = texts.iter().map(|text| text.to_string()).collect();
    proptest::sample::select(texts).boxed()
}

/// What an `auth.json` has for a registry: good, to be repaired, or of no use.
fn login() -> BoxedStrategy<String> {
    one_of(&[
        r#"{"auth":"dTpw"}"#,
        r#"{"auth":"dTpw","email":"x@y"}"#,
        r#"{"username":"u","password":"p"}"#,
        r#"{"auth":"dXNlcjpwYXM"}"#,
        r#"{"auth":"dXNl\ncjpw"}"#,
        r#"{"auth":"ZFhObGNqcHc="}"#,
        r#"{}"#,
        r#"{"auth":1}"#,
        r#"{"identitytoken":"t","auth":""}"#,
        r#"[]"#,
        r#""dTpw""#,
    ])
}

/// The registries of a credential, and around them `auths` or, in the older form, nothing.
fn auth_json() -> BoxedStrategy<String> {
    let registries = proptest::sample::subsequence(REGISTRIES.to_vec(), 0..=REGISTRIES.len());
    let logins = proptest::collection::vec(login(), REGISTRIES.len());
    (registries, logins, 0..5u8)
        .prop_map(|(registries, logins, form)| {
            let entries = registries.iter().zip(logins);
            let entries: Vec<_> = entries.map(|(r, l)| format!("\"{r}\":{l}")).collect();
            let entries = entries.join(",");
            match form {
                0 => format!("{{{entries}}}"),
                1 => STANDARD.encode(format!("{{\"auths\":{{{entries}}}}}")),
                2 => format!("{{\"auths\":{{}},\"auths\":{{{entries}}}}}"),
                _ => format!("{{\"auths\":{{{entries}}}}}"),
            }
        })
        .boxed()
}

/// A value of a resources file, as JSON has it: mostly the base64 of `inner`.
fn value(inner: BoxedStrategy<String>) -> BoxedStrategy<String> {
    let broken = one_of(&[
        "\"\"",
        "\"!\"",
        "\"aGVs\\nbG8\"",
        "\"{\"",
        "\"aGVsb\"",
        "1",
        "null",
        "{}",
        "[\"x\"]",
    ]);
    let encoded = inner.prop_map(|text| format!("\"{}\"", STANDARD.encode(text)));
    prop_oneof![3 => encoded, 1 => broken].boxed()
}

fn resources() -> BoxedStrategy<String> {
    let credential = one_of(&["Credential", CREDENTIAL, "kbs:///default/credential/test"]);
    let other = one_of(&["a/b/c", "/a/b/c", "a/b/d", "x", "kbs+p:///a/b/c"]);
    let entry = prop_oneof![
        (credential, value(auth_json())),
        (other, value("[ -~]{0,40}".boxed())),
    ];
    proptest::collection::vec(entry, 0..5)
        .prop_map(|entries| {
            let entries: Vec<_> = entries
                .iter()
                .map(|(n, v)| format!("\"{n}\":{v}"))
                .collect();
            format!("{{{}}}", entries.join(",\n"))
        })
        .boxed()
}

/// What people put there, though it is something else.
fn other() -> BoxedStrategy<String> {
    one_of(&[
        "",
        "\n",
        "[]",
        "hunter",
        "#cloud-config\nwrite_files: []\n",
        "#!/bin/sh\n",
        "apiVersion: v1\nkind: Secret\n",
        r#"{"apiVersion":"v1","kind":"Secret","data":{".dockerconfigjson":"e30="}}"#,
        r#"{"default":[{"type":"reject"}]}"#,
        r#"{"ignition":{"version":"3.4.0"}}"#,
        "[[registry]]\nlocation = \"x\"\n",
        "[kbc]\nname = \"offline_fs_kbc\"\n",
        "-----BEGIN PUBLIC KEY-----\n",
        "H4sIAAAAAAAAAwMAAAAAAAAAAAA=",
        "\u{feff}{\"auths\":{}}",
    ])
}

/// A file's text: most are whole, some are cut off.
fn text() -> BoxedStrategy<String> {
    let whole = prop_oneof![4 => resources(), 4 => auth_json(), 1 => other()];
    (whole, 0..12usize)
        .prop_map(|(text, cut)| match cut {
            0 => text.chars().take(text.len() / 2).collect(),
            _ => text,
        })
        .boxed()
}

/// Where the file is.
#[derive(Clone, Copy, Debug)]
enum At {
    Resources,
    AuthFile,
}

/// What `check` says of the file: what is served, by name, and the errors.
struct Said {
    served: BTreeMap<String, u64>,
    errors: Vec<Value>,
    text: String,
}

fn check(path: &Path) -> Said {
    let (stdout, stderr, _) = output(command().args(["check", "--format", "json"]).arg(path));
    let report: Value =
        serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stdout}{stderr}"));
    let served = report["served"].as_array().unwrap().iter();
    let served = served.map(|entry| {
        (
            entry["name"].as_str().unwrap().to_owned(),
            entry["bytes"].as_u64().unwrap(),
        )
    });
    let errors = report["findings"].as_array().unwrap().iter();
    let errors = errors.filter(|finding| finding["severity"] == "error");
    Said {
        served: served.collect(),
        errors: errors.cloned().collect(),
        text: stdout.clone(),
    }
}

/// The registries of a credential that a client got.
fn registries(credential: &[u8]) -> BTreeSet<String> {
    let parsed: Value = serde_json::from_slice(credential).unwrap();
    parsed["auths"]
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect()
}

fn compare(root: &Root, path: &Path, text: &str, at: At) {
    // What was good before is not what this is about.
    let _ = fs::remove_file(path);
    let gone = get(&root.socket(), &g2(CREDENTIAL)).unwrap_err();
    assert_eq!(gone.0, Code::NOT_FOUND);
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).unwrap();
    let said = check(path);
    let context = || format!("{at:?} {text:?}: {}", said.text);
    let mut refused = BTreeSet::new();
    for name in NAMES {
        match get(&root.socket(), &g2(name)) {
            Ok(bytes) => {
                let length = bytes.len() as u64;
                assert_eq!(said.served.get(name), Some(&length), "{name} {}", context());
                if name == CREDENTIAL {
                    let left_out = left_out(&said);
                    let got = registries(&bytes);
                    let both: Vec<_> = left_out.intersection(&got).collect();
                    assert!(both.is_empty(), "{both:?} {}", context());
                    // Of several credentials one counts, and this is not about which.
                    if text.matches("redential").count() <= 1 {
                        let all = format!("{text}{}", decoded(text));
                        let named = REGISTRIES
                            .iter()
                            .filter(|key| all.contains(&format!("\"{key}\":")));
                        let named: BTreeSet<_> = named.map(|key| key.to_string()).collect();
                        let told: BTreeSet<_> = got.union(&left_out).cloned().collect();
                        assert_eq!(named, told, "{}", context());
                    }
                }
            }
            Err((code, _)) => {
                assert!(!said.served.contains_key(name), "{name} {}", context());
                if code != Code::NOT_FOUND {
                    refused.insert(name);
                }
            }
        }
    }
    for name in &refused {
        let is_about = |error: &&Value| {
            error["entry"]
                .as_str()
                .is_none_or(|entry| is_name(entry, name) || is_of_whole_file(error))
        };
        let found = said.errors.iter().any(|error| is_about(&error));
        assert!(found, "{name} is refused without an error {}", context());
    }
    // The other way round: each error has something that is not to be had.
    let left_out = left_out(&said);
    for error in &said.errors {
        let is_lost = match error["entry"].as_str() {
            None => said.served.is_empty(),
            Some(_) if is_of_whole_file(error) => said.served.is_empty(),
            Some(entry) if is_name(entry, CREDENTIAL) && !left_out.is_empty() => true,
            Some(entry) => {
                let name = NAMES.iter().find(|name| is_name(entry, name));
                // Another entry may have the name, and count.
                name.is_none_or(|name| {
                    refused.contains(name)
                        || text.matches(*name).count() > 1
                        || text.contains("\"Credential\"")
                })
            }
        };
        assert!(
            is_lost,
            "an error, and nothing is refused: {error} {}",
            context()
        );
    }
}

/// Whether a finding costs the whole file, wherever in it it is.
fn is_of_whole_file(error: &Value) -> bool {
    let message = error["message"].as_str().unwrap();
    message.contains("nothing of it is served")
}

/// Whether a finding's entry is one of this name, however it is written, or a part of the credential.
fn is_name(entry: &str, name: &str) -> bool {
    let path = entry.trim_start_matches("kbs://").trim_start_matches('/');
    let is_credential = entry == "Credential" || REGISTRIES.contains(&entry);
    path == name || is_credential && name == CREDENTIAL
}

/// The registries that the errors name as left out.
fn left_out(said: &Said) -> BTreeSet<String> {
    let errors = said.errors.iter().filter_map(|error| {
        let message = error["message"].as_str()?;
        let entry = error["entry"].as_str()?;
        match message.split_once("registry \"") {
            Some((_, rest)) => Some(rest.split('"').next()?.to_owned()),
            None => REGISTRIES.contains(&entry).then(|| entry.to_owned()),
        }
    });
    errors.collect()
}

/// Everything in the text that is base64, decoded, and that once more.
fn decoded(text: &str) -> String {
    let mut all = String::new();
    let is_base64 = |c: char| c.is_ascii_alphanumeric() || "+/=".contains(c);
    for part in text.split(|c| !is_base64(c)) {
        let bytes = STANDARD.decode(part).unwrap_or_default();
        let inner = String::from_utf8(bytes).unwrap_or_default();
        if inner.len() > 8 {
            all.push_str(&inner);
            all.push_str(&decoded(&inner));
        }
    }
    all
}

/// For any file at either place.
#[test]
fn check_says_what_a_client_gets() {
    let root = Root::new();
    let _daemon = root.start_as_installed();
    fs::create_dir_all(root.path("run/peerpod")).unwrap();
    let auth_file: PathBuf = root.path("run/peerpod/auth.json");
    // The same files at each run: a failure can be repeated.
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, rng);
    let at = prop_oneof![2 => Just(At::Resources), 1 => Just(At::AuthFile)];
    let result = runner.run(&(text(), at), |(text, at)| {
        let path = match at {
            At::Resources => root.resources(),
            At::AuthFile => auth_file.clone(),
        };
        let compared = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            compare(&root, &path, &text, at);
        }));
        let _ = fs::remove_file(&path);
        compared.map_err(|panic| {
            let why = panic.downcast_ref::<String>().cloned();
            TestCaseError::fail(why.unwrap_or_default())
        })
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}

/// What a client can't be sent is an error, in a file that is the credential as a whole too.
#[test]
fn a_credential_that_cannot_be_sent_is_an_error() {
    let root = Root::new();
    let _daemon = root.start_as_installed();
    fs::create_dir_all(root.path("run/peerpod")).unwrap();
    let text = format!(
        r#"{{"auths":{{"a.example":{{"auth":"dTpw"}}}},"x":"{}"}}"#,
        "a".repeat(5 << 20)
    );
    for path in [root.resources(), root.path("run/peerpod/auth.json")] {
        fs::write(&path, &text).unwrap();
        let codes = check(&path).errors;
        let is_told = codes.iter().any(|error| error["code"] == "too-large");
        assert!(is_told, "{codes:?}");
        let (code, _) = get(&root.socket(), &g2(CREDENTIAL)).unwrap_err();
        assert_eq!(code, Code::RESOURCE_EXHAUSTED);
        fs::remove_file(&path).unwrap();
    }
}

/// With repair off, a .dockercfg is handed out as it is, and clients reject it.
#[test]
fn what_is_not_repaired_is_an_error() {
    let root = Root::with(r#"{"a.example":{"auth":"dTpw"}}"#);
    let mut off = command();
    off.args(["check", "--repair-credential", "off"]);
    let (stdout, _, code) = output(off.arg(root.resources()));
    assert_eq!(code, Some(1), "{stdout}");
    assert!(stdout.contains("[dockercfg]"), "{stdout}");
    let (stdout, _, code) = output(command().arg("check").arg(root.resources()));
    assert_eq!(code, Some(0), "{stdout}");
}

/// A file that no client could use takes away neither what was good nor what another file has.
#[test]
fn an_unusable_credential_takes_nothing_away() {
    let good = r#"{"auths":{"a.example":{"auth":"dTpw"}}}"#;
    for bad in [
        r#"{"credsStore":"desktop"}"#,
        "\u{feff}{\"auths\":{\"q.io\":{\"auth\":\"dTpw\"}}}",
        r#"{"auths":{"q.io":{}}}"#,
    ] {
        let root = Root::with(&crate::support::daemon::one("Credential", good));
        let extra = root.path("etc/extra.json");
        fs::write(&extra, bad).unwrap();
        let mut serve = root.serve_as_installed();
        serve.arg("--extra-file").arg(&extra);
        let _daemon = crate::support::daemon::Daemon::start(serve, &root.socket());
        let served = || get(&root.socket(), &g2(CREDENTIAL)).unwrap();
        assert_eq!(served(), good.as_bytes(), "{bad}");
        root.write_resources(bad);
        assert_eq!(served(), good.as_bytes(), "{bad}");
    }
}
