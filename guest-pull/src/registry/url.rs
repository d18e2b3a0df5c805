// SPDX-License-Identifier: Apache-2.0

//! What URLs are made of.

use std::fmt::Write as _;

use ureq::http::StatusCode;

/// The server of a registry, with its port: Docker Hub's has another name than its images.
pub fn server(registry: &str) -> &str {
    match registry {
        "docker.io" => "registry-1.docker.io",
        other => other,
    }
}

/// The host of a URL, with its port.
pub fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    host.rsplit_once('@').map_or(host, |(_, host)| host)
}

/// Whether a URL is one with TLS: schemes are the same in upper case.
pub fn has_tls(url: &str) -> bool {
    scheme_of(url).is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"))
}

/// The scheme, if the text begins with one and a server. A path may have such signs further on.
fn scheme_of(url: &str) -> Option<&str> {
    let (scheme, _) = url.split_once("://")?;
    let is_sign = |byte: u8| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte);
    (!scheme.is_empty() && scheme.bytes().all(is_sign)).then_some(scheme)
}

/// Where a redirect leads; none if it is no place, or not as safe as the URL that it comes from.
pub fn resolve(url: &str, location: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let to = if let Some(other) = location.strip_prefix("//") {
        format!("{scheme}://{other}")
    } else if location.starts_with('/') {
        format!("{scheme}://{}{location}", host_of(url))
    } else if scheme_of(location).is_some() {
        location.to_owned()
    } else {
        let path = rest.split(['?', '#']).next()?;
        let directory = path
            .rsplit_once('/')
            .map_or(path, |(directory, _)| directory);
        format!("{scheme}://{directory}/{location}")
    };
    let is_plain = scheme_of(&to).is_some_and(|scheme| scheme.eq_ignore_ascii_case("http"));
    let is_safe = has_tls(&to) || is_plain && !has_tls(url);
    (is_safe && !location.is_empty()).then_some(to)
}

/// Whether a status sends elsewhere.
pub(super) fn is_redirect(status: StatusCode) -> bool {
    matches!(status.as_u16(), 301 | 302 | 303 | 307 | 308)
}

/// Whether two URLs lead to the same server: scheme, host and port.
pub fn same_origin(one: &str, other: &str) -> bool {
    let origin = |url: &str| {
        let scheme = url.split_once("://").map_or("", |(scheme, _)| scheme);
        let scheme = scheme.to_ascii_lowercase();
        let usual = match &*scheme {
            "https" => ":443",
            _ => ":80",
        };
        let host = host_of(url).to_ascii_lowercase();
        let host = host.strip_suffix(usual).unwrap_or(&host).to_owned();
        (scheme, host)
    };
    origin(one) == origin(other)
}

/// Writes a value for the query of a URL, or for a form: RFC 3986.
pub(super) fn push_encoded(encoded: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' | b'/' => {
                encoded.push(char::from(byte));
            }
            // Writing to a text can't fail.
            other => drop(write!(encoded, "%{other:02X}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A redirect may lead anywhere but from https to http.
    #[test]
    fn redirects_are_resolved() {
        let from = "https://r.example:5000/v2/a/blobs/x?y=/z";
        for (location, expected) in [
            ("https://s.example/b?c", Some("https://s.example/b?c")),
            ("http://s.example/b", None),
            ("//s.example/b", Some("https://s.example/b")),
            ("/b/c", Some("https://r.example:5000/b/c")),
            ("b", Some("https://r.example:5000/v2/a/blobs/b")),
            ("", None),
            ("ftp://s.example/b", None),
            ("HTTP://s.example/b", None),
            ("HTTPS://s.example/b", Some("HTTPS://s.example/b")),
            (
                "/b?next=https://s.example/z",
                Some("https://r.example:5000/b?next=https://s.example/z"),
            ),
        ] {
            assert_eq!(resolve(from, location).as_deref(), expected, "{location}");
        }
        assert!(resolve("http://r.example/a", "http://s.example/b").is_some());
    }

    /// A scheme is the same in upper case: what is in TLS must not go the way of what isn't.
    #[test]
    fn tls_is_seen_in_any_spelling() {
        for url in ["https://r.example", "HTTPS://r.example", "Https://r"] {
            assert!(has_tls(url), "{url}");
        }
        for url in ["http://https://r", "httpsx://r", "r.example/https://", ""] {
            assert!(!has_tls(url), "{url}");
        }
    }

    /// A login stays with its server: another port, scheme or name is another one.
    #[test]
    fn servers_are_told_apart() {
        let url = "https://r.example/v2/a";
        for (other, expected) in [
            ("https://r.example/b", true),
            ("https://R.example:443/b", true),
            ("https://r.example:80/b", false),
            ("http://r.example/b", false),
            ("https://r.example.org/b", false),
            ("https://r.example@s.example/b", false),
            ("https://cdn.r.example/b", false),
        ] {
            assert_eq!(same_origin(url, other), expected, "{other}");
        }
    }

    /// Nothing of a value is taken for a sign of the query or form that it is in.
    #[test]
    fn values_are_encoded() {
        let mut encoded = String::new();
        push_encoded(&mut encoded, "a+b c&d=e%\u{e9}/f:g");
        assert_eq!(encoded, "a%2Bb%20c%26d%3De%25%C3%A9/f:g");
    }
}
