// SPDX-License-Identifier: Apache-2.0

//! What a registry asks for with a 401: the header WWW-Authenticate of RFC 9110.

/// How a registry wants to be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// With user and password in each request.
    Basic,
    /// With a token, which another server gives out.
    Bearer {
        /// That server.
        realm: String,
        /// The name of the registry there.
        service: Option<String>,
        /// What the token should allow.
        scope: Option<String>,
    },
}

/// The challenge among those of a response that says most: a token before a password. None if neither is there.
pub fn choose<'h>(headers: impl Iterator<Item = &'h str>) -> Option<Challenge> {
    let mut basic = None;
    for header in headers {
        for (scheme, parameters) in split(header) {
            let value = |name: &str| {
                let mut found = parameters
                    .iter()
                    .filter(|(key, _)| key.eq_ignore_ascii_case(name));
                found.next().map(|(_, value)| value.clone())
            };
            if scheme.eq_ignore_ascii_case("bearer") {
                if let Some(realm) = value("realm") {
                    return Some(Challenge::Bearer {
                        realm,
                        service: value("service"),
                        scope: value("scope"),
                    });
                }
            } else if scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
            }
        }
    }
    basic
}

/// A scheme and its parameters.
type Part = (String, Vec<(String, String)>);

/// Takes a header apart: schemes, each with parameters. A comma separates parameters and challenges alike, so a word
/// without a `=` behind it begins a challenge.
fn split(header: &str) -> Vec<Part> {
    let mut parts: Vec<Part> = Vec::new();
    let mut rest = header.trim_start_matches([' ', '\t', ',']);
    while !rest.is_empty() {
        let end = rest.find([' ', '\t', ',', '=']).unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        let after_space = after.trim_start_matches([' ', '\t']);
        match after_space.strip_prefix('=') {
            Some(value) if !word.is_empty() => {
                let (value, after) = value_of(value.trim_start_matches([' ', '\t']));
                if let Some((_, parameters)) = parts.last_mut() {
                    parameters.push((word.to_owned(), value));
                }
                rest = after;
            }
            // A stray sign is skipped.
            Some(after) => rest = after,
            None => {
                parts.push((word.to_owned(), Vec::new()));
                rest = after;
            }
        }
        rest = rest.trim_start_matches([' ', '\t', ',']);
    }
    parts
}

/// A value, in quotes or not, and what follows it.
fn value_of(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([' ', '\t', ',']).unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut characters = quoted.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(characters.next().map(|(_, escaped)| escaped)),
            other => value.push(other),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scope: scope.map(str::to_owned),
        })
    }

    /// Forms that registries send, and that RFC 9110 allows.
    #[test]
    fn challenges_are_read() {
        for (headers, expected) in [
            (&["Basic realm=\"x\""][..], Some(Challenge::Basic)),
            (&["basic"], Some(Challenge::Basic)),
            (
                &["Bearer realm=\"https://a/t\",service=\"r\",scope=\"repository:a/b:pull,push\""],
                bearer("https://a/t", Some("r"), Some("repository:a/b:pull,push")),
            ),
            (
                &["bearer Realm = https://a/t"],
                bearer("https://a/t", None, None),
            ),
            (
                &["Basic realm=\"a, Bearer realm=b\", Bearer realm=\"c\\\"d\""],
                bearer("c\"d", None, None),
            ),
            (
                &["Negotiate", "Basic realm=x", "Bearer realm=\"t\""],
                bearer("t", None, None),
            ),
            (&["Negotiate abc==, Basic"], Some(Challenge::Basic)),
            (&["Bearer service=\"x\""], None),
            (&["Bearer realm=\"no end"], bearer("no end", None, None)),
            (&["", ",", "=", "=="], None),
        ] {
            assert_eq!(choose(headers.iter().copied()), expected, "{headers:?}");
        }
    }
}
