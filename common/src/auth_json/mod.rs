// SPDX-License-Identifier: Apache-2.0

//! The registry credential as clients read it: a containers `auth.json`.

pub mod find;
pub mod image;

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::base64::{self as lenient, Alphabet};
use crate::json::{self, Member, Position};

/// The most registries of one credential, to bound what is parsed.
const MAX_REGISTRIES: usize = 10_000;

/// The most members of one registry's entry. Seven are known.
pub const MAX_MEMBERS: usize = 100;

/// A parsed `auth.json`.
pub struct AuthFile<'a> {
    /// The registries, in the order of the file.
    pub entries: Vec<AuthEntry<'a>>,
    /// All members of the top level, `auths` among them.
    pub members: Vec<Member<'a>>,
    /// Whether it is the older `.dockercfg`, whose members are the registries.
    is_dockercfg: bool,
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
    /// The entry as it stands in the file, a secret.
    pub value: &'a str,
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

impl Login {
    /// Whether the password is a key file of Google Cloud: JSON, or its base64, whose white space at the end the
    /// registry skips.
    pub fn is_key_file(&self) -> bool {
        let is_object = |text: &[u8]| json::members(text, MAX_MEMBERS).is_ok();
        match self.user.as_str() {
            "_json_key" => is_object(self.password.as_bytes()),
            "_json_key_base64" => {
                lenient::decode(&self.password).is_ok_and(|decoded| is_object(&decoded))
            }
            _ => false,
        }
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
    /// `auth` is a login in base64 that clients don't read.
    #[error("\"auth\" is base64 {0}")]
    AuthLoose(Loose),
    /// `auth` is the login itself: a colon is in no alphabet of base64.
    #[error("\"auth\" is user:password in plain text, not its base64")]
    AuthPlain,
    /// `auth` decodes to something else than `user:password`.
    #[error("\"auth\" is not base64 of user:password")]
    NoColon,
}

/// What keeps clients from reading base64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Loose {
    /// `\n` or `\r`, as `base64` without `-w 0` writes them.
    #[error("with a line break in it")]
    LineBreak,
    /// A tab.
    #[error("with a tab in it")]
    Tab,
    /// A space.
    #[error("with a space in it")]
    Space,
    /// Another character that is not seen, such as a no-break space or a byte order mark.
    #[error("with an invisible character in it")]
    Invisible,
    /// `-` or `_`.
    #[error("of the URL-safe alphabet (- and _), and clients read the standard one (+ and /)")]
    UrlSafe,
    /// One `=` or two are missing.
    #[error("without its padding (=)")]
    Padding,
}

impl EntryError {
    /// The code of this problem.
    pub fn code(self) -> &'static str {
        match self {
            Self::NotAnObject => "entry-not-an-object",
            Self::NoAuth => "auth-missing",
            Self::AuthTwice => "auth-twice",
            Self::AuthNotAString => "auth-not-a-string",
            Self::AuthNotBase64 | Self::AuthPlain => "auth-base64",
            Self::AuthLoose(_) => "auth-loose",
            Self::NoColon => "auth-form",
        }
    }
}

impl<'a> AuthFile<'a> {
    /// Parses the decoded bytes of a credential.
    ///
    /// # Errors
    ///
    /// Where it is neither JSON with an object `auths` nor a `.dockercfg`. Entries that clients can't use are
    /// no error here: see [`AuthEntry::login`].
    pub fn parse(text: &'a [u8]) -> Result<Self, Error> {
        // A .dockercfg has its registries here.
        let members = json::members(text, MAX_REGISTRIES).map_err(Error::Json)?;
        if is_dockercfg(&members) {
            let entry =
                |member: &Member<'a>| AuthEntry::of(&member.name, member.value, member.position);
            return Ok(Self {
                entries: members.iter().map(entry).collect(),
                members,
                is_dockercfg: true,
            });
        }
        let auths = members.iter().rev().find(|member| member.name == "auths");
        let auths = auths.ok_or(Error::NoAuths)?;
        let registries = json::members(auths.value.as_bytes(), MAX_REGISTRIES);
        let registries = registries.map_err(|error| match error.what {
            json::Fault::TooManyMembers(_) => Error::TooManyRegistries,
            _ => Error::AuthsNotAnObject,
        })?;
        let entry = |member: &Member<'a>| {
            let position = member.position.within(auths.position);
            AuthEntry::of(&member.name, member.value, position)
        };
        Ok(Self {
            entries: registries.iter().map(entry).collect(),
            members,
            is_dockercfg: false,
        })
    }

    /// Whether it is the older `.dockercfg`, which clients reject.
    pub fn is_dockercfg(&self) -> bool {
        self.is_dockercfg
    }

    /// Whether a client takes the file, rather than reject all of it for one entry.
    pub fn is_readable(&self) -> bool {
        !self.is_dockercfg
            && !self.has_auths_twice()
            && self.entries.iter().all(|entry| entry.login.is_ok())
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

impl<'a> AuthEntry<'a> {
    fn of(key: &str, value: &'a str, position: Position) -> Self {
        Self {
            key: key.to_owned(),
            login: login(value),
            position,
            has_identity_token: has_identity_token(value),
            value,
        }
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
    let decoded = STANDARD.decode(auth.as_bytes()).map(Zeroizing::new);
    if decoded.is_ok() {
        return login_of_auth(&auth).ok_or(EntryError::NoColon);
    }
    if plain_login(&auth).is_some() {
        return Err(EntryError::AuthPlain);
    }
    let dense = dense(&auth);
    let Ok((decoded, alphabet)) = lenient::decode_either(&dense) else {
        return Err(EntryError::AuthNotBase64);
    };
    if split_login(&decoded).is_none() {
        return Err(EntryError::NoColon);
    }
    Err(EntryError::AuthLoose(
        match auth.chars().find(|c| is_invisible(*c)) {
            Some('\n' | '\r') => Loose::LineBreak,
            Some('\t') => Loose::Tab,
            Some(' ') => Loose::Space,
            Some(_) => Loose::Invisible,
            None if alphabet == Alphabet::UrlSafe => Loose::UrlSafe,
            None => Loose::Padding,
        },
    ))
}

/// The login that `auth` encodes, in either alphabet, with white space and without padding.
pub fn login_of_auth(auth: &str) -> Option<Login> {
    split_login(&lenient::decode_either(&dense(auth)).ok()?.0)
}

/// The login that `auth` is, where it was not encoded. No alphabet of base64 has a colon.
pub fn plain_login(auth: &str) -> Option<Login> {
    // What `echo` puts at the end is no part of a password.
    let login = split_login(auth.trim_end_matches(['\r', '\n']).as_bytes())?;
    (!login.user.is_empty() && !login.password.is_empty()).then_some(login)
}

fn split_login(text: &[u8]) -> Option<Login> {
    let (user, password) = std::str::from_utf8(text).ok()?.split_once(':')?;
    Some(Login {
        user: user.to_owned(),
        password: Zeroizing::new(password.to_owned()),
    })
}

/// The text without characters that are not seen.
fn dense(text: &str) -> Zeroizing<String> {
    // Room for all of it, since a text that grows leaves copies behind.
    let mut dense = Zeroizing::new(String::with_capacity(text.len()));
    dense.extend(text.chars().filter(|c| !is_invisible(*c)));
    dense
}

/// White space, and what else is not seen but comes along when a text is copied from a page.
pub fn is_invisible(c: char) -> bool {
    let zero_width = matches!(
        c,
        '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{2060}' | '\u{feff}'
    );
    c.is_whitespace() || c.is_control() || zero_width
}

/// Whether these members are those of a `.dockercfg`, the older form of `auth.json`: the registries stand at its
/// top, without `auths`. Each is an object with a registry's name, and at least one has a part of a login.
pub fn is_dockercfg(members: &[Member<'_>]) -> bool {
    const OF_A_LOGIN: [&str; 6] = [
        "auth",
        "email",
        "identitytoken",
        "password",
        "registrytoken",
        "username",
    ];
    let mut has_login = false;
    for member in members {
        // Members of other files have no such names.
        let is_registry = member.name.contains(['.', ':']) || member.name == "localhost";
        let Ok(entry) = json::members(member.value.as_bytes(), MAX_MEMBERS) else {
            return false;
        };
        if !is_registry {
            return false;
        }
        has_login |= entry.iter().any(|part| OF_A_LOGIN.contains(&&*part.name));
    }
    has_login
}

fn has_identity_token(entry: &str) -> bool {
    let members = json::members(entry.as_bytes(), MAX_MEMBERS).unwrap_or_default();
    json::value(&members, "identitytoken").is_some_and(|token| token != r#""""#)
}

/// A JSON string unescaped.
pub fn secret_string(value: &str) -> Option<Zeroizing<String>> {
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
        let loose = EntryError::AuthLoose;
        for (entry, expected) in [
            ("{}", EntryError::NoAuth),
            (r#""hunter2""#, EntryError::NotAnObject),
            (r#"{"auth":1}"#, EntryError::AuthNotAString),
            (r#"{"auth":"dTpw","auth":"dTpw"}"#, EntryError::AuthTwice),
            (r#"{"auth":"hunter2!"}"#, EntryError::AuthNotBase64),
            (r#"{"auth":"dXNlcjpwYXM"}"#, loose(Loose::Padding)),
            (r#"{"auth":"dXNl\ncjpw"}"#, loose(Loose::LineBreak)),
            (r#"{"auth":"dXNlcjpw\r\n"}"#, loose(Loose::LineBreak)),
            (r#"{"auth":"dXNl cjpw"}"#, loose(Loose::Space)),
            (r#"{"auth":" dXNlcjpw"}"#, loose(Loose::Space)),
            (r#"{"auth":"dXNl\tcjpw"}"#, loose(Loose::Tab)),
            (r#"{"auth":"dXNlcjpw\u00a0"}"#, loose(Loose::Invisible)),
            (r#"{"auth":"\ufeffdXNlcjpw"}"#, loose(Loose::Invisible)),
            (r#"{"auth":"dXNlcjpw\u200b"}"#, loose(Loose::Invisible)),
            (r#"{"auth":"dTo_Pz8_"}"#, loose(Loose::UrlSafe)),
            (r#"{"auth":"dTp-fn4"}"#, loose(Loose::UrlSafe)),
            (r#"{"auth":"dTo_Pz8/"}"#, EntryError::AuthNotBase64),
            (r#"{"auth":"hunter-2"}"#, EntryError::NoColon),
            (r#"{"auth":"hunter 22"}"#, EntryError::NoColon),
            (r#"{"auth":"user:hunter2"}"#, EntryError::AuthPlain),
            (r#"{"auth":"user:hunter2\n"}"#, EntryError::AuthPlain),
            (r#"{"auth":"user: hunter2"}"#, EntryError::AuthPlain),
            (r#"{"auth":"user:"}"#, EntryError::AuthNotBase64),
            (r#"{"auth":":hunter2"}"#, EntryError::AuthNotBase64),
            (r#"{"auth":"aHVudGVyMg=="}"#, EntryError::NoColon),
        ] {
            let text = format!(r#"{{"auths":{{"q":{entry}}}}}"#);
            let file = AuthFile::parse(text.as_bytes()).unwrap();
            let found = file.entries[0].login.as_ref().unwrap_err();
            assert_eq!(found, &expected, "{entry}");
            assert!(!found.to_string().contains("hunter"), "{found}");
            assert!(!file.is_readable());
        }
        for (text, expected) in [
            ("{}", Error::NoAuths),
            (r#"{"auths":["hunter2"]}"#, Error::AuthsNotAnObject),
        ] {
            assert_eq!(AuthFile::parse(text.as_bytes()).err(), Some(expected));
        }
    }

    /// The older form is known by its members alone, and no other file is taken for it.
    #[test]
    fn a_dockercfg_is_recognised() {
        for text in [
            r#"{"quay.io":{"auth":"dTpw","email":"a@b"}}"#,
            r#"{"https://index.docker.io/v1/":{"auth":"dTpw"}}"#,
            r#"{"localhost":{"username":"u","password":"p"}}"#,
            r#"{"registry:5000":{"auth":""},"localhost:5000":{"email":""}}"#,
            r#"{"quay.io":{"identitytoken":"t"}}"#,
            r#"{"quay.io":{"registrytoken":"t"}}"#,
            r#"{"quay.io":{},"ghcr.io":{"auth":"dTpw"}}"#,
            r#"{"quay.io/org":{"auth":"dTpw"}}"#,
            r#"{"*.example.com":{"auth":"dTpw"}}"#,
            r#"{"10.0.0.1:5000":{"auth":"dTpw"}}"#,
            r#"{"quay.io":{"auth":"dTpw"},"quay.io":{"auth":"dTpw"}}"#,
        ] {
            let file = AuthFile::parse(text.as_bytes()).unwrap();
            assert!(file.is_dockercfg() && !file.is_readable(), "{text}");
            assert!(!file.entries.is_empty());
        }
        for text in [
            "{}",
            r#"{"quay.io":{}}"#,
            r#"{"quay.io":"dTpw"}"#,
            r#"{"quay.io":{"auth":"dTpw"},"x":1}"#,
            r#"{"quay.io":{"auth":"dTpw"},"credsStore":"x"}"#,
            r#"{"quay.io":{"host":"x"}}"#,
            r#"{"auth":{"username":"u"}}"#,
            r#"{"data":{"auth":"x"},"kind":"Secret"}"#,
            r#"{"default/credential/test":"eA=="}"#,
            r#"[{"quay.io":{"auth":"dTpw"}}]"#,
        ] {
            let is = AuthFile::parse(text.as_bytes()).is_ok_and(|file| file.is_dockercfg());
            assert!(!is, "{text}");
        }
        let both = br#"{"auths":{},"quay.io":{"auth":"dTpw"}}"#;
        assert!(!AuthFile::parse(both).unwrap().is_dockercfg());
    }

    /// A key file is known by user and password together.
    #[test]
    fn a_key_file_is_json() {
        let base64 = STANDARD.encode("{\"type\":\"service_account\"}\n");
        for (user, password, expected) in [
            ("_json_key", "{\n \"type\": \"service_account\"\n}\n", true),
            ("_json_key", "{}\r\n", true),
            ("_json_key", "{", false),
            ("_json_key", "hunter2\n", false),
            ("_json_key", base64.as_str(), false),
            ("_json_key_base64", base64.as_str(), true),
            ("_json_key_base64", &format!("{base64}\n"), true),
            ("_json_key_base64", "hunter2\n", false),
            ("_json_key_base64", "{}\n", false),
            ("oauth2accesstoken", "{}\n", false),
            ("robot", "{}\n", false),
        ] {
            let login = Login {
                user: user.to_owned(),
                password: Zeroizing::new(password.to_owned()),
            };
            assert_eq!(login.is_key_file(), expected, "{user} {password}");
        }
    }
}
