// SPDX-License-Identifier: Apache-2.0

//! Names of images: what they mean, and which are none. skopeo has the grammar that containerd and Docker have.

use std::fs;

use common::auth_json::image::ImageName;

use crate::host::{guest_pull, output, text, tool};
use crate::image::{Repository, archive};
use crate::stand_in::{Answer, Asked, StandIn};

fn repository() -> Repository {
    Repository::of(&[archive(&[("file".to_owned(), b"content".to_vec())])]).0
}

/// A registry that has the image in each repository and under each tag.
fn registry_of(repository: Repository) -> impl Fn(&Asked) -> Answer {
    move |asked| {
        let last = asked.path.rsplit('/').next().unwrap();
        match (asked.path.as_str(), last.starts_with("sha256:")) {
            ("/v2/", _) => Answer::new(200, ""),
            (_, true) => repository.answer(&asked.path),
            (_, false) => repository.answer("/1"),
        }
    }
}

/// Asks for the manifest; gives what is said, and whether it came.
fn inspect(image: &str) -> (String, bool) {
    let (stdout, stderr, code) = output(&mut guest_pull(&["inspect", "--plain-http", image]));
    (format!("{stdout}{stderr}"), code == Some(0))
}

/// What skopeo takes for a name, and whether it is one.
fn is_name_for_skopeo(image: &str) -> bool {
    let mut skopeo = tool("SKOPEO", "skopeo");
    skopeo.args([
        "--insecure-policy",
        "inspect",
        "--raw",
        "--tls-verify=false",
    ]);
    let (_, stderr, code) = output(skopeo.arg(format!("docker://{image}")));
    let is_name = code == Some(0);
    let is_refused = [
        "invalid reference",
        "must be lowercase",
        "must not be more",
        "digest",
    ];
    let is_refused = is_refused.iter().any(|text| stderr.contains(text));
    assert!(is_name || is_refused, "{image}: {stderr}");
    is_name
}

/// Names that clients take, and names that they refuse: letters, separators, lengths, tags. The reason is told.
#[test]
fn names_are_those_of_other_clients() {
    let registry = StandIn::start(registry_of(repository()));
    // Debian's skopeo counts the registry too, and newer versions don't.
    let long = "a".repeat(255 - registry.address.len() - 1);
    let too_long = "a".repeat(256);
    let tag = "t".repeat(128);
    for (name, reason) in [
        ("a", ""),
        ("a:1", ""),
        ("a/b/c/d:1", ""),
        ("a.b/c_d/e__f/g-h/i--j---k:1", ""),
        ("0/1:1", ""),
        ("a:V1.2-x_y", ""),
        ("a:_1", ""),
        (&format!("a:{tag}"), ""),
        (&format!("{long}:1"), ""),
        (&format!("{too_long}:1"), "longer than 255"),
        (&format!("a:{tag}t"), "128 at most"),
        ("A/b:1", "upper-case"),
        ("a/B:1", "upper-case"),
        ("a___b:1", "not parts of"),
        ("a..b:1", "not parts of"),
        ("a._b:1", "not parts of"),
        ("a-_b:1", "not parts of"),
        ("-a:1", "not parts of"),
        ("a-:1", "not parts of"),
        ("a/_b:1", "not parts of"),
        ("a/b.:1", "not parts of"),
        ("a/../b:1", "not parts of"),
        ("a+b:1", "not parts of"),
        ("a:.1", "its tag"),
        ("a:-1", "its tag"),
        ("a:1+2", "its tag"),
        ("a//b:1", "not the name of an image"),
        ("a/:1", "not the name of an image"),
        ("a:", "not the name of an image"),
        ("a:1:2", "not the name of an image"),
        ("a b:1", "not the name of an image"),
        ("a@latest", "sha256: and 64 digits"),
        ("a@sha256:00", "sha256: and 64 digits"),
    ] {
        let image = format!("{}/{name}", registry.address);
        let (said, is_name) = inspect(&image);
        assert_eq!(is_name, reason.is_empty(), "{name}: {said}");
        assert!(said.contains(reason), "{name}: {said}");
        assert_eq!(is_name_for_skopeo(&image), is_name, "{name}");
    }
}

/// Names of registries: hosts, addresses, ports; upper case is fine there. Those that are none are refused before anything is
/// asked.
#[test]
fn names_of_registries() {
    let registry = StandIn::start(registry_of(repository()));
    let port = registry.address.rsplit(':').next().unwrap();
    for host in ["127.0.0.1", "localhost", "LocalHost"] {
        let (said, is_name) = inspect(&format!("{host}:{port}/a/b:1"));
        assert!(is_name, "{host}: {said}");
    }
    for (registry, reason) in [
        ("host:port", "a port that is not"),
        ("host:", "a port that is not"),
        ("host:0", "a port that is not"),
        ("host:0443", "a port that is not"),
        ("127.1:5000", "not the name or address"),
        ("0x7f000001:5000", "not the name or address"),
        ("host:65536", "a port that is not"),
        ("host:+80", "a port that is not"),
        ("host-.example", "not the name or address"),
        ("host..example", "not the name or address"),
        ("host.example.", "not the name or address"),
        ("my_host:5000", "not the name or address"),
        ("[::1", "not the name or address"),
        ("[::g]:5000", "not the name or address"),
        ("::1:5000", "not the name or address"),
        ("user@host.example", "its digest is not"),
        ("docker://host.example", "not the name of an image"),
        ("https://host.example", "not the name of an image"),
    ] {
        let (said, is_name) = inspect(&format!("{registry}/a/b:1"));
        assert!(!is_name && said.contains(reason), "{registry}: {said}");
    }
}

/// An address of IPv6, in brackets.
#[test]
fn ipv6_host() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        assert!(std::env::var_os("CI").is_none(), "this test needs IPv6");
        return;
    }
    let registry = StandIn::start_at("[::1]:0", registry_of(repository()));
    assert!(registry.address.starts_with("[::1]:"));
    let (said, is_name) = inspect(&format!("{}/a:1", registry.address));
    assert!(is_name, "{said}");
    assert_eq!(registry.asked()[0].host, registry.address);
}

/// What people leave out: the registry is Docker Hub, and there the namespace is `library`; the tag is `latest`.
#[test]
fn default_registry_and_library() {
    for (name, expected) in [
        ("alpine", "docker.io/library/alpine:latest"),
        ("alpine:3", "docker.io/library/alpine:3"),
        ("org/app", "docker.io/org/app:latest"),
        ("docker.io/alpine", "docker.io/library/alpine:latest"),
        ("index.docker.io/alpine", "docker.io/library/alpine:latest"),
        ("index.docker.io/org/app:1", "docker.io/org/app:1"),
        ("myhost/app", "docker.io/myhost/app:latest"),
        ("myhost:5000/app", "myhost:5000/app:latest"),
        ("localhost/app", "localhost/app:latest"),
        ("host.example/app", "host.example/app:latest"),
        ("[::1]/app", "[::1]/app:latest"),
    ] {
        let image = ImageName::parse(name).unwrap();
        assert_eq!(image.to_string(), expected, "{name}");
        assert!(guest_pull::registry::reference(&image).is_ok(), "{name}");
    }
}

/// A digest is asked for as it is, and what comes is checked by it; beside it, a tag does not count, as for containerd.
#[test]
fn tag_and_digest() {
    let mut repository = repository();
    let digest = repository.tag.clone();
    // The tag leads to another image.
    let other = repository.add(&[archive(&[("other".to_owned(), Vec::new())])]);
    repository.tag(&other.descriptor);
    let registry = StandIn::start(registry_of(repository.clone()));
    let dir = tempfile::tempdir().unwrap();
    for suffix in [format!("@{digest}"), format!(":1@{digest}")] {
        let before = registry.asked().len();
        let image = format!("{}/a/b{suffix}", registry.address);
        let mut pull = guest_pull(&["pull", "--plain-http", "--store", text(dir.path()), &image]);
        let (stdout, stderr, code) = output(&mut pull);
        assert_eq!(code, Some(0), "{stdout}{stderr}");
        assert!(stdout.contains(&digest), "{stdout}");
        let asked = registry.asked().split_off(before);
        assert_eq!(asked[0].path, format!("/v2/a/b/manifests/{digest}"));
    }
    // Another algorithm can't be checked, so that it is refused, and nothing is asked.
    let before = registry.asked().len();
    let sha512 = format!("{}/a/b@sha512:{}", registry.address, "0".repeat(128));
    let (said, is_name) = inspect(&sha512);
    assert!(!is_name && said.contains("sha256:"), "{said}");
    assert_eq!(registry.asked().len(), before);

    // What comes is another image: nothing of it is stored.
    let wrong = StandIn::start(move |asked| match asked.path.contains("/manifests/") {
        true => repository.answer("/1"),
        false => repository.answer(&asked.path),
    });
    let image = format!("{}/a/b@{digest}", wrong.address);
    let dir = tempfile::tempdir().unwrap();
    let mut pull = guest_pull(&["pull", "--plain-http", "--store", text(dir.path()), &image]);
    let (stdout, stderr, code) = output(&mut pull);
    assert_ne!(code, Some(0), "{stdout}{stderr}");
    assert!(
        stderr.contains(&digest) && stderr.contains("was asked for"),
        "{stderr}"
    );
    let stored = fs::read_dir(dir.path().join("layers"))
        .into_iter()
        .flatten();
    assert_eq!(stored.count(), 0);
}
