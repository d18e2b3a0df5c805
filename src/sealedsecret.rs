// SPDX-License-Identifier: Apache-2.0

//! Sealed secrets: the signed name of a resource, in the form `sealed.<header>.<payload>.<signature>`.
//!
//! The kata-agents of September to November 2023 (CC-0.8) cut `sealed.` off, and confidential-data-hub 0.8.0 decoded the
//! payload as padded standard base64. The signature covers the text as it is written, in either form.

#[cfg(feature = "tools")]
pub mod sign;

use p256::ecdsa::signature::Verifier as _;
use p256::ecdsa::{Signature, VerifyingKey};
use thiserror::Error;

use crate::json;
use crate::text::Quoted;
use common::base64;

/// The most members of a header, a payload or a key. A dozen are known.
const MAX_MEMBERS: usize = 100;

/// Why a sealed secret can't be opened. The messages show names from it, and nothing else.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// The text is not a sealed secret.
    #[error("not a sealed secret: {0}")]
    Malformed(&'static str),
    /// Its header names another algorithm, or none.
    #[error("the sealed secret's header has alg {0}; only \"ES256\" is verified")]
    Algorithm(String),
    /// The signature is not one by this key.
    #[error("the sealed secret's signature is not by the key {0}")]
    Signature(String),
    /// It can be opened only by a key service.
    #[error(
        "a sealed secret of type {kind} can be opened only by the key service of provider {provider}, and this daemon has none"
    )]
    KeyService {
        /// Its type.
        kind: String,
        /// Its provider.
        provider: String,
    },
}

/// A sealed secret split into its parts, which are not yet verified.
pub struct Sealed<'a> {
    header: &'a str,
    /// What the signature covers: `<header>.<payload>`.
    signed: &'a str,
    signature: &'a str,
    payload: Vec<u8>,
}

impl<'a> Sealed<'a> {
    /// Splits the text into its parts.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`].
    pub fn parse(text: &'a str) -> Result<Self, Error> {
        let text = text.trim_ascii();
        let body = text.strip_prefix("sealed.").unwrap_or(text);
        let parts: Vec<_> = body.splitn(4, '.').collect();
        let [header, payload, signature] = parts[..] else {
            return Err(Error::Malformed(
                "it is not sealed.<header>.<payload>.<signature>",
            ));
        };
        let decoded = base64::decode_url(payload)
            .or_else(|| base64::decode_padded(payload))
            .ok_or(Error::Malformed(
                "its payload is neither base64url without padding nor padded base64",
            ))?;
        Ok(Self {
            header,
            signed: &body[..header.len() + 1 + payload.len()],
            signature,
            payload: decoded.to_vec(),
        })
    }

    /// The id of the signing key, from the header.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`] and [`Error::Algorithm`].
    pub fn signer(&self) -> Result<String, Error> {
        let header = base64::decode_url(self.header).ok_or(Error::Malformed(
            "its header is not base64url; a placeholder is accepted only where verification is off",
        ))?;
        let header = json::members(&header, MAX_MEMBERS)
            .map_err(|_| Error::Malformed("its header is not a JSON object"))?;
        // RFC 7515, sections 4 and 4.1.11: names must be unique, and critical extensions must be understood.
        let mut names: Vec<_> = header.iter().map(|member| &*member.name).collect();
        names.sort_unstable();
        if names.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(Error::Malformed("its header has a duplicate name"));
        }
        if names.contains(&"crit") {
            return Err(Error::Malformed(
                "its header has critical extensions (crit), and none is supported",
            ));
        }
        match json::string(&header, "alg").as_deref() {
            Some("ES256") => {}
            Some(other) => return Err(Error::Algorithm(Quoted(other).to_string())),
            None => return Err(Error::Algorithm("none".to_owned())),
        }
        json::string(&header, "kid").ok_or(Error::Malformed("its header has no string \"kid\""))
    }

    /// Verifies the signature with `key`, whose id is `kid`.
    ///
    /// # Errors
    ///
    /// [`Error::Signature`].
    pub fn verify(&self, kid: &str, key: &PublicKey) -> Result<(), Error> {
        let verified = base64::decode_url(self.signature)
            .and_then(|signature| Signature::from_slice(&signature).ok())
            .is_some_and(|signature| key.0.verify(self.signed.as_bytes(), &signature).is_ok());
        if verified {
            Ok(())
        } else {
            Err(Error::Signature(Quoted(kid).to_string()))
        }
    }

    /// The name of the resource that the secret stands for.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`], and [`Error::KeyService`] for a secret that needs a key service.
    pub fn resource_name(&self) -> Result<String, Error> {
        let payload = json::members(&self.payload, MAX_MEMBERS)
            .map_err(|_| Error::Malformed("its payload is not a JSON object"))?;
        let provider = json::string(&payload, "provider");
        let kind = json::string(&payload, "type")
            .ok_or(Error::Malformed("its payload has no string \"type\""))?;
        let by_us = provider.as_deref().is_none_or(|provider| provider == "kbs");
        match kind.as_str() {
            "vault" if by_us => json::string(&payload, "name")
                .ok_or(Error::Malformed("its payload has no string \"name\"")),
            "vault" | "envelope" => Err(Error::KeyService {
                kind: Quoted(&kind).to_string(),
                provider: Quoted(provider.as_deref().unwrap_or("(none)")).to_string(),
            }),
            _ => Err(Error::Malformed(
                "its type is neither \"vault\" nor \"envelope\"",
            )),
        }
    }
}

/// The content of a payload, whether or not this program can open it.
#[cfg(feature = "tools")]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Payload {
    /// `vault`, `envelope`, or any other type.
    pub kind: String,
    /// The name of the resource, of a secret of type `vault`.
    pub name: Option<String>,
    /// The id of the encryption key, of a secret of type `envelope`.
    pub key_id: Option<String>,
    /// The provider that opens it.
    pub provider: Option<String>,
}

#[cfg(feature = "tools")]
impl Sealed<'_> {
    /// Parses the payload.
    ///
    /// # Errors
    ///
    /// [`Error::Malformed`].
    pub fn payload(&self) -> Result<Payload, Error> {
        let payload = json::members(&self.payload, MAX_MEMBERS)
            .map_err(|_| Error::Malformed("its payload is not a JSON object"))?;
        let string = |name| json::string(&payload, name);
        Ok(Payload {
            kind: string("type").ok_or(Error::Malformed("its payload has no string \"type\""))?,
            name: string("name"),
            key_id: string("key_id"),
            provider: string("provider"),
        })
    }
}

/// A public key that verifies sealed secrets.
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Reads a JWK of an EC key on the curve P-256. Returns none for anything else.
    pub fn from_jwk(text: &[u8]) -> Option<Self> {
        let jwk = json::members(text, MAX_MEMBERS).ok()?;
        let is = |name, value: &str| json::string(&jwk, name).is_some_and(|found| found == value);
        if !is("kty", "EC") || !is("crv", "P-256") {
            return None;
        }
        // SEC 1's encoding of a point: a tag for "uncompressed", and both coordinates.
        let mut point = vec![0x04];
        for coordinate in ["x", "y"] {
            let bytes = base64::decode_url(&json::string(&jwk, coordinate)?)?;
            point.extend_from_slice(<&[u8; 32]>::try_from(bytes.as_slice()).ok()?);
        }
        VerifyingKey::from_sec1_bytes(&point).ok().map(Self)
    }
}
