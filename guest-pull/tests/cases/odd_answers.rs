// SPDX-License-Identifier: Apache-2.0

//! Registries that answer in ways of HTTP that few know, that nobody should use, or that are meant to hurt.

use std::thread;
use std::time::{Duration, Instant};

use crate::host::{guest_pull, text};
use crate::image::{Image, Repository};
use crate::memory_of::{MOST_OF_THE_WORKER, measured};
use crate::network::{assert_failed, pull, repository};
use crate::raw_server::{Asked, Part, RawServer, chunks, whole, with_head};

/// What a test's server answers to a request for the layer.
type Odd = fn(&[u8], &Asked) -> Vec<Part>;

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n";

/// A registry that answers requests for the image's layer so, and all others as it should.
pub fn odd(repository: Repository, image: &Image, odd: Odd) -> RawServer {
    let layer = image.layers[0].clone();
    RawServer::start(move |asked| {
        let answer = repository.answer(&asked.path);
        match asked.path.contains(&layer) {
            true => odd(&answer.body, asked),
            false => vec![
                whole(&answer.status.to_string(), "", &answer.body),
                Part::Next,
            ],
        }
    })
}

/// Pulls `a/b:1` without TLS. Neither process takes more memory than it may.
pub fn pull_bounded(name: &str, address: &str) -> (String, Option<i32>) {
    let dir = tempfile::tempdir().unwrap();
    let image = format!("{address}/a/b:1");
    let store = text(dir.path());
    let pulled = measured(&guest_pull(&[
        "pull",
        "--plain-http",
        "--store",
        store,
        &image,
    ]));
    let peak = pulled.peak;
    assert!(
        peak < MOST_OF_THE_WORKER,
        "{name}: {peak} KiB: {}",
        pulled.said
    );
    (pulled.said, pulled.code)
}

/// The rest of a blob, with a header of its own.
fn rest(blob: &[u8], from: usize, headers: &str) -> Part {
    let body = &blob[from.min(blob.len())..];
    let length = body.len();
    with_head(
        &format!("HTTP/1.1 206 -\r\nContent-Length: {length}\r\n{headers}"),
        body,
    )
}

/// Answers that are odd and allowed, or wrong in what doesn't matter: the pull ends right, and of the layer so many bytes
/// are asked for in a second request, if there is one.
#[test]
fn odd_answers_that_are_taken() {
    let rows: [(&str, Odd); 14] = [
        ("HTTP/1.0 without a length", |blob, _| {
            vec![with_head("HTTP/1.0 200 OK\r\n", blob)]
        }),
        ("HTTP/1.0 with a length", |blob, _| {
            let length = blob.len();
            vec![with_head(
                &format!("HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n"),
                blob,
            )]
        }),
        ("small chunks", |blob, _| {
            let body = [&chunks(blob, 1000)[..], b"0\r\n\r\n"].concat();
            vec![with_head(CHUNKED, &body), Part::Next]
        }),
        ("chunks of one byte", |blob, _| {
            let (most, last) = blob.split_at(blob.len() - 50_000);
            let body = [&chunks(most, 70_000)[..], &chunks(last, 1), b"0\r\n\r\n"].concat();
            vec![with_head(CHUNKED, &body), Part::Next]
        }),
        ("chunks with extensions and leading zeros", |blob, _| {
            let (first, last) = blob.split_at(1000);
            let mut body = b"00003e8;a=b\r\n".to_vec();
            body.extend([first, b"\r\n", &chunks(last, 100_000), b"000\r\n\r\n"].concat());
            vec![with_head(CHUNKED, &body)]
        }),
        ("chunks with trailers", |blob, _| {
            let body = [
                &chunks(blob, 100_000)[..],
                b"0\r\nDigest: x\r\nExpires: never\r\n\r\n",
            ];
            vec![with_head(CHUNKED, &body.concat()), Part::Next]
        }),
        ("chunks without their end", |blob, _| {
            vec![with_head(CHUNKED, &chunks(blob, 100_000))]
        }),
        ("chunks and a length that is wrong", |blob, _| {
            let body = [&chunks(blob, 100_000)[..], b"0\r\n\r\n"].concat();
            let head = format!("{CHUNKED}Content-Length: {}\r\n", blob.len());
            vec![with_head(&head, &body)]
        }),
        ("the length twice", |blob, _| {
            let again = format!("Content-Length: {}\r\n", blob.len());
            vec![whole("200", &again, blob)]
        }),
        // The HTTP library takes what follows them at once for a part of the header, so that is little here.
        ("other answers before it", |blob, asked| {
            let before =
                b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n";
            let head = format!("HTTP/1.1 200 -\r\nContent-Length: {}\r\n", blob.len());
            match asked.from {
                None => vec![
                    Part::Bytes(before.repeat(20)),
                    with_head(&head, &blob[..1000]),
                ],
                Some(from) => {
                    let range = format!(
                        "Content-Range: bytes {from}-{}/{}\r\n",
                        blob.len() - 1,
                        blob.len()
                    );
                    vec![rest(blob, from, &range)]
                }
            }
        }),
        ("no reason, and spaces around values", |blob, _| {
            let length = blob.len();
            vec![with_head(
                &format!("HTTP/1.1 200\r\ncontent-LENGTH:   {length}  \r\n"),
                blob,
            )]
        }),
        (
            "parts, and not as many bytes as were asked for",
            |blob, asked| {
                let from = asked.from.unwrap_or(0);
                let end = (from + 300_000).min(blob.len());
                let range = format!("Content-Range: bytes {from}-{}/{}\r\n", end - 1, blob.len());
                match from {
                    0 => vec![with_head(
                        &format!("HTTP/1.1 200 -\r\nContent-Length: {}\r\n", blob.len()),
                        &blob[..end],
                    )],
                    _ => vec![rest(&blob[..end], from, &range)],
                }
            },
        ),
        ("a part of an unknown whole", |blob, asked| {
            match asked.from {
                None => vec![with_head("HTTP/1.1 200 -\r\n", &blob[..1_000_000])],
                Some(from) => {
                    let range = format!("Content-Range: bytes {from}-{}/*\r\n", blob.len() - 1);
                    vec![rest(blob, from, &range)]
                }
            }
        }),
        (
            "the header byte by byte, and the body in parts",
            |blob, _| {
                let length = blob.len();
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n");
                let mut parts = vec![Part::Drip(head.into(), Duration::from_millis(20))];
                parts.extend(blob.chunks(200_000).map(|part| Part::Bytes(part.to_vec())));
                parts
            },
        ),
    ];
    thread::scope(|scope| {
        for (name, answer) in rows {
            scope.spawn(move || {
                let (repository, image) = repository();
                let registry = odd(repository, &image, answer);
                let dir = tempfile::tempdir().unwrap();
                let (said, code) = pull(&registry.address, dir.path(), &["--plain-http"]);
                assert_eq!(code, Some(0), "{name}: {said}");
            });
        }
    });
}

/// Answers to a request for the rest of a layer that are none: the whole is fetched again, once, and the layer is right.
#[test]
fn wrong_parts_are_not_used() {
    let rows: [(&str, Odd); 8] = [
        ("the whole", |blob, _| vec![whole("200", "", blob)]),
        ("another beginning", |blob, asked| {
            let from = asked.from.unwrap() - 1;
            let range = format!(
                "Content-Range: bytes {from}-{}/{}\r\n",
                blob.len() - 1,
                blob.len()
            );
            vec![rest(blob, from, &range)]
        }),
        ("another whole", |blob, asked| {
            let from = asked.from.unwrap();
            let range = format!(
                "Content-Range: bytes {from}-{}/{}\r\n",
                blob.len() - 1,
                blob.len() + 1
            );
            vec![rest(blob, from, &range)]
        }),
        ("no range", |blob, asked| {
            vec![rest(blob, asked.from.unwrap(), "")]
        }),
        ("a range that is none", |blob, asked| {
            vec![rest(
                blob,
                asked.from.unwrap(),
                "Content-Range: bytes -x/y\r\n",
            )]
        }),
        ("a range of large numbers", |blob, asked| {
            let range = "Content-Range: bytes 99999999999999999999-0/99999999999999999999\r\n";
            vec![rest(blob, asked.from.unwrap(), range)]
        }),
        ("several parts", |blob, asked| {
            vec![rest(
                blob,
                asked.from.unwrap(),
                "Content-Type: multipart/byteranges; boundary=x\r\n",
            )]
        }),
        ("that it can't", |_, _| vec![whole("416", "", b"")]),
    ];
    thread::scope(|scope| {
        for (name, answer) in rows {
            scope.spawn(move || {
                let (repository, image) = repository();
                let layer = image.layers[0].clone();
                let blob = repository.blobs[&layer].clone();
                let registry = RawServer::start(move |asked| {
                    match (asked.path.ends_with(&layer), asked.from) {
                        (true, Some(_)) => answer(&blob, asked),
                        (true, None) if asked.before == 0 => {
                            let head =
                                format!("HTTP/1.1 200 -\r\nContent-Length: {}\r\n", blob.len());
                            vec![with_head(&head, &blob[..1_500_000])]
                        }
                        _ => vec![whole("200", "", &repository.answer(&asked.path).body)],
                    }
                });
                let dir = tempfile::tempdir().unwrap();
                let (said, code) = pull(&registry.address, dir.path(), &["--plain-http"]);
                assert_eq!(code, Some(0), "{name}: {said}");
                let asked = registry.asked();
                let froms = asked
                    .iter()
                    .filter(|asked| asked.path.ends_with(&image.layers[0]));
                let froms: Vec<_> = froms.map(|asked| asked.from).collect();
                let expected = match name {
                    "the whole" => vec![None, Some(1_500_000)],
                    _ => vec![None, Some(1_500_000), None],
                };
                assert_eq!(froms, expected, "{name}: {said}");
            });
        }
    });
}

/// Answers that are wrong, without end, or no HTTP at all: an error that names the registry, the blob and the reason, soon,
/// and with little memory.
#[test]
fn odd_answers_that_are_refused() {
    let rows: [(&str, Odd, &str); 19] = [
        (
            "a length that is too small",
            |blob, _| vec![whole("200", "", &blob[..1000])],
            "answers with 1000 bytes",
        ),
        (
            "a length that is too large",
            |blob, _| {
                let head = format!("HTTP/1.1 200 -\r\nContent-Length: {}\r\n", blob.len() + 1);
                vec![with_head(&head, blob)]
            },
            "and the manifest says",
        ),
        (
            "two lengths",
            |blob, _| vec![whole("200", "Content-Length: 7\r\n", blob)],
            "ontent-length",
        ),
        (
            "a negative length",
            |blob, _| vec![with_head("HTTP/1.1 200 -\r\nContent-Length: -1\r\n", blob)],
            "ontent-length",
        ),
        (
            "a length beyond all numbers",
            |blob, _| {
                vec![with_head(
                    "HTTP/1.1 200 -\r\nContent-Length: 99999999999999999999\r\n",
                    blob,
                )]
            },
            "ontent-length",
        ),
        (
            "the largest length",
            |blob, _| {
                vec![with_head(
                    "HTTP/1.1 200 -\r\nContent-Length: 18446744073709551615\r\n",
                    blob,
                )]
            },
            "18446744073709551615 bytes",
        ),
        (
            "a header without end",
            |_, _| {
                let line = format!("X-A: {}\r\n", "a".repeat(1000));
                vec![
                    Part::Bytes(b"HTTP/1.1 200 OK\r\n".into()),
                    Part::Endless(line.into(), Duration::ZERO),
                ]
            },
            "header",
        ),
        (
            "many short headers",
            |_, _| {
                vec![
                    Part::Bytes(b"HTTP/1.1 200 OK\r\n".into()),
                    Part::Endless(b"a:b\r\n".repeat(20), Duration::ZERO),
                ]
            },
            "header",
        ),
        (
            "one header without end",
            |_, _| {
                vec![
                    Part::Bytes(b"HTTP/1.1 200 OK\r\na: ".into()),
                    Part::Endless(vec![b'a'; 10_000], Duration::ZERO),
                ]
            },
            "header",
        ),
        (
            "a first line without end",
            |_, _| {
                vec![
                    Part::Bytes(b"HTTP/1.1 200 ".into()),
                    Part::Endless(vec![b'a'; 10_000], Duration::ZERO),
                ]
            },
            "header",
        ),
        (
            "HTTP/2",
            |_, _| {
                vec![Part::Bytes(
                    b"\x00\x00\x12\x04\x00\x00\x00\x00\x00\x00\x03\x00\x00\x00\x64".into(),
                )]
            },
            "http parse fail",
        ),
        (
            "something else",
            |_, _| vec![Part::Bytes(b"SSH-2.0-OpenSSH_9.2\r\n".into())],
            "http parse fail",
        ),
        (
            "a status that is none",
            |_, _| vec![Part::Bytes(b"HTTP/1.1 007 -\r\n\r\n".into())],
            "status",
        ),
        (
            "a switch to another protocol",
            |_, _| vec![Part::Bytes(b"HTTP/1.1 101 -\r\nUpgrade: x\r\n\r\n".into())],
            "101",
        ),
        (
            "no content",
            |_, _| vec![Part::Bytes(b"HTTP/1.1 204 -\r\n\r\n".into())],
            "204",
        ),
        (
            "redirects without end",
            |_, asked| {
                vec![whole(
                    "307",
                    &format!("Location: {}?x\r\n", asked.path),
                    b"",
                )]
            },
            "redirect after 5 others",
        ),
        (
            "a redirect to itself",
            |_, asked| {
                vec![
                    whole("302", &format!("Location: {}\r\n", asked.path), b""),
                    Part::Next,
                ]
            },
            "redirect after 5 others",
        ),
        (
            "a redirect to nowhere",
            |_, _| vec![whole("301", "", b"")],
            "redirect to nowhere",
        ),
        (
            "a redirect to a file",
            |_, _| vec![whole("301", "Location: file:///etc/passwd\r\n", b"")],
            "redirect to nowhere",
        ),
    ];
    thread::scope(|scope| {
        for (name, answer, expected) in rows {
            scope.spawn(move || {
                let (repository, image) = repository();
                let registry = odd(repository, &image, answer);
                let begin = Instant::now();
                let pulled = pull_bounded(name, &registry.address);
                let named = [registry.address.as_str(), &image.layers[0]];
                assert!(pulled.0.contains(expected), "{name}: {}", pulled.0);
                assert_failed(pulled, &named);
                assert!(begin.elapsed() < Duration::from_secs(30), "{name}");
            });
        }
    });
}

/// A chunk that is none counts as a cut connection: what is missing is asked for again, and in the end the error says how
/// far it came.
#[test]
fn chunks_that_are_none() {
    let rows: [(&str, Odd, usize); 5] = [
        (
            "a size beyond all numbers",
            |blob, _| {
                let body = [&chunks(&blob[..1000], 100)[..], b"ffffffffffffffffffff\r\n"].concat();
                vec![with_head(CHUNKED, &body)]
            },
            0,
        ),
        (
            "a size that is none",
            |blob, _| {
                let body = [&chunks(&blob[..1000], 100)[..], b"-5\r\nabcde\r\n"].concat();
                vec![with_head(CHUNKED, &body)]
            },
            0,
        ),
        (
            "a chunk longer than its size",
            |blob, _| {
                let body = [&chunks(&blob[..1000], 100)[..], b"2\r\nabcde\r\n"].concat();
                vec![with_head(CHUNKED, &body)]
            },
            0,
        ),
        (
            "a size without end",
            |blob, _| {
                let sizes = Part::Endless(b"0".repeat(1000), Duration::ZERO);
                vec![with_head(CHUNKED, &chunks(&blob[..1000], 100)), sizes]
            },
            1,
        ),
        (
            "an end that comes too early",
            |blob, _| {
                let body = [&chunks(&blob[..1000], 100)[..], b"0\r\n\r\n"].concat();
                vec![with_head(CHUNKED, &body)]
            },
            1,
        ),
    ];
    thread::scope(|scope| {
        for (name, answer, advances) in rows {
            scope.spawn(move || {
                let (repository, image) = repository();
                let layer = image.layers[0].clone();
                let blob = repository.blobs[&layer].clone();
                let registry = RawServer::start(move |asked| match asked.path.ends_with(&layer) {
                    true => answer(&blob[asked.from.unwrap_or(0)..], asked),
                    _ => vec![whole("200", "", &repository.answer(&asked.path).body)],
                });
                let pulled = pull_bounded(name, &registry.address);
                let parts = [
                    registry.address.as_str(),
                    &image.layers[0],
                    " bytes, and ",
                    "tries",
                ];
                let said = assert_failed(pulled, &parts);
                let asked = registry.asked();
                let froms = asked.iter().filter_map(|asked| asked.from);
                assert_eq!(froms.count() > 0, advances > 0, "{name}: {said}");
            });
        }
    });
}
