// SPDX-License-Identifier: Apache-2.0

//! Registries that give tokens, that send a blob elsewhere, or that send something else than they said: played by a server
//! of the tests.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

#[path = "support/host.rs"]
mod host;
#[path = "support/image.rs"]
mod image;
#[path = "support/stand_in.rs"]
mod stand_in;

use std::fs;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use host::{guest_pull, output, text};
use image::{Repository, archive, noise};
use serde_json::{Value, json};
use stand_in::{Answer, Asked, StandIn};

/// The layers of an image: a few files each.
fn layers(count: u64) -> Vec<Vec<u8>> {
    let layer = |seed: u64| archive(&[(format!("file-{seed}"), noise(seed + 1, 100_000))]);
    (0..count).map(layer).collect()
}

/// Pulls `a/b:1` of the server, with more arguments; gives what the program prints, and its exit status.
fn pull(server: &StandIn, store: &Path, args: &[&str]) -> (String, Option<i32>) {
    let image = format!("{}/a/b:1", server.address);
    let (stdout, stderr, code) = output(
        guest_pull(&["pull", "--store", text(store)])
            .args(args)
            .arg(&image),
    );
    (format!("{stdout}{stderr}"), code)
}

/// The names of what is stored.
fn stored(store: &Path) -> Vec<String> {
    let entries = fs::read_dir(store.join("layers")).into_iter().flatten();
    let mut names: Vec<_> = entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn auth_file(dir: &Path, registry: &str, password: &str) -> String {
    let path = dir.join(format!("{password}.json"));
    let login = STANDARD.encode(format!("robot:{password}"));
    let entry = json!({"auths": {registry: {"auth": login}}});
    fs::write(&path, entry.to_string()).unwrap();
    text(&path).to_owned()
}

/// A registry with a token server gives the image to the right login alone, and blobs come from another server, which gets
/// neither token nor login. A wrong login is an error with the server's own message, and nothing is tried anonymously.
#[test]
fn tokens_are_for_the_registry_alone() {
    let (repository, image) = Repository::of(&layers(2));
    let repository = Arc::new(repository);
    let blobs = Arc::clone(&repository);
    let elsewhere = StandIn::start(move |asked| blobs.answer(&asked.path));
    let elsewhere_address = elsewhere.address.clone();
    let right = format!("Basic {}", STANDARD.encode("robot:hunter2"));
    let layers = image.layers.clone();
    let answer = move |asked: &Asked| {
        if asked.path.starts_with("/token") {
            if asked.authorization.as_ref() != Some(&right) {
                return Answer::new(401, r#"{"details":"no such robot"}"#);
            }
            assert!(
                asked.path.contains("service=the%20registry"),
                "{}",
                asked.path
            );
            assert!(
                asked.path.contains("scope=repository:a/b:pull"),
                "{}",
                asked.path
            );
            return Answer::new(200, r#"{"token":"tok-en"}"#);
        }
        if asked.authorization.as_deref() != Some("Bearer tok-en") {
            let challenge = format!(
                "Bearer realm=\"http://{}/token\",service=\"the registry\",scope=\"repository:a/b:pull\"",
                asked.host
            );
            return Answer::new(401, "{}").with("WWW-Authenticate", challenge);
        }
        match asked.path.rsplit('/').next() {
            Some(digest) if layers.iter().any(|layer| layer == digest) => {
                let location = format!("http://{elsewhere_address}/{digest}");
                Answer::new(307, "").with("Location", location)
            }
            _ => repository.answer(&asked.path),
        }
    };
    let registry = StandIn::start(answer);
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path().join("store");
    let auth = auth_file(dir.path(), &registry.address, "hunter2");
    let (said, code) = pull(&registry, &store, &["--plain-http", "--auth-file", &auth]);
    assert_eq!(code, Some(0), "{said}");
    let asked = elsewhere.asked();
    assert_eq!(asked.len(), 2, "{asked:?}");
    assert!(
        asked.iter().all(|asked| asked.authorization.is_none()),
        "{asked:?}"
    );

    let before = registry.asked().len();
    let auth = auth_file(dir.path(), &registry.address, "hunter3");
    let (said, code) = pull(&registry, &store, &["--plain-http", "--auth-file", &auth]);
    assert_ne!(code, Some(0));
    assert!(
        said.contains("no such robot") && said.contains("robot"),
        "{said}"
    );
    assert!(!said.contains("hunter"), "{said}");
    let later = registry.asked().split_off(before);
    let tokens: Vec<_> = later
        .iter()
        .filter(|asked| asked.path.starts_with("/token"))
        .collect();
    assert!(
        tokens.iter().all(|asked| asked.authorization.is_some()),
        "{tokens:?}"
    );
}

/// From a registry with TLS nothing is fetched without it, wherever that one sends the client.
#[test]
fn no_redirect_leaves_tls() {
    let (repository, image) = Repository::of(&layers(1));
    let layer = image.layers[0].clone();
    let elsewhere = StandIn::start(|_| Answer::new(200, "x"));
    let location = format!("http://{}/blob", elsewhere.address);
    let registry = StandIn::start_with_tls(move |asked| match asked.path.ends_with(&layer) {
        true => Answer::new(302, "").with("Location", &*location),
        false => repository.answer(&asked.path),
    });
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    fs::write(&ca, &registry.authority).unwrap();
    let store = dir.path().join("store");
    let (said, code) = pull(&registry, &store, &["--ca-file", text(&ca)]);
    assert_ne!(code, Some(0));
    assert!(said.contains("away from https"), "{said}");
    assert!(elsewhere.asked().is_empty());
    assert!(stored(&store).is_empty(), "{:?}", stored(&store));
}

/// A layer that isn't what the manifest or the configuration says is refused with its number and what is wrong, and nothing
/// of it is stored.
#[test]
fn a_layer_that_is_not_what_was_said_is_refused() {
    type Change = fn(Answer) -> Answer;
    let changes: [(Change, &str); 5] = [
        (
            |mut answer| {
                // A time in gzip's header, so that the archive is right, and the blob's digest alone tells.
                answer.body[4] ^= 1;
                answer
            },
            "its blob has the digest",
        ),
        (
            |mut answer| {
                // Within the compressed data of the file.
                let middle = answer.body.len() / 2;
                answer.body[middle] ^= 1;
                answer
            },
            "layer 2 of 2",
        ),
        (
            |mut answer| {
                answer.body.truncate(answer.body.len() - 10);
                answer
            },
            "layer 2 of 2",
        ),
        (
            |mut answer| {
                answer.body.extend([0; 10]);
                answer
            },
            "layer 2 of 2",
        ),
        // The connection ends before what was announced.
        (
            |mut answer| {
                answer.length = Some(answer.body.len());
                answer.body.truncate(1000);
                answer
            },
            "layer 2 of 2",
        ),
    ];
    for (number, (change, expected)) in changes.into_iter().enumerate() {
        let (repository, image) = Repository::of(&layers(2));
        let second = image.layers[1].clone();
        let registry = StandIn::start(move |asked| {
            let answer = repository.answer(&asked.path);
            match asked.path.ends_with(&second) {
                true => change(answer),
                false => answer,
            }
        });
        let dir = tempfile::tempdir().unwrap();
        let (said, code) = pull(&registry, dir.path(), &["--plain-http"]);
        assert_ne!(code, Some(0), "{number}: {said}");
        assert!(
            said.contains(expected) && said.contains(&image.layers[1]),
            "{number}: {said}"
        );
        // The other one is whole, and may be there.
        let bad = image.diff_ids[1].trim_start_matches("sha256:");
        let left = stored(dir.path());
        assert!(
            left.iter().all(|name| !name.starts_with(bad)),
            "{number}: {left:?}"
        );
    }

    let mut repository = Repository::default();
    let archives = layers(1);
    let wrong = "sha256:".to_owned() + &"7".repeat(64);
    let image = repository.add_with_diff_ids(&archives, vec![wrong.clone()]);
    repository.tag = image.descriptor["digest"].as_str().unwrap().to_owned();
    let registry = StandIn::start(move |asked| repository.answer(&asked.path));
    let dir = tempfile::tempdir().unwrap();
    let (said, code) = pull(&registry, dir.path(), &["--plain-http"]);
    assert_ne!(code, Some(0));
    assert!(
        said.contains(&wrong) && said.contains("the configuration says"),
        "{said}"
    );
    assert!(stored(dir.path()).is_empty(), "{:?}", stored(dir.path()));
}

/// Of an index, the image for the platform is taken, whatever else is in it; if none fits, the error lists what there is.
#[test]
fn an_index_has_the_platforms_image() {
    let mut repository = Repository::default();
    let mut entries: Vec<Value> = Vec::new();
    let mut manifests = Vec::new();
    for (number, platform) in [
        json!({"os": "unknown", "architecture": "unknown"}),
        json!({"os": "linux", "architecture": "arm", "variant": "v7"}),
        json!({"os": "linux", "architecture": "amd64"}),
        json!({"os": "linux", "architecture": "s390x"}),
    ]
    .into_iter()
    .enumerate()
    {
        let layer = archive(&[("platform".to_owned(), vec![b'0' + number as u8])]);
        let mut descriptor = repository.add(&[layer]).descriptor;
        manifests.push(descriptor["digest"].as_str().unwrap().to_owned());
        descriptor["platform"] = platform;
        entries.push(descriptor);
    }
    repository.tag_index(&entries);
    let registry = StandIn::start(move |asked| repository.answer(&asked.path));
    let dir = tempfile::tempdir().unwrap();
    let ask = |platform: &str| {
        pull(
            &registry,
            dir.path(),
            &["--plain-http", "--platform", platform],
        )
    };
    for (platform, number) in [("linux/amd64", 2), ("linux/arm/v7", 1), ("linux/s390x", 3)] {
        let (said, code) = ask(platform);
        assert_eq!(code, Some(0), "{platform}: {said}");
        assert!(said.contains(&manifests[number]), "{platform}: {said}");
    }
    let (said, code) = ask("linux/riscv64");
    assert_ne!(code, Some(0));
    for there in ["linux/arm/v7", "linux/amd64", "linux/s390x"] {
        assert!(said.contains(there), "{said}");
    }
    assert!(!said.contains("unknown/unknown"), "{said}");
}

/// Two pulls of an image at once into one store fetch each layer once: the later one waits for what the other one makes.
#[test]
fn pulls_at_once_fetch_each_layer_once() {
    let (repository, image) = Repository::of(&layers(3));
    let held = image.layers[0].clone();
    // The first blob is held back until both have asked for the manifest.
    let registry: Arc<OnceLock<StandIn>> = Arc::default();
    let here = Arc::clone(&registry);
    let server = StandIn::start(move |asked| {
        if asked.path.ends_with(&held) {
            let manifests = || {
                let asked = here.get().map(StandIn::asked).unwrap_or_default();
                asked
                    .iter()
                    .filter(|asked| asked.path.ends_with("/manifests/1"))
                    .count()
            };
            let end = std::time::Instant::now() + host::PATIENCE;
            while manifests() < 2 {
                assert!(std::time::Instant::now() < end, "there is no second pull");
                std::thread::sleep(std::time::Duration::from_millis(5));
            }
        }
        repository.answer(&asked.path)
    });
    let _ = registry.set(server);
    let server = registry.get().unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let (said, code) = pull(server, dir.path(), &["--plain-http"]);
                assert_eq!(code, Some(0), "{said}");
            });
        }
    });
    let asked = server.asked();
    for layer in &image.layers {
        let times = asked
            .iter()
            .filter(|asked| asked.path.ends_with(layer))
            .count();
        assert_eq!(times, 1, "{layer}");
    }
    assert_eq!(stored(dir.path()).len(), 6, "{:?}", stored(dir.path()));
}

/// An entry of an archive that would lead to names or paths that no file system has, or whose map
/// is broken, is refused with its name; nothing runs on without end, and nothing is stored.
#[test]
fn entries_that_no_file_system_can_have_are_refused() {
    let link = |archive: &mut tar::Builder<Vec<u8>>, name: &str, target: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        archive.append_link(&mut header, name, target).unwrap();
    };
    let file = |archive: &mut tar::Builder<Vec<u8>>, name: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(1);
        archive.append_data(&mut header, name, &b"x"[..]).unwrap();
    };
    let new = || tar::Builder::new(Vec::new());
    let mut cases: Vec<(Vec<u8>, &str, &str)> = Vec::new();
    let mut archive = new();
    link(&mut archive, "l", &"x".repeat(4000));
    file(&mut archive, "l/f");
    cases.push((archive.into_inner().unwrap(), "l/f", "255 bytes"));
    let mut archive = new();
    link(&mut archive, "l0", &"d/".repeat(1500));
    link(&mut archive, "l0/l1", &"d/".repeat(1500));
    file(&mut archive, "l0/l1/f");
    cases.push((archive.into_inner().unwrap(), "l0/l1/f", "4095 bytes"));
    let mut archive = new();
    archive
        .append_pax_extensions([("SCHILY.xattr.security.a", &b""[..])])
        .unwrap();
    link(&mut archive, "long", &"y".repeat(4090));
    cases.push((archive.into_inner().unwrap(), "", "don't fit a block"));
    let mut archive = new();
    let sparse = [
        ("GNU.sparse.major", &b"1"[..]),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"holes"),
        ("GNU.sparse.realsize", b"1000"),
    ];
    archive.append_pax_extensions(sparse).unwrap();
    file(&mut archive, "GNUSparseFile.1/holes");
    cases.push((
        archive.into_inner().unwrap(),
        "holes",
        "the map of a sparse file",
    ));
    for (archive, entry, expected) in cases {
        let (repository, _) = Repository::of(&[archive]);
        let registry = StandIn::start(move |asked| repository.answer(&asked.path));
        let dir = tempfile::tempdir().unwrap();
        let (said, code) = pull(&registry, dir.path(), &["--plain-http"]);
        assert_ne!(code, Some(0), "{expected}: {said}");
        assert!(
            said.contains(entry) && said.contains(expected),
            "{expected}: {said}"
        );
        assert!(stored(dir.path()).is_empty(), "{:?}", stored(dir.path()));
    }
}

/// A token server that has no time says nothing about the login.
#[test]
fn a_busy_token_server_is_no_refusal() {
    let registry = StandIn::start(|asked| match asked.path.starts_with("/token") {
        true => Answer::new(503, r#"{"message":"come back later"}"#),
        false => {
            let challenge = format!("Bearer realm=\"http://{}/token\"", asked.host);
            Answer::new(401, "{}").with("WWW-Authenticate", challenge)
        }
    });
    let image = format!("{}/a/b:1", registry.address);
    let (stdout, stderr, code) = output(&mut guest_pull(&["inspect", "--plain-http", &image]));
    assert_eq!(code, Some(1), "{stdout}{stderr}");
    assert!(
        stdout.contains("503") && stdout.contains("come back later"),
        "{stdout}"
    );
}
