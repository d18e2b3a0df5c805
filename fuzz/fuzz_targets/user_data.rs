// SPDX-License-Identifier: Apache-2.0

//! User data: written files are read back, and no message contains their content.
//!
//! The input is the text of a resources file, or a daemon.json, a NUL, and such a text; it is also used as
//! user data itself.

#![no_main]

use libfuzzer_sys::fuzz_target;
use offline_fs_kbc::lint::userdata::read;
use offline_fs_kbc::userdata::{DAEMON_PATH, RESOURCES_PATH, write};
use offline_fs_kbc_fuzz::{assert_no_secret, assert_one_line, marked};

fuzz_target!(|input: &[u8]| {
    let input = marked(input);
    let Ok(text) = std::str::from_utf8(&input) else {
        return;
    };
    let (_, problems) = read(text);
    for problem in &problems {
        assert_one_line(&problem.to_string());
        // A message may show its name.
        if !text.contains("encoding") {
            assert_no_secret(&problem.to_string());
        }
    }
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
    let (written, problems) = read(&data);
    assert!(
        problems
            .iter()
            .all(|problem| problem.code == "user-data-size"),
        "{problems:?}"
    );
    let written = written
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
