// SPDX-License-Identifier: Apache-2.0

//! The headers of a tar archive: blocks of 512 bytes with fields at fixed places.
//!
//! What is right is what Go's `archive/tar` reads in them, since containerd uses it.

use crate::erofs::Xattr;

/// The length of a header. Contents are padded to a multiple of it.
pub const BLOCK: usize = 512;

/// A header as it stands in the archive.
pub type Block = [u8; BLOCK];

/// What is known of an entry before its content.
#[derive(Debug, Default)]
pub struct Header {
    /// What it is: the character of the format.
    pub kind: u8,
    /// The name.
    pub name: Vec<u8>,
    /// Where a link leads.
    pub link: Vec<u8>,
    /// The length of the content in the archive; of a sparse file, which has less there, its own.
    pub size: i64,
    /// The permissions, with other bits that some tools write.
    pub mode: i64,
    /// The owner.
    pub uid: i64,
    /// The group.
    pub gid: i64,
    /// The time of modification in seconds since 1970.
    pub seconds: i64,
    /// And the nanoseconds after it.
    pub nanoseconds: u32,
    /// The major and the minor number of a device.
    pub device: (i64, i64),
    /// The extended attributes.
    pub xattrs: Vec<Xattr>,
}

/// The formats, which use the end of a header in their own ways.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// Before 1988: nothing is there.
    V7,
    /// POSIX, and PAX after it.
    Ustar,
    /// The one of the program star.
    Star,
    /// GNU tar's own.
    Gnu,
}

/// The format of a header. The program star's is known by its last bytes.
pub fn format(block: &Block) -> Format {
    match (&block[257..265], &block[508..]) {
        ([b'u', b's', b't', b'a', b'r', 0, ..], b"tar\0") => Format::Star,
        ([b'u', b's', b't', b'a', b'r', 0, ..], _) => Format::Ustar,
        (b"ustar  \0", _) => Format::Gnu,
        _ => Format::V7,
    }
}

/// Reads a header.
///
/// # Errors
///
/// If the checksum is wrong, or a field for a number has something else.
pub fn parse(block: &Block) -> Result<Header, String> {
    if !has_checksum(block) {
        return Err("the checksum of a header is wrong".to_owned());
    }
    let name = text(&block[..100]);
    let field = |what: &str, from: usize, length: usize| {
        let field = &block[from..from + length];
        number(field).ok_or_else(|| {
            format!(
                "{}: its {what} is no number: {}",
                name.escape_ascii(),
                field.escape_ascii()
            )
        })
    };
    let mut header = Header {
        kind: block[156],
        name: name.to_vec(),
        link: text(&block[157..257]).to_vec(),
        size: field("size", 124, 12)?,
        mode: field("mode", 100, 8)?,
        uid: field("owner", 108, 8)?,
        gid: field("group", 116, 8)?,
        seconds: field("time", 136, 12)?,
        ..Header::default()
    };
    let format = format(block);
    if format != Format::V7 {
        let major = field("major device number", 329, 8)?;
        header.device = (major, field("minor device number", 337, 8)?);
    }
    let prefix = match format {
        Format::V7 => &[],
        Format::Ustar => text(&block[345..500]),
        Format::Star => {
            field("time of access", 476, 12)?;
            field("time of change", 488, 12)?;
            text(&block[345..476])
        }
        Format::Gnu => gnu_prefix(block),
    };
    if !prefix.is_empty() {
        header.name = [prefix, b"/", name].concat();
    }
    Ok(header)
}

/// GNU tar has two times where POSIX has the start of a long name. Go wrote the start of the name there too until 2017.
fn gnu_prefix(block: &Block) -> &[u8] {
    let is_time = |field: &[u8]| field[0] == 0 || number(field).is_some();
    if is_time(&block[345..357]) && is_time(&block[357..369]) {
        return &[];
    }
    let prefix = text(&block[345..500]);
    match prefix.is_ascii() {
        true => prefix,
        false => &[],
    }
}

/// Whether the header's bytes have the sum that it says, its own eight taken for spaces. Some tools of old added signed
/// bytes.
fn has_checksum(block: &Block) -> bool {
    let said = octal(&block[148..156]);
    let bytes = || block[..148].iter().chain(&[b' '; 8]).chain(&block[156..]);
    let unsigned: i64 = bytes().map(|byte| i64::from(*byte)).sum();
    let signed: i64 = bytes().map(|byte| i64::from(*byte as i8)).sum();
    said.is_some_and(|said| said == unsigned || said == signed)
}

/// The bytes of a field before the first NUL.
pub fn text(field: &[u8]) -> &[u8] {
    field.split(|byte| *byte == 0).next().unwrap_or_default()
}

/// The number in a field: octal digits, or where the first bit is set, the bits after it.
pub fn number(field: &[u8]) -> Option<i64> {
    let Some(first) = field.first().filter(|first| **first & 0x80 != 0) else {
        return octal(field);
    };
    // The second bit is the sign.
    let is_negative = first & 0x40 != 0;
    let flipped = if is_negative { 0xff } else { 0 };
    let mut number: u64 = u64::from((first ^ flipped) & 0x7f);
    for byte in &field[1..] {
        if number >> 56 != 0 {
            return None;
        }
        number = number << 8 | u64::from(byte ^ flipped);
    }
    let number = i64::try_from(number).ok()?;
    Some(if is_negative { !number } else { number })
}

/// The number that octal digits say. A field of nothing but NUL bytes and spaces is 0.
fn octal(field: &[u8]) -> Option<i64> {
    let is_digit = |byte: &u8| !matches!(byte, 0 | b' ');
    let Some(start) = field.iter().position(is_digit) else {
        return Some(0);
    };
    let end = field.iter().rposition(is_digit)? + 1;
    let mut number: i64 = 0;
    for byte in text(&field[start..end]) {
        if !matches!(byte, b'0'..=b'7') {
            return None;
        }
        number = number.checked_mul(8)? + i64::from(byte - b'0');
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers in each of the ways that tools write them, and what is none.
    #[test]
    fn numbers_are_read() {
        for (field, expected) in [
            (&b"0000644\0"[..], Some(0o644)),
            (b"   644 \0", Some(0o644)),
            (b"\0\0\0\0\0\0\0\0", Some(0)),
            (b"        ", Some(0)),
            (b"77777777", Some(0o77_777_777)),
            (b"755\0xyz\0", Some(0o755)),
            (b"6 4\0\0\0\0\0", None),
            (b"0000698\0", None),
            (b"-000001\0", None),
            (b"\x80\0\0\0\0\x2d\xc6\xc0", Some(3_000_000)),
            (b"\xff\xff\xff\xff\xff\xff\xff\xfe", Some(-2)),
            (
                b"\x80\0\0\0\x7f\xff\xff\xff\xff\xff\xff\xff",
                Some(i64::MAX),
            ),
            (b"\x80\0\0\0\x80\0\0\0\0\0\0\0", None),
            (b"\x80\0\0\x01\0\0\0\0\0\0\0\0", None),
            (b"\xff\xff\xff\xff\x80\0\0\0\0\0\0\0", Some(i64::MIN)),
        ] {
            assert_eq!(number(field), expected, "{}", field.escape_ascii());
        }
    }
}
