// SPDX-License-Identifier: Apache-2.0

//! TOML files, read within bounds: the parser recurses, and takes time with the square of the depth.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use crate::json::Position;

/// The largest configuration file of a component that is parsed; real ones have a few KiB.
pub const MAX_COMPONENT_BYTES: usize = 64 << 10;

/// The deepest nesting, by brackets or by dots in a line, that is parsed: real files have four levels.
const MAX_DEPTH: usize = 64;

/// Why a text is not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// It is larger or deeper than this program reads, which need not be a fault of the text.
    Limit,
    /// Bytes that are not UTF-8.
    NotUtf8,
    /// It is no TOML, or has a date, which the parser does not know.
    Syntax(Option<Position>),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limit => f.write_str("too large or too deeply nested"),
            Self::NotUtf8 => f.write_str("not UTF-8"),
            Self::Syntax(position) => {
                f.write_str("can't be parsed as TOML (dates are not supported)")?;
                match position {
                    Some(position) => write!(f, " at {position}"),
                    None => Ok(()),
                }
            }
        }
    }
}

impl std::error::Error for Error {}

/// The top level of a TOML file of at most `most` bytes.
///
/// # Errors
///
/// Where it can't be read. The error holds no part of the text: some values are secrets.
pub fn table(text: &[u8], most: usize) -> Result<BTreeMap<String, Value>, Error> {
    if text.len() > most || !is_shallow(text) {
        return Err(Error::Limit);
    }
    let text = std::str::from_utf8(text).map_err(|_| Error::NotUtf8)?;
    // The parser's own words may quote a value; only the place in them can't.
    basic_toml::from_str(text).map_err(|error| Error::Syntax(place(&error.to_string())))
}

/// The place at the end of the parser's message, which is `… at line 1 column 2`.
fn place(message: &str) -> Option<Position> {
    let (_, place) = message.rsplit_once(" at line ")?;
    let (line, column) = place.split_once(" column ")?;
    let column = column.split(' ').next()?;
    Some(Position {
        line: line.parse().ok()?,
        column: column.parse().ok()?,
    })
}

/// Whether the text is harmless to the parser. Strings and comments don't count, which it delimits as the parser does:
/// a policy in a string may have a hundred dots in a line.
fn is_shallow(text: &[u8]) -> bool {
    let text = text.strip_prefix("\u{feff}".as_bytes()).unwrap_or(text);
    let (mut depth, mut dots, mut at) = (0_usize, 0, 0);
    // Whether only white space stands before this byte in a line that begins outside of all brackets.
    let mut begins = true;
    while let Some(&byte) = text.get(at) {
        let rest = text.get(at..).unwrap_or_default();
        let line = || memchr::memchr(b'\n', rest).unwrap_or(rest.len());
        let mut length = 1;
        match byte {
            b'\n' => dots = 0,
            // The parser looks for the end of a table's header by the line, whatever stands in it.
            b'[' if begins => {
                length = line();
                let header = rest.get(..length).unwrap_or_default();
                dots = memchr::memchr_iter(b'.', header).count();
            }
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth = depth.saturating_sub(1),
            b'.' => dots += 1,
            b'#' => length = line(),
            b'"' | b'\'' => length = string_length(rest, byte),
            _ => {}
        }
        if depth > MAX_DEPTH || dots > MAX_DEPTH {
            return false;
        }
        begins = match byte {
            b'\n' => depth == 0,
            b' ' | b'\t' | b'\r' => begins,
            _ => false,
        };
        at += length;
    }
    true
}

/// The length of the string that the text begins with, up to where the parser ends it or gives up.
fn string_length(text: &[u8], quote: u8) -> usize {
    let quotes = |at: usize| {
        let rest = text.get(at..).unwrap_or_default();
        rest.iter().take_while(|&&byte| byte == quote).count()
    };
    let is_multiline = match quotes(0) {
        0 | 1 => false,
        2 => return 2,
        _ => true,
    };
    let mut at = if is_multiline { 3 } else { 1 };
    while let Some(&byte) = text.get(at) {
        at += match byte {
            b'\n' if !is_multiline => return at,
            b'\\' if quote == b'"' => 2,
            _ if byte != quote => 1,
            _ if !is_multiline => return at + 1,
            // Two quotes may stand before the three that end it.
            _ => match quotes(at) {
                few @ 0..=2 => few.max(1),
                many => return at + many.min(5),
            },
        };
    }
    text.len()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<BTreeMap<String, Value>, Error> {
        table(text.as_bytes(), MAX_COMPONENT_BYTES)
    }

    /// A stack that overflows ends the program: nothing that hides brackets from the guard may show them to the parser.
    #[test]
    fn depth_is_bounded_wherever_it_hides() {
        let deep = "[".repeat(20_000);
        for text in [
            format!("a = {deep}"),
            format!("a = {}", "{a = ".repeat(9_000)),
            format!("[{}]", vec!["a"; 20_000].join(".")),
            format!("{} = 1", vec!["a"; 20_000].join(".")),
            format!("a = ['''x'''', {deep}"),
            format!("a = ['''x''''', {deep}"),
            format!("a = [\"\", {deep}"),
            format!("a = [\"\\\"\", {deep}"),
            format!("a = ['\\', {deep}"),
            format!("a = [ # \"\n{deep}"),
            format!("[\"\"\"]\na = {deep}"),
            format!("\u{feff}[']\na = {deep}"),
            format!("[a\na = {deep}"),
        ] {
            assert_eq!(read(&text), Err(Error::Limit), "{}", &text[..20]);
        }
        assert_eq!(table(b"a = 1", 4), Err(Error::Limit));
    }

    /// What stands in a string is no nesting.
    #[test]
    fn strings_and_comments_do_not_count() {
        let many = "[{.".repeat(200);
        for text in [
            format!("a = \"{many}\""),
            format!("a = '{many}'"),
            format!("a = '''\n{many}\n'''"),
            format!("a = \"\"\"\n{many}\\\"\n\"\"\" # {many}"),
            format!("# {many}\r\n'{many}' = 1\n"),
            format!("['{}']\n", "[{".repeat(200)),
        ] {
            assert_eq!(read(&text).unwrap().len(), 1, "{text}");
        }
    }

    #[test]
    fn an_error_has_the_place_and_no_text() {
        for (text, expected) in [
            ("x = \"hunter2", "line 1 column 5"),
            ("a = 1\nx = hunter2\n", "line 2 column 5"),
        ] {
            let error = read(text).unwrap_err().to_string();
            assert!(error.ends_with(&format!("at {expected}")), "{error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert_eq!(table(b"\xff", 9), Err(Error::NotUtf8));
    }

    proptest! {
        /// What the guard lets through has at most that depth for the parser, and doesn't end the process.
        #[test]
        fn no_text_is_deeper_than_the_guard_says(
            parts in proptest::collection::vec(
                proptest::sample::select(vec![
                    "[", "]", "{", "}", "'", "\"", "'''", "\"\"\"", "\\", "\n", "\r\n", "a", " = ", ".", ", ", "#",
                    "[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
                ]),
                0..60,
            )
        ) {
            fn depth(value: &Value) -> usize {
                match value {
                    Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
                    Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
                    _ => 0,
                }
            }
            if let Ok(table) = read(&parts.concat()) {
                let deepest = table.values().map(depth).max().unwrap_or(0);
                prop_assert!(deepest <= 3 * MAX_DEPTH);
            }
        }
    }
}
