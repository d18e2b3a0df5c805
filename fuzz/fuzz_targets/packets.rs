// SPDX-License-Identifier: Apache-2.0

//! Annotation packets and the requests that carry them: a parsed packet can be written and parsed again, a
//! wrapped key can be unwrapped, and no refusal contains a wrapped key.
//!
//! The first byte selects the rest: a packet, a request over ttrpc, a request to ocicrypt's command, its
//! parameters, or data to wrap.

#![no_main]

use libfuzzer_sys::fuzz_target;
use offline_fs_kbc::json;
use offline_fs_kbc::keyprovider::annotation::Packet;
use offline_fs_kbc::keyprovider::cipher::Algorithm;
use offline_fs_kbc::keyprovider::command::{self, Request};
use offline_fs_kbc::keyprovider::parameters::Parameters;
use offline_fs_kbc::keyprovider::{self, protocol};
use offline_fs_kbc_fuzz::{assert_no_secret, assert_one_line, marked};

fuzz_target!(|input: &[u8]| {
    let Some((&first, rest)) = input.split_first() else {
        return;
    };
    match first % 5 {
        0 => packet(&marked(rest)),
        1 => {
            if let Ok(packet) = protocol::read_unwrap(rest) {
                comes_back(&packet);
            }
        }
        2 => match Request::parse(rest) {
            Ok(Request::Unwrap { packet, .. }) => comes_back(&packet),
            Ok(Request::Wrap { .. }) => {}
            Err(error) => assert_one_line(&error.to_string()),
        },
        3 => {
            if let Err(error) = Parameters::parse(&String::from_utf8_lossy(rest)) {
                assert_one_line(&error.to_string());
            }
        }
        _ => wrap(rest),
    }
});

fn packet(text: &[u8]) {
    match Packet::parse(text) {
        Ok(packet) => {
            comes_back(&packet);
            // An arbitrary key.
            if let Err(error) = keyprovider::unwrap(&packet, &[7; 32]) {
                assert_one_line(&error.to_string());
                if !packet.wrap_type.contains("hunter2") {
                    assert_no_secret(&error.to_string());
                }
            }
        }
        Err(error) => {
            assert_one_line(&error.to_string());
            // It shows the provider, which is not secret.
            let members = json::members(text, 100).unwrap_or_default();
            let provider = json::string(&members, "provider").unwrap_or_default();
            if !provider.contains("hunter2") {
                assert_no_secret(&error.to_string());
            }
        }
    }
}

fn comes_back(packet: &Packet) {
    let again = Packet::parse(packet.write().as_bytes())
        .ok()
        .expect("what was printed parses");
    assert_eq!(again.kid, packet.kid);
    assert_eq!(again.wrapped_data, packet.wrapped_data);
    assert_eq!(again.iv, packet.iv);
    assert_eq!(again.wrap_type, packet.wrap_type);
}

fn wrap(data: &[u8]) {
    let key = [data.len() as u8; 32];
    for algorithm in [Algorithm::Gcm, Algorithm::Ctr] {
        let packet = command::wrap("k", &key, algorithm, data).expect("random bytes");
        let answer = command::write_wrapped(&packet);
        let answer: serde_json::Value = serde_json::from_str(&answer).expect("the answer is JSON");
        let annotation = &answer["keywrapresults"]["annotation"];
        let request = serde_json::json!({
            "op": "keyunwrap",
            "keyunwrapparams": {"annotation": annotation},
        });
        let packet = protocol::read_unwrap(request.to_string().as_bytes()).ok();
        let packet = packet.expect("what was wrapped can be asked for");
        assert_eq!(
            *keyprovider::unwrap(&packet, &key).expect("it unwraps"),
            *data
        );
    }
}
