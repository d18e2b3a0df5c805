// SPDX-License-Identifier: Apache-2.0

//! Reading the file.

use common::text::Escaped;
use common::toml::{self, MAX_COMPONENT_BYTES};
use serde_json::{Map, Value};

use crate::config::registries::{Mirror, Pulls, Registries, Registry};
use crate::config::table::Wrong;
use crate::spelling::check_scope;

/// What a location must be.
const LOCATION: &str =
    "HOST[:PORT][/PATH] without a scheme, and HOST with a dot or port, or localhost";

impl Registries {
    /// Reads a file of this form; `name` is for messages. What is ignored is added to the warnings.
    ///
    /// # Errors
    ///
    /// If it is no TOML, or a key has a value that it can't have. The reason holds no value.
    pub fn parse(text: &[u8], name: &str, warnings: &mut Vec<String>) -> Result<Self, String> {
        let table = toml::table(text, MAX_COMPONENT_BYTES);
        let table = table.map_err(|error| format!("{name}: {error}"))?;
        let table = table.into_iter().collect();
        Self::take(&table, &format!("{name}: "), warnings).map_err(|wrong| wrong.to_string())
    }

    /// Reads the table; `before` is what messages have before the name of a key.
    pub(in crate::config) fn take(
        table: &Map<String, Value>,
        before: &str,
        warnings: &mut Vec<String>,
    ) -> Result<Self, Wrong> {
        let mut all = Self::default();
        for (key, value) in table {
            let wrong = |wanted| Wrong::new(format!("{before}{key}"), wanted);
            match key.as_str() {
                "unqualified-search-registries" => {
                    let names = value.as_array().into_iter().flatten();
                    let names = names
                        .map(|name| location(name.as_str()?).filter(|name| !name.contains('/')));
                    let names: Option<Vec<_>> = names.collect();
                    let names = names.filter(|_| value.is_array());
                    all.search = Some(names.ok_or_else(|| wrong("a list of HOST or HOST:PORT"))?);
                }
                "registry" => {
                    let list = value.as_array().ok_or_else(|| wrong("a list of tables"))?;
                    for (at, value) in list.iter().enumerate() {
                        let before = format!("{before}[[registry]] {}: ", at + 1);
                        let registry = Registry::take(value, &before, warnings)?;
                        let mut others = all.registries.iter();
                        let other = others.find(|other| other.prefix == registry.prefix);
                        if let Some(other) = other {
                            // Which of them was meant decides what is let in, and how.
                            let is_same = (other.blocked, other.insecure)
                                == (registry.blocked, registry.insecure);
                            if !is_same {
                                return Err(Wrong::new(
                                    format!("{before}blocked and insecure"),
                                    "as in the one before it that has the same prefix",
                                ));
                            }
                            warnings.push(format!(
                                "{before}another one before it has the same prefix, and counts"
                            ));
                        }
                        // With a domain, a path may follow it here.
                        let tried = match registry.prefix.strip_prefix("*.") {
                            Some(domain) => domain,
                            None => &registry.prefix,
                        };
                        if let Err(what) = check_scope(tried) {
                            warnings.push(format!("{before}prefix: {what}"));
                        }
                        all.registries.push(registry);
                    }
                }
                // What it blocks would be pulled.
                "registries" => {
                    return Err(Wrong::new(
                        format!("{before}registries"),
                        "in the form of version 2, [[registry]]",
                    ));
                }
                _ => warnings.push(format!(
                    "{before}{}: not supported, and ignored",
                    Escaped(key)
                )),
            }
        }
        Ok(all)
    }
}

impl Registry {
    fn take(value: &Value, before: &str, warnings: &mut Vec<String>) -> Result<Self, Wrong> {
        let entry = format!("{before}it");
        let Value::Object(table) = value else {
            return Err(Wrong::new(entry, "a table"));
        };
        let mut registry = Self::default();
        let mut given = (None, None);
        let mut is_by_digest = false;
        for (key, value) in table {
            let wrong = |wanted| Wrong::new(format!("{before}{key}"), wanted);
            let flag = || value.as_bool().ok_or_else(|| wrong("true or false"));
            match key.as_str() {
                "prefix" => {
                    let text = value.as_str().unwrap_or_default();
                    // Of a domain, any host will do to try it.
                    let tried = match text.strip_prefix("*.") {
                        Some(domain) => location(&format!("x.{domain}")),
                        None => location(text),
                    };
                    let wanted =
                        "the beginning of an image's name: HOST[:PORT][/PATH] or *.DOMAIN[/PATH]";
                    tried.ok_or_else(|| wrong(wanted))?;
                    given.0 = Some(text.trim_end_matches('/').to_owned());
                }
                "location" if value.as_str() == Some("") => {}
                "location" => {
                    given.1 = Some(
                        location(value.as_str().unwrap_or_default())
                            .ok_or_else(|| wrong(LOCATION))?,
                    )
                }
                "insecure" => registry.insecure = flag()?,
                "blocked" => registry.blocked = flag()?,
                "mirror-by-digest-only" => is_by_digest = flag()?,
                "mirror" => {
                    let list = value.as_array().ok_or_else(|| wrong("a list of tables"))?;
                    for (at, value) in list.iter().enumerate() {
                        let before = format!("{before}[[registry.mirror]] {}: ", at + 1);
                        registry
                            .mirrors
                            .push(Mirror::take(value, &before, warnings)?);
                    }
                }
                _ => warnings.push(format!(
                    "{before}{}: not supported, and ignored",
                    Escaped(key)
                )),
            }
        }
        if is_by_digest {
            if registry
                .mirrors
                .iter()
                .any(|mirror| mirror.pulls != Pulls::All)
            {
                let key = format!("{before}mirror-by-digest-only");
                return Err(Wrong::new(
                    key,
                    "left out where a mirror has pull-from-mirror",
                ));
            }
            let mirrors = registry.mirrors.iter_mut();
            mirrors.for_each(|mirror| mirror.pulls = Pulls::ByDigest);
        }
        let (prefix, location) = given;
        let Some(prefix) = prefix.or_else(|| location.clone()) else {
            return Err(Wrong::new(entry, "one with a prefix or a location"));
        };
        registry.location = location.filter(|location| *location != prefix);
        registry.prefix = prefix;
        Ok(registry)
    }
}

impl Mirror {
    fn take(value: &Value, before: &str, warnings: &mut Vec<String>) -> Result<Self, Wrong> {
        let entry = |wanted| Wrong::new(format!("{before}it"), wanted);
        let Value::Object(table) = value else {
            return Err(entry("a table"));
        };
        let mut place = None;
        let mut insecure = false;
        let mut pulls = Pulls::All;
        for (key, value) in table {
            let wrong = |wanted| Wrong::new(format!("{before}{key}"), wanted);
            match key.as_str() {
                "location" => {
                    place = Some(
                        location(value.as_str().unwrap_or_default())
                            .ok_or_else(|| wrong(LOCATION))?,
                    )
                }
                "insecure" => insecure = value.as_bool().ok_or_else(|| wrong("true or false"))?,
                "pull-from-mirror" => {
                    pulls = match value.as_str() {
                        Some("all" | "") => Pulls::All,
                        Some("digest-only") => Pulls::ByDigest,
                        Some("tag-only") => Pulls::ByTag,
                        _ => return Err(wrong("all, digest-only or tag-only")),
                    };
                }
                _ => warnings.push(format!(
                    "{before}{}: not supported, and ignored",
                    Escaped(key)
                )),
            }
        }
        let location = place.ok_or_else(|| entry("one with a location"))?;
        Ok(Self {
            location,
            insecure,
            pulls,
        })
    }
}

/// A name that begins with a registry. Other names would be taken for Docker Hub's.
fn location(text: &str) -> Option<String> {
    let text = text.trim_end_matches('/');
    let is_name = |c: char| c.is_ascii_alphanumeric() || "-._:/@[]".contains(c);
    let host = text.split('/').next()?;
    let has_host =
        host == "localhost" || host.contains(['.', ':']) && !host.starts_with([':', '.', '@']);
    let is_good = has_host && text.chars().all(is_name) && !text.contains("//");
    is_good.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(text: &str) -> Result<Registries, String> {
        Registries::parse(text.as_bytes(), "file", &mut Vec::new())
    }

    /// A value that a key can't have is an error that names the place and the key, and not the value.
    #[test]
    fn wrong_values_are_errors() {
        for (text, parts) in [
            (
                "[[registry]]\nlocation = 'https://hunter2.example'",
                ["[[registry]] 1: location", "scheme"],
            ),
            (
                "[[registry]]\nlocation = 'hunter2/a'",
                ["[[registry]] 1: location", "dot"],
            ),
            (
                "[[registry]]\nprefix = '*hunter2.example'",
                ["[[registry]] 1: prefix", "*.DOMAIN"],
            ),
            (
                "[[registry]]\nprefix = 1",
                ["[[registry]] 1: prefix", "name"],
            ),
            (
                "[[registry]]\ninsecure = true",
                ["[[registry]] 1:", "prefix"],
            ),
            (
                "[[registry]]\nlocation = 'a.b'\ninsecure = 'hunter2'",
                ["insecure", "true or false"],
            ),
            (
                "[[registry]]\nlocation = 'a.b'\nmirror = 'hunter2'",
                ["mirror", "list"],
            ),
            (
                "[[registry]]\nlocation = 'a.b'\n[[registry.mirror]]\ninsecure = true",
                ["[[registry.mirror]] 1:", "location"],
            ),
            (
                "[[registry]]\nlocation = 'a.b'\n[[registry.mirror]]\nlocation = 'c.d'\npull-from-mirror = 'hunter2'",
                ["pull-from-mirror", "digest-only"],
            ),
            (
                "[[registry]]\nlocation = 'a.b'\nmirror-by-digest-only = true\n[[registry.mirror]]\nlocation = 'c.d'\npull-from-mirror = 'tag-only'",
                ["mirror-by-digest-only", "pull-from-mirror"],
            ),
            ("registry = 'hunter2'", ["registry", "list"]),
            (
                "[[registry]]\nlocation = 'a.hunter2'\n[[registry]]\nlocation = 'a.hunter2'\nblocked = true",
                ["[[registry]] 2: blocked", "same prefix"],
            ),
            (
                "[[registry]]\nlocation = 'a.hunter2'\ninsecure = true\n[[registry]]\nlocation = 'a.hunter2'",
                ["insecure", "same prefix"],
            ),
            (
                "unqualified-search-registries = 'hunter2.example'",
                ["unqualified-search-registries", "list"],
            ),
            (
                "unqualified-search-registries = ['hunter2.example/a']",
                ["unqualified-search-registries", "HOST"],
            ),
            (
                "[registries.block]\nregistries = ['hunter2.example']",
                ["registries", "version 2"],
            ),
            ("hunter2", ["file", "TOML"]),
        ] {
            let error = parse(text).unwrap_err();
            assert!(!error.contains("hunter"), "{error}");
            for part in parts {
                assert!(error.contains(part), "{text}: {error}");
            }
        }
        let error = parse("[[registry]]\nprefix = 'a.b'\nlocation = 'c.d/x:1'")
            .unwrap()
            .places("a.b/c:2")
            .unwrap_err();
        assert!(error.contains("c.d/x:1/c:2"), "{error}");
    }

    /// What is not supported is warned about, by name.
    #[test]
    fn other_keys_are_warned_about() {
        let mut warnings = Vec::new();
        let text = "short-name-mode = 'enforcing'\ncredential-helpers = []\n[aliases]\na = 'b'\n\
                    [[registry]]\nlocation = 'a.b'\nodd = 1\n[[registry.mirror]]\nlocation = 'c.d'\nstrange = 1\n\
                    [[registry]]\nlocation = 'a.b'\n[[registry]]\nprefix = 'Quay.io/a'\nblocked = true\n\
                    [[registry]]\nprefix = '*.example.com/x'\nblocked = true\n";
        Registries::parse(text.as_bytes(), "file", &mut warnings).unwrap();
        for key in [
            "short-name-mode",
            "credential-helpers",
            "aliases",
            "odd",
            "strange",
            "same prefix",
            "write \"quay.io/a\"",
        ] {
            assert!(
                warnings.iter().any(|text| text.contains(key)),
                "{key}: {warnings:?}"
            );
        }
        assert_eq!(warnings.len(), 7, "{warnings:?}");
    }
}
