// SPDX-License-Identifier: Apache-2.0

//! cosign's signatures beside an image: layers of what its repository has under the tag `sha256-<hex>.sig`.

use std::borrow::Cow;

use common::base64;

use crate::digest::Digest;
use crate::document::Part;
use crate::policy::{Error, MAX_SIGNATURE_BYTES, MAX_SIGNATURES};
use crate::registry::manifest::MAX_MANIFESTS;
use crate::registry::{self, Client};

const MEDIA_TYPE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";

const ANNOTATION: &str = "dev.cosignproject.cosign/signature";

/// A signature as it came.
pub(super) struct Signature {
    /// What is signed.
    pub payload: Vec<u8>,
    /// The signature of it.
    pub signature: Vec<u8>,
}

/// Where a signature is.
pub(super) struct Place {
    blob: Small,
    /// The signature itself, in base64.
    signature: Option<String>,
}

/// A blob that should be small.
pub(super) struct Small {
    digest: Option<Digest>,
    size: Option<u64>,
}

impl Small {
    /// The blob of a descriptor.
    pub(super) fn of(descriptor: Part<'_>) -> Result<Self, String> {
        let [digest, size] = descriptor.pick(["digest", "size"])?;
        Ok(Self {
            digest: digest.text()?.and_then(|digest| Digest::parse(&digest)),
            size: size.number(),
        })
    }
}

/// Where signatures of what has this digest are: one by one, since most images have one, and the first is good. There is one
/// more than are looked at, if there are more.
///
/// # Errors
///
/// If the registry can't be asked; the inner one, if what it has can't be read.
pub(super) fn places(
    client: &Client,
    digest: &Digest,
) -> Result<Result<Vec<Place>, String>, Error> {
    let tag = format!("sha256-{}.sig", digest.hex());
    let manifest = match client.manifest(&tag) {
        Ok(manifest) => manifest,
        Err(registry::Error::Missing { .. }) => return Ok(Ok(Vec::new())),
        Err(error) => return Err(Error::Registry(error)),
    };
    Ok(places_in(&manifest).map_err(|what| format!("the manifest {tag} {what}")))
}

fn places_in(manifest: &[u8]) -> Result<Vec<Place>, String> {
    let [layers] = Part::document(manifest)?.pick(["layers"])?;
    let layers = layers
        .list(MAX_MANIFESTS)
        .map_err(|count| format!("has {count} layers, and at most {MAX_MANIFESTS} are read"))?;
    let mut places = Vec::new();
    for layer in layers.unwrap_or_default() {
        let [media_type, annotations] = layer.pick(["mediaType", "annotations"])?;
        if media_type.text_or_empty()? != MEDIA_TYPE {
            continue;
        }
        let [signature] = annotations.pick([ANNOTATION])?;
        places.push(Place {
            blob: Small::of(layer)?,
            signature: signature.text()?.map(Cow::into_owned),
        });
        if places.len() > MAX_SIGNATURES {
            break;
        }
    }
    Ok(places)
}

/// Fetches a signature; else why it can't be used.
pub(super) fn fetch(client: &Client, place: &Place) -> Result<Result<Signature, String>, Error> {
    let text = place.signature.as_deref();
    // Some tools wrap the lines of it.
    let signature = text.and_then(|text| base64::decode(text).ok());
    let Some(signature) = signature else {
        return Ok(Err(format!("it has no {ANNOTATION} in base64")));
    };
    let payload = small(client, &place.blob)?;
    Ok(payload.map(|payload| Signature {
        payload,
        signature: signature.to_vec(),
    }))
}

/// A blob, if it is small and there.
pub(super) fn small(client: &Client, blob: &Small) -> Result<Result<Vec<u8>, String>, Error> {
    let (Some(digest), Some(size)) = (blob.digest, blob.size) else {
        return Ok(Err("it has no digest or no size".to_owned()));
    };
    if size > MAX_SIGNATURE_BYTES {
        return Ok(Err(format!(
            "it has {size} bytes, and at most {MAX_SIGNATURE_BYTES} are read"
        )));
    }
    match client.small_blob(&digest) {
        // The registry may say a small size, and give much.
        Ok(blob) if blob.len() as u64 != size => Ok(Err(format!(
            "it has {} bytes, and its descriptor says {size}",
            blob.len()
        ))),
        Ok(blob) if Digest::of(&blob) == digest => Ok(Ok(blob)),
        Ok(_) => Ok(Err("its content has another digest".to_owned())),
        Err(registry::Error::Missing { .. }) => Ok(Err(format!("the registry has no {digest}"))),
        Err(error) => Err(Error::Registry(error)),
    }
}
