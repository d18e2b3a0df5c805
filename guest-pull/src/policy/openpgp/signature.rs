// SPDX-License-Identifier: Apache-2.0

//! Signature packets of version 4 (RFC 9580, section 5.2).

use ring::digest::{Algorithm, SHA256, SHA384, SHA512};

use crate::policy::openpgp::packet::Bytes;

/// The hashes that count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    pub(super) fn algorithm(self) -> &'static Algorithm {
        match self {
            Self::Sha256 => &SHA256,
            Self::Sha384 => &SHA384,
            Self::Sha512 => &SHA512,
        }
    }
}

/// A signature.
pub(super) struct Signature {
    /// What it is of.
    pub kind: u8,
    /// The algorithm of the key.
    pub algorithm: u8,
    /// None if it is another.
    pub hash: Option<Hash>,
    /// What is hashed after the document.
    pub trailer: Vec<u8>,
    /// The numbers that make it up.
    pub integers: Vec<u8>,
    /// The seconds since 1970 at which it was made.
    pub made: u64,
    /// After how many seconds it ends.
    pub ends_after: Option<u64>,
    /// After how many seconds the key ends.
    pub key_ends_after: Option<u64>,
    /// Whether the key may sign documents; it may if nothing is said.
    pub may_sign: bool,
    /// Whether it has no critical part that isn't known.
    pub is_understood: bool,
    /// The id of the key, which is not signed itself: for messages, and to find what a key says of itself.
    pub issuer: Option<[u8; 8]>,
}

impl Signature {
    /// Parses the body of a packet; none if it is of another version, or broken.
    pub(super) fn parse(body: &[u8]) -> Option<Self> {
        let mut bytes = Bytes(body);
        let [4, kind, algorithm, hash] = *bytes.take(4)? else {
            return None;
        };
        let hash = match hash {
            8 => Some(Hash::Sha256),
            9 => Some(Hash::Sha384),
            10 => Some(Hash::Sha512),
            _ => None,
        };
        let length = bytes.number(2)?;
        let hashed = bytes.take(length)?;
        let end = u32::try_from(6 + length).ok()?;
        let trailer = [body.get(..6 + length)?, &[4, 0xff], &end.to_be_bytes()].concat();
        let length = bytes.number(2)?;
        let unhashed = bytes.take(length)?;
        // The beginning of the hash, as a quick check.
        bytes.take(2)?;
        let mut signature = Self {
            kind,
            algorithm,
            hash,
            trailer,
            integers: bytes.0.to_vec(),
            made: 0,
            ends_after: None,
            key_ends_after: None,
            may_sign: true,
            is_understood: true,
            issuer: None,
        };
        signature.take_hashed(hashed)?;
        signature.take_unhashed(unhashed)?;
        (signature.made != 0).then_some(signature)
    }

    fn take_hashed(&mut self, text: &[u8]) -> Option<()> {
        for (kind, is_critical, body) in subpackets(text)? {
            let seconds = || Bytes(body).number(4).map(|number| number as u64);
            match kind {
                2 => self.made = seconds()?,
                3 => self.ends_after = Some(seconds()?),
                9 => self.key_ends_after = Some(seconds()?).filter(|after| *after != 0),
                16 => self.issuer = body.try_into().ok(),
                27 => self.may_sign = body.first()? & 2 != 0,
                33 => self.issuer = self.issuer.or_else(|| issuer_of(body)),
                // Preferences, features, revocation keys and reasons, policies, names: they say nothing against it.
                4..=7 | 11 | 12 | 21..=26 | 28..=30 => {}
                _ if is_critical => self.is_understood = false,
                _ => {}
            }
        }
        Some(())
    }

    fn take_unhashed(&mut self, text: &[u8]) -> Option<()> {
        for (kind, _, body) in subpackets(text)? {
            if kind == 16 && self.issuer.is_none() {
                self.issuer = body.try_into().ok();
            }
        }
        Some(())
    }
}

/// The end of a fingerprint, which is behind its version.
fn issuer_of(body: &[u8]) -> Option<[u8; 8]> {
    body.get(body.len().checked_sub(8)?..)?.try_into().ok()
}

/// The types of the parts, whether they are critical, and their contents.
fn subpackets(text: &[u8]) -> Option<Vec<(u8, bool, &[u8])>> {
    let mut bytes = Bytes(text);
    let mut found = Vec::new();
    while !bytes.0.is_empty() {
        let first = usize::from(bytes.byte()?);
        let length = match first {
            0..=191 => first,
            255 => bytes.number(4)?,
            _ => ((first - 192) << 8) + bytes.number(1)? + 192,
        };
        let (kind, body) = bytes.take(length)?.split_first()?;
        found.push((kind & 0x7f, kind & 0x80 != 0, body));
    }
    Some(found)
}
