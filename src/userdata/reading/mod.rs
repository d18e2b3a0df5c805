// SPDX-License-Identifier: Apache-2.0

//! Tests of the reader: what cloud-init 26.2 with PyYAML 6.0.3 writes for the same inputs.

#![allow(clippy::unwrap_used)]

mod entries;
mod forms;
mod limits;
mod messages;

use std::fmt::Write as _;

use crate::userdata::read;

/// What is written, a file as `path=content`, in order.
fn files(data: &[u8]) -> Vec<String> {
    let data = read(data);
    let content = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    data.files
        .iter()
        .map(|file| format!("{}={}", file.path, content(&file.content)))
        .collect()
}

/// The codes of what is found, each with the first letter of its severity; what lacks a served file apart.
fn codes(data: &[u8]) -> Vec<String> {
    let data = read(data);
    data.problems
        .iter()
        .filter(|problem| problem.code != "user-data-files")
        .map(|problem| format!("{} {}", problem.severity, problem.code))
        .collect()
}

/// Cloud-config with these entries.
fn config(entries: &str) -> String {
    format!("#cloud-config\nwrite_files:\n{entries}")
}

/// A multipart message of parts given by headers and body.
fn multipart(parts: &[(&str, &str)]) -> String {
    let mut text =
        "Content-Type: multipart/mixed; boundary=\"==B==\"\nMIME-Version: 1.0\n\n".to_owned();
    for (headers, body) in parts {
        write!(text, "--==B==\n{headers}\n\n{body}\n").unwrap();
    }
    text + "--==B==--\n"
}

const CONFIG: &str = "Content-Type: text/cloud-config";
