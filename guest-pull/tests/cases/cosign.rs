// SPDX-License-Identifier: Apache-2.0

//! Signatures of cosign itself: version 2, which puts them under a tag, and version 3, whose bundles refer to the image.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::host::{output, rare_tool, run};
use crate::signatures::{Signed, check, check_refused};
use crate::signing::signed_by;

/// cosign of one version, and its keys. It needs no network.
struct Cosign {
    variable: &'static str,
    dir: TempDir,
}

impl Cosign {
    /// The one that a variable of the environment names, if it is there.
    fn new(variable: &'static str) -> Option<Self> {
        rare_tool(variable, "cosign")?;
        let dir = tempfile::tempdir().unwrap();
        Some(Self { variable, dir })
    }

    fn command(&self) -> Command {
        let mut cosign = rare_tool(self.variable, "cosign").unwrap();
        cosign
            .env("COSIGN_PASSWORD", "")
            .env("HOME", self.dir.path());
        cosign.current_dir(self.dir.path());
        cosign
    }

    /// Makes a key pair, by cosign itself or by openssl for cosign to import; the paths of both.
    fn key(&self, name: &str, algorithm: &[&str]) -> (PathBuf, PathBuf) {
        let at = |end: &str| self.dir.path().join(format!("{name}.{end}"));
        if algorithm.is_empty() {
            let prefix = format!("--output-key-prefix={name}");
            run(self.command().args(["generate-key-pair", &prefix]));
        } else {
            let mut openssl = Command::new("openssl");
            openssl.args(["genpkey", "-algorithm"]).args(algorithm);
            run(openssl.arg("-out").arg(at("pem")));
            let prefix = format!("--output-key-prefix={name}");
            run(self
                .command()
                .args(["import-key-pair", &prefix, "--key"])
                .arg(at("pem")));
        }
        (at("key"), at("pub"))
    }

    fn sign(&self, key: &Path, image: &str, more: &[&str]) {
        let mut cosign = self.command();
        cosign.args([
            "sign",
            "--yes",
            "--allow-http-registry",
            "--tlog-upload=false",
        ]);
        run(cosign.arg("--key").arg(key).args(more).arg(image));
    }

    /// Whether cosign itself lets the image in.
    fn verifies(&self, key: &Path, image: &str) -> bool {
        let mut cosign = self.command();
        cosign.args(["verify", "--allow-http-registry", "--insecure-ignore-tlog"]);
        output(cosign.arg("--key").arg(key).arg(image)).2 == Some(0)
    }
}

/// That cosign and this program both say whether the image is signed by the key.
fn agree(cosign: &Cosign, key: &Path, image: &str, is_good: bool) {
    assert_eq!(cosign.verifies(key, image), is_good, "cosign: {image}");
    let found = check(&signed_by(key, ""), image);
    assert_eq!(found.is_ok(), is_good, "{image}: {found:?}");
}

/// What cosign 2 signs is let in, by the tag and by the digest; what it signs with another key or for another repository
/// is not.
#[test]
fn policy_json_signatures_of_cosign_2() {
    let Some(cosign) = Cosign::new("COSIGN_2") else {
        return;
    };
    let signed = Signed::new();
    let (key, public) = cosign.key("own", &[]);
    let (_, other) = cosign.key("other", &[]);
    agree(&cosign, &public, &signed.image, false);
    cosign.sign(&key, &signed.by_digest(), &[]);
    agree(&cosign, &public, &signed.image, true);
    agree(&cosign, &public, &signed.by_digest(), true);
    agree(&cosign, &other, &signed.image, false);
    let repository = |kind: &str| format!(r#", "signedIdentity": {{"type": "{kind}"}}"#);
    let policy = signed_by(&public, &repository("matchRepository"));
    assert_eq!(check(&policy, &signed.image), Ok(()));
    // It signs the repository alone.
    let policy = signed_by(&public, &repository("matchRepoDigestOrExact"));
    check_refused(&policy, &signed.image, "which is not");
    // Of other kinds, it imports this one.
    let (key, public) = cosign.key("ed25519", &["ED25519"]);
    agree(&cosign, &public, &signed.image, false);
    cosign.sign(&key, &signed.by_digest(), &[]);
    agree(&cosign, &public, &signed.image, true);
}

/// What cosign 3 signs, which is a bundle, is let in; and as version 2 signs, if it is told so. An attestation by the same
/// key is no signature.
#[test]
fn policy_json_signatures_of_cosign_3() {
    let Some(cosign) = Cosign::new("COSIGN") else {
        return;
    };
    const OFFLINE: &[&str] = &["--use-signing-config=false"];
    let signed = Signed::new();
    let (key, public) = cosign.key("own", &[]);
    let (_, other) = cosign.key("other", &[]);
    agree(&cosign, &public, &signed.image, false);
    cosign.sign(&key, &signed.by_digest(), OFFLINE);
    agree(&cosign, &public, &signed.image, true);
    agree(&cosign, &public, &signed.by_digest(), true);
    agree(&cosign, &other, &signed.image, false);
    let (key_of_rsa, public_of_rsa) =
        cosign.key("rsa", &["RSA", "-pkeyopt", "rsa_keygen_bits:3072"]);
    agree(&cosign, &public_of_rsa, &signed.image, false);
    cosign.sign(&key_of_rsa, &signed.by_digest(), OFFLINE);
    agree(&cosign, &public_of_rsa, &signed.image, true);
    // cosign 3.1 refuses its own bundles by such a key.
    let (key_of_p384, public_of_p384) =
        cosign.key("p384", &["EC", "-pkeyopt", "ec_paramgen_curve:P-384"]);
    let policy = signed_by(&public_of_p384, "");
    check_refused(&policy, &signed.image, "it is by another key");
    cosign.sign(&key_of_p384, &signed.by_digest(), OFFLINE);
    assert_eq!(check(&policy, &signed.image), Ok(()));
    let signed = Signed::new();
    let predicate = cosign.dir.path().join("predicate");
    fs::write(&predicate, r#"{"found": "flaws"}"#).unwrap();
    let mut attest = cosign.command();
    attest
        .args([
            "attest",
            "--yes",
            "--allow-http-registry",
            "--tlog-upload=false",
        ])
        .args(OFFLINE);
    attest
        .arg("--key")
        .arg(&key)
        .arg("--predicate")
        .arg(&predicate);
    run(attest.arg(signed.by_digest()));
    let error = check(&signed_by(&public, ""), &signed.image).unwrap_err();
    assert!(
        error.contains("there is no signature") || error.contains("a statement"),
        "{error}"
    );
    cosign.sign(
        &key,
        &signed.by_digest(),
        &[OFFLINE, &["--new-bundle-format=false"]].concat(),
    );
    agree(&cosign, &public, &signed.image, true);
}
