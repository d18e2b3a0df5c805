// SPDX-License-Identifier: Apache-2.0

//! The registry credential: what clients can't read, and what they read otherwise than it looks.

use std::collections::BTreeMap;

use crate::credential::find::{canonical_host, host_of_key};
use crate::credential::repair::{decoded_again, not_an_auth_file, repair_entry};
use crate::credential::{AuthEntry, AuthFile, FIX};
use crate::lint::registry::unmatched;
use crate::resource::problem::{CREDENTIAL_REFUSED, Problem, Severity};
use crate::text::RegistryName;

/// What clients do with a credential that is served as it is and has what they can't read.
const REJECTED: &str = "it is not repaired (--repair-credential is off), and clients reject the whole \
                        credential: kata-agents before 3.8 then pull anonymously, those of 3.8 to 3.17 pull no image";

/// What is wrong with the decoded bytes of a credential; `repairs` tells whether the daemon repairs it before it
/// is served. The entry of a problem is the registry, its place one in `text`.
pub fn lint(text: &[u8], repairs: bool) -> Vec<Problem> {
    match AuthFile::parse(text) {
        Ok(file) => lint_file(&file, repairs),
        Err(error) => match decoded_again(text) {
            Some(inner) => lint_encoded_twice(&inner, repairs),
            None => {
                let meaning = match repairs {
                    true => CREDENTIAL_REFUSED,
                    false => REJECTED,
                };
                let (what, fix) = not_an_auth_file(text, &error);
                vec![Problem::of_file(
                    Severity::Error,
                    "not-an-auth-json",
                    format!("{what}; {meaning}"),
                    fix,
                )]
            }
        },
    }
}

/// What is no problem for the daemon's own clients as long as it is repaired.
fn repairable(repairs: bool, what: &str, meaning: &str) -> (Severity, String) {
    match repairs {
        true => (Severity::Warning, format!("{what}; {meaning}")),
        false => (Severity::Error, format!("{what}; {REJECTED}")),
    }
}

fn lint_encoded_twice(inner: &[u8], repairs: bool) -> Vec<Problem> {
    let (severity, what) = repairable(
        repairs,
        "base64 was applied once too often",
        "it is served decoded, but an upstream agent's clients would reject it",
    );
    let fix = "apply `base64 -w 0` once";
    let mut found = vec![Problem::of_file(severity, "base64-twice", what, fix)];
    if let Ok(file) = AuthFile::parse(inner) {
        found.extend(
            lint_file(&file, repairs)
                .into_iter()
                .map(|problem| Problem {
                    // It would be a place in the decoded text, which nobody sees.
                    position: None,
                    ..problem
                }),
        );
    }
    found
}

fn lint_file(file: &AuthFile<'_>, repairs: bool) -> Vec<Problem> {
    let mut found = Vec::new();
    if file.is_dockercfg() {
        let (severity, what) = repairable(
            repairs,
            "it is in the older form .dockercfg, with its registries at the top level instead of in \"auths\"",
            "it is served with them in \"auths\", but an upstream agent's clients would reject it",
        );
        let fix = "pack it as it is: `offline-fs-kbc pack --credential FILE -o aa-offline_fs_kbc-resources.json`";
        found.push(Problem::of_file(severity, "dockercfg", what, fix));
    }
    if file.has_auths_twice() {
        let (severity, what) = repairable(
            repairs,
            "\"auths\" comes more than once",
            "the last one is served, but an upstream agent's clients would reject it",
        );
        let fix = "put all registries into one \"auths\"";
        found.push(Problem::of_file(severity, "auths-twice", what, fix));
    }
    if file.names_credential_stores() {
        found.push(Problem::of_file(
            Severity::Warning,
            "credential-store",
            "clients ignore \"credsStore\" and \"credHelpers\"; only the logins in \"auths\" count",
            FIX,
        ));
    }
    let usable = |entry: &AuthEntry<'_>| entry.login.is_ok() || repair_entry(entry).is_some();
    let any = file.entries.iter().any(usable);
    for entry in &file.entries {
        let mut add = |severity, code, what: String, fix: &str| {
            let problem = Problem::of_file(severity, code, what, fix);
            found.push(problem.about_entry(RegistryName(&entry.key).plain(), Some(entry.position)));
        };
        match (&entry.login, repair_entry(entry)) {
            (Err(reason), Some((_, how))) => {
                let meaning = format!(
                    "it is served repaired ({how}), but an upstream agent's clients would reject the whole \
                     credential"
                );
                let (severity, what) = repairable(repairs, &reason.to_string(), &meaning);
                add(severity, reason.code(), what, FIX);
            }
            (Err(reason), None) => {
                let meaning = match (repairs, any) {
                    (true, true) => {
                        "this daemon leaves it out, and pulls from this registry are anonymous; a stock confidential-data-hub that reads \
                         the file itself rejects it as a whole"
                            .to_owned()
                    }
                    (true, false) => {
                        format!("no other entry can be used either; {CREDENTIAL_REFUSED}")
                    }
                    (false, _) => REJECTED.to_owned(),
                };
                add(
                    Severity::Error,
                    reason.code(),
                    format!("{reason}; {meaning}"),
                    FIX,
                );
            }
            (Ok(login), _) if login.password.ends_with(['\r', '\n']) && !login.is_key_file() => {
                // image-rs cuts line feeds off, since its first release, and nothing else (decode_auth in auth_config.rs).
                let (severity, what) = match login.password.trim_end_matches('\n').ends_with('\r') {
                    true => (
                        Severity::Error,
                        "the password ends in a carriage return, which clients send too, and the registry will refuse it",
                    ),
                    false => (
                        Severity::Warning,
                        "the password ends in a line break, which clients in the VM cut off; skopeo and podman send it, and \
                         the registry refuses it",
                    ),
                };
                let fix = "encode without it: `printf %s user:password | base64 -w 0`";
                add(severity, "password-newline", what.to_owned(), fix);
            }
            (Ok(login), _) if login.user.is_empty() || login.password.is_empty() => add(
                Severity::Warning,
                "login-empty",
                "user or password is empty, which few registries accept".to_owned(),
                FIX,
            ),
            (Ok(_), _) => {}
        }
        if entry.has_identity_token {
            add(
                Severity::Warning,
                "identity-token",
                "all clients but guest-pull ignore \"identitytoken\"; for them only user and password count"
                    .to_owned(),
                FIX,
            );
        }
        if let Some((severity, what, fix)) = unmatched(&entry.key) {
            add(severity, "registry-unmatched", what, &fix);
        }
    }
    found.extend(doubles(file));
    found
}

/// Keys that name one registry, of which one counts.
fn doubles(file: &AuthFile<'_>) -> Vec<Problem> {
    let mut found = Vec::new();
    let mut by_host: BTreeMap<&str, Vec<&AuthEntry<'_>>> = BTreeMap::new();
    let mut by_key: BTreeMap<&str, &AuthEntry<'_>> = BTreeMap::new();
    for entry in &file.entries {
        if by_key.insert(&entry.key, entry).is_some() {
            let problem = Problem::of_file(
                Severity::Warning,
                "registry-twice",
                "the registry comes more than once; its last entry counts",
                "keep one of them",
            );
            found.push(problem.about_entry(RegistryName(&entry.key).plain(), Some(entry.position)));
        }
        by_host
            .entry(canonical_host(host_of_key(&entry.key)))
            .or_default()
            .push(entry);
    }
    for (host, entries) in by_host {
        // Docker Hub's images have it as docker.io, whatever they are called by.
        let literal = |key: &str| match host {
            "index.docker.io" => key == "docker.io",
            _ => key == host,
        };
        let spellings: Vec<_> = entries
            .iter()
            .filter(|entry| !literal(&entry.key))
            .collect();
        let has_literal = spellings.len() < entries.len();
        let distinct = spellings.iter().any(|entry| entry.key != spellings[0].key);
        let what = match (has_literal, distinct) {
            (true, _) if !spellings.is_empty() => {
                "another entry has the registry's own name, and clients take that one; this entry is never used"
            }
            (false, true) => {
                "several entries name this registry in other spellings; it is undefined which one a client picks"
            }
            _ => continue,
        };
        for entry in spellings {
            let problem = Problem::of_file(
                Severity::Warning,
                "registry-ambiguous",
                what,
                "keep one of them, by the registry's own name",
            );
            found.push(problem.about_entry(RegistryName(&entry.key).plain(), Some(entry.position)));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    /// The codes of what is found for entries with these keys, each with a good login.
    fn codes(keys: &[&str]) -> Vec<(String, &'static str)> {
        let entry = |key: &&str| format!(r#""{key}":{{"auth":"dTpw"}}"#);
        let entries: Vec<_> = keys.iter().map(entry).collect();
        let text = format!(r#"{{"auths":{{{}}}}}"#, entries.join(","));
        let found = lint(text.as_bytes(), true).into_iter();
        found
            .map(|problem| (problem.entry.unwrap_or_default(), problem.code))
            .collect()
    }

    #[test]
    fn doubles_are_found() {
        let found = |keys: &[&str]| -> Vec<&'static str> {
            codes(keys).into_iter().map(|(_, code)| code).collect()
        };
        assert_eq!(found(&["quay.io", "quay.io"]), ["registry-twice"]);
        assert_eq!(
            found(&["quay.io", "https://quay.io"]),
            ["registry-ambiguous"]
        );
        assert_eq!(
            found(&["docker.io", "https://index.docker.io/v1/"]),
            ["registry-ambiguous"]
        );
        assert_eq!(
            found(&["docker.io", "index.docker.io"]),
            ["registry-ambiguous"]
        );
        assert_eq!(
            found(&["index.docker.io", "https://index.docker.io/v1/"]),
            ["registry-ambiguous", "registry-ambiguous"]
        );
        assert_eq!(
            found(&["https://quay.io", "http://quay.io"]),
            ["registry-ambiguous", "registry-ambiguous"]
        );
        assert_eq!(found(&["quay.io", "quay.io/org", "docker.io"]), [""; 0]);
    }

    /// Severity follows what the daemon makes of it, and no finding has a value.
    #[test]
    fn unusable_content_is_named() {
        for (text, code, severity) in [
            ("hunter2", "not-an-auth-json", Severity::Error),
            ("{}", "not-an-auth-json", Severity::Error),
            (
                r#"{"auths":["hunter2"]}"#,
                "not-an-auth-json",
                Severity::Error,
            ),
            (r#"{"auths":{"q.io":{}}}"#, "auth-missing", Severity::Error),
            (
                r#"{"auths":{"q.io":"hunter2"}}"#,
                "entry-not-an-object",
                Severity::Error,
            ),
            (
                r#"{"auths":{"q.io":{"auth":1}}}"#,
                "auth-not-a-string",
                Severity::Error,
            ),
            (
                r#"{"auths":{"q.io":{"auth":"hunter2!"}}}"#,
                "auth-base64",
                Severity::Error,
            ),
            (
                r#"{"auths":{"q.io":{"auth":"aHVudGVyMg=="}}}"#,
                "auth-form",
                Severity::Error,
            ),
            (
                r#"{"auths":{"q.io":{"auth":"dTpodW50ZXIyCg=="}}}"#,
                "password-newline",
                Severity::Warning,
            ),
            (
                r#"{"auths":{"q.io":{"username":"u","password":"hunter2"}}}"#,
                "auth-missing",
                Severity::Warning,
            ),
            (
                r#"{"auths":{"q.io":{"auth":"dTpodW50ZXIy\n"}}}"#,
                "auth-loose",
                Severity::Warning,
            ),
            ("eyJhdXRocyI6e319", "base64-twice", Severity::Warning),
            (
                r#"{"auths":{},"credsStore":"hunter2"}"#,
                "credential-store",
                Severity::Warning,
            ),
            (
                r#"{"auths":{},"auths":{}}"#,
                "auths-twice",
                Severity::Warning,
            ),
            (
                r#"{"auths":{"q.io":{"auth":"dTpw","identitytoken":"hunter2"}}}"#,
                "identity-token",
                Severity::Warning,
            ),
            (
                r#"{"auths":{"q.io":{"auth":"dTo="}}}"#,
                "login-empty",
                Severity::Warning,
            ),
        ] {
            let found = lint(text.as_bytes(), true);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            assert_eq!(
                (found[0].code, found[0].severity),
                (code, severity),
                "{text}"
            );
            assert!(!found[0].to_string().contains("hunter"), "{}", found[0]);
        }
        assert!(lint(br#"{"auths":{}}"#, true).is_empty());
    }

    /// The code and severity of each finding about a text.
    fn told(text: &str, repairs: bool) -> Vec<(&'static str, Severity)> {
        let found = lint(text.as_bytes(), repairs);
        for problem in &found {
            assert!(!problem.to_string().contains("hunter"), "{problem}");
        }
        found
            .iter()
            .map(|problem| (problem.code, problem.severity))
            .collect()
    }

    /// The registry skips what ends a key file. Of any other password clients cut line feeds off, and nothing else.
    #[test]
    fn a_key_file_may_end_in_a_line_break() {
        let json = "{\n  \"type\": \"service_account\"\n}";
        let base64 = STANDARD.encode(format!("{json}\n"));
        for (login, is_refused) in [
            (format!("_json_key:{json}\n"), false),
            (format!("_json_key:{json}\r\n"), false),
            (format!("_json_key:{json}\n\n"), false),
            (format!("_json_key:{json}"), false),
            (format!("_json_key_base64:{base64}\n"), false),
            (format!("_json_key_base64:{base64}"), false),
            (
                format!("_json_key_base64:{}\n", STANDARD.encode(json)),
                false,
            ),
            (format!("_json_key:{base64}\n"), true),
            (format!("_json_key:{}\n", &json[..10]), true),
            ("_json_key:hunter2\n".to_owned(), true),
            ("_json_key_base64:hunter2\n".to_owned(), true),
            ("oauth2accesstoken:hunter2\n".to_owned(), true),
            (format!("robot:{json}\n"), true),
            ("robot:hunter2\r\n".to_owned(), true),
        ] {
            let auth = STANDARD.encode(&login);
            let text = format!(r#"{{"auths":{{"europe-docker.pkg.dev":{{"auth":"{auth}"}}}}}}"#);
            let severity = match login.ends_with("\r\n") {
                true => Severity::Error,
                false => Severity::Warning,
            };
            let expected = is_refused.then_some(("password-newline", severity));
            assert_eq!(told(&text, true), Vec::from_iter(expected), "{login}");
        }
    }

    /// The older form is a warning while it is repaired, and its entries are looked at as all others.
    #[test]
    fn a_dockercfg_is_one_finding() {
        use Severity::{Error, Warning};
        for (text, entries) in [
            (r#"{"quay.io":{"auth":"dTpw","email":"a@b"}}"#, &[][..]),
            (r#"{"https://index.docker.io/v1/":{"auth":"dTpw"}}"#, &[]),
            (r#"{"r.io":{"auth":"dTpw"},"q.io":{"auth":"dTpw"}}"#, &[]),
            (
                r#"{"q.io":{"username":"u","password":"hunter2"}}"#,
                &[("auth-missing", Warning)],
            ),
            (
                r#"{"q.io":{"auth":"dTpw"},"r.io":{}}"#,
                &[("auth-missing", Error)],
            ),
            (
                r#"{"q.io":{"auth":"u:hunter2"}}"#,
                &[("auth-base64", Warning)],
            ),
            (r#"{"q.io":{"auth":"hunter2!"}}"#, &[("auth-base64", Error)]),
            (
                r#"{"q.io/":{"auth":"dTpw"}}"#,
                &[("registry-unmatched", Warning)],
            ),
            (
                r#"{"q.io":{"auth":"dTpw"},"q.io":{"auth":"dTpw"}}"#,
                &[("registry-twice", Warning)],
            ),
            (
                r#"{"q.io":{"auth":"dTpw","identitytoken":"hunter2"}}"#,
                &[("identity-token", Warning)],
            ),
        ] {
            let expected = [&[("dockercfg", Warning)], entries].concat();
            assert_eq!(told(text, true), expected, "{text}");
            let encoded = [&[("base64-twice", Warning)], expected.as_slice()].concat();
            assert_eq!(told(&STANDARD.encode(text), true), encoded, "{text}");
            assert_eq!(told(text, false)[0], ("dockercfg", Error), "{text}");
        }
    }

    /// What is wrong with the base64 is named, and repaired where it has one reading.
    #[test]
    fn forms_of_base64_are_named() {
        use Severity::{Error, Warning};
        for (auth, severity, named) in [
            ("dTo_Pz8_", Warning, "URL-safe"),
            ("dTp-fn4", Warning, "URL-safe"),
            ("dTpw\\n", Warning, "a line break"),
            ("dT\\r\\npw", Warning, "a line break"),
            ("dTpw\\t", Warning, "a tab"),
            (" dTpw", Warning, "a space in it"),
            ("dT pw", Warning, "a space in it"),
            ("dTpw\u{a0}", Warning, "an invisible character"),
            ("\u{feff}dTpw", Warning, "an invisible character"),
            ("dXM6cA", Warning, "without its padding"),
            ("us:hunter2", Warning, "in plain text"),
            ("us:hunter2\\n", Warning, "in plain text"),
            ("us:hunter 2", Error, "in plain text"),
            ("dTo_Pz8/", Error, "is not base64"),
            ("hunter2!", Error, "is not base64"),
        ] {
            let text = format!(r#"{{"auths":{{"q.io":{{"auth":"{auth}"}}}}}}"#);
            let found = lint(text.as_bytes(), true);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            let problem = &found[0];
            assert_eq!(problem.severity, severity, "{text}: {problem}");
            assert!(problem.what.contains(named), "{text}: {problem}");
            assert!(!problem.to_string().contains("hunter"), "{problem}");
        }
    }

    /// What is not repaired, clients reject: an error for each that they do, and nothing else changes.
    #[test]
    fn what_is_not_repaired_is_an_error() {
        for (text, code) in [
            ("hunter2", "not-an-auth-json"),
            ("eyJhdXRocyI6e319", "base64-twice"),
            (r#"{"auths":{},"auths":{}}"#, "auths-twice"),
            (
                r#"{"auths":{"q.io":{"username":"u","password":"p"}}}"#,
                "auth-missing",
            ),
            (r#"{"auths":{"q.io":{"auth":"!"}}}"#, "auth-base64"),
        ] {
            let found = lint(text.as_bytes(), false);
            assert_eq!(found.len(), 1, "{text}: {found:?}");
            let told = (found[0].code, found[0].severity);
            assert_eq!(told, (code, Severity::Error), "{text}");
            assert!(found[0].what.ends_with(REJECTED), "{}", found[0]);
        }
        let stores = br#"{"auths":{},"credsStore":"s"}"#;
        assert_eq!(lint(stores, false), lint(stores, true));
    }
}
