// SPDX-License-Identifier: Apache-2.0

//! JSON documents of a registry, read without a tree of their values.
//!
//! A tree takes up to sixty times the room of its text, and a registry can send 4 MiB of `[[],[],…`. So a document stays the
//! text that came. What is wanted of it is looked for there, and what isn't is passed over.

use std::borrow::Cow;
use std::fmt;

use common::json;

/// How deep arrays and objects may be in each other: as deep as serde_json reads them. Real documents have seven levels.
pub(crate) const MAX_DEPTH: usize = 128;

/// A value of a document, as it is in the text. What is missing is `null`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Part<'a>(&'a str);

impl fmt::Debug for Part<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// The part that is not there.
const NOTHING: &str = "null";

impl<'a> Part<'a> {
    /// The part that is not there.
    pub(crate) const NOTHING: Self = Self(NOTHING);

    /// A whole document.
    ///
    /// # Errors
    ///
    /// What it is, if it isn't one JSON object, or is nested too deep: words that follow its name.
    pub(crate) fn document(bytes: &'a [u8]) -> Result<Self, String> {
        if is_deeper(bytes, MAX_DEPTH) {
            return Err(format!(
                "is nested more than {MAX_DEPTH} levels deep, and no more are read"
            ));
        }
        json::each_member(bytes, usize::MAX, |_, _, _| {})
            .map_err(|error| format!("is {error}"))?;
        let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())?;
        Ok(Self(text.trim_ascii()))
    }

    /// The members of these names; all are missing if it is no object. Of a name that is there several times, the last one
    /// counts, as with other readers.
    ///
    /// # Errors
    ///
    /// If a name can't be read, which may be one of these.
    pub(crate) fn pick<const N: usize>(self, names: [&str; N]) -> Result<[Self; N], String> {
        let mut found = [Self::NOTHING; N];
        self.each_member(|name, part| {
            for (at, wanted) in found.iter_mut().zip(names) {
                if name == wanted {
                    *at = part;
                }
            }
        })?;
        Ok(found)
    }

    /// Passes each member of an object on; none if it is no object.
    ///
    /// # Errors
    ///
    /// If a name can't be read.
    pub(crate) fn each_member(self, mut each: impl FnMut(&str, Self)) -> Result<(), String> {
        if !self.0.starts_with('{') {
            return Ok(());
        }
        let each = |name: Cow<'a, str>, value, _| each(&name, Self(value));
        let read = json::each_member(self.0.as_bytes(), usize::MAX, each);
        read.map_err(|error| format!("has a member whose name can't be read: {error}"))
    }

    /// The values of an array, at most so many; none if it is no array.
    ///
    /// # Errors
    ///
    /// How many there are, if there are more.
    pub(crate) fn list(self, most: usize) -> Result<Option<Vec<Self>>, usize> {
        if !self.is_array() {
            return Ok(None);
        }
        let (mut values, mut count) = (Vec::new(), 0);
        let read = json::each_value(self.0, |value| {
            count += 1;
            if count <= most {
                values.push(Self(value));
            }
        });
        match count <= most {
            true => Ok(read.is_ok().then_some(values)),
            false => Err(count),
        }
    }

    /// The text; none if it is something else.
    ///
    /// # Errors
    ///
    /// If it can't be read.
    pub(crate) fn text(self) -> Result<Option<Cow<'a, str>>, String> {
        let quoted = self.0.strip_prefix('"');
        let Some(inner) = quoted.and_then(|text| text.strip_suffix('"')) else {
            return Ok(None);
        };
        if !inner.contains('\\') {
            return Ok(Some(Cow::Borrowed(inner)));
        }
        let text = serde_json::from_str(self.0).map(Cow::Owned);
        let text = text.map_err(|_| "has a text with an escape that means nothing".to_owned());
        text.map(Some)
    }

    /// The text, or an empty one if it is something else.
    ///
    /// # Errors
    ///
    /// If it can't be read.
    pub(crate) fn text_or_empty(self) -> Result<Cow<'a, str>, String> {
        Ok(self.text()?.unwrap_or_default())
    }

    /// The whole number from 0 on; none if it is something else.
    pub(crate) fn number(self) -> Option<u64> {
        self.0.parse().ok()
    }

    /// Whether there is something.
    pub(crate) fn is_there(self) -> bool {
        self.0 != NOTHING
    }

    /// Whether it is an object.
    pub(crate) fn is_object(self) -> bool {
        self.0.starts_with('{')
    }

    /// Whether it is an array.
    pub(crate) fn is_array(self) -> bool {
        self.0.starts_with('[')
    }

    /// Whether it is an array with something in it.
    pub(crate) fn is_filled_array(self) -> bool {
        let inner = self.0.strip_prefix('[').map(str::trim_ascii_start);
        inner.is_some_and(|inner| !inner.starts_with(']'))
    }

    /// Whether it is a text with something in it.
    pub(crate) fn is_filled_text(self) -> bool {
        self.0.starts_with('"') && self.0 != "\"\""
    }
}

/// The beginning of a text: what no text that means something is longer than.
pub(crate) fn beginning(text: &str, most: usize) -> String {
    text.chars().take(most).collect()
}

/// Whether arrays and objects are deeper in each other than that. The parser passes over what is not wanted at any depth.
fn is_deeper(text: &[u8], most: usize) -> bool {
    let (mut depth, mut in_text, mut is_escaped) = (0_usize, false, false);
    for byte in text {
        match (in_text, byte) {
            (true, _) if is_escaped => is_escaped = false,
            (true, b'\\') => is_escaped = true,
            (_, b'"') => in_text = !in_text,
            (false, b'[' | b'{') => depth += 1,
            (false, b']' | b'}') => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > most {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What is wanted is found whatever is around it; the last of equal names counts, and what is missing or of another
    /// kind is nothing.
    #[test]
    fn parts_are_picked() {
        let text = br#" {"a": "x", "b": {"c": [1, "\u0041]"]}, "\u0061": "y", "n": 7, "e": "", "l": [ ] }"#;
        let document = Part::document(text).unwrap();
        let [a, b, n, e, l, none] = document.pick(["a", "b", "n", "e", "l", "none"]).unwrap();
        assert_eq!(a.text().unwrap().unwrap(), "y");
        assert_eq!((n.number(), a.number()), (Some(7), None));
        assert!(!none.is_there() && none.text().unwrap().is_none());
        assert!(a.is_filled_text() && !e.is_filled_text());
        assert!(l.is_array() && !l.is_filled_array());
        let [c] = b.pick(["c"]).unwrap();
        assert!(c.is_filled_array());
        let values = c.list(2).unwrap().unwrap();
        assert_eq!(values[1].text_or_empty().unwrap(), "A]");
        assert_eq!(c.list(1), Err(2));
        assert_eq!(a.list(1), Ok(None));
        assert_eq!(a.pick(["x"]).unwrap(), [Part::NOTHING]);
    }

    /// Sizes are whole numbers that fit 64 bits, and nothing else.
    #[test]
    fn numbers_are_whole() {
        for (text, number) in [
            ("0", Some(0)),
            ("18446744073709551615", Some(u64::MAX)),
            ("18446744073709551616", None),
            ("-1", None),
            ("-0", None),
            ("1.0", None),
            ("1e3", None),
            ("1e999", None),
            ("\"1\"", None),
            ("true", None),
            ("[1]", None),
        ] {
            let text = format!("{{\"size\":{text}}}");
            let [size] = Part::document(text.as_bytes())
                .unwrap()
                .pick(["size"])
                .unwrap();
            assert_eq!(size.number(), number, "{text}");
        }
    }

    /// What is no document is named by what it is.
    #[test]
    fn other_documents_are_refused() {
        let deep = |levels: usize| {
            let (open, close) = ("[".repeat(levels - 1), "]".repeat(levels - 1));
            format!("{{\"a\":{open}{close}}}").into_bytes()
        };
        assert!(Part::document(&deep(MAX_DEPTH)).is_ok());
        let brackets = format!("{{\"a\":\"{}\\\"[\"}}", "[".repeat(1000)).into_bytes();
        assert!(Part::document(&brackets).is_ok());
        for (text, expected) in [
            (deep(MAX_DEPTH + 1), "more than 128 levels deep"),
            (deep(2 << 20), "more than 128 levels deep"),
            (b"".to_vec(), "is empty"),
            (
                b"\xef\xbb\xbf{}".to_vec(),
                "is not JSON: it begins with a byte order mark",
            ),
            (b"{}\0".to_vec(), "is not JSON: trailing characters"),
            (
                b"{\"a\":\"\0\"}".to_vec(),
                "is not JSON: a raw control character",
            ),
            (b"{\"a\":\"\xff\"}".to_vec(), "is not JSON: not UTF-8"),
            (b"{\"a\":1} {}".to_vec(), "is not JSON: trailing characters"),
            (b"{\"a\":01}".to_vec(), "is not JSON: invalid number"),
            (b"{\"a\":".to_vec(), "is not JSON: the text ends too early"),
            (b"[]".to_vec(), "is JSON, but an array instead of an object"),
        ] {
            let error = Part::document(&text).unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
        }
        // Half of a character is no text, and no name of a member.
        let half = br#"{"a": "\ud800", "b": {"\ud800": 1}}"#;
        let [a, b] = Part::document(half).unwrap().pick(["a", "b"]).unwrap();
        assert!(a.text().is_err());
        assert!(b.pick(["c"]).is_err());
    }
}
