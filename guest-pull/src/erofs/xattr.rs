// SPDX-License-Identifier: Apache-2.0

//! Extended attributes: as they are kept until the end, and as they stand behind an inode.

use crate::erofs::Error;
use crate::erofs::format::{MAX_XATTR_BYTES, XATTR_ENTRY_BYTES, XATTR_HEADER_BYTES};

/// An extended attribute: its whole name, such as `user.x`, and its value.
pub type Xattr = (Box<[u8]>, Box<[u8]>);

/// The prefixes of extended attributes that the format has numbers for; the longest that fits counts.
const PREFIXES: [(u8, &[u8]); 5] = [
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (1, b"user."),
    (4, b"trusted."),
    (6, b"security."),
];

/// Attributes in one piece: of each, the lengths of its name and its value, and both.
pub fn pack(xattrs: &[Xattr]) -> Vec<u8> {
    let mut packed = Vec::new();
    for (name, value) in xattrs {
        for part in [name, value] {
            packed.extend((part.len() as u32).to_le_bytes());
        }
        packed.extend(name);
        packed.extend(value);
    }
    packed
}

/// The attributes in such a piece.
pub fn unpack(mut packed: &[u8]) -> Vec<Xattr> {
    let mut xattrs = Vec::new();
    while let Some((lengths, rest)) = packed.split_first_chunk::<8>() {
        let (name, value) = lengths.split_at(4);
        let length = |bytes: &[u8]| {
            let bytes = bytes.first_chunk().copied();
            bytes.map_or(0, u32::from_le_bytes) as usize
        };
        let (name, value) = (length(name), length(value));
        let Some((name, rest)) = rest.split_at_checked(name) else {
            break;
        };
        let Some((value, rest)) = rest.split_at_checked(value) else {
            break;
        };
        xattrs.push((name.into(), value.into()));
        packed = rest;
    }
    xattrs
}

/// The prefix's number and the rest of an extended attribute's name; none if the format has no number for it.
fn split(name: &[u8]) -> Option<(u8, &[u8])> {
    let (number, rest) = PREFIXES
        .iter()
        .find_map(|(number, prefix)| Some((*number, name.strip_prefix(*prefix)?)))?;
    // The first two are whole names.
    let is_whole = matches!(number, 2 | 3);
    (!is_whole || rest.is_empty()).then_some((number, rest))
}

/// How many bytes the attributes take behind an inode.
///
/// # Errors
///
/// If they don't fit.
pub fn size(xattrs: &[Xattr]) -> Result<usize, Error> {
    let mut bytes = 0;
    for (name, value) in xattrs {
        let Some((_, rest)) = split(name) else {
            continue;
        };
        let fits = rest.len() <= usize::from(u8::MAX) && value.len() <= usize::from(u16::MAX);
        let entry = XATTR_ENTRY_BYTES + rest.len() + value.len();
        bytes += entry.next_multiple_of(4);
        if !fits || bytes + XATTR_HEADER_BYTES > MAX_XATTR_BYTES {
            return Err(Error::Xattrs {
                name: name.escape_ascii().to_string(),
                bytes,
                most: MAX_XATTR_BYTES,
            });
        }
    }
    Ok(match bytes {
        0 => 0,
        bytes => XATTR_HEADER_BYTES + bytes,
    })
}

/// The attributes as they stand behind an inode.
pub fn encode(xattrs: &[Xattr]) -> Vec<u8> {
    let mut encoded = Vec::new();
    for (name, value) in xattrs {
        let Some((prefix, rest)) = split(name) else {
            continue;
        };
        if encoded.is_empty() {
            // No filter of names, and no shared attributes.
            encoded.resize(XATTR_HEADER_BYTES, 0);
        }
        encoded.extend([rest.len() as u8, prefix]);
        encoded.extend((value.len() as u16).to_le_bytes());
        encoded.extend(rest);
        encoded.extend(value);
        encoded.resize(encoded.len().next_multiple_of(4), 0);
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names of ACLs have nothing behind them.
    #[test]
    fn names_of_acls_are_whole() {
        let acl = b"system.posix_acl_access";
        assert_eq!(split(acl), Some((2, &b""[..])));
        assert_eq!(split(b"system.posix_acl_accessX"), None);
        assert_eq!(split(b"system.posix_acl_default2"), None);
        assert_eq!(split(b"user.x"), Some((1, &b"x"[..])));
    }

    /// Names and values with any bytes, and of no length, are kept.
    #[test]
    fn attributes_come_back() {
        let of = |name: &[u8], value: &[u8]| -> Xattr { (name.into(), value.into()) };
        let xattrs = vec![of(b"user.a", b""), of(b"", b"\0"), of(b"x", &[7; 70_000])];
        assert_eq!(unpack(&pack(&xattrs)), xattrs);
        assert!(unpack(&[]).is_empty());
    }
}
