// SPDX-License-Identifier: Apache-2.0

//! Keys and signatures by the command `openssl`, put beside images as cosign does.

// Each of the tests' programs uses a part of it.
#![allow(dead_code)]

use std::fs;
use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::auth_json::image::ImageName;
use guest_pull::digest::Digest;
use guest_pull::policy::{Rules, local_signature, rules_for};
use guest_pull::pull;
use guest_pull::question::{Answer, Question};
use guest_pull::registry::platform::Platform;
use guest_pull::registry::{Client, Options};
use guest_pull::resource::Text;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::host::{run, text};

pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
pub const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";

/// A key of `openssl genpkey`, and how it signs.
pub struct SigningKey {
    dir: TempDir,
    how: &'static [&'static str],
}

impl SigningKey {
    /// A P-256 key, as `cosign generate-key-pair` makes it.
    pub fn new() -> Self {
        Self::of(&["EC", "-pkeyopt", "ec_paramgen_curve:P-256"], &["-sha256"])
    }

    /// Arguments of `openssl genpkey -algorithm`, and of `openssl dgst`; without those, the key signs a message itself.
    pub fn of(algorithm: &[&str], how: &'static [&'static str]) -> Self {
        let key = Self {
            dir: tempfile::tempdir().unwrap(),
            how,
        };
        let mut openssl = Command::new("openssl");
        openssl
            .args(["genpkey", "-quiet", "-algorithm"])
            .args(algorithm);
        // Debian 12's has no such option.
        let is_quiet = openssl
            .arg("-out")
            .arg(key.at("key"))
            .output()
            .unwrap()
            .status
            .success();
        if !is_quiet {
            let mut openssl = Command::new("openssl");
            openssl.args(["genpkey", "-algorithm"]).args(algorithm);
            run(openssl.arg("-out").arg(key.at("key")));
        }
        let mut openssl = Command::new("openssl");
        openssl.args(["pkey", "-pubout", "-in"]).arg(key.at("key"));
        fs::write(key.public(), run(&mut openssl)).unwrap();
        key
    }

    fn at(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// The path of the public key.
    pub fn public(&self) -> std::path::PathBuf {
        self.at("key.pub")
    }

    /// The public key.
    pub fn pem(&self) -> String {
        fs::read_to_string(self.public()).unwrap()
    }

    pub fn sign(&self, message: &[u8]) -> Vec<u8> {
        fs::write(self.at("message"), message).unwrap();
        let (key, message, signature) = (self.at("key"), self.at("message"), self.at("signature"));
        let mut openssl = Command::new("openssl");
        match self.how {
            [] => openssl
                .args(["pkeyutl", "-sign", "-rawin", "-inkey", text(&key)])
                .args(["-in", text(&message), "-out", text(&signature)]),
            how => openssl.arg("dgst").args(how).args([
                "-sign",
                text(&key),
                "-out",
                text(&signature),
                text(&message),
            ]),
        };
        run(&mut openssl);
        fs::read(signature).unwrap()
    }
}

/// The payload of a signature.
pub fn payload(reference: &str, digest: &str) -> Vec<u8> {
    let value = json!({"critical": {
        "identity": {"docker-reference": reference},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
    }, "optional": null});
    value.to_string().into_bytes()
}

/// A statement in an envelope, in a bundle.
pub fn bundle(key: &SigningKey, predicate: &str, digest: &str) -> Value {
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v1", "predicateType": predicate, "predicate": {},
        "subject": [{"digest": {"sha256": digest.trim_start_matches("sha256:")}}],
    });
    let statement = statement.to_string();
    let kind = "application/vnd.in-toto+json";
    let message = format!(
        "DSSEv1 {} {kind} {} {statement}",
        kind.len(),
        statement.len()
    );
    let signature = STANDARD.encode(key.sign(message.as_bytes()));
    json!({
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": ""}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": STANDARD.encode(statement), "payloadType": kind, "signatures": [{"sig": signature, "keyid": ""}],
        },
    })
}

/// Where documents and blobs of a repository go.
pub trait Repository {
    fn put_blob(&mut self, blob: &[u8]);
    fn put_manifest(&mut self, reference: &str, media_type: &str, manifest: &[u8]);
}

/// A repository of a registry for everybody, which takes pushes.
pub struct Pushed {
    pub address: String,
    pub repository: &'static str,
}

impl Repository for Pushed {
    fn put_blob(&mut self, blob: &[u8]) {
        let base = format!(
            "http://{}/v2/{}/blobs/uploads/",
            self.address, self.repository
        );
        let answer = ureq::post(&base).send_empty().unwrap();
        let place = answer.headers()["location"].to_str().unwrap();
        let url = format!("{place}&digest={}", Digest::of(blob));
        let url = match place.starts_with('/') {
            true => format!("http://{}{url}", self.address),
            false => url,
        };
        let answer = ureq::put(&url).header("content-type", "application/octet-stream");
        assert_eq!(answer.send(blob).unwrap().status(), 201);
    }

    fn put_manifest(&mut self, reference: &str, media_type: &str, manifest: &[u8]) {
        let (address, repository) = (&self.address, self.repository);
        let url = format!("http://{address}/v2/{repository}/manifests/{reference}");
        let answer = ureq::put(&url).header("content-type", media_type);
        assert_eq!(answer.send(manifest).unwrap().status(), 201);
    }
}

fn put(repository: &mut dyn Repository, media_type: &str, blob: &[u8]) -> Value {
    repository.put_blob(blob);
    json!({"mediaType": media_type, "size": blob.len(), "digest": Digest::of(blob).to_string()})
}

/// Puts signatures under the tag for what has this digest: payloads, and their signatures.
pub fn put_signatures(
    repository: &mut dyn Repository,
    digest: &str,
    signatures: &[(Vec<u8>, Vec<u8>)],
) {
    let media_type = "application/vnd.dev.cosign.simplesigning.v1+json";
    let layers = signatures.iter().map(|(payload, signature)| {
        let mut layer = put(repository, media_type, payload);
        let signature = STANDARD.encode(signature);
        layer["annotations"] = json!({"dev.cosignproject.cosign/signature": signature});
        layer
    });
    let layers: Vec<_> = layers.collect();
    let config = put(
        repository,
        "application/vnd.oci.image.config.v1+json",
        b"{}",
    );
    let manifest =
        json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
    let tag = format!("{}.sig", digest.replace(':', "-"));
    repository.put_manifest(&tag, MANIFEST, manifest.to_string().as_bytes());
}

/// Puts bundles into the repository, and gives back the index of them that a registry with the API answers.
pub fn put_bundles(repository: &mut dyn Repository, digest: &str, bundles: &[Value]) -> Vec<u8> {
    let entries = bundles.iter().map(|bundle| {
        let layer = put(repository, BUNDLE, bundle.to_string().as_bytes());
        let config = put(repository, "application/vnd.oci.empty.v1+json", b"{}");
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": BUNDLE, "config": config, "layers": [layer],
            "subject": {"mediaType": MANIFEST, "digest": digest, "size": 1},
        });
        let manifest = manifest.to_string();
        let id = Digest::of(manifest.as_bytes()).to_string();
        repository.put_manifest(&id, MANIFEST, manifest.as_bytes());
        json!({"mediaType": MANIFEST, "artifactType": BUNDLE, "digest": id, "size": manifest.len()})
    });
    let entries: Vec<_> = entries.collect();
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries});
    index.to_string().into_bytes()
}

/// The digest of what the registry has under a tag.
pub fn digest_of(address: &str, repository: &str, reference: &str) -> String {
    let url = format!("http://{address}/v2/{repository}/manifests/{reference}");
    let accept = [MANIFEST, INDEX].join(", ");
    let mut answer = ureq::get(&url).header("accept", &accept).call().unwrap();
    Digest::of(&answer.body_mut().read_to_vec().unwrap()).to_string()
}

/// A policy for all images: one requirement, `sigstoreSigned` by the key in a file, and more members of it.
pub fn signed_by(key: &Path, more: &str) -> String {
    format!(
        r#"{{"default": [{{"type": "sigstoreSigned", "keyPath": "{}"{more}}}]}}"#,
        key.display()
    )
}

/// The rules of a policy for an image; `lookaside` is the configuration that says where GPG's signatures are.
pub fn rules(policy: &str, lookaside: Option<&str>, image: &str) -> Result<Option<Rules>, String> {
    let [policy, lookaside] =
        [Some(policy), lookaside].map(|text| text.map(|text| Text::Inline(text.to_owned())));
    let image = ImageName::parse(image).unwrap();
    let nowhere = Path::new("/nowhere");
    let rules = rules_for(policy.as_ref(), lookaside.as_ref(), nowhere, &image);
    rules.map_err(|failure| failure.message)
}

/// Checks the policy as a pull does; else the reason.
pub fn check_policy(policy: &str, lookaside: Option<&str>, image: &str) -> Result<(), String> {
    let Some(rules) = rules(policy, lookaside, image)? else {
        return Ok(());
    };
    // As the worker gets them.
    let rules = Rules::of_json(&rules.to_json()).unwrap();
    let name = ImageName::parse(image).unwrap();
    let options = Options {
        plain_http: true,
        ..Options::default()
    };
    let client = Client::new(&name.registry, &name.repository, None, &options);
    let found = pull::find(&client, &name.suffix[1..], &Platform::of_this_machine());
    let documents = found.map_err(|error| error.to_string())?.documents;
    // As the mounter answers.
    let ask = |question: &Question| match question {
        Question::Signature(wanted) => local_signature([&rules], wanted).map(Answer::Signature),
        _ => panic!("the rules ask {question:?}"),
    };
    let checked = rules.check(&client, &ask, &documents);
    checked.map_err(|error| error.to_string())
}
