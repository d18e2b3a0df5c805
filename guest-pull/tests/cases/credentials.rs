// SPDX-License-Identifier: Apache-2.0

//! Logins: which entry of an `auth.json` is used, in what form, and how a registry is
//! answered with it.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::host::{guest_pull, output, text};
use crate::image::{Image, Repository, archive, noise};
use crate::played::basic;
use crate::stand_in::{Answer, StandIn};

pub fn auth(user: &str, password: &str) -> Value {
    let header = basic(user, password);
    json!({"auth": header.trim_start_matches("Basic ")})
}

pub fn write(path: &Path, entries: &Value) {
    // Whoever reads it meets the old one or the new one.
    let new = path.with_extension("new");
    fs::write(&new, json!({"auths": entries}).to_string()).unwrap();
    fs::rename(new, path).unwrap();
}

pub fn image(count: u64) -> (Repository, Image) {
    let layer = |seed: u64| archive(&[(format!("file-{seed}"), noise(seed + 1, 50_000))]);
    Repository::of(&(0..count).map(layer).collect::<Vec<_>>())
}

/// A directory with a credential and a store.
pub struct Here {
    dir: tempfile::TempDir,
}

impl Here {
    pub fn new(entries: &Value) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let here = Self { dir };
        write(&here.auth_file(), entries);
        here
    }

    pub fn auth_file(&self) -> PathBuf {
        self.dir.path().join("auth.json")
    }

    /// Runs the command for an image; gives what it prints, and its exit status.
    fn run(&self, command: &str, image: &str) -> (String, i32) {
        let mut command = guest_pull(&[command, "--plain-http", "--auth-file"]);
        command.arg(self.auth_file()).arg(image);
        let (stdout, stderr, code) = output(&mut command);
        (format!("{stdout}{stderr}"), code.unwrap())
    }

    fn inspect(&self, server: &StandIn, name: &str) -> (String, i32) {
        self.run("inspect", &format!("{}/{name}:1", server.address))
    }

    pub fn pull(&self, server: &StandIn) -> (String, i32) {
        let store = self.dir.path().join("store");
        let image = format!("{}/a/b:1", server.address);
        let mut command = guest_pull(&["pull", "--plain-http", "--store", text(&store)]);
        let (stdout, stderr, code) =
            output(command.arg("--auth-file").arg(self.auth_file()).arg(image));
        (format!("{stdout}{stderr}"), code.unwrap())
    }
}

/// A registry that takes any login by Basic, and has the same image under every name.
fn takes_all() -> StandIn {
    let (repository, _) = image(1);
    StandIn::start(move |asked| match &asked.authorization {
        None => Answer::new(401, "{}").with("WWW-Authenticate", "Basic realm=\"r\""),
        Some(_) => repository.answer(&asked.path),
    })
}

/// The headers that the server got, each once.
pub fn headers(server: &StandIn) -> BTreeSet<String> {
    let asked = server.asked().into_iter();
    asked.filter_map(|asked| asked.authorization).collect()
}

/// Of several entries for a host, that counts whose path is the longest leading part of the repository, in whole names; then one
/// that names the host with a scheme; then there is no login, and it is said.
#[test]
fn the_longest_match_counts() {
    let server = takes_all();
    let host = server.address.clone();
    let key = |rest: &str| format!("{host}{rest}");
    let all = json!({
        key(""): auth("host", "p-host"),
        key("/team"): auth("team", "p-team"),
        key("/team/app"): auth("app", "p-app"),
        key("/team/app/deep"): auth("deep", "p-deep"),
        key("/tea"): auth("tea", "p-tea"),
        key("/other/"): auth("slash", "p-slash"),
        "elsewhere.example": auth("elsewhere", "p-else"),
    });
    let here = Here::new(&all);
    for (name, user) in [
        ("x", "host"),
        ("other/x", "host"),
        ("team/x", "team"),
        ("team/apps", "team"),
        ("team/app", "app"),
        ("team/app/x", "app"),
        ("team/app/deep", "deep"),
        ("teams/x", "host"),
        ("tea/x", "tea"),
    ] {
        let before = server.asked().len();
        let (said, code) = here.inspect(&server, name);
        assert_eq!(code, 0, "{name}: {said}");
        let asked = server.asked().split_off(before);
        let used: Vec<_> = asked
            .into_iter()
            .filter_map(|asked| asked.authorization)
            .collect();
        let password = format!("p-{user}");
        assert_eq!(used, [basic(user, &password)], "{name}");
    }
    for (key, is_found) in [
        (format!("http://{host}"), true),
        (format!("https://{host}/v1/"), true),
        (format!("{host}/team/x"), false),
        (format!("{host}/v2/"), false),
        ("127.0.0.1".to_owned(), false),
        ("127.0.0.1:1".to_owned(), false),
    ] {
        let here = Here::new(&json!({key.clone(): auth("robot", "p")}));
        let (said, code) = here.inspect(&server, "team/app");
        assert_eq!(code == 0, is_found, "{key}: {said}");
        assert_eq!(said.contains("anonymous"), !is_found, "{key}: {said}");
    }
}

/// Several tokens for one registry: each repository gets its own, and no other.
#[test]
fn each_repository_has_its_token() {
    let (repository, _) = image(1);
    let server = StandIn::start(move |asked| {
        let team = asked.path.split('/').nth(2).unwrap();
        match asked.authorization == Some(format!("Bearer token-of-{team}")) {
            true => repository.answer(&asked.path),
            false => Answer::new(401, r#"{"errors":[{"message":"not this one"}]}"#),
        }
    });
    let key = |team: &str| format!("{}/{team}", server.address);
    let entry = |team: &str| json!({"registrytoken": format!("token-of-{team}")});
    let here = Here::new(&json!({key("one"): entry("one"), key("two"): entry("two")}));
    for team in ["one", "two"] {
        let (said, code) = here.inspect(&server, &format!("{team}/app"));
        assert_eq!(code, 0, "{said}");
    }
    let (said, code) = here.inspect(&server, "three/app");
    assert_eq!(code, 3, "{said}");
    assert_eq!(headers(&server).len(), 2);
}

/// A `registrytoken` is sent as it is, from the first request on, in whatever way the registry asks; if it is refused, the
/// entry is named, and there is no request without it.
#[test]
fn a_registrytoken_is_sent_as_it_is() {
    let (repository, _) = image(1);
    let server = StandIn::start(move |asked| match asked.authorization.as_deref() {
        Some("Bearer good-token") => repository.answer(&asked.path),
        _ => Answer::new(
            401,
            r#"{"errors":[{"message":"jwt is expired: bad-token"}]}"#,
        )
        .with(
            "WWW-Authenticate",
            format!("Bearer realm=\"http://{}/token\"", asked.host),
        ),
    });
    // It counts before what else the entry has.
    let entry = |token: &str| {
        let mut entry = auth("robot", "hunter2");
        entry["identitytoken"] = json!("hunter3");
        entry["registrytoken"] = json!(token);
        json!({server.address.clone(): entry})
    };
    let here = Here::new(&entry("good-token"));
    let (said, code) = here.inspect(&server, "a/b");
    assert_eq!(code, 0, "{said}");
    let here = Here::new(&entry("bad-token"));
    let (said, code) = here.inspect(&server, "a/b");
    assert_eq!(code, 3, "{said}");
    let named = format!("the registrytoken of the entry {}", server.address);
    assert!(
        said.contains(&named) && said.contains("jwt is expired: [redacted]"),
        "{said}"
    );
    let asked = server.asked();
    assert!(
        asked.iter().all(|asked| asked.authorization.is_some()),
        "{asked:?}"
    );
    assert!(
        asked.iter().all(|asked| !asked.path.contains("/token")),
        "{asked:?}"
    );
}

/// Entries that other clients take: a name and a password by themselves; a token without `auth`. What can't be used is an error
/// that names the entry, and never an anonymous pull.
#[test]
fn entries_have_several_forms() {
    let server = takes_all();
    for (entry, expected) in [
        (
            json!({"username": "robot", "password": "hunter2"}),
            Some(basic("robot", "hunter2")),
        ),
        (
            json!({"username": "robot", "identitytoken": "hunter2"}),
            Some(basic("robot", "hunter2")),
        ),
        (
            json!({"registrytoken": "hunter2"}),
            Some("Bearer hunter2".to_owned()),
        ),
        (
            json!({"auth": "cm9ib3Q6aHVudGVyMg==", "identitytoken": "", "registrytoken": ""}),
            Some(basic("robot", "hunter2")),
        ),
        (json!({}), None),
        (json!({"username": "robot"}), None),
        (json!({"auth": "hunter2!", "email": "x"}), None),
        (json!({"auth": 1}), None),
        (json!("hunter2"), None),
    ] {
        let before = server.asked().len();
        let here = Here::new(&json!({server.address.clone(): entry.clone()}));
        let (said, code) = here.inspect(&server, "a/b");
        assert!(!said.contains("hunter"), "{said}");
        let asked = server.asked().split_off(before);
        match expected {
            Some(header) => {
                assert_eq!(code, 0, "{entry}: {said}");
                let used: Vec<_> = asked.into_iter().filter_map(|a| a.authorization).collect();
                assert_eq!(used, [header], "{entry}");
            }
            None => {
                assert_eq!(code, 1, "{entry}: {said}");
                assert!(
                    said.contains(&server.address) && said.contains("can't be used"),
                    "{said}"
                );
                assert!(asked.is_empty(), "{entry}: {asked:?}");
            }
        }
    }
}

/// However a registry writes its challenges, the token or login that they ask for is sent.
#[test]
fn challenges_of_every_form() {
    let cases: &[(&[&str], &str)] = &[
        // Without scope, or service, or both; with nothing in them.
        (
            &["Bearer realm=\"http://HOST/token\""],
            "scope=repository:a/b:pull",
        ),
        (
            &["Bearer realm=\"http://HOST/token\",service=\"s\""],
            "service=s&scope=repository:a/b:pull",
        ),
        (
            &["Bearer realm=\"http://HOST/token\",service=\"\",scope=\"\""],
            "scope=repository:a/b:pull",
        ),
        // Another scope beside, more than pulling, several.
        (
            &["Bearer realm=\"http://HOST/token\",scope=\"aws\""],
            "scope=repository:a/b:pull&scope=aws",
        ),
        (
            &[
                "Bearer realm=\"http://HOST/token\",scope=\"repository:a/b:pull,push registry:catalog:*\"",
            ],
            "scope=repository:a/b:pull%2Cpush&scope=registry:catalog:%2A",
        ),
        // Commas and equal signs in quotes; several in one header, and in several.
        (
            &[
                "Basic realm=\"a, Bearer realm=b\", Bearer realm=\"http://HOST/token\",service=\"x, y=z\"",
            ],
            "service=x%2C%20y%3Dz&scope=repository:a/b:pull",
        ),
        (
            &[
                "Negotiate",
                "Basic realm=\"x\"",
                "bearer  Realm = http://HOST/token , Service=s",
            ],
            "service=s&scope=repository:a/b:pull",
        ),
        // On the registry itself, and with a query of its own.
        (&["Bearer realm=\"/token\""], "scope=repository:a/b:pull"),
        (
            &["Bearer realm=\"http://HOST/token?tenant=t\",service=\"s\""],
            "tenant=t&service=s&scope=repository:a/b:pull",
        ),
        (
            &[
                "Bearer realm=\"HTTP://HOST/token\",error=\"invalid_token\",error_description=\"a \\\"b\\\"\"",
            ],
            "scope=repository:a/b:pull",
        ),
    ];
    let (repository, _) = image(1);
    let repository = Arc::new(repository);
    for (challenges, query) in cases {
        let repository = Arc::clone(&repository);
        let challenges = challenges.to_vec();
        let server = StandIn::start(move |asked| {
            if asked.path.starts_with("/token") {
                return Answer::new(200, r#"{"access_token":"t"}"#);
            }
            if asked.authorization.as_deref() == Some("Bearer t") {
                return repository.answer(&asked.path);
            }
            let header = |text: &&str| text.replace("HOST", &asked.host);
            let headers = challenges.iter().map(header);
            headers.fold(Answer::new(401, "{}"), |answer, header| {
                answer.with("WWW-Authenticate", header)
            })
        });
        let here = Here::new(&json!({server.address.clone(): auth("robot", "hunter2")}));
        let (said, code) = here.inspect(&server, "a/b");
        assert_eq!(code, 0, "{query}: {said}");
        let asked = server.asked();
        let token = asked
            .iter()
            .find(|asked| asked.path.starts_with("/token"))
            .unwrap();
        assert_eq!(token.path, format!("/token?{query}"));
        assert_eq!(token.authorization, Some(basic("robot", "hunter2")));
    }
    // What can't be answered is an error that says why.
    for (challenge, expected) in [
        (Some("Digest realm=\"x\", nonce=\"y\""), "a login by Digest"),
        (Some("Bearer service=\"x\""), "a login by Bearer"),
        (Some("Bearer realm=\"ftp://x/token\""), "without https"),
        (
            None,
            "refuses a request without a login (it names no way to log in",
        ),
    ] {
        let server = StandIn::start(move |_| match challenge {
            Some(challenge) => Answer::new(401, "{}").with("WWW-Authenticate", challenge),
            None => Answer::new(401, "{}"),
        });
        let here = Here::new(&json!({server.address.clone(): auth("robot", "hunter2")}));
        let (said, code) = here.inspect(&server, "a/b");
        assert_ne!(code, 0, "{said}");
        assert!(
            said.contains(expected) && said.contains(&server.address),
            "{said}"
        );
        assert!(headers(&server).is_empty(), "{challenge:?}");
    }
}

/// A registry or a token server that repeats what it was sent brings no secret into a message.
#[test]
fn secrets_that_come_back_are_hidden() {
    let server = StandIn::start(|asked| {
        let sent = format!(
            "{} {}",
            asked.authorization.clone().unwrap_or_default(),
            asked.body
        );
        if asked.path.starts_with("/token") && !asked.path.contains("ok") {
            let body = json!({"message": format!("hunter2 is wrong: {sent}")});
            return Answer::new(401, body.to_string());
        }
        if asked.path.starts_with("/token") {
            return Answer::new(200, r#"{"token":"to-ken"}"#);
        }
        let ok = if asked.path.contains("ok") { "?ok" } else { "" };
        let realm = format!(
            "Bearer realm=\"http://{}/token{ok}\",error=\"hunter2\"",
            asked.host
        );
        let body = json!({"errors": [{"message": format!("hunter2 is wrong: {sent}")}]});
        Answer::new(401, body.to_string()).with("WWW-Authenticate", realm)
    });
    for entry in [
        auth("robot", "hunter2"),
        json!({"identitytoken": "hunter2"}),
        json!({"registrytoken": "hunter2"}),
    ] {
        let here = Here::new(&json!({server.address.clone(): entry.clone()}));
        for name in ["a/b", "a/ok"] {
            let (said, code) = here.inspect(&server, name);
            assert_eq!(code, 3, "{said}");
            assert!(said.contains("[redacted] is wrong"), "{said}");
            for secret in ["hunter", "to-ken", "cm9ib3Q6aHVudGVyMg", "Omh1bnRlcjI"] {
                assert!(!said.contains(secret), "{secret}: {said}");
            }
        }
    }
}

/// The same with what is no refusal: whatever a server says is shown without it.
#[test]
fn secrets_are_hidden_in_every_answer() {
    for (status, path) in [(404, "/v2/"), (418, "/v2/"), (418, "/token")] {
        let server = StandIn::start(move |asked| {
            let sent = asked.authorization.clone().unwrap_or_default();
            let says = || {
                Answer::new(
                    status,
                    json!({"message": format!("no: {sent} hunter2")}).to_string(),
                )
            };
            if asked.path.starts_with(path) && !sent.is_empty() {
                return says();
            }
            if asked.path.starts_with("/token") {
                return Answer::new(200, r#"{"token":"to-ken"}"#);
            }
            let realm = format!("Bearer realm=\"http://{}/token\"", asked.host);
            Answer::new(401, "{}").with("WWW-Authenticate", realm)
        });
        let here = Here::new(&json!({server.address.clone(): auth("robot", "hunter2")}));
        let (said, _) = here.inspect(&server, "a/b");
        assert!(
            said.contains("no: ") && said.contains("[redacted]"),
            "{said}"
        );
        for secret in ["hunter", "to-ken", "cm9ib3Q6aHVudGVyMg"] {
            assert!(!said.contains(secret), "{secret}: {said}");
        }
    }
}

/// A redirect within the registry keeps the login, and one to another port or name does not; nor does the way back. A token
/// server's redirect to another server is an error, since that one would get the login, or give an anonymous token.
#[test]
fn redirects_keep_the_login_at_home() {
    let (repository, described) = image(1);
    let repository = Arc::new(repository);
    let layer = described.layers[0].clone();
    let blobs = Arc::clone(&repository);
    let elsewhere = StandIn::start(move |asked| blobs.answer(&asked.path));
    let other = elsewhere.address.clone();
    let right = basic("robot", "hunter2");
    let moved = layer.clone();
    let server = StandIn::start(move |asked| {
        if asked.authorization.as_ref() != Some(&right) {
            return Answer::new(401, "{}").with("WWW-Authenticate", "Basic realm=\"r\"");
        }
        if let Some(rest) = asked.path.strip_prefix("/v2/") {
            return Answer::new(307, "").with("Location", format!("/moved/{rest}"));
        }
        match asked.path.ends_with(&moved) {
            true => Answer::new(302, "").with("Location", format!("http://{other}/blobs/{moved}")),
            false => repository.answer(&asked.path),
        }
    });
    let here = Here::new(&json!({server.address.clone(): auth("robot", "hunter2")}));
    let (said, code) = here.pull(&server);
    assert_eq!(code, 0, "{said}");
    let asked = elsewhere.asked();
    assert_eq!(asked.len(), 1, "{asked:?}");
    assert_eq!(asked[0].authorization, None);

    let other = elsewhere.address.clone();
    let server = StandIn::start(move |asked| match asked.path.split('?').next().unwrap() {
        "/token" => Answer::new(302, "").with("Location", "/token/?x=y"),
        "/token/" => Answer::new(302, "").with("Location", format!("http://{other}/token")),
        _ => Answer::new(401, "{}").with(
            "WWW-Authenticate",
            format!("Bearer realm=\"http://{}/token\"", asked.host),
        ),
    });
    let here = Here::new(&json!({server.address.clone(): auth("robot", "hunter2")}));
    let (said, code) = here.inspect(&server, "a/b");
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("redirect to another server"), "{said}");
    assert_eq!(elsewhere.asked().len(), 1);
}

/// What holds the blobs may refuse a link: that is no refusal of the login, and its host and the registry are named.
#[test]
fn a_refused_link_is_no_refused_login() {
    let (repository, described) = image(1);
    let layer = described.layers[0].clone();
    let elsewhere = StandIn::start(|_| Answer::new(403, "<Code>AccessDenied</Code>"));
    let location = format!("http://{}/x", elsewhere.address);
    let server = StandIn::start(move |asked| match asked.path.ends_with(&layer) {
        true => Answer::new(307, "").with("Location", &*location),
        false => repository.answer(&asked.path),
    });
    let here = Here::new(&json!({server.address.clone(): auth("robot", "hunter2")}));
    let (said, code) = here.pull(&server);
    assert_ne!(code, 0);
    let expected = format!("{} answers 403 Forbidden to the link", elsewhere.address);
    assert!(
        said.contains(&expected) && said.contains(&server.address),
        "{said}"
    );
    assert!(!said.contains("robot"), "{said}");
}
