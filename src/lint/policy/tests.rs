// SPDX-License-Identifier: Apache-2.0

//! Policies that people have, and what each of their faults gives.

#![allow(clippy::unwrap_used)]

use proptest::prelude::*;

use super::*;

const COSIGN_PUB: &[u8] = b"-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n";
const KEYRING: &[u8] = &[0x99, 1, 0x0d];

/// The resources of a VM that has both usual keys, the sigstore configuration, and some keys under other names.
fn vm(name: &Name) -> Option<&'static [u8]> {
    match name.as_str() {
        "default/gpg-public-config/test" | "a/gpg/key" => Some(KEYRING),
        "default/cosign-public-key/test" | "a/cosign/key" => Some(COSIGN_PUB),
        "default/sigstore-config/test" => Some(b"docker:\n"),
        "a/private/key" => Some(b"-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----\nhunter2\n"),
        "a/secret/keyring" => Some(&[0x95, 1]),
        "a/broken/key" => Some(&[]),
        _ => None,
    }
}

/// Each finding's severity, code and text, in one line.
fn found(text: &str) -> Vec<String> {
    let line = |one: Problem| format!("{} {}: {}; {}", one.severity, one.code, one.what, one.fix);
    lint(text.as_bytes(), &vm).into_iter().map(line).collect()
}

/// Compares findings with what they begin with and, after `…`, have further on.
fn assert_found(text: &str, expected: &[&str]) {
    let found = found(text);
    let fits = |(line, pattern): (&String, &&str)| {
        let (begin, rest) = pattern.split_once('…').unwrap_or((*pattern, ""));
        line.starts_with(begin) && line.contains(rest)
    };
    let all = found.len() == expected.len() && found.iter().zip(expected).all(fits);
    assert!(all, "{text}\nfound {found:#?}\nexpected {expected:#?}");
}

/// A policy that rejects, but for one scope with this list.
fn of_scope(scope: &str, list: &str) -> String {
    let scope = serde_json::to_string(scope).unwrap();
    format!(r#"{{"default":[{{"type":"reject"}}],"transports":{{"docker":{{{scope}:{list}}}}}}}"#)
}

/// What the documents of podman, Red Hat, Kata and Confidential Containers have, and what is around of them.
#[test]
fn policies_that_people_have() {
    for (text, expected) in [
        // containers/image, default-policy.json: what podman, Fedora and RHEL install.
        (
            r#"{"default":[{"type":"insecureAcceptAnything"}],
                "transports":{"docker-daemon":{"":[{"type":"insecureAcceptAnything"}]}}}"#,
            &[][..],
        ),
        // The last example of containers-policy.json(5).
        (
            r#"{"default":[{"type":"insecureAcceptAnything"}]}"#,
            &["error policy: has no \"transports\"…refuse every image"],
        ),
        // guest-components, confidential-data-hub/example.config.toml.
        (
            r#"{"default":[{"type":"reject"}]}"#,
            &["error policy: has no \"transports\"…"],
        ),
        (
            r#"{"default":[{"type":"insecureAcceptAnything"}],"transports":{}}"#,
            &[],
        ),
        // RHEL 8 and 9, "podman image trust set -f …".
        (
            r#"{"default":[{"type":"insecureAcceptAnything"}],"transports":{"docker":{
                "registry.access.redhat.com":[{"type":"signedBy","keyType":"GPGKeys",
                    "keyPath":"/etc/pki/rpm-gpg/RPM-GPG-KEY-redhat-release"}],
                "registry.redhat.io":[{"type":"signedBy","keyType":"GPGKeys",
                    "keyPath":"/etc/pki/rpm-gpg/RPM-GPG-KEY-redhat-release"}]},
                "docker-daemon":{"":[{"type":"insecureAcceptAnything"}]}}}"#,
            &[
                "note policy-key-file: images of \"registry.access.redhat.com\"…RPM-GPG-KEY-redhat-release",
                "note policy-key-file: images of \"registry.redhat.io\"",
            ],
        ),
        // containers/image, signature/fixtures/policy.json: Red Hat's two keys in one list.
        (
            r#"{"default":[{"type":"reject"}],"transports":{"docker":{"registry.redhat.io/beta":[{
                "type":"signedBy","keyType":"GPGKeys","keyPaths":["/etc/a","/etc/b"]}]}}}"#,
            &["error policy-key: images of \"registry.redhat.io/beta\" are refused: …list of keys"],
        ),
        // guest-components, sample_kbc/policy.json; also what image_signing.md builds.
        (
            r#"{"default":[{"type":"insecureAcceptAnything"}],"transports":{"docker":{
                "quay.io/kata-containers/confidential-containers":[{"type":"signedBy","keyType":"GPGKeys",
                    "keyPath":"/run/image-security/simple_signing/pubkey.gpg"}],
                "quay.io/kata-containers/confidential-containers:cosign-signed":[{"type":"sigstoreSigned",
                    "keyPath":"/run/image-security/cosign/cosign.pub"}]}}}"#,
            &[
                "warning policy-key-file: images of \"quay.io/kata-containers/confidential-containers\" …gpg-public-config",
                "warning policy-key-file: images of \"quay.io/kata-containers/confidential-containers:cosign-signed\" …cosign-public-key",
            ],
        ),
        // Confidential Containers, docs/features/signed-images, filled in.
        (
            r#"{"default":[{"type":"reject"}],"transports":{"docker":{"ghcr.io/org/app":[
                {"type":"sigstoreSigned","keyPath":"kbs:///default/cosign-public-key/test"}]}}}"#,
            &[],
        ),
        // The same with a placeholder left in it.
        (
            r#"{"default":[{"type":"reject"}],"transports":{"<transport>":{"ghcr.io/org/app":[
                {"type":"sigstoreSigned","keyPath":"kbs:///default/cosign-public-key/test"}]}}}"#,
            &[
                "warning policy-transport: has a transport \"<transport>\"…",
                "warning policy-rejects-all…",
            ],
        ),
        // Confidential Containers, NVIDIA NIM example.
        (
            r#"{"default":[{"type":"reject"}],"transports":{"docker":{"nvcr.io/nim/meta":[
                {"type":"sigstoreSigned","keyPath":"kbs:///default/cosign-public-key/nim",
                 "signedIdentity":{"type":"matchRepository"}}]}}}"#,
            &[
                "error policy-key-missing: images of \"nvcr.io/nim/meta\" are refused: …cosign-public-key/nim",
            ],
        ),
        // One GPG key for a registry, and everything else is let in.
        (
            r#"{"default":[{"type":"insecureAcceptAnything"}],"transports":{"docker":{"ghcr.io":[
                {"type":"signedBy","keyType":"GPGKeys","keyPath":"kbs:///default/gpg-public-config/test"}]}}}"#,
            &[],
        ),
        // containers-policy.json(5): the community's Fulcio and Rekor.
        (
            r#"{"default":[{"type":"reject"}],"transports":{"docker":{"hostname:5000/myns/app":[
                {"type":"sigstoreSigned","fulcio":{"caPath":"/f.pem","oidcIssuer":"https://github.com/login/oauth",
                 "subjectEmail":"test-user@example.com"},"rekorPublicKeyPath":"/rekor.pub"}]}}}"#,
            &["error policy-keyless: images of \"hostname:5000/myns/app\" are refused: …keyless"],
        ),
        // The same page: a certificate of one's own authority.
        (
            r#"{"default":[{"type":"reject"}],"transports":{"docker":{"hostname:5000/myns/app":[
                {"type":"sigstoreSigned","pki":{"caRootsPath":"/r.pem","subjectHostname":"h"}}]}}}"#,
            &["error policy-keyless: …certificate"],
        ),
        // The same page: a key and a transparency log.
        (
            r#"{"default":[{"type":"reject"}],"transports":{"docker":{"quay.io/org":[{"type":"sigstoreSigned",
                "keyPath":"kbs:///a/cosign/key","rekorPublicKeyPath":"/rekor.pub"}]}}}"#,
            &["warning policy-member: …rekorPublicKeyPath\", which clients in a VM ignore"],
        ),
        // The same page: a mirror.
        (
            r#"{"default":[{"type":"reject"}],"transports":{"docker":{"private-mirror:5000/vendor-mirror":[
                {"type":"signedBy","keyType":"GPGKeys","keyPath":"kbs:///a/gpg/key","signedIdentity":{
                 "type":"remapIdentity","prefix":"private-mirror:5000/vendor-mirror","signedPrefix":"vendor.example"}}
                ]}}}"#,
            &[],
        ),
        // containers/image, signature/fixtures/policy.json: a type that only Go's library knows.
        (
            r#"{"default":[{"type":"reject"}],"transports":{"docker":{"example.com/hardened":[
                {"type":"signedBaseLayer","baseLayerIdentity":{"type":"matchExact"}}]}}}"#,
            &["error policy-type: \"example.com/hardened\" …refuse every image"],
        ),
        // ccv1_image_security_design.md, with its commas.
        (
            r#"{"default":[{"type":"reject"}],"transports":{"dir":{"":[{"type":"insecureAcceptAnything"}],}}}"#,
            &["error policy: is no image policy: not JSON"],
        ),
        // The case of the field.
        (
            include_str!("../../../tests/cmd/policy.in/keyless.json"),
            &[
                "error policy-keyless: images of \"docker.io\" are refused: they must have a keyless",
            ],
        ),
    ] {
        assert_found(text, expected);
    }
}

/// Every fault of a requirement, with the images that it makes fail.
#[test]
fn requirements_are_judged() {
    let refused = |code: &str, rest: &str| {
        format!("error {code}: images of \"quay.io\" are refused: …{rest}")
    };
    let unreadable = |code: &str, rest: &str| format!("error {code}: …{rest}");
    for (list, expected) in [
        // The key.
        (
            r#"[{"type":"sigstoreSigned"}]"#,
            refused("policy-key", "neither"),
        ),
        (
            r#"[{"type":"sigstoreSigned","keyPath":null,"keyData":null}]"#,
            refused("policy-key", "neither"),
        ),
        (
            r#"[{"type":"sigstoreSigned","keyPath":"/a","keyData":"b"}]"#,
            refused("policy-key", "both"),
        ),
        (
            r#"[{"type":"sigstoreSigned","keyPath":"default/cosign-public-key/test"}]"#,
            refused(
                "policy-key",
                "write \"kbs:///default/cosign-public-key/test\"",
            ),
        ),
        (
            r#"[{"type":"sigstoreSigned","keyPath":"https://example.com/cosign.pub"}]"#,
            refused("policy-key", "nor an absolute path"),
        ),
        (
            r#"[{"type":"sigstoreSigned","keyPath":"file://etc/cosign.pub"}]"#,
            refused("policy-key", "nor an absolute path"),
        ),
        (
            r#"[{"type":"sigstoreSigned","keyPath":"kbs://default/cosign-public-key/test"}]"#,
            refused(
                "policy-key-missing",
                "write \"kbs:///default/cosign-public-key/test\"",
            ),
        ),
        (
            r#"[{"type":"sigstoreSigned","keyPath":"kbs:///cosign.pub"}]"#,
            refused("policy-key-missing", "names no resource"),
        ),
        (
            r#"[{"type":"sigstoreSigned","keyPath":"kbs+pkcs11:///a/b/c"}]"#,
            refused("policy-key-missing", "plugin"),
        ),
        (
            r#"[{"type":"sigstoreSigned","keyPath":"kbs:///a/gpg/key"}]"#,
            refused(
                "policy-key",
                "their key \"kbs:///a/gpg/key\" is no public key",
            ),
        ),
        (
            r#"[{"type":"sigstoreSigned","keyPath":"kbs:///default/gpg-public-config/test"}]"#,
            refused("policy-key", "cosign public-key"),
        ),
        (
            r#"[{"type":"signedBy","keyType":"GPGKeys","keyPath":"kbs:///a/cosign/key"}]"#,
            refused("policy-key", "gpg --export"),
        ),
        (
            r#"[{"type":"sigstoreSigned","keyPath":"kbs:///a/private/key"}]"#,
            refused("policy-key", "is a private key"),
        ),
        (
            r#"[{"type":"signedBy","keyType":"GPGKeys","keyPath":"kbs:///a/secret/keyring"}]"#,
            refused("policy-key", "is a private key"),
        ),
        (
            r#"[{"type":"sigstoreSigned","keyPath":["kbs:///a/cosign/key"]}]"#,
            unreadable("policy", "not a string: clients can't read the policy"),
        ),
        // Its data: base64 for one type and not for the other.
        (
            r#"[{"type":"sigstoreSigned","keyData":"LS0tLS1CRUdJTiBQVUJMSUMgS0VZLS0tLS0KTUZrdwo="}]"#,
            refused("policy-key", "in base64"),
        ),
        (
            r#"[{"type":"signedBy","keyType":"GPGKeys","keyData":"mQ!"}]"#,
            refused("policy-key", "not base64"),
        ),
        (
            r#"[{"type":"signedBy","keyType":"GPGKeys","keyData":"bm9uc2Vuc2U="}]"#,
            refused("policy-key", "no public key"),
        ),
        (
            r#"[{"type":"sigstoreSigned","keyData":"nonsense"}]"#,
            refused("policy-key", "no public key"),
        ),
        // The type of key.
        (
            r#"[{"type":"signedBy","keyType":"X509Certificates","keyPath":"kbs:///a/gpg/key"}]"#,
            refused("policy-key", "\"X509Certificates\""),
        ),
        (
            r#"[{"type":"signedBy","keyPath":"kbs:///a/gpg/key"}]"#,
            unreadable(
                "policy",
                "no string \"keyType\": clients can't read the policy",
            ),
        ),
        (
            r#"[{"type":"sigstoreSigned","keyType":"GPGKeys","keyPath":"kbs:///a/cosign/key"}]"#,
            "warning policy-member: …\"keyType\"".to_owned(),
        ),
        // The identity.
        (
            r#"[{"type":"sigstoreSigned","keyPath":"kbs:///a/cosign/key","signedIdentity":{"type":"matchExact"}}]"#,
            refused("policy-identity", "write {\"type\":\"matchRepository\"}"),
        ),
        (
            r#"[{"type":"sigstoreSigned","keyPath":"kbs:///a/cosign/key","signedIdentity":{"type":"remapIdentity",
                "prefix":"quay.io","signedPrefix":"docker.io"}}]"#,
            refused("policy-identity", "\"remapIdentity\""),
        ),
        (
            r#"[{"type":"sigstoreSigned","keyPath":"kbs:///a/cosign/key","signedIdentity":"matchRepository"}]"#,
            unreadable("policy-identity", "not an object: clients can't read"),
        ),
        (
            r#"[{"type":"sigstoreSigned","keyPath":"kbs:///a/cosign/key","signedIdentity":{"type":"matchrepository"}}]"#,
            unreadable(
                "policy-identity",
                "refuse every image; write \"matchRepository\"",
            ),
        ),
        (
            r#"[{"type":"signedBy","keyType":"GPGKeys","keyPath":"kbs:///a/gpg/key","signedIdentity":{}}]"#,
            unreadable("policy-identity", "of the type \"\""),
        ),
        (
            r#"[{"type":"signedBy","keyType":"GPGKeys","keyPath":"kbs:///a/gpg/key",
                "signedIdentity":{"type":"exactReference"}}]"#,
            unreadable("policy-identity", "\"dockerReference\": clients can't read"),
        ),
        (
            r#"[{"type":"sigstoreSigned","keyPath":"kbs:///a/cosign/key",
                "signedIdentity":{"type":"exactRepository","dockerRepository":"busybox"}}]"#,
            refused("policy-identity", "write \"docker.io/library/busybox\""),
        ),
        (
            r#"[{"type":"sigstoreSigned","keyPath":"kbs:///a/cosign/key",
                "signedIdentity":{"type":"exactRepository","dockerRepository":"quay.io/a:1"}}]"#,
            refused("policy-identity", "write \"quay.io/a\""),
        ),
        (
            r#"[{"type":"sigstoreSigned","keyPath":"kbs:///a/cosign/key",
                "signedIdentity":{"type":"matchRepository","comment":"x"}}]"#,
            "warning policy-member: \"matchRepository\" of \"quay.io\" has a member \"comment\""
                .to_owned(),
        ),
        // Types and members.
        (
            "[]",
            "error policy: \"quay.io\" has no requirement: …accept them unsigned".to_owned(),
        ),
        (
            "{}",
            unreadable("policy", "not a list of requirements: clients can't read"),
        ),
        ("[{}]", unreadable("policy-type", "of the type \"\"")),
        (
            r#"[{"type":"sigstoresigned","keyPath":"kbs:///a/cosign/key"}]"#,
            unreadable("policy-type", "write \"sigstoreSigned\""),
        ),
        (
            r#"[{"type":"insecureAcceptAnything","keyPath":"x"}]"#,
            "warning policy-member: \"insecureAcceptAnything\" of \"quay.io\"".to_owned(),
        ),
        (
            r#"[{"type":"reject","type":"insecureAcceptAnything"}]"#,
            unreadable("policy", "\"type\" twice: clients can't read"),
        ),
    ] {
        assert_found(&of_scope("quay.io", list), &[&expected]);
    }
    // A member in another spelling is none, so the key is missing, too.
    assert_found(
        &of_scope(
            "quay.io",
            r#"[{"type":"sigstoreSigned","keypath":"kbs:///a/cosign/key"}]"#,
        ),
        &[
            "error policy-key: …neither",
            "warning policy-member: …write \"keyPath\"",
        ],
    );
    for good in [
        r#"[{"type":"sigstoreSigned","keyPath":"kbs:///a/broken/key"}]"#,
        r#"[{"type":"sigstoreSigned","keyData":"-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----"}]"#,
        r#"[{"type":"signedBy","keyType":"GPGKeys","keyData":"mQEN","signedIdentity":null}]"#,
        r#"[{"type":"insecureAcceptAnything"},{"type":"sigstoreSigned","keyPath":"kbs:///a/cosign/key?x"}]"#,
    ] {
        assert_found(&of_scope("quay.io", good), &[]);
    }
}

/// Which images a list is for depends on what stands beside it.
#[test]
fn the_images_are_named() {
    const KEYLESS: &str = r#"[{"type":"sigstoreSigned","fulcio":{}}]"#;
    const ACCEPT: &str = r#"[{"type":"insecureAcceptAnything"}]"#;
    let policy = |default: &str, docker: &str| {
        format!(r#"{{"default":{default},"transports":{{"docker":{docker}}}}}"#)
    };
    for (text, expected) in [
        (policy(KEYLESS, "{}"), &["all images are refused"][..]),
        (
            policy(KEYLESS, &format!(r#"{{"quay.io":{ACCEPT}}}"#)),
            &["images that no scope covers are refused"],
        ),
        // The transport's own default hides the policy's.
        (policy(KEYLESS, &format!(r#"{{"":{ACCEPT}}}"#)), &[]),
        (
            policy(ACCEPT, &format!(r#"{{"":{KEYLESS}}}"#)),
            &["all images are refused"],
        ),
        (
            policy(ACCEPT, &format!(r#"{{"quay.io":{ACCEPT},"":{KEYLESS}}}"#)),
            &["images that no other scope covers are refused"],
        ),
        (
            policy(ACCEPT, &format!(r#"{{"*.example.com":{KEYLESS}}}"#)),
            &["images of \"*.example.com\" are refused"],
        ),
        // Of two the last counts.
        (
            policy(
                ACCEPT,
                &format!(r#"{{"quay.io":{KEYLESS},"quay.io":{ACCEPT}}}"#),
            ),
            &["has \"quay.io\" twice"],
        ),
        (
            policy(
                ACCEPT,
                &format!(r#"{{"quay.io":{ACCEPT}}},"docker":{{"ghcr.io":{KEYLESS}}}"#),
            ),
            &["has \"docker\" twice", "images of \"ghcr.io\" are refused"],
        ),
        // No pull comes to another transport, but it must be readable.
        (
            format!(r#"{{"default":{ACCEPT},"transports":{{"atomic":{{"quay.io":{KEYLESS}}}}}}}"#),
            &[],
        ),
        (
            format!(
                r#"{{"default":{ACCEPT},"transports":{{"atomic":{{"quay.io":[{{"type":"hope"}}]}}}}}}"#
            ),
            &["\"quay.io\" has a requirement of the type \"hope\""],
        ),
        (
            format!(r#"{{"default":{ACCEPT},"transports":{{"dir":[]}}}}"#),
            &["has a transport \"dir\" that is not an object"],
        ),
    ] {
        let whats: Vec<_> = lint(text.as_bytes(), &vm)
            .into_iter()
            .map(|one| one.what)
            .collect();
        let all = whats.len() == expected.len()
            && whats
                .iter()
                .zip(expected)
                .all(|(what, begin)| what.starts_with(begin));
        assert!(all, "{text}\nfound {whats:#?}\nexpected {expected:#?}");
    }
}

/// What is wrong with the file as a whole.
#[test]
fn whole_policies_are_judged() {
    for (text, expected) in [
        ("", "error policy: is no image policy: …"),
        ("hunter2", "error policy: is no image policy: …"),
        ("[]", "error policy: is no image policy: …"),
        (
            "{}",
            "error policy: is no image policy: no list \"default\"…",
        ),
        (
            r#"{"transports":{}}"#,
            "error policy: is no image policy: no list \"default\"…",
        ),
        (
            r#"{"default":null,"transports":{}}"#,
            "error policy: is no image policy: …",
        ),
        (
            r#"{"default":{},"transports":{}}"#,
            "error policy: is no image policy: …",
        ),
        (
            r#"{"default":[{"type":"reject"}],"transports":[]}"#,
            "error policy: is no image policy: \"transports\"…",
        ),
        (
            r#"{"default":[{"type":"reject"}],"transports":{}}"#,
            "warning policy-rejects-all…write the images' scope",
        ),
        (
            r#"{"default":[{"type":"insecureAcceptAnything"}],"transports":{"docker":{"":[{"type":"reject"}]}}}"#,
            "warning policy-rejects-all…",
        ),
        (
            r#"{"default":[{"type":"reject"}],"default":[{"type":"insecureAcceptAnything"}],"transports":{}}"#,
            "error policy: the policy has \"default\" twice…",
        ),
        (
            r#"{"_comment":"x","default":[{"type":"insecureAcceptAnything"}],"transports":{}}"#,
            "warning policy-member: the policy has a member \"_comment\"…",
        ),
    ] {
        assert_found(text, &[expected]);
    }
}

/// A lone file says nothing of the resources, and a VM without the sigstore configuration finds no GPG signatures.
#[test]
fn resources_are_missed_where_they_are_known() {
    let text = of_scope(
        "quay.io",
        r#"[{"type":"signedBy","keyType":"GPGKeys","keyPath":"kbs:///no/such/key"}]"#,
    );
    assert_eq!(lint(text.as_bytes(), &|_| Some(&[])), []);
    let none = lint(text.as_bytes(), &|_| None);
    let codes: Vec<_> = none.iter().map(|one| one.code).collect();
    assert_eq!(codes, ["policy-key-missing", "policy-sigstore-config"]);
}

/// A private key is an error wherever it stands, and nothing of it is shown.
#[test]
fn keys_are_not_shown() {
    let pem = r"-----BEGIN PRIVATE KEY-----\nhunter2\n-----END PRIVATE KEY-----";
    let encoded = "LS0tLS1CRUdJTiBQUklWQVRFIEtFWS0tLS0tCmh1bnRlcjIK";
    for data in [pem, encoded, "lQEN"] {
        for kind in [r#""sigstoreSigned""#, r#""signedBy","keyType":"GPGKeys""#] {
            let list = format!(r#"[{{"type":{kind},"keyData":"{data}"}}]"#);
            let policy = of_scope("quay.io", &list);
            let unused = format!(
                r#"{{"default":{list},"transports":{{"docker":{{"":[{{"type":"insecureAcceptAnything"}}]}}}}}}"#
            );
            for text in [policy, unused] {
                let found = found(&text).join("\n");
                assert!(
                    found.contains("a private key as \"keyData\""),
                    "{text}\n{found}"
                );
                assert!(
                    !found.contains("hunter2") && !found.contains(data),
                    "{found}"
                );
            }
        }
    }
}

/// A key in the place of its path, or a login in that of a registry: what may be one is not repeated.
#[test]
fn values_in_the_wrong_place_are_not_shown() {
    let long = "hunter2/".repeat(13);
    let three = format!("hunter2{}/b/c", "x".repeat(100));
    for list in [
        format!(r#"[{{"type":"sigstoreSigned","keyPath":"{long}"}}]"#),
        format!(r#"[{{"type":"sigstoreSigned","keyPath":"{three}"}}]"#),
        format!(r#"[{{"type":"sigstoreSigned","keyPath":"kbs:///{long}"}}]"#),
        format!(r#"[{{"type":"sigstoreSigned","keyPath":"/{long}"}}]"#),
        format!(r#"[{{"type":"{long}"}}]"#),
        format!(r#"[{{"type":"reject","{long}":1}}]"#),
        format!(r#"[{{"type":"signedBy","keyType":"{long}","keyPath":"kbs:///a/gpg/key"}}]"#),
    ] {
        let found = found(&of_scope("quay.io", &list)).join("\n");
        assert!(!found.is_empty() && !found.contains("hunter2"), "{found}");
    }
    let found = found(&of_scope("user:hunter2@quay.io", "[]")).join("\n");
    assert!(
        found.contains("…@quay.io") && !found.contains("hunter2"),
        "{found}"
    );
}

/// A scope that matches nothing is found.
#[test]
fn scopes_are_judged() {
    assert_found(
        &of_scope("quay.io/*", r#"[{"type":"insecureAcceptAnything"}]"#),
        &[
            "warning policy-scope: has a scope \"quay.io/*\" that matches no image…write \"quay.io\"",
        ],
    );
}

proptest! {
    /// Cut or changed anywhere, a policy makes no panic and shows no key.
    #[test]
    fn a_damaged_policy_is_judged(at in 0usize..400, byte in any::<u8>(), cut in any::<bool>()) {
        let text = of_scope("quay.io", r#"[{"type":"signedBy","keyType":"GPGKeys","keyData":"hunter2hunter2=="},
            {"type":"sigstoreSigned","keyPath":"kbs:///a/cosign/key","signedIdentity":{"type":"exactRepository",
            "dockerRepository":"quay.io/org"}}]"#);
        let mut text = text.into_bytes();
        let at = at % text.len();
        match cut {
            true => text.truncate(at),
            false => text[at] = byte,
        }
        let found: Vec<_> = lint(&text, &vm).iter().map(ToString::to_string).collect();
        prop_assert!(!found.join("\n").contains("hunter2hunter2"), "{:?}", found);
    }
}
