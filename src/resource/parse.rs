// SPDX-License-Identifier: Apache-2.0

//! The text of a file taken apart into its entries, each on its own.

use zeroize::Zeroizing;

use crate::json::{self, Fault};
use crate::resource::entries::Entries;
use crate::resource::file::Kind;
use crate::resource::form::{self, Form};
use crate::resource::name::{CREDENTIAL, Name};
use crate::resource::parsed::{Parsed, Reading};
use crate::resource::problem::{Problem, Severity};
use crate::resource::repair::{Served, repair};
use crate::resource::secret::Secret;

/// The most entries of one file, far above any use, so that memory for names is bounded too.
pub const MAX_ENTRIES: usize = 100_000;

/// Parses a file's text: a JSON object of base64, or one resource as it is.
///
/// An entry that is wrong is kept as such and reported among the problems; the others are not
/// touched. Of a name that comes twice the last value counts.
///
/// # Errors
///
/// The one problem of a file that can't be used as a whole: because it is no JSON object, is of another form, or as a
/// credential is half-written.
///
/// An `auth.json` in the place of a resources file is the credential: nobody can mean anything else by it.
pub fn parse(mut text: Zeroizing<Vec<u8>>, kind: &Kind) -> Result<Entries, Problem> {
    if let Kind::Whole(name) = kind {
        return whole(text, name);
    }
    let parsed = match read(&text, kind)? {
        Read::Entries(parsed) => parsed,
        Read::Credential(form) => {
            let mut entries = Entries::of_one(Name::Path(CREDENTIAL.into()), Secret::new(text));
            entries
                .problems
                .push(credential_in_place_of_resources(form));
            return Ok(entries);
        }
    };
    // What follows needs room of its own. The text is wiped at once where none of it is in use, which is many
    // times faster than byte by byte.
    text.clear();
    drop(text);
    Ok(parsed.entries())
}

/// The one resource that the file is.
fn whole(text: Zeroizing<Vec<u8>>, name: &Name) -> Result<Entries, Problem> {
    // A credential that is being written must not take away what was good, as with every other file.
    let is_json = text
        .trim_ascii_start()
        .first()
        .is_none_or(|&first| first == b'{');
    if name.as_str() == CREDENTIAL && is_json {
        json::members(&text, MAX_ENTRIES).map_err(|error| not_an_object(error, AUTH_FILE_FIX))?;
    }
    if text.is_empty() {
        // It is being written, or was left so: no reason to take away what was good.
        let fix = "the file was left empty or is half-written: write it again";
        return Err(Problem::of_file(Severity::Error, "empty", "empty", fix));
    }
    Ok(Entries::of_one(name.clone(), Secret::new(text)))
}

/// Parses the text of a resources or keys file: a JSON object of base64.
///
/// # Errors
///
/// As for [`parse`].
pub fn parse_object(text: &[u8], kind: &Kind) -> Result<Entries, Problem> {
    match read(text, kind)? {
        Read::Entries(parsed) => Ok(parsed.entries()),
        Read::Credential(form) => Err(form.instead_of(wanted(kind))),
    }
}

/// What the text of a resources or keys file is.
enum Read {
    /// What it should be.
    Entries(Parsed),
    /// A credential as it is.
    Credential(Form),
}

fn read(text: &[u8], kind: &Kind) -> Result<Read, Problem> {
    let mut reading = Reading::new(text, kind)?;
    let (is_odd, mut read) = add_all(text, &mut reading);
    // One good key makes it a keys file, whatever the names of the others are.
    let is_certain = read.is_ok() && *kind == Kind::Keys && reading.has_good();
    if !is_certain && (is_odd || read.is_err()) {
        // What follows may need room of its own.
        drop(reading);
        match (Form::of(text), kind) {
            (Some(form @ (Form::AuthJson | Form::DockerCfg)), Kind::Resources) => {
                // What no client could use must not take away what was good.
                return match repair(text) {
                    Served::Refused(reason) => Err(unusable(form, &reason)),
                    _ => Ok(Read::Credential(form)),
                };
            }
            (Some(form), _) if form != Form::Resources => {
                return Err(form.instead_of(wanted(kind)));
            }
            _ => {}
        }
        reading = Reading::new(text, kind)?;
        (_, read) = add_all(text, &mut reading);
    }
    match read {
        Ok(()) => Ok(Read::Entries(reading.finish())),
        Err(error) => Err(not_an_object(error, fix_object(kind))),
    }
}

/// Adds all members of the text. Tells whether there is any that a file of entries does not have: of values that are all
/// strings it can be nothing else, but for a Kubernetes object without any data.
fn add_all<'a>(text: &'a [u8], reading: &mut Reading<'a>) -> (bool, Result<(), json::Error>) {
    let mut is_odd = false;
    let read = json::each_member(text, MAX_ENTRIES, |name, value, at| {
        is_odd |= !value.starts_with('"') || name == "apiVersion" || name == "credsStore";
        reading.add(name, value, at);
    });
    (is_odd, read)
}

/// The problem of a credential in the place of a resources file that no client could use.
fn unusable(form: Form, reason: &str) -> Problem {
    let problem = form.instead_of(wanted(&Kind::Resources));
    Problem {
        what: format!("{}, and no client could use it: {reason}", problem.what),
        fix: form::AUTH_JSON_FIX.to_owned(),
        ..problem
    }
}

fn wanted(kind: &Kind) -> &'static str {
    match kind {
        Kind::Keys => "a keys file",
        _ => "a resources file",
    }
}

fn credential_in_place_of_resources(form: Form) -> Problem {
    let what = format!(
        "it is {}, not a resources file; the daemon serves it as the credential ({CREDENTIAL}), but an upstream agent \
         serves nothing of it",
        form.name()
    );
    Problem::of_file(
        Severity::Warning,
        "auth-json-as-resources",
        what,
        form.fix(),
    )
}

fn not_an_object(error: json::Error, otherwise: &str) -> Problem {
    let (code, fix) = match error.what {
        Fault::LineBreakInString => (
            "line-break",
            "encode with `base64 -w 0`, which breaks no lines",
        ),
        Fault::Empty => (
            "empty",
            "the file was left empty or is half-written: write it again",
        ),
        Fault::CutOff => (
            "cut-off",
            "the file is half-written or cut off: write it again",
        ),
        Fault::ByteOrderMark | Fault::NotUtf8 => {
            ("encoding", "save it as UTF-8 without a byte order mark")
        }
        Fault::TooManyMembers(_) => (
            "too-many",
            "split the file, or remove what no client asks for",
        ),
        Fault::NotAnObject(_) | Fault::Syntax(_) => ("not-json", otherwise),
    };
    let mut problem = Problem::of_file(Severity::Error, code, error.what.to_string(), fix);
    problem.entry = error.member;
    problem.position = error.position;
    problem
}

/// What a credential is made by.
const AUTH_FILE_FIX: &str = form::AUTH_JSON_FIX;

fn fix_object(kind: &Kind) -> &'static str {
    match kind {
        Kind::Keys => r#"write {"<key id>": "<output of openssl rand -base64 32>"}"#,
        _ => {
            r#"write {"default/credential/test": "<output of base64 -w 0>"}, or use `offline-fs-kbc pack`"#
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::panic)]
    use super::*;

    fn owned(text: &str) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(text.as_bytes().to_vec())
    }

    fn resources(text: &str) -> Entries {
        parse(owned(text), &Kind::Resources).unwrap_or_else(|problem| panic!("{problem}"))
    }

    fn credential(entries: &Entries) -> Result<Vec<u8>, Box<str>> {
        let name = Name::parse(CREDENTIAL).unwrap();
        let value = entries.get(&name).unwrap().value.clone();
        value.map(|value| value.expose().to_vec())
    }

    /// One broken entry must not cost the others; each is reported with name, place and fix.
    #[test]
    fn a_broken_entry_stands_alone() {
        let entries = resources(
            "{\"Credential\": \"aGVsbG8\",\n \"a/b/bad\": \"aG!s\", \"a/b/list\": [1],\n \"a/b/ok\": \"eA==\"}",
        );
        assert_eq!(credential(&entries).unwrap(), b"hello");
        assert_eq!(entries.len(), 4);
        let shown: Vec<_> = entries.problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            shown,
            [
                "line 2 column 13: entry \"a/b/bad\": not base64: offset 2 has a character outside the alphabet; requests for it are refused; put the output of `base64 -w 0 FILE` there",
                "line 2 column 33: entry \"a/b/list\": an array instead of a string of base64; requests for it are refused; put the output of `base64 -w 0 FILE` there",
            ]
        );
    }

    #[test]
    fn the_last_duplicate_counts_and_is_reported() {
        for text in [
            r#"{"Credential":"YQ==","Credential":"aGVsbG8="}"#,
            r#"{"default/credential/test":"YQ==","/default/credential/test":"aGVsbG8="}"#,
        ] {
            let entries = resources(text);
            assert_eq!(credential(&entries).unwrap(), b"hello");
            let mut found = entries.problems.iter();
            assert!(found.any(|problem| problem.code == "name-twice"), "{text}");
        }
    }

    /// Problems come in the order of the text, each at its own entry, however names are written.
    #[test]
    fn problems_come_in_the_order_of_the_text() {
        let entries = resources(
            "{\"Policy\":\"YQ==\",\n\"a\\/b/c\":\"!\",\n\"z/z/z\":\"\",\n\"kbs:///a/b/c\":\"!\",\n\
             \"/a/b/c\":\"YQ==\",\n\"z/z/z\":\"\",\n\"default/security-policy/test\":\"Yg==\"}",
        );
        let shown = |problem: &Problem| {
            let line = problem.position.unwrap().line;
            let entry = problem.entry.clone().unwrap_or_default();
            let before = problem.what.split('"').nth(1).unwrap_or_default();
            format!("{line} {entry} {} {before}", problem.code)
        };
        let shown: Vec<_> = entries.problems.iter().map(shown).collect();
        assert_eq!(
            shown,
            [
                "2 a/b/c base64 ",
                "3 z/z/z value-empty ",
                "4 kbs:///a/b/c base64 ",
                "4 kbs:///a/b/c name-spelling a/b/c",
                "4 kbs:///a/b/c name-twice a/b/c",
                "5 /a/b/c name-spelling a/b/c",
                "5 /a/b/c name-twice kbs:///a/b/c",
                "6 z/z/z value-empty ",
                "6 z/z/z name-twice ",
                "1 Policy name-conflict default/security-policy/test",
            ]
        );
    }

    /// A path is found in every spelling, and reported in each but the one by which upstream agents look; their old names
    /// and other ids have one spelling only.
    #[test]
    fn names_that_only_this_daemon_finds_are_reported() {
        let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        for (name, reported) in [
            ("a/b/c", false),
            ("Credential", false),
            ("k1", false),
            ("kbs:///a/b", false),
            ("/a/b/c", true),
            ("kbs:///a/b/c", true),
            ("kbs://host/a/b/c?x=y", true),
            ("a/b/c?x=y", true),
        ] {
            for kind in [Kind::Resources, Kind::Keys] {
                let entries = parse(owned(&format!(r#"{{"{name}":"{key}"}}"#)), &kind);
                let problems = entries.ok().unwrap().problems;
                let found = problems.iter().map(|problem| (problem.code, &*problem.fix));
                let expected = reported.then_some(("name-spelling", r#"name it "a/b/c""#));
                assert_eq!(
                    found.collect::<Vec<_>>(),
                    Vec::from_iter(expected),
                    "{name}"
                );
            }
        }
    }

    /// Both names with different values are reported; with one value, or one of them broken, there is
    /// nothing to choose.
    #[test]
    fn old_name_and_path_in_conflict_are_reported() {
        let good = "aGVsbG8=";
        for (old, path, problems) in [
            ("YQ==", good, 1),
            (good, good, 0),
            (good, "!", 1),
            ("!", good, 1),
        ] {
            for text in [
                format!(r#"{{"Credential":"{old}","default/credential/test":"{path}"}}"#),
                format!(r#"{{"default/credential/test":"{path}","Credential":"{old}"}}"#),
            ] {
                let entries = resources(&text);
                assert_eq!(entries.len(), 1, "{text}");
                assert_eq!(entries.problems.len(), problems, "{text}");
            }
        }
    }

    /// JSON encoders may escape the slash, and a line break may stand escaped.
    #[test]
    fn escapes_are_undone() {
        let entries = resources(r#"{"Credential":"Pz8\/\nPz8/"}"#);
        assert_eq!(credential(&entries).unwrap(), b"??????");
    }

    /// URL-safe base64 has one reading, so it is served, and reported since other agents refuse it.
    #[test]
    fn the_url_safe_alphabet_is_read_and_reported() {
        let key = "_-AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
        for (text, kind) in [
            (r#"{"a/b/c":"Pz8_Pj4-"}"#.to_owned(), Kind::Resources),
            (format!(r#"{{"a/b/c":"{key}"}}"#), Kind::Keys),
        ] {
            let entries = parse(owned(&text), &kind).ok().unwrap();
            let found: Vec<_> = entries.problems.iter().collect();
            assert_eq!(found.len(), 1, "{text}");
            let told = (found[0].code, found[0].severity);
            assert_eq!(told, ("base64-url-safe", Severity::Warning));
            let value = entries.get(&Name::parse("a/b/c").unwrap()).unwrap();
            assert!(value.value.is_ok(), "{text}");
        }
        let mixed = resources(r#"{"a/b/c":"Pz8_Pz8/"}"#);
        let shown = mixed.problems[0].to_string();
        assert!(shown.contains("both the standard"), "{shown}");
    }

    /// A credential in the place of a resources file counts as long as a client can use it. Otherwise the file fails as a
    /// whole, and so takes nothing away that was good.
    #[test]
    fn a_credential_in_the_place_of_resources_must_be_usable() {
        for text in [
            r#"{"auths":{"q.io":{"auth":"dTpw"}}}"#,
            r#"{"auths":{"q.io":{"username":"u","password":"p"},"r.io":{}}}"#,
            r#"{"q.io":{"auth":"dTpw"}}"#,
            r#"{"auths":{}}"#,
        ] {
            let entries = resources(text);
            assert_eq!(credential(&entries).unwrap(), text.as_bytes());
            assert!(entries.is_whole());
            assert_eq!(entries.problems[0].code, "auth-json-as-resources");
        }
        for text in [
            "\u{feff}{\"auths\":{\"q.io\":{\"auth\":\"dTpw\"}}}",
            r#"{"credsStore":"desktop"}"#,
            r#"{"auths":{"q.io":{}}}"#,
        ] {
            let problem = parse(owned(text), &Kind::Resources).err().unwrap();
            assert_eq!(problem.code, "wrong-form", "{text}");
            assert!(problem.what.contains("no client could use it"), "{problem}");
        }
    }

    /// A key may have any id. Beside a good one, no name makes the file another kind.
    #[test]
    fn a_keys_file_stays_one() {
        let key = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        for odd in [
            r#""auths":{}"#,
            r#""default":[]"#,
            r#""apiVersion":"v1","kind":"Secret""#,
        ] {
            let text = format!(r#"{{"k":"{key}",{odd}}}"#);
            let entries = parse(owned(&text), &Kind::Keys).ok().unwrap();
            let good = entries.iter().filter(|entry| entry.value.is_ok());
            assert_eq!(good.count(), 1, "{text}");
            let alone = format!("{{{odd}}}");
            let problem = parse(owned(&alone), &Kind::Keys).err().unwrap();
            assert_eq!(problem.code, "wrong-form", "{alone}");
        }
    }

    #[test]
    fn a_key_has_32_bytes() {
        let long = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let text = format!(r#"{{"good":"{long}","short":"AAAA"}}"#);
        let entries = parse(owned(&text), &Kind::Keys).ok().unwrap();
        assert_eq!(entries.problems.len(), 1);
        assert!(
            entries.problems[0]
                .to_string()
                .contains("\"short\": decodes to 3 bytes")
        );
    }

    #[test]
    fn a_file_in_lines_names_the_mend() {
        let problem = parse(owned("{\"Credential\":\"aGVs\nbG8=\"}"), &Kind::Resources)
            .err()
            .unwrap();
        let shown = problem.to_string();
        assert!(
            shown.contains("base64 -w 0") && shown.contains("\"Credential\""),
            "{shown}"
        );
    }
}
