// SPDX-License-Identifier: Apache-2.0

//! Which registries an image comes from, containers-registries.conf(5), and where signatures are,
//! containers-registries.d(5): as far as image-rs, which pulls images in a VM, reads them.

use serde_json::Value;

use super::keys::Keys;
use crate::resource::problem::{Problem, Severity};
use crate::text::{EntryName, RegistryName};
use crate::{toml, yaml};

/// The largest file that is read: real ones have a few KiB.
const MAX_BYTES: usize = 1 << 20;

/// What image-rs reads.
const KNOWN: &[&str] = &["registry", "unqualified-search-registries"];
const KNOWN_OF_REGISTRY: &[&str] = &["blocked", "insecure", "location", "mirror", "prefix"];
const KNOWN_OF_MIRROR: &[&str] = &["insecure", "location"];

/// What skopeo, podman and containerd read besides.
const IGNORED: &[&str] = &[
    "additional-layer-store-auth-helper",
    "aliases",
    "credential-helpers",
    "short-name-mode",
];
const IGNORED_OF_REGISTRY: &[&str] = &["mirror-by-digest-only"];
const IGNORED_OF_MIRROR: &[&str] = &["pull-from-mirror"];

/// The code of what can't be right.
const CODE: &str = "registries";

/// How many registries of a file are looked into: people have a handful.
const MAX_REGISTRIES: usize = 1_000;

/// What is wrong with a containers-registries.conf.
pub fn registries(text: &str) -> Vec<Problem> {
    match toml::table(text.as_bytes(), MAX_BYTES) {
        Ok(table) => registries_table(&table.into_iter().collect(), &Keys::of(text), ""),
        Err(error) => vec![unread(&error, CODE, "every pull fails")],
    }
}

/// A finding that says why a TOML file is not read. Over a limit of this program it may be right.
pub(super) fn unread(error: &toml::Error, code: &'static str, meaning: &str) -> Problem {
    let (severity, what, position) = match error {
        toml::Error::Limit => {
            let what = format!("is {error} for this check, which did not look into it");
            (Severity::Note, what, None)
        }
        toml::Error::NotUtf8 => (Severity::Error, format!("is {error}; {meaning}"), None),
        toml::Error::Syntax(position) => {
            let what = "can't be parsed as TOML (dates are not supported)";
            (Severity::Error, format!("{what}; {meaning}"), *position)
        }
    };
    let fix = match severity {
        Severity::Note => "make it smaller, or check it by eye",
        _ => "correct it there; strings need quotes, and a string of several lines three of them",
    };
    let mut problem = Problem::of_file(severity, code, what, fix);
    problem.position = position;
    problem
}

/// The same of a table that has been read; `within` is the name of that table in its file, with a dot, or nothing.
pub(super) fn registries_table(
    table: &serde_json::Map<String, Value>,
    keys: &Keys<'_>,
    within: &str,
) -> Vec<Problem> {
    let mut found = Vec::new();
    if table.contains_key("registries") {
        found.push(
            Problem::of_file(
                Severity::Error,
                "registries-version",
                "is version 1 of the format; image-rs reads version 2 alone, and applies nothing of this",
                "write unqualified-search-registries = [\"…\"] for [registries.search], and a [[registry]] with \
                 location and insecure or blocked for each of the others",
            )
            .about_entry(format!("{within}registries"), keys.header("registries")),
        );
    }
    let known = [KNOWN, &["registries"]].concat();
    unknown(table, &known, IGNORED, within, keys, "image-rs", &mut found);
    if let Some(list) = table.get("unqualified-search-registries") {
        let key = "unqualified-search-registries";
        let mut add = |severity, what: &str, fix: &str| {
            let problem = Problem::of_file(severity, CODE, what, fix);
            found.push(problem.about_entry(format!("{within}{key}"), keys.position(key)));
        };
        match strings(list) {
            None => add(
                Severity::Error,
                "is not a list of strings; image-rs rejects the whole configuration, and every pull fails",
                "write [\"docker.io\"]",
            ),
            Some(list) if list.is_empty() => add(
                Severity::Error,
                "is empty; image-rs takes its registries for docker.io's too, and every pull from docker.io fails",
                "write [\"docker.io\"], or leave the line out",
            ),
            Some(list) if !list.contains(&"docker.io") => add(
                Severity::Warning,
                "leaves out docker.io; image-rs asks these registries even for an image that is named docker.io/…",
                "add \"docker.io\" to the list",
            ),
            Some(_) => {}
        }
    }
    match table.get("registry") {
        None => {}
        Some(Value::Array(list)) => {
            for (index, registry) in list.iter().take(MAX_REGISTRIES).enumerate() {
                let place = format!("{within}registry {}", index + 1);
                check_registry(registry, &place, keys, &mut found);
            }
            if list.len() > MAX_REGISTRIES {
                let what = format!("has more than {MAX_REGISTRIES} entries; the others were not looked into");
                let fix = "split the file, to check the rest";
                let note = Problem::of_file(Severity::Note, CODE, what, fix);
                found.push(note.about_entry(format!("{within}registry"), None));
            }
        }
        Some(_) => found.push(
            Problem::of_file(
                Severity::Error,
                CODE,
                "is not a list of tables; image-rs rejects the whole configuration, and every pull fails",
                "write [[registry]] with two brackets",
            )
            .about_entry(format!("{within}registry"), keys.header("registry")),
        ),
    }
    found
}

fn check_registry(registry: &Value, place: &str, keys: &Keys<'_>, found: &mut Vec<Problem>) {
    const REJECTED: &str = "image-rs rejects the whole configuration, and every pull fails";
    let mut add = |severity, what: String, fix: &str, position| {
        let problem = Problem::of_file(severity, CODE, what, fix);
        found.push(problem.about_entry(place, position));
    };
    let Value::Object(table) = registry else {
        return add(
            Severity::Error,
            format!("is not a table; {REJECTED}"),
            "write a [[registry]] with prefix and location",
            None,
        );
    };
    for key in ["blocked", "insecure"] {
        if table.get(key).is_some_and(|value| !value.is_boolean()) {
            add(
                Severity::Error,
                format!("has a value of {key} that is neither true nor false; {REJECTED}"),
                "write true or false, without quotes",
                keys.position(key),
            );
        }
    }
    for key in ["prefix", "location"] {
        if table.get(key).is_some_and(|value| !value.is_string()) {
            add(
                Severity::Error,
                format!("has a {key} that is not a string; {REJECTED}"),
                "write it in quotes",
                keys.position(key),
            );
        }
    }
    let text = |key: &str| table.get(key).and_then(Value::as_str).unwrap_or_default();
    let (prefix, location) = (text("prefix"), text("location"));
    if prefix.is_empty() && location.is_empty() {
        add(
            Severity::Error,
            format!("has neither prefix nor location; {REJECTED}"),
            "write the prefix of the images that it is for, such as prefix = \"quay.io\"",
            None,
        );
    } else if prefix.starts_with("*.") && location.is_empty() && !prefix.contains("://") {
        add(
            Severity::Error,
            format!("has a prefix with a wildcard and no location; {REJECTED}"),
            "write the location that takes the place of the prefix",
            keys.position("prefix"),
        );
    }
    let scope = if prefix.is_empty() { location } else { prefix };
    let rest = scope.strip_prefix("*.").unwrap_or(scope);
    if !scope.is_empty() && (rest.contains("://") || rest.contains('*') || rest.ends_with('/')) {
        add(
            Severity::Warning,
            format!(
                "is for {}, which matches no image: image-rs compares it with the name of the image, such as \
                 quay.io/org/app, and a wildcard may stand only at the start (*.example.com)",
                RegistryName(scope)
            ),
            "write host[:port][/path] without a scheme and without a slash at the end",
            keys.position(if prefix.is_empty() {
                "location"
            } else {
                "prefix"
            }),
        );
    }
    let mut locations = vec![location];
    match table.get("mirror") {
        None => {}
        Some(Value::Array(mirrors)) => {
            for mirror in mirrors {
                let location = mirror.get("location").and_then(Value::as_str);
                let flag = mirror.get("insecure");
                if location.is_none_or(str::is_empty) || flag.is_some_and(|flag| !flag.is_boolean())
                {
                    add(
                        Severity::Error,
                        format!(
                            "has a mirror without a location, or with an insecure that is neither true nor \
                             false; {REJECTED}"
                        ),
                        "write [[registry.mirror]] and location = \"host[:port][/path]\" below it",
                        None,
                    );
                }
                locations.extend(location);
            }
        }
        Some(_) => add(
            Severity::Error,
            format!("has a mirror that is not a list of tables; {REJECTED}"),
            "write [[registry.mirror]] with two brackets",
            keys.header("registry.mirror"),
        ),
    }
    for location in locations {
        if location.contains("://") || location.ends_with('/') {
            add(
                Severity::Error,
                format!(
                    "has the location {}, of which image-rs can make no name of an image; pulls that it is for \
                     fail",
                    RegistryName(location)
                ),
                "write host[:port][/path] without a scheme and without a slash at the end; insecure = true is \
                 for plain HTTP",
                None,
            );
        }
    }
    unknown(
        table,
        KNOWN_OF_REGISTRY,
        IGNORED_OF_REGISTRY,
        &format!("{place} "),
        keys,
        "image-rs",
        found,
    );
    for mirror in table
        .get("mirror")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
    {
        if let Value::Object(mirror) = mirror {
            unknown(
                mirror,
                KNOWN_OF_MIRROR,
                IGNORED_OF_MIRROR,
                &format!("{place} mirror "),
                keys,
                "image-rs",
                found,
            );
        }
    }
}

/// The strings of a list, where it has nothing else.
pub(super) fn strings(value: &Value) -> Option<Vec<&str>> {
    value.as_array()?.iter().map(Value::as_str).collect()
}

/// The most unknown keys of one table that are named.
const MAX_UNKNOWN: usize = 20;

/// A warning for each key that `reader` does not use: those of `ignored` are right elsewhere.
pub(super) fn unknown(
    table: &serde_json::Map<String, Value>,
    known: &[&str],
    ignored: &[&str],
    within: &str,
    keys: &Keys<'_>,
    reader: &str,
    found: &mut Vec<Problem>,
) {
    let keys_of_table = table.keys().filter(|key| !known.contains(&key.as_str()));
    for key in keys_of_table.take(MAX_UNKNOWN) {
        let plain = |key: &str| key.to_ascii_lowercase().replace(['-', '_'], "");
        let alike = known.iter().find(|known| plain(known) == plain(key));
        let (what, fix) = match (alike, ignored.contains(&key.as_str())) {
            (Some(known), _) => (
                format!("is a key that {reader} does not know, and ignores"),
                format!("write {known}"),
            ),
            (None, true) => (
                format!("is ignored by {reader}, though other programs use it"),
                "don't rely on it in a VM".to_owned(),
            ),
            (None, false) => (
                format!("is a key that {reader} does not know, and ignores"),
                "look for a spelling mistake, or for a key below the wrong table; else leave it out".to_owned(),
            ),
        };
        let problem = Problem::of_file(Severity::Warning, "unknown-key", what, fix);
        let position = keys.position(key).or_else(|| keys.header(key));
        found.push(problem.about_entry(format!("{within}{key}"), position));
    }
}

/// What is wrong with a sigstore configuration (containers-registries.d).
pub fn sigstore(text: &str) -> Vec<Problem> {
    const CODE: &str = "sigstore-config";
    const REJECTED: &str = "image-rs rejects the whole configuration, and every image that needs a signature by \
                            signedBy is refused";
    const WRITE: &str =
        "write a directory of the VM, such as sigstore: file:///etc/containers/sigstore";
    let source = yaml::Source {
        lines_before: Some(0),
        is_template: false,
    };
    let whole = |severity, what: String, fix: &str| Problem::of_file(severity, CODE, what, fix);
    let root = match yaml::load(text, source) {
        Ok(root) => root,
        Err(error) if error.limit => {
            let what = format!("was not read: {}", error.what);
            return vec![whole(Severity::Note, what, "make it smaller")];
        }
        Err(error) => {
            let what = format!("can't be parsed as YAML: {}; {REJECTED}", error.what);
            let mut problem = whole(Severity::Error, what, "correct it there");
            problem.position = error.position;
            return vec![problem];
        }
    };
    let members = match root.as_ref().map(|root| &root.value) {
        Some(yaml::Value::Mapping(members)) => members.as_slice(),
        _ => &[],
    };
    let mut found = Vec::new();
    let mut entries = Vec::new();
    for (name, value) in members {
        match (name.text(), &value.value) {
            (Some("default-docker"), yaml::Value::Mapping(_)) => {
                entries.push(("default-docker".to_owned(), value));
            }
            (Some("docker"), yaml::Value::Mapping(scopes)) => entries.extend(
                scopes
                    .iter()
                    .map(|(scope, value)| (scope.text().unwrap_or_default().to_owned(), value)),
            ),
            (Some(name @ ("docker" | "default-docker")), _) if value.is_null() => found.push(
                whole(
                    Severity::Warning,
                    "is empty; image-rs finds no signatures by it".to_owned(),
                    WRITE,
                )
                .about_entry(RegistryName(name).plain(), value.position),
            ),
            (Some(name @ ("docker" | "default-docker")), _) => found.push(
                whole(
                    Severity::Error,
                    format!("is not a mapping; {REJECTED}"),
                    "write it as containers-registries.d(5) has it",
                )
                .about_entry(RegistryName(name).plain(), value.position),
            ),
            (key, _) => found.push(
                Problem::of_file(
                    Severity::Warning,
                    "unknown-key",
                    "is a key that image-rs does not know, and ignores",
                    "write \"docker:\" or \"default-docker:\"",
                )
                .about_entry(RegistryName(key.unwrap_or("?")).plain(), name.position),
            ),
        }
    }
    if !members
        .iter()
        .any(|(name, _)| matches!(name.text(), Some("docker" | "default-docker")))
    {
        found.push(whole(
            Severity::Warning,
            "has neither \"docker:\" nor \"default-docker:\"; image-rs finds no signatures by it"
                .to_owned(),
            "write it as containers-registries.d(5) has it",
        ));
    }
    for (scope, entry) in entries {
        let mut add = |severity, code, what: String, fix: &str, position| {
            let problem = Problem::of_file(severity, code, what, fix);
            found.push(problem.about_entry(RegistryName(&scope).plain(), position));
        };
        match entry.get("sigstore") {
            Some(node) => match node.text() {
                Some(url) if url.starts_with("file:///") => {}
                Some(url) if url.starts_with("http://") || url.starts_with("https://") => add(
                    Severity::Error,
                    CODE,
                    "has signatures on a web server; image-rs reads them from files alone, and refuses images \
                     of this scope"
                        .to_owned(),
                    WRITE,
                    node.position,
                ),
                _ => add(
                    Severity::Error,
                    CODE,
                    "has a sigstore that is no file:/// URL; image-rs refuses images of this scope".to_owned(),
                    WRITE,
                    node.position,
                ),
            },
            None => {
                let what = match entry.get("lookaside") {
                    Some(_) => "has \"lookaside\" and no \"sigstore\", which is the one that image-rs reads",
                    None => "has no \"sigstore\"",
                };
                add(
                    Severity::Error,
                    CODE,
                    format!("{what}; {REJECTED}"),
                    "write the older name: sigstore: file:///…",
                    entry.position,
                );
            }
        }
        if let Some(node) = entry.get("use-sigstore-attachments") {
            add(
                Severity::Note,
                "unknown-key",
                "has \"use-sigstore-attachments\", which image-rs ignores: whether it looks for a signature by \
                 cosign depends on the policy alone"
                    .to_owned(),
                "no change is needed for a VM",
                node.position,
            );
        }
        if let yaml::Value::Mapping(members) = &entry.value {
            let known = [
                "sigstore",
                "lookaside",
                "sigstore-staging",
                "lookaside-staging",
                "use-sigstore-attachments",
            ];
            for (name, _) in members {
                if let Some(name_text) = name.text().filter(|name| !known.contains(name)) {
                    add(
                        Severity::Warning,
                        "unknown-key",
                        format!(
                            "has the key {}, which image-rs does not know, and ignores",
                            EntryName(name_text)
                        ),
                        "look for a spelling mistake",
                        name.position,
                    );
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests;
