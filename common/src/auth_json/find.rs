// SPDX-License-Identifier: Apache-2.0

//! Which entry a client uses for an image.

use crate::auth_json::{AuthEntry, AuthFile};

/// How an entry was found for an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The key is the image's registry and repository, or a leading part of them.
    Prefix,
    /// The key names the image's registry in another spelling.
    Host,
}

impl AuthFile<'_> {
    /// The entry that a client uses for the image `<registry>/<repository>`, and how it finds it: see [`find_key`].
    pub fn find(&self, registry: &str, repository: &str) -> Option<(&AuthEntry<'_>, Step)> {
        let keys: Vec<_> = self.entries.iter().map(|entry| &*entry.key).collect();
        let (at, step) = find_key(&keys, registry, repository)?;
        Some((self.entries.get(at)?, step))
    }
}

/// Which of the keys of an `auth.json` a client uses for the image `<registry>/<repository>`, and how it finds it.
///
/// First by `registry/repository` to the letter, cut by its last part again and again down to
/// the registry; then by keys that name the registry otherwise: with a scheme, or as one of
/// Docker Hub's three names.
pub fn find_key(keys: &[&str], registry: &str, repository: &str) -> Option<(usize, Step)> {
    let mut prefix = format!("{registry}/{repository}");
    loop {
        // Of a key that comes twice, clients keep the last.
        if let Some(at) = keys.iter().rposition(|key| *key == prefix) {
            return Some((at, Step::Prefix));
        }
        let Some(cut) = prefix.rfind('/') else { break };
        prefix.truncate(cut);
    }
    let host = canonical_host(registry);
    let at = keys
        .iter()
        .position(|key| canonical_host(host_of_key(key)) == host)?;
    Some((at, Step::Host))
}

/// What a key is for, in one spelling: keys of the same registry, with or without a scheme or by one of Docker Hub's
/// names, give the same text. A key with a path and no scheme is found only to the letter.
pub fn canonical_key(key: &str) -> &str {
    canonical_host(host_of_key(key))
}

/// The host that a key names: without a scheme, and only then without what follows the host.
pub fn host_of_key(key: &str) -> &str {
    let without_scheme = key
        .strip_prefix("http://")
        .or_else(|| key.strip_prefix("https://"));
    match without_scheme {
        Some(rest) => rest.split('/').next().unwrap_or(rest),
        None => key,
    }
}

/// Docker Hub's names are one.
pub fn canonical_host(host: &str) -> &str {
    match host {
        "docker.io" | "registry-1.docker.io" => "index.docker.io",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    /// An `auth.json` with an entry for each key.
    fn text(keys: &[&str]) -> Vec<u8> {
        let entry = |key: &&str| format!(r#""{key}":{{"auth":"dXNlcjpwYXNz"}}"#);
        let entries: Vec<_> = keys.iter().map(entry).collect();
        format!(r#"{{"auths":{{{}}}}}"#, entries.join(",")).into_bytes()
    }

    /// The look-up of the released clients, case by case.
    #[test]
    fn an_image_finds_its_entry() {
        type Case<'a> = (&'a [&'a str], &'a str, &'a str, Option<(&'a str, Step)>);
        let cases: &[Case<'_>] = &[
            (
                &["quay.io"],
                "quay.io",
                "org/app",
                Some(("quay.io", Step::Prefix)),
            ),
            (
                &["quay.io", "quay.io/org", "quay.io/org/app"],
                "quay.io",
                "org/app",
                Some(("quay.io/org/app", Step::Prefix)),
            ),
            (
                &["quay.io", "quay.io/org"],
                "quay.io",
                "org/app",
                Some(("quay.io/org", Step::Prefix)),
            ),
            (&["quay.io/or"], "quay.io", "org/app", None),
            (&["quay.io/"], "quay.io", "org/app", None),
            (&["quay.io:443"], "quay.io", "org/app", None),
            (
                &["127.0.0.1:5000"],
                "127.0.0.1:5000",
                "a",
                Some(("127.0.0.1:5000", Step::Prefix)),
            ),
            (
                &["https://quay.io/v1/"],
                "quay.io",
                "org/app",
                Some(("https://quay.io/v1/", Step::Host)),
            ),
            (
                &["https://index.docker.io/v1/"],
                "docker.io",
                "library/alpine",
                Some(("https://index.docker.io/v1/", Step::Host)),
            ),
            (
                &["index.docker.io/v1/"],
                "docker.io",
                "library/alpine",
                None,
            ),
            (
                &["registry-1.docker.io"],
                "docker.io",
                "library/alpine",
                Some(("registry-1.docker.io", Step::Host)),
            ),
            (
                &["docker.io/library"],
                "docker.io",
                "library/alpine",
                Some(("docker.io/library", Step::Prefix)),
            ),
            (&[], "quay.io", "org/app", None),
        ];
        for (keys, registry, repository, expected) in cases {
            let text = text(keys);
            let file = AuthFile::parse(&text).unwrap();
            let found = file.find(registry, repository);
            let found = found.map(|(entry, step)| (entry.key.as_str(), step));
            assert_eq!(found, *expected, "{keys:?} {registry}/{repository}");
        }
    }

    /// The key that is found for `registry/repository` among `keys`.
    fn found(keys: &[&str], registry: &str, repository: &str) -> Option<(String, Step)> {
        let text = text(keys);
        let file = AuthFile::parse(&text).unwrap();
        let (entry, step) = file.find(registry, repository)?;
        Some((entry.key.clone(), step))
    }

    proptest! {
        /// Of all leading parts that are keys the longest wins, whatever their order.
        #[test]
        fn the_longest_prefix_wins(parts in proptest::collection::vec("[a-z]{1,8}", 1..5),
                                   chosen in proptest::collection::btree_set(0usize..5, 1..5),
                                   reversed: bool) {
            let repository = parts.join("/");
            let prefix = |length: &usize| {
                let mut path = vec!["registry.example:5000"];
                path.extend(parts.iter().take(*length).map(String::as_str));
                path.join("/")
            };
            let lengths: std::collections::BTreeSet<_> =
                chosen.iter().map(|length| *length.min(&parts.len())).collect();
            let longest = prefix(lengths.last().unwrap());
            let mut keys: Vec<_> = lengths.iter().map(prefix).collect();
            if reversed { keys.reverse(); }
            let keys: Vec<_> = keys.iter().map(String::as_str).collect();
            prop_assert_eq!(found(&keys, "registry.example:5000", &repository), Some((longest, Step::Prefix)));
        }

        /// A port is a part of the host: with another, or none, nothing is found.
        #[test]
        fn the_port_matters(host in "[a-z]{1,8}\\.[a-z]{2,3}", port in 1u16..65535, other in 1u16..65535) {
            prop_assume!(port != other);
            let key = format!("{host}:{port}");
            let expected = Some((key.clone(), Step::Prefix));
            prop_assert_eq!(found(&[&key], &key, "a"), expected);
            prop_assert_eq!(found(&[&key], &host, "a"), None);
            prop_assert_eq!(found(&[&key], &format!("{host}:{other}"), "a"), None);
        }

        /// Docker Hub is one registry under each of its names, with a scheme or without.
        #[test]
        fn docker_hub_is_one(host in "docker\\.io|index\\.docker\\.io|registry-1\\.docker\\.io",
                             scheme in "(https?://)?", rest in "(/v1/|/v2/|/|)") {
            let rest = if scheme.is_empty() { "" } else { &rest };
            let key = format!("{scheme}{host}{rest}");
            let found = found(&[&key], "docker.io", "library/alpine");
            prop_assert_eq!(found.map(|(key, _)| key), Some(key));
        }
    }
}
