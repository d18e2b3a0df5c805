// SPDX-License-Identifier: Apache-2.0

//! The worker's list of system calls has all that a pull needs. What is not on it fails as if the kernel did not have it, and
//! a program may survive that unnoticed, with something missing.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use guest_pull::digest::Digest;
use ttrpc::Code;

use crate::caller::{Place, daemon, recorded};
use crate::host::{Mounted, guest_pull, has_tool, is_root, output, text, tool};
use crate::image::{LAYER, Layer, Repository, archive, noise};
use crate::network::{self, with_token};
use crate::proxy::{Options, Proxy};
use crate::sealed::{Provider, Sealed, has_openssl, repository};
use crate::stand_in::{Answer, StandIn};

/// What the worker tries, and need not have.
const TRIED: [(&str, &str); 4] = [
    (
        "clone3",
        "the C library takes clone then, whose flags a filter can see",
    ),
    (
        "rt_sigaction",
        "a handler that the C library needs to change the user of all threads",
    ),
    (
        "sched_getaffinity",
        "a part of what the C library tells of a thread, and nobody asks for",
    ),
    (
        "socket(AF_UNIX",
        "the C library looks for nscd first, and asks name servers itself then",
    ),
];

/// A command that runs the program and writes the calls that fail to files, whose names begin with this: one for each thread,
/// since calls of several in one file interrupt each other's lines.
fn traced(trace: &Path) -> Command {
    let mut strace = tool("STRACE", "strace");
    strace.args(["-ff", "-Z", "-qq", "-o", text(trace)]);
    let program = guest_pull(&[]);
    strace.arg(program.get_program()).args(program.get_args());
    strace
}

/// The calls that fail with ENOSYS in a pull with these arguments, which must succeed.
fn missing(dir: &Path, args: &[&str]) -> BTreeSet<String> {
    let trace = dir.join("trace");
    let mut command = traced(&trace);
    command.args(["pull", "--store"]).arg(dir.join("store"));
    let (stdout, stderr, code) = output(command.args(args));
    assert_eq!(code, Some(0), "{args:?}: {stdout}{stderr}");
    missing_in(&trace)
}

/// Those in strace's files whose names begin so.
fn missing_in(trace: &Path) -> BTreeSet<String> {
    let name = format!("{}.", trace.file_name().unwrap().to_str().unwrap());
    let entries = fs::read_dir(trace.parent().unwrap()).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    let files = paths.filter(|path| {
        let file = path.file_name().unwrap();
        file.to_str().is_some_and(|file| file.starts_with(&name))
    });
    let mut missing = BTreeSet::new();
    for file in files {
        let text = fs::read_to_string(file).unwrap();
        for call in text.lines().filter(|line| line.contains("= -1 ENOSYS")) {
            let is_socket = call.starts_with("socket(");
            let end = if is_socket { ',' } else { '(' };
            missing.insert(call.split([end, ' ']).next().unwrap().to_owned());
        }
    }
    missing
}

/// Those in a pull for the daemon through a proxy, to which both the way and the tunnel have TLS; and in the mount.
fn missing_by_proxy() -> BTreeSet<String> {
    let repository = image();
    let server = StandIn::start_with_tls(move |asked| repository.answer(&asked.path));
    let proxy = Proxy::start(Options {
        login: Some("robot:hunter2"),
        has_tls: true,
        ..Options::default()
    });
    let place = Place::new(false);
    daemon(&place, Err(Code::NOT_FOUND));
    place.configure(&format!(
        "[image]\nextra_root_certificates = ['''\n{}''', '''\n{}''']\n\
         [image.image_pull_proxy]\nhttps_proxy = 'https://robot:hunter2@{}'\n",
        server.authority, proxy.authority, proxy.address
    ));
    let trace = place.at("trace");
    let mut serve = place.serve_by(traced(&trace), Some(&place.at("store")));
    serve.send(&recorded(
        &format!("{}/a:1", server.address),
        &place.bundle(),
    ));
    serve.answer().digest();
    serve.stream = None;
    assert!(serve.child.wait().unwrap().success(), "{}", place.log());
    drop(Mounted(place.rootfs()));
    assert!(!proxy.asked().is_empty());
    missing_in(&trace)
}

/// An image of three layers: gzip, zstd where that is there, and plain.
fn image() -> Repository {
    let layers = (0_u8..3).map(|number| {
        archive(&[
            (format!("noise-{number}"), noise(number.into(), 300_000)),
            (format!("text-{number}"), b"the same words ".repeat(20_000)),
        ])
    });
    let layers: Vec<_> = layers.collect();
    let mut repository = Repository::of(&layers).0;
    let mut all = Vec::new();
    for (archive, kind) in layers.into_iter().zip(["+gzip", "+zstd", ""]) {
        let diff_id = Digest::of(&archive).to_string();
        let blob = match kind.strip_prefix('+') {
            None => archive,
            Some(program) => compressed(program, &archive),
        };
        let media_type = format!("{}{kind}", LAYER);
        all.push(Layer {
            media_type,
            blob,
            diff_id,
        });
    }
    let image = repository.add_layers(all);
    repository.tag(&image.descriptor);
    repository
}

/// What a program makes of its input.
fn compressed(program: &str, input: &[u8]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("input");
    fs::write(&path, input).unwrap();
    let output = Command::new(program)
        .arg("-c")
        .arg(path)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "{program}");
    output.stdout
}

/// Gzip, zstd and plain layers; encrypted ones; TLS with a name; a token, a redirect, a connection that is cut; through a
/// proxy; mounted and stored already: the worker lacks nothing but what it need not have.
#[test]
fn the_worker_lacks_no_system_call() {
    let has_tools = has_tool("STRACE", "strace") && has_tool("ZSTD", "zstd") && has_openssl();
    if !is_root() || !has_tools {
        return;
    }
    let dir = || tempfile::tempdir().unwrap();
    let mut found = BTreeSet::new();

    let of_kinds = image();
    let tls = StandIn::start_with_tls(move |asked| of_kinds.answer(&asked.path));
    let place = dir();
    let ca = place.path().join("ca.pem");
    fs::write(&ca, &tls.authority).unwrap();
    let port = tls.address.rsplit(':').next().unwrap();
    let named = format!("localhost:{port}/a/b:1");
    // The second time all is stored.
    for _ in 0..2 {
        found.extend(missing(place.path(), &["--ca-file", text(&ca), &named]));
    }

    let redirected = redirecting();
    let address = format!("{}/a/b:1", redirected.1.address);
    found.extend(missing(dir().path(), &["--plain-http", &address]));

    let sealed = [Sealed::of(
        &archive(&[("file".to_owned(), noise(9, 300_000))]),
        "+zstd",
    )];
    let encrypted = repository(&sealed);
    let registry = StandIn::start(move |asked| encrypted.answer(&asked.path));
    let place = dir();
    let socket = place.path().join("cdh.sock");
    let _provider = Provider::of(&socket, &sealed);
    let daemon = format!("unix://{}", socket.display());
    let address = format!("{}/a/b:1", registry.address);
    let args = ["--plain-http", "--cdh-sock", &daemon, &address];
    found.extend(missing(place.path(), &args));

    found.extend(missing_by_proxy());

    // Whatever the C library is, it tries this one: so the worker was looked at.
    assert!(found.contains("clone3"), "{found:?}");
    found.retain(|call| TRIED.iter().all(|(name, _)| name != call));
    assert!(found.is_empty(), "{found:?}");
}

/// A registry that has its blobs elsewhere, where connections break.
fn redirecting() -> (StandIn, StandIn) {
    let (repository, image) = network::repository();
    let blob = repository.blobs[&image.layers[0]].clone();
    let elsewhere = StandIn::start(move |asked| Answer::rest(&blob, asked.from).cut(900_000));
    let address = elsewhere.address.clone();
    let registry = StandIn::start(move |asked| {
        with_token(asked, |asked| {
            match asked.path.ends_with(&image.layers[0]) {
                true => Answer::new(307, "").with("Location", format!("http://{address}/blob")),
                false => repository.answer(&asked.path),
            }
        })
    });
    (elsewhere, registry)
}
