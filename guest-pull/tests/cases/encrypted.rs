// SPDX-License-Identifier: Apache-2.0

//! Encrypted layers. An image that a stock skopeo encrypted, with the real daemon, is in the daemon's own tests.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use guest_pull::digest::Digest;
use serde_json::json;
use tempfile::TempDir;
use ttrpc::Code;

use crate::host::{guest_pull, is_root, mounts_below, output, text};
use crate::image::{Repository, archive, noise};
use crate::sealed::{
    COMPRESSIONS, Provider, Sealed, assert_no_key, check_files, encrypt, files, has_openssl, hmac,
    repository,
};
use crate::stand_in::StandIn;

/// Packets by their schemes: what annotations say of keys.
type Keys = &'static [(&'static str, &'static [&'static str])];

/// The archive of a layer: more than one part of a pipe, and what shrinks and what doesn't.
fn content(seed: u64) -> Vec<u8> {
    archive(&[
        (format!("noise-{seed}"), noise(seed, 500_000)),
        (format!("text-{seed}"), b"the same words ".repeat(20_000)),
    ])
}

/// A directory with a store, a bundle and a daemon's socket.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn socket(&self) -> PathBuf {
        self.at("cdh.sock")
    }

    fn store(&self) -> PathBuf {
        self.at("store")
    }

    /// Pulls the image of a server, and mounts it where that is possible; gives what the program says, and its exit
    /// status.
    fn pull(&self, server: &StandIn, with_daemon: bool) -> (String, Option<i32>) {
        let image = format!("{}/a/b:1", server.address);
        let mut command = guest_pull(&["pull", "--plain-http", "--store", text(&self.store())]);
        if is_root() {
            command.arg("--bundle").arg(self.at("bundle"));
        }
        if with_daemon {
            command.arg("--cdh-sock").arg(self.socket());
        }
        let (stdout, stderr, code) = output(command.arg(&image));
        (format!("{stdout}{stderr}"), code)
    }

    /// Fails if anything is mounted or stored.
    fn assert_nothing_left(&self, what: &str) {
        assert_eq!(files(&self.store()), [], "{what}");
        assert_eq!(mounts_below(self.0.path()), 0, "{what}");
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        unmount(self);
    }
}

fn unmount(place: &Place) {
    // It need not be mounted.
    output(Command::new("umount").arg(place.at("bundle/rootfs")));
}

fn serve(repository: Repository) -> StandIn {
    StandIn::start(move |asked| repository.answer(&asked.path))
}

/// Pulls an image of this one layer with a daemon that has its key; it must fail with all parts of the text, show no key
/// and leave nothing.
fn refused(what: &str, layer: &Sealed, parts: &[&str]) {
    let place = Place::new();
    let registry = serve(repository(std::slice::from_ref(layer)));
    let _provider = Provider::of(&place.socket(), std::slice::from_ref(layer));
    let (said, code) = place.pull(&registry, true);
    assert_eq!(code, Some(1), "{what}: {said}");
    for part in [&["layer 1 of 1"], parts].concat() {
        assert!(said.contains(part), "{what}: {said}");
    }
    assert!(said.lines().all(|line| line.len() < 1500), "{what}: {said}");
    assert_no_key(&said, &layer.key);
    place.assert_nothing_left(what);
}

/// However the archive was compressed before another implementation encrypted it, the layer is the one of the plain image:
/// the same file, byte for byte. The content decides how it is compressed, and not the media type.
#[test]
fn encrypted_layers_are_decrypted() {
    if !has_openssl() {
        return;
    }
    let mut layers: Vec<_> = (0..)
        .zip(COMPRESSIONS)
        .map(|(seed, compression)| Sealed::of(&content(seed), compression))
        .collect();
    // Docker's type, and one that is wrong.
    layers.push(Sealed::of(&content(3), "+gzip"));
    layers[3].media_type = "application/vnd.docker.image.rootfs.diff.tar.gzip+enc".to_owned();
    layers.push(Sealed::of(&content(4), "+gzip"));
    layers[4].media_type = "application/vnd.oci.image.layer.v1.tar+zstd+encrypted".to_owned();
    layers.push(Sealed::of(&archive(&[]), "+gzip"));
    for (number, layer) in layers.iter_mut().enumerate() {
        let packet = format!(r#"{{"kid":"here-{number}"}}"#);
        layer.keys("provider.attestation-agent", &[&packet]);
    }
    // Both implementations of ocicrypt look for the nonce there first.
    layers[1].public["cipheroptions"] = layers[1].secret["cipheroptions"].take();
    layers[2].public["cipheroptions"] = json!(null);
    let place = Place::new();
    let _provider = Provider::of(&place.socket(), &layers);
    let registry = serve(repository(&layers));
    let (said, code) = place.pull(&registry, true);
    assert_eq!(code, Some(0), "{said}");

    let archives: Vec<_> = (0..5).map(content).chain([archive(&[])]).collect();
    let (plain, _) = Repository::of(&archives);
    let other = Place::new();
    let (said, code) = other.pull(&serve(plain), false);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(files(&place.store()), files(&other.store()));
    check_files(&place.store());
    if is_root() {
        let text = fs::read(place.at("bundle/rootfs/noise-2")).unwrap();
        assert!(text == noise(2, 500_000));
    }
}

/// A layer may be encrypted for several recipients, of several providers: the first that the daemon can unwrap counts, and
/// those of the VM's own provider are tried first. A provider's other name is no matter, as for the stock puller.
#[test]
fn one_of_several_recipients_is_enough() {
    const OURS: &str = "provider.attestation-agent";
    const HERE: &str = r#"{"kid":"here"}"#;
    const ELSEWHERE: &str = r#"{"kid":"elsewhere"}"#;
    if !has_openssl() {
        return;
    }
    let cases: [(Keys, &[&str]); 6] = [
        (&[(OURS, &[HERE])], &[HERE]),
        (&[(OURS, &[ELSEWHERE, HERE])], &[ELSEWHERE, HERE]),
        (&[(OURS, &[HERE, ELSEWHERE])], &[HERE]),
        (&[("provider.a-vault", &["\0x"]), (OURS, &[HERE])], &[HERE]),
        (
            &[
                ("provider.a-vault", &["x"]),
                ("provider.other", &[HERE]),
                (OURS, &[ELSEWHERE]),
            ],
            &[ELSEWHERE, "x", HERE],
        ),
        (
            &[
                ("jwe", &["x"]),
                ("pgp", &["y"]),
                ("provider.other", &[HERE]),
            ],
            &[HERE],
        ),
    ];
    for (keys, expected) in cases {
        let mut layer = Sealed::of(&content(1), "+gzip");
        layer.remove_keys();
        for (scheme, packets) in keys {
            layer.keys(scheme, packets);
        }
        let layers = [layer];
        let place = Place::new();
        let provider = Provider::of(&place.socket(), &layers);
        let (said, code) = place.pull(&serve(repository(&layers)), true);
        assert_eq!(code, Some(0), "{keys:?}: {said}");
        assert_eq!(provider.asked(), expected, "{keys:?}");
    }
}

/// A layer whose key is not here is refused before anything of it is fetched; the text has the daemon's reason, the
/// provider and what to do.
#[test]
fn a_layer_for_others_is_refused() {
    if !has_openssl() {
        return;
    }
    let cases: [(Keys, &[&str]); 4] = [
        (
            &[("provider.attestation-agent", &[r#"{"kid":"k2"}"#])],
            &[
                "attestation-agent: the daemon refuses: NOT_FOUND: not for",
                "k2",
                "keys file",
            ],
        ),
        (
            &[("provider.a-vault", &["opaque"])],
            &[
                "a-vault: the daemon refuses: INVALID_ARGUMENT",
                "provider:attestation-agent:keyid=",
            ],
        ),
        (
            &[("provider.attestation-agent", &["1", "2", "3", "4", "5"])],
            &["for 3", "; and 2 more"],
        ),
        (
            &[("jwe", &["x"]), ("pkcs7", &["y"])],
            &["wrapped by jwe, pkcs7", "provider:attestation-agent:keyid="],
        ),
    ];
    for (keys, parts) in cases {
        let mut layer = Sealed::of(&content(1), "+gzip");
        layer.remove_keys();
        for (scheme, packets) in keys {
            layer.keys(scheme, packets);
        }
        refused(&format!("{keys:?}"), &layer, parts);
    }
    let mut layer = Sealed::of(&content(1), "+gzip");
    layer.keys("provider.attestation-agent", &[r#"{"kid":"k2"}"#]);
    let layers = [layer];
    let place = Place::new();
    let registry = serve(repository(&layers));
    let _provider = Provider::of(&place.socket(), &layers);
    place.pull(&registry, true);
    let blobs = registry.asked();
    let blobs = blobs.iter().filter(|asked| asked.path.contains("/blobs/"));
    // That of the configuration.
    assert_eq!(blobs.count(), 1);
}

/// Whatever was changed of an encrypted layer or its key, with digests made right, the layer is refused, and its reason is
/// the HMAC and not what the archive looks like then.
#[test]
fn a_changed_encrypted_layer_is_refused() {
    if !has_openssl() {
        return;
    }
    let good = Sealed::of(&content(1), "+gzip");
    let is = "its HMAC is wrong";
    let last = good.blob.len() - 1;
    // The bytes from 4 on are the time of gzip's header: with another one, the archive and its digest are the same.
    for at in [0, 4, 12, last / 2, last] {
        let mut layer = good.clone();
        layer.blob[at] ^= 1;
        refused(&format!("byte {at}"), &layer, &[is]);
    }
    for length in [0, 1, 300_000, last] {
        let mut layer = good.clone();
        layer.blob.truncate(length);
        refused(&format!("cut off at {length}"), &layer, &[is]);
    }
    let mut layer = good.clone();
    layer.blob.push(0);
    refused("longer", &layer, &[is]);

    let other = Sealed::of(&content(1), "+gzip");
    let mut layer = good.clone();
    layer.secret["symkey"] = other.secret["symkey"].clone();
    refused("another key", &layer, &[is]);
    let mut layer = good.clone();
    layer.public["hmac"] = other.public["hmac"].clone();
    refused("another HMAC", &layer, &[is]);
    let mut layer = good.clone();
    layer.secret["cipheroptions"] = other.secret["cipheroptions"].clone();
    // The HMAC is over the ciphertext alone: the archive tells.
    let parts = ["the archive can't be read", "its HMAC is right"];
    refused("another nonce", &layer, &parts);
    let mut layer = good.clone();
    layer.public["cipheroptions"] = other.secret["cipheroptions"].clone();
    let parts = ["has another \"nonce\" than the annotation"];
    refused("another public nonce", &layer, &parts);

    // Each part that is right for itself, and not the layer of this image.
    let mut layer = other.clone();
    layer.diff_id = Sealed::of(&content(2), "").diff_id;
    refused(
        "another archive",
        &layer,
        &["the configuration says", &layer.diff_id],
    );

    // What a broken transfer changes is said to be that.
    let layers = [good];
    let mut repository = repository(&layers);
    let digest = Digest::of(&layers[0].blob).to_string();
    repository.blobs.get_mut(&digest).unwrap()[400_000] ^= 1;
    let place = Place::new();
    let _provider = Provider::of(&place.socket(), &layers);
    let (said, code) = place.pull(&serve(repository), true);
    assert_eq!(code, Some(1));
    assert!(said.contains("its blob has the digest"), "{said}");
    place.assert_nothing_left("a broken transfer");
}

/// A connection that breaks is said to be that, and no wrong HMAC: the same as of a plain layer.
#[test]
fn a_cut_encrypted_layer_is_a_cut_connection() {
    if !has_openssl() {
        return;
    }
    let (plain, image) = Repository::of(&[content(1)]);
    let layers = [Sealed::of(&content(1), "+gzip")];
    let digest = Digest::of(&layers[0].blob).to_string();
    let cases = [
        (plain, image.layers[0].clone()),
        (repository(&layers), digest),
    ];
    let said = cases.map(|(repository, cut)| {
        let registry = StandIn::start(move |asked| {
            let mut answer = repository.answer(&asked.path);
            if asked.path.ends_with(&cut) {
                answer.length = Some(answer.body.len());
                answer.body.truncate(300_000);
            }
            answer
        });
        let place = Place::new();
        let _provider = Provider::of(&place.socket(), &layers);
        let (said, code) = place.pull(&registry, true);
        assert_eq!(code, Some(1), "{said}");
        place.assert_nothing_left("a cut connection");
        let (_, reason) = said.rsplit_once("): ").unwrap();
        reason.to_owned()
    });
    for said in said {
        let is_cut = said.contains("its connection broke again and again");
        assert!(is_cut && said.contains("after 300000 of"), "{said}");
    }
}

/// What is wrong within an encrypted archive is told as for others, if it was encrypted so.
#[test]
fn a_broken_archive_in_an_encrypted_layer_is_refused() {
    if !has_openssl() {
        return;
    }
    let whole = content(1);
    for (what, archive) in [("cut off", &whole[..400_000]), ("garbage", &[b'x'; 2000])] {
        let layer = Sealed::of(archive, "+zstd");
        let place = Place::new();
        let layers = [layer];
        let _provider = Provider::of(&place.socket(), &layers);
        let (said, code) = place.pull(&serve(repository(&layers)), true);
        assert_eq!(code, Some(1), "{what}: {said}");
        assert!(said.contains("its HMAC is right"), "{what}: {said}");
        place.assert_nothing_left(what);
    }
}

/// Each thing that a manifest or a key provider can say wrongly of a layer's encryption is refused with the reason.
#[test]
fn what_is_said_of_the_encryption_is_checked() {
    type Change = fn(&mut Sealed);
    let cases: &[(Change, &[&str])] = &[
        (
            |layer| layer.media_type = "application/vnd.oci.image.layer.v1.tar+gzip".to_owned(),
            &[
                "tar+gzip\" is not of an encrypted layer",
                "org.opencontainers.image.enc.keys.provider",
            ],
        ),
        (
            |layer| layer.remove_keys(),
            &[
                "no annotation org.opencontainers.image.enc.keys.provider.attestation-agent has its key",
            ],
        ),
        (
            |layer| layer.annotations["org.opencontainers.image.enc.pubopts"] = json!(null),
            &["org.opencontainers.image.enc.pubopts with its HMAC is missing"],
        ),
        (
            |layer| layer.annotate("pubopts", "%"),
            &["enc.pubopts is not base64"],
        ),
        (
            |layer| layer.annotate("pubopts", "W10="),
            &["enc.pubopts is JSON, but an array"],
        ),
        (
            |layer| layer.public["cipher"] = json!("AES_128_CTR"),
            &["cipher \"AES_128_CTR\"", "AES_256_CTR_HMAC_SHA256 is known"],
        ),
        (
            |layer| layer.public["cipher"] = json!(7),
            &["has no \"cipher\""],
        ),
        (
            |layer| layer.public["hmac"] = json!(null),
            &["has no \"hmac\""],
        ),
        (
            |layer| layer.public["hmac"] = json!(""),
            &["\"hmac\" of 0 bytes"],
        ),
        (
            |layer| layer.public["hmac"] = json!("AAAA"),
            &["\"hmac\" of 3 bytes"],
        ),
        (
            |layer| layer.public["hmac"] = json!("!"),
            &["\"hmac\" that is not base64"],
        ),
        (
            |layer| layer.public["cipheroptions"] = json!({"nonce": "AAAA"}),
            &["pubopts has a \"nonce\" of 3 bytes, and AES-CTR has 16"],
        ),
        (
            |layer| layer.public["cipheroptions"] = json!([]),
            &["\"cipheroptions\" that are not an object"],
        ),
        (
            |layer| layer.secret["cipheroptions"]["nonce"] = json!("AAAAAAAAAAAAAAAA"),
            &["attestation-agent: what it unwraps has a \"nonce\" of 12 bytes"],
        ),
        (
            |layer| layer.secret["cipheroptions"] = json!({}),
            &["neither what it unwraps nor the annotation has a \"nonce\""],
        ),
        (
            |layer| layer.secret["symkey"] = json!("c2VjcmV0"),
            &["\"symkey\" of 6 bytes, and AES-256 has 32"],
        ),
        (
            |layer| layer.secret["symkey"] = json!("!"),
            &["no \"symkey\" in base64"],
        ),
        (
            |layer| layer.secret = json!("text"),
            &["no JSON object with a layer's key"],
        ),
        (
            |layer| layer.annotate("keys.provider.attestation-agent", "AAAA,!"),
            &["keys.provider.attestation-agent is not base64"],
        ),
        (
            |layer| layer.annotate("keys.provider.attestation-agent", &"A".repeat(70_000)),
            &["has 70000 bytes, and at most 65536 are read"],
        ),
        (
            |layer| layer.keys("provider.attestation-agent", &["x"; 33]),
            &["more than 32 wrapped keys"],
        ),
        (
            |layer| layer.keys(&format!("provider.{}", "x".repeat(200)), &["x"]),
            &["a name of over 128 bytes"],
        ),
    ];
    if !has_openssl() {
        return;
    }
    let good = Sealed::of(&content(1), "+gzip");
    for (number, (change, parts)) in cases.iter().enumerate() {
        let mut layer = good.clone();
        change(&mut layer);
        refused(&format!("{number}"), &layer, parts);
    }
}

/// Without the daemon, or with something else in its place, the text says so.
#[test]
fn a_daemon_that_unwraps_nothing_is_said() {
    if !has_openssl() {
        return;
    }
    let layers = [Sealed::of(&content(1), "+gzip")];
    let registry = serve(repository(&layers));
    let check = |place: &Place, with_daemon: bool, parts: &[&str]| {
        let (said, code) = place.pull(&registry, with_daemon);
        assert_eq!(code, Some(1), "{said}");
        for part in parts {
            assert!(said.contains(part), "{said}");
        }
        place.assert_nothing_left("no daemon");
    };
    let place = Place::new();
    check(
        &place,
        false,
        &["layer 1 of 1", "the image is encrypted", "--cdh-sock"],
    );
    check(
        &place,
        true,
        &["nobody answers at", "cdh.sock", "start offline-fs-kbc"],
    );
    let place = Place::new();
    let _provider = Provider::start(&place.socket(), |_| Err(Code::UNIMPLEMENTED));
    check(&place, true, &["the daemon refuses: UNIMPLEMENTED"]);
    let place = Place::new();
    let _provider = Provider::start(&place.socket(), |_| Ok(Vec::new()));
    check(&place, true, &["not of the key-provider protocol"]);
}

/// A layer that is stored needs no key: the store is the VM's, and all images in a VM are of one pod.
#[test]
fn a_stored_layer_needs_no_key() {
    if !has_openssl() {
        return;
    }
    let layers = [Sealed::of(&content(1), "+gzip")];
    let place = Place::new();
    let registry = serve(repository(&layers));
    let provider = Provider::of(&place.socket(), &layers);
    let (said, code) = place.pull(&registry, true);
    assert_eq!(code, Some(0), "{said}");
    unmount(&place);
    let (said, code) = place.pull(&registry, false);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(provider.asked().len(), 1);
}

/// The oracle itself: openssl's counter goes on beyond 64 bits, and its HMAC is that of RFC 4231.
#[test]
fn the_oracle_is_one() {
    if !has_openssl() {
        return;
    }
    let rfc = hmac(b"Jefe", b"what do ya want for nothing?");
    assert_eq!(rfc[..4], [0x5b, 0xdc, 0xc1, 0x46]);
    let mut layer = Sealed::of(&content(1), "");
    // A counter that overflows into its upper half at the second block.
    let nonce = [vec![7; 8], vec![0xff; 8]].concat();
    layer.blob = encrypt(&layer.key, &nonce, &content(1));
    layer.secret["cipheroptions"]["nonce"] = STANDARD.encode(nonce).into();
    layer.public["hmac"] = STANDARD.encode(hmac(&layer.key, &layer.blob)).into();
    let layers = [layer];
    let place = Place::new();
    let _provider = Provider::of(&place.socket(), &layers);
    let (said, code) = place.pull(&serve(repository(&layers)), true);
    assert_eq!(code, Some(0), "{said}");
}
