// SPDX-License-Identifier: Apache-2.0

//! The types of scalars by the rules of YAML 1.1, as PyYAML has them in `resolver.py`.

use saphyr_parser::Tag;

/// What a scalar is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Type {
    /// A string.
    String,
    /// Nothing.
    Null,
    /// `yes`, `off` and the like.
    Boolean,
    /// A whole number.
    Integer,
    /// Another number.
    Float,
    /// A date, or a date and a time.
    Time,
    /// The key `<<`.
    Merge,
    /// A bare `=`.
    Value,
    /// A text of a Jinja template, which is known only once it is rendered.
    Template,
}

impl Type {
    /// What it is, for messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::String | Self::Merge | Self::Value => "a string",
            Self::Null => "nothing",
            Self::Boolean => "a boolean",
            Self::Integer | Self::Float => "a number",
            Self::Time => "a date",
            Self::Template => "a template",
        }
    }

    /// The type by a tag; none for those that PyYAML's safe loader does not know.
    pub fn of_tag(tag: &Tag) -> Option<Self> {
        if !tag.is_yaml_core_schema() {
            return None;
        }
        Some(match tag.suffix.as_str() {
            "str" => Self::String,
            "null" => Self::Null,
            "bool" => Self::Boolean,
            "int" => Self::Integer,
            "float" => Self::Float,
            "timestamp" => Self::Time,
            _ => return None,
        })
    }

    /// The type of a scalar without quotes and without a tag.
    pub fn of_plain(text: &str) -> Self {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => Self::Null,
            "yes" | "Yes" | "YES" | "no" | "No" | "NO" | "true" | "True" | "TRUE" | "false"
            | "False" | "FALSE" | "on" | "On" | "ON" | "off" | "Off" | "OFF" => Self::Boolean,
            "<<" => Self::Merge,
            "=" => Self::Value,
            _ if is_integer(text) => Self::Integer,
            _ if is_float(text) => Self::Float,
            _ if is_time(text) => Self::Time,
            _ => Self::String,
        }
    }
}

/// A whole number's value, where it is a small one.
pub fn integer(text: &str) -> Option<i64> {
    let text = text.replace('_', "");
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(&text)),
    };
    let value = match digits.as_bytes() {
        [b'0', b'b', ..] => i64::from_str_radix(&digits[2..], 2),
        [b'0', b'x', ..] => i64::from_str_radix(&digits[2..], 16),
        [b'0', _, ..] => i64::from_str_radix(&digits[1..], 8),
        _ => digits.parse(),
    };
    Some(if negative { -value.ok()? } else { value.ok()? })
}

fn unsigned(text: &str) -> &str {
    text.strip_prefix(['-', '+']).unwrap_or(text)
}

fn all(text: &str, one: impl Fn(u8) -> bool) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte == b'_' || one(byte))
}

fn is_integer(text: &str) -> bool {
    let text = unsigned(text);
    if let Some(digits) = text.strip_prefix("0b") {
        return all(digits, |byte| matches!(byte, b'0' | b'1'));
    }
    if let Some(digits) = text.strip_prefix("0x") {
        return all(digits, |byte| byte.is_ascii_hexdigit());
    }
    if let Some(digits) = text.strip_prefix('0') {
        return digits.is_empty() || all(digits, |byte| matches!(byte, b'0'..=b'7'));
    }
    let mut parts = text.split(':');
    let first = parts.next().unwrap_or_default();
    first.starts_with(|c: char| c.is_ascii_digit())
        && all(first, |byte| byte.is_ascii_digit())
        && parts.all(is_sixtieth)
}

/// A group of a number to the base sixty.
fn is_sixtieth(group: &str) -> bool {
    match group.as_bytes() {
        [one] => one.is_ascii_digit(),
        [tens, one] => matches!(tens, b'0'..=b'5') && one.is_ascii_digit(),
        _ => false,
    }
}

fn is_float(text: &str) -> bool {
    if matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    let text = unsigned(text);
    if matches!(text, ".inf" | ".Inf" | ".INF") {
        return true;
    }
    let Some((whole, rest)) = text.split_once('.') else {
        return false;
    };
    let digits = |text: &str| all(text, |byte| byte.is_ascii_digit());
    if let Some((first, groups)) = whole.split_once(':') {
        return first.starts_with(|c: char| c.is_ascii_digit())
            && digits(first)
            && groups.split(':').all(is_sixtieth)
            && (rest.is_empty() || digits(rest));
    }
    // An exponent has a sign, else it is none.
    let (fraction, exponent) = match rest.split_once(['e', 'E']) {
        Some((fraction, exponent)) => (fraction, Some(exponent)),
        None => (rest, None),
    };
    let exponent_fits = exponent.is_none_or(|exponent| {
        let power = exponent.strip_prefix(['-', '+']);
        power.is_some_and(|power| {
            !power.is_empty() && power.bytes().all(|byte| byte.is_ascii_digit())
        })
    });
    let begins = |text: &str| text.starts_with(|c: char| c.is_ascii_digit()) && digits(text);
    let fits = match whole {
        "" => begins(fraction),
        _ => begins(whole) && (fraction.is_empty() || digits(fraction)),
    };
    fits && exponent_fits
}

/// `2001-12-14`, or a date with fewer digits and a time.
fn is_time(text: &str) -> bool {
    let end = text.find(['T', 't', ' ', '\t']).unwrap_or(text.len());
    let (date, time) = text.split_at(end);
    let numbers = |text: &str, separator, lengths: &[&[usize]]| {
        let parts: Vec<_> = text.split(separator).collect();
        parts.len() == lengths.len()
            && parts.iter().zip(lengths).all(|(part, lengths)| {
                lengths.contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit())
            })
    };
    if time.is_empty() {
        return numbers(date, '-', &[&[4], &[2], &[2]]);
    }
    let time = time.trim_start_matches(['T', 't', ' ', '\t']);
    let end = time.find(|c: char| !c.is_ascii_digit() && c != ':');
    let (clock, rest) = time.split_at(end.unwrap_or(time.len()));
    numbers(date, '-', &[&[4], &[1, 2], &[1, 2]])
        && numbers(clock, ':', &[&[1, 2], &[2], &[2]])
        && rest
            .bytes()
            .all(|byte| byte.is_ascii_digit() || b".:+-Z \t".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What PyYAML 6.0 makes of them.
    #[test]
    fn types_are_those_of_yaml_1_1() {
        for (text, expected) in [
            ("yes", Type::Boolean),
            ("y", Type::String),
            ("Off", Type::Boolean),
            ("~", Type::Null),
            ("nULL", Type::String),
            ("0600", Type::Integer),
            ("0o600", Type::String),
            ("09", Type::String),
            ("1_0", Type::Integer),
            ("+1", Type::Integer),
            ("0x1f", Type::Integer),
            ("0b11", Type::Integer),
            ("190:20:30", Type::Integer),
            ("1:60", Type::String),
            ("_1", Type::String),
            ("1e3", Type::String),
            ("1.5e3", Type::String),
            ("6.8523015e+5", Type::Float),
            ("685.230_15e+03", Type::Float),
            ("190:20:30.15", Type::Float),
            ("1.", Type::Float),
            (".5", Type::Float),
            (".", Type::String),
            ("-.INF", Type::Float),
            ("1.2.3", Type::String),
            ("2001-01-01", Type::Time),
            ("2001-1-1", Type::String),
            ("2001-12-14t21:59:43.10-05:00", Type::Time),
            ("2001-12-14 21:59", Type::String),
            ("=", Type::Value),
            ("<<", Type::Merge),
            ("aGVsbG8=", Type::String),
        ] {
            assert_eq!(Type::of_plain(text), expected, "{text}");
        }
    }

    #[test]
    fn integers_have_their_base() {
        for (text, expected) in [
            ("0600", Some(384)),
            ("600", Some(600)),
            ("-0x1f", Some(-31)),
            ("1_0", Some(10)),
            ("0", Some(0)),
            ("190:20:30", None),
        ] {
            assert_eq!(integer(text), expected, "{text}");
        }
    }
}
