// SPDX-License-Identifier: Apache-2.0

//! The credentials of several files made into one, registry by registry.
//!
//! A kubelet does the same with the pull secrets of a pod. So a login that was baked into an image and one that the pod
//! brings both count.

use zeroize::Zeroizing;

use crate::credential::AuthFile;
use crate::credential::find::canonical_key;
use crate::resource::repair::object;

/// Several credentials as one.
pub struct Merged {
    /// An `auth.json` with the entries that count, as they stand in their files. Other members of the files are left
    /// out, since clients ignore them.
    pub text: Zeroizing<Vec<u8>>,
    /// What each of the credentials contributes, in their order.
    pub parts: Vec<Part>,
}

/// What one of the credentials contributes.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// The keys of its entries that count.
    pub served: Vec<String>,
    /// The keys of the others, each with the index of the credential that has another entry for the same registry.
    pub shadowed: Vec<(String, usize)>,
}

/// Merges the credentials, lowest precedence first: of the entries for one registry, those of the last credential count.
pub fn merge(files: &[&AuthFile<'_>]) -> Merged {
    let mut entries = Vec::new();
    let mut parts = Vec::new();
    for (at, file) in files.iter().enumerate() {
        let mut part = Part::default();
        for entry in &file.entries {
            let key = canonical_key(&entry.key);
            let has_it = |later: &&AuthFile<'_>| {
                let mut keys = later.entries.iter();
                keys.any(|other| canonical_key(&other.key) == key)
            };
            match files[at + 1..].iter().rposition(has_it) {
                Some(later) => part.shadowed.push((entry.key.clone(), at + 1 + later)),
                None => {
                    part.served.push(entry.key.clone());
                    entries.push((&*entry.key, entry.value));
                }
            }
        }
        parts.push(part);
    }
    let auths = object(entries.into_iter());
    let text = object(std::iter::once(("auths", auths.as_str())));
    Merged {
        text: Zeroizing::new(text.as_bytes().to_vec()),
        parts,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    /// An `auth.json` with an entry for each key, whose user is `user`.
    fn text(user: &str, keys: &[&str]) -> String {
        let auth = STANDARD.encode(format!("{user}:p"));
        let entries: Vec<_> = keys
            .iter()
            .map(|key| format!(r#""{key}": {{"auth":"{auth}"}}"#))
            .collect();
        format!(r#"{{"auths":{{{}}},"credsStore":"x"}}"#, entries.join(","))
    }

    fn merged(texts: &[String]) -> (String, Vec<Part>) {
        let files: Vec<_> = texts
            .iter()
            .map(|text| AuthFile::parse(text.as_bytes()).unwrap())
            .collect();
        let merged = merge(&files.iter().collect::<Vec<_>>());
        (
            String::from_utf8(merged.text.to_vec()).unwrap(),
            merged.parts,
        )
    }

    /// The entries of all credentials are there as they stand in them; of one registry, in whatever spelling, only the
    /// last credential's.
    #[test]
    fn the_last_credential_counts_for_each_registry() {
        let [a, b] = ["YTpw", "Yjpw"];
        let cases: &[(&[&str], &[&str], String)] = &[
            (
                &["q.io"],
                &["r.io"],
                format!(r#""q.io":{{"auth":"{a}"}},"r.io":{{"auth":"{b}"}}"#),
            ),
            (&["q.io"], &["q.io"], format!(r#""q.io":{{"auth":"{b}"}}"#)),
            (
                &["q.io", "q.io/org"],
                &["q.io"],
                format!(r#""q.io/org":{{"auth":"{a}"}},"q.io":{{"auth":"{b}"}}"#),
            ),
            (
                &["docker.io", "index.docker.io"],
                &["https://index.docker.io/v1/"],
                format!(r#""https://index.docker.io/v1/":{{"auth":"{b}"}}"#),
            ),
            (
                &["https://q.io/v2/", "q.io:443"],
                &["q.io"],
                format!(r#""q.io:443":{{"auth":"{a}"}},"q.io":{{"auth":"{b}"}}"#),
            ),
        ];
        for (low, high, expected) in cases {
            let (text, parts) = merged(&[text("a", low), text("b", high)]);
            assert_eq!(text, format!(r#"{{"auths":{{{expected}}}}}"#));
            assert_eq!(
                parts[0].served.len() + parts[0].shadowed.len(),
                low.len(),
                "{parts:?}"
            );
            assert_eq!(parts[1].served, *high);
        }
        let three = ["a", "b", "c"].map(|user| text(user, &["q.io"]));
        let (_, parts) = merged(&three);
        assert_eq!(parts[0].shadowed, [("q.io".to_owned(), 2)]);
    }

    /// A key of the registry q.io, or of another.
    fn key() -> impl Strategy<Value = String> {
        "(https://)?q\\.io(/(a|b)){0,2}|r\\.io"
    }

    proptest! {
        /// For any image, a client finds in the merged credential the most specific entry that any of them has for it, and
        /// of equally specific ones the last credential's.
        #[test]
        fn a_client_finds_the_most_specific_entry_of_all(
            low in proptest::collection::vec(key(), 0..4),
            high in proptest::collection::vec(key(), 0..4),
            repository in "(a|b)(/(a|b)){0,2}",
        ) {
            let texts = [("a", &low), ("b", &high)]
                .map(|(user, keys)| text(user, &keys.iter().map(String::as_str).collect::<Vec<_>>()));
            let files = texts.each_ref().map(|text| AuthFile::parse(text.as_bytes()).unwrap());
            let merged = merge(&[&files[0], &files[1]]);
            let merged = AuthFile::parse(&merged.text).unwrap();
            let find = |file: &AuthFile<'_>| {
                let (entry, _) = file.find("q.io", &repository)?;
                // Only keys with a path are more specific than others.
                let path = canonical_key(&entry.key);
                let specific = if path.contains('/') { path.len() } else { 0 };
                Some((specific, entry.login.clone().unwrap().user))
            };
            prop_assert_eq!(find(&merged), find(&files[0]).max(find(&files[1])));
        }
    }
}
