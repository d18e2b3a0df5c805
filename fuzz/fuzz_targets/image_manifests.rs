// SPDX-License-Identifier: Apache-2.0

//! Manifests, indexes and configurations of images, and what they say of encryption: what is read is the same when it is
//! written and read again, and stays within its limits.
//!
//! The first byte selects the rest: a manifest or index; a configuration; or the annotations of an encrypted layer, and
//! after a NUL byte the options that a key provider gives.

#![no_main]

use std::cell::Cell;
use std::collections::BTreeMap;

use guest_pull::digest::Digest;
use guest_pull::encryption::decryptor;
use guest_pull::failure::{Failure, Kind};
use guest_pull::question::{Answer, Question};
use guest_pull::registry::manifest::{
    self, Descriptor, Document, Index, MAX_LAYERS, Manifest, diff_ids,
};
use guest_pull::registry::platform::Platform;
use libfuzzer_sys::fuzz_target;
use offline_fs_kbc_fuzz::assert_one_line;
use serde_json::{Value, json};
use zeroize::Zeroizing;

/// The most wrapped keys of a layer that are tried.
const MAX_KEYS: usize = 32;

fuzz_target!(|input: &[u8]| {
    let Some((&first, rest)) = input.split_first() else {
        return;
    };
    match first % 3 {
        0 => document(rest),
        1 => configuration(rest),
        _ => encrypted(rest),
    }
});

fn document(text: &[u8]) {
    let oci = "application/vnd.oci.image.manifest.v1+json";
    match manifest::parse(text) {
        Ok(Document::Manifest(found)) => {
            assert!(found.layers.len() <= MAX_LAYERS);
            assert_eq!(again(&found), found);
            assert!(matches!(
                manifest::parse_said(text, &[oci, "text/plain"]),
                Ok(Document::Manifest(same)) if same == found
            ));
            let index = "application/vnd.oci.image.index.v1+json";
            assert!(manifest::parse_said(text, &[index]).is_err());
            if let Err(error) = found.check_is_image() {
                assert_one_line(&error.to_string());
            }
            for layer in found.layers.iter().take(20) {
                decrypt(layer, b"");
            }
        }
        Ok(Document::Index(index)) => {
            assert!(manifest::parse_said(text, &[oci]).is_err());
            candidates(&index);
        }
        Err(error) => assert_one_line(&error.to_string()),
    }
}

/// What a manifest gives when it is written and read again.
fn again(found: &Manifest) -> Manifest {
    let descriptor = |descriptor: &Descriptor| {
        json!({
            "mediaType": descriptor.media_type, "digest": descriptor.digest.to_string(),
            "size": descriptor.size, "annotations": descriptor.annotations,
        })
    };
    let layers: Vec<_> = found.layers.iter().map(descriptor).collect();
    let text = json!({
        "schemaVersion": 2, "config": descriptor(&found.config), "layers": layers,
        "artifactType": found.artifact_type,
    });
    match manifest::parse(text.to_string().as_bytes()) {
        Ok(Document::Manifest(again)) => again,
        _ => panic!("a manifest is read no more"),
    }
}

/// Candidates fit the platform, the best first.
fn candidates(index: &Index) {
    for platform in ["linux/amd64", "linux/arm64/v8", "linux/arm/v7"] {
        let wanted = Platform::parse(platform).expect("a platform");
        let candidates = index.clone().candidates(&wanted, 4);
        assert!(candidates.len() <= 4);
        let ranks = candidates.iter().map(|entry| {
            let platform = entry.platform.as_ref();
            platform.map(|platform| wanted.rank(platform).expect("it runs there"))
        });
        assert!(
            ranks.rev().collect::<Vec<_>>().is_sorted(),
            "the best is not the first"
        );
    }
    for platform in index.platforms() {
        assert_one_line(&platform);
    }
}

fn configuration(text: &[u8]) {
    if let Some(platform) = manifest::platform(text) {
        assert!(!platform.architecture.is_empty());
        assert_one_line(&platform.to_string());
    }
    let found = (0..4).map(|layers| diff_ids(text, layers));
    let mut good = 0;
    for (layers, found) in found.enumerate() {
        match found {
            Ok(ids) => {
                assert_eq!(ids.len(), layers);
                good += 1;
            }
            Err(error) => assert_one_line(&error.to_string()),
        }
    }
    assert!(good <= 1);
}

fn encrypted(text: &[u8]) {
    let mut parts = text.splitn(2, |byte| *byte == 0);
    let annotations: Value =
        serde_json::from_slice(parts.next().unwrap_or_default()).unwrap_or_default();
    let annotations = annotations.as_object().into_iter().flatten();
    let annotations: BTreeMap<_, _> = annotations
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect();
    let options = parts.next().unwrap_or_default();
    let layer = |media_type: &str| Descriptor {
        media_type: media_type.to_owned(),
        digest: Digest::of(b""),
        size: 1,
        annotations: annotations.clone(),
    };
    decrypt(
        &layer("application/vnd.oci.image.layer.v1.tar+gzip+encrypted"),
        options,
    );
    decrypt(
        &layer("application/vnd.oci.image.layer.v1.tar+gzip"),
        options,
    );
}

/// Nothing is decrypted that isn't encrypted, and no provider is asked without end.
fn decrypt(layer: &Descriptor, options: &[u8]) {
    let asked = Cell::new(0);
    let ask = |question: &Question| {
        let Question::Key { provider, .. } = question else {
            panic!("it asks for something else");
        };
        assert!(provider.len() <= 128);
        asked.set(asked.get() + 1);
        match options {
            b"" => Err(Failure::new(Kind::Configuration, "no key")),
            options => Ok(Answer::Key(Zeroizing::new(options.to_vec()))),
        }
    };
    let is_encrypted = ["+encrypted", "+enc"]
        .iter()
        .any(|end| layer.media_type.ends_with(end));
    match decryptor(layer, &ask) {
        Ok(decryptor) => assert_eq!(decryptor.is_some(), is_encrypted),
        Err(failure) => assert_one_line(&failure.message),
    }
    assert!(asked.get() <= MAX_KEYS);
    assert!(is_encrypted || asked.get() == 0);
}
