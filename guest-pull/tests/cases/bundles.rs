// SPDX-License-Identifier: Apache-2.0

//! Signatures as cosign 3 makes them: bundles that refer to the image, made by openssl.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::image;
use crate::signatures::{Signed, check, check_refused};
use crate::signing::{
    BUNDLE, INDEX, Repository, SIGNED, SigningKey, bundle, put_bundles, signed_by,
};
use crate::stand_in::{Answer, StandIn};

/// Bundles that refer to the image, as cosign 3 makes them: listed by the registry's API, or by a tag where it has none.
#[test]
fn policy_json_bundles_count() {
    let signed = Signed::new();
    let key = SigningKey::new();
    let policy = signed_by(&key.public(), "");
    let tag = signed.digest.replace(':', "-");
    let list = |bundles: &[Value]| {
        let index = put_bundles(&mut signed.repository(), &signed.digest, bundles);
        signed.repository().put_manifest(&tag, INDEX, &index);
    };
    let good = bundle(&key, SIGNED, &signed.digest);
    list(std::slice::from_ref(&good));
    assert_eq!(check(&policy, &signed.image), Ok(()));
    assert_eq!(check(&policy, &signed.by_digest()), Ok(()));
    let with = |change: &dyn Fn(&mut Value)| {
        let mut value = good.clone();
        change(&mut value);
        value
    };
    let other = SigningKey::new();
    let p384 = SigningKey::of(&["EC", "-pkeyopt", "ec_paramgen_curve:P-384"], &["-sha384"]);
    let other_digest = format!("sha256:{}", "0".repeat(64));
    for (bad, what) in [
        (
            bundle(&other, SIGNED, &signed.digest),
            "it is by another key",
        ),
        (
            bundle(&p384, SIGNED, &signed.digest),
            "it is by another key",
        ),
        (
            bundle(&key, SIGNED, &other_digest),
            "it is for another digest",
        ),
        (
            bundle(&key, "https://slsa.dev/provenance/v1", &signed.digest),
            "a statement of the type",
        ),
        (
            with(&|value| value["dsseEnvelope"]["payload"] = STANDARD.encode("{}").into()),
            "it is by another key",
        ),
        (
            with(&|value| value["dsseEnvelope"]["payloadType"] = "text/plain".into()),
            "its payload is \"text/plain\"",
        ),
        (
            with(&|value| value["verificationMaterial"] = json!({"certificate": {"rawBytes": ""}})),
            "keyless",
        ),
        (
            json!({"mediaType": BUNDLE, "verificationMaterial": {"publicKey": {}}}),
            "has no signature",
        ),
    ] {
        list(std::slice::from_ref(&bad));
        check_refused(&policy, &signed.image, what);
        list(&[bad, good.clone()]);
        assert_eq!(check(&policy, &signed.image), Ok(()), "{what}");
    }
    list(&[bundle(&p384, SIGNED, &signed.digest)]);
    assert_eq!(check(&signed_by(&p384.public(), ""), &signed.image), Ok(()));
    // The signature of the manifest itself.
    let url = format!("http://{}/v2/a/b/manifests/1", signed.registry.address);
    let mut manifest = ureq::get(&url)
        .header("accept", crate::signing::MANIFEST)
        .call()
        .unwrap();
    let manifest = manifest.body_mut().read_to_vec().unwrap();
    let message = |message: &[u8]| {
        json!({"mediaType": BUNDLE, "verificationMaterial": {"publicKey": {}}, "messageSignature": {
            "messageDigest": {"algorithm": "SHA2_256", "digest": ""}, "signature": STANDARD.encode(key.sign(message)),
        }})
    };
    list(&[message(&manifest)]);
    assert_eq!(check(&policy, &signed.image), Ok(()));
    list(&[message(b"other")]);
    check_refused(
        &policy,
        &signed.image,
        "it is by another key, or of another image",
    );
    // It names no repository, so no rule about that holds.
    list(&[good]);
    let policy = signed_by(
        &key.public(),
        r#", "signedIdentity": {"type": "matchRepository"}"#,
    );
    check_refused(&policy, &signed.image, "it names no repository");
}

/// A registry with the API for referrers is asked by it; one that answers it in another way, by the tag; and a registry
/// that can't be asked lets no image in.
#[test]
fn policy_json_referrers_are_listed_by_the_api_or_the_tag() {
    #[derive(Default)]
    struct Memory(std::collections::HashMap<String, Vec<u8>>);
    impl Repository for Memory {
        fn put_blob(&mut self, blob: &[u8]) {
            let digest = guest_pull::digest::Digest::of(blob).to_string();
            self.0.insert(digest, blob.to_vec());
        }
        fn put_manifest(&mut self, reference: &str, _: &str, manifest: &[u8]) {
            self.0.insert(reference.to_owned(), manifest.to_vec());
        }
    }
    let (repository, found) = image::Repository::of(&[image::archive(&[])]);
    let digest = found.descriptor["digest"].as_str().unwrap().to_owned();
    let key = SigningKey::new();
    let policy = signed_by(&key.public(), "");
    for (api, tag, is_good) in [
        (Some((200, true)), None, true),
        (Some((404, false)), Some(true), true),
        (Some((200, false)), Some(true), true),
        (Some((403, false)), Some(true), true),
        (Some((405, false)), None, false),
        (None, Some(true), false),
    ] {
        let mut memory = Memory(repository.blobs.clone());
        let index = put_bundles(&mut memory, &digest, &[bundle(&key, SIGNED, &digest)]);
        memory
            .0
            .insert("1".to_owned(), repository.blobs[&digest].clone());
        if tag.is_some() {
            memory.0.insert(digest.replace(':', "-"), index.clone());
        }
        let server = StandIn::start(move |asked| {
            let last = asked.path.rsplit('/').next().unwrap();
            if asked.path.contains("/referrers/") {
                return match api {
                    Some((status, true)) => Answer::new(status, index.clone()),
                    Some((status, false)) => Answer::new(status, "<html>no</html>"),
                    // The connection ends early.
                    None => Answer {
                        length: Some(1000),
                        ..Answer::new(200, "{")
                    },
                };
            }
            match memory.0.get(last) {
                Some(blob) => Answer::new(200, blob.clone()),
                None => Answer::new(404, "{}"),
            }
        });
        let image = format!("{}/a/b:1", server.address);
        let found = check(&policy, &image);
        assert_eq!(found.is_ok(), is_good, "{api:?} {tag:?} {found:?}");
        let asked = server.asked();
        let wanted = format!("/v2/a/b/referrers/{digest}");
        assert!(asked.iter().any(|asked| asked.path == wanted), "{asked:?}");
    }
}
