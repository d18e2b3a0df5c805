// SPDX-License-Identifier: Apache-2.0

//! User data: written files are read back, and no message contains their content.
//!
//! The input is a resources file's text, or a daemon.json, a NUL, and such a text; and it is user data of any form, as it
//! is and below the first line of cloud-config.

#![no_main]

use libfuzzer_sys::fuzz_target;
use offline_fs_kbc::userdata::{DAEMON_PATH, RESOURCES_PATH, read, write};
use offline_fs_kbc_fuzz::{assert_no_secret, assert_one_line, marked};

fuzz_target!(|input: &[u8]| {
    let input = marked(input);
    let below = [b"#cloud-config\n", &input[..]].concat();
    for data in [&input, &below] {
        for problem in read(data).problems {
            assert_one_line(&problem.to_string());
            assert_no_secret(&problem.to_string());
        }
    }
    let Ok(text) = std::str::from_utf8(&input) else {
        return;
    };
    let files: Vec<_> = match text.split_once('\0') {
        Some((daemon, resources)) => vec![(DAEMON_PATH, daemon), (RESOURCES_PATH, resources)],
        None => vec![(RESOURCES_PATH, text)],
    };
    let data = match write(&files) {
        Ok(data) => data,
        Err(error) => {
            assert_no_secret(&error.to_string());
            assert_one_line(&error.to_string());
            return;
        }
    };
    let read = read(data.as_bytes());
    let problems = &read.problems;
    // What is written is meant for clouds whose user data can be that long, and for VMs that read it.
    let expected = ["user-data-size", "user-data-peerpod"];
    assert!(
        problems
            .iter()
            .all(|problem| expected.contains(&problem.code)),
        "{problems:?}"
    );
    let written = read
        .files
        .iter()
        .map(|file| (file.path.clone(), file.content.to_vec()));
    assert_eq!(written.collect::<Vec<_>>(), with_last_break(&files));
});

/// A file without a line break at its end gets one.
fn with_last_break(files: &[(&str, &str)]) -> Vec<(String, Vec<u8>)> {
    let whole = |text: &str| format!("{}\n", text.strip_suffix('\n').unwrap_or(text));
    files
        .iter()
        .map(|(path, text)| (path.to_string(), whole(text).into_bytes()))
        .collect()
}
