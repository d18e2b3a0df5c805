// SPDX-License-Identifier: Apache-2.0

//! What would let an image past a policy: another spelling of its registry, scopes that no image is in, answers of a
//! registry that hide signatures.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use guest_pull::digest::Digest;
use serde_json::json;

use crate::image;
use crate::signatures::{Signed, check, check_refused};
use crate::signing::{MANIFEST, Repository, SigningKey, payload, rules, signed_by};
use crate::stand_in::{Answer, StandIn};

/// A policy with one scope, and another default.
fn scoped(default: &str, scope: &str, requirement: &str) -> String {
    format!(
        r#"{{"default": [{{"type": "{default}"}}], "transports": {{"docker": {{"{scope}": [{{"type": "{requirement}"}}]}}}}}}"#
    )
}

/// What the policy says of a registry can't be evaded by another spelling of it; where it says the same, any spelling does.
#[test]
fn policy_json_other_spellings_of_a_registry() {
    let rejects = |scope| scoped("insecureAcceptAnything", scope, "reject");
    for (scope, image, spelling) in [
        ("quay.io", "Quay.io/a/b:1", "quay.io"),
        ("quay.io/a", "quay.io:443/a/b:1", "quay.io"),
        ("quay.io/a/b:1", "QUAY.IO:443/a/b:1", "quay.io"),
        (
            "docker.io",
            "registry-1.docker.io/library/alpine:1",
            "docker.io",
        ),
        ("[::1]:5000", "[0:0::1]:5000/a/b:1", "[::1]:5000"),
    ] {
        let error = rules(&rejects(scope), None, image).unwrap_err();
        let fix = format!("write the registry as {spelling}");
        assert!(error.contains(&fix), "{image}: {error}");
        assert_eq!(rules(&rejects("other.example"), None, image), Ok(None));
    }
    let plain = rules(&rejects("quay.io"), None, "quay.io/a/b:1").unwrap_err();
    assert!(plain.contains("reject"), "{plain}");
    // Nor does the other spelling get what is allowed to the plain one.
    let accepts = scoped("reject", "quay.io", "insecureAcceptAnything");
    assert_eq!(rules(&accepts, None, "quay.io/a/b:1"), Ok(None));
    assert!(rules(&accepts, None, "Quay.io/a/b:1").is_err());
}

/// A scope that no image is in refuses the policy, with how to write it; but not under another transport.
#[test]
fn policy_json_scopes_without_images() {
    for (scope, fix) in [
        ("alpine", "docker.io/library/alpine"),
        ("index.docker.io/a/b", "docker.io/a/b"),
        ("r.example/a/", "r.example/a"),
        ("docker://r.example/a", "r.example/a"),
        ("R.example/a", "r.example/a"),
        ("*.example.com/a", "*.example.com"),
    ] {
        let policy = scoped("insecureAcceptAnything", scope, "reject");
        let error = rules(&policy, None, "quay.io/a/b:1").unwrap_err();
        let wanted = format!("no image is in the scope \"{scope}\": write \"{fix}\"");
        assert!(error.contains(&wanted), "{scope}: {error}");
        let other = policy.replace("\"docker\"", "\"oci\"");
        assert_eq!(rules(&other, None, "quay.io/a/b:1"), Ok(None), "{scope}");
    }
}

/// A registry that is too busy to list bundles is not one that has none.
#[test]
fn policy_json_a_busy_list_of_referrers() {
    let (repository, _) = image::Repository::of(&[image::archive(&[])]);
    let key = SigningKey::new();
    for (status, what) in [(429, "429"), (404, "there is no signature of")] {
        let repository = repository.clone();
        let server = StandIn::start(move |asked| match &asked.path {
            path if path.contains("/referrers/") => {
                Answer::new(status, "").with("Retry-After", "3600")
            }
            path if path.ends_with("/1") || path.contains("/sha256:") => repository.answer(path),
            _ => Answer::new(404, "{}"),
        });
        let image = format!("{}/a:1", server.address);
        let error = check(&signed_by(&key.public(), ""), &image).unwrap_err();
        assert!(error.contains(what), "{error}");
        assert_eq!(
            error.contains("there is no signature"),
            status == 404,
            "{error}"
        );
    }
}

/// A signature that is larger than its descriptor says is not read as one, and long texts in it are cut in messages.
#[test]
fn policy_json_signatures_of_hostile_lengths() {
    let signed = Signed::new();
    let key = SigningKey::new();
    let name = format!("{}/a/b", signed.registry.address);
    let policy = signed_by(&key.public(), "");
    let put = |payload: &[u8], size: usize| {
        let mut repository = signed.repository();
        repository.put_blob(payload);
        repository.put_blob(b"{}");
        let signature = STANDARD.encode(key.sign(payload));
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json", "size": 2,
                "digest": Digest::of(b"{}").to_string(),
            },
            "layers": [{
                "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json", "size": size,
                "digest": Digest::of(payload).to_string(),
                "annotations": {"dev.cosignproject.cosign/signature": signature},
            }],
        });
        let tag = format!("{}.sig", signed.digest.replace(':', "-"));
        repository.put_manifest(&tag, MANIFEST, manifest.to_string().as_bytes());
    };
    let good = payload(&name, &signed.digest);
    put(&good, good.len());
    assert_eq!(check(&policy, &signed.image), Ok(()));
    put(&good, 10);
    check_refused(&policy, &signed.image, "its descriptor says 10");
    let long = payload(&"x".repeat(100_000), &signed.digest);
    put(&long, long.len());
    let error = check(&policy, &signed.image).unwrap_err();
    assert!(error.len() < 2000, "{}", error.len());
}
