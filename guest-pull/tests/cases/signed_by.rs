// SPDX-License-Identifier: Apache-2.0

//! Signatures by GPG, made by skopeo and gpg, and checked by skopeo beside this program.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use guest_pull::config::{Image, Registries};
use guest_pull::plan::Plan;
use guest_pull::resource::{Source, Text};
use tempfile::TempDir;

use crate::caller::wait_until;
use crate::host::{output, run, support, tool};
use crate::registry::Registry;
use crate::signing::{check_policy, digest_of};
use crate::stand_in::{Answer, StandIn};

/// A registry, a home of gpg, and a storage of signatures.
struct Place {
    dir: TempDir,
    registry: Registry,
    image: String,
    digest: String,
}

impl Place {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        run(support("make-image").arg(at("layout")));
        let registry = Registry::start();
        let image = registry.push(&at("layout"));
        let digest = digest_of(&registry.address, "a/b", "1");
        let mut home = Command::new("install");
        run(home.args(["-d", "-m", "700"]).arg(at("gpg")));
        fs::create_dir(at("registries.d")).unwrap();
        let text = format!(
            "default-docker:\n  lookaside: file://{}\n",
            at("lookaside").display()
        );
        fs::write(at("registries.d/all.yaml"), text).unwrap();
        Self {
            dir,
            registry,
            image,
            digest,
        }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn gpg(&self) -> Command {
        let mut gpg = Command::new("gpg");
        gpg.args([
            "--batch",
            "--quiet",
            "--yes",
            "--no-tty",
            "--pinentry-mode",
            "loopback",
            "--passphrase",
            "",
        ]);
        gpg.env("GNUPGHOME", self.at("gpg"));
        gpg
    }

    /// Makes a key, whose name is `NAME@example`.
    fn make_key(&self, name: &str, algorithm: &str, usage: &str) {
        let mut gpg = self.gpg();
        run(gpg.args([
            "--quick-gen-key",
            &format!("<{name}@example>"),
            algorithm,
            usage,
            "never",
        ]));
    }

    fn fingerprint(&self, name: &str) -> String {
        let mut gpg = self.gpg();
        let text = run(gpg.args(["--list-keys", "--with-colons", &format!("{name}@example")]));
        let line = text.lines().find(|line| line.starts_with("fpr:")).unwrap();
        line.split(':').nth(9).unwrap().to_owned()
    }

    /// The path of a public key.
    fn public(&self, name: &str) -> PathBuf {
        let path = self.at(&format!("{name}.gpg"));
        let mut gpg = self.gpg();
        gpg.args(["--output"]).arg(&path);
        run(gpg.args(["--export", &format!("{name}@example")]));
        path
    }

    fn skopeo(&self, policy: Option<&str>) -> Command {
        let mut skopeo = tool("SKOPEO", "skopeo");
        skopeo.env("GNUPGHOME", self.at("gpg"));
        match policy {
            Some(policy) => {
                fs::write(self.at("policy.json"), policy).unwrap();
                skopeo.arg("--policy").arg(self.at("policy.json"))
            }
            None => skopeo.arg("--insecure-policy"),
        };
        skopeo.arg("--registries.d").arg(self.at("registries.d"));
        skopeo.args(["copy", "-q"]);
        skopeo
    }

    /// Has skopeo sign the image by a key, as `identity` if that is given.
    fn sign(&self, name: &str, identity: Option<&str>) {
        let _ = fs::remove_dir_all(self.at("lookaside"));
        let mut skopeo = self.skopeo(None);
        skopeo.args([
            "--src-tls-verify=false",
            "--dest-tls-verify=false",
            "--sign-by",
        ]);
        skopeo.arg(self.fingerprint(name));
        if let Some(identity) = identity {
            skopeo.args(["--sign-identity", identity]);
        }
        let image = format!("docker://{}", self.image);
        run(skopeo.args([&image, &image]));
    }

    /// Where the only signature is.
    fn signature(&self) -> PathBuf {
        let hex = self.digest.trim_start_matches("sha256:");
        self.at("lookaside")
            .join(format!("a/b@sha256={hex}/signature-1"))
    }

    /// The configuration that says where signatures are.
    fn lookaside(&self) -> String {
        fs::read_to_string(self.at("registries.d/all.yaml")).unwrap()
    }

    /// What skopeo says, and what this program says, which must be the same.
    fn check(&self, policy: &str, image: &str) -> Result<(), String> {
        let _ = fs::remove_dir_all(self.at("copy"));
        let mut skopeo = self.skopeo(Some(policy));
        skopeo.arg("--src-tls-verify=false");
        skopeo.args([
            format!("docker://{image}"),
            format!("dir:{}", self.at("copy").display()),
        ]);
        let (_, stderr, code) = output(&mut skopeo);
        let ours = check(policy, image, &self.lookaside());
        assert_eq!(
            ours.is_ok(),
            code == Some(0),
            "{image} {policy}: {ours:?} {stderr}"
        );
        ours
    }

    fn check_refused(&self, policy: &str, image: &str, what: &str) {
        let error = self.check(policy, image).expect_err(what);
        assert!(error.contains(what), "{what}: {error}");
    }
}

fn check(policy: &str, image: &str, lookaside: &str) -> Result<(), String> {
    check_policy(policy, Some(lookaside), image)
}

fn signed_by(key: &Path, more: &str) -> String {
    format!(
        r#"{{"default": [{{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "{}"{more}}}]}}"#,
        key.display()
    )
}

/// Signatures by keys of the kinds that gpg makes; and by another key, or broken: as skopeo says.
#[test]
fn policy_json_signed_by_keys_of_gpg() {
    let place = Place::new();
    place.make_key("other", "ed25519", "sign");
    let other = place.public("other");
    for algorithm in ["rsa2048", "ed25519", "nistp256", "nistp384"] {
        place.make_key(algorithm, algorithm, "sign");
        let key = place.public(algorithm);
        place.sign(algorithm, None);
        assert_eq!(
            place.check(&signed_by(&key, ""), &place.image),
            Ok(()),
            "{algorithm}"
        );
        place.check_refused(&signed_by(&other, ""), &place.image, "it is by another key");
        // Both in one ring.
        let both = place.at("both.gpg");
        fs::write(
            &both,
            [fs::read(&other).unwrap(), fs::read(&key).unwrap()].concat(),
        )
        .unwrap();
        assert_eq!(place.check(&signed_by(&both, ""), &place.image), Ok(()));
        // A byte of what is signed, or of the signature. gpg packs both.
        let good = fs::read(place.signature()).unwrap();
        let mut unpacked = Vec::new();
        let mut inflate = flate2::read::DeflateDecoder::new(&good[2..]);
        std::io::copy(&mut inflate, &mut unpacked).unwrap();
        fs::write(place.signature(), &unpacked).unwrap();
        assert_eq!(
            place.check(&signed_by(&key, ""), &place.image),
            Ok(()),
            "{algorithm}"
        );
        for at in [40, 100, unpacked.len() - 3] {
            let mut bad = unpacked.clone();
            bad[at] ^= 1;
            fs::write(place.signature(), bad).unwrap();
            assert!(
                place.check(&signed_by(&key, ""), &place.image).is_err(),
                "{algorithm} {at}"
            );
        }
        if algorithm != "ed25519" {
            continue;
        }
        for length in [0, 1, 100, unpacked.len() - 1] {
            fs::write(place.signature(), &unpacked[..length]).unwrap();
            assert!(
                place.check(&signed_by(&key, ""), &place.image).is_err(),
                "{length}"
            );
        }
    }
}

/// What the signature says, and where the keys are in the policy: as skopeo says.
#[test]
fn policy_json_signed_by_identities_and_sources() {
    let place = Place::new();
    place.make_key("key", "ed25519", "sign");
    let key = place.public("key");
    place.check_refused(
        &signed_by(&key, ""),
        &place.image,
        "there is no signature of sha256:",
    );
    place.sign("key", None);
    let by_digest = format!("{}/a/b@{}", place.registry.address, place.digest);
    let of = |kind: &str| {
        signed_by(
            &key,
            &format!(r#", "signedIdentity": {{"type": "{kind}"}}"#),
        )
    };
    assert_eq!(place.check(&signed_by(&key, ""), &by_digest), Ok(()));
    assert_eq!(place.check(&of("matchExact"), &place.image), Ok(()));
    place.check_refused(&of("matchExact"), &by_digest, "which is not");
    let armoured = place.at("key.asc");
    run(place
        .gpg()
        .arg("--output")
        .arg(&armoured)
        .args(["--armor", "--export", "key@example"]));
    assert_eq!(place.check(&signed_by(&armoured, ""), &place.image), Ok(()));
    let data = STANDARD.encode(fs::read(&key).unwrap());
    let text = format!(
        r#"{{"default": [{{"type": "signedBy", "keyType": "GPGKeys", "keyData": "{data}"}}]}}"#
    );
    assert_eq!(place.check(&text, &place.image), Ok(()));
    place.sign("key", Some("other.example/x/y:7"));
    place.check_refused(
        &signed_by(&key, ""),
        &place.image,
        "\"other.example/x/y:7\"",
    );
    let repository = r#", "signedIdentity": {"type": "exactRepository", "dockerRepository": "other.example/x/y"}"#;
    assert_eq!(
        place.check(&signed_by(&key, repository), &place.image),
        Ok(())
    );
    // cosign's payload is none of GPG's.
    let payload = crate::signing::payload(&place.image, &place.digest);
    fs::write(place.at("payload"), payload).unwrap();
    let mut gpg = place.gpg();
    gpg.args(["-u", "key@example", "--sign", "--output"])
        .arg(place.signature());
    run(gpg.arg(place.at("payload")));
    place.check_refused(
        &signed_by(&key, ""),
        &place.image,
        "its payload is not understood",
    );
}

/// A key that has ended doesn't count any more, even for what it signed before: as skopeo says.
#[test]
fn policy_json_signed_by_keys_that_have_ended() {
    let place = Place::new();
    place.make_key("key", "ed25519", "sign");
    place.sign("key", None);
    let key = place.public("key");
    assert_eq!(place.check(&signed_by(&key, ""), &place.image), Ok(()));
    run(place
        .gpg()
        .args(["--quick-set-expire", &place.fingerprint("key"), "10y"]));
    let key = place.public("key");
    assert_eq!(place.check(&signed_by(&key, ""), &place.image), Ok(()));
    run(place
        .gpg()
        .args(["--quick-set-expire", &place.fingerprint("key"), "seconds=1"]));
    let key = place.public("key");
    wait_until("the key does not end", || {
        check(&signed_by(&key, ""), &place.image, &place.lookaside()).is_err()
    });
    place.check_refused(&signed_by(&key, ""), &place.image, "has expired");
}

/// A revoked key doesn't count, as skopeo says; nor does a subkey.
#[test]
fn policy_json_signed_by_revoked_keys_and_subkeys() {
    let place = Place::new();
    place.make_key("revoked", "ed25519", "sign");
    place.sign("revoked", None);
    let key = place.public("revoked");
    assert_eq!(place.check(&signed_by(&key, ""), &place.image), Ok(()));
    let fingerprint = place.fingerprint("revoked");
    let revocation = place
        .at("gpg/openpgp-revocs.d")
        .join(format!("{fingerprint}.rev"));
    // gpg puts a colon there, so that nobody imports it by mistake.
    let text = fs::read_to_string(revocation)
        .unwrap()
        .replace(":-----BEGIN", "-----BEGIN");
    fs::write(place.at("revocation"), text).unwrap();
    run(place.gpg().arg("--import").arg(place.at("revocation")));
    let key = place.public("revoked");
    place.check_refused(&signed_by(&key, ""), &place.image, "is revoked");
    // An old key, which speaks of itself by SHA-1. (Today's skopeo takes no such keys.)
    let by_sha1 = ["--cert-digest-algo", "SHA1", "--allow-weak-key-signatures"];
    let new_key = [
        "--quick-gen-key",
        "<old@example>",
        "rsa2048",
        "sign",
        "never",
    ];
    run(place.gpg().args(by_sha1).args(new_key));
    place.sign("old", None);
    let key = place.public("old");
    assert_eq!(
        check(&signed_by(&key, ""), &place.image, &place.lookaside()),
        Ok(())
    );
    let fingerprint = place.fingerprint("old");
    let revocation = place
        .at("gpg/openpgp-revocs.d")
        .join(format!("{fingerprint}.rev"));
    let text = fs::read_to_string(revocation)
        .unwrap()
        .replace(":-----BEGIN", "-----BEGIN");
    fs::write(place.at("revocation"), text).unwrap();
    run(place
        .gpg()
        .args(by_sha1)
        .arg("--import")
        .arg(place.at("revocation")));
    let key = place.public("old");
    let error = check(&signed_by(&key, ""), &place.image, &place.lookaside()).unwrap_err();
    assert!(error.contains("is revoked"), "{error}");
    place.make_key("sub", "ed25519", "cert");
    let fingerprint = place.fingerprint("sub");
    run(place
        .gpg()
        .args(["--quick-add-key", &fingerprint, "ed25519", "sign", "never"]));
    place.sign("sub", None);
    let key = place.public("sub");
    let error = check(&signed_by(&key, ""), &place.image, &place.lookaside()).unwrap_err();
    assert!(error.contains("it is by the subkey"), "{error}");
}

/// A revocation counts wherever it is: behind a subkey, behind another key, in another ring; and so does a newer copy of a
/// key, in any order.
#[test]
fn policy_json_signed_by_copies_of_keys() {
    let place = Place::new();
    place.make_key("key", "ed25519", "sign");
    place.make_key("other", "ed25519", "sign");
    let fingerprint = place.fingerprint("key");
    run(place
        .gpg()
        .args(["--quick-add-key", &fingerprint, "cv25519", "encr", "never"]));
    place.sign("key", None);
    let ring = |name: &str, parts: &[&[u8]]| {
        fs::write(place.at(name), parts.concat()).unwrap();
        place.at(name)
    };
    let read = |name: &str| fs::read(place.public(name)).unwrap();
    let (old, other) = (read("key"), read("other"));
    let both = |first: &Path, second: &Path| {
        let (first, second) = (first.display(), second.display());
        format!(
            r#"{{"default": [{{"type": "signedBy", "keyType": "GPGKeys", "keyPaths": ["{first}", "{second}"]}}]}}"#
        )
    };
    let check_ours = |policy: &str| check(policy, &place.image, &place.lookaside());
    let old_ring = ring("old", &[&old]);
    let other_ring = ring("others", &[&other]);
    assert_eq!(
        place.check(&both(&old_ring, &other_ring), &place.image),
        Ok(())
    );
    // Not for signing from a time on that is over: the newest counts.
    run(place
        .gpg()
        .args(["--quick-set-expire", &fingerprint, "seconds=1"]));
    let ended = ring("ended", &[&read("key")]);
    wait_until("the key does not end", || {
        check_ours(&signed_by(&ended, "")).is_err()
    });
    place.check_refused(&both(&old_ring, &ended), &place.image, "has expired");
    place.check_refused(&both(&ended, &old_ring), &place.image, "has expired");

    let revocation = place
        .at("gpg/openpgp-revocs.d")
        .join(format!("{fingerprint}.rev"));
    let text = fs::read_to_string(revocation).unwrap();
    fs::write(
        place.at("armoured"),
        text.replace(":-----BEGIN", "-----BEGIN"),
    )
    .unwrap();
    let mut gpg = place.gpg();
    gpg.arg("--output").arg(place.at("revocation"));
    run(gpg.arg("--dearmor").arg(place.at("armoured")));
    let revocation = fs::read(place.at("revocation")).unwrap();
    // gpg looks for it in front of a ring, or behind its key.
    for policy in [
        signed_by(&ring("behind-subkey", &[&old, &revocation]), ""),
        signed_by(&ring("behind-other", &[&old, &other, &revocation]), ""),
        signed_by(&ring("in-front", &[&revocation, &old]), ""),
        both(&old_ring, &ring("of-others", &[&other, &revocation])),
    ] {
        let error = check_ours(&policy).unwrap_err();
        assert!(error.contains("is revoked"), "{policy}: {error}");
    }
    run(place.gpg().arg("--import").arg(place.at("revocation")));
    let revoked = read("key");
    let new_ring = ring("new", &[&revoked]);
    for policy in [
        both(&old_ring, &new_ring),
        both(&new_ring, &old_ring),
        signed_by(&ring("old-new", &[&old, &revoked]), ""),
        signed_by(&ring("new-old", &[&revoked, &old]), ""),
    ] {
        place.check_refused(&policy, &place.image, "is revoked");
    }
    // Another key is not revoked by it.
    place.sign("other", None);
    let policy = signed_by(&ring("behind-other", &[&old, &other, &revocation]), "");
    assert_eq!(check_ours(&policy), Ok(()));
}

/// The keys go to the worker once for each place where the image may be; too many of those are refused before.
#[test]
fn policy_json_keys_for_many_places() {
    let place = Place::new();
    place.make_key("key", "ed25519", "sign");
    let key = fs::read(place.public("key")).unwrap();
    let large = place.at("large.gpg");
    fs::write(&large, key.repeat(330_000 / key.len())).unwrap();
    let plan = |mirrors: usize| {
        let mirror = "[[registry.mirror]]\nlocation = 'm.example'\n".repeat(mirrors);
        let text = format!("[[registry]]\nlocation = 'r.example'\n{mirror}");
        let config = Image {
            policy: Some(Text::Inline(signed_by(&large, ""))),
            sigstore: Some(Text::Inline(place.lookaside())),
            credential: Source::File(place.at("none.json")),
            registries: Some(Registries::parse(text.as_bytes(), "", &mut Vec::new()).unwrap()),
            ..Image::default()
        };
        Plan::make(&config, "r.example/a:1", Path::new("/nowhere"))
    };
    assert_eq!(plan(4).unwrap().places.len(), 5);
    let error = plan(7).unwrap_err().message;
    assert!(error.contains("8 places"), "{error}");
}

/// A signature that has ended doesn't count any more: as skopeo says.
#[test]
fn policy_json_signed_by_signatures_that_have_ended() {
    let place = Place::new();
    place.make_key("key", "ed25519", "sign");
    place.sign("key", None);
    let key = place.public("key");
    let mut gpg = place.gpg();
    let payload = place.at("payload");
    run(gpg
        .arg("--output")
        .arg(&payload)
        .arg("--decrypt")
        .arg(place.signature()));
    let mut gpg = place.gpg();
    gpg.args([
        "-u",
        "key@example",
        "--default-sig-expire",
        "seconds=1",
        "--sign",
        "--output",
    ]);
    run(gpg.arg(place.signature()).arg(&payload));
    wait_until("the signature does not end", || {
        check(&signed_by(&key, ""), &place.image, &place.lookaside()).is_err()
    });
    place.check_refused(&signed_by(&key, ""), &place.image, "it has expired");
}

/// A storage on the web, which is asked without the registry's login; and none configured.
#[test]
fn policy_json_signed_by_a_storage_on_the_web() {
    let place = Place::new();
    place.make_key("key", "ed25519", "sign");
    let key = place.public("key");
    place.sign("key", None);
    let signature = fs::read(place.signature()).unwrap();
    let hex = place.digest.trim_start_matches("sha256:");
    let wanted = format!("/store/a/b@sha256={hex}/signature-2");
    let server = StandIn::start({
        let wanted = wanted.clone();
        move |asked| match &asked.path {
            path if *path == wanted => Answer::new(302, "").with("Location", "/elsewhere"),
            path if path == "/elsewhere" => Answer::new(200, signature.clone()),
            path if path.ends_with("/signature-1") => Answer::new(200, "none"),
            _ => Answer::new(404, ""),
        }
    });
    let lookaside = format!(
        "docker:\n  {}:\n    sigstore: http://{}/store\n",
        place.registry.address, server.address
    );
    assert_eq!(
        check(&signed_by(&key, ""), &place.image, &lookaside),
        Ok(())
    );
    let asked = server.asked();
    assert!(asked.iter().any(|asked| asked.path == wanted), "{asked:?}");
    assert!(asked.iter().all(|asked| asked.authorization.is_none()));
    let large = place.at("large.gpg");
    fs::write(&large, fs::read(&key).unwrap().repeat(3000)).unwrap();
    let error = check(&signed_by(&large, ""), &place.image, &lookaside).unwrap_err();
    assert!(error.contains("its keys are too large"), "{error}");
    let other = "docker:\n  r.example:\n    sigstore: file:///x\n";
    let error = check(&signed_by(&key, ""), &place.image, other).unwrap_err();
    assert!(error.contains("has no lookaside for it"), "{error}");
}
