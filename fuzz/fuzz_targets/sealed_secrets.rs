// SPDX-License-Identifier: Apache-2.0

//! Sealed secrets and their signing keys: a sealed secret can be opened, but not after a change.
//!
//! The first byte selects the rest: a sealed secret; a JWK; or a private key of 32 bytes, the index of a byte
//! to change, and the text to seal.

#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use offline_fs_kbc::sealedsecret::sign::PrivateKey;
use offline_fs_kbc::sealedsecret::{PublicKey, Sealed};
use offline_fs_kbc_fuzz::{assert_error_is_clean, assert_one_line, marked};

fuzz_target!(|input: &[u8]| {
    let Some((&first, rest)) = input.split_first() else {
        return;
    };
    match first % 3 {
        0 => open(&String::from_utf8_lossy(rest)),
        1 => jwk(&marked(rest)),
        _ => seal(rest),
    }
});

fn open(text: &str) {
    let Ok(sealed) = Sealed::parse(text) else {
        return;
    };
    let (name, payload) = (sealed.resource_name(), sealed.payload());
    match (&name, &payload) {
        (Ok(name), Ok(payload)) => assert_eq!(payload.name.as_ref(), Some(name)),
        (Ok(_), Err(_)) => panic!("a name without a payload"),
        (Err(error), _) => assert_one_line(&error.to_string()),
    }
    if let Err(error) = sealed.signer() {
        assert_one_line(&error.to_string());
    }
}

fn jwk(text: &[u8]) {
    match PrivateKey::from_jwk(text) {
        Ok(key) => {
            let again = PrivateKey::from_jwk(key.private_jwk().as_bytes()).expect("it parses back");
            assert_eq!(again.public_jwk(), key.public_jwk());
        }
        Err(error) => assert_error_is_clean(&error),
    }
    // An invalid key is refused without a message.
    let _ = PublicKey::from_jwk(text);
}

fn key() -> &'static PrivateKey {
    static KEY: OnceLock<PrivateKey> = OnceLock::new();
    KEY.get_or_init(|| PrivateKey::generate().expect("random bytes"))
}

fn seal(rest: &[u8]) {
    let Some((&at, rest)) = rest.split_first() else {
        return;
    };
    let text = String::from_utf8_lossy(rest);
    let (path, kid) = text.split_once('\n').unwrap_or((&text, "kid"));
    let sealed = key().seal(path, kid);
    let public = PublicKey::from_jwk(key().public_jwk().as_bytes()).expect("a public key");
    let opened = Sealed::parse(&sealed).expect("what was sealed parses");
    assert_eq!(opened.signer().as_deref(), Ok(kid));
    assert_eq!(opened.resource_name(), Ok(format!("kbs:///{path}")));
    assert_eq!(opened.verify(kid, &public), Ok(()));
    // The kata-agents of late 2023 cut the prefix off.
    let bare = sealed.strip_prefix("sealed.").expect("the prefix");
    let bare = Sealed::parse(bare).expect("it parses without its prefix");
    assert_eq!(bare.resource_name(), opened.resource_name());
    assert_eq!(bare.verify(kid, &public), Ok(()));
    // Replace a character that the signature covers.
    let mut changed = sealed.clone().into_bytes();
    let covered = sealed.rfind('.').expect("three dots") - "sealed.".len();
    let at = "sealed.".len() + usize::from(at) % covered;
    changed[at] = if changed[at] == b'A' { b'B' } else { b'A' };
    let changed = String::from_utf8(changed).expect("it is ASCII");
    if let Ok(opened) = Sealed::parse(&changed) {
        assert!(opened.verify(kid, &public).is_err(), "a change passes");
    }
}
