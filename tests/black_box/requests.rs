// SPDX-License-Identifier: Apache-2.0

//! The answers that each generation of clients gets, and the status of each refusal.

use std::net::Shutdown;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use protobuf::Message as _;
use ttrpc::Code;

use crate::support::daemon::{Root, one};
use crate::support::wire::{
    RECORDED_G2, RECORDED_G3, SERVICE, Wire, fields, frame, g1, g2, get, get_by_client, get_frame,
    outcome, request_frame,
};

const VALUE: &[u8] = br#"{"auths":{}}"#;
const CREDENTIAL: &str = "/default/credential/test";

fn refused(result: Result<Vec<u8>, (Code, String)>, code: Code) -> String {
    let (found, text) = result.expect_err("it is served");
    assert_eq!(found, code, "{text}");
    text
}

/// A file with either name serves both generations: users upgrade image and cluster separately.
#[test]
fn both_names_serve_both_generations() {
    for name in [
        "Credential",
        "default/credential/test",
        "kbs:///default/credential/test",
    ] {
        let root = Root::with(&one(name, VALUE));
        let _daemon = root.start();
        for request in [
            g1("Credential"),
            g1("default/credential/test"),
            g2(CREDENTIAL),
            g2("Credential"),
            g2("kbs://localhost:8080/default/credential/test?x=y"),
            fields(CREDENTIAL, "", ""),
        ] {
            assert_eq!(get(&root.socket(), &request).unwrap(), VALUE, "{name}");
            assert_eq!(
                get_by_client(&root.socket(), &request).unwrap(),
                VALUE,
                "{name}"
            );
        }
    }
}

/// The bytes that a released kata-agent sent are answered as that release reads it.
#[test]
fn the_recorded_request_is_answered() {
    let root = Root::with(&one("Credential", VALUE));
    let _daemon = root.start();
    let mut wire = Wire::connect(&root.socket());
    wire.send(RECORDED_G2);
    let (header, body) = wire.receive_raw();
    assert_eq!(header[4..], [0, 0, 0, 1, 2, 0]);
    assert_eq!(body[..2], [0x0a, 0x00], "an empty status comes first");
    assert_eq!(body[2], 0x12);
    assert!(body.ends_with(VALUE));
}

/// The old client writes a frame in five pieces; each may arrive alone.
#[test]
fn a_frame_in_pieces_is_one_frame() {
    let root = Root::with(&one("Credential", VALUE));
    let _daemon = root.start();
    let other = || get(&root.socket(), &g2(CREDENTIAL)).unwrap();
    let single_bytes = vec![1; RECORDED_G2.len()];
    for pieces in [&[4, 4, 1, 1, 107][..], &single_bytes] {
        let mut wire = Wire::connect(&root.socket());
        let mut rest = RECORDED_G2;
        for &length in pieces {
            // The daemon has one thread: when it has answered this, it has read the piece before.
            other();
            let (piece, more) = rest.split_at(length);
            wire.send(piece);
            rest = more;
        }
        assert!(rest.is_empty());
        assert_eq!(outcome(&wire.receive().1).unwrap(), VALUE);
    }
}

/// Requests that are read together are answered in order, each with its request's stream id.
#[test]
fn pipelined_requests_are_answered_in_order() {
    let root = Root::with(&one("Credential", VALUE));
    let _daemon = root.start();
    let mut wire = Wire::connect(&root.socket());
    let ids: Vec<u32> = (0..500).map(|n| 2 * n + 1).collect();
    let names = [CREDENTIAL, "/default/none/test"];
    let frames = ids
        .iter()
        .map(|&id| get_frame(id, &g2(names[id as usize / 2 % 2])));
    wire.send(&frames.collect::<Vec<_>>().concat());
    for id in ids {
        let (answered, response) = wire.receive();
        assert_eq!(answered, id);
        assert_eq!(outcome(&response).is_ok(), id / 2 % 2 == 0);
    }
}

/// A client that has closed its side still gets its answer; one that closed it within a frame gets none.
#[test]
fn the_end_of_a_connection() {
    let root = Root::with(&one("Credential", VALUE));
    let _daemon = root.start();
    let mut wire = Wire::connect(&root.socket());
    wire.send(RECORDED_G2);
    wire.0.shutdown(Shutdown::Write).unwrap();
    assert_eq!(outcome(&wire.receive().1).unwrap(), VALUE);
    assert!(wire.is_closed());

    let mut wire = Wire::connect(&root.socket());
    wire.send(&RECORDED_G2[..50]);
    wire.0.shutdown(Shutdown::Write).unwrap();
    assert!(wire.is_closed());
    assert_eq!(get(&root.socket(), &g2(CREDENTIAL)).unwrap(), VALUE);
}

/// The text is all that a person sees in kata-agent's log: it has the requested name and the existing ones.
#[test]
fn an_unknown_resource_is_not_found() {
    let root = Root::with(&one("default/credential/test", VALUE));
    let _daemon = root.start();
    let text = refused(get(&root.socket(), &g1("Policy")), Code::NOT_FOUND);
    for part in [
        "default/security-policy/test",
        "Policy",
        "the resources are: default/credential/test",
    ] {
        assert!(text.contains(part), "{text}");
    }
    for name in [
        "",
        "credential",
        "a/b",
        "a/b/c/d",
        "kbs://default/credential/test",
    ] {
        let text = refused(get(&root.socket(), &g2(name)), Code::NOT_FOUND);
        assert!(text.contains(name), "{text}");
    }
}

/// Without any resource, the text says which file is missing, or what is wrong with it.
#[test]
fn an_empty_store_says_why() {
    let root = Root::new();
    let _daemon = root.start();
    let text = refused(get(&root.socket(), &g2(CREDENTIAL)), Code::NOT_FOUND);
    assert!(
        text.contains("aa-offline_fs_kbc-resources.json is absent"),
        "{text}"
    );
    root.write_resources("{\"Credential\":\"aGVs\nbG8=\"}");
    let text = refused(get(&root.socket(), &g2(CREDENTIAL)), Code::NOT_FOUND);
    assert!(text.contains("a raw line break inside a string"), "{text}");
}

/// However many and long the names are, the list stays within 20 names and 1 KiB.
#[test]
fn the_list_of_names_is_short() {
    for length in [1, 90] {
        let names = (0..60).map(|n| format!("\"a/b/{n:02}{}\":\"eA==\"", "x".repeat(length)));
        let root = Root::with(&format!("{{{}}}", names.collect::<Vec<_>>().join(",")));
        let _daemon = root.start();
        let text = refused(get(&root.socket(), &g2(CREDENTIAL)), Code::NOT_FOUND);
        let (_, list) = text.split_once("the resources are: ").unwrap();
        assert!(list.len() <= 1024, "{}", list.len());
        assert!(list.matches("a/b/").count() <= 20, "{list}");
        assert!(list.contains("a/b/00") && list.contains(" more"), "{list}");
    }
}

/// One broken entry is refused with its reason; the others are served.
#[test]
fn a_broken_entry_is_a_failed_precondition() {
    let root = Root::with(r#"{"Credential":"aGVs!G8=","a/b/ok":"eA==","a/b/number":5}"#);
    let daemon = root.start();
    assert_eq!(get(&root.socket(), &g2("/a/b/ok")).unwrap(), b"x");
    let text = refused(
        get(&root.socket(), &g1("Credential")),
        Code::FAILED_PRECONDITION,
    );
    for part in [
        "aa-offline_fs_kbc-resources.json",
        "default/credential/test",
        "offset 4",
    ] {
        assert!(text.contains(part), "{text}");
    }
    let text = refused(
        get(&root.socket(), &g2("/a/b/number")),
        Code::FAILED_PRECONDITION,
    );
    assert!(text.contains("a number instead of a string"), "{text}");
    let log = daemon.log();
    let error = log
        .lines()
        .find(|line| line.contains("ERROR") && line.contains("Credential"));
    let error = error.expect("the log names the entry");
    assert!(
        error.contains("line 1 column 15") && error.contains("base64 -w 0"),
        "{error}"
    );
}

#[test]
fn another_kbc_is_an_invalid_argument() {
    let root = Root::with(&one("Credential", VALUE));
    let _daemon = root.start();
    let description = r#"{"name":"Credential","optional":{}}"#;
    for request in [
        fields(CREDENTIAL, "cc_kbc", "http://host"),
        fields("cc_kbc", "http://host", description),
    ] {
        let text = refused(get(&root.socket(), &request), Code::INVALID_ARGUMENT);
        assert!(text.contains("\"cc_kbc\""), "{text}");
    }
}

#[test]
fn a_plugin_is_an_invalid_argument() {
    let root = Root::with(&one("Credential", VALUE));
    let _daemon = root.start();
    let request = g2("kbs+pkcs11:///a/b/c");
    let text = refused(get(&root.socket(), &request), Code::INVALID_ARGUMENT);
    assert!(text.contains("kbs+pkcs11:///a/b/c"), "{text}");
}

/// A key that decrypts image layers is never the answer to a request for a resource.
#[test]
fn keys_are_not_resources() {
    let root = Root::new();
    let keys = root.path("etc/aa-offline_fs_kbc-keys.json");
    std::fs::write(keys, one("default/key/1", [7; 32])).unwrap();
    let _daemon = root.start();
    let text = refused(get(&root.socket(), &g2("/default/key/1")), Code::NOT_FOUND);
    assert!(text.contains("keys are not served as resources"), "{text}");
}

/// Each malformed request is refused, and its connection goes on.
#[test]
fn malformed_requests_are_refused_and_the_connection_lives() {
    let root = Root::with(&one("Credential", VALUE));
    let _daemon = root.start();
    let mut wire = Wire::connect(&root.socket());
    let good = get_frame(1, &g2(CREDENTIAL));
    let payload = g2(CREDENTIAL).write_to_bytes().unwrap();
    let not_utf8 = vec![0x0a, 0x02, 0xff, 0xfe];
    for (sent, code, part) in [
        (
            get_frame(2, &g2(CREDENTIAL)),
            Code::INVALID_ARGUMENT,
            "even",
        ),
        (
            get_frame(0, &g2(CREDENTIAL)),
            Code::INVALID_ARGUMENT,
            "even",
        ),
        (
            frame(1, 1, b"\xff\xff\xff"),
            Code::INVALID_ARGUMENT,
            "does not decode",
        ),
        (frame(2, 1, &good[10..]), Code::INVALID_ARGUMENT, "type 2"),
        (frame(3, 1, b""), Code::INVALID_ARGUMENT, "type 3"),
        (frame(1, 1, b""), Code::UNIMPLEMENTED, "no service"),
        (
            request_frame(1, SERVICE, "GetResource", vec![0x0a, 0x7f]),
            Code::INVALID_ARGUMENT,
            "does not decode",
        ),
        (
            request_frame(1, SERVICE, "GetResource", not_utf8),
            Code::INVALID_ARGUMENT,
            "does not decode",
        ),
        (
            request_frame(1, "api.GetResourceService", "GetResource", payload.clone()),
            Code::UNIMPLEMENTED,
            "no service api.GetResourceService on this socket; it has getresource.",
        ),
        (
            request_frame(1, SERVICE, "getresource", payload),
            Code::UNIMPLEMENTED,
            "no method getresource in getresource.GetResourceService",
        ),
        (
            RECORDED_G3.to_vec(),
            Code::UNIMPLEMENTED,
            "api.GetResourceService",
        ),
    ] {
        let text = refused(wire.ask(&sent), code);
        assert!(text.contains(part), "{text}");
        assert_eq!(wire.ask(&good).unwrap(), VALUE);
    }
}

/// A frame over ttrpc's limit is refused after its body, and the connection goes on.
#[test]
fn an_oversized_frame_is_discarded() {
    let root = Root::with(&one("Credential", VALUE));
    let _daemon = root.start();
    let mut wire = Wire::connect(&root.socket());
    let body = vec![0; (4 << 20) + 1];
    let text = refused(wire.ask(&frame(1, 5, &body)), Code::RESOURCE_EXHAUSTED);
    assert!(
        text.contains("4194305 bytes") && text.contains("4194304"),
        "{text}"
    );
    assert_eq!(wire.ask(RECORDED_G2).unwrap(), VALUE);
    // The largest allowed frame is read.
    let (code, _) = wire.ask(&frame(1, 7, &body[1..])).unwrap_err();
    assert_eq!(code, Code::INVALID_ARGUMENT);
    assert_eq!(wire.ask(RECORDED_G2).unwrap(), VALUE);
}

/// An answer that is too large for clients is refused with its size; one byte less is served.
#[test]
fn an_oversized_answer_is_refused() {
    // A status, two tags and two lengths of four bytes are added to the resource.
    let fits = vec![b'x'; (4 << 20) - 12];
    let root = Root::new();
    let text = format!(
        r#"{{"a/b/fits":"{}","a/b/large":"{}"}}"#,
        STANDARD.encode(&fits),
        STANDARD.encode([&fits[..], b"x"].concat()),
    );
    root.write_resources(&text);
    let daemon = root.start();
    assert_eq!(
        get_by_client(&root.socket(), &g2("/a/b/fits")).unwrap(),
        fits
    );
    let result = get_by_client(&root.socket(), &g2("/a/b/large"));
    let text = refused(result, Code::RESOURCE_EXHAUSTED);
    assert!(
        text.contains("4194305 bytes") && text.contains("4194304"),
        "{text}"
    );
    assert!(
        daemon
            .log()
            .contains("entry \"a/b/large\": 4194293 bytes, over the 4194292")
    );
}

/// A peer that does not read its answers does not affect others, and gets all answers when it reads.
#[test]
fn a_peer_that_does_not_read_waits_alone() {
    let value = vec![b'v'; 100_000];
    let root = Root::with(&one("Credential", &value));
    let _daemon = root.start();
    let mut greedy = Wire::connect(&root.socket());
    let frames: Vec<_> = (0..200)
        .map(|n| get_frame(2 * n + 1, &g2(CREDENTIAL)))
        .collect();
    greedy.send(&frames.concat());
    for _ in 0..10 {
        assert_eq!(get(&root.socket(), &g2(CREDENTIAL)).unwrap(), value);
    }
    for n in 0..200 {
        let (id, response) = greedy.receive();
        assert_eq!(id, 2 * n + 1);
        assert_eq!(outcome(&response).unwrap(), value);
    }
}

/// One debug line for each request, with the peer, the name and the outcome; it stays one line, whatever the
/// peer sends.
#[test]
fn requests_are_logged_without_values() {
    let root = Root::with(&one("Credential", "hunter2"));
    let daemon = root.start();
    get(&root.socket(), &g2(CREDENTIAL)).unwrap();
    get(&root.socket(), &g2("a\nERROR b")).unwrap_err();
    let pid = format!("request from pid {}: ", std::process::id());
    daemon.wait_for_log("NOT_FOUND");
    let log = daemon.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains(&pid)).collect();
    assert_eq!(lines.len(), 2, "{log}");
    assert!(lines[0].contains(" DEBUG ") && lines[0].contains("default/credential/test OK in "));
    assert!(lines[1].contains(r#""a\nERROR b" NOT_FOUND in "#), "{log}");
    assert!(!log.contains("hunter2") && !log.contains(&STANDARD.encode("hunter2")));
}
