// SPDX-License-Identifier: Apache-2.0

//! What GPG signed: messages of one signature, by the primary key of a key ring (RFC 9580).
//!
//! It is the small part of OpenPGP that signatures of images are made of: version 4, hashes of SHA-2, keys of RSA, ECDSA and
//! Ed25519. Everything else is refused, with the reason. A library for all of OpenPGP brings 130 crates, and most
//! of what those do is not for this program.

mod packet;
mod signature;

use std::fmt;

use ring::digest::{SHA1_FOR_LEGACY_USE_ONLY, digest};
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RsaPublicKeyComponents,
    UnparsedPublicKey,
};

use packet::{
    Bytes, LITERAL, ONE_PASS, PUBLIC_KEY, PUBLIC_SUBKEY, Packet, SIGNATURE, USER_ID, message,
    packets,
};
use signature::{Hash, Signature};

/// Object identifiers in keys.
const P256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const P384: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const ED25519_LEGACY: &[u8] = &[0x2b, 0x06, 0x01, 0x04, 0x01, 0xda, 0x47, 0x0f, 0x01];

/// The type of a signature of a document as it is.
const OF_DOCUMENT: u8 = 0x00;

/// The type of a signature that revokes a primary key.
const REVOKES_KEY: u8 = 0x20;

/// The number that a key has by its fingerprint.
#[derive(Clone, Copy, PartialEq, Eq)]
struct KeyId([u8; 8]);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02X}"))
    }
}

/// A primary key.
#[derive(Clone, PartialEq, Eq)]
pub struct Key {
    id: KeyId,
    material: Material,
    /// The key ids of its subkeys.
    subkeys: Vec<KeyId>,
    /// The seconds since 1970 at which it was made.
    made: u64,
    is_revoked: bool,
    /// What the newest of its own signatures says: when that was made, after how many seconds from `made` the key ends, and
    /// whether it may sign.
    says: Option<(u64, Option<u64>, bool)>,
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.id, f)
    }
}

#[derive(Clone, PartialEq, Eq)]
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    P256(Vec<u8>),
    P384(Vec<u8>),
    Ed25519(Vec<u8>),
    /// Of a kind that is not supported.
    Other,
}

/// The primary keys of key rings, with the names of those for messages. A key counts once, however many copies of it there
/// are: if one is revoked, the key is, and of what the copies say of themselves the newest counts.
pub fn keys<'r>(rings: impl IntoIterator<Item = (&'r str, &'r [u8])>) -> Result<Vec<Key>, String> {
    let mut keys: Vec<Key> = Vec::new();
    let mut revocations = Vec::new();
    for (name, bytes) in rings {
        let ring = ring(bytes).map_err(|what| format!("the key ring {name}: {what}"))?;
        revocations.extend(ring.revocations);
        for key in ring.keys {
            let is_copy = |other: &&mut Key| other.id == key.id && other.material == key.material;
            match keys.iter_mut().find(is_copy) {
                Some(other) => other.merge(key),
                None => keys.push(key),
            }
        }
    }
    for Revocation { issuer, before } in revocations {
        // One by a key that is in no ring, as somebody else may be allowed to revoke it, is of the key before it.
        let is_known = issuer.is_some_and(|id| keys.iter().any(|key| key.id == id));
        let id = if is_known { issuer } else { before };
        let revoked = keys.iter_mut().filter(|key| Some(key.id) == id);
        revoked.for_each(|key| key.is_revoked = true);
    }
    Ok(keys)
}

/// What a key ring has.
#[derive(Default)]
struct Ring {
    keys: Vec<Key>,
    revocations: Vec<Revocation>,
}

/// A signature that revokes a primary key. It may be anywhere in a ring, or in another one than its key: people append it.
struct Revocation {
    issuer: Option<KeyId>,
    /// The primary key that it is directly behind.
    before: Option<KeyId>,
}

/// Reads a key ring. Who wrote the policy chose it, so what its keys say of themselves is taken as it is,
/// without a look at those signatures: old keys' are by SHA-1.
fn ring(bytes: &[u8]) -> Result<Ring, String> {
    let mut ring = Ring::default();
    let keys = &mut ring.keys;
    // Signatures are of the user id or subkey before them.
    let mut of_subkey = false;
    for Packet { tag, body } in packets(bytes)? {
        match tag {
            PUBLIC_KEY => {
                keys.push(key(&body).ok_or("it has a key that is not of version 4, or broken")?);
                of_subkey = false;
            }
            PUBLIC_SUBKEY => {
                of_subkey = true;
                if let (Some(primary), Some(id)) = (keys.last_mut(), key_id(&body)) {
                    primary.subkeys.push(id);
                }
            }
            USER_ID => of_subkey = false,
            SIGNATURE => match Signature::parse(&body) {
                Some(signature) if signature.kind == REVOKES_KEY => {
                    ring.revocations.push(Revocation {
                        issuer: signature.issuer.map(KeyId),
                        before: keys.last().map(|key| key.id),
                    });
                }
                Some(signature) if !of_subkey => {
                    if let Some(key) = keys.last_mut() {
                        key.heed(&signature);
                    }
                }
                _ => {}
            },
            5 | 7 => return Err("it has a secret key; export the public one alone".to_owned()),
            _ => {}
        }
    }
    match keys.is_empty() {
        true => Err("it has no public key".to_owned()),
        false => Ok(ring),
    }
}

/// The id of a key of version 4: the end of its fingerprint.
fn key_id(body: &[u8]) -> Option<KeyId> {
    let length = u16::try_from(body.len()).ok()?;
    (body.first() == Some(&4)).then_some(())?;
    let hashed = [&[0x99], &length.to_be_bytes()[..], body].concat();
    let fingerprint = digest(&SHA1_FOR_LEGACY_USE_ONLY, &hashed);
    let id = fingerprint.as_ref().get(12..20)?;
    id.try_into().ok().map(KeyId)
}

fn key(body: &[u8]) -> Option<Key> {
    let mut bytes = Bytes(body);
    let id = key_id(body)?;
    bytes.byte()?;
    let made = bytes.number(4)? as u64;
    let material = match bytes.byte()? {
        1 | 3 => {
            let (n, e) = (bytes.integer()?.to_vec(), bytes.integer()?.to_vec());
            Material::Rsa { n, e }
        }
        19 | 22 => {
            let length = usize::from(bytes.byte()?);
            let curve = bytes.take(length)?;
            let point = bytes.integer()?;
            match (curve, point) {
                (P256, point) => Material::P256(point.to_vec()),
                (P384, point) => Material::P384(point.to_vec()),
                (ED25519_LEGACY, [0x40, point @ ..]) => Material::Ed25519(point.to_vec()),
                _ => Material::Other,
            }
        }
        27 => Material::Ed25519(bytes.take(32)?.to_vec()),
        _ => Material::Other,
    };
    Some(Key {
        id,
        material,
        subkeys: Vec::new(),
        made,
        is_revoked: false,
        says: None,
    })
}

impl Key {
    /// Takes over what a signature of the key itself says about it.
    fn heed(&mut self, signature: &Signature) {
        if signature.issuer != Some(self.id.0) {
            return;
        }
        // Of user ids (0x10 to 0x13), and of the key directly.
        if !matches!(signature.kind, 0x10..=0x13 | 0x1f) {
            return;
        }
        let says = (signature.made, signature.key_ends_after, signature.may_sign);
        if self.says.is_none_or(|before| before.0 <= says.0) {
            self.says = Some(says);
        }
    }

    /// Takes over what another copy of the key says.
    fn merge(&mut self, copy: Self) {
        self.subkeys.extend(copy.subkeys);
        let made = |says: Option<(u64, _, _)>| says.map(|(made, ..)| made);
        if made(self.says) <= made(copy.says) {
            self.says = copy.says;
        }
    }

    /// Why the key doesn't count at this time, in seconds since 1970. One that has ended doesn't count for what it signed
    /// before either: who has it now could date a signature back.
    fn problem(&self, now: u64) -> Option<String> {
        let id = self.id;
        if self.is_revoked {
            return Some(format!("the key {id} is revoked"));
        }
        let Some((_, ends_after, may_sign)) = self.says else {
            return Some(format!("the key {id} has no signature of its own"));
        };
        if !may_sign {
            return Some(format!("the key {id} is not for signing"));
        }
        let has_ended = ends_after.is_some_and(|after| self.made.saturating_add(after) < now);
        has_ended.then(|| format!("the key {id} has expired"))
    }

    /// Whether the signature is the key's.
    fn verifies(&self, signature: &Signature, document: &[u8]) -> bool {
        let Some(hash) = signature.hash else {
            return false;
        };
        let message = [document, &signature.trailer].concat();
        let integers = || {
            let mut bytes = Bytes(&signature.integers);
            Some((bytes.integer()?, bytes.integer()?))
        };
        match &self.material {
            Material::Rsa { n, e } => {
                let algorithm = match hash {
                    Hash::Sha256 => &RSA_PKCS1_2048_8192_SHA256,
                    Hash::Sha384 => &RSA_PKCS1_2048_8192_SHA384,
                    Hash::Sha512 => &RSA_PKCS1_2048_8192_SHA512,
                };
                let key = RsaPublicKeyComponents { n, e };
                let integer = Bytes(&signature.integers).integer();
                let padded = integer.and_then(|integer| padded(integer, n.len()));
                padded.is_some_and(|padded| key.verify(algorithm, &message, &padded).is_ok())
            }
            Material::P256(point) if hash == Hash::Sha256 => {
                let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
                let pair = integers().and_then(|pair| joined(pair, 32));
                pair.is_some_and(|pair| key.verify(&message, &pair).is_ok())
            }
            Material::P384(point) if hash == Hash::Sha384 => {
                let key = UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point);
                let pair = integers().and_then(|pair| joined(pair, 48));
                pair.is_some_and(|pair| key.verify(&message, &pair).is_ok())
            }
            Material::Ed25519(point) => {
                let key = UnparsedPublicKey::new(&ED25519, point);
                let pair = match signature.algorithm {
                    27 => Some(signature.integers.clone()),
                    _ => integers().and_then(|pair| joined(pair, 32)),
                };
                let hash = digest(hash.algorithm(), &message);
                pair.is_some_and(|pair| key.verify(hash.as_ref(), &pair).is_ok())
            }
            _ => false,
        }
    }
}

/// The integer with zeros before it, up to a length.
fn padded(integer: &[u8], length: usize) -> Option<Vec<u8>> {
    let missing = length.checked_sub(integer.len())?;
    Some([vec![0; missing], integer.to_vec()].concat())
}

fn joined((first, second): (&[u8], &[u8]), length: usize) -> Option<Vec<u8>> {
    Some([padded(first, length)?, padded(second, length)?].concat())
}

/// The document in a signed message, if one of the keys signed it; `now` in seconds since 1970.
///
/// # Errors
///
/// The reason if not.
pub fn verify(bytes: &[u8], keys: &[Key], now: u64) -> Result<Vec<u8>, String> {
    let packets = message(bytes)?;
    let tags: Vec<_> = packets.iter().map(|packet| packet.tag).collect();
    if tags != [ONE_PASS, LITERAL, SIGNATURE] {
        return Err("it is not a message with one signature, as `gpg --sign` makes it".to_owned());
    }
    let document = document(&packets[1].body).ok_or("it is cut off")?;
    let signature = Signature::parse(&packets[2].body);
    let signature = signature.ok_or("its signature is not of version 4, or cut off")?;
    if signature.hash.is_none() || !signature.is_understood {
        let what =
            "its signature has a hash that is not of SHA-2, or a critical part that is not known";
        return Err(what.to_owned());
    }
    if signature.kind != OF_DOCUMENT {
        return Err("its signature is not one of a document".to_owned());
    }
    let issuer = signature.issuer.map(KeyId);
    let issuer = issuer.ok_or("its signature does not say by which key it is")?;
    // No other key is tried, as with GnuPG: a storage with many large signatures would take the keys of a large ring hours.
    let mut named = keys.iter().filter(|key| key.id == issuer);
    let Some(key) = named.find(|key| key.verifies(&signature, document)) else {
        let is_subkey = keys.iter().any(|key| key.subkeys.contains(&issuer));
        let is_known = keys.iter().any(|key| key.id == issuer);
        return Err(match (is_subkey, is_known) {
            (true, _) => format!("it is by the subkey {issuer}; only primary keys count"),
            (_, true) => format!(
                "it is broken, or by an algorithm that is not supported; it names the key {issuer}"
            ),
            _ => format!("it is by another key, {issuer}"),
        });
    };
    if let Some(problem) = key.problem(now) {
        return Err(problem);
    }
    let has_ended = |after: u64| after != 0 && signature.made.saturating_add(after) < now;
    match signature.ends_after.is_some_and(has_ended) {
        true => Err("it has expired".to_owned()),
        false => Ok(document.to_vec()),
    }
}

/// The content of a literal packet: after the format, a name, and a time.
fn document(body: &[u8]) -> Option<&[u8]> {
    let mut bytes = Bytes(body);
    bytes.byte()?;
    let length = usize::from(bytes.byte()?);
    bytes.take(length + 4)?;
    Some(bytes.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Packets with the tags that are read, of old and new format.
    fn odd_packets() -> impl Strategy<Value = Vec<u8>> {
        let tag = prop::sample::select(vec![SIGNATURE, ONE_PASS, PUBLIC_KEY, 8, LITERAL, USER_ID]);
        let body = prop::collection::vec(any::<u8>(), 0..60);
        let begin = prop::sample::select(vec![&[][..], &[4, 0, 1, 8], &[4, 0, 22, 10, 0, 4], &[1]]);
        let packet = (tag, begin, body, any::<bool>()).prop_map(|(tag, begin, body, is_old)| {
            let body = [begin, &body].concat();
            let first = if is_old { 0x80 | tag << 2 } else { 0xc0 | tag };
            [&[first, body.len() as u8][..], &body].concat()
        });
        prop::collection::vec(packet, 0..5).prop_map(|packets| packets.concat())
    }

    proptest! {
        /// Whatever comes is refused, and ends nothing.
        #[test]
        fn nothing_odd_is_let_in(bytes in odd_packets(), noise in prop::collection::vec(any::<u8>(), 0..200)) {
            for bytes in [&bytes, &noise] {
                let keys = keys([("ring", &bytes[..])]).unwrap_or_default();
                prop_assert!(verify(bytes, &keys, 1).is_err());
            }
        }
    }
}
