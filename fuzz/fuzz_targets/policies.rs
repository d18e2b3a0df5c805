// SPDX-License-Identifier: Apache-2.0

//! Image policies, where signatures are, and signatures: what is read is the same when it is sent on, and nothing that was
//! not signed is let in.
//!
//! The first byte selects the rest: a policy, and after a NUL byte where signatures are; the payload of a signature; a
//! bundle; a key ring, and after eight zeros a message by one of its keys; where signatures are; or a public key.

#![no_main]

use std::path::Path;
use std::sync::OnceLock;

use common::auth_json::image::ImageName;
use guest_pull::digest::Digest;
use guest_pull::policy::keys::{Checker, PublicKey};
use guest_pull::policy::payload::{Claim, OF_COSIGN, OF_SIMPLE_SIGNING};
use guest_pull::policy::{Rules, bundle, lookaside, openpgp, rules_for};
use guest_pull::resource::Text;
use libfuzzer_sys::fuzz_target;
use offline_fs_kbc_fuzz::assert_one_line;
use serde_json::json;

/// A key of P-256, by which nothing is signed.
const KEY: &str = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEMKBCTNIcKUSDii11ySs3526iDZ8A\n\
                   iTo7Tu6KPAqv7D7gS2XpJFbZiItSs3m9+9Ue6GnvHw/GW2ZZaVtszggXIw==\n-----END PUBLIC KEY-----\n";

/// What the key in a seed has signed, and nothing else was ever signed by a key of an input.
const SIGNED: &str = r#"{"critical":{"identity":{"docker-reference":"r.example/a/b:1"},"image":{"docker-manifest-digest":"sha256:2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"},"type":"atomic container signature"},"optional":{}}"#;

/// A moment in 2027.
const NOW: u64 = 1_800_000_000;

fuzz_target!(|input: &[u8]| {
    let Some((&first, rest)) = input.split_first() else {
        return;
    };
    match first % 6 {
        0 => policy(rest),
        1 => payload(rest),
        2 => signed(rest),
        3 => by_gpg(rest),
        4 => storage(rest),
        _ => key(rest),
    }
});

fn images() -> [ImageName; 3] {
    ["r.example/a/b:1", "R.example:443/a/b:1", "alpine"]
        .map(|name| ImageName::parse(name).expect("a name"))
}

fn policy(text: &[u8]) {
    let text = String::from_utf8_lossy(text);
    let (policy, storage) = text.split_once('\0').unwrap_or((&text, ""));
    // Keys that are files would be this machine's.
    if ["keyPath", "\\u"].iter().any(|word| policy.contains(word)) {
        return;
    }
    let inline = |text: &str| Text::Inline(text.to_owned());
    let (policy, storage) = (inline(policy), inline(storage));
    let daemon = Path::new("/nonexistent/socket");
    for image in images() {
        match rules_for(Some(&policy), Some(&storage), daemon, &image) {
            Ok(None) => {}
            Ok(Some(rules)) => {
                assert_eq!(Rules::of_json(&rules.to_json()).as_ref(), Some(&rules));
                assert!(!rules.shown().is_empty());
                rules
                    .shown()
                    .iter()
                    .for_each(|shown| assert_one_line(shown));
            }
            Err(failure) => assert_one_line(&failure.message),
        }
    }
}

fn payload(text: &[u8]) {
    for kind in [OF_COSIGN, OF_SIMPLE_SIGNING] {
        match Claim::parse(text, kind) {
            Ok(claim) => {
                let digest = claim.digest.to_string();
                let again = json!({"critical": {
                    "identity": {"docker-reference": claim.reference},
                    "image": {"docker-manifest-digest": digest}, "type": kind,
                }});
                let again = Claim::parse(again.to_string().as_bytes(), kind);
                assert_eq!(again, Ok(claim));
            }
            Err(error) => assert_one_line(&error),
        }
    }
}

fn signed(text: &[u8]) {
    static KEYS: OnceLock<Vec<PublicKey>> = OnceLock::new();
    let keys = KEYS.get_or_init(|| vec![PublicKey::parse("key", KEY.as_bytes()).expect("a key")]);
    let documents = [(Digest::of(b"x"), b"x".to_vec())];
    let error = bundle::verify(text, &Checker::new(keys), &documents).expect_err("it is let in");
    assert_one_line(&error);
}

fn by_gpg(bytes: &[u8]) {
    let end = bytes.windows(8).position(|part| part == [0; 8]);
    let (ring, message) = match end {
        Some(end) => (&bytes[..end], &bytes[end + 8..]),
        None => (bytes, bytes),
    };
    let keys = match openpgp::keys([("ring", ring), ("again", ring)]) {
        Ok(keys) => keys,
        Err(error) => {
            assert_one_line(&error);
            Vec::new()
        }
    };
    // A copy is the same key.
    let once = openpgp::keys([("ring", ring)]).unwrap_or_default();
    assert_eq!(once.len(), keys.len());
    match openpgp::verify(message, &keys, NOW) {
        Ok(document) => assert_eq!(document, SIGNED.as_bytes(), "it is let in"),
        Err(error) => assert_one_line(&error),
    }
}

fn storage(text: &[u8]) {
    for image in images() {
        match lookaside::base_url(text, &image) {
            Ok(None) => {}
            Ok(Some(url)) => {
                assert_one_line(&url);
                let schemes = ["https://", "http://", "file:///"];
                assert!(
                    schemes.iter().any(|scheme| url.starts_with(scheme)),
                    "{url}"
                );
            }
            Err(error) => assert_one_line(&error),
        }
    }
}

fn key(text: &[u8]) {
    match PublicKey::parse("key", text) {
        Ok(key) => {
            assert!(!key.verifies(b"message", text));
            if std::str::from_utf8(text).is_ok() {
                assert_eq!(PublicKey::parse("key", key.pem.as_bytes()), Ok(key));
            }
        }
        Err(error) => assert_one_line(&error),
    }
}
