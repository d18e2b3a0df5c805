// SPDX-License-Identifier: Apache-2.0

//! `pack --format cloud-config`: the user data that cloud-api-adaptor would give a VM.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::support::daemon::{Root, run};

fn write_auth(root: &Root, text: &str) -> String {
    let path = root.path("auth.json");
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

/// An auth.json of exactly this size.
fn auth_of(bytes: usize) -> String {
    let text = r#"{"auths":{"quay.io":{"auth":"dXNlcjpwYXNz"}}}"#;
    format!("{text}{}", " ".repeat(bytes - text.len()))
}

const CLOUD_CONFIG: [&str; 3] = ["pack", "--format", "cloud-config"];

fn pack(more: &[&str]) -> (String, String, Option<i32>) {
    run(&[&CLOUD_CONFIG, more].concat())
}

/// The output equals that of cloud-api-adaptor's template, byte for byte: with both forms of the name, alone,
/// and after cloud-api-adaptor's own daemon file.
#[test]
fn the_user_data_is_cloud_api_adaptors() {
    let root = Root::new();
    let text = auth_of(60);
    let auth = write_auth(&root, &text);
    let encoded = STANDARD.encode(&text);
    for (names, name) in [("path", "default/credential/test"), ("old", "Credential")] {
        let resources = format!(
            "  - path: /etc/aa-offline_fs_kbc-resources.json\n    content: |\n      \
             {{\"{name}\":\"{encoded}\"}}\n"
        );
        let (stdout, stderr, code) = pack(&["--credential", &auth, "--names", names]);
        assert_eq!((stderr.as_str(), code), ("", Some(0)));
        assert_eq!(
            stdout,
            format!("#cloud-config\n\nwrite_files:\n{resources}")
        );

        fs::write(
            root.path("daemon.json"),
            "{\n    \"pod-network\": {}\n}\n\n",
        )
        .unwrap();
        let daemon = root.path("daemon.json").display().to_string();
        let args = [
            "--credential",
            &auth,
            "--names",
            names,
            "--daemon-json",
            &daemon,
        ];
        let (stdout, stderr, code) = pack(&args);
        assert_eq!((stderr.as_str(), code), ("", Some(0)));
        let before = "  - path: /peerpod/daemon.json\n    content: |\n      {\n          \
            \"pod-network\": {}\n      }\n";
        assert_eq!(
            stdout,
            format!("#cloud-config\n\nwrite_files:\n{before}{resources}")
        );
    }
}

/// The YAML block is the file that the daemon loads, however many lines a value has.
#[test]
fn the_block_is_the_file() {
    let root = Root::new();
    let auth = write_auth(&root, &auth_of(60));
    fs::write(
        root.path("list.json"),
        "{\"a/b/list\": [1,\n  \"#x: \"], \"b/b/b\": \"eA==\"}",
    )
    .unwrap();
    let list = root.path("list.json").display().to_string();
    let (stdout, _, code) = pack(&["--credential", &auth, "--merge", &list]);
    assert_eq!(code, Some(0));
    // The block as YAML defines it: its lines without the indentation of the first.
    let (_, block) = stdout.split_once("content: |\n").unwrap();
    let mut content = String::new();
    for line in block.lines() {
        content.push_str(line.strip_prefix("      ").unwrap());
        content.push('\n');
    }
    let encoded = STANDARD.encode(auth_of(60));
    let expected = format!(
        "{{\"a/b/list\":[1,\n  \"#x: \"],\"b/b/b\":\"eA==\",\"default/credential/test\":\"{encoded}\"}}\n"
    );
    assert_eq!(content, expected);
}

/// User data has secrets, so its file is as private as a resources file.
#[test]
fn user_data_in_a_file_is_private() {
    let root = Root::new();
    let auth = write_auth(&root, &auth_of(60));
    let path = root.path("user-data");
    fs::write(&path, "old").unwrap();
    let shown = path.display().to_string();
    let (stdout, stderr, code) = pack(&["--credential", &auth, "-o", &shown]);
    assert_eq!((stdout.as_str(), stderr.as_str(), code), ("", "", Some(0)));
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    assert!(
        fs::read_to_string(&path)
            .unwrap()
            .starts_with("#cloud-config\n")
    );
}

/// A credential of the size that cloud-api-adaptor drops is an error, wherever it comes from.
#[test]
fn a_credential_that_would_be_dropped_is_refused() {
    let root = Root::new();
    let auth = write_auth(&root, &auth_of(12_287));
    let (_, stderr, code) = pack(&["--credential", &auth]);
    assert_eq!(code, Some(0), "{stderr}");
    let auth = write_auth(&root, &auth_of(12_288));
    let path = root.path("old.json").display().to_string();
    for names in ["path", "old"] {
        let out = ["pack", "--credential", &auth, "--names", names, "-o", &path];
        // As a resources file it is good: the limit is one of user data.
        assert_eq!(run(&out).2, Some(0));
        for args in [
            &["--credential", &auth, "--names", names][..],
            &["--merge", &path],
        ] {
            let (stdout, stderr, code) = pack(args);
            assert_eq!((stdout.as_str(), code), ("", Some(1)));
            let said = "the credential has 12288 bytes; cloud-api-adaptor up to v0.7.0 leaves out one of 12288 or more";
            assert!(stderr.contains(said), "{stderr}");
        }
    }
}

/// Each platform with a lower limit is named, and the user data is written nevertheless.
#[test]
fn platforms_that_take_less_are_named() {
    let root = Root::new();
    let all = [
        "AWS EC2",
        "Alibaba Cloud ECS",
        "OpenStack",
        "Azure (custom data)",
        "IBM Cloud VPC",
        "Google Cloud",
    ];
    for (bytes, named) in [
        (10_000, 0),
        (12_300, 2),
        (40_000, 3),
        (50_000, 5),
        (200_000, 6),
    ] {
        fs::write(root.path("f"), "x".repeat(bytes)).unwrap();
        let resource = format!("--resource=a/b/c={}", root.path("f").display());
        let (stdout, stderr, code) = pack(&[&resource]);
        assert_eq!(code, Some(0), "{stderr}");
        for (index, platform) in all.iter().enumerate() {
            let said = stderr.contains(&format!("warning: {platform} takes no more than "));
            assert_eq!(
                said,
                index < named,
                "{platform} at {}: {stderr}",
                stdout.len()
            );
        }
    }
}

/// Input that would not come back unchanged, or has no meaning, is refused.
#[test]
fn impossible_user_data_is_refused() {
    let root = Root::new();
    let auth = write_auth(&root, &auth_of(60));
    let daemon = root.path("daemon.json").display().to_string();
    let args = ["--credential", &auth, "--daemon-json", &daemon];
    for (text, part) in [
        ("", "daemon.json\n  because: empty"),
        ("[]", "an array instead of an object"),
        (
            "{\n\r\n}",
            "line 2 has a character that a block of YAML can't hold",
        ),
    ] {
        fs::write(root.path("daemon.json"), text).unwrap();
        let (stdout, stderr, code) = pack(&args);
        assert_eq!((stdout.as_str(), code), ("", Some(1)));
        assert!(stderr.contains(part), "{stderr}");
    }
    let (_, stderr, code) = run(&["pack", "--credential", &auth, "--daemon-json", &daemon]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("add --format cloud-config"), "{stderr}");
    fs::write(root.path("odd.json"), "{\"a/b/\u{2028}\": \"eA==\"}").unwrap();
    let odd = root.path("odd.json").display().to_string();
    let (stdout, stderr, code) = pack(&["--merge", &odd]);
    assert_eq!((stdout.as_str(), code), ("", Some(1)));
    assert!(stderr.contains("can't be written as user data"), "{stderr}");
}
