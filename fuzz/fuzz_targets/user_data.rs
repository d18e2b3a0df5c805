// SPDX-License-Identifier: Apache-2.0

//! User data: what is written comes back line by line, as YAML reads a block.
//!
//! The input is a resources file's text, or a daemon.json, a NUL, and such a text.

#![no_main]

use libfuzzer_sys::fuzz_target;
use offline_fs_kbc::userdata::{DAEMON_PATH, FIRST_LINE, RESOURCES_PATH, write};
use offline_fs_kbc_fuzz::{assert_one_line, assert_unsaid, marked};

fuzz_target!(|input: &[u8]| {
    let input = marked(input);
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
            assert_unsaid(&error.to_string());
            assert_one_line(&error.to_string());
            return;
        }
    };
    assert_eq!(read(&data), with_last_break(&files));
});

/// A file without a line break at its end gets one.
fn with_last_break(files: &[(&str, &str)]) -> Vec<(String, String)> {
    let whole = |text: &str| format!("{}\n", text.strip_suffix('\n').unwrap_or(text));
    files
        .iter()
        .map(|(path, text)| (path.to_string(), whole(text)))
        .collect()
}

/// The files of such a text: a block ends where a line has less indentation, and its last line breaks
/// become one.
fn read(data: &str) -> Vec<(String, String)> {
    let mut lines = data.lines().peekable();
    assert_eq!(
        [lines.next(), lines.next(), lines.next()],
        [Some(FIRST_LINE), Some(""), Some("write_files:")]
    );
    let mut files = Vec::new();
    while let Some(line) = lines.next() {
        let path = line.strip_prefix("  - path: ").expect("a path");
        assert_eq!(lines.next(), Some("    content: |"));
        let mut text = String::new();
        while let Some(line) = lines.next_if(|line| line.starts_with("      ")) {
            text += &line[6..];
            text.push('\n');
        }
        let kept = text.trim_end_matches('\n').len();
        text.truncate(kept + 1);
        files.push((path.to_owned(), text));
    }
    files
}
