// SPDX-License-Identifier: Apache-2.0

//! Where GPG's signatures are: `sigstore_config`, a configuration as containers-registries.d(5) has it.
//!
//! The stock puller takes the same. It is YAML of two levels, and this reads those, line by line; what YAML can do
//! beside that, nobody needs for it, and it is refused.

use std::collections::HashMap;

use common::auth_json::image::ImageName;
use common::text::Quoted;

use crate::policy::parse::scopes;

/// The storage's URL for an image; none if the configuration has none for it.
pub fn base_url(text: &[u8], image: &ImageName) -> Result<Option<String>, String> {
    let text = std::str::from_utf8(text).map_err(|_| "not UTF-8")?;
    let mut config = parse(text)?;
    // Only the names of images, repositories, namespaces and registries: it knows no domains.
    let scopes = scopes(image).into_iter();
    let mut scopes = scopes.filter(|scope| !scope.is_empty() && !scope.starts_with("*."));
    let found = scopes.find_map(|scope| config.scopes.remove(&scope));
    let Some(url) = found.or(config.default) else {
        return Ok(None);
    };
    let url = url.trim_end_matches('/').to_owned();
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    let is_good = match scheme {
        "file" => rest.starts_with('/'),
        "http" | "https" => !rest.starts_with('/'),
        _ => false,
    };
    // Messages have the URL.
    let has_login = rest
        .split('/')
        .next()
        .is_some_and(|host| host.contains('@'));
    // What is put behind a query or fragment names nothing: one file would be the signature of all images.
    let has_more = url.contains(['?', '#']);
    match is_good && !has_login && !has_more {
        true => Ok(Some(url)),
        false => Err(
            "a lookaside is not file:///PATH or https://HOST/PATH, without \"?\" and \"#\""
                .to_owned(),
        ),
    }
}

#[derive(Default)]
struct Config {
    default: Option<String>,
    scopes: HashMap<String, String>,
}

fn parse(text: &str) -> Result<Config, String> {
    let mut config = Config::default();
    // The keys of the levels above the line, with their indentation.
    let mut above: Vec<(usize, String)> = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let wrong = |what: &str| format!("line {}: {what}", number + 1);
        let content = line.split(" #").next().unwrap_or(line).trim_end();
        let trimmed = content.trim_start_matches(' ');
        if trimmed.is_empty() || trimmed.starts_with('#') || content == "---" {
            continue;
        }
        let indentation = content.len() - trimmed.len();
        let (key, value) =
            member(trimmed).ok_or_else(|| wrong("not KEY: VALUE, or KEY: with more below it"))?;
        above.retain(|(other, _)| *other < indentation);
        let path: Vec<_> = above.iter().map(|(_, key)| key.as_str()).collect();
        let place = match (&path[..], value.as_str()) {
            ([], "") if key == "docker" || key == "default-docker" => {
                above.push((indentation, key));
                continue;
            }
            (["docker"], "") => {
                above.push((indentation, key));
                continue;
            }
            (["default-docker"], _) => &mut config.default,
            (["docker", scope], value) => {
                if take(&key, value).map_err(|what| wrong(&what))? {
                    let scope = (*scope).to_owned();
                    if config.scopes.insert(scope, value.to_owned()).is_some() {
                        return Err(wrong("a second lookaside of the same scope"));
                    }
                }
                continue;
            }
            _ => return Err(wrong(&format!("{} is not known there", Quoted(&key)))),
        };
        if take(&key, &value).map_err(|what| wrong(&what))? && place.replace(value).is_some() {
            return Err(wrong("a second lookaside of default-docker"));
        }
    }
    Ok(config)
}

/// Whether the key names the storage.
fn take(key: &str, value: &str) -> Result<bool, String> {
    match key {
        "lookaside" | "sigstore" if !value.is_empty() => Ok(true),
        "lookaside" | "sigstore" => Err(format!("{key} is empty")),
        // Where signatures are written, and whether cosign's are looked for: they always are.
        "lookaside-staging" | "sigstore-staging" | "use-sigstore-attachments" => Ok(false),
        _ => Err(format!("{} is not known there", Quoted(key))),
    }
}

/// The key and the value of a line; the value may be none.
fn member(line: &str) -> Option<(String, String)> {
    let (key, value) = match line.strip_suffix(':') {
        Some(key) if !key.contains(": ") => (key, ""),
        _ => line.split_once(": ")?,
    };
    let key = scalar(key)?;
    (!key.is_empty()).then_some((key, scalar(value)?))
}

/// A text without quotes, or in such that need no escapes.
fn scalar(text: &str) -> Option<String> {
    let text = text.trim();
    // Messages have the URL.
    if text.contains(char::is_control) {
        return None;
    }
    for quote in ['"', '\''] {
        if let Some(inner) = text.strip_prefix(quote) {
            let inner = inner.strip_suffix(quote)?;
            return (!inner.contains([quote, '\\'])).then(|| inner.to_owned());
        }
    }
    let is_plain = !text.starts_with(|c: char| "[]{}&*!|>%@`?-,".contains(c));
    is_plain.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The smallest scope's storage counts, then the default's.
    #[test]
    fn lookaside_is_found() {
        let text = "# where\ndefault-docker:\n    sigstore: file:///default/\ndocker:\n  r.example:5000: # registry\n    \
            lookaside: https://one.example/x\n    use-sigstore-attachments: true\n  \"r.example:5000/a/b\":\n    \
            lookaside: 'file:///two'\n    lookaside-staging: file:///elsewhere\n";
        let url = |text: &str, image: &str| {
            let image = ImageName::parse(image).map_err(|error| error.to_string())?;
            base_url(text.as_bytes(), &image)
        };
        for (image, wanted) in [
            ("r.example:5000/a/b:1", "file:///two"),
            ("r.example:5000/a/bc:1", "https://one.example/x"),
            ("r.example/a", "file:///default"),
        ] {
            assert_eq!(url(text, image), Ok(Some(wanted.to_owned())), "{image}");
        }
        assert_eq!(url("", "r.example/a"), Ok(None));
        for bad in [
            "docker: {r.example: {lookaside: file:///x}}",
            "docker:\n  r.example:\n    lookaside: ftp://x\ndefault-docker:\n  lookaside: ftp://x",
            "default-docker:\n  lookaside: https://user:hunter2@x/y",
            "default-docker:\n  lookaside: file://x/y",
            "default-docker:\n  lookaside: https://x/get?file=",
            "default-docker:\n  lookaside: https://x/y#z",
            "docker:\n  r.example:\n    other: file:///x",
            "other:\n  lookaside: file:///x",
            "lookaside: file:///x",
            "default-docker:\n  lookaside: file:///x\n  lookaside: file:///y",
            "default-docker:\n  lookaside:\n",
            "default-docker:\n\tlookaside: file:///x",
            "default-docker:\n  lookaside: file:///x\u{1b}y",
            "default-docker:\n  lookaside: 'file:///x\0y'",
            "- docker",
        ] {
            assert!(url(bad, "r.example/a").is_err(), "{bad}");
        }
    }
}
