// SPDX-License-Identifier: Apache-2.0

//! Signatures as cosign 3 makes them: Sigstore bundles, which refer to the image (OCI's referrers).
//!
//! The registry lists what refers to a digest by its API, or, where it has none, by an index under the tag
//! `sha256-<hex>`. Each bundle is the only layer of a manifest.

use common::base64;
use common::text::Quoted;
use serde_json::Value;

use crate::digest::Digest;
use crate::policy::cosign::small;
use crate::policy::keys::PublicKey;
use crate::policy::{Error, MAX_SIGNATURES};
use crate::registry::{self, Client};

/// What media types of bundles begin with: of all versions, `…bundle.v0.3+json` and `…bundle+json;version=0.2`.
const MEDIA_TYPE: &str = "application/vnd.dev.sigstore.bundle";

/// The media type of a configuration that says nothing.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";

/// The payload that a bundle's envelope has.
const STATEMENT: &str = "application/vnd.in-toto+json";

/// The only statement that is a signature. Others, made by the same key, say how the image was built, or that it has flaws.
const SIGNED: &str = "https://sigstore.dev/cosign/sign/v1";

/// What refers to an image.
pub(super) struct Referrers {
    /// The manifests that may have bundles.
    pub manifests: Vec<Digest>,
    /// Why the registry could not be asked, if it may have more of them another time.
    pub busy: Option<registry::Error>,
}

/// What refers to what has this digest. Of a list in several pages, it is the first.
pub(super) fn referrers(client: &Client, digest: &Digest) -> Result<Referrers, Error> {
    let list = |bytes: Vec<u8>| serde_json::from_slice::<Value>(&bytes).ok();
    let listed = |value: &Value| value["manifests"].is_array();
    let mut busy = None;
    let by_api = match client.referrers(digest) {
        Ok(bytes) => list(bytes).filter(listed),
        Err(error) if error.is_unreachable() => return Err(Error::Registry(error)),
        // Registries without the API answer in many ways.
        Err(error) => {
            busy = Some(error).filter(is_busy);
            None
        }
    };
    let index = match by_api {
        Some(index) => index,
        None => match client.manifest(&format!("sha256-{}", digest.hex())) {
            Ok(bytes) => {
                busy = None;
                list(bytes).unwrap_or_default()
            }
            Err(registry::Error::Missing { .. }) => Value::Null,
            Err(error) => return Err(Error::Registry(error)),
        },
    };
    let entries = index["manifests"].as_array().into_iter().flatten();
    let bundles = entries.filter(|entry| {
        let of = |name: &str| entry["annotations"][name].as_str();
        let predicate = of("dev.sigstore.bundle.predicateType");
        let kind = &entry["artifactType"];
        // Where it writes the list itself, cosign 3.1 says nothing there but that the configuration is empty.
        let may_be = is_bundle(kind) || kind.is_null() || kind == EMPTY;
        may_be && predicate.is_none_or(|predicate| predicate == SIGNED)
    });
    let digests = bundles.filter_map(|entry| Digest::parse(entry["digest"].as_str()?));
    let manifests = digests.take(MAX_SIGNATURES + 1).collect();
    Ok(Referrers { manifests, busy })
}

/// Whether the registry may answer another time.
fn is_busy(error: &registry::Error) -> bool {
    match error {
        registry::Error::Busy { .. } => true,
        registry::Error::GivenUp { error, .. } => is_busy(error),
        _ => false,
    }
}

fn is_bundle(media_type: &Value) -> bool {
    media_type
        .as_str()
        .is_some_and(|text| text.starts_with(MEDIA_TYPE))
}

/// Fetches the bundle that a manifest has, if it has any; else why it can't be used.
pub(super) fn fetch(
    client: &Client,
    manifest: &Digest,
) -> Result<Option<Result<Value, String>>, Error> {
    let bytes = match client.manifest(&manifest.to_string()) {
        Ok(bytes) => bytes,
        Err(registry::Error::Missing { .. }) => {
            return Ok(Some(Err(format!("the registry has no {manifest}"))));
        }
        Err(error) => return Err(Error::Registry(error)),
    };
    let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let mut layers = value["layers"].as_array().into_iter().flatten();
    let Some(layer) = layers.find(|layer| is_bundle(&layer["mediaType"])) else {
        return Ok(None);
    };
    Ok(Some(small(client, layer)?.and_then(|bytes| {
        serde_json::from_slice(&bytes).map_err(|_| "the bundle is not JSON".to_owned())
    })))
}

/// Whether the bundle is the signature by one of the keys of one of the documents.
///
/// # Errors
///
/// The reason if not.
pub fn verify(
    bundle: &Value,
    keys: &[PublicKey],
    documents: &[(Digest, Vec<u8>)],
) -> Result<(), String> {
    let material = &bundle["verificationMaterial"];
    if material["publicKey"].is_null() {
        let what = "it is by a certificate (keyless), and not by a key";
        return Err(what.to_owned());
    }
    if bundle["dsseEnvelope"].is_object() {
        return verify_envelope(&bundle["dsseEnvelope"], keys, documents);
    }
    let signature = &bundle["messageSignature"]["signature"];
    let signature = signature.as_str().and_then(base64::decode_padded);
    let signature = signature.ok_or("the bundle has no signature")?;
    let is_good = |message: &[u8]| keys.iter().any(|key| key.verifies(message, &signature));
    match documents.iter().any(|(_, document)| is_good(document)) {
        true => Ok(()),
        false => Err("it is by another key, or of another image".to_owned()),
    }
}

/// An envelope with a statement: DSSE, in-toto.
fn verify_envelope(
    envelope: &Value,
    keys: &[PublicKey],
    documents: &[(Digest, Vec<u8>)],
) -> Result<(), String> {
    let kind = envelope["payloadType"].as_str().unwrap_or_default();
    if kind != STATEMENT {
        return Err(format!("its payload is {}", Quoted(kind)));
    }
    let payload = envelope["payload"].as_str().and_then(base64::decode_padded);
    let payload = payload.ok_or("its envelope has no payload in base64")?;
    let head = format!("DSSEv1 {} {kind} {} ", kind.len(), payload.len());
    let message = [head.as_bytes(), &payload[..]].concat();
    let signatures = envelope["signatures"].as_array().into_iter().flatten();
    let signatures = signatures.filter_map(|entry| base64::decode_padded(entry["sig"].as_str()?));
    let mut signatures = signatures.take(MAX_SIGNATURES);
    let is_good =
        signatures.any(|signature| keys.iter().any(|key| key.verifies(&message, &signature)));
    if !is_good {
        return Err("it is by another key".to_owned());
    }
    let statement: Value =
        serde_json::from_slice(&payload).map_err(|_| "its statement is not JSON")?;
    let kind = statement["_type"].as_str().unwrap_or_default();
    if !kind.starts_with("https://in-toto.io/Statement/") {
        return Err(format!("its statement is {}", Quoted(kind)));
    }
    let predicate = statement["predicateType"].as_str().unwrap_or_default();
    if predicate != SIGNED {
        return Err(format!(
            "it is no signature, but a statement of the type {}",
            Quoted(predicate)
        ));
    }
    let subjects = statement["subject"].as_array().into_iter().flatten();
    let digests = subjects.filter_map(|subject| subject["digest"]["sha256"].as_str());
    let mut digests = digests.filter_map(Digest::from_hex);
    let is_known = |digest: Digest| documents.iter().any(|(known, _)| *known == digest);
    match digests.any(is_known) {
        true => Ok(()),
        false => Err("it is for another digest".to_owned()),
    }
}
