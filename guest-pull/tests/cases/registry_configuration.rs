// SPDX-License-Identifier: Apache-2.0

//! containers-registries.conf: mirrors, locations, blocked and searched registries, with real registries and stand-ins.

use std::fs;
use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ttrpc::Code;

use crate::caller::{Place, daemon, daemon_with, recorded};
use crate::host::{Mounted, is_root, run, support};
use crate::image::{Repository, archive};
use crate::registry::{PASSWORD, Registry};
use crate::stand_in::{Answer, StandIn};

/// An address at which nobody answers.
const NOBODY: &str = "127.0.0.1:1";

fn layout(place: &Place) -> PathBuf {
    let layout = place.at("layout");
    run(support("make-image").arg(&layout));
    layout
}

/// A small image, and a registry without TLS that has it under any name.
fn stand_in() -> StandIn {
    let files = [("file".to_owned(), b"content".to_vec())];
    let (repository, _) = Repository::of(&[archive(&files)]);
    StandIn::start(move |asked| repository.answer(&asked.path))
}

/// A registry that has nothing.
fn empty() -> StandIn {
    StandIn::start(|_| Answer::new(404, r#"{"errors":[{"message":"not here"}]}"#))
}

fn registry(prefix: &str, location: &str, more: &str) -> String {
    format!(
        "[[image.registry_config.registry]]\nprefix = '{prefix}'\nlocation = '{location}'\n{more}\n"
    )
}

fn mirror(location: &str, more: &str) -> String {
    format!(
        "[[image.registry_config.registry.mirror]]\nlocation = '{location}'\ninsecure = true\n{more}\n"
    )
}

/// The image is mounted, from the place that the log names. It is unmounted again.
fn assert_pulled(place: &Place, image: &str) -> String {
    let answer = place.ask(&recorded(image, &place.bundle()));
    let digest = answer.digest();
    drop(Mounted(place.rootfs()));
    fs::remove_dir_all(place.bundle()).unwrap();
    fs::create_dir(place.bundle()).unwrap();
    digest
}

fn assert_refused(place: &Place, image: &str, code: Code, parts: &[&str]) {
    let answer = place.ask(&recorded(image, &place.bundle()));
    let text = answer.text();
    assert_eq!(answer.code(), code, "{text}");
    for part in parts {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(
        !text.contains(PASSWORD) && !place.log().contains(PASSWORD),
        "{text}"
    );
    place.assert_nothing_left();
}

/// Mirrors are asked in order, and then the location: one that does not answer, or has no such image, is passed over; the
/// first that has it gives all of it. The log names each, and says from where the image came.
#[test]
fn mirrors_in_order_then_the_location() {
    if !is_root() {
        return;
    }
    let place = Place::new(false);
    daemon(&place, Err(Code::NOT_FOUND));
    let (first, second) = (Registry::start(), Registry::start());
    let image = second.push(&layout(&place));
    let after = stand_in();
    let mirrors = [
        mirror(&format!("{NOBODY}/m"), ""),
        mirror(&first.address, ""),
        mirror(&second.address, ""),
    ];
    place.configure(&registry(
        "r.example",
        &after.address,
        &format!("insecure = true\n{}", mirrors.concat()),
    ));
    assert!(assert_pulled(&place, "r.example/a/b:1").starts_with("sha256:"));
    let log = place.log();
    for part in [
        &format!("{NOBODY}/m/a/b:1: "),
        &format!("{}/a/b:1: {} has no manifest", first.address, first.address),
        "the next place is asked",
        &format!("r.example/a/b:1: pulled from the mirror {image}"),
    ] {
        assert!(log.contains(part), "{part}: {log}");
    }
    assert_eq!(after.asked().len(), 0);

    // Without those that have it, the location.
    place.configure(&registry(
        "r.example",
        &image.replace("/a/b:1", ""),
        &format!("insecure = true\n{}", mirrors[..2].concat()),
    ));
    assert_pulled(&place, "r.example/a/b:1");
    assert!(
        place.log().contains(&format!("pulled from {image}")),
        "{}",
        place.log()
    );
}

/// What came with the manifest decides: if the layers can't be had from there, no other place is asked, as another may have
/// another image by then.
#[test]
fn everything_comes_from_the_place_of_the_manifest() {
    let place = Place::new(false);
    daemon(&place, Err(Code::NOT_FOUND));
    let files = [("file".to_owned(), b"content".to_vec())];
    let (repository, image) = Repository::of(&[archive(&files)]);
    let layer = image.layers[0].clone();
    let mirror_without_layer = StandIn::start(move |asked| match asked.path.ends_with(&layer) {
        true => Answer::new(404, "{}"),
        false => repository.answer(&asked.path),
    });
    let after = stand_in();
    let more = format!(
        "insecure = true\n{}",
        mirror(&mirror_without_layer.address, "")
    );
    place.configure(&registry("r.example", &after.address, &more));
    assert_refused(
        &place,
        "r.example/a:1",
        Code::NOT_FOUND,
        &["layer 1 of 1", &mirror_without_layer.address],
    );
    assert_eq!(after.asked().len(), 0);
}

/// Each place gets the login of its own entry, and no other one; one without an entry is asked anonymously, and the log
/// says so. A place that refuses its login is passed over like any other.
#[test]
fn each_place_has_its_own_login() {
    if !is_root() {
        return;
    }
    let place = Place::new(false);
    let refuses = || {
        StandIn::start(|_| {
            Answer::new(401, r#"{"errors":[{"message":"who are you"}]}"#)
                .with("WWW-Authenticate", "Basic realm=\"x\"")
        })
    };
    let (known, unknown) = (refuses(), refuses());
    let private = Registry::start_private();
    let image = private.push(&layout(&place));
    let entry = |key: &str, user: &str| {
        format!(
            r#""{key}":{{"auth":"{}"}}"#,
            STANDARD.encode(format!("{user}:{PASSWORD}"))
        )
    };
    let text = format!(
        r#"{{"auths":{{{},{},{}}}}}"#,
        entry("r.example", "other"),
        entry(&format!("{}/m", known.address), "mirror"),
        entry(&private.address, "robot"),
    );
    daemon(&place, Ok(text.into_bytes()));
    let ca = fs::read_to_string(private.ca_file()).unwrap();
    let ca = format!("[image]\nextra_root_certificates = ['''\n{ca}''']\n");
    let mirrors = format!(
        "{}{}",
        mirror(&format!("{}/m", known.address), ""),
        mirror(&unknown.address, "")
    );
    place.configure(&format!(
        "{ca}{}",
        registry("r.example", &private.address, &mirrors)
    ));
    assert_pulled(&place, "r.example/a/b:1");
    let sent = |server: &StandIn| {
        server
            .asked()
            .into_iter()
            .filter_map(|asked| asked.authorization)
            .collect::<Vec<_>>()
    };
    let basic = format!("Basic {}", STANDARD.encode(format!("mirror:{PASSWORD}")));
    assert!(sent(&known).iter().all(|header| *header == basic) && !sent(&known).is_empty());
    assert_eq!(sent(&unknown), [""; 0]);
    let log = place.log();
    for part in [
        format!("{} refuses the login of mirror by the entry", known.address),
        format!(
            "{}/a/b:1: the credential kbs:///default/credential/test has no entry for {}: pulled anonymously",
            unknown.address, unknown.address
        ),
        format!("pulled from {image}"),
    ] {
        assert!(log.contains(&part), "{part}: {log}");
    }
    assert!(!log.contains(PASSWORD), "{log}");
}

/// If no place has the image, the text names each with its reason, the location's first, whose code it has.
#[test]
fn no_place_has_it() {
    let place = Place::new(false);
    daemon(&place, Err(Code::NOT_FOUND));
    let (first, last) = (empty(), empty());
    let mirrors = format!(
        "insecure = true\n{}{}",
        mirror(NOBODY, ""),
        mirror(&first.address, "")
    );
    place.configure(&registry(
        "r.example",
        &format!("{}/x", last.address),
        &mirrors,
    ));
    let at_last = format!(
        "r.example/a:1: {}/x/a:1: {} has no manifest",
        last.address, last.address
    );
    let at_first = format!("before that, {NOBODY}/a:1: ");
    let between = format!("; {}/a:1: {} has no manifest", first.address, first.address);
    assert_refused(
        &place,
        "r.example/a:1",
        Code::NOT_FOUND,
        &[&at_last, &at_first, &between, "check the image's name"],
    );
}

/// What can be done is said of each place: here a mirror wants a login, which the credential has for the location alone.
#[test]
fn each_place_has_its_own_advice() {
    let place = Place::new(false);
    let (private, last) = (Registry::start_with_login(), empty());
    let entry = |address: &str| {
        let login = STANDARD.encode(format!("robot:{PASSWORD}"));
        format!(r#"{{"auths":{{"{address}":{{"auth":"{login}"}}}}}}"#)
    };
    daemon(&place, Ok(entry(&last.address).into_bytes()));
    place.configure(&registry(
        "r.example",
        &last.address,
        &format!("insecure = true\n{}", mirror(&private.address, "")),
    ));
    let at_mirror = format!(
        "; check the image's name and tag (before that, {}/a:1: {} refuses an anonymous pull",
        private.address, private.address
    );
    let advice = format!(
        "; the credential kbs:///default/credential/test has no entry for {}: if the image is private",
        private.address
    );
    assert_refused(
        &place,
        "r.example/a:1",
        Code::NOT_FOUND,
        &[&at_mirror, &advice],
    );
}

/// An entry of the credential that can't be used leaves its place out, and the log says so. It is never asked without it.
#[test]
fn a_place_whose_entry_is_broken_is_left_out() {
    if !is_root() {
        return;
    }
    let place = Place::new(false);
    let (broken, good) = (stand_in(), stand_in());
    let text = format!(
        r#"{{"auths":{{"{}":{{"auth":"hunter2"}}}}}}"#,
        broken.address
    );
    daemon(&place, Ok(text.into_bytes()));
    place.configure(&registry(
        "r.example",
        &good.address,
        &format!("insecure = true\n{}", mirror(&broken.address, "")),
    ));
    assert_pulled(&place, "r.example/a:1");
    assert_eq!(broken.asked().len(), 0);
    assert!(
        place.log().contains("can't be used") && place.log().contains("not asked"),
        "{}",
        place.log()
    );

    // Where no other place has the image, the text says so too.
    let last = empty();
    place.configure(&registry(
        "r.example",
        &last.address,
        &format!("insecure = true\n{}", mirror(&broken.address, "")),
    ));
    let not_asked = format!(
        "({}/a:1 was not asked: the credential kbs:///default/credential/test: the entry {} for {} can't be used",
        broken.address, broken.address, broken.address
    );
    let at_last = format!(
        "r.example/a:1: {}/a:1: {} has no",
        last.address, last.address
    );
    assert_refused(
        &place,
        "r.example/a:1",
        Code::NOT_FOUND,
        &[&at_last, &not_asked],
    );
    assert_eq!(broken.asked().len(), 0);

    place.configure(&registry("r.example", &broken.address, "insecure = true"));
    assert_refused(
        &place,
        "r.example/a:1",
        Code::FAILED_PRECONDITION,
        &["can't be used", &broken.address],
    );
    assert_eq!(broken.asked().len(), 0);
}

/// Only a place that is configured so is asked in plain HTTP, and such a one in nothing else.
#[test]
fn insecure_is_plain_http_and_nothing_else() {
    if !is_root() {
        return;
    }
    let place = Place::new(false);
    daemon(&place, Err(Code::NOT_FOUND));
    let server = stand_in();
    place.configure(&registry("r.example", &server.address, ""));
    assert_refused(
        &place,
        "r.example/a:1",
        Code::UNAVAILABLE,
        &[&server.address],
    );
    assert_eq!(server.asked().len(), 0);
    place.configure(&registry("r.example", &server.address, "insecure = true"));
    assert_pulled(&place, "r.example/a:1");
    // What the mirror may says nothing about the location.
    place.configure(&registry("r.example", &server.address, &mirror(NOBODY, "")));
    assert_refused(
        &place,
        "r.example/a:1",
        Code::UNAVAILABLE,
        &[&server.address, NOBODY],
    );
}

/// A blocked prefix is refused, before anybody is asked.
#[test]
fn blocked() {
    let place = Place::new(false);
    let asked = daemon(&place, Err(Code::NOT_FOUND));
    let server = stand_in();
    place.configure(&format!(
        "{}{}",
        registry("r.example", &server.address, "insecure = true"),
        registry("r.example/secret", &server.address, "blocked = true"),
    ));
    assert_refused(
        &place,
        "r.example/secret/a:1",
        Code::FAILED_PRECONDITION,
        &["blocked", "r.example/secret"],
    );
    assert!(asked.try_recv().is_err());
    assert_eq!(server.asked().len(), 0);
}

/// The longest prefix counts, also that of a domain, and the rest of the name goes on at the location.
#[test]
fn the_longest_prefix_is_rewritten() {
    if !is_root() {
        return;
    }
    let place = Place::new(false);
    daemon(&place, Err(Code::NOT_FOUND));
    let server = stand_in();
    let at = |path: &str| format!("{}{path}", server.address);
    place.configure(&format!(
        "{}{}",
        registry("*.corp.example", &at("/all"), "insecure = true"),
        registry("*.corp.example/team", &at("/one/two"), "insecure = true"),
    ));
    for (image, path) in [
        ("x.corp.example/a:1", "/v2/all/a/manifests/1"),
        ("x.y.corp.example/team/a:1", "/v2/one/two/a/manifests/1"),
    ] {
        assert_pulled(&place, image);
        assert!(
            server.asked().iter().any(|asked| asked.path == path),
            "{image}: {:?}",
            server.asked()
        );
    }
}

/// `pull-from-mirror` and `mirror-by-digest-only`: a mirror may be for tags or digests alone.
#[test]
fn mirrors_for_tags_or_digests_alone() {
    if !is_root() {
        return;
    }
    let place = Place::new(false);
    daemon(&place, Err(Code::NOT_FOUND));
    let (by_digest, by_tag, location) = (stand_in(), stand_in(), stand_in());
    let mirrors = format!(
        "insecure = true\n{}{}",
        mirror(&by_digest.address, "pull-from-mirror = 'digest-only'"),
        mirror(&by_tag.address, "pull-from-mirror = 'tag-only'"),
    );
    place.configure(&registry("r.example", &location.address, &mirrors));
    let digest = assert_pulled(&place, "r.example/a:1");
    assert!(by_digest.asked().is_empty() && !by_tag.asked().is_empty());
    let before = by_tag.asked().len();
    assert_pulled(&place, &format!("r.example/a@{digest}"));
    assert!(!by_digest.asked().is_empty() && by_tag.asked().len() == before);
    let only = format!(
        "insecure = true\nmirror-by-digest-only = true\n{}",
        mirror(&by_tag.address, "")
    );
    place.configure(&registry("r.example", &location.address, &only));
    assert_pulled(&place, "r.example/a:1");
    assert!(!location.asked().is_empty() && by_tag.asked().len() == before);
}

/// A name without a registry is looked for in each that the list has, in its order; a full name is not.
#[test]
fn unqualified_search_registries() {
    if !is_root() {
        return;
    }
    let place = Place::new(false);
    daemon(&place, Err(Code::NOT_FOUND));
    let (first, second) = (empty(), stand_in());
    let plain = |address: &str| registry(address, address, "insecure = true");
    let list = format!("'{}', '{}'", first.address, second.address);
    let registries = format!("{}{}", plain(&first.address), plain(&second.address));
    place.configure(&format!(
        "[image.registry_config]\nunqualified-search-registries = [{list}]\n{registries}"
    ));
    for image in ["app:1", "team/app:1"] {
        assert_pulled(&place, image);
        assert!(
            place
                .log()
                .contains(&format!("{image}: pulled from {}/{image}", second.address)),
            "{}",
            place.log()
        );
        let path = format!("/v2/{}/manifests/1", image.replace(":1", ""));
        assert!(
            first.asked().iter().any(|asked| asked.path == path),
            "{:?}",
            first.asked()
        );
    }
    let before = second.asked().len();
    assert_refused(
        &place,
        &format!("{NOBODY}/app:1"),
        Code::UNAVAILABLE,
        &[NOBODY],
    );
    assert_eq!(second.asked().len(), before);
    place.configure("[image.registry_config]\nunqualified-search-registries = []\n");
    assert_refused(
        &place,
        "app:1",
        Code::FAILED_PRECONDITION,
        &["unqualified-search-registries"],
    );
}

/// The same in a file of its own, which the daemon has, or the file system; it must be there, since it may block an image.
/// What `[image.registry_config]` says counts before it.
#[test]
fn registry_configuration_uri() {
    if !is_root() {
        return;
    }
    let place = Place::new(false);
    let server = stand_in();
    let text = format!(
        "[[registry]]\nprefix = 'r.example'\nlocation = '{}'\ninsecure = true\nodd = 1\n",
        server.address
    );
    let file = place.at("registries.conf");
    fs::write(&file, &text).unwrap();
    daemon_with(&place, move |uri| match uri {
        "kbs:///default/registry-configuration/test" => Ok(text.clone().into_bytes()),
        "kbs:///default/registry-configuration/odd" => Ok(b"hunter2".to_vec()),
        _ => Err(Code::NOT_FOUND),
    });
    let by_uri = |uri: &str| format!("[image]\nregistry_configuration_uri = '{uri}'\n");
    for uri in [
        "kbs:///default/registry-configuration/test",
        &format!("file://{}", file.display()),
    ] {
        place.configure(&by_uri(uri));
        assert_pulled(&place, "r.example/a:1");
        assert!(
            place.log().contains("[[registry]] 1: odd: not supported"),
            "{}",
            place.log()
        );
    }
    for (uri, part) in [
        (
            "kbs:///default/registry-configuration/missing",
            "there is none",
        ),
        ("kbs:///default/registry-configuration/odd", "TOML"),
        ("file:///nowhere/registries.conf", "there is none"),
    ] {
        place.configure(&by_uri(uri));
        let path = uri.replace("file://", "");
        assert_refused(
            &place,
            "r.example/a:1",
            Code::FAILED_PRECONDITION,
            &["the registry configuration", &path, part],
        );
    }
    let both = format!(
        "{}{}",
        by_uri("file:///nowhere"),
        registry("r.example", &server.address, "insecure = true")
    );
    place.configure(&both);
    assert_pulled(&place, "r.example/a:1");
    assert!(
        place.log().contains("registry_configuration_uri: ignored"),
        "{}",
        place.log()
    );
}
