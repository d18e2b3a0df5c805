// SPDX-License-Identifier: Apache-2.0

//! PullImage on `cdh.sock`: passed on to guest-pull, while everything else goes on.

use nix::sys::signal::Signal;
use offline_fs_kbc::proto::api::{
    GetResourceRequest, GetResourceResponse, ImagePullRequest, ImagePullResponse,
};
use offline_fs_kbc::proto::guest_pull::Progress;
use protobuf::Message as _;
use serde_json::Value;
use ttrpc::{Code, Request, Response};

use crate::support::daemon::{self, Daemon, Root, one};
use crate::support::puller::{RECORDED_PULL, Socket};
use crate::support::service_manager::Manager;
use crate::support::wait_for;
use crate::support::wire::{Wire, frame, request_frame};

const DIGEST: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000001";

/// A frame that asks for an image, with the client's deadline.
fn pull_frame(stream_id: u32, image: &str, nanoseconds: i64) -> Vec<u8> {
    let pull = ImagePullRequest {
        image_url: image.to_owned(),
        bundle_path: "/run/kata-containers/1".to_owned(),
        ..ImagePullRequest::default()
    };
    let request = Request {
        service: "api.ImagePullService".to_owned(),
        method: "PullImage".to_owned(),
        payload: pull.write_to_bytes().unwrap(),
        timeout_nano: nanoseconds,
        ..Request::default()
    };
    frame(1, stream_id, &request.write_to_bytes().unwrap())
}

/// A frame that asks for the credential as today's clients do.
fn credential_frame(stream_id: u32) -> Vec<u8> {
    let request = GetResourceRequest {
        ResourcePath: "kbs:///default/credential/test".to_owned(),
        ..GetResourceRequest::default()
    };
    let payload = request.write_to_bytes().unwrap();
    request_frame(stream_id, "api.GetResourceService", "GetResource", payload)
}

/// The digest of an answer, or the refusal.
fn pulled(response: &Response) -> Result<String, (Code, String)> {
    let status = response.status.as_ref().expect("a response has a status");
    if status.code() != Code::OK {
        return Err((status.code(), status.message.clone()));
    }
    let answer = ImagePullResponse::parse_from_bytes(&response.payload).unwrap();
    Ok(answer.manifest_digest)
}

fn credential(response: &Response) -> Vec<u8> {
    let answer = GetResourceResponse::parse_from_bytes(&response.payload).unwrap();
    answer.Resource
}

fn hub(root: &Root) -> Wire {
    Wire::connect(&root.socket_called("cdh.sock"))
}

fn status(root: &Root) -> (String, Value) {
    let ask = |args: &[&str]| {
        let mut command = daemon::command();
        command
            .args(["status", "--root"])
            .arg(root.dir())
            .args(args);
        let (stdout, stderr, code) = daemon::output(&mut command);
        assert_eq!(code, Some(0), "{stderr}");
        stdout
    };
    let json = ask(&["--format", "json"]);
    (ask(&[]), serde_json::from_str(&json).unwrap())
}

/// The request of a released kata-agent goes to guest-pull as it is, with its deadline; the client gets the digest. While
/// the image is pulled, the same connection gets other answers, and `status` shows how the pull goes.
#[test]
fn a_pull_does_not_hold_up_other_requests() {
    let root = Root::with(&one("Credential", "x"));
    let socket = Socket::new(&root);
    let daemon = root.start_hub();
    let mut client = hub(&root);
    client.send(RECORDED_PULL);
    let mut passed = socket.next();
    let recorded = Request::parse_from_bytes(&RECORDED_PULL[10..]).unwrap();
    assert_eq!(passed.request.payload, recorded.payload);
    let sent = (&*passed.request.service, &*passed.request.method);
    assert_eq!(sent, ("api.ImagePullService", "PullImage"));
    let left = passed.request.timeout_nano;
    assert!(left > 0 && left <= recorded.timeout_nano, "{left}");
    assert_eq!(passed.request.metadata[0].key, "progress");
    passed.tell(&Progress {
        layers: 3,
        layers_done: 1,
        bytes: 9_000_000,
        bytes_fetched: 2_000_000,
        bytes_stored: 1_000_000,
        ..Progress::default()
    });
    for stream_id in [3, 5] {
        client.send(&credential_frame(stream_id));
        let (answered, response) = client.receive();
        assert_eq!((answered, &*credential(&response)), (stream_id, &b"x"[..]));
    }
    let text = wait_for("the progress", || {
        let (text, _) = status(&root);
        text.contains("1 of 3 layers").then_some(text)
    });
    assert!(
        text.contains("registry.example/app:latest: running for ")
            && text.contains("3.0 MB of 9.0 MB, "),
        "{text}"
    );
    passed.answer(DIGEST);
    let (stream_id, response) = client.receive();
    assert_eq!((stream_id, pulled(&response)), (1, Ok(DIGEST.to_owned())));
    assert!(passed.is_given_up());
    let (text, json) = status(&root);
    assert!(
        text.contains("registry.example/app:latest: pulled 0 s ago in "),
        "{text}"
    );
    assert!(
        text.contains("3 layers, 2.0 MB fetched, 1.0 MB stored before"),
        "{text}"
    );
    let image = &json["images"][0];
    assert_eq!(
        (&image["state"], &image["layers"]),
        (&"OK".into(), &3.into()),
        "{image}"
    );
    daemon.wait_for_log("pulled registry.example/app:latest in ");
}

/// `status` shows what confines the workers, and what should and does not: once for pulls that are alike.
#[test]
fn the_status_shows_what_confines_the_workers() {
    let root = Root::new();
    let socket = Socket::new(&root);
    let _daemon = root.start_hub();
    let mut client = hub(&root);
    let all = "namespaces limits user capabilities landlock system-calls";
    let confinements = [
        ("r.example/old", "", ""),
        ("r.example/a", all, ""),
        ("r.example/b", all, ""),
        ("r.example/c", "limits user\n", "landlock"),
        ("r.example/d", "", "user"),
    ];
    for (stream_id, (image, confined_by, not_confined_by)) in (1..).step_by(2).zip(confinements) {
        client.send(&pull_frame(stream_id, image, 0));
        let mut passed = socket.next();
        passed.tell(&Progress {
            layers: 1,
            confined_by: confined_by.to_owned(),
            not_confined_by: not_confined_by.to_owned(),
            ..Progress::default()
        });
        passed.answer(DIGEST);
        pulled(&client.receive().1).unwrap();
    }
    let (text, json) = status(&root);
    let lines = text.lines().skip_while(|line| *line != "images:");
    let lines: Vec<_> = lines.skip(1).take(8).collect();
    // The latest comes first.
    let said: Vec<&str> = lines
        .iter()
        .copied()
        .filter(|line| line.starts_with("    "))
        .collect();
    let expected = [
        "    worker not confined: without user",
        "    worker confined by limits, user; without landlock",
        "    worker confined by namespaces, limits, user, capabilities, landlock, system-calls",
    ];
    assert_eq!(said, expected, "{text}");
    assert!(lines[4].starts_with("  r.example/b: "), "{text}");
    let images = &json["images"];
    assert_eq!(
        images[1]["confined_by"],
        serde_json::json!(["limits", "user"])
    );
    assert_eq!(
        images[1]["not_confined_by"],
        serde_json::json!(["landlock"])
    );
    assert_eq!(images[4]["confined_by"], serde_json::json!([]));
}

/// Answers are sent when they are there, whatever the order of the requests.
#[test]
fn answers_come_out_of_order() {
    let root = Root::new();
    let socket = Socket::new(&root);
    let _daemon = root.start_hub();
    let mut client = hub(&root);
    let frames: Vec<u8> = [1, 3, 5]
        .into_iter()
        .flat_map(|stream_id| pull_frame(stream_id, &format!("r.example/{stream_id}"), 0))
        .collect();
    client.send(&frames);
    let mut passed: Vec<_> = (0..3).map(|_| socket.next()).collect();
    passed.sort_by_key(|passed| std::cmp::Reverse(passed.image()));
    for (passed, expected) in passed.iter_mut().zip([5, 3, 1]) {
        let text = format!("r.example/{expected}: layer 1 of 2: no room");
        passed.refuse(Code::RESOURCE_EXHAUSTED, &text);
        let (stream_id, response) = client.receive();
        assert_eq!(stream_id, expected);
        assert_eq!(pulled(&response), Err((Code::RESOURCE_EXHAUSTED, text)));
    }
}

/// A client that goes away, or whose deadline passes, ends its pull: guest-pull sees that nobody waits any more. The
/// others go on.
#[test]
fn a_pull_ends_with_its_caller() {
    let root = Root::new();
    let socket = Socket::new(&root);
    let daemon = root.start_hub();
    let mut client = hub(&root);
    client.send(&pull_frame(1, "r.example/gone", 0));
    let mut gone = socket.next();
    let mut other = hub(&root);
    other.send(&pull_frame(1, "r.example/late", 50_000_000));
    let mut late = socket.next();
    other.send(&pull_frame(3, "r.example/stays", 0));
    let mut stays = socket.next();
    drop(client);
    assert!(gone.is_given_up());
    let (stream_id, response) = other.receive();
    let (code, _) = pulled(&response).unwrap_err();
    assert_eq!((stream_id, code), (1, Code::DEADLINE_EXCEEDED));
    assert!(late.is_given_up());
    stays.answer(DIGEST);
    assert_eq!(pulled(&other.receive().1).unwrap(), DIGEST);
    let (text, _) = status(&root);
    assert!(text.contains("r.example/gone: CANCELLED "), "{text}");
    daemon.wait_for_log("can't pull r.example/late: DEADLINE_EXCEEDED after ");
}

/// A few images are pulled at once, some more wait for their turn, and what is beyond is refused at once. So a client
/// that asks without end holds nothing but its own answers up.
#[test]
fn pulls_are_bounded() {
    let root = Root::with(&one("Credential", "x"));
    let socket = Socket::new(&root);
    let _daemon = root.start_hub();
    let mut client = hub(&root);
    for number in 0..65 {
        client.send(&pull_frame(
            2 * number + 1,
            &format!("r.example/{number}"),
            0,
        ));
    }
    let (stream_id, response) = client.receive();
    let (code, _) = pulled(&response).unwrap_err();
    assert_eq!((stream_id, code), (129, Code::RESOURCE_EXHAUSTED));
    let mut running: Vec<_> = (0..4).map(|_| socket.next()).collect();
    client.send(&credential_frame(201));
    assert_eq!(credential(&client.receive().1), b"x");
    assert!(socket.try_next().is_none(), "a fifth pull runs");
    let (text, _) = status(&root);
    assert_eq!(text.matches(": waiting for ").count(), 60, "{text}");
    running[2].answer(DIGEST);
    assert_eq!(pulled(&client.receive().1).unwrap(), DIGEST);
    assert_eq!(socket.next().image(), "r.example/4");
}

/// Whatever goes wrong on guest-pull's side, the client gets an answer that says what.
#[test]
fn a_broken_puller_is_an_answer() {
    let root = Root::new();
    let socket = Socket::new(&root);
    let _daemon = root.start_hub();
    let mut client = hub(&root);
    let large = frame(2, 1, &vec![0; 100_000]);
    let mut stream_id = 1;
    for (bytes, expected) in [
        (&b""[..], "guest-pull ended without an answer"),
        (&[0; 4], "guest-pull ended without an answer"),
        (&large, "a frame that is too large"),
        (&[0, 0, 0, 0, 0, 0, 0, 1, 9, 0], "frames of an unknown type"),
        (
            &[0, 0, 0, 1, 0, 0, 0, 1, 2, 0, 0xff],
            "no answer from guest-pull",
        ),
    ] {
        client.send(&pull_frame(stream_id, "r.example/a", 0));
        let mut passed = socket.next();
        passed.send(bytes);
        drop(passed);
        let (code, text) = pulled(&client.receive().1).unwrap_err();
        assert_eq!(code, Code::UNAVAILABLE);
        assert!(text.contains(expected), "{text}");
        stream_id += 2;
    }
}

/// Where guest-pull is missing, the refusal names the package and the unit. A copy of the daemon that no service manager
/// started looks for the program beside its own; with `none` nothing is passed on.
#[test]
fn a_missing_puller_is_named() {
    let root = Root::new();
    let address = root.socket_called("cdh.sock");
    let ask = |_daemon: Daemon| {
        let mut client = hub(&root);
        client.send(RECORDED_PULL);
        pulled(&client.receive().1).unwrap_err()
    };
    let command = root.serve_hub_apart();
    let (code, text) = ask(Daemon::start(command, &address));
    assert_eq!(code, Code::UNIMPLEMENTED);
    for part in [
        "the package offline-fs-kbc-guest-pull",
        "guest-pull.socket",
        "/guest-pull.sock)",
        "/guest-pull;",
    ] {
        assert!(text.contains(part), "{text}");
    }
    // A socket on which nobody listens is as good as none.
    drop(Socket::new(&root));
    let command = root.serve_hub_apart();
    assert_eq!(ask(Daemon::start(command, &address)), (code, text));
    let mut command = root.serve_hub_apart();
    command.args(["--guest-pull-sock", "none"]);
    let (_, text) = ask(Daemon::start(command, &address));
    assert!(!text.contains("/guest-pull"), "{text}");
    // A unit's sandbox would be guest-pull's.
    let manager = Manager::new();
    let (_, text) = ask(manager.start(root.serve_hub()));
    assert!(text.contains("guest-pull.socket"), "{text}");
    assert!(!text.contains("/guest-pull;"), "{text}");
}

/// A restart of the daemon ends the pull with an answer, and the connection goes on: kata-agent never makes another.
#[test]
fn a_restart_ends_the_pull_and_keeps_the_connection() {
    let root = Root::with(&one("Credential", "x"));
    let socket = Socket::new(&root);
    let manager = Manager::new();
    let mut daemon = manager.start(root.serve_hub());
    let mut client = hub(&root);
    client.send(RECORDED_PULL);
    let mut passed = socket.next();
    daemon.signal(Signal::SIGTERM);
    daemon.wait();
    let (code, text) = pulled(&client.receive().1).unwrap_err();
    assert_eq!(code, Code::UNAVAILABLE);
    assert!(text.contains("ask again"), "{text}");
    assert!(passed.is_given_up());
    let _daemon = manager.start(root.serve_hub());
    client.send(&credential_frame(3));
    assert_eq!(credential(&client.receive().1), b"x");
    client.send(&pull_frame(5, "r.example/a", 0));
    socket.next().answer(DIGEST);
    assert_eq!(pulled(&client.receive().1).unwrap(), DIGEST);
}

/// The next process could not answer a pull, so a connection with one is not put into the descriptor store, and is when
/// the answer is sent.
#[test]
fn a_connection_with_a_pull_is_not_stored() {
    let root = Root::new();
    let socket = Socket::new(&root);
    let manager = Manager::new();
    let daemon = manager.start(root.serve_hub());
    let mut other = hub(&root);
    let mut client = hub(&root);
    manager.wait_until_kept(2);
    client.send(RECORDED_PULL);
    let mut passed = socket.next();
    manager.wait_until_kept(1);
    // The other connection is taken out and stored again, twice: so the time in which this one would be stored is over,
    // and it would be counted then.
    for stream_id in [1, 3] {
        other.send(&credential_frame(stream_id));
        other.receive();
        manager.wait_until_kept(0);
        manager.wait_until_kept(1);
    }
    passed.answer(DIGEST);
    assert_eq!(pulled(&client.receive().1).unwrap(), DIGEST);
    manager.wait_until_kept(2);
    drop(daemon);
}
