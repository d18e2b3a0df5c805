// SPDX-License-Identifier: Apache-2.0

//! Public keys, and what they signed.

use std::cell::Cell;
use std::fmt;

use ring::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, ED25519,
    RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA256, UnparsedPublicKey, VerificationAlgorithm,
};
use rustls::pki_types::alg_id;
use rustls::pki_types::pem::{PemObject as _, SectionKind};

/// The shortest RSA key in bits. Shorter ones are not safe, and ring doesn't take them.
const MIN_RSA_BITS: usize = 2048;

/// The longest RSA key in bits, which is ring's.
const MAX_RSA_BITS: usize = 8192;

const SEQUENCE: u8 = 0x30;
const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;

/// A public key, and where it is from.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey {
    /// Where it is from, for messages.
    pub name: String,
    /// Its text in PEM.
    pub pem: String,
    kind: Kind,
    /// What algorithms take: a point, an RSAPublicKey, or 32 bytes.
    bytes: Vec<u8>,
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.kind, self.name)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    P256,
    P384,
    Rsa,
    Ed25519,
}

impl Kind {
    /// The algorithms with which cosign signs by a key of this kind: by P-384 in SHA-256 up to version 2, in SHA-384
    /// later; by RSA in the form of PKCS #1, or of PSS where a key management service does it.
    fn algorithms(self) -> Vec<&'static dyn VerificationAlgorithm> {
        match self {
            Self::P256 => vec![&ECDSA_P256_SHA256_ASN1],
            Self::P384 => vec![&ECDSA_P384_SHA384_ASN1, &ECDSA_P384_SHA256_ASN1],
            Self::Rsa => vec![&RSA_PKCS1_2048_8192_SHA256, &RSA_PSS_2048_8192_SHA256],
            Self::Ed25519 => vec![&ED25519],
        }
    }
}

impl PublicKey {
    /// Parses a text in PEM with one public key.
    ///
    /// # Errors
    ///
    /// If it is something else, or a key of a kind that is not supported.
    pub fn parse(name: &str, text: &[u8]) -> Result<Self, String> {
        let sections: Result<Vec<_>, _> = <(SectionKind, Vec<u8>)>::pem_slice_iter(text).collect();
        let sections = sections.map_err(|_| "not PEM")?;
        let der = match &sections[..] {
            [(SectionKind::PublicKey, der)] => der,
            [] => return Err("no public key in PEM (-----BEGIN PUBLIC KEY-----)".to_owned()),
            [(kind, _)] => return Err(format!("not a public key, but {kind:?}")),
            _ => return Err("more than one key or certificate; give each a file".to_owned()),
        };
        let (kind, bytes) = subject_public_key(der)
            .ok_or("a kind of key that is not supported; P-256, P-384, RSA and Ed25519 are")?;
        let is_good = match kind {
            Kind::P256 => bytes.len() == 65,
            Kind::P384 => bytes.len() == 97,
            Kind::Ed25519 => bytes.len() == 32,
            Kind::Rsa => {
                let bits = modulus_bits(&bytes).unwrap_or_default();
                if !(MIN_RSA_BITS..=MAX_RSA_BITS).contains(&bits) {
                    return Err(format!(
                        "an RSA key of {bits} bits; {MIN_RSA_BITS} to {MAX_RSA_BITS} are supported"
                    ));
                }
                true
            }
        };
        if !is_good {
            return Err("a broken public key".to_owned());
        }
        Ok(Self {
            name: name.to_owned(),
            pem: String::from_utf8_lossy(text).into_owned(),
            kind,
            bytes,
        })
    }

    /// Whether the signature is this key's, of the message.
    pub fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        self.kind.algorithms().into_iter().any(|algorithm| {
            let key = UnparsedPublicKey::new(algorithm, &self.bytes);
            key.verify(message, signature).is_ok()
        })
    }
}

/// The keys of a requirement, which check a bounded number of signatures: many signatures by nobody would take many keys a
/// long time.
pub struct Checker<'k> {
    keys: &'k [PublicKey],
    /// How much may still be done.
    left: Cell<u64>,
}

/// How many bytes are digested for one requirement. One check of a signature counts as [`CHECK`] beside its message. It is
/// 32,768 checks, and takes ten seconds or so at most.
const MAX_WORK: u64 = 2 << 30;

/// What one check of a signature takes, in bytes that could be digested meanwhile.
const CHECK: u64 = 64 << 10;

impl<'k> Checker<'k> {
    /// With nothing done yet.
    pub fn new(keys: &'k [PublicKey]) -> Self {
        let left = Cell::new(MAX_WORK);
        Self { keys, left }
    }

    /// Whether a signature is one of the keys', of the message.
    ///
    /// # Errors
    ///
    /// If too much was checked before.
    pub(super) fn verifies(&self, message: &[u8], signature: &[u8]) -> Result<bool, String> {
        for key in self.keys {
            let checks = key.kind.algorithms().len() as u64;
            let work = checks * (CHECK + message.len() as u64);
            let left = self.left.get().checked_sub(work);
            self.left.set(left.ok_or(
                "too many signatures by other keys were checked before it; delete those that are not needed",
            )?);
            if key.verifies(message, signature) {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

/// Takes a SubjectPublicKeyInfo (RFC 5280) apart: a sequence of an algorithm, and the key in a bit string.
fn subject_public_key(der: &[u8]) -> Option<(Kind, Vec<u8>)> {
    let (inner, rest) = element(SEQUENCE, der)?;
    let (algorithm, key) = element(SEQUENCE, inner)?;
    let (bits, rest_of_key) = element(BIT_STRING, key)?;
    if !rest.is_empty() || !rest_of_key.is_empty() {
        return None;
    }
    let (unused, bytes) = bits.split_first()?;
    let known = [
        (Kind::P256, alg_id::ECDSA_P256),
        (Kind::P384, alg_id::ECDSA_P384),
        (Kind::Rsa, alg_id::RSA_ENCRYPTION),
        (Kind::Ed25519, alg_id::ED25519),
    ];
    let (kind, _) = known.iter().find(|(_, id)| id.as_ref() == algorithm)?;
    (*unused == 0).then(|| (*kind, bytes.to_vec()))
}

/// The length of an RSA key: a sequence that begins with the modulus.
fn modulus_bits(key: &[u8]) -> Option<usize> {
    let (inner, _) = element(SEQUENCE, key)?;
    let (modulus, _) = element(INTEGER, inner)?;
    let first = modulus.iter().position(|byte| *byte != 0)?;
    let modulus = &modulus[first..];
    Some(modulus.len() * 8 - modulus.first()?.leading_zeros() as usize)
}

/// The content of the first element of DER, which must have this tag; and what follows it.
fn element(tag: u8, der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (found, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = match *first {
        short @ 0..=0x7f => (usize::from(short), rest),
        // Of three bytes and more no key has a need.
        long @ 0x81..=0x82 => {
            let (bytes, rest) = rest.split_at_checked(usize::from(long & 0x7f))?;
            let length = bytes.iter();
            (
                length.fold(0, |all, byte| all << 8 | usize::from(*byte)),
                rest,
            )
        }
        _ => return None,
    };
    (*found == tag).then_some(())?;
    rest.split_at_checked(length)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Checks end when they have taken too long together: each counts, and so does its message, for each key.
    #[test]
    fn checks_are_bounded() {
        let pem = || rcgen::KeyPair::generate().unwrap().public_key_pem();
        let keys = [(); 2].map(|()| PublicKey::parse("key", pem().as_bytes()).unwrap());
        let mut checker = Checker::new(&keys);
        assert_eq!(checker.verifies(b"message", b"signature"), Ok(false));
        assert_eq!(checker.left.get(), MAX_WORK - 2 * (CHECK + 7));
        *checker.left.get_mut() = 3 * CHECK;
        assert_eq!(checker.verifies(b"", b""), Ok(false));
        let error = checker.verifies(b"", b"").unwrap_err();
        assert!(error.contains("too many signatures"), "{error}");
    }
}
