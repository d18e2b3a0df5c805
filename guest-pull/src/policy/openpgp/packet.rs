// SPDX-License-Identifier: Apache-2.0

//! Packets, of which OpenPGP's keys and messages consist (RFC 9580, sections 3 and 4).

use std::io::Read;

use common::base64;
use flate2::read::{DeflateDecoder, ZlibDecoder};

/// The most packets that are read: a key with many user ids and signatures of others has some hundreds.
const MAX_PACKETS: usize = 10_000;

/// The largest message once it is decompressed.
const MAX_MESSAGE_BYTES: u64 = 4 << 20;

/// A packet.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub tag: u8,
    pub body: Vec<u8>,
}

pub(super) const SIGNATURE: u8 = 2;
pub(super) const ONE_PASS: u8 = 4;
pub(super) const PUBLIC_KEY: u8 = 6;
const COMPRESSED: u8 = 8;
pub(super) const LITERAL: u8 = 11;
pub(super) const USER_ID: u8 = 13;
pub(super) const PUBLIC_SUBKEY: u8 = 14;

/// Bytes that are read from the beginning.
pub(super) struct Bytes<'a>(pub &'a [u8]);

impl<'a> Bytes<'a> {
    pub(super) fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?[0])
    }

    /// A number of this many bytes, at most 4.
    pub(super) fn number(&mut self, bytes: usize) -> Option<usize> {
        let taken = self.take(bytes)?.iter();
        Some(taken.fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// A multiprecision integer: its length in bits, and its bytes.
    pub(super) fn integer(&mut self) -> Option<&'a [u8]> {
        let bits = self.number(2)?;
        self.take(bits.div_ceil(8))
    }
}

/// The packets of a text in ASCII armour, or of bytes.
pub(super) fn packets(bytes: &[u8]) -> Result<Vec<Packet>, String> {
    let binary = match bytes.trim_ascii_start().starts_with(b"-----BEGIN PGP") {
        true => Some(unarmoured(bytes).ok_or("its ASCII armour is broken")?),
        false => None,
    };
    let mut bytes = Bytes(binary.as_deref().unwrap_or(bytes));
    let mut packets = Vec::new();
    while !bytes.0.is_empty() {
        if packets.len() == MAX_PACKETS {
            return Err(format!("it has more than {MAX_PACKETS} packets"));
        }
        packets.push(packet(&mut bytes).ok_or("it is no OpenPGP, or cut off")?);
    }
    Ok(packets)
}

/// The packets of a signed message, which may be compressed.
pub(super) fn message(bytes: &[u8]) -> Result<Vec<Packet>, String> {
    let outer = packets(bytes)?;
    let [
        Packet {
            tag: COMPRESSED,
            body,
        },
    ] = &outer[..]
    else {
        return Ok(outer);
    };
    let (algorithm, rest) = body.split_first().ok_or("it is cut off")?;
    let mut inner = Vec::new();
    let read = match algorithm {
        0 => rest.take(MAX_MESSAGE_BYTES).read_to_end(&mut inner),
        1 => DeflateDecoder::new(rest)
            .take(MAX_MESSAGE_BYTES)
            .read_to_end(&mut inner),
        2 => ZlibDecoder::new(rest)
            .take(MAX_MESSAGE_BYTES)
            .read_to_end(&mut inner),
        _ => return Err("it is compressed, and not by ZIP or ZLIB".to_owned()),
    };
    read.map_err(|_| "what it has compressed is broken")?;
    packets(&inner)
}

fn packet(bytes: &mut Bytes<'_>) -> Option<Packet> {
    let first = bytes.byte()?;
    if first & 0x80 == 0 {
        return None;
    }
    if first & 0x40 == 0 {
        let length = match first & 3 {
            0 => bytes.number(1)?,
            1 => bytes.number(2)?,
            2 => bytes.number(4)?,
            // Up to the end.
            _ => bytes.0.len(),
        };
        let body = bytes.take(length)?.to_vec();
        return Some(Packet {
            tag: (first >> 2) & 15,
            body,
        });
    }
    let mut body = Vec::new();
    loop {
        let first_of_length = usize::from(bytes.byte()?);
        let (length, is_last) = match first_of_length {
            0..=191 => (first_of_length, true),
            192..=223 => (
                ((first_of_length - 192) << 8) + bytes.number(1)? + 192,
                true,
            ),
            255 => (bytes.number(4)?, true),
            // A part, and others follow.
            partial => (1 << (partial & 31), false),
        };
        body.extend(bytes.take(length)?);
        if is_last {
            return Some(Packet {
                tag: first & 63,
                body,
            });
        }
    }
}

/// The bytes of all blocks of ASCII armour. Its checksum is none against anybody, so it isn't looked at.
fn unarmoured(text: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(text).ok()?;
    let mut bytes = Vec::new();
    let mut lines = text.lines().map(str::trim);
    while let Some(line) = lines.next() {
        if line.is_empty() {
            continue;
        }
        if !line.starts_with("-----BEGIN PGP") {
            return None;
        }
        // Headers end with an empty line.
        lines.by_ref().find(|line| line.is_empty())?;
        let mut block = String::new();
        loop {
            let line = lines.next()?;
            if line.starts_with("-----END PGP") {
                break;
            }
            if !line.starts_with('=') {
                block.push_str(line);
            }
        }
        bytes.extend_from_slice(&base64::decode(&block).ok()?);
    }
    Some(bytes)
}
