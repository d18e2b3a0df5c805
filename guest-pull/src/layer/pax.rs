// SPDX-License-Identifier: Apache-2.0

//! PAX headers: records with a length, a key and a value, which have precedence over an entry's own header.

use std::collections::BTreeMap;

use crate::layer::header::Header;

/// The prefix of extended attributes, as GNU tar, Go and Docker write them.
const XATTR: &[u8] = b"SCHILY.xattr.";

/// The prefix of what GNU tar says of a sparse file.
const SPARSE: &[u8] = b"GNU.sparse.";

/// The other keys that mean something here.
const KEYS: [&[u8]; 8] = [
    b"path",
    b"linkpath",
    b"size",
    b"uid",
    b"gid",
    b"mtime",
    // Only their form is checked, as Go does.
    b"atime",
    b"ctime",
];

/// The records of one header, by their keys. Of those that come twice, the last counts.
#[derive(Debug, Default)]
pub struct Records(BTreeMap<Vec<u8>, Vec<u8>>);

impl Records {
    /// Takes a header's content apart.
    ///
    /// # Errors
    ///
    /// If it is not made of records.
    pub fn parse(mut text: &[u8]) -> Result<Self, String> {
        let mut records = BTreeMap::new();
        // The first form of sparse files has a pair of records for each part.
        let mut map: Vec<&[u8]> = Vec::new();
        while !text.is_empty() {
            let (record, rest) = split_record(text).ok_or("a PAX header has a broken record")?;
            text = rest;
            let (key, value) = key_and_value(record).ok_or("a PAX header has a broken record")?;
            match key {
                b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                    let is_offset = key == b"GNU.sparse.offset";
                    if is_offset != (map.len() % 2 == 0) || value.contains(&b',') {
                        return Err("the map of a sparse file is out of order".to_owned());
                    }
                    map.push(value);
                }
                _ if KEYS.contains(&key) || key.starts_with(XATTR) || key.starts_with(SPARSE) => {
                    records.insert(key.to_vec(), value.to_vec());
                }
                _ => {}
            }
        }
        if !map.is_empty() {
            records.insert(b"GNU.sparse.map".to_vec(), map.join(&b','));
        }
        Ok(Self(records))
    }

    /// The value of a record. An empty one says as little as none.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        let value = self.0.get(key.as_bytes()).map(Vec::as_slice);
        value.filter(|value| !value.is_empty())
    }

    /// The number in a record.
    ///
    /// # Errors
    ///
    /// If there is something else.
    pub fn number(&self, key: &str) -> Result<Option<i64>, String> {
        let parsed = |value| decimal(value).ok_or_else(|| broken(key, value));
        self.get(key).map(parsed).transpose()
    }

    /// The extended attributes.
    fn xattrs(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let records = self.0.iter();
        records.filter_map(|(key, value)| Some((key.strip_prefix(XATTR)?, value.as_slice())))
    }

    /// Puts what the records say into an entry's header, but for what they say of sparse files.
    ///
    /// # Errors
    ///
    /// If a record has no number where it should.
    pub fn apply(&self, header: &mut Header) -> Result<(), String> {
        if let Some(name) = self.get("path") {
            header.name = name.to_vec();
        }
        if let Some(link) = self.get("linkpath") {
            header.link = link.to_vec();
        }
        for (key, field) in [
            ("size", &mut header.size),
            ("uid", &mut header.uid),
            ("gid", &mut header.gid),
        ] {
            if let Some(number) = self.number(key)? {
                *field = number;
            }
        }
        for key in ["atime", "ctime", "mtime"] {
            if let Some(value) = self.get(key) {
                let time = time(value).ok_or_else(|| broken(key, value))?;
                if key == "mtime" {
                    (header.seconds, header.nanoseconds) = time;
                }
            }
        }
        let xattrs = self
            .xattrs()
            .map(|(name, value)| (name.into(), value.into()));
        header.xattrs = xattrs.collect();
        Ok(())
    }
}

fn broken(key: &str, value: &[u8]) -> String {
    format!(
        "the PAX header's {key} is no number: {}",
        value.escape_ascii()
    )
}

/// The first record without its length and line break, and what follows it.
fn split_record(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let space = text.iter().position(|byte| *byte == b' ')?;
    // It counts all of the record. The value can have any byte, so that the line break alone would not tell where it ends.
    let length = usize::try_from(decimal(&text[..space])?).ok()?;
    let record = text.get(space + 1..length)?;
    Some((record.strip_suffix(b"\n")?, &text[length..]))
}

fn key_and_value(record: &[u8]) -> Option<(&[u8], &[u8])> {
    let equals = record.iter().position(|byte| *byte == b'=')?;
    let (key, value) = (&record[..equals], &record[equals + 1..]);
    // Names are refused for a NUL byte, and no key has one.
    let checked = match key {
        b"path" | b"linkpath" | b"uname" | b"gname" => value,
        _ => key,
    };
    (!key.is_empty() && !checked.contains(&0)).then_some((key, value))
}

/// The number that decimal digits say, after a sign if there is one.
pub fn decimal(text: &[u8]) -> Option<i64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// A time, such as `-1.5`: seconds, and nanoseconds after them. Further digits are cut off.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let mut nanoseconds = 0;
    for at in 0..9 {
        let digit = part.as_bytes().get(at).map_or(0, |digit| digit - b'0');
        nanoseconds = nanoseconds * 10 + u32::from(digit);
    }
    // -1.25 is 1.25 seconds before 1970: two seconds before, and 0.75 after that.
    match whole.starts_with('-') && nanoseconds > 0 {
        true => Some((seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds)),
        false => Some((seconds, nanoseconds)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Times before 1970, and fractions of any length.
    #[test]
    fn times_are_read() {
        for (text, expected) in [
            ("0", Some((0, 0))),
            ("1.5", Some((1, 500_000_000))),
            ("1.1234567899", Some((1, 123_456_789))),
            ("-1", Some((-1, 0))),
            ("-1.25", Some((-2, 750_000_000))),
            ("-0.5", Some((-1, 500_000_000))),
            ("1.", Some((1, 0))),
            ("", None),
            ("x", None),
            ("1.x", None),
            ("9223372036854775808", None),
        ] {
            assert_eq!(time(text.as_bytes()), expected, "{text}");
        }
    }

    /// A value may have line breaks and equals signs; a record that isn't one is told.
    #[test]
    fn records_are_split_by_their_lengths() {
        let records = Records::parse(b"13 path=a\nb=\n11 path=b\n\n10 size=3\n").unwrap();
        assert_eq!(records.get("path"), Some(&b"b\n"[..]));
        assert_eq!(records.number("size"), Ok(Some(3)));
        for text in [
            &b"13 path=a\n"[..],
            b"9 path=ab\n",
            b"8 path=a\n",
            b"0 path=a\n",
            b"-1 path=a\n",
            b"2 \n",
            b"x path=a\n",
            b"7 path\n",
            b"5 =a\n",
            b"11 path=a\0\n",
            b"12 a\0th=abc\n",
            b"99999999999999999999 path=a\n",
            b"path",
        ] {
            assert!(Records::parse(text).is_err(), "{}", text.escape_ascii());
        }
    }
}
