// SPDX-License-Identifier: Apache-2.0

//! A credential that every client would reject as a whole, made into one that they can read.
//!
//! Clients keep what they get for the life of the VM, before they parse it: a credential with one
//! unusable entry costs the VM every private image. So what can't be read is repaired on the way out, or
//! refused with the reason; what can be read goes out untouched.

use common::auth_json::{
    AuthEntry, AuthFile, EntryError, Error, Login, MAX_MEMBERS, is_invisible, login_of_auth,
    plain_login, secret_string,
};
use zeroize::Zeroizing;

use crate::json::{self, Member};
use crate::resource::base64;
use crate::resource::form::{AUTH_JSON_FIX as FIX, Form};
use crate::text::{RegistryName, count};

/// How many changes are named: what a person reads, and a status can carry.
const NAMED_CHANGES: usize = 20;

/// What becomes of a credential.
pub enum Served {
    /// Clients can read it as it is.
    Untouched,
    /// They can read this.
    Repaired {
        /// The credential.
        text: Zeroizing<Vec<u8>>,
        /// What was changed, a sentence each.
        changes: Vec<String>,
    },
    /// No client could use any of it, for this reason.
    Refused(String),
}

/// What a client is to get for the decoded bytes of a credential.
pub fn repair(text: &[u8]) -> Served {
    match AuthFile::parse(text) {
        Ok(file) if file.is_readable() => Served::Untouched,
        Ok(file) => rebuild(&file, Vec::new()),
        Err(error) => match decoded_again(text) {
            Some(inner) => repair_decoded(inner),
            None => Served::Refused(not_an_auth_file(text, &error).0),
        },
    }
}

/// The credential that was encoded twice, if it was.
pub fn decoded_again(text: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let (inner, _) = base64::decode_either(std::str::from_utf8(text).ok()?).ok()?;
    AuthFile::parse(&inner).is_ok().then_some(inner)
}

/// The sentence for what is no `auth.json` at all, and what to do about it.
pub fn not_an_auth_file(text: &[u8], error: &Error) -> (String, &'static str) {
    match Form::of(text) {
        None | Some(Form::AuthJson | Form::DockerCfg) => {
            (format!("it is not an auth.json: {error}"), FIX)
        }
        Some(form) => {
            let name = form.name();
            (format!("it is {name}, not an auth.json"), form.fix())
        }
    }
}

fn repair_decoded(inner: Zeroizing<Vec<u8>>) -> Served {
    let mut changes = vec!["base64 was applied once too often, and is undone".to_owned()];
    let rebuilt = match AuthFile::parse(&inner) {
        Ok(file) if !file.is_readable() => rebuild(&file, std::mem::take(&mut changes)),
        _ => Served::Untouched,
    };
    match rebuilt {
        Served::Untouched => Served::Repaired {
            text: inner,
            changes,
        },
        other => other,
    }
}

/// Writes the file anew, with its entries repaired or left out. Everything else stays as it is.
fn rebuild(file: &AuthFile<'_>, mut changes: Vec<String>) -> Served {
    if file.is_dockercfg() {
        changes.push(
            "it is in the older form .dockercfg; its registries are put into \"auths\"".to_owned(),
        );
    }
    if file.has_auths_twice() {
        changes.push("\"auths\" came more than once; the last one is kept".to_owned());
    }
    let mut entries: Vec<(&str, Zeroizing<String>)> = Vec::new();
    let mut first_reason = None;
    for entry in &file.entries {
        let key = RegistryName(&entry.key);
        match (&entry.login, repair_entry(entry)) {
            (Ok(_), _) => entries.push((&entry.key, Zeroizing::new(entry.value.to_owned()))),
            (Err(_), Some((repaired, how))) => {
                changes.push(format!("registry {key}: {how}"));
                entries.push((&entry.key, repaired));
            }
            (Err(reason), None) => {
                changes.push(format!("registry {key}: left out: {reason}"));
                first_reason.get_or_insert_with(|| format!("registry {key}: {reason}"));
            }
        }
    }
    if let (true, Some(reason)) = (entries.is_empty(), first_reason) {
        let all = count(file.entries.len(), "registry", "registries");
        return Served::Refused(format!("none of its {all} can be used: {reason}"));
    }
    let auths = object(entries.iter().map(|(key, value)| (*key, value.as_str())));
    let mut members = Vec::new();
    if file.is_dockercfg() {
        members.push(("auths", auths.as_str()));
    }
    let last = file
        .members
        .iter()
        .rposition(|member| member.name == "auths");
    for (at, member) in file.members.iter().enumerate() {
        match &*member.name {
            "auths" if Some(at) == last => members.push(("auths", auths.as_str())),
            "auths" => {}
            // They are the registries.
            _ if file.is_dockercfg() => {}
            name => members.push((name, member.value)),
        }
    }
    let text = object(members.into_iter());
    if changes.len() > NAMED_CHANGES {
        let more = changes.split_off(NAMED_CHANGES).len();
        changes.push(format!(
            "and {more} more; `offline-fs-kbc check` lists them all"
        ));
    }
    Served::Repaired {
        text: Zeroizing::new(text.as_bytes().to_vec()),
        changes,
    }
}

/// A usable entry in the place of an unusable one, and how it was made; none if it has no login.
pub fn repair_entry(entry: &AuthEntry<'_>) -> Option<(Zeroizing<String>, &'static str)> {
    let reason = entry.login.as_ref().err()?;
    let members = json::members(entry.value.as_bytes(), MAX_MEMBERS).ok()?;
    let (login, how) = login_of(&members, *reason)?;
    let auth = Zeroizing::new(format!("\"{}\"", *login.encode()));
    let first = members.iter().position(|member| member.name == "auth");
    let mut parts = Vec::new();
    for (at, member) in members.iter().enumerate() {
        match &*member.name {
            "auth" if Some(at) == first => parts.push(("auth", auth.as_str())),
            "auth" => {}
            name => parts.push((name, member.value)),
        }
    }
    if first.is_none() {
        parts.push(("auth", &auth));
    }
    Some((object(parts.into_iter()), how))
}

/// The login that an entry has in a form that clients don't read.
fn login_of(members: &[Member<'_>], reason: EntryError) -> Option<(Login, &'static str)> {
    let string = |name| secret_string(json::value(members, name)?);
    if let Some(auth) = string("auth") {
        if let Some(login) = login_of_auth(&auth) {
            let how = match reason {
                EntryError::AuthTwice => "\"auth\" came more than once; the last one is kept",
                _ => {
                    "\"auth\" is encoded again as standard base64, without white space and with padding"
                }
            };
            return Some((login, how));
        }
        // White space in a password may be meant, or not.
        let is_clear = |login: &Login| {
            login.is_key_file()
                || !(login.user.contains(is_invisible) || login.password.contains(is_invisible))
        };
        if let Some(login) = plain_login(&auth).filter(is_clear) {
            return Some((login, "\"auth\" was plain text, and is encoded"));
        }
        let again = base64::decode_either(&auth).ok();
        let again = again
            .as_ref()
            .and_then(|(text, _)| std::str::from_utf8(text).ok());
        if let Some(login) = again.and_then(login_of_auth) {
            return Some((
                login,
                "base64 was applied to \"auth\" twice; it is decoded once",
            ));
        }
    }
    let user = string("username").filter(|user| !user.is_empty() && !user.contains(':'))?;
    let login = Login {
        user: user.to_string(),
        password: string("password").filter(|password| !password.is_empty())?,
    };
    Some((login, "\"auth\" is made from \"username\" and \"password\""))
}

/// A JSON object of members whose values are JSON already.
pub(crate) fn object<'a>(
    members: impl Iterator<Item = (&'a str, &'a str)> + Clone,
) -> Zeroizing<String> {
    let name = |name| serde_json::Value::from(name).to_string();
    // Room for all of it, since a text that grows leaves copies behind.
    let room = members
        .clone()
        .map(|(key, value)| name(key).len() + value.len() + 2);
    let mut text = Zeroizing::new(String::with_capacity(room.sum::<usize>() + 2));
    text.push('{');
    for (index, (key, value)) in members.enumerate() {
        if index > 0 {
            text.push(',');
        }
        text.push_str(&name(key));
        text.push(':');
        text.push_str(value);
    }
    text.push('}');
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic, clippy::unwrap_used)]
    use super::*;
    use ::base64::Engine as _;
    use ::base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    fn repaired(text: &str) -> (String, Vec<String>) {
        match repair(text.as_bytes()) {
            Served::Repaired { text, changes } => {
                (String::from_utf8(text.to_vec()).unwrap(), changes)
            }
            Served::Untouched => panic!("untouched: {text}"),
            Served::Refused(reason) => panic!("{reason}: {text}"),
        }
    }

    /// Nothing that a client can read is changed by a byte.
    #[test]
    fn what_can_be_read_is_untouched() {
        for text in [
            r#"{"auths":{}}"#,
            " { \"auths\" : { } , \"credsStore\":\"x\" } \n",
            r#"{"auths":{"q":{"auth":"dTpw","email":"x"},"r":{"auth":"dTpw"}}}"#,
        ] {
            assert!(
                matches!(repair(text.as_bytes()), Served::Untouched),
                "{text}"
            );
        }
    }

    /// Order and other members stay; what is repaired is repaired in its place.
    #[test]
    fn one_bad_entry_costs_only_itself() {
        let (text, changes) = repaired(
            r#"{"a":1,"auths":{"x":{"auth":"dTpw", "more":[1]},"e":{},"u":{"username":"us\u0065r","password":"p\"w","auth":"","k":2},"t":{"identitytoken":"tok"}},"credsStore":"s"}"#,
        );
        let auth = STANDARD.encode("user:p\"w");
        let expected = format!(
            r#"{{"a":1,"auths":{{"x":{{"auth":"dTpw", "more":[1]}},"u":{{"username":"us\u0065r","password":"p\"w","auth":"{auth}","k":2}}}},"credsStore":"s"}}"#
        );
        assert_eq!(text, expected);
        assert_eq!(
            changes,
            [
                "registry \"e\": left out: no member \"auth\"",
                "registry \"u\": \"auth\" is made from \"username\" and \"password\"",
                "registry \"t\": left out: no member \"auth\"",
            ]
        );
    }

    /// Each form in which the field has seen a login.
    #[test]
    fn a_login_in_another_form_is_found() {
        for (entry, expected) in [
            (r#"{"auth":"dXNlcjpwYXM"}"#, "dXNlcjpwYXM="),
            (r#"{"auth":"dXNl\ncjpw"}"#, "dXNlcjpw"),
            (r#"{"auth":"ZFhObGNqcHc="}"#, "dXNlcjpw"),
            (r#"{"auth":"dTo_Pz8_"}"#, "dTo/Pz8/"),
            (r#"{"auth":" dTp-fn4"}"#, "dTp+fn4="),
            (r#"{"auth":"\ufeffdXNlcjpw\u00a0"}"#, "dXNlcjpw"),
            (r#"{"auth":"user:p"}"#, "dXNlcjpw"),
            (r#"{"auth":"user:p\r\n"}"#, "dXNlcjpw"),
            (r#"{"auth":"_json_key:{\n}\n"}"#, "X2pzb25fa2V5OnsKfQ=="),
            (r#"{"auth":"u:p:q"}"#, "dTpwOnE="),
            (r#"{"auth":"u:p","username":"x","password":"y"}"#, "dTpw"),
            (r#"{"auth":"eDp5","auth":"dTpw"}"#, "dTpw"),
            (r#"{"auth":"!","username":"u","password":"p"}"#, "dTpw"),
            (r#"{"username":"u","password":"p"}"#, "dTpw"),
        ] {
            let (text, changes) = repaired(&format!(r#"{{"auths":{{"q":{entry}}}}}"#));
            assert!(text.contains(&format!(r#""auth":"{expected}""#)), "{text}");
            assert_eq!(changes.len(), 1);
        }
        let inner = r#"{"auths":{"q":{"auth":"dTpw"}}}"#;
        assert_eq!(repaired(&STANDARD.encode(inner)).0, inner);
        let (text, changes) =
            repaired(&STANDARD.encode(r#"{"auths":{"q":{},"r":{"auth":"dTpw"}}}"#));
        assert_eq!(
            (text.as_str(), changes.len()),
            (r#"{"auths":{"r":{"auth":"dTpw"}}}"#, 2)
        );
        let (text, _) =
            repaired(r#"{"auths":{"q":{"auth":"dTpw"}},"auths":{"r":{"auth":"dTpw"}}}"#);
        assert_eq!(text, r#"{"auths":{"r":{"auth":"dTpw"}}}"#);
    }

    /// The older form is wrapped, and its entries are repaired as all others.
    #[test]
    fn a_dockercfg_is_wrapped() {
        let (text, changes) = repaired(r#"{"quay.io": {"auth": "dTpw", "email": "a@b"}}"#);
        let expected = r#"{"auths":{"quay.io":{"auth": "dTpw", "email": "a@b"}}}"#;
        assert_eq!((text.as_str(), changes.len()), (expected, 1));
        let older = r#"{"q.io":{"auth":"dTpw"},"r.io":{},"s.io":{"username":"u","password":"p","email":""}}"#;
        let expected = r#"{"auths":{"q.io":{"auth":"dTpw"},"s.io":{"username":"u","password":"p","email":"","auth":"dTpw"}}}"#;
        for text in [older.to_owned(), STANDARD.encode(older)] {
            let (text, changes) = repaired(&text);
            assert_eq!(text, expected);
            assert!(changes.iter().any(|change| change.contains(".dockercfg")));
        }
    }

    /// What no client could use is refused with a reason that holds no value.
    #[test]
    fn nothing_usable_is_refused() {
        for text in [
            "hunter2",
            "{}",
            r#"{"auths":["hunter2"]}"#,
            r#"{"auths":{"q":{},"r":{"auth":"hunter2"}}}"#,
            r#"{"auths":{"q":{"username":"hunter:2","password":"p"}}}"#,
            r#"{"auths":{"q":{"username":"hunter2"}}}"#,
            r#"{"auths":{"q":{"auth":"u: hunter2"}}}"#,
            r#"{"q.io":{"username":"hunter2"}}"#,
            r#"{"q.io":{"email":"hunter2"},"r.io":{"identitytoken":"hunter2"}}"#,
        ] {
            let Served::Refused(reason) = repair(text.as_bytes()) else {
                panic!("{text}");
            };
            assert!(!reason.contains("hunter"), "{reason}");
        }
    }

    /// Any JSON value, most of them near to what an entry is.
    fn entry() -> impl Strategy<Value = String> {
        let value = prop_oneof![
            Just("null".to_owned()),
            Just("1".to_owned()),
            "[a-zA-Z0-9+/=: _-]{0,12}".prop_map(|text| format!("{text:?}")),
            Just("\"dTpw\"".to_owned()),
            Just("\"ZFhObGNqcHc=\"".to_owned()),
        ];
        let name = "auth|username|password|identitytoken|email";
        proptest::collection::vec((name, value), 0..4).prop_map(|members| {
            let members: Vec<_> = members
                .iter()
                .map(|(n, v)| format!("\"{n}\":{v}"))
                .collect();
            format!("{{{}}}", members.join(","))
        })
    }

    proptest! {
        /// What is served is what a client can read, and what was repaired needs no repair.
        #[test]
        fn what_is_repaired_can_be_read(entries in proptest::collection::vec(entry(), 0..5), older: bool, twice: bool) {
            let entries: Vec<_> = entries.iter().enumerate()
                .map(|(n, entry)| format!("\"registry{n}.io\":{entry}")).collect();
            let mut text = format!("{{{}}}", entries.join(","));
            if !older { text = format!("{{\"auths\":{text}}}"); }
            if twice { text = STANDARD.encode(text); }
            match repair(text.as_bytes()) {
                Served::Untouched => prop_assert!(AuthFile::parse(text.as_bytes()).unwrap().is_readable()),
                Served::Repaired { text, changes } => {
                    prop_assert!(AuthFile::parse(&text).unwrap().is_readable());
                    prop_assert!(matches!(repair(&text), Served::Untouched));
                    prop_assert!(!changes.is_empty());
                }
                Served::Refused(_) => {}
            }
        }
    }
}
