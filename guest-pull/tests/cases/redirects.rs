// SPDX-License-Identifier: Apache-2.0

//! Registries that send a client elsewhere for a blob.

use crate::network::{Count, assert_failed, assert_pulled, pull_once, repository, with_token};
use crate::stand_in::{Answer, StandIn};

/// A blob on another server: the login does not go there. When the connection breaks, the registry is asked anew, since
/// signed URLs end; the rest is asked of where it leads then.
#[test]
fn redirect_of_a_blob_to_another_host() {
    let (repository, image) = repository();
    let blob = repository.blobs[&image.layers[0]].clone();
    let count = Count::default();
    let elsewhere = StandIn::start(move |asked| match count.before(&asked.path) {
        0 => Answer::rest(&blob, asked.from).cut(300_000),
        _ => Answer::new(403, "this URL has ended"),
    });
    let layer = image.layers[0].clone();
    let address = elsewhere.address.clone();
    let count = Count::default();
    let registry = StandIn::start(move |asked| {
        with_token(asked, |asked| {
            if !asked.path.ends_with(&layer) {
                return repository.answer(&asked.path);
            }
            let number = count.before(&asked.path);
            let location = format!("http://{address}/blob?signature={number}");
            Answer::new(307, "").with("Location", location)
        })
    });
    assert_pulled(pull_once(&registry));
    let asked = elsewhere.asked();
    assert!(asked.len() > 5, "{asked:?}");
    assert!(asked.iter().all(|asked| asked.authorization.is_none()));
    let froms: Vec<_> = asked.iter().map(|asked| asked.from.unwrap_or(0)).collect();
    let expected: Vec<_> = (0..froms.len()).map(|number| number * 300_000).collect();
    assert_eq!(froms, expected);
}

/// If the server that holds the blobs refuses, the error says so, and not that the login is wrong.
#[test]
fn redirect_to_a_host_that_refuses() {
    let elsewhere = StandIn::start(|_| Answer::new(403, r#"{"message":"too late"}"#));
    let (repository, image) = repository();
    let location = format!("http://{}/blob", elsewhere.address);
    let layer = image.layers[0].clone();
    let registry = StandIn::start(move |asked| match asked.path.ends_with(&layer) {
        true => Answer::new(307, "").with("Location", &*location),
        false => repository.answer(&asked.path),
    });
    let sends = format!("that {} gave", registry.address);
    let said = assert_failed(
        pull_once(&registry),
        &[&elsewhere.address, &sends, "too late"],
    );
    assert!(!said.contains("anonymous"), "{said}");
}

/// A redirect within the registry keeps the login, as other clients do; redirects without end are an error.
#[test]
fn redirect_within_the_registry() {
    let (repository, image) = repository();
    let layer = image.layers[0].clone();
    let registry = StandIn::start(move |asked| {
        with_token(asked, |asked| match asked.path.ends_with(&layer) {
            true if asked.path.starts_with("/v2/") => {
                Answer::new(302, "").with("Location", format!("/moved/{layer}"))
            }
            _ => repository.answer(&asked.path),
        })
    });
    assert_pulled(pull_once(&registry));

    let registry = StandIn::start(|asked| Answer::new(302, "").with("Location", &*asked.path));
    let said = assert_failed(pull_once(&registry), &["redirect"]);
    assert_eq!(registry.asked().len(), 6, "{said}");
}
