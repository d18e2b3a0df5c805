// SPDX-License-Identifier: Apache-2.0

//! Splits a JSON object into its members, each with its position in the text, and an array into its values.
//!
//! The values are slices of the text: a broken member does not affect the others, no secret is copied, and an
//! error can name a line and a column. Errors contain no part of the text.

use std::borrow::Cow;
use std::cell::RefCell;
use std::fmt;

use memchr::{memchr_iter, memrchr};
use serde::de::{self, DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// One member of an object.
pub struct Member<'a> {
    /// The name, unescaped; borrowed from the text if it has no escapes.
    pub name: Cow<'a, str>,
    /// The value as it is in the text, without white space around it.
    pub value: &'a str,
    /// Where the value begins.
    pub position: Position,
}

/// A position in a text. Both numbers count from 1; columns count bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: usize,
    /// The byte within the line.
    pub column: usize,
}

impl Position {
    /// Converts a position in a part of a text to a position in the whole text, if the part begins at
    /// `start`.
    pub fn within(self, start: Self) -> Self {
        Self {
            line: start.line + self.line - 1,
            column: match self.line {
                1 => start.column + self.column - 1,
                _ => self.column,
            },
        }
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {} column {}", self.line, self.column)
    }
}

/// Why a text is not a JSON object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// What is wrong, without any part of the text.
    pub what: Fault,
    /// Where it is wrong, if that is one position.
    pub position: Option<Position>,
    /// The member whose value was being parsed, if the parser had come that far.
    pub member: Option<String>,
}

/// What can be wrong with a text that should be one JSON object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The text is empty, or only white space.
    Empty,
    /// The text begins with a byte order mark.
    ByteOrderMark,
    /// The text is not UTF-8.
    NotUtf8,
    /// There is a line break inside a string, as from `base64` without `-w 0`.
    LineBreakInString,
    /// The text ends too early: it is half-written or cut off.
    CutOff,
    /// The text is JSON, but not an object.
    NotAnObject(&'static str),
    /// There are more members than the caller allows.
    TooManyMembers(usize),
    /// Any other syntax error, in the parser's words.
    Syntax(String),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => f.write_str("empty"),
            Self::ByteOrderMark => f.write_str("not JSON: it begins with a byte order mark"),
            Self::NotUtf8 => f.write_str("not JSON: not UTF-8"),
            Self::LineBreakInString => f.write_str("not JSON: a raw line break inside a string"),
            Self::CutOff => f.write_str("not JSON: the text ends too early"),
            Self::NotAnObject(kind) => write!(f, "JSON, but {kind} instead of an object"),
            Self::TooManyMembers(most) => write!(f, "more than {most} entries"),
            Self::Syntax(text) => write!(f, "not JSON: {text}"),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.what.fmt(f)?;
        if let Some(position) = self.position {
            write!(f, ", {position}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {}

/// Splits `text`, which must be one JSON object with at most `most` members.
///
/// The members are in the order of the text, and include duplicates.
///
/// # Errors
///
/// If the text is not one JSON object. The error has a position, and no part of the text.
pub fn members(text: &[u8], most: usize) -> Result<Vec<Member<'_>>, Error> {
    let mut members = Vec::new();
    let mut places = Places::new(text);
    each_member(text, most, |name, value, at| {
        members.push(Member {
            name,
            value,
            position: places.at(at),
        });
    })?;
    Ok(members)
}

/// The same, but calls `each` for each member as it is parsed: with its name, its value as it is in the text,
/// and the offset at which the value begins. Members before an error are passed on too.
///
/// # Errors
///
/// As for [`members`].
pub fn each_member<'a>(
    text: &'a [u8],
    most: usize,
    each: impl FnMut(Cow<'a, str>, &'a str, usize),
) -> Result<(), Error> {
    let fail = |what, position| Error {
        what,
        position,
        member: None,
    };
    if text.starts_with("\u{feff}".as_bytes()) {
        return Err(fail(Fault::ByteOrderMark, None));
    }
    let text = match std::str::from_utf8(text) {
        Ok(text) => text,
        Err(error) => {
            let at = position(text, error.valid_up_to());
            return Err(fail(Fault::NotUtf8, Some(at)));
        }
    };
    let Some(first) = text.trim_ascii().bytes().next() else {
        return Err(fail(Fault::Empty, None));
    };
    if let Some(kind) = other_kind(first) {
        return Err(fail(Fault::NotAnObject(kind), None));
    }

    let reading = RefCell::new(None);
    let mut parser = serde_json::Deserializer::from_str(text);
    let read = parser.deserialize_map(Members {
        text,
        most,
        reading: &reading,
        each,
    });
    read.and_then(|()| parser.end())
        .map_err(|error| explain(text.as_bytes(), &error, most, reading.take()))
}

/// Calls `each` for each value of `text`, if that is a JSON array: with the value as it is in the text. Values before an error
/// are passed on too. Nothing is kept, so an array of any length takes no memory.
///
/// # Errors
///
/// If the text is not one JSON array. The error has no part of the text.
pub fn each_value<'a>(text: &'a str, each: impl FnMut(&'a str)) -> Result<(), String> {
    if !text.trim_ascii_start().starts_with('[') {
        return Err("not an array".to_owned());
    }
    let mut parser = serde_json::Deserializer::from_str(text);
    let read = parser.deserialize_seq(Values { each });
    let read = read.and_then(|()| parser.end());
    read.map_err(|error| explain(text.as_bytes(), &error, usize::MAX, None).to_string())
}

struct Values<F> {
    each: F,
}

impl<'de, F: FnMut(&'de str)> Visitor<'de> for Values<F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut values: A) -> Result<(), A::Error> {
        while let Some(value) = values.next_element::<&'de RawValue>()? {
            (self.each)(value.get());
        }
        Ok(())
    }
}

/// Converts offsets to positions. The offsets must be in ascending order, so that lines are counted only
/// once.
pub struct Places<'a> {
    text: &'a [u8],
    counted: usize,
    place: Position,
}

impl<'a> Places<'a> {
    /// Starts at the beginning of the text.
    pub fn new(text: &'a [u8]) -> Self {
        Self {
            text,
            counted: 0,
            place: Position { line: 1, column: 1 },
        }
    }

    /// The position of this offset, which must not be less than that of the last call.
    pub fn at(&mut self, offset: usize) -> Position {
        self.place = advance(self.place, &self.text[self.counted..offset]);
        self.counted = offset;
        self.place
    }
}

/// The value of the last member of this name, as it is in the text.
pub fn value<'a>(members: &[Member<'a>], name: &str) -> Option<&'a str> {
    let member = members.iter().rev().find(|member| member.name == name)?;
    Some(member.value)
}

/// The unescaped value of the last member of this name, if it is a string.
pub fn string(members: &[Member<'_>], name: &str) -> Option<String> {
    serde_json::from_str(value(members, name)?).ok()
}

/// The kind of a JSON value that begins with `first`, unless it can be an object. (The parser's own error
/// would quote the value.)
pub fn other_kind(first: u8) -> Option<&'static str> {
    match first {
        b'{' => None,
        b'[' => Some("an array"),
        b'"' => Some("a string"),
        b't' | b'f' => Some("true or false"),
        b'n' => Some("null"),
        b'-' | b'0'..=b'9' => Some("a number"),
        _ => None,
    }
}

struct Members<'r, 'a, F> {
    text: &'a str,
    most: usize,
    /// The member whose value is being parsed, for the error.
    reading: &'r RefCell<Option<Cow<'a, str>>>,
    each: F,
}

const TOO_MANY: &str = "too many members";

impl<'de, F: FnMut(Cow<'de, str>, &'de str, usize)> Visitor<'de> for Members<'_, 'de, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        let mut count = 0;
        while let Some(name) = map.next_key_seed(Text)? {
            if count == self.most {
                return Err(A::Error::custom(TOO_MANY));
            }
            count += 1;
            self.reading.replace(Some(name));
            let value = map.next_value::<&'de RawValue>()?.get();
            let at = value.as_ptr() as usize - self.text.as_ptr() as usize;
            (self.each)(self.reading.take().unwrap_or_default(), value, at);
        }
        Ok(())
    }
}

/// A string that is copied only if it has escapes; serde's own `Cow` always copies.
struct Text;

impl<'de> DeserializeSeed<'de> for Text {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        from.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Text {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

/// Converts the parser's error to [`Error`], which names the usual causes.
///
/// `reading` is the string that was last parsed as a member's name.
fn explain(
    text: &[u8],
    error: &serde_json::Error,
    most: usize,
    reading: Option<Cow<'_, str>>,
) -> Error {
    let message = error.to_string();
    let message = match message.rfind(" at line ") {
        Some(end) => &message[..end],
        None => &message,
    };
    let mut at = Position {
        line: error.line(),
        column: error.column(),
    };
    let what = if message == TOO_MANY {
        Fault::TooManyMembers(most)
    } else if error.is_eof() {
        Fault::CutOff
    } else if message.starts_with("control character") {
        // For this one error, the parser's column is that of the byte before.
        at.column += 1;
        match text.get(offset(text, at)) {
            Some(b'\n' | b'\r') => Fault::LineBreakInString,
            _ => Fault::Syntax("a raw control character inside a string".to_owned()),
        }
    } else {
        Fault::Syntax(message.to_owned())
    };
    // A string without a colon after it is not a name; it may be a value in the wrong place.
    let no_colon = ["expected `:`", "EOF while parsing an object"].contains(&message);
    Error {
        what,
        position: Some(at),
        member: reading.filter(|_| !no_colon).map(Cow::into_owned),
    }
}

fn position(text: &[u8], offset: usize) -> Position {
    advance(Position { line: 1, column: 1 }, &text[..offset])
}

fn advance(from: Position, over: &[u8]) -> Position {
    match memrchr(b'\n', over) {
        None => Position {
            line: from.line,
            column: from.column + over.len(),
        },
        Some(last) => Position {
            line: from.line + memchr_iter(b'\n', over).count(),
            column: over.len() - last,
        },
    }
}

fn offset(text: &[u8], at: Position) -> usize {
    let line: usize = text
        .split_inclusive(|&byte| byte == b'\n')
        .take(at.line - 1)
        .map(<[u8]>::len)
        .sum();
    line + at.column - 1
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn fault(text: &str) -> (Fault, String) {
        let error = members(text.as_bytes(), 10).err().unwrap();
        (error.what.clone(), error.to_string())
    }

    /// Every member is found, in order and with duplicates, with the position of its value.
    #[test]
    fn members_come_in_order_with_their_places() {
        let text = "{\n  \"a\": \"x\",\n \"b\"  :{\"c\": [1, 2]}, \"a\":\nnull }\n";
        let found: Vec<_> = members(text.as_bytes(), 3)
            .unwrap()
            .into_iter()
            .map(|m| {
                (
                    m.name.into_owned(),
                    m.value.to_owned(),
                    m.position.to_string(),
                )
            })
            .collect();
        let expected = [
            ("a", "\"x\"", "line 2 column 8"),
            ("b", "{\"c\": [1, 2]}", "line 3 column 8"),
            ("a", "null", "line 4 column 1"),
        ]
        .map(|(n, v, p)| (n.to_owned(), v.to_owned(), p.to_owned()));
        assert_eq!(found, expected);
    }

    /// The most frequent mistake: `base64` without `-w 0` breaks the value into lines.
    #[test]
    fn a_line_break_in_a_string_is_named_with_its_member() {
        for (text, place) in [
            ("{\"Credential\":\"abc\ndef\"}", "line 1 column 19"),
            ("{\n\"Credential\":\"abc\r\ndef\"}", "line 2 column 18"),
        ] {
            let error = members(text.as_bytes(), 10).err().unwrap();
            assert_eq!(error.what, Fault::LineBreakInString);
            assert_eq!(error.position.unwrap().to_string(), place);
            assert_eq!(error.member.as_deref(), Some("Credential"));
        }
        assert!(matches!(fault("{\"a\":\"b\tc\"}").0, Fault::Syntax(_)));
    }

    #[test]
    fn other_text_is_named_and_never_quoted() {
        assert_eq!(fault("").0, Fault::Empty);
        assert_eq!(fault(" \n").0, Fault::Empty);
        assert_eq!(fault("\u{feff}{}").0, Fault::ByteOrderMark);
        assert_eq!(fault("{\"a\":\"b").0, Fault::CutOff);
        assert_eq!(fault("\"hunter2\"").0, Fault::NotAnObject("a string"));
        assert_eq!(fault("[]").0, Fault::NotAnObject("an array"));
        assert_eq!(fault("null").0, Fault::NotAnObject("null"));
        assert_eq!(
            fault("{\"a\":1,}").1,
            "not JSON: trailing comma, line 1 column 8"
        );
        for text in [
            "hunter2",
            "{\"a\":hunter2}",
            "{} hunter2",
            "{\"a\":\"hunter2}",
        ] {
            assert!(!fault(text).1.contains("hunter"), "{}", fault(text).1);
        }
        let error = members(b"{\n\"a\":\"\xff\"}", 10).err().unwrap();
        assert_eq!(error.to_string(), "not JSON: not UTF-8, line 2 column 6");
    }

    /// A value in the place of a name is not taken for a name.
    #[test]
    fn a_string_without_a_colon_is_no_name() {
        for text in ["{\"hunter2\"}", "{\"hunter2\"", "{\"a\":\"\",\"hunter2\" }"] {
            let error = members(text.as_bytes(), 10).err().unwrap();
            assert_eq!(error.member, None, "{text}");
        }
    }

    /// Too many members are refused before more memory is allocated.
    #[test]
    fn members_are_counted() {
        assert!(members(b"{\"a\":1,\"b\":2}", 2).is_ok());
        let error = members(b"{\"a\":1,\"b\":2,\"c\":3}", 2).err().unwrap();
        assert_eq!(error.what, Fault::TooManyMembers(2));
    }

    /// Each value of an array is passed on as it is in the text; what is no array is refused, and not quoted.
    #[test]
    fn values_of_arrays_come_in_order() {
        let values = |text| {
            let mut values = Vec::new();
            each_value(text, |value| values.push(value.to_owned())).map(|()| values)
        };
        assert_eq!(
            values(" [1, \"a]\" ,{\"b\":[]},null]\n").unwrap(),
            ["1", "\"a]\"", "{\"b\":[]}", "null"]
        );
        assert!(values("[]").unwrap().is_empty());
        for text in [
            "{}",
            "",
            "[1,]",
            "[1",
            "[hunter2]",
            "[1] hunter2",
            "\"hunter2\"",
        ] {
            let error = values(text).unwrap_err();
            assert!(!error.contains("hunter"), "{error}");
        }
    }

    /// Deep nesting can't overflow the stack: the parser skips values without recursion.
    #[test]
    fn deep_nesting_is_one_bad_value() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(200_000), "]".repeat(200_000));
        assert_eq!(members(deep.as_bytes(), 1).unwrap().len(), 1);
    }
}
