// SPDX-License-Identifier: Apache-2.0

//! `UnWrapKey`, with packets that another implementation made.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use offline_fs_kbc::proto::keyprovider::{
    KeyProviderKeyWrapProtocolInput, KeyProviderKeyWrapProtocolOutput,
};
use serde_json::{Value, json};
use ttrpc::Code;

use crate::support::daemon::{Root, one};
use crate::support::wire::call;

const SERVICE: &str = "keyprovider.KeyProviderService";

/// Both sockets that have the service.
const SOCKETS: [&str; 2] = ["keyprovider.sock", "cdh.sock"];

fn vectors() -> Value {
    serde_json::from_str(include_str!("../vectors/keyprovider.json")).unwrap()
}

fn packet(name: &str) -> Value {
    vectors()["packets"][name].clone()
}

/// A root whose keys file has the vectors' keys.
fn root_with_keys() -> Root {
    let root = Root::new();
    root.write_keys(&vectors()["keys"].to_string());
    root
}

/// The requests in which clients send a packet: with the KBC next to it (G1 and G2), and without anything
/// useful.
fn requests(packet: &Value) -> [Value; 3] {
    let annotation = STANDARD.encode(packet.to_string());
    let kbc = STANDARD.encode("offline_fs_kbc::null");
    let dc = json!({"Parameters": {"attestation-agent": [kbc]}});
    [
        json!({"op": "keyunwrap", "keywrapparams": {"ec": null, "optsdata": null},
               "keyunwrapparams": {"dc": dc, "annotation": annotation}}),
        json!({"op": "keyunwrap", "keywrapparams": {},
               "keyunwrapparams": {"dc": {"Parameters": {}}, "annotation": annotation}}),
        json!({"keyunwrapparams": {"dc": null, "annotation": annotation}}),
    ]
}

fn ask(root: &Root, socket: &str, method: &str, text: &str) -> Result<Value, (Code, String)> {
    let request = KeyProviderKeyWrapProtocolInput {
        KeyProviderKeyWrapProtocolInput: text.as_bytes().to_vec(),
        ..KeyProviderKeyWrapProtocolInput::default()
    };
    let answer: KeyProviderKeyWrapProtocolOutput =
        call(&root.socket_called(socket), SERVICE, method, &request)?;
    Ok(serde_json::from_slice(&answer.KeyProviderKeyWrapProtocolOutput).unwrap())
}

/// Asks for the key of a packet.
pub fn unwrap(root: &Root, packet: &Value) -> Result<Value, (Code, String)> {
    ask(
        root,
        "cdh.sock",
        "UnWrapKey",
        &requests(packet)[0].to_string(),
    )
}

fn refused(result: Result<Value, (Code, String)>, code: Code) -> String {
    let (found, text) = result.expect_err("it is unwrapped");
    assert_eq!(found, code, "{text}");
    text
}

/// Every form of packet that released clients send, in every form of request, on both sockets; the answer is
/// the array of numbers that ocicrypt-rs reads.
#[test]
fn every_packet_form_unwraps() {
    let root = root_with_keys();
    let daemon = root.start_hub();
    let text = vectors()["text"].as_str().unwrap().as_bytes().to_vec();
    let expected = json!({"keyunwrapresults": {"optsdata": text}});
    let packets = vectors()["packets"].as_object().unwrap().clone();
    assert_eq!(packets.len(), 7);
    for socket in SOCKETS {
        for (name, packet) in &packets {
            for request in requests(packet) {
                let answer = ask(&root, socket, "UnWrapKey", &request.to_string());
                assert_eq!(answer.unwrap(), expected, "{name} on {socket}");
            }
        }
    }
    daemon.wait_for_log("UnWrapKey \"key_id1\" OK");
}

/// Published set-ups keep keys among the resources; the keys file takes precedence.
#[test]
fn a_key_may_be_a_resource() {
    let root = Root::new();
    let good = vectors()["keys"]["default/key/1"]
        .as_str()
        .unwrap()
        .to_owned();
    let _daemon = root.start_hub();
    let name = "G4, GCM, all members";
    root.write_resources(&json!({"default/key/1": good}).to_string());
    unwrap(&root, &packet(name)).unwrap();
    root.write_keys(&one("default/key/1", [0; 32]));
    refused(unwrap(&root, &packet(name)), Code::INVALID_ARGUMENT);
    root.write_keys(&json!({"default/key/1": good}).to_string());
    root.write_resources(&one("default/key/1", [0; 32]));
    unwrap(&root, &packet(name)).unwrap();
}

#[test]
fn a_missing_key_is_not_found_by_its_id() {
    let root = Root::new();
    let _daemon = root.start_hub();
    let text = refused(
        unwrap(&root, &packet("G1, the old name of CTR, a plain id")),
        Code::NOT_FOUND,
    );
    assert!(
        text.contains("\"key_id1\"") && text.contains("the keys file has no keys"),
        "{text}"
    );
    root.write_keys(&one("other", [0; 32]));
    let text = refused(unwrap(&root, &packet("a path")), Code::NOT_FOUND);
    assert!(
        text.contains("default/key/1") && text.contains("has: other"),
        "{text}"
    );
}

/// A key of the wrong length is refused with the reason, and named in the log.
#[test]
fn a_key_of_another_length_is_a_failed_precondition() {
    let root = Root::new();
    root.write_keys(&one("default/key/1", [0; 16]));
    let daemon = root.start_hub();
    let text = refused(unwrap(&root, &packet("a path")), Code::FAILED_PRECONDITION);
    assert!(text.contains("16 bytes; a key has 32"), "{text}");
    assert!(daemon.log().contains("decodes to 16 bytes; a key has 32"));
    root.write_keys("{}");
    root.write_resources(&one("default/key/1", [0; 31]));
    let text = refused(unwrap(&root, &packet("a path")), Code::FAILED_PRECONDITION);
    assert!(text.contains("31 bytes, a key has 32"), "{text}");
}

/// Every failure to decrypt is refused with the same text, so that a peer learns nothing about the reason.
#[test]
fn failures_to_decrypt_have_one_text() {
    let root = root_with_keys();
    let _daemon = root.start_hub();
    let gcm = packet("G4, GCM, all members");
    let ctr = packet("G4, CTR, all members");
    let with = |packet: &Value, member: &str, value: Value| {
        let mut packet = packet.clone();
        packet[member] = value;
        packet
    };
    let bytes =
        |packet: &Value, member: &str| STANDARD.decode(packet[member].as_str().unwrap()).unwrap();
    let flipped = |member: &str, at: usize| {
        let mut changed = bytes(&gcm, member);
        changed[at] ^= 1;
        with(&gcm, member, json!(STANDARD.encode(changed)))
    };
    let cut = |packet: &Value, member: &str, length: usize| {
        let short = STANDARD.encode(&bytes(packet, member)[..length]);
        with(packet, member, json!(short))
    };
    let length = bytes(&gcm, "wrapped_data").len();
    let cases = [
        with(&gcm, "kid", json!("key_id1")),
        flipped("wrapped_data", 0),
        flipped("wrapped_data", length - 1),
        flipped("iv", 0),
        cut(&gcm, "wrapped_data", length - 1),
        cut(&gcm, "wrapped_data", 15),
        cut(&gcm, "wrapped_data", 0),
        cut(&gcm, "iv", 11),
        cut(&gcm, "iv", 0),
        cut(&ctr, "iv", 15),
        cut(&ctr, "iv", 12),
        with(&gcm, "iv", ctr["iv"].clone()),
        with(&ctr, "iv", gcm["iv"].clone()),
    ];
    for case in cases {
        let text = refused(unwrap(&root, &case), Code::INVALID_ARGUMENT);
        assert_eq!(
            text, "the annotation packet cannot be decrypted with its key",
            "{case}"
        );
    }
}

/// The refusal of a malformed packet or request says what is wrong with its form, and never shows its
/// content.
#[test]
fn malformed_packets_are_invalid_arguments() {
    let root = root_with_keys();
    let _daemon = root.start_hub();
    let good = packet("G4, GCM, all members");
    for (member, value, part) in [
        ("kid", json!(1), "no string \"kid\""),
        ("iv", json!(null), "no string \"iv\""),
        ("iv", json!("hunter2!"), "\"iv\" is not base64"),
        (
            "wrapped_data",
            json!("hunter2!"),
            "\"wrapped_data\" is not base64",
        ),
        ("wrap_type", json!("A128GCM"), "\"A128GCM\" is unknown"),
        ("wrap_type", json!({}), "no string \"wrap_type\""),
        ("provider", json!("aliyun"), "\"aliyun\""),
    ] {
        let mut packet = good.clone();
        packet[member] = value;
        let text = refused(unwrap(&root, &packet), Code::INVALID_ARGUMENT);
        assert!(text.contains(part) && !text.contains("hunter2"), "{text}");
    }
    let wrap = requests(&good)[0]
        .to_string()
        .replace("keyunwrap\"", "keywrap\"");
    let hidden = STANDARD.encode("hunter2");
    for (request, part) in [
        ("hunter2".to_owned(), "not JSON"),
        ("{}".to_owned(), "no \"keyunwrapparams\""),
        (r#"{"keyunwrapparams":null}"#.to_owned(), "is not an object"),
        (
            r#"{"keyunwrapparams":{}}"#.to_owned(),
            "no string \"annotation\"",
        ),
        (
            r#"{"keyunwrapparams":{"annotation":"hunter2!"}}"#.to_owned(),
            "\"annotation\" is not base64",
        ),
        (
            format!(r#"{{"keyunwrapparams":{{"annotation":"{hidden}"}}}}"#),
            "malformed: not JSON",
        ),
        (wrap, "op is not \"keyunwrap\""),
    ] {
        let result = ask(&root, "keyprovider.sock", "UnWrapKey", &request);
        let text = refused(result, Code::INVALID_ARGUMENT);
        assert!(text.contains(part) && !text.contains("hunter2"), "{text}");
    }
}

/// No peer can choose a key or a file for the daemon to use: wrapping is done on the build host.
#[test]
fn wrapping_is_not_served() {
    let root = root_with_keys();
    let _daemon = root.start_hub();
    for socket in SOCKETS {
        let parameters = STANDARD.encode("keypath=/etc/passwd");
        let request = json!({"op": "keywrap", "keywrapparams": {"ec": {"Parameters":
            {"attestation-agent": [parameters]}}, "optsdata": "aHVudGVyMg=="}});
        let text = refused(
            ask(&root, socket, "WrapKey", &request.to_string()),
            Code::UNIMPLEMENTED,
        );
        assert!(text.contains("`offline-fs-kbc keyprovider`"), "{text}");
    }
}
