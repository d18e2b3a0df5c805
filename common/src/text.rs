// SPDX-License-Identifier: Apache-2.0

//! Untrusted text, and numbers, formatted for messages.

use std::fmt;

/// How many bytes of an untrusted text a message shows. A name can be as long as a frame; a log line should
/// not be.
const SHOWN_BYTES: usize = 200;

/// An untrusted text: control characters and double quotes are escaped, and a long text is cut off.
pub struct Escaped<'a>(pub &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut end = self.0.len().min(SHOWN_BYTES);
        while !self.0.is_char_boundary(end) {
            end -= 1;
        }
        // Most names need no escaping. They are shown at each request, so whole runs are written at once.
        let mut rest = &self.0[..end];
        while !rest.is_empty() {
            let plain = rest.bytes().position(|byte| !is_plain(byte));
            let (plain, odd) = rest.split_at(plain.unwrap_or(rest.len()));
            f.write_str(plain)?;
            let mut chars = odd.chars();
            if let Some(c) = chars.next() {
                write!(f, "{}", c.escape_debug())?;
            }
            rest = chars.as_str();
        }
        if end < self.0.len() {
            write!(f, "… ({} bytes)", self.0.len())?;
        }
        Ok(())
    }
}

/// Whether a one-byte character is shown unescaped.
fn is_plain(byte: u8) -> bool {
    matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\')
}

/// An untrusted text, escaped and in double quotes.
pub struct Quoted<'a>(pub &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", Escaped(self.0))
    }
}

/// The longest name of an entry that is shown, in bytes. Names of resources and keys are shorter; a longer
/// one may be a value in the wrong place.
const ENTRY_NAME_BYTES: usize = 100;

/// The name of a file's entry in double quotes, unless it is so long that it may be a value.
pub struct EntryName<'a>(pub &'a str);

impl EntryName<'_> {
    /// Whether it is too long to be shown.
    pub fn is_hidden(&self) -> bool {
        self.0.len() > ENTRY_NAME_BYTES
    }
}

impl fmt::Display for EntryName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_hidden() {
            write!(f, "(a name of {} bytes, not shown)", self.0.len())
        } else {
            Quoted(self.0).fmt(f)
        }
    }
}

/// The name of a registry in an `auth.json`, in double quotes, without the login that a URL may have.
pub struct RegistryName<'a>(pub &'a str);

impl RegistryName<'_> {
    /// The name without its login; if it may be a value, a note of its length.
    pub fn plain(&self) -> String {
        if EntryName(self.0).is_hidden() {
            return EntryName(self.0).to_string();
        }
        let (scheme, has_login, rest) = split_login(self.0);
        let (rest, query) = rest
            .split_once('?')
            .map_or((rest, ""), |(rest, _)| (rest, "?…"));
        let host = rest.split('/').next().unwrap_or(rest);
        // What follows a host's colon is a port, or may be the password of a login that nothing follows.
        let is_port = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let shown = match host.split_once(':') {
            Some((user, text)) if !host.starts_with('[') && !is_port(text) => {
                format!("{user}:…{}", &rest[host.len()..])
            }
            _ => rest.to_owned(),
        };
        let login = if has_login { "…@" } else { "" };
        format!("{scheme}{login}{shown}{query}")
    }
}

/// Takes the name of a registry apart: the scheme with its `://`, whether a login follows, and what is behind both.
pub fn split_login(name: &str) -> (&str, bool, &str) {
    let is_of_scheme = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    let (scheme, rest) = match name.find("://") {
        Some(at) if name[..at].bytes().all(is_of_scheme) => name.split_at(at + 3),
        _ => ("", name),
    };
    let host = rest.find('/').unwrap_or(rest.len());
    // A password may have a slash. Behind one, an image's digest is the only thing that has an @ too.
    let is_digest = |at: usize| {
        ["sha256:", "sha512:"]
            .iter()
            .any(|start| rest[at + 1..].starts_with(start))
    };
    let mut all = rest.rmatch_indices('@').map(|(at, _)| at);
    match all.find(|&at| at < host || !is_digest(at)) {
        Some(at) => (scheme, true, &rest[at + 1..]),
        None => (scheme, false, rest),
    }
}

impl fmt::Display for RegistryName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        EntryName(&self.plain()).fmt(f)
    }
}

/// A duration in seconds, in the unit that a person would use.
pub struct Age(pub u64);

impl fmt::Display for Age {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNITS: [(u64, &str); 4] = [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s")];
        // Less than two of a unit is shown in the next smaller one.
        let unit = UNITS.iter().find(|(seconds, _)| self.0 >= 2 * seconds);
        let (seconds, name) = unit.unwrap_or(&UNITS[3]);
        write!(f, "{} {name}", self.0 / seconds)
    }
}

/// A number with its noun.
pub fn count(n: usize, one: &str, many: &str) -> String {
    format!("{n} {}", if n == 1 { one } else { many })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// If somebody swaps name and value, the value is not shown as a name.
    #[test]
    fn a_name_that_may_be_a_value_is_hidden() {
        assert_eq!(EntryName("a\n").to_string(), r#""a\n""#);
        let value = EntryName(&"x".repeat(101)).to_string();
        assert_eq!(value, "(a name of 101 bytes, not shown)");
    }

    /// A login in a registry's name is not shown.
    #[test]
    fn a_registry_is_shown_without_its_login() {
        for (name, shown) in [
            ("quay.io/org", "\"quay.io/org\""),
            ("https://u:hunter2@quay.io/v1/", "\"https://…@quay.io/v1/\""),
            ("u:hunter2@quay.io", "\"…@quay.io\""),
            ("quay.io/app@sha256:0", "\"quay.io/app@sha256:0\""),
            ("user:hunter2", "\"user:…\""),
            ("https://q.io/?token=hunter2", "\"https://q.io/?…\""),
            ("q.io:5000/a:1", "\"q.io:5000/a:1\""),
            ("[::1]:5000", "\"[::1]:5000\""),
            ("https://u:hun/ter2@quay.io", "\"https://…@quay.io\""),
            ("u:hun/ter2@r.io/a@sha256:0", "\"…@r.io/a@sha256:0\""),
            ("u:hunter2://x@quay.io", "\"…@quay.io\""),
        ] {
            assert_eq!(RegistryName(name).to_string(), shown);
        }
        assert!(
            !RegistryName(&"hunter2".repeat(20))
                .to_string()
                .contains("hunter2")
        );
    }

    #[test]
    fn an_age_is_short() {
        let shown = [0, 1, 119, 120, 7_199, 7_200, 172_800].map(|seconds| Age(seconds).to_string());
        assert_eq!(
            shown,
            ["0 s", "1 s", "119 s", "2 min", "119 min", "2 h", "2 d"]
        );
    }

    /// A name that a peer sends must neither break a log line nor make it long.
    #[test]
    fn shown_texts_are_short_and_printable() {
        let shown = Quoted(&format!("a\n\u{1b}[31m\"{}", "é".repeat(5000))).to_string();
        assert!(shown.starts_with(r#""a\n\u{1b}[31m\"é"#), "{shown}");
        assert!(shown.ends_with("é… (10008 bytes)\""), "{shown}");
        assert!(shown.len() < 300);
    }
}
