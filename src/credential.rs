// SPDX-License-Identifier: Apache-2.0

//! The registry credential as clients read it: a containers `auth.json`.

use std::fmt;

use thiserror::Error;
use zeroize::Zeroizing;

use crate::json;
use crate::resource::base64;
use crate::text::Shown;

/// The most registries of one credential, to bound what is parsed.
const MAX_REGISTRIES: usize = 10_000;

/// The most members of one registry's entry. Seven are known.
const MAX_MEMBERS: usize = 100;

/// What gives an `auth.json` with the login itself in it.
const MEND: &str = "make it with `skopeo login --authfile auth.json REGISTRY`";

/// A parsed `auth.json`.
pub struct AuthFile {
    /// The registries, in the order of the file.
    pub entries: Vec<AuthEntry>,
}

/// What `auth.json` holds for one registry.
pub struct AuthEntry {
    /// The registry as the file has it: host, `host:port`, `host/path…`, or a URL.
    pub key: String,
    /// User and password, or why a client rejects the whole file because of this entry.
    pub login: Result<Login, EntryError>,
}

/// A user name and a password.
#[derive(Clone)]
pub struct Login {
    /// The user name, no secret.
    pub user: String,
    /// The password.
    pub password: Zeroizing<String>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}:[redacted]", self.user)
    }
}

/// Why a credential is not an `auth.json`.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// It is not a JSON object.
    #[error("{0}")]
    Json(json::Error),
    /// It has no `auths`.
    #[error("no member \"auths\"")]
    NoAuths,
    /// `auths` is something else than an object.
    #[error("\"auths\" is not an object of registries")]
    AuthsNotAnObject,
}

/// Why a client can't use one registry's entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum EntryError {
    /// The entry itself is something else than an object.
    #[error("the entry is not an object")]
    NotAnObject,
    /// No `auth`, which is what `credsStore` and `credHelpers` leave behind.
    #[error("no member \"auth\"")]
    NoAuth,
    /// `auth` is something else than a string.
    #[error("\"auth\" is not a string")]
    AuthNotAString,
    /// `auth` does not decode.
    #[error("\"auth\" is not base64")]
    AuthNotBase64,
    /// `auth` decodes to something else than `user:password`.
    #[error("\"auth\" is not base64 of user:password")]
    NoColon,
}

/// How an entry was found for an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The key is the image's registry and repository, or a leading part of them.
    Prefix,
    /// The key names the image's registry in another spelling.
    Host,
}

impl AuthFile {
    /// Parses the decoded bytes of a credential.
    ///
    /// # Errors
    ///
    /// Where it is not JSON with an object `auths`. Entries that clients can't use are no error
    /// here: see [`AuthEntry::login`].
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let top = json::members(text, MAX_MEMBERS).map_err(Error::Json)?;
        let auths = json::value(&top, "auths").ok_or(Error::NoAuths)?;
        let entries = json::members(auths.as_bytes(), MAX_REGISTRIES)
            .map_err(|_| Error::AuthsNotAnObject)?
            .into_iter()
            .map(|member| AuthEntry {
                login: login(member.value),
                key: member.name,
            })
            .collect();
        Ok(Self { entries })
    }

    /// The entry that a client uses for the image `<registry>/<repository>`, and how it finds it.
    ///
    /// First by `registry/repository` to the letter, cut by its last part again and again down to
    /// the registry; then by keys that name the registry otherwise: with a scheme, or as one of
    /// Docker Hub's three names.
    pub fn find(&self, registry: &str, repository: &str) -> Option<(&AuthEntry, Step)> {
        let mut prefix = format!("{registry}/{repository}");
        loop {
            // Of a key that comes twice, clients keep the last.
            let found = self.entries.iter().rev().find(|entry| entry.key == prefix);
            if let Some(entry) = found {
                return Some((entry, Step::Prefix));
            }
            let Some(cut) = prefix.rfind('/') else { break };
            prefix.truncate(cut);
        }
        let host = canonical_host(registry);
        let found = self
            .entries
            .iter()
            .find(|entry| canonical_host(host_of_key(&entry.key)) == host);
        found.map(|entry| (entry, Step::Host))
    }
}

/// The host that a key names: without a scheme, and only then without what follows the host.
fn host_of_key(key: &str) -> &str {
    let without_scheme = key
        .strip_prefix("http://")
        .or_else(|| key.strip_prefix("https://"));
    match without_scheme {
        Some(rest) => rest.split('/').next().unwrap_or(rest),
        None => key,
    }
}

/// Docker Hub's names are one.
fn canonical_host(host: &str) -> &str {
    match host {
        "docker.io" | "registry-1.docker.io" => "index.docker.io",
        other => other,
    }
}

fn login(entry: &str) -> Result<Login, EntryError> {
    let members =
        json::members(entry.as_bytes(), MAX_MEMBERS).map_err(|_| EntryError::NotAnObject)?;
    let auth = json::value(&members, "auth").ok_or(EntryError::NoAuth)?;
    let auth: Zeroizing<String> = serde_json::from_str(auth)
        .map(Zeroizing::new)
        .map_err(|_| EntryError::AuthNotAString)?;
    let decoded = base64::decode(&auth).map_err(|_| EntryError::AuthNotBase64)?;
    let decoded = std::str::from_utf8(&decoded).map_err(|_| EntryError::NoColon)?;
    let (user, password) = decoded.split_once(':').ok_or(EntryError::NoColon)?;
    Ok(Login {
        user: user.to_owned(),
        password: Zeroizing::new(password.to_owned()),
    })
}

/// What is wrong with a credential, each in a sentence without any secret; empty if clients can use
/// all of it.
pub fn lint(text: &[u8]) -> Vec<String> {
    let file = match AuthFile::parse(text) {
        Ok(file) => file,
        Err(error) => {
            return vec![format!(
                "is not an auth.json: {error}; clients reject it and pull anonymously; {MEND}"
            )];
        }
    };
    file.entries
        .iter()
        .filter_map(|entry| {
            let error = entry.login.as_ref().err()?;
            let key = Shown(&entry.key);
            Some(format!(
                "registry {key}: {error}; clients reject the whole credential for it; {MEND}"
            ))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const AUTH: &str = "dXNlcjpwYXNz"; // user:pass

    fn file(keys: &[&str]) -> AuthFile {
        let entries: Vec<_> = keys
            .iter()
            .map(|key| format!(r#""{key}":{{"auth":"{AUTH}"}}"#))
            .collect();
        let text = format!(r#"{{"auths":{{{}}}}}"#, entries.join(","));
        AuthFile::parse(text.as_bytes()).unwrap()
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
            let file = file(keys);
            let found = file.find(registry, repository);
            let found = found.map(|(entry, step)| (entry.key.as_str(), step));
            assert_eq!(found, *expected, "{keys:?} {registry}/{repository}");
        }
    }

    #[test]
    fn a_login_is_user_and_password() {
        let file = file(&["quay.io"]);
        let login = file.entries[0].login.as_ref().unwrap();
        assert_eq!(
            (login.user.as_str(), login.password.as_str()),
            ("user", "pass")
        );
        assert_eq!(format!("{login:?}"), "\"user\":[redacted]");
    }

    /// Each of these makes a client reject the whole file; the message holds no value.
    #[test]
    fn unusable_content_is_named() {
        for (text, expected) in [
            ("hunter2", "not JSON"),
            ("{}", "no member \"auths\""),
            (r#"{"auths":["hunter2"]}"#, "\"auths\" is not an object"),
            (r#"{"auths":{"q":{}}}"#, "\"q\": no member \"auth\""),
            (r#"{"auths":{"q":"hunter2"}}"#, "not an object"),
            (r#"{"auths":{"q":{"auth":1}}}"#, "not a string"),
            (r#"{"auths":{"q":{"auth":"hunter2!"}}}"#, "not base64"),
            (
                r#"{"auths":{"q":{"auth":"aHVudGVyMg=="}}}"#,
                "user:password",
            ),
        ] {
            let found = lint(text.as_bytes());
            assert_eq!(found.len(), 1, "{text}");
            assert!(found[0].contains(expected), "{}", found[0]);
            assert!(!found[0].contains("hunter"), "{}", found[0]);
        }
        assert!(lint(br#"{"auths":{}}"#).is_empty());
    }
}
