// SPDX-License-Identifier: Apache-2.0

//! Resources and keys files: positions are those where values begin, a parsed file can be written and parsed
//! again, and no problem contains a value.
//!
//! The first byte's lowest bit says whether it is a keys file.

#![no_main]

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use libfuzzer_sys::fuzz_target;
use offline_fs_kbc::json;
use offline_fs_kbc::resource::entries::Entries;
use offline_fs_kbc_fuzz::{assert_no_secret, assert_one_line, marked, parse_file};
use serde::de::IgnoredAny;

fuzz_target!(|input: &[u8]| {
    let Some((&first, text)) = input.split_first() else {
        return;
    };
    let keys = first & 1 != 0;
    let text = marked(text);
    members_are_what_json_has(&text);
    let entries = match parse_file(&text, keys) {
        Ok(entries) => entries,
        Err(problem) => {
            assert_no_secret(&problem.to_string());
            assert_one_line(&problem.to_string());
            return;
        }
    };
    for problem in &entries.problems {
        assert_no_secret(&problem.to_string());
        assert_one_line(&problem.to_string());
    }
    // Only names are compared: names with two spellings are merged after parsing.
    let mut printed = serde_json::Map::new();
    for entry in entries.iter().filter(|entry| !entry.old) {
        match &entry.value {
            Ok(value) => {
                let value = STANDARD.encode(value.expose());
                printed.insert(entry.name.as_str().to_owned(), value.into());
            }
            Err(reason) => assert_no_secret(reason),
        }
    }
    let printed = serde_json::to_vec(&printed).expect("strings are JSON");
    let again = parse_file(&printed, keys)
        .ok()
        .expect("what was printed parses");
    let good = |entries: &Entries| -> BTreeMap<String, Vec<u8>> {
        let by_path = entries.iter().filter(|entry| !entry.old);
        let good = by_path.filter_map(|entry| {
            Some((
                entry.name.as_str().to_owned(),
                entry.value.as_ref().ok()?.expose().to_vec(),
            ))
        });
        good.collect()
    };
    assert_eq!(good(&again), good(&entries));
});

/// The members are those that another JSON parser finds, each at its position.
fn members_are_what_json_has(text: &[u8]) {
    let members = json::members(text, 100_000);
    // That parser accepts any bytes in values that it skips.
    let Ok(utf8) = std::str::from_utf8(text) else {
        assert!(members.is_err(), "what is not UTF-8 passes");
        return;
    };
    let other = serde_json::from_str::<BTreeMap<String, IgnoredAny>>(utf8);
    let Ok(members) = members else {
        assert!(other.is_err(), "an object that is refused");
        return;
    };
    let other = other.expect("what is no object is refused");
    let mut names: Vec<_> = members.iter().map(|member| &*member.name).collect();
    names.sort();
    names.dedup();
    assert_eq!(names, other.keys().collect::<Vec<_>>());
    for member in members {
        let line = utf8
            .split('\n')
            .nth(member.position.line - 1)
            .expect("the line exists");
        let rest = &line.as_bytes()[member.position.column - 1..];
        let begins = &member.value.as_bytes()[..rest.len().min(member.value.len())];
        assert!(rest.starts_with(begins), "a wrong place");
    }
}
