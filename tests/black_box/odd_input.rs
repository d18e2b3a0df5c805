// SPDX-License-Identifier: Apache-2.0

//! Whatever a peer or a file contains, the daemon does not panic or end, writes no raw bytes to the log, and
//! answers others.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use protobuf::Message as _;

use crate::support::daemon::{Daemon, Root, one};
use crate::support::wire::{
    RECORDED_G2, RECORDED_G3, SERVICE, Wire, fields, frame, g2, get, get_frame, request_frame,
};

const CREDENTIAL: &str = "/default/credential/test";
const AUTH: &str = r#"{"auths":{"a":{"auth":"dTpw"}}}"#;

/// The nesting of some JSON here: so deep that a recursive parser would overflow its stack.
const DEPTH: usize = 100_000;

/// Checks that the daemon is the same process and serves.
fn unharmed(root: &Root, daemon: &Daemon) {
    assert_eq!(
        get(&root.socket(), &g2(CREDENTIAL)).unwrap(),
        AUTH.as_bytes()
    );
    let log = daemon.log();
    assert!(!log.contains("panick") && !log.contains("a bug"), "{log}");
    let raw = |c: char| c.is_control() && c != '\n' || ('\u{202a}'..='\u{202e}').contains(&c);
    assert!(!log.contains(raw), "{log:?}");
    let longest = log.lines().map(str::len).max().unwrap_or_default();
    assert!(longest < 4096, "a line of {longest} bytes");
}

fn nested(open: &str, close: &str) -> String {
    open.repeat(DEPTH) + &close.repeat(DEPTH)
}

/// No content of a file harms the daemon, and the last good content is still served.
#[test]
fn files_of_any_content() {
    let root = Root::with(&one("Credential", AUTH));
    let daemon = root.start();
    unharmed(&root, &daemon);
    let names: String = (0..99_990).map(|n| format!("\"n{n}\":\"\",")).collect();
    let good = |more: &str| format!("{{{more}\"Credential\":\"{}\"}}", STANDARD.encode(AUTH));
    for text in [
        nested("[", "]"),
        nested("{\"a\":", "}"),
        "[".repeat(DEPTH),
        good(&format!("\"deep\":{},", nested("[", "]"))),
        good(&names),
        good(&format!("\"{}\":1,", "n".repeat(1 << 20))),
        good(
            "\"\\ud800\":\"\",\"\\udc00\\ud800\":\"\",\"\\u0000\":\"\",\"\\u202e\\u001b[31m\":\"!\",",
        ),
        good("\"\u{202e}\u{7f}\u{9b}\":\"!\","),
        format!("\u{feff}{}", good("")),
        "9".repeat(1 << 20),
        good(&format!("\"number\":{},", "9".repeat(1 << 20))),
        good(&format!("\"number\":1e{},", "9".repeat(100))),
    ] {
        root.rename_resources(&text);
        unharmed(&root, &daemon);
    }
    for bytes in [
        &b"{\"\xff\xfe\":\"\"}"[..],
        b"\0",
        b"\xff\xfe{\0}\0",
        b"{\"a\":\"\xc3\"}",
    ] {
        std::fs::write(root.path("etc/new"), bytes).unwrap();
        std::fs::rename(root.path("etc/new"), root.resources()).unwrap();
        unharmed(&root, &daemon);
    }
}

/// A credential with any content is served or refused, and does not harm the daemon.
#[test]
fn credentials_of_any_content() {
    let root = Root::new();
    let daemon = root.start();
    let deep = format!("{{\"auths\":{{\"a\":{}}}}}", nested("{\"a\":", "}"));
    for credential in [
        nested("[", "]"),
        deep,
        "{\"auths\":{\"\\ud800\":{\"auth\":\"dTpw\"}}}".to_owned(),
        format!(
            "{{\"auths\":{{\"{}\":{{\"auth\":\"{}\"}}}}}}",
            "h".repeat(1 << 20),
            "A".repeat(1 << 20)
        ),
        "{\"auths\":{\"a\":{\"auth\":\"//79\"}}}".to_owned(),
    ] {
        root.rename_resources(&one("Credential", &credential));
        let _ = get(&root.socket(), &g2(CREDENTIAL));
    }
    root.rename_resources(&one("Credential", AUTH));
    unharmed(&root, &daemon);
}

/// A peer may send any text in the fields of a request.
#[test]
fn requests_of_any_content() {
    let root = Root::with(&one("Credential", AUTH));
    let daemon = root.start();
    let mut wire = Wire::connect(&root.socket());
    let deep = format!(
        "{{\"name\":\"Credential\",\"optional\":{}}}",
        nested("[", "]")
    );
    let long = "/".repeat(1 << 20);
    for request in [
        fields("offline_fs_kbc", "null", &deep),
        fields("offline_fs_kbc", "null", &nested("[", "]")),
        fields("offline_fs_kbc", "null", "{\"name\":\"\\ud800\"}"),
        fields(
            "offline_fs_kbc",
            "null",
            "{\"name\":\"a\\u0000\\u001b[2J\\u202e\"}",
        ),
        fields(&long, "offline_fs_kbc", "null"),
        fields("a\0\u{1b}[2J\u{202e}\n<0>", "offline_fs_kbc", "null"),
        fields("/a/b/c", &long, "null"),
        fields("/a/b/c", "\r\n\u{9b}", &long),
    ] {
        let _ = wire.ask(&get_frame(1, &request));
        unharmed(&root, &daemon);
    }
    // Names as long as a frame holds.
    for (service, method) in [(long.as_str(), "GetResource"), (SERVICE, long.as_str())] {
        wire.ask(&request_frame(1, service, method, Vec::new()))
            .unwrap_err();
    }
    unharmed(&root, &daemon);
}

/// Every type, every flag, unusual stream ids, and the extreme numbers and lengths of protobuf.
#[test]
fn frames_of_any_form() {
    let root = Root::with(&one("Credential", AUTH));
    let daemon = root.start();
    let body = &RECORDED_G2[10..];
    let mut wire = Wire::connect(&root.socket());
    for kind in 0..=u8::MAX {
        let asked = wire.ask(&frame(kind, 1, body));
        assert_eq!(asked.is_ok(), kind == 1, "{kind}");
        let mut flagged = frame(1, 1, body);
        flagged[9] = kind;
        assert_eq!(wire.ask(&flagged).unwrap(), AUTH.as_bytes());
    }
    for stream_id in [0, 1, 1, 2, i32::MAX as u32, 1 << 31, u32::MAX] {
        wire.send(&frame(1, stream_id, body));
        assert_eq!(wire.receive().0, stream_id);
    }
    let overlong = [
        0x0a, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00,
    ];
    let endless = [0xff; 20];
    let beyond = [0x0a, 0xff, 0xff, 0xff, 0xff, 0x07, b'x'];
    let minus = [
        0x20, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01,
    ];
    let number_zero = [0x02, 0x00];
    let group = [0x3b, 0x3b, 0x3b, 0x3c];
    let wire_types = [
        0x38, 0x01, 0x39, 1, 2, 3, 4, 5, 6, 7, 8, 0x3d, 1, 2, 3, 4, 0x3e, 0x3f,
    ];
    for odd in [
        &overlong[..],
        &endless,
        &beyond,
        &minus,
        &number_zero,
        &group,
        &wire_types,
        &[0x3b; 1 << 20],
        &[0x3a, 0x00].repeat(100_000),
        &[0x0a, 0x00].repeat(100_000),
    ] {
        for sent in [
            frame(1, 1, odd),
            frame(1, 1, &[odd, body].concat()),
            request_frame(1, SERVICE, "GetResource", odd.to_vec()),
        ] {
            let _ = wire.ask(&sent);
        }
        unharmed(&root, &daemon);
    }
    wire.send(&frame(1, 1, b""));
    wire.receive();
    unharmed(&root, &daemon);
}

/// Recorded requests with some bytes changed, removed or inserted, and random bytes.
#[test]
fn noise() {
    let root = Root::with(&one("Credential", AUTH));
    let daemon = Daemon::start(root.serve_hub(), &root.socket_called("cdh.sock"));
    let sockets = [root.socket(), root.socket_called("cdh.sock")];
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6);
    let noise = proptest::collection::vec(any::<u8>(), 0..200);
    let mut runner = TestRunner::new(Config {
        cases: 400,
        failure_persistence: None,
        ..Config::default()
    });
    let cases = (0..3usize, changes, noise, any::<prop::sample::Index>());
    let run = runner.run(&cases, |(recorded, changes, noise, cut)| {
        let recorded = [RECORDED_G2, RECORDED_G3, &[]][recorded];
        let mut sent = recorded.to_vec();
        for (place, byte) in changes {
            if !sent.is_empty() {
                let place = place.index(sent.len());
                sent[place] = byte;
            }
        }
        sent.splice(cut.index(sent.len() + 1).., noise);
        for socket in &sockets {
            use std::io::Write as _;
            let mut wire = Wire::connect(socket);
            // The daemon may have closed the connection.
            let _ = wire.0.write_all(&sent);
            let _ = wire.0.shutdown(std::net::Shutdown::Write);
            let mut answers = Vec::new();
            std::io::Read::read_to_end(&mut wire.0, &mut answers).ok();
        }
        Ok(())
    });
    run.unwrap();
    unharmed(&root, &daemon);
    let payload = g2(CREDENTIAL).write_to_bytes().unwrap();
    Wire::connect(&root.socket())
        .ask(&request_frame(1, SERVICE, "GetResource", payload))
        .unwrap();
}
