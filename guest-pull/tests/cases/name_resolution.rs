// SPDX-License-Identifier: Apache-2.0

//! The worker finds the addresses of registries from inside its confinement: it has no local sockets, no netlink, and reads the
//! resolver's files alone.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::path::Path;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::host::{guest_pull, is_root, output, text};
use crate::image::{Repository, archive};
use crate::stand_in::StandIn;

/// The name of the registry, which no file has.
const NAME: &str = "registry.name-resolution.test";

/// The bit of a message that says that it is cut: RFC 1035, 4.1.1.
const TRUNCATED: u8 = 2;

/// A type of records: RFC 1035, 3.2.2.
const A: [u8; 2] = [0, 1];

/// How a name server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Udp,
    /// By UDP it says that the answer is too long for that.
    Tcp,
}

/// A name server that says of every name that it is this machine, and what it was asked.
struct NameServer {
    address: Ipv4Addr,
    asked: Receiver<(By, Vec<u8>)>,
}

impl NameServer {
    /// One at an address of loopback that nobody else uses.
    fn start(by: By) -> Self {
        let own = std::process::id();
        let address = Ipv4Addr::new(127, 53 + (by as u8), (own >> 8) as u8, own as u8);
        let taken = |error| {
            panic!(
                "no name server can listen at {address}:53: {error}. If another one has that port at all addresses \
                 (0.0.0.0), let it listen at its own alone, or run this test in a network namespace"
            )
        };
        let udp = UdpSocket::bind((address, 53)).unwrap_or_else(taken);
        let tcp = TcpListener::bind((address, 53));
        let tcp = tcp.unwrap_or_else(|error| panic!("{address}:53 by TCP: {error}"));
        let (send, asked) = channel();
        let told: Sender<_> = send.clone();
        // The test looks at what it wants.
        thread::spawn(move || {
            let mut query = [0; 512];
            while let Ok((length, from)) = udp.recv_from(&mut query) {
                let _ = told.send((By::Udp, query[..length].to_vec()));
                let _ = udp.send_to(&answer(&query[..length], by == By::Tcp), from);
            }
        });
        thread::spawn(move || {
            for stream in tcp.incoming() {
                let mut stream = stream.unwrap();
                let send = send.clone();
                thread::spawn(move || {
                    let mut length = [0; 2];
                    while stream.read_exact(&mut length).is_ok() {
                        let mut query = vec![0; u16::from_be_bytes(length).into()];
                        stream.read_exact(&mut query).unwrap();
                        let answer = answer(&query, false);
                        let _ = send.send((By::Tcp, query));
                        let length = u16::try_from(answer.len()).unwrap().to_be_bytes();
                        stream.write_all(&[&length[..], &answer].concat()).unwrap();
                    }
                });
            }
        });
        Self { address, asked }
    }
}

/// The answer to a question.
fn answer(query: &[u8], is_cut: bool) -> Vec<u8> {
    // After the header come the parts of the name, each with its length, then the type and the class.
    let mut end = 12;
    while query[end] != 0 {
        end += 1 + usize::from(query[end]);
    }
    let kind = &query[end + 1..end + 3];
    let question = &query[12..end + 5];
    let has_answer = kind == A && !is_cut;
    let flags = [0x81 | if is_cut { TRUNCATED } else { 0 }, 0x80];
    let counts = [0, 1, 0, u8::from(has_answer), 0, 0, 0, 0];
    let mut answer = [&query[..2], &flags, &counts, question].concat();
    if has_answer {
        // The name of the question, a minute, four bytes.
        answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        answer.extend(Ipv4Addr::LOCALHOST.octets());
    }
    answer
}

/// Pulls by the name of the registry, in a mount namespace where the resolver's files are these.
fn pull(files: &[(&str, String)], store: &Path) -> (String, Option<i32>) {
    let repository = Repository::of(&[archive(&[("file".to_owned(), b"content".to_vec())])]).0;
    let registry = StandIn::start(move |asked| repository.answer(&asked.path));
    let port = registry.address.rsplit(':').next().unwrap();
    let image = format!("{NAME}:{port}/a/b:1");
    let apart = || {
        unshare(CloneFlags::CLONE_NEWNS).unwrap();
        let none = None::<&str>;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(none, "/", none, private, none).unwrap();
        let dir = tempfile::tempdir().unwrap();
        for (number, (path, content)) in files.iter().enumerate() {
            let file = dir.path().join(number.to_string());
            fs::write(&file, content).unwrap();
            mount(Some(&file), *path, none, MsFlags::MS_BIND, none).unwrap();
        }
        let (stdout, stderr, code) = output(&mut guest_pull(&[
            "pull",
            "--plain-http",
            "--store",
            text(store),
            &image,
        ]));
        (format!("{stdout}{stderr}"), code)
    };
    // A thread can leave a mount namespace alone.
    thread::scope(|scope| scope.spawn(apart).join().unwrap())
}

/// By a name server in `/etc/resolv.conf`: by UDP, and by TCP if the answer is too long; also where the configuration has
/// systemd-resolved's module first, which asks that service by a local socket.
#[test]
fn names_are_asked_of_a_server() {
    if !is_root() {
        return;
    }
    for by in [By::Udp, By::Tcp] {
        let server = NameServer::start(by);
        for hosts in [
            "files dns",
            "files resolve [!UNAVAIL=return] dns",
            "mymachines files dns myhostname",
        ] {
            let dir = tempfile::tempdir().unwrap();
            let files = [
                (
                    "/etc/resolv.conf",
                    format!("nameserver {}\n", server.address),
                ),
                ("/etc/nsswitch.conf", format!("hosts: {hosts}\n")),
            ];
            let (said, code) = pull(&files, dir.path());
            assert_eq!(code, Some(0), "{by:?}, {hosts}: {said}");
            let first = NAME.split('.').next().unwrap().as_bytes();
            let asked: Vec<_> = server.asked.try_iter().collect();
            let of_name = |query: &[u8]| query.windows(first.len()).any(|part| part == first);
            assert!(
                asked
                    .iter()
                    .any(|(how, query)| *how == by && of_name(query)),
                "{by:?}, {hosts}: {asked:?}"
            );
        }
    }
}

/// By `/etc/hosts`, without a name server that answers.
#[test]
fn names_are_in_a_file() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let files = [
        ("/etc/resolv.conf", "nameserver 127.0.0.254\n".to_owned()),
        ("/etc/hosts", format!("127.0.0.1 localhost {NAME}\n")),
    ];
    let (said, code) = pull(&files, dir.path());
    assert_eq!(code, Some(0), "{said}");
}

/// A name that nobody knows is an error that has it.
#[test]
fn unknown_names_are_told() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let files = [
        (
            "/etc/resolv.conf",
            "options timeout:1 attempts:1\nnameserver 127.0.0.254\n".to_owned(),
        ),
        ("/etc/nsswitch.conf", "hosts: files\n".to_owned()),
    ];
    let (said, code) = pull(&files, dir.path());
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(NAME), "{said}");
}
