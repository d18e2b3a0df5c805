// SPDX-License-Identifier: Apache-2.0

//! What URLs are made of.

/// The server of a registry, with its port: Docker Hub's has another name than its images.
pub fn server(registry: &str) -> &str {
    match registry {
        "docker.io" => "registry-1.docker.io",
        other => other,
    }
}

/// The host of a URL, with its port.
pub(super) fn host_of(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let host = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    host.rsplit_once('@').map_or(host, |(_, host)| host)
}

/// Where a redirect leads; none if it is no place, or not as safe as the URL that it comes from.
pub(super) fn resolve(url: &str, location: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let to = if location.contains("://") {
        location.to_owned()
    } else if let Some(other) = location.strip_prefix("//") {
        format!("{scheme}://{other}")
    } else if location.starts_with('/') {
        format!("{scheme}://{}{location}", host_of(url))
    } else {
        let path = rest.split(['?', '#']).next()?;
        let directory = path
            .rsplit_once('/')
            .map_or(path, |(directory, _)| directory);
        format!("{scheme}://{directory}/{location}")
    };
    let is_safe = to.starts_with("https://") || scheme == "http" && to.starts_with("http://");
    (is_safe && !location.is_empty()).then_some(to)
}

/// A value in the query of a URL: RFC 3986.
pub(super) fn percent_encoded(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b':' | b'/' => {
                encoded.push(char::from(byte));
            }
            other => encoded.push_str(&format!("%{other:02X}")),
        }
    }
    encoded
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
        ] {
            assert_eq!(resolve(from, location).as_deref(), expected, "{location}");
        }
        assert!(resolve("http://r.example/a", "http://s.example/b").is_some());
    }
}
