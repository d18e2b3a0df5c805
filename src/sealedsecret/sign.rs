// SPDX-License-Identifier: Apache-2.0

//! Making sealed secrets of type `vault`, and the keys that sign them.

use std::io;

use ::base64::Engine as _;
use ::base64::engine::general_purpose::URL_SAFE_NO_PAD;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};
use serde_json::json;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::json;
use crate::random;
use crate::sealedsecret::MAX_MEMBERS;
use common::base64;

/// The length of a coordinate and of a private key on P-256, in bytes.
const SCALAR_BYTES: usize = 32;

/// Why a text is not a private key. The messages show no part of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// It is another kind of key, or no key at all.
    #[error("not a JWK of an EC key on P-256")]
    NotAKey,
    /// It is only the public key.
    #[error("a public key; a private key has a member \"d\"")]
    Public,
    /// `x` and `y` belong to another key.
    #[error("its members x and y do not match the private key d")]
    Mismatch,
}

/// A private key that signs sealed secrets.
pub struct PrivateKey(SigningKey);

impl PrivateKey {
    /// A fresh key.
    ///
    /// # Errors
    ///
    /// If the kernel gives no random bytes.
    pub fn generate() -> io::Result<Self> {
        loop {
            // One in 2^32 values is not a scalar of the curve.
            if let Ok(key) = SigningKey::from_slice(&*random::bytes::<SCALAR_BYTES>()?) {
                return Ok(Self(key));
            }
        }
    }

    /// Reads a private JWK of an EC key on the curve P-256.
    ///
    /// # Errors
    ///
    /// If the text is anything else.
    pub fn from_jwk(text: &[u8]) -> Result<Self, Error> {
        let jwk = json::members(text, MAX_MEMBERS).map_err(|_| Error::NotAKey)?;
        let is = |name, value: &str| json::string(&jwk, name).is_some_and(|found| found == value);
        if !is("kty", "EC") || !is("crv", "P-256") {
            return Err(Error::NotAKey);
        }
        let d = json::string(&jwk, "d").map(Zeroizing::new);
        let d = base64::decode_url(&d.ok_or(Error::Public)?).ok_or(Error::NotAKey)?;
        let key = SigningKey::from_slice(&d).map_err(|_| Error::NotAKey)?;
        let key = Self(key);
        let (x, y) = key.coordinates();
        if !is("x", &x) || !is("y", &y) {
            return Err(Error::Mismatch);
        }
        Ok(key)
    }

    /// The private JWK, as one line.
    pub fn private_jwk(&self) -> Zeroizing<String> {
        let (x, y) = self.coordinates();
        let scalar = Zeroizing::new(self.0.to_bytes().to_vec());
        let d = Zeroizing::new(URL_SAFE_NO_PAD.encode(&*scalar));
        Zeroizing::new(
            format!(
                r#"{{"kty":"EC","crv":"P-256","alg":"ES256","x":"{x}","y":"{y}","d":"{}"}}"#,
                *d
            ) + "\n",
        )
    }

    /// The public JWK, as one line.
    pub fn public_jwk(&self) -> String {
        let (x, y) = self.coordinates();
        format!(r#"{{"kty":"EC","crv":"P-256","alg":"ES256","x":"{x}","y":"{y}"}}"#) + "\n"
    }

    /// A sealed secret for the resource `kbs:///<path>`, signed by this key, whose id is `kid`.
    pub fn seal(&self, path: &str, kid: &str) -> String {
        let header = json!({"alg": "ES256", "kid": kid});
        let payload = json!({
            "version": "0.1.0",
            "type": "vault",
            "name": format!("kbs:///{path}"),
            "provider": "kbs",
            "provider_settings": {},
            "annotations": {},
        });
        let [header, payload] =
            [header, payload].map(|part| URL_SAFE_NO_PAD.encode(part.to_string()));
        let signature: Signature = self.0.sign(format!("{header}.{payload}").as_bytes());
        let signature = URL_SAFE_NO_PAD.encode(signature.to_bytes());
        format!("sealed.{header}.{payload}.{signature}")
    }

    fn coordinates(&self) -> (String, String) {
        let point = self.0.verifying_key().to_sec1_point(false);
        // SEC 1's encoding: a tag for "uncompressed", and both coordinates.
        let (x, y) = point.as_bytes()[1..].split_at(SCALAR_BYTES);
        (URL_SAFE_NO_PAD.encode(x), URL_SAFE_NO_PAD.encode(y))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::sealedsecret::{PublicKey, Sealed};

    /// The daemon's own reader verifies what `seal` makes, and only with the right key.
    #[test]
    fn round_trip() {
        let [key, other] = [(); 2].map(|()| PrivateKey::generate().unwrap());
        let text = key.seal("default/secret/1", "kbs:///default/signing-key/1");
        let sealed = Sealed::parse(&text).unwrap();
        assert_eq!(sealed.signer().unwrap(), "kbs:///default/signing-key/1");
        assert_eq!(sealed.resource_name().unwrap(), "kbs:///default/secret/1");
        let public = |key: &PrivateKey| PublicKey::from_jwk(key.public_jwk().as_bytes()).unwrap();
        assert!(sealed.verify("k", &public(&key)).is_ok());
        assert!(sealed.verify("k", &public(&other)).is_err());
    }

    #[test]
    fn a_private_key_reads_back_and_nothing_else_does() {
        let key = PrivateKey::generate().unwrap();
        let text = key.private_jwk();
        let read = PrivateKey::from_jwk(text.as_bytes()).unwrap();
        assert_eq!(read.public_jwk(), key.public_jwk());
        let error = |text: &str| PrivateKey::from_jwk(text.as_bytes()).err().unwrap();
        assert_eq!(error(&key.public_jwk()), Error::Public);
        assert_eq!(error("hunter2"), Error::NotAKey);
        assert_eq!(error(&text.replace("P-256", "P-384")), Error::NotAKey);
        let other = PrivateKey::generate().unwrap().private_jwk();
        let (head, _) = text.split_once(",\"d\"").unwrap();
        let (_, tail) = other.split_once(",\"d\"").unwrap();
        assert_eq!(error(&format!("{head},\"d\"{tail}")), Error::Mismatch);
    }
}
