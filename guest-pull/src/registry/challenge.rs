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
        /// What the token should allow, each for itself; none if the registry leaves that to the client.
        scopes: Vec<String>,
        /// What was wrong with the token that it got: RFC 6750, section 3.1.
        error: Option<String>,
    },
    /// In a way that is not known here: the names of the schemes.
    Other(String),
}

/// The challenge among those of a response that says most: a token before a password. None if there is none.
pub fn choose(headers: impl Iterator<Item = String>) -> Option<Challenge> {
    let mut basic = None;
    let mut others: Vec<String> = Vec::new();
    for header in headers {
        for (scheme, parameters) in split(&header) {
            let value = |name: &str| {
                let mut found = parameters
                    .iter()
                    .filter(|(key, value)| key.eq_ignore_ascii_case(name) && !value.is_empty());
                found.next().map(|(_, value)| value.clone())
            };
            if scheme.eq_ignore_ascii_case("basic") {
                basic = Some(Challenge::Basic);
                continue;
            }
            let realm = match scheme.eq_ignore_ascii_case("bearer") {
                true => value("realm"),
                false => None,
            };
            let Some(realm) = realm else {
                others.push(scheme);
                continue;
            };
            let scopes = value("scope").unwrap_or_default();
            return Some(Challenge::Bearer {
                realm,
                service: value("service"),
                scopes: scopes.split_whitespace().map(str::to_owned).collect(),
                error: value("error"),
            });
        }
    }
    let other = (!others.is_empty()).then(|| Challenge::Other(others.join(", ")));
    basic.or(other)
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
    #![allow(clippy::panic)]
    use super::*;

    fn bearer(realm: &str, service: Option<&str>, scopes: &[&str]) -> Option<Challenge> {
        Some(Challenge::Bearer {
            realm: realm.to_owned(),
            service: service.map(str::to_owned),
            scopes: scopes.iter().map(|&scope| scope.to_owned()).collect(),
            error: None,
        })
    }

    fn chosen(headers: &[&str]) -> Option<Challenge> {
        choose(headers.iter().map(|&header| header.to_owned()))
    }

    /// Forms that registries send, and that RFC 9110 allows.
    #[test]
    fn challenges_are_read() {
        let other = |schemes: &str| Some(Challenge::Other(schemes.to_owned()));
        for (headers, expected) in [
            (&["Basic realm=\"x\""][..], Some(Challenge::Basic)),
            (&["basic"], Some(Challenge::Basic)),
            (
                &["Bearer realm=\"https://a/t\",service=\"r\",scope=\"repository:a/b:pull,push\""],
                bearer("https://a/t", Some("r"), &["repository:a/b:pull,push"]),
            ),
            (
                &["bearer Realm = https://a/t"],
                bearer("https://a/t", None, &[]),
            ),
            (
                &["Bearer realm=\"https://a/t\",service=\"\",scope=\"\""],
                bearer("https://a/t", None, &[]),
            ),
            (
                &["Bearer realm=\"t\", scope=\"repository:a/b:pull  repository:c:pull\""],
                bearer("t", None, &["repository:a/b:pull", "repository:c:pull"]),
            ),
            // Spaces in the place of commas.
            (
                &["Bearer  realm=\"t\" service=\"s\""],
                bearer("t", Some("s"), &[]),
            ),
            (
                &["Basic realm=\"a, Bearer realm=b\", Bearer realm=\"c\\\"d\""],
                bearer("c\"d", None, &[]),
            ),
            (
                &["Negotiate", "Basic realm=x", "Bearer realm=\"t\""],
                bearer("t", None, &[]),
            ),
            (&["Negotiate abc==, Basic"], Some(Challenge::Basic)),
            // Without the server, a token can't be had.
            (
                &["Bearer service=\"x\"", "Basic realm=\"x\""],
                Some(Challenge::Basic),
            ),
            (&["Bearer service=\"x\""], other("Bearer")),
            (&["Digest realm=\"x\"", "NTLM"], other("Digest, NTLM")),
            (&["Bearer realm=\"no end"], bearer("no end", None, &[])),
            (&["", ",", "=", "=="], None),
        ] {
            assert_eq!(chosen(headers), expected, "{headers:?}");
        }
    }

    /// What a registry says of a token that it does not take is kept for the message.
    #[test]
    fn the_error_of_a_token_is_kept() {
        let header = "Bearer realm=\"t\",error=\"invalid_token\",error_description=\"it, \\\"x\\\", is old\"";
        let Some(Challenge::Bearer { error, .. }) = chosen(&[header]) else {
            panic!("no token");
        };
        assert_eq!(error.as_deref(), Some("invalid_token"));
    }
}
