// SPDX-License-Identifier: Apache-2.0

//! The registry credential as clients read it: a containers `auth.json`.

pub mod find;
pub mod image;
pub mod repair;
pub mod served;

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::json::{self, Member, Position};
use crate::resource::base64 as lenient;

/// The most registries of one credential, to bound what is parsed.
const MAX_REGISTRIES: usize = 10_000;

/// The most members of one registry's entry. Seven are known.
const MAX_MEMBERS: usize = 100;

/// What gives an `auth.json` with the login itself in it.
pub const FIX: &str = "make it with `skopeo login --authfile auth.json REGISTRY`";

/// A parsed `auth.json`.
pub struct AuthFile<'a> {
    /// The registries, in the order of the file.
    pub entries: Vec<AuthEntry<'a>>,
    /// All members of the top level, `auths` among them.
    members: Vec<Member<'a>>,
}

/// What `auth.json` holds for one registry.
pub struct AuthEntry<'a> {
    /// The registry as the file has it: host, `host:port`, `host/path…`, or a URL.
    pub key: String,
    /// User and password, or why a client rejects the whole file because of this entry.
    pub login: Result<Login, EntryError>,
    /// Where the entry begins.
    pub position: Position,
    /// Whether it has an `identitytoken`, which clients ignore.
    pub has_identity_token: bool,
    /// The entry as it stands in the file.
    value: &'a str,
}

/// A user name and a password.
#[derive(Clone)]
pub struct Login {
    /// The user name, no secret.
    pub user: String,
    /// The password.
    pub password: Zeroizing<String>,
}

impl Login {
    /// The two as clients want them: base64 of `user:password`.
    pub fn encode(&self) -> Zeroizing<String> {
        let text = Zeroizing::new([&self.user, ":", &self.password].concat());
        Zeroizing::new(STANDARD.encode(text.as_bytes()))
    }
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
    /// It has more registries than are looked at.
    #[error("\"auths\" has more than {MAX_REGISTRIES} registries")]
    TooManyRegistries,
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
    /// `auth` comes more than once.
    #[error("\"auth\" comes more than once")]
    AuthTwice,
    /// `auth` is something else than a string.
    #[error("\"auth\" is not a string")]
    AuthNotAString,
    /// `auth` does not decode.
    #[error("\"auth\" is not base64")]
    AuthNotBase64,
    /// `auth` decodes where white space and missing padding are let pass, which clients don't.
    #[error("\"auth\" is base64 with white space or without its padding")]
    AuthLoose,
    /// `auth` decodes to something else than `user:password`.
    #[error("\"auth\" is not base64 of user:password")]
    NoColon,
}

impl EntryError {
    /// The code of this problem.
    pub fn code(self) -> &'static str {
        match self {
            Self::NotAnObject => "entry-not-an-object",
            Self::NoAuth => "auth-missing",
            Self::AuthTwice => "auth-twice",
            Self::AuthNotAString => "auth-not-a-string",
            Self::AuthNotBase64 => "auth-base64",
            Self::AuthLoose => "auth-loose",
            Self::NoColon => "auth-form",
        }
    }
}

impl<'a> AuthFile<'a> {
    /// Parses the decoded bytes of a credential.
    ///
    /// # Errors
    ///
    /// Where it is not JSON with an object `auths`. Entries that clients can't use are no error
    /// here: see [`AuthEntry::login`].
    pub fn parse(text: &'a [u8]) -> Result<Self, Error> {
        let members = json::members(text, MAX_MEMBERS).map_err(Error::Json)?;
        let auths = members.iter().rev().find(|member| member.name == "auths");
        let auths = auths.ok_or(Error::NoAuths)?;
        let registries = json::members(auths.value.as_bytes(), MAX_REGISTRIES);
        let registries = registries.map_err(|error| match error.what {
            json::Fault::TooManyMembers(_) => Error::TooManyRegistries,
            _ => Error::AuthsNotAnObject,
        })?;
        let entries = registries.into_iter().map(|member| AuthEntry {
            login: login(member.value),
            has_identity_token: has_identity_token(member.value),
            position: member.position.within(auths.position),
            value: member.value,
            key: member.name.into_owned(),
        });
        Ok(Self {
            entries: entries.collect(),
            members,
        })
    }

    /// Whether a client takes the file, rather than reject all of it for one entry.
    pub fn is_readable(&self) -> bool {
        !self.has_auths_twice() && self.entries.iter().all(|entry| entry.login.is_ok())
    }

    /// Whether `auths` comes more than once, for which clients reject the file. Here the last counts.
    pub fn has_auths_twice(&self) -> bool {
        self.members
            .iter()
            .filter(|member| member.name == "auths")
            .count()
            > 1
    }

    /// Whether the file names credential stores, which clients ignore.
    pub fn names_credential_stores(&self) -> bool {
        let stores = ["credsStore", "credHelpers"];
        self.members
            .iter()
            .any(|member| stores.contains(&&*member.name))
    }
}

/// The login of an entry, as strictly as clients read it.
fn login(entry: &str) -> Result<Login, EntryError> {
    let members =
        json::members(entry.as_bytes(), MAX_MEMBERS).map_err(|_| EntryError::NotAnObject)?;
    let auths = members.iter().filter(|member| member.name == "auth");
    if auths.count() > 1 {
        return Err(EntryError::AuthTwice);
    }
    let auth = json::value(&members, "auth").ok_or(EntryError::NoAuth)?;
    let auth = secret_string(auth).ok_or(EntryError::AuthNotAString)?;
    if STANDARD
        .decode(auth.as_bytes())
        .map(Zeroizing::new)
        .is_err()
    {
        return Err(match lenient::decode(&auth) {
            Ok(_) => EntryError::AuthLoose,
            Err(_) => EntryError::AuthNotBase64,
        });
    }
    login_of_auth(&auth).ok_or(EntryError::NoColon)
}

/// The login that `auth` encodes, white space and missing padding let pass.
fn login_of_auth(auth: &str) -> Option<Login> {
    let decoded = lenient::decode(auth).ok()?;
    let (user, password) = std::str::from_utf8(&decoded).ok()?.split_once(':')?;
    Some(Login {
        user: user.to_owned(),
        password: Zeroizing::new(password.to_owned()),
    })
}

fn has_identity_token(entry: &str) -> bool {
    let members = json::members(entry.as_bytes(), MAX_MEMBERS).unwrap_or_default();
    json::value(&members, "identitytoken").is_some_and(|token| token != r#""""#)
}

/// A JSON string unescaped.
fn secret_string(value: &str) -> Option<Zeroizing<String>> {
    serde_json::from_str(value).map(Zeroizing::new).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_login_is_user_and_password() {
        let file = AuthFile::parse(br#"{"auths":{"quay.io":{"auth":"dXNlcjpwYXNz"}}}"#).unwrap();
        let login = file.entries[0].login.as_ref().unwrap();
        assert_eq!(
            (login.user.as_str(), login.password.as_str()),
            ("user", "pass")
        );
        assert_eq!(format!("{login:?}"), "\"user\":[redacted]");
        assert_eq!(*login.encode(), "dXNlcjpwYXNz");
    }

    /// Each of these makes a client reject the whole file.
    #[test]
    fn unusable_entries_are_told_apart() {
        for (entry, expected) in [
            ("{}", EntryError::NoAuth),
            (r#""hunter2""#, EntryError::NotAnObject),
            (r#"{"auth":1}"#, EntryError::AuthNotAString),
            (r#"{"auth":"dTpw","auth":"dTpw"}"#, EntryError::AuthTwice),
            (r#"{"auth":"hunter2!"}"#, EntryError::AuthNotBase64),
            (r#"{"auth":"dXNlcjpwYXM"}"#, EntryError::AuthLoose),
            (r#"{"auth":"dXNl\ncjpw"}"#, EntryError::AuthLoose),
            (r#"{"auth":"aHVudGVyMg=="}"#, EntryError::NoColon),
        ] {
            let text = format!(r#"{{"auths":{{"q":{entry}}}}}"#);
            let file = AuthFile::parse(text.as_bytes()).unwrap();
            assert_eq!(file.entries[0].login.as_ref().unwrap_err(), &expected);
            assert!(!file.is_readable());
        }
        for (text, expected) in [
            ("{}", Error::NoAuths),
            (r#"{"auths":["hunter2"]}"#, Error::AuthsNotAnObject),
        ] {
            assert_eq!(AuthFile::parse(text.as_bytes()).err(), Some(expected));
        }
    }
}
