// SPDX-License-Identifier: Apache-2.0

//! cosign's signatures beside an image: layers of what its repository has under the tag `sha256-<hex>.sig`.

use common::base64;
use serde_json::Value;

use crate::digest::Digest;
use crate::policy::{Error, MAX_SIGNATURE_BYTES};
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

/// Where signatures of what has this digest are: one by one, since most images have one, and the first is good.
pub(super) fn descriptors(client: &Client, digest: &Digest) -> Result<Vec<Value>, Error> {
    let tag = format!("sha256-{}.sig", digest.hex());
    let manifest = match client.manifest(&tag) {
        Ok(manifest) => manifest,
        Err(registry::Error::Missing { .. }) => return Ok(Vec::new()),
        Err(error) => return Err(Error::Registry(error)),
    };
    let manifest: Value = serde_json::from_slice(&manifest).unwrap_or_default();
    let layers = manifest["layers"].as_array().into_iter().flatten();
    let signatures = layers.filter(|layer| layer["mediaType"] == MEDIA_TYPE);
    Ok(signatures.cloned().collect())
}

/// Fetches the signature of a descriptor; else why it can't be used.
pub(super) fn fetch(
    client: &Client,
    descriptor: &Value,
) -> Result<Result<Signature, String>, Error> {
    let text = descriptor["annotations"][ANNOTATION].as_str();
    // Some tools wrap the lines of it.
    let signature = text.and_then(|text| base64::decode(text).ok());
    let Some(signature) = signature else {
        return Ok(Err(format!("it has no {ANNOTATION} in base64")));
    };
    let payload = small(client, descriptor)?;
    Ok(payload.map(|payload| Signature {
        payload,
        signature: signature.to_vec(),
    }))
}

/// The blob of a descriptor, if it is small and there.
pub(super) fn small(client: &Client, descriptor: &Value) -> Result<Result<Vec<u8>, String>, Error> {
    let digest = descriptor["digest"].as_str().and_then(Digest::parse);
    let (Some(digest), Some(size)) = (digest, descriptor["size"].as_u64()) else {
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
