// SPDX-License-Identifier: Apache-2.0

//! What a signature says: the JSON of simple signing (containers-signature(5)), which cosign took over.

use common::auth_json::image::ImageName;
use common::text::Quoted;

use crate::digest::Digest;
use crate::policy::identity::Identity;
use crate::policy::object::Object;

/// The type that cosign writes.
pub const OF_COSIGN: &str = "cosign container image signature";

/// The type that GPG's signatures have.
pub const OF_SIMPLE_SIGNING: &str = "atomic container signature";

/// What a signature claims. It counts only if the signature is good.
#[derive(Debug, PartialEq, Eq)]
pub struct Claim {
    /// The name of the image.
    pub reference: String,
    /// The digest of its manifest or index.
    pub digest: Digest,
}

impl Claim {
    /// Parses the payload of a signature, which must be of this type.
    pub fn parse(text: &[u8], kind: &str) -> Result<Self, String> {
        let wrong = |what| format!("its payload is not understood: {what}");
        let text = std::str::from_utf8(text).map_err(|_| wrong("not UTF-8".to_owned()))?;
        parse(text, kind).map_err(wrong)
    }

    /// Checks what a good signature claims: the digest of one of the image's documents, and for which name.
    pub fn check(
        &self,
        image: &ImageName,
        identity: &Identity,
        documents: &[(Digest, Vec<u8>)],
    ) -> Result<(), String> {
        if !documents.iter().any(|(digest, _)| *digest == self.digest) {
            return Err(format!("it is for another digest, {}", self.digest));
        }
        identity.check(image, &self.reference)
    }
}

fn parse(text: &str, kind: &str) -> Result<Claim, String> {
    let object = Object::of(text, &["critical", "optional"])?;
    let critical = Object::of(object.need("critical")?, &["type", "image", "identity"])?;
    let found = critical.need_text("type")?;
    if found != kind {
        return Err(format!("the type is {}", Quoted(&found)));
    }
    let image = Object::of(critical.need("image")?, &["docker-manifest-digest"])?;
    let digest = image.need_text("docker-manifest-digest")?;
    let identity = Object::of(critical.need("identity")?, &["docker-reference"])?;
    Ok(Claim {
        reference: identity.need_text("docker-reference")?,
        digest: Digest::parse(&digest)
            .ok_or_else(|| format!("the digest {} is none of SHA-256", Quoted(&digest)))?,
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The critical part is understood wholly, or the signature doesn't count.
    #[test]
    fn payloads_are_read_strictly() {
        let digest = Digest::of(b"x").to_string();
        let good = format!(
            r#"{{"critical":{{"identity":{{"docker-reference":"r.example/a"}},"image":{{"docker-manifest-digest":"{digest}"}},"type":"cosign container image signature"}},"optional":null}}"#
        );
        let claim = Claim::parse(good.as_bytes(), OF_COSIGN).unwrap();
        assert_eq!(claim.reference, "r.example/a");
        assert_eq!(claim.digest, Digest::of(b"x"));
        for (from, to) in [
            ("cosign container", "atomic container"),
            ("sha256:", "sha512:"),
            ("\"optional\"", "\"other\""),
            ("\"critical\":{", "\"critical\":{\"not-before\":1,"),
            ("\"identity\":{", "\"identity\":{\"x\":1,"),
            ("\"image\":{", "\"image\":{\"docker-manifest-digest\":\"\","),
            ("\"type\":", "\"kind\":"),
        ] {
            let bad = good.replace(from, to);
            assert_ne!(bad, good);
            assert!(Claim::parse(bad.as_bytes(), OF_COSIGN).is_err(), "{bad}");
        }
        assert!(Claim::parse(good.as_bytes(), OF_SIMPLE_SIGNING).is_err());
    }
}
