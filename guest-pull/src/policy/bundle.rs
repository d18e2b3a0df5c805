// SPDX-License-Identifier: Apache-2.0

//! Signatures as cosign 3 makes them: Sigstore bundles, which refer to the image (OCI's referrers).
//!
//! The registry lists what refers to a digest by its API, or, where it has none, by an index under the tag
//! `sha256-<hex>`. Each bundle is the only layer of a manifest.

use common::base64;
use common::text::Quoted;

use crate::digest::Digest;
use crate::document::{Part, beginning};
use crate::policy::cosign::{Small, small};
use crate::policy::keys::Checker;
use crate::policy::{Error, MAX_SIGNATURES};
use crate::registry::manifest::{MAX_LAYERS, MAX_MANIFESTS};
use crate::registry::{self, Client};

/// What media types of bundles begin with: of all versions, `…bundle.v0.3+json` and `…bundle+json;version=0.2`.
const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle";

/// The media type of a configuration that says nothing.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// The payload that a bundle's envelope has.
const STATEMENT: &str = "application/vnd.in-toto+json";

/// The only statement that is a signature. Others, made by the same key, say how the image was built, or that it has flaws.
const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";

/// How much of a payload's type is shown, in characters.
const SHOWN: usize = 100;

/// What refers to an image.
pub(super) struct Referrers {
    /// The manifests that may have bundles.
    pub manifests: Vec<Digest>,
    /// Why a list of them can't be used, or not wholly.
    pub problem: Option<String>,
    /// Why the registry could not be asked, if it may have more of them another time.
    pub busy: Option<registry::Error>,
}

/// What refers to what has this digest. Of a list in several pages, it is the first.
pub(super) fn referrers(client: &Client, digest: &Digest) -> Result<Referrers, Error> {
    let (mut busy, mut problem) = (None, None);
    let by_api = match client.referrers(digest) {
        Ok(bytes) => match bundles_in(&bytes) {
            Ok((manifests, unread)) => {
                problem = unread;
                Some(manifests)
            }
            Err(what) => {
                problem = Some(what);
                None
            }
        },
        Err(error) if error.is_unreachable() => return Err(Error::Registry(error)),
        // Registries without the API answer in many ways.
        Err(error) => {
            busy = Some(error).filter(is_busy);
            None
        }
    };
    let manifests = match by_api {
        Some(manifests) => manifests,
        None => match client.manifest(&format!("sha256-{}", digest.hex())) {
            Ok(bytes) => {
                busy = None;
                let found = bundles_in(&bytes);
                let (manifests, unread) = found.unwrap_or_else(|what| (Vec::new(), Some(what)));
                problem = unread;
                manifests
            }
            Err(registry::Error::Missing { .. }) => Vec::new(),
            Err(error) => return Err(Error::Registry(error)),
        },
    };
    Ok(Referrers {
        manifests,
        problem,
        busy,
    })
}

/// The manifests in an index that may have bundles, one more than are looked at; and why an entry can't be read, if there
/// is such.
///
/// # Errors
///
/// Why it can't be used: words that follow its name.
fn bundles_in(index: &[u8]) -> Result<(Vec<Digest>, Option<String>), String> {
    let [manifests] = Part::document(index)?.pick(["manifests"])?;
    let entries = manifests
        .list(MAX_MANIFESTS)
        .map_err(|count| format!("has {count} entries, and at most {MAX_MANIFESTS} are read"))?;
    let (mut digests, mut problem) = (Vec::new(), None);
    for entry in entries.ok_or("has no list of manifests")? {
        match bundle_in(entry) {
            Ok(digest) => digests.extend(digest),
            Err(what) => problem = Some(what),
        }
        if digests.len() > MAX_SIGNATURES {
            break;
        }
    }
    Ok((digests, problem))
}

/// The digest of an entry, if that may have a bundle.
fn bundle_in(entry: Part<'_>) -> Result<Option<Digest>, String> {
    let [kind, annotations, digest] = entry.pick(["artifactType", "annotations", "digest"])?;
    let [predicate] = annotations.pick(["dev.sigstore.bundle.predicateType"])?;
    let predicate = predicate.text()?;
    // Where it writes the list itself, cosign 3.1 says nothing there but that the configuration is empty.
    let may_be = !kind.is_there() || is_bundle(kind)? || kind.text()?.as_deref() == Some(EMPTY);
    let is_other = predicate.is_some_and(|predicate| predicate != SIGNED);
    let digest = digest.text()?.and_then(|digest| Digest::parse(&digest));
    Ok(digest.filter(|_| may_be && !is_other))
}

/// Whether the registry may answer another time.
fn is_busy(error: &registry::Error) -> bool {
    match error {
        registry::Error::Busy { .. } => true,
        registry::Error::GivenUp { error, .. } => is_busy(error),
        _ => false,
    }
}

fn is_bundle(media_type: Part<'_>) -> Result<bool, String> {
    let media_type = media_type.text()?;
    Ok(media_type.is_some_and(|text| text.starts_with(MEDIA_TYPE)))
}

/// Fetches the bundle that a manifest has, if it has any; else why it can't be used.
pub(super) fn fetch(
    client: &Client,
    manifest: &Digest,
) -> Result<Option<Result<Vec<u8>, String>>, Error> {
    let bytes = match client.manifest(&manifest.to_string()) {
        Ok(bytes) => bytes,
        Err(registry::Error::Missing { .. }) => {
            return Ok(Some(Err(format!("the registry has no {manifest}"))));
        }
        Err(error) => return Err(Error::Registry(error)),
    };
    let blob = match blob_in(&bytes) {
        Ok(Some(blob)) => blob,
        Ok(None) => return Ok(None),
        Err(what) => return Ok(Some(Err(format!("the manifest {manifest} {what}")))),
    };
    drop(bytes);
    small(client, &blob).map(Some)
}

/// The bundle that a manifest names, if it names any.
fn blob_in(manifest: &[u8]) -> Result<Option<Small>, String> {
    let [layers] = Part::document(manifest)?.pick(["layers"])?;
    let layers = layers
        .list(MAX_LAYERS)
        .map_err(|count| format!("has {count} layers, and at most {MAX_LAYERS} are read"))?;
    for layer in layers.unwrap_or_default() {
        let [media_type] = layer.pick(["mediaType"])?;
        if is_bundle(media_type)? {
            return Small::of(layer).map(Some);
        }
    }
    Ok(None)
}

/// Verifies that the bundle is the signature by one of the keys of one of the documents.
///
/// # Errors
///
/// The reason if not.
pub fn verify(
    bundle: &[u8],
    keys: &Checker<'_>,
    documents: &[(Digest, Vec<u8>)],
) -> Result<(), String> {
    let bundle = Part::document(bundle).map_err(|what| format!("the bundle {what}"))?;
    let [material, envelope, message] =
        bundle.pick(["verificationMaterial", "dsseEnvelope", "messageSignature"])?;
    let [key] = material.pick(["publicKey"])?;
    if !key.is_there() {
        let what = "it is by a certificate (keyless), and not by a key";
        return Err(what.to_owned());
    }
    if envelope.is_object() {
        return verify_envelope(envelope, keys, documents);
    }
    let [signature] = message.pick(["signature"])?;
    let signature = signature.text()?;
    let signature = signature.and_then(|text| base64::decode_padded(&text));
    let signature = signature.ok_or("the bundle has no signature")?;
    for (_, document) in documents {
        if keys.verifies(document, &signature)? {
            return Ok(());
        }
    }
    Err("it is by another key, or of another image".to_owned())
}

/// An envelope with a statement: DSSE, in-toto.
fn verify_envelope(
    envelope: Part<'_>,
    keys: &Checker<'_>,
    documents: &[(Digest, Vec<u8>)],
) -> Result<(), String> {
    let [kind, payload, signatures] = envelope.pick(["payloadType", "payload", "signatures"])?;
    let kind = kind.text_or_empty()?;
    if kind != STATEMENT {
        return Err(format!(
            "its payload is {}",
            Quoted(&beginning(&kind, SHOWN))
        ));
    }
    let payload = payload.text()?;
    let payload = payload.and_then(|payload| base64::decode_padded(&payload));
    let payload = payload.ok_or("its envelope has no payload in base64")?;
    let head = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len());
    let message = [head.as_bytes(), &payload[..]].concat();
    let signatures = signatures.list(MAX_SIGNATURES).map_err(|count| {
        format!("its envelope has {count} signatures, and at most {MAX_SIGNATURES} are looked at")
    })?;
    let mut is_good = false;
    for entry in signatures.unwrap_or_default() {
        let [signature] = entry.pick(["sig"])?;
        let signature = signature.text()?;
        if let Some(signature) = signature.and_then(|text| base64::decode_padded(&text)) {
            is_good |= keys.verifies(&message, &signature)?;
        }
        if is_good {
            break;
        }
    }
    if !is_good {
        return Err("it is by another key".to_owned());
    }
    let statement = Part::document(&payload).map_err(|what| format!("its statement {what}"))?;
    let [kind, predicate, subjects] = statement.pick(["_type", "predicateType", "subject"])?;
    let kind = kind.text_or_empty()?;
    if !kind.starts_with("https://in-toto.io/Statement/") {
        return Err(format!("its statement is {}", Quoted(&kind)));
    }
    let predicate = predicate.text_or_empty()?;
    if predicate != SIGNED {
        return Err(format!(
            "it is no signature, but a statement of the type {}",
            Quoted(&predicate)
        ));
    }
    let subjects = subjects
        .list(MAX_MANIFESTS)
        .map_err(|count| format!("its statement has {count} subjects"))?;
    for subject in subjects.unwrap_or_default() {
        let [digest] = subject.pick(["digest"])?;
        let [digest] = digest.pick(["sha256"])?;
        let digest = digest.text()?.and_then(|text| Digest::from_hex(&text));
        if digest.is_some_and(|digest| documents.iter().any(|(known, _)| *known == digest)) {
            return Ok(());
        }
    }
    Err("it is for another digest".to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What can't be read of a list is told, and what can be read counts.
    #[test]
    fn lists_that_cannot_be_read_are_told() {
        let good = format!("{{\"digest\":\"sha256:{}\"}}", "0".repeat(64));
        let of = |entries: &str| bundles_in(format!("{{\"manifests\":[{entries}]}}").as_bytes());
        assert_eq!(
            of(&good).map(|(found, problem)| (found.len(), problem)),
            Ok((1, None))
        );
        let (found, problem) = of(&format!("{{\"artifactType\":\"\\ud800\"}},{good}")).unwrap();
        assert_eq!(found.len(), 1);
        assert!(problem.unwrap().contains("escape"));
        let many = vec!["0"; MAX_MANIFESTS + 1].join(",");
        let said = of(&many).unwrap_err();
        assert!(said.contains("10001 entries"), "{said}");
        assert!(bundles_in(b"<html>").is_err() && bundles_in(b"{}").is_err());
        let (found, _) = of(&vec![&*good; MAX_SIGNATURES + 9].join(",")).unwrap();
        assert_eq!(found.len(), MAX_SIGNATURES + 1);
    }
}
