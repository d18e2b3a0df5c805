// SPDX-License-Identifier: Apache-2.0

//! What user data is packed in: gzip, with a bound, and base64 as Python's `base64.b64decode` takes it.

use std::io::Read as _;

use flate2::bufread::GzDecoder;
use zeroize::Zeroizing;

/// The most bytes that gzip may make: a hundred times what the platforms take as user data, and little enough to
/// have in memory.
pub const MAX_BYTES: usize = 16 << 20;

/// Why gzip gives nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gunzip {
    /// It is no gzip, is cut off, or its sum is wrong.
    Broken,
    /// It would make more than [`MAX_BYTES`].
    TooLarge,
}

/// Whether the data begins as gzip does.
pub fn is_gzip(data: &[u8]) -> bool {
    data.starts_with(&[0x1f, 0x8b])
}

/// What gzip holds: all its members, and zero bytes after each, as Python's `gzip` reads it; nothing of nothing.
///
/// # Errors
///
/// Where it can't be read whole.
pub fn gunzip(data: &[u8]) -> Result<Zeroizing<Vec<u8>>, Gunzip> {
    let mut bytes = Zeroizing::new(Vec::new());
    let mut rest = data;
    while !rest.is_empty() {
        let mut decoder = GzDecoder::new(rest);
        let room = (MAX_BYTES - bytes.len() + 1) as u64;
        let read = decoder.by_ref().take(room).read_to_end(&mut bytes);
        read.map_err(|_| Gunzip::Broken)?;
        if bytes.len() > MAX_BYTES {
            return Err(Gunzip::TooLarge);
        }
        rest = decoder.into_inner();
        let padding = rest.iter().take_while(|&&byte| byte == 0).count();
        rest = rest.get(padding..).unwrap_or_default();
    }
    Ok(bytes)
}

/// What Python's `base64.b64decode` makes of a text: it leaves out what is not of the alphabet, and reads no further
/// than the padding. None where that raises an error.
pub fn base64_as_python(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    if !text.is_ascii() {
        return None;
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len() / 4 * 3 + 3));
    let (mut group, mut length, mut padding) = (0_u32, 0, 0);
    for byte in text.bytes() {
        let value = match byte {
            b'A'..=b'Z' => byte - b'A',
            b'a'..=b'z' => byte - b'a' + 26,
            b'0'..=b'9' => byte - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            b'=' => {
                padding += 1;
                if length >= 2 && length + padding >= 4 {
                    let [_, first, second, _] = (group << (6 * (4 - length))).to_be_bytes();
                    bytes.push(first);
                    if length == 3 {
                        bytes.push(second);
                    }
                    return Some(bytes);
                }
                if length < 2 {
                    padding = 0;
                }
                continue;
            }
            _ => continue,
        };
        padding = 0;
        group = group << 6 | u32::from(value);
        length += 1;
        if length == 4 {
            let [_, first, second, third] = group.to_be_bytes();
            bytes.extend([first, second, third]);
            (group, length) = (0, 0);
        }
    }
    (length == 0).then_some(bytes)
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use proptest::prelude::*;
    use std::io::Write as _;

    /// Gzip of some bytes.
    pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// What CPython 3.11 answers.
    #[test]
    fn base64_is_read_as_python_reads_it() {
        for (text, expected) in [
            ("aGVsbG8", None),
            ("aGVsbG8=", Some(&b"hello"[..])),
            ("aGVs\nbG8=\n", Some(b"hello")),
            ("aGVs=bG8=", Some(b"hello")),
            ("aGVsbG8=aGVs", Some(b"hello")),
            ("aGVs!bG8=", Some(b"hello")),
            ("aGVs==", Some(b"hel")),
            ("=", Some(b"")),
            ("", Some(b"")),
            ("aGVsbA==x", Some(b"hell")),
            ("not base64!", None),
            ("aGVs-_", Some(b"hel")),
            ("aGVsbA=", None),
            ("aGVs\u{e9}", None),
        ] {
            let bytes = base64_as_python(text);
            assert_eq!(bytes.as_deref().map(Vec::as_slice), expected, "{text}");
        }
    }

    #[test]
    fn gzip_is_read_whole_or_not_at_all() {
        let one = gzip(b"hello");
        let ok = |bytes: &[u8]| gunzip(bytes).map(|bytes| bytes.to_vec());
        assert_eq!(ok(&one).unwrap(), b"hello");
        assert_eq!(ok(b"").unwrap(), b"");
        let two = [&one[..], &[0, 0], &gzip(b" you"), &[0; 5]].concat();
        assert_eq!(ok(&two).unwrap(), b"hello you");
        let mut wrong_sum = one.clone();
        let sum = wrong_sum.len() - 8;
        wrong_sum[sum] ^= 1;
        for broken in [
            &b"hello"[..],
            &one[..one.len() - 1],
            &wrong_sum,
            &[&one[..], b"x"].concat(),
        ] {
            assert_eq!(ok(broken), Err(Gunzip::Broken));
        }
    }

    /// A little data that grows without a bound.
    #[test]
    fn a_bomb_is_left_alone() {
        let most = gzip(&vec![0; MAX_BYTES]);
        assert_eq!(gunzip(&most).unwrap().len(), MAX_BYTES);
        let more = [most, gzip(b"x")].concat();
        assert_eq!(gunzip(&more).map(|_| ()), Err(Gunzip::TooLarge));
    }

    proptest! {
        #[test]
        fn what_is_encoded_comes_back(bytes: Vec<u8>) {
            use base64::Engine as _;
            let text = base64::engine::general_purpose::STANDARD.encode(&bytes);
            prop_assert_eq!(&*base64_as_python(&text).unwrap(), &bytes);
            prop_assert_eq!(&*gunzip(&gzip(&bytes)).unwrap(), &bytes);
        }
    }
}
