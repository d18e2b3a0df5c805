// SPDX-License-Identifier: Apache-2.0

//! Networks that cut, reset, delay, slow down and stall what a registry sends, one fault after the other.

use std::fs;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ttrpc::Code;

use crate::caller::{Place, daemon, recorded, wait_until};
use crate::faulty::{Fault, Faulty, Passing, Plan};
use crate::host::{guest_pull, is_root, text};
use crate::image::{Repository, archive, noise};
use crate::network::{assert_failed, assert_pulled, pull, repository};
use crate::registry::Registry;
use crate::stand_in::{Answer, StandIn};

/// A plan for requests whose path has this in it, by how many there were before; nothing happens to others.
fn plan(part: &str, fault: impl Fn(usize) -> Fault + Send + Sync + 'static) -> Plan {
    let part = part.to_owned();
    Arc::new(
        move |passing: &Passing| match passing.path.contains(&part) {
            true => fault(passing.before),
            false => Fault::None,
        },
    )
}

/// `image` for `guest-pull serve`, whose registry is asked without TLS.
fn insecure(address: &str) -> String {
    format!(
        "[image]\n[[image.registry_config.registry]]\nlocation = \"{address}\"\ninsecure = true\n"
    )
}

/// A kind of fault, by how many requests there were before.
type Kind = fn(usize) -> Fault;

/// Each fault, at several bytes of a request for a layer and of its answer, in front of Debian's registry: the pull ends
/// right, and at most a tenth of the layer is fetched twice.
#[test]
fn each_fault_of_a_network() {
    let kinds: [(&str, Kind); 9] = [
        ("cut", |before| {
            match [0, 9, 150, 300, 400_000, 2_000_000].get(before) {
                Some(at) => Fault::Cut(*at),
                None => Fault::None,
            }
        }),
        // Every other answer brings some of the layer, and those between nothing or a few bytes.
        ("cut near the end of the header", |before| {
            match (before, before % 2) {
                (0..30, 0) => Fault::Cut(380 + 8 * before),
                (0..30, _) => Fault::Cut(700 + before),
                _ => Fault::None,
            }
        }),
        ("reset", |before| match [0, 9, 300, 900_000].get(before) {
            Some(at) => Fault::Reset(*at),
            None => Fault::None,
        }),
        ("delayed", |before| match before {
            0 => Fault::Delay(0, Duration::from_secs(2)),
            _ => Fault::Delay(500_000, Duration::from_secs(2)),
        }),
        ("slow", |_| Fault::Slow(40_000, Duration::from_millis(20))),
        ("slow and cut", |before| match before {
            0 => Fault::Cut(100_000),
            _ => Fault::Slow(100_000, Duration::from_millis(20)),
        }),
        ("cut in the request", |before| {
            match [0, 1, 40].get(before) {
                Some(at) => Fault::CutRequest(*at),
                None => Fault::None,
            }
        }),
        ("closed after each answer", |_| Fault::CloseAfter),
        ("reset after each answer", |_| Fault::ResetNext),
    ];
    let (repository, image) = repository();
    let layer = image.layers[0].as_str();
    let size = repository.blobs[layer].len();
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    repository.write_layout(&layout);
    let registry = Registry::start();
    registry.push(&layout);
    thread::scope(|scope| {
        for (name, kind) in kinds {
            let (registry, dir) = (&registry.address, dir.path());
            scope.spawn(move || {
                let network = Faulty::start(registry, plan(layer, kind));
                let store = dir.join(name);
                let said = assert_pulled(pull(&network.address, &store, &["--plain-http"]));
                let sent = network.bytes_of(layer);
                assert!(
                    sent >= size && sent <= size * 11 / 10,
                    "{name}: {sent} of {size}: {said}"
                );
                assert!(network.faults() > 0, "{name}");
                assert_eq!(
                    said.contains("is tried again in"),
                    name.contains("cut") || name == "reset",
                    "{name}: {said}"
                );
            });
        }
    });
}

/// A server closes kept connections when it likes, also while a request is under way to it. That is no failure: the
/// request goes out again at once, whatever it is for, with TLS or without.
#[test]
fn connection_closed_between_requests() {
    let archives: Vec<_> = (0..6)
        .map(|seed| archive(&[(format!("file-{seed}"), noise(seed, 50_000))]))
        .collect();
    let (repository, _) = Repository::of(&archives);
    let registry = StandIn::start(move |asked| repository.answer(&asked.path));
    for fault in [Fault::CloseAfter, Fault::ResetNext] {
        let here = fault.clone();
        let network = Faulty::start(&registry.address, plan("", move |_| here.clone()));
        let dir = tempfile::tempdir().unwrap();
        let said = assert_pulled(pull(&network.address, dir.path(), &["--plain-http"]));
        assert!(!said.contains("is tried again"), "{fault:?}: {said}");
        assert_eq!(
            network.passed().len(),
            8,
            "{fault:?}: each is answered once"
        );
    }
}

/// A pull that runs by itself.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Starts a pull of `a/b:1` of a registry without TLS.
fn start(address: &str, store: &Path) -> Running {
    let image = format!("{address}/a/b:1");
    let mut command = guest_pull(&["pull", "--plain-http", "--store", text(store), &image]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    Running(command.spawn().unwrap())
}

/// A registry that stalls holds up its own pull alone: another one, into the same store, ends meanwhile.
#[test]
fn a_registry_that_stalls_holds_up_no_other_pull() {
    let (repository, image) = repository();
    let stalling = StandIn::start(move |asked| repository.answer(&asked.path));
    let network = Faulty::start(
        &stalling.address,
        plan(&image.layers[0], |_| Fault::Stall(1_000_000)),
    );
    let (other, _) = Repository::of(&[archive(&[("other".to_owned(), noise(2, 500_000))])]);
    let healthy = StandIn::start(move |asked| other.answer(&asked.path));
    let has_stalled = || {
        network
            .passed()
            .iter()
            .any(|passed| matches!(passed.fault, Fault::Stall(_)))
    };
    let dir = tempfile::tempdir().unwrap();
    let mut first = start(&network.address, dir.path());
    wait_until("the first stalls", has_stalled);
    assert_pulled(pull(&healthy.address, dir.path(), &["--plain-http"]));
    assert!(first.0.try_wait().unwrap().is_none(), "the first has ended");
    drop(first);

    if !is_root() {
        return;
    }
    let place = Place::new(false);
    let both = [&network.address, &healthy.address];
    let configured = both.map(|address| insecure(address).replacen("[image]\n", "", 1));
    place.configure(&format!("[image]\n{}", configured.concat()));
    daemon(&place, Err(Code::NOT_FOUND));
    let before = network.passed().len();
    let mut first = place.serve();
    fs::create_dir(place.at("first")).unwrap();
    first.send(&recorded(
        &format!("{}/a/b:1", network.address),
        &place.at("first"),
    ));
    wait_until("the first stalls", || network.passed().len() >= before + 3);
    place
        .ask(&recorded(
            &format!("{}/a/b:1", healthy.address),
            &place.bundle(),
        ))
        .digest();
    assert!(
        first.child.try_wait().unwrap().is_none(),
        "the first has ended"
    );
    let unmount = nix::mount::MntFlags::MNT_DETACH;
    nix::mount::umount2(&place.rootfs(), unmount).unwrap();
}

/// A registry that never gets to the end of a layer holds up no other pull, even if that one needs the same layer: after a
/// while it makes the layer for itself.
#[test]
fn a_registry_that_drips_holds_up_no_pull_of_the_same_layer() {
    let (repository, image) = repository();
    let repository = Arc::new(repository);
    let [dripping, healthy] = [(); 2].map(|()| {
        let repository = Arc::clone(&repository);
        StandIn::start(move |asked| repository.answer(&asked.path))
    });
    // More than a quarter of an hour for all of it.
    let slow = Fault::Slow(1_000, Duration::from_millis(500));
    let network = Faulty::start(
        &dripping.address,
        plan(&image.layers[0], move |_| slow.clone()),
    );
    let dir = tempfile::tempdir().unwrap();
    let mut first = start(&network.address, dir.path());
    wait_until("the first gets some of the layer", || {
        let passed = network.passed();
        passed
            .iter()
            .any(|passed| matches!(passed.fault, Fault::Slow(..)))
    });
    let (said, code) = pull(&healthy.address, dir.path(), &["--plain-http"]);
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("this one makes it for itself"), "{said}");
    assert!(first.0.try_wait().unwrap().is_none(), "the first has ended");
}

/// A registry that has no time is asked again until the caller's time is over, and no longer, whatever it asks for; if it
/// is given up before that, the caller is told that it is the registry, in its own words.
#[test]
fn back_off_is_bounded_by_the_callers_deadline() {
    let always = |headers: &'static str| {
        let registry = StandIn::start(|_| Answer::new(404, ""));
        let body = r#"{"errors":[{"message":"too many of you"}]}"#;
        let length = body.len();
        let answer = format!("HTTP/1.1 429 -\r\n{headers}Content-Length: {length}\r\n\r\n{body}");
        let answer = Fault::Instead(answer.into_bytes());
        Faulty::start(&registry.address, plan("", move |_| answer.clone()))
    };
    let rows = [
        ("", 3, Code::DEADLINE_EXCEEDED),
        ("Retry-After: 30\r\n", 3, Code::DEADLINE_EXCEEDED),
        (
            "Retry-After: 18446744073709551615\r\n",
            30,
            Code::UNAVAILABLE,
        ),
        (
            "Retry-After: Fri, 31 Dec 9999 23:59:59 GMT\r\n",
            30,
            Code::UNAVAILABLE,
        ),
        ("", 40, Code::UNAVAILABLE),
    ];
    let one = |(headers, seconds, code)| {
        let network = always(headers);
        let place = Place::new(false);
        place.configure(&insecure(&network.address));
        daemon(&place, Err(Code::NOT_FOUND));
        let image = format!("{}/a/b:1", network.address);
        let mut request = recorded(&image, &place.bundle());
        request.timeout_nano = Duration::from_secs(seconds).as_nanos().try_into().unwrap();
        let begin = Instant::now();
        let answer = place.ask(&request);
        assert_eq!(answer.code(), code, "{headers}: {}", answer.text());
        assert!(
            begin.elapsed() < Duration::from_secs(seconds + 10),
            "{headers}"
        );
        if code == Code::UNAVAILABLE {
            for part in [
                network.address.as_str(),
                "429",
                "too many of you",
                "registry_config",
            ] {
                assert!(answer.text().contains(part), "{headers}: {}", answer.text());
            }
            assert!(
                !answer.text().contains("name resolution"),
                "{}",
                answer.text()
            );
        }
        place.assert_nothing_left();
    };
    thread::scope(|scope| {
        for row in rows {
            scope.spawn(move || one(row));
        }
    });
}

/// An answer that asks for more patience than there is.
const BUSY: &[u8] = b"HTTP/1.1 503 -\r\nRetry-After: 3600\r\nContent-Length: 0\r\n\r\n";

/// Whatever the fault, an error says which registry, which blob, how far it came, and how often it was tried.
#[test]
fn a_blob_that_is_given_up() {
    let (repository, image) = repository();
    let layer = image.layers[0].as_str();
    let size = repository.blobs[layer].len();
    let registry = StandIn::start(move |asked| repository.answer(&asked.path));
    type Case = (fn(usize) -> Fault, &'static str, &'static str, &'static str);
    let cases: [Case; 5] = [
        (
            |_| Fault::Cut(0),
            "after 0 of",
            "7 tries",
            "connection ended",
        ),
        (|_| Fault::Reset(40), "after 0 of", "7 tries", "reset"),
        (|_| Fault::CutRequest(7), "after 0 of", "7 tries", "reset"),
        (
            |before| match before {
                0 => Fault::Cut(1_000_000),
                _ => Fault::Cut(0),
            },
            "after 9999",
            "7 tries",
            "connection ended",
        ),
        (
            |_| Fault::Instead(BUSY.to_vec()),
            "after 0 of",
            "1 try",
            "3600 s",
        ),
    ];
    thread::scope(|scope| {
        for (fault, bytes, tries, cause) in cases {
            let registry = &registry.address;
            scope.spawn(move || {
                let network = Faulty::start(registry, plan(layer, fault));
                let dir = tempfile::tempdir().unwrap();
                let pulled = pull(&network.address, dir.path(), &["--plain-http"]);
                let total = format!("of {size} bytes");
                let parts = [&network.address, layer, bytes, &total, tries, cause];
                assert_failed(pulled, &parts);
            });
        }
    });
}
