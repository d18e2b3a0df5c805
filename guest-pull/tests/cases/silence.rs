// SPDX-License-Identifier: Apache-2.0

//! Servers that send nothing, too little or too late: all at once, since each takes up to a minute.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use ttrpc::Code;

use crate::caller::{Place, daemon, recorded, wait_until};
use crate::host::text;
use crate::image::{Image, Repository};
use crate::network::{assert_failed, pull, repository};
use crate::odd_answers::pull_bounded;
use crate::raw_server::{Asked, Part, RawServer, chunks, whole, with_head};
use crate::stand_in::StandIn;

/// How long any of them may hold up a pull: a minute, and the try that began within it.
const LONGEST: Duration = Duration::from_secs(80);

/// A pause after which a connection does not count as silent yet.
const PAUSE: Duration = Duration::from_secs(1);

/// A server's answer to a request that is meant; `None` for the usual one.
type Slow = fn(&Repository, &Image, &Asked) -> Option<Vec<Part>>;

fn is_layer(image: &Image, asked: &Asked) -> bool {
    asked.path.ends_with(&image.layers[0])
}

fn is_manifest(_: &Image, asked: &Asked) -> bool {
    asked.path.contains("/manifests/")
}

/// Asks for a token, which the same server gives so.
fn tokens(asked: &Asked, token: Vec<Part>) -> Option<Vec<Part>> {
    if asked.path.starts_with("/token") {
        return Some(token);
    }
    let challenge = "WWW-Authenticate: Bearer realm=\"/token\"\r\n";
    asked
        .authorization
        .is_none()
        .then(|| vec![whole("401", challenge, b"{}")])
}

/// Each is an error within a minute of silence, which names the registry, what was asked for, how far it came and how
/// often it was tried.
#[test]
fn each_silence_ends() {
    let rows: [(&str, Slow, &[&str]); 12] = [
        (
            "no answer",
            |_, image, asked| is_manifest(image, asked).then(|| vec![Part::Hold]),
            &["no whole answer came within 35 s", "tried 2 times"],
        ),
        (
            "half a header",
            |_, image, asked| {
                is_manifest(image, asked).then(|| {
                    vec![
                        Part::Bytes(b"HTTP/1.1 200 OK\r\nContent".into()),
                        Part::Hold,
                    ]
                })
            },
            &["no whole answer came within 35 s", "tried 2 times"],
        ),
        (
            "a header byte by byte",
            |_, image, asked| {
                let header = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(1000));
                is_manifest(image, asked).then(|| vec![Part::Drip(header.into(), PAUSE)])
            },
            &["no whole answer came within 35 s", "tried 2 times"],
        ),
        (
            "other answers without end",
            |_, image, asked| {
                let other = b"HTTP/1.1 103 Early Hints\r\n\r\n".to_vec();
                is_layer(image, asked)
                    .then(|| vec![Part::Endless(other, Duration::from_millis(10))])
            },
            &[
                "no whole answer came within 35 s",
                "after 0 of",
                "2 tries",
                "layer 1 of 1",
            ],
        ),
        (
            "half a layer",
            |repository, image, asked| {
                let blob = repository.answer(&asked.path).body;
                let head = format!("HTTP/1.1 200 -\r\nContent-Length: {}\r\n", blob.len());
                match (is_layer(image, asked), asked.from) {
                    (true, None) => Some(vec![with_head(&head, &blob[..1_000_000]), Part::Hold]),
                    (true, _) => Some(vec![Part::Hold]),
                    _ => None,
                }
            },
            &[
                "no whole answer came within 35 s",
                "after 1000000 of",
                "tries",
                "layer 1 of 1",
            ],
        ),
        (
            "chunks that end too early, with trailers without end",
            |repository, image, asked| {
                let blob = &repository.blobs[&image.layers[0]];
                let body = [&chunks(&blob[..1000], 500)[..], b"0\r\n"].concat();
                let head = "HTTP/1.1 200 -\r\nTransfer-Encoding: chunked\r\n";
                is_layer(image, asked).then(|| {
                    vec![
                        with_head(head, &body),
                        Part::Endless(b"a: b\r\n".repeat(50), Duration::from_millis(1)),
                    ]
                })
            },
            &[
                "nothing of it came for 15 s",
                "after 1000 of",
                "tries",
                "layer 1 of 1",
            ],
        ),
        (
            "a manifest byte by byte",
            |repository, image, asked| {
                let manifest = repository.answer(&asked.path).body;
                let head = format!("HTTP/1.1 200 -\r\nContent-Length: {}\r\n", manifest.len());
                is_manifest(image, asked)
                    .then(|| vec![with_head(&head, b""), Part::Drip(manifest, PAUSE)])
            },
            &["while it sent the manifest", "takes too long"],
        ),
        (
            "a manifest with trailers without end",
            |repository, image, asked| {
                let manifest = repository.answer(&asked.path).body;
                let head = "HTTP/1.1 200 -\r\nTransfer-Encoding: chunked\r\n";
                let body = [&chunks(&manifest, 500)[..], b"0\r\n"].concat();
                is_manifest(image, asked).then(|| {
                    vec![
                        with_head(head, &body),
                        Part::Endless(b"a: b\r\n".repeat(50), Duration::from_millis(1)),
                    ]
                })
            },
            &["while it sent the manifest", "nothing of it came for 15 s"],
        ),
        (
            "a token server that says nothing",
            |_, _, asked| tokens(asked, vec![Part::Hold]),
            &["no whole answer came within 35 s", "tried"],
        ),
        (
            "a token byte by byte",
            |_, _, asked| {
                let text = format!(r#"{{"token":"{}"}}"#, "x".repeat(500));
                let head = format!("HTTP/1.1 200 -\r\nContent-Length: {}\r\n", text.len());
                tokens(
                    asked,
                    vec![with_head(&head, b""), Part::Drip(text.into(), PAUSE)],
                )
            },
            &["while it sent a token", "takes too long"],
        ),
        (
            "an error's text byte by byte",
            |_, image, asked| {
                let head = "HTTP/1.1 404 -\r\nContent-Length: 1000\r\n";
                is_manifest(image, asked)
                    .then(|| vec![with_head(head, b""), Part::Drip(vec![b'x'; 1000], PAUSE)])
            },
            &["has no manifest"],
        ),
        (
            "redirects that take their time",
            |_, image, asked| {
                let answer = whole("307", &format!("Location: {}x\r\n", asked.path), b"");
                let wait = Part::Drip(
                    b"HTTP/1.1 100 -\r\n\r\n".to_vec(),
                    Duration::from_millis(600),
                );
                is_layer(image, asked)
                    .then(|| vec![wait, answer])
                    .or_else(|| asked.path.ends_with('x').then(|| vec![Part::Hold]))
            },
            &["after 0 of", "tries"],
        ),
    ];
    let (repository, image) = repository();
    let repository = Arc::new(repository);
    thread::scope(|scope| {
        scope.spawn(|| tls_byte_by_byte(&repository));
        scope.spawn(tunnel_byte_by_byte);
        for (name, slow, expected) in rows {
            let (repository, layer) = (Arc::clone(&repository), image.clone());
            scope.spawn(move || {
                let registry = RawServer::start(move |asked| {
                    let usual = || {
                        let answer = repository.answer(&asked.path);
                        vec![whole(&answer.status.to_string(), "", &answer.body)]
                    };
                    slow(&repository, &layer, asked).unwrap_or_else(usual)
                });
                let begin = Instant::now();
                let pulled = pull_bounded(name, &registry.address);
                let took = begin.elapsed();
                for part in expected {
                    assert!(
                        pulled.0.contains(part),
                        "{name}: {part:?} is not in {}",
                        pulled.0
                    );
                }
                assert_failed(pulled, &[&registry.address]);
                assert!(took < LONGEST, "{name}: {took:?}");
            });
        }
    });
}

/// TLS hands out nothing of a record before all of it came: neither that nor a handshake can be drawn out.
fn tls_byte_by_byte(repository: &Arc<Repository>) {
    let repository = Arc::clone(repository);
    let registry = StandIn::start_with_tls(move |asked| repository.answer(&asked.path));
    // Connections for the manifest, the configuration, and the layer; then those for the rest of it.
    let network = dripping(&registry.address, |number| match number {
        0 | 1 => usize::MAX,
        2 => 500_000,
        _ => 0,
    });
    let dir = tempfile::tempdir().unwrap();
    let authority = dir.path().join("ca.pem");
    fs::write(&authority, &registry.authority).unwrap();
    let begin = Instant::now();
    let pulled = pull(
        &network,
        &dir.path().join("store"),
        &["--ca-file", text(&authority)],
    );
    let took = begin.elapsed();
    let parts = [
        "nothing of it came for 15 s",
        "no connection was made within 15 s",
        "after 4",
        "layer 1 of 1",
    ];
    assert_failed(pulled, &[&[network.as_str()], &parts[..]].concat());
    assert!(took < LONGEST, "{took:?}");
}

/// The answer of a proxy to the request for a tunnel can't be drawn out either.
fn tunnel_byte_by_byte() {
    let proxy = RawServer::start(|_| {
        let header = format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(1000));
        vec![Part::Drip(header.into(), PAUSE)]
    });
    let place = Place::new(false);
    let address = &proxy.address;
    place.configure(&format!(
        "[image.image_pull_proxy]\nhttps_proxy = 'http://{address}'\n"
    ));
    daemon(&place, Err(Code::NOT_FOUND));
    let mut serve = place.serve();
    serve.send(&recorded("registry.test/a/b:1", &place.bundle()));
    wait_until("the tunnel is given up", || {
        place.log().contains("is tried again")
    });
    let said = place.log();
    for part in [
        "registry.test can't be reached",
        &format!("through the proxy http://{address}"),
        "15 s",
    ] {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
}

/// A network that passes so many bytes of each connection's answer at once, by the connection's number, and the others one
/// by one.
fn dripping(server: &str, at_once: fn(usize) -> usize) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let server = server.to_owned();
    thread::spawn(move || {
        for (number, client) in listener.incoming().enumerate() {
            let (mut client, mut server) = (client?, TcpStream::connect(&server)?);
            let (mut asking, mut asked) = (client.try_clone()?, server.try_clone()?);
            thread::spawn(move || std::io::copy(&mut asking, &mut asked));
            thread::spawn(move || {
                let first = at_once(number);
                std::io::copy(&mut (&mut server).take(first as u64), &mut client)?;
                let mut byte = [0];
                while server.read(&mut byte)? > 0 {
                    client.write_all(&byte)?;
                    thread::sleep(Duration::from_millis(100));
                }
                client.shutdown(Shutdown::Both)
            });
        }
        Ok::<_, std::io::Error>(())
    });
    address
}
