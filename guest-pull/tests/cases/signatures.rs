// SPDX-License-Identifier: Apache-2.0

//! Signatures of cosign: made by skopeo and by openssl, in a real registry; and as a registry with the API for referrers
//! lists them.

use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use guest_pull::registry::platform::Platform;
use serde_json::{Value, json};

use crate::host::{output, run, support, tool};
use crate::registry::Registry;
use crate::signing::{
    INDEX, Pushed, Repository, SigningKey, check_policy, digest_of, payload, put_signatures, rules,
    signed_by,
};

/// Checks the policy as a pull does; else the reason.
pub fn check(policy: &str, image: &str) -> Result<(), String> {
    check_policy(policy, None, image)
}

pub fn check_refused(policy: &str, image: &str, what: &str) {
    let error = check(policy, image).expect_err(what);
    assert!(error.contains(what), "{what}: {error}");
}

/// A registry with an image, and the digest of its manifest.
pub struct Signed {
    pub registry: Registry,
    pub image: String,
    pub digest: String,
}

impl Signed {
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let layout = dir.path().join("layout");
        run(support("make-image").arg(&layout));
        let registry = Registry::start();
        let image = registry.push(&layout);
        let digest = digest_of(&registry.address, "a/b", "1");
        Self {
            registry,
            image,
            digest,
        }
    }

    pub fn repository(&self) -> Pushed {
        let address = self.registry.address.clone();
        Pushed {
            address,
            repository: "a/b",
        }
    }

    /// The name that cosign signs: that of the repository.
    fn name(&self) -> String {
        format!("{}/a/b", self.registry.address)
    }

    pub fn by_digest(&self) -> String {
        format!("{}@{}", self.name(), self.digest)
    }

    fn sign(&self, key: &SigningKey, reference: &str, digest: &str) {
        let payload = payload(reference, digest);
        let signature = key.sign(&payload);
        put_signatures(
            &mut self.repository(),
            &self.digest,
            &[(payload, signature)],
        );
    }
}

/// A signature by skopeo counts where skopeo's own check lets the image in, and where it doesn't, it is refused here too:
/// for the tag, the digest, other keys, and each kind of signedIdentity.
#[test]
fn policy_json_signatures_of_skopeo_count_as_for_skopeo() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let signed = Signed::new();
    fs::write(at("passphrase"), "none").unwrap();
    for key in ["key", "other"] {
        let mut skopeo = tool("SKOPEO", "skopeo");
        skopeo
            .args(["generate-sigstore-key", "--output-prefix"])
            .arg(at(key));
        run(skopeo.arg("--passphrase-file").arg(at("passphrase")));
    }
    fs::create_dir(at("registries.d")).unwrap();
    let text = "default-docker:\n  use-sigstore-attachments: true\n";
    fs::write(at("registries.d/all.yaml"), text).unwrap();
    let skopeo = |policy: Option<&str>| {
        let mut skopeo = tool("SKOPEO", "skopeo");
        match policy {
            Some(policy) => {
                fs::write(at("policy.json"), policy).unwrap();
                skopeo.arg("--policy").arg(at("policy.json"))
            }
            None => skopeo.arg("--insecure-policy"),
        };
        skopeo
            .arg("--registries.d")
            .arg(at("registries.d"))
            .args(["copy", "-q"]);
        skopeo
    };
    // Another tag of the same repository, signed under its own name.
    let other_tag = signed.image.replace(":1", ":2");
    for image in [&signed.image, &other_tag] {
        let mut copy = skopeo(None);
        copy.args(["--src-tls-verify=false", "--dest-tls-verify=false"]);
        copy.arg("--sign-by-sigstore-private-key")
            .arg(at("key.private"));
        copy.arg("--sign-passphrase-file").arg(at("passphrase"));
        if *image == other_tag {
            copy.args(["--sign-identity", "other.example/x/y:7"]);
        }
        run(copy.args([
            format!("docker://{}", signed.image),
            format!("docker://{image}"),
        ]));
    }
    let (key, other) = (at("key.pub"), at("other.pub"));
    let identity = |text: &str| signed_by(&key, &format!(r#", "signedIdentity": {text}"#));
    let address = &signed.registry.address;
    let of = |kind: &str| identity(&format!(r#"{{"type": "{kind}"}}"#));
    let remap = |prefix: &str| {
        identity(&format!(
            r#"{{"type": "remapIdentity", "prefix": "{prefix}", "signedPrefix": "other.example/x"}}"#
        ))
    };
    let pem = STANDARD.encode(fs::read(&key).unwrap());
    let unsigned = signed.image.replace("a/b", "c/d");
    let mut copy = skopeo(None);
    copy.args([
        "--src-tls-verify=false",
        "--dest-tls-verify=false",
        "--remove-signatures",
    ]);
    run(copy.args([
        format!("docker://{}", signed.image),
        format!("docker://{unsigned}"),
    ]));
    let by_digest = signed.by_digest();
    let mut both = [0, 0];
    for (policy, image) in [
        (signed_by(&key, ""), &signed.image),
        (signed_by(&key, ""), &by_digest),
        (signed_by(&key, ""), &unsigned),
        (signed_by(&other, ""), &signed.image),
        (of("matchExact"), &signed.image),
        (of("matchExact"), &by_digest),
        (of("matchRepository"), &signed.image),
        (of("matchRepoDigestOrExact"), &by_digest),
        (of("matchEverything"), &signed.image),
        (
            identity(r#"{"type": "exactReference", "dockerReference": "other.example/x/y:7"}"#),
            &signed.image,
        ),
        (
            identity(r#"{"type": "exactReference", "dockerReference": "other.example/x/y:8"}"#),
            &signed.image,
        ),
        (
            identity(r#"{"type": "exactRepository", "dockerRepository": "other.example/x/y"}"#),
            &signed.image,
        ),
        (
            identity(r#"{"type": "exactRepository", "dockerRepository": "other.example/x"}"#),
            &signed.image,
        ),
        (remap(&format!("{address}/a")), &signed.image),
        (remap("elsewhere.example/a"), &signed.image),
        (
            format!(r#"{{"default": [{{"type": "sigstoreSigned", "keyData": "{pem}"}}]}}"#),
            &signed.image,
        ),
        (
            format!(r#"{{"default": [{{"type": "sigstoreSigned", "keyDatas": ["{pem}"]}}]}}"#),
            &signed.image,
        ),
        (
            format!(
                r#"{{"default": [{{"type": "sigstoreSigned", "keyPaths": ["{}", "{}"]}}]}}"#,
                other.display(),
                key.display()
            ),
            &signed.image,
        ),
        (
            format!(
                r#"{{"default": [{{"type": "reject"}}], "transports": {{"docker": {{"{address}/a": [{{"type": "insecureAcceptAnything"}}]}}}}}}"#
            ),
            &signed.image,
        ),
        (
            format!(
                r#"{{"default": [{{"type": "insecureAcceptAnything"}}], "transports": {{"docker": {{"{address}": [{{"type": "reject"}}]}}}}}}"#
            ),
            &signed.image,
        ),
        (r#"{"default": []}"#.to_owned(), &signed.image),
        (
            r#"{"default": [{"type": "insecureAcceptAnything"}], "more": 1}"#.to_owned(),
            &signed.image,
        ),
    ] {
        let to = at("copy");
        let _ = fs::remove_dir_all(&to);
        let mut copy = skopeo(Some(&policy));
        copy.arg("--src-tls-verify=false");
        copy.args([format!("docker://{image}"), format!("dir:{}", to.display())]);
        let (_, stderr, code) = output(&mut copy);
        let ours = check(&policy, image);
        assert_eq!(
            ours.is_ok(),
            code == Some(0),
            "{image} {policy}: {ours:?} {stderr}"
        );
        both[usize::from(ours.is_ok())] += 1;
    }
    assert!(both.iter().all(|count| *count > 5), "{both:?}");
}

/// Keys of all kinds that cosign takes, with each kind's signature; and none by another key of the kind.
#[test]
fn policy_json_keys_of_all_kinds_count() {
    let signed = Signed::new();
    const P256: &[&str] = &["EC", "-pkeyopt", "ec_paramgen_curve:P-256"];
    const P384: &[&str] = &["EC", "-pkeyopt", "ec_paramgen_curve:P-384"];
    const RSA: &[&str] = &["RSA", "-pkeyopt", "rsa_keygen_bits:2048"];
    const RSA4096: &[&str] = &["RSA", "-pkeyopt", "rsa_keygen_bits:4096"];
    const PSS: &[&str] = &[
        "-sha256",
        "-sigopt",
        "rsa_padding_mode:pss",
        "-sigopt",
        "rsa_pss_saltlen:digest",
    ];
    let kinds: [(&[&str], &'static [&'static str]); 7] = [
        (P256, &["-sha256"]),
        (P384, &["-sha256"]),
        (P384, &["-sha384"]),
        (RSA, &["-sha256"]),
        (RSA4096, &["-sha256"]),
        (RSA, PSS),
        (&["ED25519"], &[]),
    ];
    for (algorithm, how) in kinds {
        let [key, other] = [(); 2].map(|()| SigningKey::of(algorithm, how));
        signed.sign(&key, &signed.name(), &signed.digest);
        let policy = signed_by(&key.public(), "");
        assert_eq!(
            check(&policy, &signed.image),
            Ok(()),
            "{algorithm:?} {how:?}"
        );
        let policy = signed_by(&other.public(), "");
        check_refused(&policy, &signed.image, "it is by another key");
    }
    for (algorithm, what) in [
        (
            &["RSA", "-pkeyopt", "rsa_keygen_bits:1024"][..],
            "an RSA key of 1024 bits",
        ),
        (
            &["EC", "-pkeyopt", "ec_paramgen_curve:P-521"],
            "a kind of key that is not supported",
        ),
    ] {
        let key = SigningKey::of(algorithm, &["-sha256"]);
        check_refused(&signed_by(&key.public(), ""), &signed.image, what);
    }
}

/// A signature counts for its digest, its name and its payload alone; the reason says which of them is wrong.
#[test]
fn policy_json_signatures_count_for_what_they_say() {
    let signed = Signed::new();
    let key = SigningKey::new();
    let policy = signed_by(&key.public(), "");
    check_refused(&policy, &signed.image, "there is no signature of sha256:");
    check_refused(
        &policy,
        &signed.image,
        &format!("default, sigstoreSigned by {}", key.public().display()),
    );
    let name = signed.name();
    signed.sign(&key, &name, &format!("sha256:{}", "0".repeat(64)));
    check_refused(&policy, &signed.image, "it is for another digest");
    signed.sign(&key, "other.example/a", &signed.digest);
    check_refused(&policy, &signed.image, "it is for \"other.example/a\"");
    signed.sign(&key, &format!("{name}:2"), &signed.digest);
    check_refused(&policy, &signed.image, &format!("it is for \"{name}:2\""));
    assert_eq!(check(&policy, &signed.by_digest()), Ok(()));
    let good = payload(&name, &signed.digest);
    let put = |payload: &[u8], signature: &[u8]| {
        let signatures = [(payload.to_vec(), signature.to_vec())];
        put_signatures(&mut signed.repository(), &signed.digest, &signatures);
    };
    let signature = key.sign(&good);
    put(&[&good[..], b" "].concat(), &signature);
    check_refused(&policy, &signed.image, "it is by another key");
    put(&good, &signature[..signature.len() - 1]);
    check_refused(&policy, &signed.image, "it is by another key");
    let odd = String::from_utf8(good.clone())
        .unwrap()
        .replace("cosign container", "atomic container");
    put(odd.as_bytes(), &key.sign(odd.as_bytes()));
    check_refused(&policy, &signed.image, "its payload is not understood");
    // Beside others, a good one is enough.
    let other = SigningKey::new();
    let signatures = [(good.clone(), other.sign(&good)), (good.clone(), signature)];
    put_signatures(&mut signed.repository(), &signed.digest, &signatures);
    assert_eq!(check(&policy, &signed.image), Ok(()));
    // All requirements must hold.
    let two = |key: &SigningKey| {
        format!(
            r#"{{"type": "sigstoreSigned", "keyPath": "{}"}}"#,
            key.public().display()
        )
    };
    let both = format!(r#"{{"default": [{}, {}]}}"#, two(&key), two(&other));
    assert_eq!(check(&both, &signed.image), Ok(()));
    let third = SigningKey::new();
    let not_all = format!(r#"{{"default": [{}, {}]}}"#, two(&key), two(&third));
    check_refused(
        &not_all,
        &signed.image,
        &third.public().display().to_string(),
    );
}

/// cosign signs the index that a tag names; others sign the manifest. Either counts, and the platform's other image's doesn't.
#[test]
fn policy_json_signature_of_the_index_or_the_manifest() {
    let signed = Signed::new();
    let key = SigningKey::new();
    let policy = signed_by(&key.public(), "");
    let mut repository = signed.repository();
    let platform = Platform::of_this_machine().to_string();
    let (os, architecture) = platform.split_once('/').unwrap();
    let architecture = architecture.split('/').next().unwrap();
    // Another manifest, for another platform.
    let url = format!(
        "http://{}/v2/a/b/manifests/{}",
        repository.address, signed.digest
    );
    let manifest = ureq::get(&url)
        .header("accept", crate::signing::MANIFEST)
        .call()
        .unwrap();
    let manifest = manifest.into_body().read_to_vec().unwrap();
    let mut manifest: Value = serde_json::from_slice(&manifest).unwrap();
    let size = manifest.to_string().len();
    manifest["annotations"] = json!({"other": "yes"});
    let other = manifest.to_string();
    let other_digest = guest_pull::digest::Digest::of(other.as_bytes()).to_string();
    repository.put_manifest(&other_digest, crate::signing::MANIFEST, other.as_bytes());
    let entry = |digest: &str, os: &str, architecture: &str| {
        json!({"mediaType": crate::signing::MANIFEST, "size": size, "digest": digest,
            "platform": {"os": os, "architecture": architecture}})
    };
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [
        entry(&other_digest, "plan9", "mips"), entry(&signed.digest, os, architecture),
    ]});
    let index = index.to_string();
    repository.put_manifest("many", INDEX, index.as_bytes());
    let index_digest = guest_pull::digest::Digest::of(index.as_bytes()).to_string();
    let image = format!("{}:many", signed.name());
    let sign = |digest: &str| {
        let payload = payload(&signed.name(), digest);
        let signature = key.sign(&payload);
        put_signatures(&mut signed.repository(), digest, &[(payload, signature)]);
    };
    check_refused(
        &policy,
        &image,
        &format!(
            "there is no signature of {index_digest} or {}",
            signed.digest
        ),
    );
    sign(&other_digest);
    check_refused(&policy, &image, "there is no signature of");
    sign(&index_digest);
    assert_eq!(check(&policy, &image), Ok(()));
    check_refused(&policy, &signed.image, "there is no signature of");
    sign(&signed.digest);
    assert_eq!(check(&policy, &signed.image), Ok(()));
    put_signatures(&mut signed.repository(), &index_digest, &[]);
    assert_eq!(check(&policy, &image), Ok(()));
}

/// Many signatures, or large ones, don't hold a pull up.
#[test]
fn policy_json_signatures_are_limited() {
    let signed = Signed::new();
    let key = SigningKey::new();
    let policy = signed_by(&key.public(), "");
    let good = payload(&signed.name(), &signed.digest);
    let signature = key.sign(&good);
    let bad = (b"{}".to_vec(), vec![0; 70]);
    let mut many = vec![bad.clone(); 127];
    many.push((good.clone(), signature.clone()));
    put_signatures(&mut signed.repository(), &signed.digest, &many);
    assert_eq!(check(&policy, &signed.image), Ok(()));
    many.insert(0, bad);
    put_signatures(&mut signed.repository(), &signed.digest, &many);
    check_refused(&policy, &signed.image, "there are more than 128 signatures");
    let mut large: Value = serde_json::from_slice(&good).unwrap();
    large["optional"] = json!({"padding": "x".repeat(1 << 20)});
    let large = large.to_string().into_bytes();
    let signature = key.sign(&large);
    put_signatures(
        &mut signed.repository(),
        &signed.digest,
        &[(large, signature)],
    );
    check_refused(&policy, &signed.image, "at most 1048576 are read");
}

/// What can't be had or used of a policy refuses the image, with the reason; an image that it rejects is not asked for.
#[test]
fn policy_json_what_is_not_understood_refuses() {
    let image = "127.0.0.1:1/a/b:1";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key.pub");
    for (policy, what) in [
        (r#"{"default": [{"type": "reject"}]}"#.to_owned(), "it does not allow 127.0.0.1:1/a/b:1: default: reject"),
        (r#"{"default": [{"type": "signedBaseLayer"}]}"#.to_owned(), "\"signedBaseLayer\" is not known"),
        (
            r#"{"default": [{"type": "sigstoreSigned", "fulcio": {}, "rekorPublicKeyData": "eA=="}]}"#.to_owned(),
            "does not support fulcio",
        ),
        (signed_by(&path, ""), "there is no"),
        (signed_by(Path::new("kbs://x/a"), ""), "which is not kbs:///REPOSITORY/TYPE/TAG"),
        (r#"{"default": [{"type": "sigstoreSigned", "keyData": "%"}]}"#.to_owned(), "keyData of the image policy: not base64"),
        (r#"{"default": [{"type": "sigstoreSigned", "keyData": "eA=="}]}"#.to_owned(), "the key keyData is no public key in PEM"),
        ("{".to_owned(), "nothing is pulled until that is repaired"),
    ] {
        check_refused(&policy, image, what);
    }
    let key = SigningKey::new();
    for (pem, what) in [
        (key.pem().repeat(2), "more than one key"),
        (key.pem().replace("PUBLIC", "PRIVATE"), "not a public key"),
        (key.pem().replace("MFk", "MFo"), "not supported"),
    ] {
        fs::write(&path, pem).unwrap();
        check_refused(&signed_by(&path, ""), image, what);
    }
    // The stock puller takes the key itself for keyData.
    let policy = json!({"default": [{"type": "sigstoreSigned", "keyData": key.pem()}]});
    assert!(rules(&policy.to_string(), None, image).unwrap().is_some());
}
