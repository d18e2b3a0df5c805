// SPDX-License-Identifier: Apache-2.0

//! The rule against a table of what people write, and against the clients' look-up.

#![allow(clippy::unwrap_used)]

use super::*;
use oci_client::Reference;
use proptest::prelude::*;

/// The first key that a fix says to write.
fn to_write(fix: &str) -> Option<&str> {
    fix.strip_prefix("write ")?.split('"').nth(1)
}

/// An image that clients take for one, whatever this module thinks of it, and that finds the key.
fn image_of(key: &str) -> Option<String> {
    let literal = host_of_key(key);
    let names = [
        literal.to_owned(),
        format!("{literal}/x"),
        format!("{literal}/x/y"),
        "docker.io/library/x".to_owned(),
        "docker.io/x/y".to_owned(),
    ];
    names.into_iter().find(|name| {
        let (Ok(image), Ok(reference)) = (ImageName::parse(name), name.parse::<Reference>()) else {
            return false;
        };
        assert_eq!(image.registry, reference.registry(), "{name}");
        assert_eq!(image.repository, reference.repository(), "{name}");
        find_key(&[key], reference.registry(), reference.repository()).is_some()
    })
}

fn told(key: &str) -> Option<String> {
    let (severity, what, fix) = unmatched(key)?;
    Some(format!("{severity}: {what}; {fix}"))
}

/// What is found for the images that it is meant for, and for no others, is fine.
#[test]
fn what_clients_find_is_not_reported() {
    for key in [
        "quay.io",
        "quay.io/org",
        "quay.io/org/app",
        "quay.io:8443",
        "quay.io/a--b/c_d.e__f",
        "127.0.0.1:5000",
        "registry:5000",
        "localhost",
        "localhost:5000/app",
        "docker.io",
        "docker.io/library",
        "docker.io/library/alpine",
        "docker.io/org/app",
        "index.docker.io",
        "registry-1.docker.io",
        "https://index.docker.io/v1/",
        "https://index.docker.io/v1/users/",
        "https://registry-1.docker.io/v2/",
        "https://quay.io",
        "https://quay.io/",
        "http://quay.io/v2/",
        "https://quay.io/v2/_catalog",
        "https://quay.io/v2/token",
        "https://registry:5000/v2/",
        "https://harbor.example.com/api/v2.0/",
        "harbor.example.com/api",
        "europe-docker.pkg.dev/project/repository",
        "123456789012.dkr.ecr.eu-west-1.amazonaws.com",
    ] {
        assert_eq!(told(key), None, "{key}");
    }
}

/// Each way to write a key that clients do not read, and what they would read. A table of the forms that people
/// have.
#[test]
fn the_spelling_that_matches_is_suggested() {
    for (key, write) in [
        ("quay.io/", "quay.io"),
        ("quay.io/org/", "quay.io/org"),
        ("quay.io//org", "quay.io/org"),
        ("//quay.io", "quay.io"),
        ("quay.io.", "quay.io"),
        ("quay.io:443", "quay.io"),
        ("https://quay.io:443/v2/", "quay.io"),
        ("quay.io/org/app:1", "quay.io/org/app"),
        ("quay.io/app@sha256:00", "quay.io/app"),
        ("quay.io/app:1@sha256:00", "quay.io/app"),
        ("quay.io:latest", "quay.io"),
        ("quay.io /x", "quay.io/x"),
        ("quay.io\n", "quay.io"),
        ("\tquay.io", "quay.io"),
        ("quay.io\u{a0}", "quay.io"),
        ("\u{feff}quay.io", "quay.io"),
        ("'quay.io'", "quay.io"),
        ("GHCR.io", "ghcr.io"),
        ("https://GHCR.IO/v1/", "ghcr.io"),
        ("ghcr.io/Org/App", "ghcr.io/org/app"),
        ("HTTPS://quay.io", "quay.io"),
        ("https:/quay.io", "quay.io"),
        ("https:quay.io", "quay.io"),
        ("https://https://quay.io", "quay.io"),
        ("docker://ghcr.io", "ghcr.io"),
        ("docker://ghcr.io/org/app:1", "ghcr.io/org/app"),
        (
            "oci://registry.example.com/charts",
            "registry.example.com/charts",
        ),
        ("https://ghcr.io/org", "ghcr.io/org"),
        ("https://ghcr.io/v2/org/app/manifests/1", "ghcr.io/org/app"),
        ("https://quay.io/repository/org/app", "quay.io/org/app"),
        ("ghcr.io/v2/", "ghcr.io"),
        ("ghcr.io/v2", "ghcr.io"),
        ("ghcr.io/v1/users/", "ghcr.io"),
        ("ghcr.io/v2/_catalog", "ghcr.io"),
        ("ghcr.io/_ping", "ghcr.io"),
        ("harbor.example.com/api/v2.0/", "harbor.example.com"),
        ("index.docker.io/v1/", "docker.io"),
        ("docker.io/v1/", "docker.io"),
        ("index.docker.io/library", "docker.io/library"),
        ("registry-1.docker.io/org", "docker.io/org"),
        ("hub.docker.com", "docker.io"),
        ("https://hub.docker.com/", "docker.io"),
        ("https://hub.docker.com/r/org/app", "docker.io/org/app"),
        (
            "https://hub.docker.com/_/alpine",
            "docker.io/library/alpine",
        ),
        (
            "registry.hub.docker.com/library/alpine",
            "docker.io/library/alpine",
        ),
        ("www.docker.com", "docker.io"),
        ("https://docker.io/org", "docker.io/org"),
        ("myorg", "docker.io/myorg"),
        ("myorg/", "docker.io/myorg"),
        ("ubuntu", "docker.io/ubuntu"),
        ("alpine:3.19", "docker.io/alpine"),
        ("library/alpine", "docker.io/library/alpine"),
        ("docker://alpine", "docker.io/alpine"),
        ("*.example.com", "x.example.com"),
        ("reg-?.example.com:5000", "reg-x.example.com:5000"),
        ("*.dkr.ecr.*.amazonaws.com", "x.dkr.ecr.x.amazonaws.com"),
        ("*:5000", "registry.example.com:5000"),
        ("*", "registry.example.com"),
        ("registry.example.com/*", "registry.example.com"),
        ("quay.io/org/*", "quay.io/org"),
        ("quay.io/org/app-*", "quay.io/org"),
        ("https://registry", "registry:443"),
        ("http://registry/", "registry:80"),
        ("https://robot:hunter2@ghcr.io", "ghcr.io"),
        ("robot:hun/ter2@ghcr.io/org", "ghcr.io/org"),
    ] {
        let (_, what, fix) = unmatched(key).unwrap();
        assert_eq!(to_write(&fix), Some(write), "{key:?}: {fix}");
        assert!(image_of(write).is_some(), "{write}");
        assert_eq!(told(write), None);
        assert!(!format!("{what}{fix}").contains("hun"), "{what}; {fix}");
    }
    let others = [
        "",
        "/",
        "@",
        "://",
        "https://",
        ":5000",
        "[::1]:5000",
        "my_registry:5000",
        "é.example",
        "quay.io/a..b",
        "quay.io/org%2Fapp",
        "alpine@sha256:00",
        "hunter2@sha256:00",
    ];
    for key in others {
        let (_, what, fix) = unmatched(key).unwrap();
        assert_eq!(fix, FIX, "{key}");
        assert!(
            what.ends_with("so it matches no image, and pulls are anonymous"),
            "{what}"
        );
    }
}

/// What some images do find is not said to match none.
#[test]
fn what_some_images_find_is_told() {
    for (key, expected) in [
        (
            "GHCR.io",
            "warning: it has capital letters (clients compare literally), so it matches only images \
          whose names begin with \"GHCR.io\"; it matches no other image; write \"ghcr.io\"",
        ),
        (
            "quay.io:443",
            "note: clients compare the port too, so it matches only images whose names begin with \
          \"quay.io:443\"; it matches no other image; write \"quay.io\", unless the images are \
          written with the port",
        ),
        (
            "https://ghcr.io/org",
            "warning: after http:// or https:// clients read the host alone, so the entry counts for the whole \
          registry; write \"ghcr.io/org\" for that part of the registry, or \"ghcr.io\" for all of it",
        ),
        (
            "https://hub.docker.com",
            "warning: clients know Docker Hub as docker.io, so it matches only images \
          whose names begin with \"hub.docker.com\"; it matches no other image; write \"docker.io\"",
        ),
        (
            "ubuntu",
            "warning: it names no registry, so it matches no image, and pulls are anonymous; write \
          \"docker.io/ubuntu\" for the organisation, or \"docker.io/library/ubuntu\" for the image",
        ),
        (
            "*.example.com",
            "warning: it has a wildcard (kubelet matches by it, but clients in the VM compare \
          literally), so it matches no image, and pulls are anonymous; write an entry for each registry, such \
          as \"x.example.com\"",
        ),
    ] {
        assert_eq!(told(key).as_deref(), Some(expected), "{key}");
    }
}

/// A long key is judged as any other, and not shown.
#[test]
fn a_long_key_is_judged_and_not_shown() {
    let part = "hunter2".repeat(20);
    assert_eq!(told(&format!("quay.io/{part}")), None);
    for key in [
        format!("quay.io/{part}/"),
        format!("GHCR.io/{part}"),
        format!("https://quay.io/{part}"),
    ] {
        let told = told(&key).unwrap();
        assert!(!told.contains("hunter2") && told.ends_with(FIX), "{told}");
    }
}

/// Keys of all the forms at once.
fn key() -> impl Strategy<Value = String> {
    let one_of = |list: &'static [&'static str]| proptest::sample::select(list);
    let scheme = one_of(&[
        "",
        "",
        "",
        "https://",
        "http://",
        "HTTPS://",
        "docker://",
        "oci://",
        "https:",
        "//",
        "://",
    ]);
    let login = one_of(&[
        "",
        "",
        "",
        "",
        "robot:hunter2@",
        "hunter2@",
        "robot:hun/ter2@",
        "@",
    ]);
    let host = one_of(&[
        "quay.io",
        "docker.io",
        "index.docker.io",
        "registry-1.docker.io",
        "hub.docker.com",
        "localhost",
        "registry",
        "10.0.0.1",
        "*.example.com",
        "*",
        "reg-?.io",
        "ubuntu",
        "my_host.io",
        "[::1]",
        "é.io",
        "",
        "a.b-c.io",
        "-a.io",
        "quay.io.",
        "..",
    ]);
    let port = one_of(&["", "", "", ":443", ":80", ":5000", ":latest", ":"]);
    let path = one_of(&[
        "",
        "",
        "",
        "/org",
        "/org/app",
        "/v1",
        "/v2",
        "/v2/org/app",
        "/v2/_catalog",
        "/v1/users",
        "/_ping",
        "/api/v2.0",
        "/api",
        "/r/org/app",
        "/_/alpine",
        "/repository/org/app",
        "/library",
        "/*",
        "/org/*",
        "/*/app",
        "//org",
        "/a..b",
        "/Org",
        "/a b",
        "/%2F",
        "/v2/org/app/manifests/1",
    ]);
    let tag = one_of(&[
        "",
        "",
        "",
        ":1",
        ":latest",
        "@sha256:00",
        ":1@sha256:00",
        "@",
        ":",
    ]);
    let trailing = one_of(&[
        "", "", "", "/", "//", "/v1/", "/v2/", "/*", "?x=y", "#", " ", "\n", "\u{200b}", "\"", ",",
    ]);
    (scheme, login, host, port, path, tag, trailing, 0usize..6).prop_map(
        |(scheme, login, host, port, path, tag, trailing, how)| {
            let host = if how == 1 {
                host.to_uppercase()
            } else {
                host.to_owned()
            };
            let before = match how {
                2 => " ",
                3 => "\"",
                _ => "",
            };
            [before, scheme, login, &host, port, path, tag, trailing].concat()
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1024))]

    /// The rule against the look-up of the clients.
    #[test]
    fn the_rule_agrees_with_the_look_up(key in prop_oneof![
        8 => key(),
        1 => "\\PC{0,12}",
        1 => "[a-zA-Z0-9:/@*.?\\[\\] -]{0,12}",
    ]) {
        let Some((_, what, fix)) = unmatched(&key) else {
            prop_assert!(image_of(&key).is_some(), "nothing is said of {key:?}");
            return Ok(());
        };
        let shown = format!("{what}; {fix}; {}", RegistryName(&key));
        prop_assert!(!shown.contains("hunter2") && !shown.contains("hun/ter2"), "{shown}");
        prop_assert_eq!(what.ends_with("so it matches no image, and pulls are anonymous"), image_of(&key).is_none());
        if let Some(write) = fix.starts_with("write ").then(|| to_write(&fix)) {
            let write = write.unwrap();
            prop_assert!(image_of(write).is_some(), "{key:?}: {fix}");
            prop_assert_eq!(told(write), None, "{:?}: {}", key, fix);
        }
    }
}
