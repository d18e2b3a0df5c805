// SPDX-License-Identifier: Apache-2.0

//! Base64 as people write it into JSON by hand, with errors that say what went wrong.

use base64::alphabet;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use base64::engine::{DecodePaddingMode, Engine as _, GeneralPurpose, GeneralPurposeConfig};
use base64::{DecodeError, DecodeSliceError};
use thiserror::Error;
use zeroize::Zeroizing;

/// The standard alphabet, with or without padding.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The URL-safe alphabet, with or without padding.
const LENIENT_URL_SAFE: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Which of the two alphabets of base64 a value is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alphabet {
    /// With `+` and `/`, or with none of the four characters in which the two differ.
    Standard,
    /// With `-` and `_`. Upstream agents refuse it.
    UrlSafe,
}

/// Why a value is not base64. Offsets are bytes from the value's beginning, the first being 0.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// The text that should have been encoded.
    #[error("not base64 but plain text: it begins with a brace")]
    PlainJson,
    /// `-` or `_` where the standard alphabet is asked for.
    #[error("not standard base64: offset {0} has a character of the URL-safe alphabet (- or _)")]
    UrlSafe(usize),
    /// `-` or `_` beside `+` or `/`.
    #[error(
        "not base64: it has characters of both the standard (+ or /) and the URL-safe alphabet (- or _, at offset {0})"
    )]
    BothAlphabets(usize),
    /// `=` where more follows.
    #[error("not base64: offset {0} has padding (=) that does not end the value")]
    PaddingInside(usize),
    /// Any other character. Which one is not said: it may be a part of a password.
    #[error("not base64: offset {0} has a character outside the alphabet")]
    OutsideAlphabet(usize),
    /// One character too many or too few.
    #[error("not base64: cut off at offset {0}, where a part of the last group is missing")]
    CutOff(usize),
    /// Bits beyond the last byte.
    #[error("not base64: the last character, at offset {0}, has stray bits, as if cut off there")]
    StrayBits(usize),
    /// A wrong number of `=`.
    #[error("not base64: wrong padding at the end, offset {0}")]
    WrongPadding(usize),
}

/// Decodes standard base64, padded or not, with any ASCII white space inside.
///
/// # Errors
///
/// Where the value is not base64; the error holds no part of it.
pub fn decode(value: &str) -> Result<Zeroizing<Vec<u8>>, Error> {
    // Room for all of it: a vector that grows would leave copies behind.
    let room = base64::decoded_len_estimate(value.len());
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    if let Err(error) = decode_dense(&LENIENT, value.as_bytes(), &mut bytes) {
        decode_otherwise(value.as_bytes(), &error, false, &mut bytes)?;
    }
    Ok(bytes)
}

/// The same of either alphabet, put behind what `bytes` has. It takes no more than three quarters of the value's
/// length and two bytes more, for a part of which it needs room only while it decodes.
///
/// # Errors
///
/// As for [`decode`]; `bytes` is then as long as before.
pub fn decode_onto(value: &str, bytes: &mut Vec<u8>) -> Result<Alphabet, Error> {
    // Most are of the standard alphabet and have no white space, and a look for either would cost as much as
    // decoding. Both are errors of the decoder's.
    let Err(error) = decode_dense(&LENIENT, value.as_bytes(), bytes) else {
        return Ok(Alphabet::Standard);
    };
    decode_otherwise(value.as_bytes(), &error, true, bytes)
}

/// Decodes what is not plain standard base64: with white space, or, if `url_safe` allows it, of the URL-safe
/// alphabet.
fn decode_otherwise(
    value: &[u8],
    error: &DecodeError,
    url_safe: bool,
    bytes: &mut Vec<u8>,
) -> Result<Alphabet, Error> {
    let of_url_safe = |byte: &u8| matches!(byte, b'-' | b'_');
    let (engine, alphabet) = match value.iter().position(of_url_safe) {
        Some(at) if url_safe && value.iter().any(|byte| matches!(byte, b'+' | b'/')) => {
            return Err(Error::BothAlphabets(at));
        }
        Some(_) if url_safe => (&LENIENT_URL_SAFE, Alphabet::UrlSafe),
        _ if !value.iter().any(u8::is_ascii_whitespace) => return Err(explain(value, error)),
        _ => (&LENIENT, Alphabet::Standard),
    };
    let mut dense = Zeroizing::new(Vec::with_capacity(value.len()));
    dense.extend(value.iter().filter(|byte| !byte.is_ascii_whitespace()));
    match decode_dense(engine, &dense, bytes) {
        Ok(()) => Ok(alphabet),
        Err(error) => Err(explain(value, &error)),
    }
}

/// Decodes base64 of either alphabet, as [`decode_onto`] does.
///
/// # Errors
///
/// As for [`decode`].
pub fn decode_either(value: &str) -> Result<(Zeroizing<Vec<u8>>, Alphabet), Error> {
    let room = base64::decoded_len_estimate(value.len());
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    let alphabet = decode_onto(value, &mut bytes)?;
    Ok((bytes, alphabet))
}

/// Decodes base64url without padding, as JOSE has it; none if the text is something else.
pub fn decode_url(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    decode_exactly(&URL_SAFE_NO_PAD, text)
}

/// Decodes standard base64 with padding; none if the text is something else.
pub fn decode_padded(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    decode_exactly(&STANDARD, text)
}

fn decode_exactly(engine: &GeneralPurpose, text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(vec![0; base64::decoded_len_estimate(text.len())]);
    let length = engine.decode_slice(text, &mut bytes).ok()?;
    bytes.truncate(length);
    Some(bytes)
}

fn decode_dense(
    engine: &GeneralPurpose,
    value: &[u8],
    bytes: &mut Vec<u8>,
) -> Result<(), DecodeError> {
    let start = bytes.len();
    bytes.resize(start + base64::decoded_len_estimate(value.len()), 0);
    let decoded = engine.decode_slice(value, &mut bytes[start..]);
    bytes.truncate(start + decoded.as_ref().map_or(0, |&length| length));
    match decoded {
        Ok(_) => Ok(()),
        Err(DecodeSliceError::DecodeError(error)) => Err(error),
        // The estimate is never too small.
        Err(DecodeSliceError::OutputSliceTooSmall) => Err(DecodeError::InvalidPadding),
    }
}

/// Puts the decoder's error, which counts without white space, into terms of the value as written.
fn explain(value: &[u8], error: &DecodeError) -> Error {
    let written = |dense: usize| {
        let mut offsets = (0..value.len()).filter(|&at| !value[at].is_ascii_whitespace());
        offsets.nth(dense).unwrap_or(value.len())
    };
    if value.trim_ascii_start().first() == Some(&b'{') {
        return Error::PlainJson;
    }
    match *error {
        DecodeError::InvalidByte(at, b'-' | b'_') => Error::UrlSafe(written(at)),
        DecodeError::InvalidByte(at, b'=') => {
            let at = written(at);
            let ends = |byte: &u8| *byte == b'=' || byte.is_ascii_whitespace();
            match value[at..].iter().all(ends) {
                true => Error::WrongPadding(at),
                false => Error::PaddingInside(at),
            }
        }
        DecodeError::InvalidByte(at, _) => Error::OutsideAlphabet(written(at)),
        DecodeError::InvalidLength(_) => Error::CutOff(value.trim_ascii_end().len()),
        DecodeError::InvalidLastSymbol(at, _) => Error::StrayBits(written(at)),
        DecodeError::InvalidPadding => Error::WrongPadding(value.trim_ascii_end().len()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
    use proptest::prelude::*;

    /// `{"auths":…` as each kind of encoder writes it.
    #[test]
    fn padding_and_white_space_are_optional() {
        for text in [
            "aGVsbG8h",
            "aGVsbG8",
            "aGVsbG8=",
            "aGVs\nbG8=\n",
            " aGVs bG8",
            "aGVsbG8 =",
        ] {
            let bytes = decode(text).unwrap();
            assert!(bytes.starts_with(b"hello"), "{text:?}");
        }
        assert!(decode("").unwrap().is_empty());
    }

    #[test]
    fn errors_name_the_fault_and_the_offset_as_written() {
        for (text, expected) in [
            ("{\"auths\":{}}", Error::PlainJson),
            ("aGVs_G8=", Error::UrlSafe(4)),
            ("aG\nVs\n-G8=", Error::UrlSafe(6)),
            ("aGVs!G8=", Error::OutsideAlphabet(4)),
            ("aGVsbG8=aGVsbG8=", Error::PaddingInside(7)),
            ("aGVsbG8==", Error::WrongPadding(7)),
            ("aGVs==\n", Error::WrongPadding(4)),
            ("aGVsb", Error::CutOff(5)),
            ("aGVsb\n", Error::CutOff(5)),
            ("aGVsbG9", Error::StrayBits(6)),
        ] {
            assert_eq!(decode(text).unwrap_err(), expected, "{text:?}");
        }
    }

    /// The URL-safe alphabet has one reading as long as no character of the other is there.
    #[test]
    fn the_url_safe_alphabet_is_told_apart() {
        let mut bytes = b"x".to_vec();
        for (text, alphabet) in [
            ("Pz8_", Alphabet::UrlSafe),
            ("Pj4-\n", Alphabet::UrlSafe),
            (" _-8= ", Alphabet::UrlSafe),
            ("_-8", Alphabet::UrlSafe),
            ("Pz8/", Alphabet::Standard),
            ("aGVs\nbG8", Alphabet::Standard),
        ] {
            let start = bytes.len();
            assert_eq!(decode_onto(text, &mut bytes), Ok(alphabet), "{text:?}");
            let standard = text.replace('-', "+").replace('_', "/");
            assert_eq!(bytes[start..], **decode(&standard).unwrap(), "{text:?}");
            assert_eq!(decode(text).is_ok(), alphabet == Alphabet::Standard);
        }
        for (text, expected) in [
            ("Pz8_Pz8/", Error::BothAlphabets(3)),
            ("+ 8-", Error::BothAlphabets(3)),
            ("Pz8_P", Error::CutOff(5)),
            ("Pz8_!z8_", Error::OutsideAlphabet(4)),
            ("_=8=", Error::PaddingInside(1)),
            ("{-", Error::PlainJson),
        ] {
            assert_eq!(decode_onto(text, &mut bytes), Err(expected), "{text:?}");
        }
    }

    /// No character of the value reaches the error.
    #[test]
    fn errors_hold_no_value() {
        for text in ["hunter2!", "pass word€", "hunter2=x", "hunte"] {
            let error = decode(text).unwrap_err();
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains("hunt") && !shown.contains('€'), "{shown}");
        }
    }

    proptest! {
        /// Any bytes come back, however the value is broken into lines.
        #[test]
        fn round_trip(bytes: Vec<u8>, width in 1usize..80, padded: bool) {
            let text = if padded { STANDARD.encode(&bytes) } else { STANDARD_NO_PAD.encode(&bytes) };
            let lines: Vec<_> = text.as_bytes().chunks(width)
                .map(|line| String::from_utf8(line.to_vec()).unwrap())
                .collect();
            prop_assert_eq!(&*decode(&lines.join("\r\n")).unwrap(), &bytes);
        }

        /// No text makes it fail otherwise than by an error whose offset lies in the value.
        #[test]
        fn offsets_lie_in_the_value(text in "[A-Za-z0-9+/=_ \\n-]{0,40}") {
            let mut bytes = b"x".to_vec();
            let either = decode_onto(&text, &mut bytes).err();
            prop_assert!(either.is_none() || bytes == b"x");
            for error in [decode(&text).err(), either].into_iter().flatten() {
                if let Error::UrlSafe(at) | Error::BothAlphabets(at) | Error::PaddingInside(at)
                    | Error::OutsideAlphabet(at) | Error::CutOff(at) | Error::StrayBits(at)
                    | Error::WrongPadding(at) = error {
                    prop_assert!(at <= text.len());
                }
            }
        }
    }
}
