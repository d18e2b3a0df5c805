// SPDX-License-Identifier: Apache-2.0

//! Logins that change: between two pulls, and during one.

use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::json;
use ttrpc::Code;

use crate::caller::{Place, daemon, recorded};
use crate::credentials::{Here, auth, headers, image, write};
use crate::host::{Mounted, is_root, run, support};
use crate::played::basic;
use crate::registry::{PASSWORD, Registry};
use crate::stand_in::{Answer, Asked, StandIn};

/// A registry with Basic whose password changes when a blob is asked for, after two others: first `change` happens, with the
/// registry's name, and then another password is right.
fn changes(change: impl Fn(&str) + Send + Sync + 'static) -> StandIn {
    let (repository, _) = image(4);
    let right = Mutex::new(basic("robot", "hunter2"));
    let blobs = AtomicUsize::new(0);
    StandIn::start(move |asked: &Asked| {
        let is_blob = asked.path.contains("/blobs/") && asked.authorization.is_some();
        if is_blob && blobs.fetch_add(1, Ordering::SeqCst) == 2 {
            change(&asked.host);
            *right.lock().unwrap() = basic("robot", "hunter3");
        }
        match asked.authorization.as_ref() == Some(&*right.lock().unwrap()) {
            true => repository.answer(&asked.path),
            false => Answer::new(401, r#"{"errors":[{"message":"old password"}]}"#)
                .with("WWW-Authenticate", "Basic realm=\"r\""),
        }
    })
}

/// A login that is refused in the middle is replaced by today's, once, and the pull goes on; if today's is the same, or is gone, the
/// refusal is the answer, and nothing is tried without a login.
#[test]
fn a_login_that_changes_during_a_pull() {
    for (today, goes_on) in [
        (Some(("robot", "hunter3")), true),
        (Some(("robot", "hunter2")), false),
        (Some(("robot", "hunter4")), false),
        (None, false),
    ] {
        let here = Here::new(&json!({}));
        let file = here.auth_file();
        let server = changes(move |registry| match today {
            Some((user, password)) => write(&file, &json!({registry: auth(user, password)})),
            None => write(&file, &json!({})),
        });
        let before = json!({server.address.clone(): auth("robot", "hunter2")});
        write(&here.auth_file(), &before);
        let (said, code) = here.pull(&server);
        assert_eq!(code == 0, goes_on, "{today:?}: {said}");
        if !goes_on {
            assert!(
                said.contains("old password") && said.contains(&server.address),
                "{said}"
            );
        }
        assert!(!said.contains("hunter"), "{said}");
        // The first request alone, and what tells how it wants to be asked anew.
        let asked = server.asked();
        let bare = asked
            .iter()
            .filter(|asked| asked.authorization.is_none())
            .count();
        assert!(bare <= 1 + 3, "{asked:?}");
        let tried: BTreeSet<_> = headers(&server);
        assert!(tried.len() <= 2, "{tried:?}");
    }
}

/// A login that is refused within a layer, since the connection broke and the registry is asked for the rest: today's goes on
/// where the other one ended.
#[test]
fn a_login_that_changes_within_a_layer() {
    let (repository, described) = image(1);
    let layer = described.layers[0].clone();
    let here = Here::new(&json!({}));
    let file = here.auth_file();
    let is_changed = AtomicBool::new(false);
    let server = StandIn::start(move |asked| {
        let right = match is_changed.load(Ordering::SeqCst) {
            true => basic("robot", "hunter3"),
            false => basic("robot", "hunter2"),
        };
        if asked.authorization.as_ref() != Some(&right) {
            let challenge = "Basic realm=\"r\"";
            return Answer::new(401, "{}").with("WWW-Authenticate", challenge);
        }
        if !asked.path.ends_with(&layer) {
            return repository.answer(&asked.path);
        }
        let rest = Answer::rest(&repository.blobs[&layer], asked.from);
        if is_changed.load(Ordering::SeqCst) {
            return rest;
        }
        write(
            &file,
            &json!({asked.host.clone(): auth("robot", "hunter3")}),
        );
        is_changed.store(true, Ordering::SeqCst);
        rest.cut(10_000)
    });
    let before = json!({server.address.clone(): auth("robot", "hunter2")});
    write(&here.auth_file(), &before);
    let (said, code) = here.pull(&server);
    assert_eq!(code, 0, "{said}");
    // It began with the one, and went on with the other.
    let asked = server.asked();
    let mut layer = asked
        .iter()
        .filter(|asked| asked.path.contains(&described.layers[0]));
    let first = layer.next().unwrap();
    assert_eq!(first.authorization, Some(basic("robot", "hunter2")));
    let last = layer.next_back().unwrap();
    assert_eq!(last.authorization, Some(basic("robot", "hunter3")));
    assert!(last.from > Some(0), "{last:?}");
}

/// `[image]` that lets the registry be asked without TLS.
fn insecure(address: &str) -> String {
    format!(
        "[image]\n[[image.registry_config.registry]]\nlocation = \"{address}\"\ninsecure = true\n"
    )
}

fn entry(address: &str, password: &str) -> Vec<u8> {
    json!({"auths": {address: auth("robot", password)}})
        .to_string()
        .into_bytes()
}

/// A real registry whose password changes between two pulls: each pull asks for the credential, and nothing is remembered.
#[test]
fn a_login_that_changes_between_pulls() {
    if !is_root() {
        return;
    }
    let place = Place::new(false);
    let layout = place.at("layout");
    run(support("make-image").arg(&layout));
    let registry = Registry::start_with_login();
    let image = registry.push(&layout);
    place.configure(&insecure(&registry.address));
    let pull = |expected: Code| {
        let _ = fs::create_dir(place.bundle());
        let answer = place.ask(&recorded(&image, &place.bundle()));
        assert_eq!(answer.code(), expected, "{}", answer.text());
        drop(Mounted(place.rootfs()));
        fs::remove_dir_all(place.bundle()).unwrap();
        answer
    };
    daemon(&place, Ok(entry(&registry.address, PASSWORD)));
    pull(Code::OK);
    registry.change_password("hunter5");
    let refused = pull(Code::UNAUTHENTICATED);
    let named = format!("the login of robot by the entry {}", registry.address);
    assert!(refused.text().contains(&named), "{}", refused.text());
    daemon(&place, Ok(entry(&registry.address, "hunter5")));
    pull(Code::OK);
    daemon(&place, Err(Code::NOT_FOUND));
    let refused = pull(Code::UNAUTHENTICATED);
    assert!(refused.text().contains("anonymous"), "{}", refused.text());
    assert!(!place.log().contains("hunter"), "{}", place.log());
}

/// A real registry whose password changes during a pull: the daemon is asked again, and the pull goes on.
#[test]
fn a_login_that_changes_during_a_pull_is_asked_for_anew() {
    if !is_root() {
        return;
    }
    let place = Place::new(false);
    let layout = place.at("layout");
    run(support("make-image").arg(&layout));
    let registry = Arc::new(Registry::start_with_login());
    registry.push(&layout);
    // Between the two, to know when the first layer is asked for.
    let place = Arc::new(place);
    let (behind, daemon_at) = (Arc::clone(&registry), Arc::clone(&place));
    let blobs = AtomicUsize::new(0);
    let config = ureq::Agent::config_builder().http_status_as_error(false);
    let agent = config.max_redirects(0).build().new_agent();
    let between = StandIn::start(move |asked| {
        let is_blob = asked.path.contains("/blobs/") && asked.authorization.is_some();
        if is_blob && blobs.fetch_add(1, Ordering::SeqCst) == 1 {
            daemon(&daemon_at, Ok(entry(&asked.host, "hunter6")));
            behind.change_password("hunter6");
        }
        let mut request = agent.get(format!("http://{}{}", behind.address, asked.path));
        if let Some(header) = &asked.authorization {
            request = request.header("Authorization", header);
        }
        let request = request.header("Accept", "application/vnd.oci.image.manifest.v1+json");
        let mut response = request.call().unwrap();
        let challenge = response.headers().get("WWW-Authenticate");
        let challenge = challenge.map(|value| value.to_str().unwrap().to_owned());
        let status = response.status().as_u16();
        let answer = Answer::new(status, response.body_mut().read_to_vec().unwrap());
        match challenge {
            Some(challenge) => answer.with("WWW-Authenticate", challenge),
            None => answer,
        }
    });
    place.configure(&insecure(&between.address));
    daemon(&place, Ok(entry(&between.address, PASSWORD)));
    let image = format!("{}/a/b:1", between.address);
    let answer = place.ask(&recorded(&image, &place.bundle()));
    assert_eq!(answer.code(), Code::OK, "{}", answer.text());
    drop(Mounted(place.rootfs()));
    assert!(headers(&between).contains(&basic("robot", "hunter6")));
    let log = place.log();
    assert!(
        log.contains("the credential is read anew") && !log.contains("hunter"),
        "{log}"
    );
}

/// A password that was let in and is refused then is not sent again for the same thing: some registries lock accounts.
#[test]
fn a_refused_password_is_sent_once() {
    let (repository, _) = image(1);
    let server = StandIn::start(move |asked: &Asked| {
        let is_let_in = asked.authorization.is_some() && !asked.path.contains("/blobs/");
        match is_let_in {
            true => repository.answer(&asked.path),
            false => Answer::new(401, "{}").with("WWW-Authenticate", "Basic realm=\"r\""),
        }
    });
    let here = Here::new(&json!({server.address.clone(): auth("robot", "hunter2")}));
    let (said, code) = here.pull(&server);
    assert_ne!(code, 0, "{said}");
    let asked = server.asked();
    let of_blobs = asked.iter().filter(|asked| asked.path.contains("/blobs/"));
    let with_login = of_blobs.filter(|asked| asked.authorization.is_some());
    assert_eq!(with_login.count(), 1, "{said}");
}
