// SPDX-License-Identifier: Apache-2.0

//! Tests: what user data is told by, what it is packed in, and where things are.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{CONFIG, codes, config, files, multipart};
use crate::encoding::tests::gzip;
use crate::json::Position;
use crate::userdata::{RESOURCES_PATH, is_user_data, read};

/// What a first line makes of the rest, and that what can't be read is a note.
#[test]
fn every_form_is_recognised() {
    let a = config("- {path: /a}\n");
    let jinja = |rest: &str| format!("## template: jinja\n{rest}");
    for (text, expected, found) in [
        (format!("\n\n  {a}"), &["/a="][..], ""),
        (a.replace("#cloud", "#CLOUD"), &["/a="], ""),
        (a.replace("config\n", "config-of mine\n"), &["/a="], ""),
        (jinja(&a), &["/a="], ""),
        (
            jinja(&a).replace("template: jinja", "Template: Jinja"),
            &["/a="],
            "",
        ),
        (
            jinja(&a).replace("## t", "##t"),
            &[],
            "error user-data-header",
        ),
        (jinja("write_files: []\n"), &[], "error user-data-header"),
        (
            jinja(&format!("{a}- {{path: /b, content: '{{{{ x }}}}'}}\n")),
            &["/a="],
            "note user-data-unread",
        ),
        (
            jinja(&format!("{a}- path: {{{{ x }}}}\n")),
            &[],
            "note user-data-unread",
        ),
        (
            jinja(&format!("{a}{{% if x %}}\n")),
            &[],
            "note user-data-unread",
        ),
        (jinja("#!/bin/sh\n"), &[], "note user-data-unread"),
        (format!("\u{feff}{a}"), &[], "error user-data-header"),
        (
            a.replace("#cloud-config", "# cloud-config"),
            &["/a="],
            "error user-data-header",
        ),
        ("hello\n".to_owned(), &[], "error user-data-header"),
        (String::new(), &[], "error user-data-header"),
        ("#!/bin/sh\n".to_owned(), &[], "note user-data-unread"),
        (
            "#include\nhttps://x/y\n".to_owned(),
            &[],
            "note user-data-unread",
        ),
        (
            "#include-once https://x/y\n".to_owned(),
            &[],
            "note user-data-unread",
        ),
        ("#cloud-boothook\n".to_owned(), &[], "note user-data-unread"),
        ("#part-handler\n".to_owned(), &[], "note user-data-unread"),
        (
            "#cloud-config-jsonp\n[]".to_owned(),
            &[],
            "note user-data-unread",
        ),
        (
            "{\"ignition\":{\"version\":\"3.4.0\"}}".to_owned(),
            &[],
            "note user-data-unread",
        ),
        (
            "#cloud-config\n- a\n".to_owned(),
            &[],
            "error user-data-yaml",
        ),
    ] {
        assert_eq!(files(text.as_bytes()), expected, "{text}");
        assert_eq!(codes(text.as_bytes()).join(","), found, "{text}");
        // A note is no error, and nor is what follows from what was not read.
        let data = read(text.as_bytes());
        let is_error = |code: &str| {
            let found = data.problems.iter().find(|problem| problem.code == code);
            found.map(|problem| problem.severity.to_string())
        };
        if found.starts_with("note") {
            assert_ne!(
                is_error("user-data-files").as_deref(),
                Some("error"),
                "{text}"
            );
        }
        let is_one = found != "error user-data-header" && !text.contains("ignition");
        assert!(is_user_data(text.as_bytes()) || !is_one, "{text}");
    }
    for not in [
        "{\"auths\":{}}",
        "{\"Credential\":\"bWltZS12ZXJzaW9uOg==\"}",
        "",
        "hello",
        "H4sI",
    ] {
        assert!(!is_user_data(not.as_bytes()), "{not}");
    }
}

#[test]
fn gzip_and_base64_of_the_whole_are_undone() {
    let a = config("- {path: /a}\n");
    let packed = gzip(a.as_bytes());
    assert_eq!(files(&packed), ["/a="]);
    assert_eq!(codes(&packed), [""; 0]);
    for inner in [a.as_bytes(), &packed] {
        let text = STANDARD.encode(inner);
        let lines: Vec<_> = text.as_bytes().chunks(76).collect();
        assert_eq!(files(&lines.join(&b'\n')), ["/a="]);
        assert_eq!(codes(text.as_bytes()), ["note user-data-base64"]);
        assert!(is_user_data(inner) && is_user_data(text.as_bytes()));
    }
    assert_eq!(
        codes(&packed[..packed.len() - 9]),
        ["error user-data-header"]
    );
    assert_eq!(codes(b"#cloud-config\n# \xe9\n"), ["error encoding"]);
}

/// What is looked for is the file as the daemon finds it.
#[test]
fn files_that_are_served_are_told_from_others() {
    let all = |entries: &str| -> Vec<String> {
        let data = read(config(entries).as_bytes());
        data.problems
            .iter()
            .filter(|problem| problem.code != "user-data-peerpod")
            .map(|problem| format!("{} {}", problem.severity, problem.code))
            .collect()
    };
    let ours = format!("- path: {RESOURCES_PATH}\n");
    for (entries, expected) in [
        (ours.clone(), &[][..]),
        ("- path: /run/peerpod/auth.json\n".to_owned(), &[]),
        ("- path: /run//peerpod/./auth.json\n".to_owned(), &[]),
        (
            "- path: /etc/auth.json\n".to_owned(),
            &["warning user-data-path", "error user-data-files"],
        ),
        (
            "- path: /etc/AA-offline-fs-kbc-resources.json\n".to_owned(),
            &["warning user-data-path", "error user-data-files"],
        ),
        ("- path: /etc/motd\n".to_owned(), &["error user-data-files"]),
        (
            "- path: /etc/motd\n  source: {uri: 'http://x'}\n".to_owned(),
            &["note user-data-unread", "note user-data-files"],
        ),
        (format!("{ours}{ours}"), &["warning user-data-twice"]),
        (format!("{ours}  defer: true\n"), &["note user-data-defer"]),
        (
            format!("{ours}  append: true\n"),
            &["note user-data-append"],
        ),
        (format!("{ours}  permissions: '0600'\n"), &[]),
        (format!("{ours}  permissions: 0644\n"), &[]),
        (
            format!("{ours}  permissions: '0666'\n"),
            &["warning user-data-mode"],
        ),
        (
            format!("{ours}  permissions: 600\n"),
            &["warning user-data-mode"],
        ),
        (String::new(), &["error user-data-files"]),
    ] {
        assert_eq!(all(&entries), expected, "{entries}");
    }
    let large = format!("{ours}  content: {}\n", "x".repeat(17 << 10));
    assert_eq!(all(&large), ["warning user-data-size"; 2]);
}

/// A finding within a content has its place in the user data.
#[test]
fn places_in_contents_are_places_in_the_file() {
    let at = |text: &str, line, column| {
        let data = read(text.as_bytes());
        data.files[0].place_of(Position { line, column })
    };
    let place = |line, column| Some(Position { line, column });
    let literal = config("- content: |  # here\n\n      {\n      é\"a\"\n  path: /a\n");
    assert_eq!(at(&literal, 3, 3), place(6, 9));
    assert_eq!(at(&literal.replace('\n', "\r\n"), 3, 3), place(6, 9));
    assert_eq!(
        at(&format!("## template: jinja\n{literal}"), 3, 3),
        place(7, 9)
    );
    let message = multipart(&[
        ("X-Some: header", "#cloud-config"),
        (CONFIG, &literal.replace('é', "")),
    ]);
    assert_eq!(at(&message, 3, 3), place(16, 9));
    assert_eq!(
        at(&config("- path: /a\n  content: '{\"a\"}'\n"), 1, 2),
        place(4, 14)
    );
    assert_eq!(
        at(&config("- path: /a\n  content: abc\n"), 1, 2),
        place(4, 13)
    );
    // Where it does not stand as it is, there is no place.
    for content in ["'it''s'", ">\n    a\n", "\"\\x41\"", "!!binary aGVs"] {
        assert_eq!(
            at(
                &config(&format!("- path: /a\n  content: {content}\n")),
                1,
                1
            ),
            None
        );
    }
    let packed = gzip(literal.as_bytes());
    assert_eq!(
        read(&packed).files[0].place_of(Position { line: 1, column: 1 }),
        None
    );
}
