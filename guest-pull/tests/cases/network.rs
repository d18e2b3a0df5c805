// SPDX-License-Identifier: Apache-2.0

//! Registries and networks that fail for a while, and those that fail for good.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::host::{guest_pull, is_root, output, text};
use crate::image::{Image, Repository, archive, noise};
use crate::registry::Registry;
use crate::stand_in::{Answer, Asked, CUT, StandIn};

/// The length of the file in the layer.
const LENGTH: usize = 2_000_000;

/// An image with one layer that doesn't shrink.
pub fn repository() -> (Repository, Image) {
    Repository::of(&[archive(&[("noise".to_owned(), noise(1, LENGTH))])])
}

/// Pulls `a/b:1`; gives what the program prints, and its exit status.
pub fn pull(address: &str, store: &Path, args: &[&str]) -> (String, Option<i32>) {
    let image = format!("{address}/a/b:1");
    let mut command = guest_pull(&["pull", "--store", text(store)]);
    let (stdout, stderr, code) = output(command.args(args).arg(&image));
    (format!("{stdout}{stderr}"), code)
}

/// Pulls into a new store without TLS.
pub fn pull_once(server: &StandIn) -> (String, Option<i32>) {
    let dir = tempfile::tempdir().unwrap();
    pull(&server.address, dir.path(), &["--plain-http"])
}

pub fn assert_pulled((said, code): (String, Option<i32>)) -> String {
    assert_eq!(code, Some(0), "{said}");
    said
}

pub fn assert_failed((said, code): (String, Option<i32>), parts: &[&str]) -> String {
    assert_ne!(code, Some(0), "{said}");
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    said
}

/// Counts requests for the same path.
#[derive(Default)]
pub struct Count(Mutex<HashMap<String, usize>>);

impl Count {
    /// How many there were before.
    pub fn before(&self, path: &str) -> usize {
        let mut counts = self.0.lock().unwrap();
        let count = counts.entry(path.to_owned()).or_default();
        *count += 1;
        *count - 1
    }
}

/// A layer whose connection is cut, wherever that is, is fetched on from there: the registry sends each byte once.
#[test]
fn cut_connection() {
    let (repository, image) = repository();
    let blob = repository.blobs[&image.layers[0]].clone();
    let size = blob.len();
    // Parts of these lengths: no byte, one, some, most of the rest, all of the rest but one.
    let parts = [0, 1, 70_000, size / 2, usize::MAX];
    let sent = Arc::new(AtomicUsize::new(0));
    let (count, counted) = (Count::default(), Arc::clone(&sent));
    let layer = image.layers[0].clone();
    let registry = StandIn::start(move |asked| {
        if !asked.path.ends_with(&layer) {
            return repository.answer(&asked.path);
        }
        let answer = Answer::rest(&blob, asked.from);
        let length = answer.body.len();
        let answer = match parts.get(count.before(&asked.path)) {
            Some(part) => answer.cut((*part).min(length - 1)),
            None => answer,
        };
        counted.fetch_add(answer.body.len(), Ordering::SeqCst);
        answer
    });
    let said = assert_pulled(pull_once(&registry));
    assert_eq!(sent.load(Ordering::SeqCst), size, "{said}");
    let said = said.matches("is tried again in").count();
    assert_eq!(said, parts.len());
}

/// The end of a connection without an announced length is not taken for the end of the layer.
#[test]
fn cut_connection_of_unknown_length() {
    let (repository, image) = repository();
    let blob = repository.blobs[&image.layers[0]].clone();
    let layer = image.layers[0].clone();
    let registry = StandIn::start(move |asked| {
        if !asked.path.ends_with(&layer) {
            return repository.answer(&asked.path);
        }
        let mut answer = Answer::rest(&blob, asked.from);
        answer.is_open = true;
        if asked.from.is_none() {
            answer.body.truncate(1_000_000);
        }
        answer
    });
    assert_pulled(pull_once(&registry));
    let froms: Vec<_> = registry.asked().iter().map(|asked| asked.from).collect();
    assert_eq!(froms.last(), Some(&Some(1_000_000)), "{froms:?}");
}

/// A manifest, a configuration and a token that come in part are asked for again.
#[test]
fn cut_connection_of_small_documents() {
    let (repository, image) = repository();
    let layer = image.layers[0].clone();
    let count = Count::default();
    let registry = StandIn::start(move |asked| {
        let answer = with_token(asked, |asked| repository.answer(&asked.path));
        let is_first = asked.authorization.is_some() || asked.path.starts_with("/token");
        match is_first && !asked.path.ends_with(&layer) && count.before(&asked.path) == 0 {
            true => answer.cut(5),
            false => answer,
        }
    });
    let said = assert_pulled(pull_once(&registry));
    assert_eq!(said.matches("is tried again in").count(), 3, "{said}");
}

/// A connection that ends before the answer, or within its header, is made again; so is one that is refused at first.
#[test]
fn cut_connection_before_an_answer() {
    for part in ["", "HTTP/1.1", "HTTP/1.1 200 OK\r\nContent-Len"] {
        let (repository, _) = repository();
        let count = Count::default();
        let registry = StandIn::start(move |asked| match count.before(&asked.path) {
            0 => Answer::new(CUT, part),
            _ => repository.answer(&asked.path),
        });
        let said = assert_pulled(pull_once(&registry));
        let again = said.matches("is tried again in").count();
        assert_eq!(again, 3, "{part:?}: {said}");
    }
}

/// A registry that listens only after a while is waited for.
#[test]
fn refused_connection_at_first() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap().to_string();
    drop(free);
    let dir = tempfile::tempdir().unwrap();
    let image = format!("{address}/a/b:1");
    let mut child = guest_pull(&["pull", "--plain-http", "--store", text(dir.path()), &image])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let mut said = read_until(&mut stderr, "is tried again in");
    let (repository, _) = repository();
    let _registry = StandIn::start_at(&address, move |asked| repository.answer(&asked.path));
    stderr.read_to_string(&mut said).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0), "{said}");
}

/// What comes up to a text, or all if that does not come.
fn read_until(stream: &mut impl Read, text: &str) -> String {
    let mut said = String::new();
    let mut byte = [0];
    while !said.contains(text) && stream.read(&mut byte).unwrap() > 0 {
        said.push(char::from(byte[0]));
    }
    said
}

/// Asks for a token before it answers.
pub fn with_token(asked: &Asked, answer: impl Fn(&Asked) -> Answer) -> Answer {
    if asked.path.starts_with("/token") {
        return Answer::new(200, r#"{"token":"tok-en"}"#);
    }
    match asked.authorization {
        Some(_) => answer(asked),
        None => {
            let challenge = format!("Bearer realm=\"http://{}/token\"", asked.host);
            Answer::new(401, "{}").with("WWW-Authenticate", challenge)
        }
    }
}

/// Debian's registry, behind a network that cuts each of the first connections: at most a tenth is fetched twice.
#[test]
fn cut_connection_to_a_real_registry() {
    let registry = Registry::start();
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    let (repository, _) = repository();
    repository.write_layout(&layout);
    registry.push(&layout);
    let sent = Arc::new(AtomicUsize::new(0));
    let address = cutting(&registry.address, 6, 500_000, Arc::clone(&sent));
    let store = dir.path().join("store");
    let said = assert_pulled(pull(&address, &store, &["--plain-http"]));
    assert!(said.contains("is tried again in"), "{said}");
    let sent = sent.load(Ordering::SeqCst);
    assert!(sent < LENGTH * 11 / 10, "{sent}: {said}");
}

/// A network in front of a server, which cuts so many connections after so many bytes, and counts what it passes on.
fn cutting(server: &str, connections: usize, after: usize, sent: Arc<AtomicUsize>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = server.to_owned();
    thread::spawn(move || {
        for (number, client) in listener.incoming().enumerate() {
            let (mut client, mut server) = (client?, TcpStream::connect(&server)?);
            let (mut asking, mut asked) = (client.try_clone()?, server.try_clone()?);
            thread::spawn(move || std::io::copy(&mut asking, &mut asked));
            let mut left = match number < connections {
                true => after,
                false => usize::MAX,
            };
            let sent = Arc::clone(&sent);
            thread::spawn(move || {
                let mut part = [0; 10_000];
                while left > 0 {
                    let most = left.min(part.len());
                    let read = server.read(&mut part[..most]).unwrap_or(0);
                    if read == 0 || client.write_all(&part[..read]).is_err() {
                        break;
                    }
                    left -= read;
                    sent.fetch_add(read, Ordering::SeqCst);
                }
                let _ = client.shutdown(Shutdown::Both);
                let _ = server.shutdown(Shutdown::Both);
            });
        }
        Ok::<_, std::io::Error>(())
    });
    address
}

/// A registry that gives no parts, or wrong ones, is asked for the whole again, a few times.
#[test]
fn cut_connection_to_a_registry_without_parts() {
    type Answers = fn(&[u8], &Asked) -> Answer;
    let cases: [(Answers, bool); 4] = [
        (|blob, _| Answer::new(200, blob), true),
        (
            |blob, asked| match asked.from {
                Some(_) => Answer::new(416, ""),
                None => Answer::new(200, blob),
            },
            true,
        ),
        (
            |blob, asked| {
                let from = asked.from.map(|from| from + 1);
                Answer::rest(blob, from)
            },
            true,
        ),
        (|blob, _| Answer::new(200, blob).cut(1_000_000), false),
    ];
    for (number, (answers, is_pulled)) in cases.into_iter().enumerate() {
        let (repository, image) = repository();
        let blob = repository.blobs[&image.layers[0]].clone();
        let layer = image.layers[0].clone();
        let count = Count::default();
        let registry = StandIn::start(move |asked| {
            if !asked.path.ends_with(&layer) {
                return repository.answer(&asked.path);
            }
            let answer = answers(&blob, asked);
            match count.before(&asked.path) {
                0 => answer.cut(1_000_000),
                _ => answer,
            }
        });
        let pulled = pull_once(&registry);
        match is_pulled {
            true => {
                assert_pulled(pulled);
            }
            false => {
                let parts = ["gives no parts", "after 1000000 of", &image.layers[0]];
                let said = assert_failed(pulled, &parts);
                let asked = registry.asked();
                let layers = asked
                    .iter()
                    .filter(|asked| asked.path.ends_with(&image.layers[0]));
                assert_eq!(layers.count(), 5, "{number}: {said}");
            }
        }
    }
}

/// A registry that fails for a moment (a status that says so) is asked again for whatever it was: a token, a manifest, a
/// configuration, a layer.
#[test]
fn busy_registry() {
    for status in [429, 500, 502, 503, 504] {
        let (repository, _) = repository();
        let count = Count::default();
        let registry = StandIn::start(move |asked| {
            let answer = with_token(asked, |asked| repository.answer(&asked.path));
            let is_first = asked.authorization.is_some() || asked.path.starts_with("/token");
            match is_first && count.before(&asked.path) < 1 {
                true => Answer::new(status, r#"{"errors":[{"message":"not now"}]}"#),
                false => answer,
            }
        });
        let said = assert_pulled(pull_once(&registry));
        let again = said.matches("not now").count();
        assert_eq!(again, 4, "{status}: {said}");
    }
}

/// A layer that can't be an archive is refused for that, and not for its connection, which breaks again and again after it:
/// nobody waits for the rest. That is so whether the connection breaks before or after the archive is looked at: the first
/// of these lengths is little more than what is passed on at once.
#[test]
fn broken_archive_over_a_broken_connection() {
    for length in [70_000, 300_000] {
        let (mut repository, image) = repository();
        let blob = repository.blobs.get_mut(&image.layers[0]).unwrap();
        let size = blob.len();
        *blob = vec![b'x'; size];
        let layer = image.layers[0].clone();
        let registry = StandIn::start(move |asked| {
            let mut answer = repository.answer(&asked.path);
            if asked.path.ends_with(&layer) {
                answer.length = Some(size);
                answer.body.truncate(length);
            }
            answer
        });
        let said = assert_failed(pull_once(&registry), &["the archive can't be read"]);
        let last = said.lines().last().unwrap_or_default();
        assert!(last.contains("the archive can't be read"), "{said}");
        // It may have been tried once more by then, and not until nobody has patience any more.
        assert!(said.matches("is tried again").count() < 6, "{said}");
    }
}

/// What is not there is missing, also where the registry had to be asked twice: policies look for signatures so.
#[test]
fn busy_registry_that_has_nothing() {
    let count = Count::default();
    let registry = StandIn::start(move |asked| match count.before(&asked.path) {
        0 => Answer::new(503, ""),
        _ => Answer::new(404, ""),
    });
    let (said, _) = pull_once(&registry);
    assert!(said.contains("has no manifest"), "{said}");
    assert!(!said.contains("tried 2 times"), "{said}");
}

/// Retry-After counts, in seconds and as a date by the registry's own clock; more than a minute is not waited for.
#[test]
fn busy_registry_with_retry_after() {
    type Change = fn(Answer) -> Answer;
    let cases: [(Change, Option<u64>); 5] = [
        (|answer| answer.with("Retry-After", "2"), Some(2)),
        (
            |answer| {
                answer
                    .with("Retry-After", "Sun, 06 Nov 1994 08:49:39 GMT")
                    .with("Date", "Sun, 06 Nov 1994 08:49:37 GMT")
            },
            Some(2),
        ),
        (|answer| answer.with("Retry-After", "0"), Some(0)),
        (|answer| answer.with("Retry-After", "later"), Some(0)),
        (|answer| answer.with("Retry-After", "3600"), None),
    ];
    for (number, (change, least)) in cases.into_iter().enumerate() {
        let (repository, _) = repository();
        let count = Count::default();
        let registry = StandIn::start(move |asked| match count.before(&asked.path) {
            0 if asked.path.ends_with("/1") => change(Answer::new(429, "")),
            _ => repository.answer(&asked.path),
        });
        let begin = Instant::now();
        let pulled = pull_once(&registry);
        match least {
            Some(least) => {
                let said = assert_pulled(pulled);
                let took = begin.elapsed();
                assert!(
                    took >= Duration::from_secs(least),
                    "{number}: {took:?} {said}"
                );
            }
            None => {
                let said = assert_failed(pulled, &["429", "3600 s"]);
                assert_eq!(registry.asked().len(), 1, "{said}");
            }
        }
    }
}

/// What another try can't change is an error at once: no login, no leave, no such thing, and an unknown authority.
#[test]
fn refusals_are_final() {
    for (status, refused) in [
        (401, "manifests"),
        (403, "manifests"),
        (404, "manifests"),
        (403, "blobs"),
        (404, "blobs"),
    ] {
        let (repository, _) = repository();
        let registry = StandIn::start(move |asked| match asked.path.contains(refused) {
            true => Answer::new(status, r#"{"errors":[{"message":"never"}]}"#),
            false => repository.answer(&asked.path),
        });
        let said = assert_failed(pull_once(&registry), &["never"]);
        let asked = registry.asked();
        let asked = asked.iter().filter(|asked| asked.path.contains(refused));
        assert_eq!(asked.count(), 1, "{status} {refused}: {said}");
        assert!(!said.contains("tried 2 times"), "{said}");
    }
    let registry = StandIn::start_with_tls(|_| Answer::new(404, ""));
    let dir = tempfile::tempdir().unwrap();
    let said = pull(&registry.address, dir.path(), &[]);
    let said = assert_failed(said, &["can't be reached", "certificate"]);
    assert!(!said.contains("tried 2 times"), "{said}");
}

/// A registry that fails for good is given up after some tries, with what is known: the registry, the blob, how far it came.
#[test]
fn a_registry_that_is_gone_is_given_up() {
    let (repository, image) = repository();
    let blob = repository.blobs[&image.layers[0]].clone();
    let layer = image.layers[0].clone();
    let registry = StandIn::start(
        move |asked| match (asked.path.ends_with(&layer), asked.from) {
            (true, None) => Answer::new(200, &blob[..]).cut(1_000_000),
            (true, Some(_)) => Answer::new(503, r#"{"errors":[{"message":"out of order"}]}"#),
            _ => repository.answer(&asked.path),
        },
    );
    let begin = Instant::now();
    let parts = [
        registry.address.as_str(),
        image.layers[0].as_str(),
        "after 1000000 of",
        "tries",
        "out of order",
        "layer 1 of 1",
    ];
    assert_failed(pull_once(&registry), &parts);
    let took = begin.elapsed();
    assert!(took > Duration::from_secs(5), "{took:?}");
    assert!(took < Duration::from_secs(60), "{took:?}");
}

/// A connection on which nothing comes any more counts as cut, in a layer and before an answer.
#[test]
fn stalled_read() {
    let (repository, image) = repository();
    let blob = repository.blobs[&image.layers[0]].clone();
    let layer = image.layers[0].clone();
    let registry = StandIn::start(move |asked| {
        if !asked.path.ends_with(&layer) {
            return repository.answer(&asked.path);
        }
        let mut answer = Answer::rest(&blob, asked.from);
        if asked.from.is_none() {
            answer = answer.cut(1_000_000);
            answer.stalls = true;
        }
        answer
    });
    let begin = Instant::now();
    let said = assert_pulled(pull_once(&registry));
    let took = begin.elapsed();
    assert!(took > Duration::from_secs(10), "{took:?} {said}");
    assert!(took < Duration::from_secs(40), "{took:?} {said}");
    let froms: Vec<_> = registry.asked().iter().map(|asked| asked.from).collect();
    assert_eq!(froms.last(), Some(&Some(1_000_000)), "{froms:?}");
}

/// A name that resolves only after a while, as in a VM whose network comes up, is waited for.
#[test]
fn dns_failing_at_first() {
    if !is_root() {
        return;
    }
    let (repository, _) = repository();
    let registry = StandIn::start(move |asked| repository.answer(&asked.path));
    let port = registry.address.rsplit(':').next().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::write(at("hosts"), "").unwrap();
    fs::write(at("resolv.conf"), "nameserver 127.0.0.1\n").unwrap();
    fs::write(at("nsswitch.conf"), "hosts: files\n").unwrap();
    let script = "for file in hosts resolv.conf nsswitch.conf; do\n\
                  [ ! -e \"/etc/$file\" ] || mount --bind \"$1/$file\" \"/etc/$file\" || exit 9\n\
                  done\n\
                  shift; exec \"$@\"";
    let image = format!("registry.test:{port}/a/b:1");
    let mut child = Command::new("unshare")
        .args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            script,
            "sh",
        ])
        .arg(dir.path())
        .arg(env!("CARGO_BIN_EXE_guest-pull"))
        .args([
            "pull",
            "--plain-http",
            "--store",
            text(&at("store")),
            &image,
        ])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = child.stderr.take().unwrap();
    let mut said = read_until(&mut stderr, "is tried again in");
    fs::write(at("hosts"), "127.0.0.1 registry.test\n").unwrap();
    stderr.read_to_string(&mut said).unwrap();
    let code = child.wait().unwrap().code();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("is tried again in"), "{said}");
}

/// A token that ends while a layer comes: another is asked for, and the layer goes on.
#[test]
fn a_token_that_ends_within_a_layer() {
    let (repository, image) = repository();
    let blob = repository.blobs[&image.layers[0]].clone();
    let layer = image.layers[0].clone();
    let tokens = AtomicUsize::new(0);
    let registry = StandIn::start(move |asked| {
        if asked.path.starts_with("/token") {
            let number = tokens.fetch_add(1, Ordering::SeqCst) + 1;
            return Answer::new(200, format!(r#"{{"token":"token-{number}"}}"#));
        }
        let wanted = match asked.from {
            Some(_) => "Bearer token-2",
            None => "Bearer token-1",
        };
        if asked.authorization.as_deref() != Some(wanted) {
            let challenge = format!("Bearer realm=\"http://{}/token\"", asked.host);
            return Answer::new(401, "{}").with("WWW-Authenticate", challenge);
        }
        match (asked.path.ends_with(&layer), asked.from) {
            (true, None) => Answer::new(200, &blob[..]).cut(1_000_000),
            (true, from) => Answer::rest(&blob, from),
            _ => repository.answer(&asked.path),
        }
    });
    assert_pulled(pull_once(&registry));
}
