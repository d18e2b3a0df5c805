// SPDX-License-Identifier: Apache-2.0

//! Token servers that are elsewhere, that send something else than a token, or lead in circles; and layers whose token
//! ends.

use std::collections::HashSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use crate::hostile_documents::PIECES;
use crate::image::{Repository, archive, noise};
use crate::network::{assert_failed, assert_pulled, pull_once, repository};
use crate::odd_answers::pull_bounded;
use crate::raw_server::{Part, RawServer, whole, with_head};
use crate::stand_in::{Answer, Asked, StandIn};

/// A registry that lets nobody in without a token of this server.
fn registry(realm: &str) -> StandIn {
    let realm = realm.to_owned();
    StandIn::start(move |_| {
        let challenge = format!("Bearer realm=\"{realm}\",service=\"r\"");
        Answer::new(401, "{}").with("WWW-Authenticate", challenge)
    })
}

/// A token server elsewhere that sends no token is an error that names both servers and the reason; it is not read any
/// further than a token can be long.
#[test]
fn token_servers_that_give_none() {
    type Case = (&'static str, fn(&str) -> Vec<Part>, &'static [&'static str]);
    let cases: [Case; 10] = [
        (
            "10 MB",
            |_| {
                let text = format!(r#"{{"token":"{}"}}"#, "x".repeat(10 << 20));
                vec![whole("200", "", text.as_bytes())]
            },
            &["more than 1048576 bytes"],
        ),
        (
            "without end",
            |_| {
                vec![
                    with_head("HTTP/1.1 200 -\r\n", b"{\"token\":\""),
                    Part::Endless(vec![b'x'; 100_000], Duration::ZERO),
                ]
            },
            &["more than 1048576 bytes"],
        ),
        (
            "spaces without end",
            |_| {
                vec![
                    with_head("HTTP/1.1 200 -\r\n", b"{"),
                    Part::Endless(vec![b' '; 100_000], Duration::ZERO),
                ]
            },
            &["more than 1048576 bytes"],
        ),
        (
            "deep JSON",
            |_| vec![whole("200", "", "[".repeat(1_000_000).as_bytes())],
            &["with no token"],
        ),
        (
            "no JSON",
            |_| vec![whole("200", "", b"<html>")],
            &["with no token"],
        ),
        (
            "a token that no header can have",
            |_| vec![whole("200", "", br#"{"token":"a\r\nHost: b"}"#)],
            &["with no token"],
        ),
        (
            "nothing",
            |_| vec![whole("200", "", b"")],
            &["with no token"],
        ),
        (
            "redirects without end",
            |path| vec![whole("302", &format!("Location: {path}&x=y\r\n"), b"")],
            &["302"],
        ),
        (
            "a redirect to nowhere",
            |_| vec![whole("302", "", b"")],
            &["redirect to nowhere"],
        ),
        (
            "an error of 10 MB",
            |_| vec![whole("404", "", &vec![b'x'; 10 << 20])],
            &["404"],
        ),
    ];
    thread::scope(|scope| {
        for (name, answer, expected) in cases {
            scope.spawn(move || {
                let tokens = RawServer::start(move |asked| answer(&asked.path));
                let registry = registry(&format!("http://{}/token", tokens.address));
                let named = format!(
                    "{}, the token server of {},",
                    tokens.address, registry.address
                );
                let pulled = pull_bounded(name, &registry.address);
                let parts = [&[named.as_str()], expected].concat();
                let said = assert_failed(pulled, &parts);
                assert!(said.len() < 5_000, "{name}: {} bytes", said.len());
                assert!(tokens.asked().len() < 5, "{name}: {said}");
            });
        }
    });
}

/// Values that take the most memory as a tree, for their text: in a token server's answer, and in that of an error, of each
/// layer at once.
#[test]
fn answers_of_small_values() {
    thread::scope(|scope| {
        for piece in PIECES {
            let filled = move |start: &str, length: usize| {
                let pieces = vec![piece; length / (piece.len() + 1)].join(",");
                format!("{start}[{pieces}]}}").into_bytes()
            };
            scope.spawn(move || {
                let text = filled("{\"more\":", 1_000_000);
                let tokens = RawServer::start(move |_| vec![whole("200", "", &text)]);
                let registry = registry(&format!("http://{}/token", tokens.address));
                let pulled = pull_bounded(piece, &registry.address);
                assert_failed(pulled, &["the token server of", "with no token"]);
            });
            scope.spawn(move || {
                let text = filled("{\"message\":\"why\",\"errors\":", 65_000);
                let (repository, image) = Repository::of(
                    &[1, 2, 3].map(|seed| archive(&[("file".to_owned(), noise(seed, 20_000))])),
                );
                let registry = StandIn::start(move |asked| {
                    let is_layer = image.layers.iter().any(|layer| asked.path.ends_with(layer));
                    match is_layer {
                        true => Answer::new(400, text.clone()),
                        false => repository.answer(&asked.path),
                    }
                });
                let pulled = pull_bounded(piece, &registry.address);
                assert_failed(pulled, &["400", ": why"]);
            });
        }
    });
}

/// A token server that can't be reached, or that the registry names in a way that can't be meant, is named too.
#[test]
fn token_servers_that_cannot_be_reached() {
    for (realm, expected) in [
        (
            "http://127.0.0.1:1/token",
            "127.0.0.1:1, the token server of",
        ),
        (
            "http://no-such-host.invalid/",
            "no-such-host.invalid, the token server of",
        ),
        (
            "ftp://127.0.0.1/token",
            "token server that it names without https",
        ),
        ("http:///token", "the token server of"),
    ] {
        let registry = registry(realm);
        assert_failed(pull_once(&registry), &[&registry.address, expected]);
    }
}

/// Layers whose token ends at the same time get one new one between them.
#[test]
fn a_token_that_ends_for_several_layers() {
    let layers: Vec<_> = (0..3)
        .map(|seed| archive(&[(format!("file-{seed}"), noise(seed, 20_000))]))
        .collect();
    let (repository, image) = Repository::of(&layers);
    let given = AtomicUsize::new(0);
    // Layers are refused the old token when all of them have asked with it.
    let waiting = Arc::new((Mutex::new(HashSet::new()), Condvar::new()));
    let registry = StandIn::start(move |asked| {
        if asked.path.starts_with("/token") {
            let number = given.fetch_add(1, Ordering::SeqCst) + 1;
            return Answer::new(200, format!(r#"{{"token":"token-{number}"}}"#));
        }
        let refused = || {
            let challenge = format!("Bearer realm=\"http://{}/token\"", asked.host);
            Answer::new(401, "{}").with("WWW-Authenticate", challenge)
        };
        let is_layer = image.layers.iter().any(|layer| asked.path.ends_with(layer));
        match (asked.authorization.as_deref(), is_layer) {
            (None, _) => refused(),
            (Some("Bearer token-1"), true) => {
                let (paths, all) = &*waiting;
                let mut paths = paths.lock().unwrap();
                paths.insert(asked.path.clone());
                all.notify_all();
                let all_asked =
                    all.wait_timeout_while(paths, Duration::from_secs(10), |paths| paths.len() < 3);
                assert!(
                    !all_asked.unwrap().1.timed_out(),
                    "layers are not asked for together"
                );
                refused()
            }
            _ => repository.answer(&asked.path),
        }
    });
    let said = assert_pulled(pull_once(&registry));
    let asked = registry.asked();
    let tokens = asked
        .iter()
        .filter(|asked| asked.path.starts_with("/token"));
    assert_eq!(tokens.count(), 2, "{said}");
}

/// Tokens that are good for one request each are asked for each time, though several layers ask at once.
#[test]
fn tokens_for_one_request_each() {
    let layers: Vec<_> = (0..6)
        .map(|seed| archive(&[(format!("file-{seed}"), noise(seed, 20_000))]))
        .collect();
    let (repository, _) = Repository::of(&layers);
    let (given, used) = (AtomicUsize::new(0), Mutex::new(HashSet::new()));
    let registry = StandIn::start(move |asked| {
        if asked.path.starts_with("/token") {
            let number = given.fetch_add(1, Ordering::SeqCst) + 1;
            return Answer::new(200, format!(r#"{{"token":"token-{number}"}}"#));
        }
        let is_good = match &asked.authorization {
            Some(token) => used.lock().unwrap().insert(token.clone()),
            None => false,
        };
        match is_good {
            true => repository.answer(&asked.path),
            false => {
                let challenge = format!("Bearer realm=\"http://{}/token\"", asked.host);
                Answer::new(401, "{}").with("WWW-Authenticate", challenge)
            }
        }
    });
    assert_pulled(pull_once(&registry));
}

/// A registry that sends a client to another path of its own, and there wants another token, gets it; on the way back from
/// another server it gets none.
#[test]
fn a_redirect_within_the_registry_is_let_in_anew() {
    let (repository, image) = repository();
    let layer = image.layers[0].clone();
    let given = AtomicUsize::new(0);
    let registry = StandIn::start(move |asked: &Asked| {
        if asked.path.starts_with("/token") {
            let number = given.fetch_add(1, Ordering::SeqCst) + 1;
            return Answer::new(200, format!(r#"{{"token":"token-{number}"}}"#));
        }
        let wanted = match asked.path.starts_with("/moved/") {
            true => "Bearer token-2",
            false => "Bearer token-1",
        };
        if asked.authorization.as_deref() != Some(wanted) {
            let challenge = format!("Bearer realm=\"http://{}/token\"", asked.host);
            return Answer::new(401, "{}").with("WWW-Authenticate", challenge);
        }
        match asked.path.ends_with(&layer) && asked.path.starts_with("/v2/") {
            true => Answer::new(307, "").with("Location", format!("/moved/{layer}")),
            false => repository.answer(&asked.path),
        }
    });
    assert_pulled(pull_once(&registry));

    let (repository, image) = crate::network::repository();
    let layer = image.layers[0].clone();
    let address = Arc::new(Mutex::new(String::new()));
    let home = Arc::clone(&address);
    let elsewhere = StandIn::start(move |asked| {
        let back = format!("http://{}/back{}", home.lock().unwrap(), asked.path);
        Answer::new(307, "").with("Location", back)
    });
    let there = elsewhere.address.clone();
    let registry = StandIn::start(move |asked| {
        crate::network::with_token(asked, |asked| match asked.path.ends_with(&layer) {
            true => Answer::new(307, "").with("Location", format!("http://{there}/{layer}")),
            false => repository.answer(&asked.path),
        })
    });
    address.lock().unwrap().clone_from(&registry.address);
    assert_failed(pull_once(&registry), &[&registry.address]);
    let asked = registry.asked();
    let back: Vec<_> = asked
        .iter()
        .filter(|asked| asked.path.starts_with("/back"))
        .collect();
    assert!(
        !back.is_empty() && back[0].authorization.is_none(),
        "{back:?}"
    );
}
