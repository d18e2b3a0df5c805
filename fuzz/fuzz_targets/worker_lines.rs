// SPDX-License-Identifier: Apache-2.0

//! What mounter and worker write to each other, and the notes beside a layer: what is read is the same when it is written
//! and read again, a line stays one line, and paths lead nowhere else.
//!
//! The first byte selects the rest: a request; what the worker says; an answer; or notes.

#![no_main]

use guest_pull::question::Question;
use guest_pull::store::Stored;
use guest_pull::worker::Request;
use guest_pull::worker::message::{
    answer_to_json, confinement_to_json, failure_to_json, outcome, parse_answer, parse_confinement,
    parse_failure,
};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

/// The most layers that an outcome has.
const MAX_LAYERS: usize = 500;

fuzz_target!(|input: &[u8]| {
    let Some((&first, rest)) = input.split_first() else {
        return;
    };
    match first % 4 {
        0 => request(&String::from_utf8_lossy(rest)),
        1 => said(rest),
        2 => answer(&String::from_utf8_lossy(rest)),
        _ => notes(rest),
    }
});

fn request(text: &str) {
    let Some(request) = Request::parse(text) else {
        return;
    };
    let line = request.to_json();
    assert!(!line.contains('\n'));
    let again = Request::parse(&line).expect("what is written is a request");
    assert!(*again.to_json() == *line, "another request");
}

/// Whatever the worker says, the mounter reads one thing, and the same if it is said again.
fn said(text: &[u8]) {
    let Ok(value) = serde_json::from_slice::<Value>(text) else {
        return;
    };
    if let Some(question) = Question::parse(&value["ask"]) {
        let line = question.to_json();
        assert!(!line.to_string().contains('\n'));
        assert_eq!(Question::parse(&line["ask"]), Some(question));
    }
    if let Some(outcome_of) = outcome(&value["pulled"]) {
        assert!(outcome_of.layers.len() <= MAX_LAYERS);
        let line = outcome_of.to_json();
        assert_eq!(outcome(&line["pulled"]), Some(outcome_of));
    }
    if let Some(failure) = parse_failure(&value) {
        let line = failure_to_json(&failure);
        assert!(!line.to_string().contains('\n'));
        // The message may be cut, once.
        let cut = parse_failure(&line).expect("what is written is a failure");
        assert_eq!(parse_failure(&failure_to_json(&cut)), Some(cut));
    }
    if let Some(confinement) = parse_confinement(&value) {
        let line = confinement_to_json(&confinement);
        let again = parse_confinement(&line).expect("what is written is a confinement");
        assert_eq!(confinement_to_json(&again), line);
    }
}

fn answer(text: &str) {
    let Some(answer) = parse_answer(text, Vec::new()) else {
        return;
    };
    let line = answer_to_json(&answer);
    assert!(!line.contains('\n'));
    let again = parse_answer(&line, Vec::new()).expect("what is written is an answer");
    assert!(*answer_to_json(&again) == *line, "another answer");
}

fn notes(text: &[u8]) {
    let Some(stored) = Stored::parse(text) else {
        return;
    };
    // A worker that was taken over may write them in another order.
    assert_eq!(Stored::parse(&stored.encode()).as_ref(), Some(&stored));
    let targets = stored
        .links
        .iter()
        .flat_map(|(path, target)| [path, target]);
    for path in stored.implied.iter().chain(targets) {
        let parts: Vec<_> = path[1..].split(|byte| *byte == b'/').collect();
        let is_plain = |part: &&[u8]| ![&b""[..], b".", b".."].contains(part);
        assert!(path[0] == b'/' && !path.contains(&0));
        assert!(
            path.len() == 1 || parts.iter().all(is_plain),
            "{}",
            path.escape_ascii()
        );
    }
}
