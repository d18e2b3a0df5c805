// SPDX-License-Identifier: Apache-2.0

//! PAX headers: records with a length, a key and a value, which have precedence over an entry's own header.

use std::ops::Range;

use crate::layer::attributes::sorted;
use crate::layer::header::Header;
use crate::layer::path::shown;

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

/// How many records that mean something a header has at most. A file can have fewer extended attributes, by the length
/// of the list of their names.
const MAX_RECORDS: usize = 16_384;

/// The records of one header that mean something. Of those that come twice, the last counts.
#[derive(Debug, Default)]
pub struct Records {
    /// The header's content.
    text: Vec<u8>,
    /// Where the keys and the values are in it.
    records: Vec<(Range<u32>, Range<u32>)>,
    /// The map of a sparse file in its first form, put into the second.
    map: Option<Vec<u8>>,
}

impl Records {
    /// Takes a header's content apart, which has at most a MiB.
    ///
    /// # Errors
    ///
    /// If it is not made of records, or they are too many.
    pub fn parse(text: Vec<u8>) -> Result<Self, String> {
        let mut records: Vec<(Range<u32>, Range<u32>)> = Vec::new();
        // The first form of sparse files has a pair of records for each part.
        let mut map: Vec<&[u8]> = Vec::new();
        let mut left = &text[..];
        while !left.is_empty() {
            let (record, rest) = split_record(left).ok_or("a PAX header has a broken record")?;
            left = rest;
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
                    if records.len() == MAX_RECORDS {
                        return Err(format!("a PAX header has more than {MAX_RECORDS} records"));
                    }
                    // The line break follows the value, and the equals sign the key.
                    let end = text.len() - rest.len() - 1;
                    let value = end - value.len();
                    let key = value - 1 - key.len();
                    let range = |from: usize, to: usize| from as u32..to as u32;
                    records.push((range(key, value - 1), range(value, end)));
                }
                _ => {}
            }
        }
        let map = (!map.is_empty()).then(|| map.join(&b','));
        Ok(Self { text, records, map })
    }

    fn part(&self, range: &Range<u32>) -> &[u8] {
        let range = range.start as usize..range.end as usize;
        self.text.get(range).unwrap_or_default()
    }

    /// The value of a record. An empty one says as little as none.
    pub fn get(&self, key: &str) -> Option<&[u8]> {
        let mut records = self.records.iter().rev();
        let value = match &self.map {
            Some(map) if key == "GNU.sparse.map" => Some(&map[..]),
            _ => records
                .find(|(name, _)| self.part(name) == key.as_bytes())
                .map(|(_, value)| self.part(value)),
        };
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
        let records = self.records.iter();
        records.filter_map(|(key, value)| {
            Some((self.part(key).strip_prefix(XATTR)?, self.part(value)))
        })
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
        header.xattrs = sorted(xattrs.collect());
        Ok(())
    }
}

fn broken(key: &str, value: &[u8]) -> String {
    format!("the PAX header's {key} is no number: {}", shown(value))
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

    /// Of records that come twice, the last counts, and there are only so many.
    #[test]
    fn records_are_bounded() {
        let text = b"10 size=3\n25 SCHILY.xattr.user.b=1\n25 SCHILY.xattr.user.a=2\n10 size=4\n25 SCHILY.xattr.user.b=3\n";
        let records = Records::parse(text.to_vec()).unwrap();
        let mut header = Header::default();
        records.apply(&mut header).unwrap();
        assert_eq!(header.size, 4);
        let xattrs: Vec<_> = header
            .xattrs
            .iter()
            .map(|(name, value)| (&**name, &**value))
            .collect();
        assert_eq!(xattrs, [(&b"user.a"[..], &b"2"[..]), (b"user.b", b"3")]);
        assert!(Records::parse(b"8 uid=0\n".repeat(MAX_RECORDS)).is_ok());
        let said = Records::parse(b"8 uid=0\n".repeat(MAX_RECORDS + 1)).unwrap_err();
        assert!(said.contains("more than 16384 records"), "{said}");
    }

    /// A value may have line breaks and equals signs; a record that isn't one is told.
    #[test]
    fn records_are_split_by_their_lengths() {
        let records = Records::parse(b"13 path=a\nb=\n11 path=b\n\n10 size=3\n".to_vec()).unwrap();
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
            assert!(
                Records::parse(text.to_vec()).is_err(),
                "{}",
                text.escape_ascii()
            );
        }
    }
}
