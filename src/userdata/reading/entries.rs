// SPDX-License-Identifier: Apache-2.0

//! Tests: YAML, encodings, and the order of entries.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{codes, config, files};
use crate::encoding::tests::gzip;
use crate::userdata::read;

#[test]
fn yaml_is_read_as_python_reads_it() {
    for (entries, expected) in [
        ("- {path: /a, content: 'it''s'}\n", &["/a=it's"][..]),
        (
            "- {\"path\":\"/a\",\"content\":\"\\u00e9\\/\\n\"}\n",
            &["/a=é/\n"],
        ),
        (
            "- path: /a\n  content: one\n    two\n\n    three\n",
            &["/a=one two\nthree"],
        ),
        ("- path: /a\n  content: 'it\n\n    is'\n", &["/a=it\nis"]),
        (
            "- path: /a\n  content: |\n    x\n     y\n\n\n- path: /b\n",
            &["/a=x\n y\n", "/b="],
        ),
        (
            "- path: /a\n  content: |-\n    x\n\n- path: /b\n",
            &["/a=x", "/b="],
        ),
        (
            "- path: /a\n  content: |+\n    x\n\n- path: /b\n",
            &["/a=x\n\n", "/b="],
        ),
        (
            "- path: /a\n  content: >\n    x\n    y\n\n    z\n",
            &["/a=x y\nz\n"],
        ),
        ("- path: /a\n  content: >-\n    x\n    y\n", &["/a=x y"]),
        ("- path: /a\n  content: |2\n     x\n", &["/a= x\n"]),
        ("- path: /a\n  content: |\n    x", &["/a=x"]),
        ("- path: /a\n  content: |+\n    x", &["/a=x"]),
        (
            "- path: /a\n  content: &c x\n- path: /b\n  content: *c\n",
            &["/a=x", "/b=x"],
        ),
        (
            "- &e {path: /a, content: x}\n- <<: *e\n  path: /b\n- path: /c\n  <<: [{content: 1x}, {content: 2x}]\n",
            &["/a=x", "/b=x", "/c=1x"],
        ),
        ("- path: /a\n  content: x\n  content: y\n", &["/a=y"]),
        ("- path: /a\nwrite_files:\n- path: /b\n", &["/b="]),
        ("- path: /a\n  content: !!binary aGVsbG8=\n", &["/a=hello"]),
        ("- path: /a\n  content: !!str 600\n", &["/a=600"]),
        ("- path: /a\n  content: y\n", &["/a=y"]),
        ("- path: /a\n  content: 1e3\n", &["/a=1e3"]),
        ("- path: /a\n  content: ~\n", &["/a="]),
        ("- path: /a # a\tb\n  content: \"x\ty\"\n", &["/a=x\ty"]),
        (
            "- path: /a\n  content: |\n    x\ty\n    \tz\n",
            &["/a=x\ty\n\tz\n"],
        ),
        (
            "- path: /a\r\n  content: |\r\n    x\r\n    y\r\n",
            &["/a=x\ny\n"],
        ),
        ("- path: /a\n...\n", &["/a="]),
        ("- path: etc/../b//c\n- path: /../d\n", &["/b/c=", "/d="]),
    ] {
        assert_eq!(files(config(entries).as_bytes()), expected, "{entries}");
        assert_eq!(codes(config(entries).as_bytes()), [""; 0], "{entries}");
    }
}

/// Not one of these is YAML to PyYAML, so that nothing is written.
#[test]
fn what_python_rejects_is_an_error_with_its_place() {
    for (entries, line, column) in [
        ("- path: /a\n---\na: b\n", 4, 1),
        ("- path: /a\n\tcontent: x\n", 3, 9),
        ("- path:\t/a\n", 3, 8),
        ("- path: /a\t\n", 3, 11),
        ("- path: /a\n  content: x\ty\n", 4, 13),
        ("- path: /a: b\n", 3, 11),
        ("- path: @a\n", 3, 9),
        ("- path: *a\n", 3, 9),
        ("- path: !foo a\n", 3, 9),
        ("- path: é\u{7}\n", 3, 11),
        ("- path: =\n", 3, 9),
        ("- path: /a\n  content: !!binary aGVsbG8\n", 4, 12),
        ("- path: 'a\n", 3, 9),
        ("- <<: 3\n", 3, 7),
        ("- ? [a]\n  : b\n", 3, 5),
    ] {
        let text = config(entries);
        let data = read(text.as_bytes());
        let problem = &data.problems[0];
        assert_eq!(problem.code, "user-data-yaml", "{entries}");
        assert!(data.files.is_empty());
        let at = problem.position.unwrap();
        assert_eq!(at.line, line, "{entries} {problem}");
        assert_eq!(at.column, column, "{entries} {problem}");
    }
}

#[test]
fn encodings_are_those_of_cloud_init() {
    let (plain, packed) = (STANDARD.encode("hello"), STANDARD.encode(gzip(b"hello")));
    for (encoding, content, expected) in [
        ("b64", &plain, Some("hello")),
        ("base64", &plain, Some("hello")),
        ("Base64", &plain, Some("hello")),
        ("' B64 '", &plain, Some("hello")),
        ("gz+b64", &packed, Some("hello")),
        ("gzip+b64", &packed, Some("hello")),
        ("gz+base64", &packed, Some("hello")),
        ("gzip+base64", &packed, Some("hello")),
        ("GZ+B64", &packed, Some("hello")),
        ("text/plain", &plain, Some("aGVsbG8=")),
        ("TEXT/PLAIN", &plain, Some("aGVsbG8=")),
        ("''", &plain, Some("aGVsbG8=")),
        ("", &plain, Some("aGVsbG8=")),
        ("gz+b64", &plain, None),
        ("gz", &plain, None),
        ("gzip", &packed, None),
        ("yes", &plain, None),
        ("b64", &"aGVsbG8".to_owned(), None),
        ("b64", &"'not base64!'".to_owned(), None),
        ("gz", &format!("!!binary {packed}"), Some("hello")),
        ("gzip", &format!("!!binary {packed}"), Some("hello")),
    ] {
        let text = config(&format!(
            "- path: /a\n  encoding: {encoding}\n  content: {content}\n"
        ));
        let expected: Vec<_> = expected
            .map(|text| format!("/a={text}"))
            .into_iter()
            .collect();
        assert_eq!(files(text.as_bytes()), expected, "{text}");
        let found = codes(text.as_bytes());
        let error: &[&str] = match expected.is_empty() {
            true => &["error user-data-content"],
            false => &[],
        };
        assert_eq!(found, error, "{text}");
    }
    // Written, but not what was encoded.
    for (encoding, content, expected) in [
        ("b64", "aGVs!bG8=", "hello"),
        ("b64", "aGVs-_", "hel"),
        ("b64", "aGVsbG8=aGVs", "hello"),
        ("b64+gz", "aGVs", "aGVs"),
    ] {
        let text = config(&format!(
            "- path: /a\n  encoding: {encoding}\n  content: {content}\n"
        ));
        assert_eq!(files(text.as_bytes()), [format!("/a={expected}")], "{text}");
        assert_eq!(
            codes(text.as_bytes()),
            ["warning user-data-content"],
            "{text}"
        );
    }
}

#[test]
fn entries_are_written_in_cloud_inits_order() {
    for (entries, expected) in [
        (
            "- {path: /a, content: '1'}\n- {path: /a, content: '2'}\n",
            &["/a=2"][..],
        ),
        (
            "- {path: /a, content: '1'}\n- {path: /a, content: '2', append: true}\n",
            &["/a=12"],
        ),
        (
            "- {path: /a, content: '1', defer: on}\n- {path: /b}\n",
            &["/b=", "/a=1"],
        ),
        (
            "- {path: /a, content: '1', defer: 'yes'}\n- {path: /a, content: '2'}\n",
            &["/a=1"],
        ),
        (
            "- {path: /a, content: '1', defer: y}\n- {path: /a, content: '2'}\n",
            &["/a=2"],
        ),
        (
            "- {path: /a, content: '1'}\n- {path: /a, content: '2', append: 01}\n",
            &["/a=12"],
        ),
        ("- {path: /a, content: '1', append: true}\n", &["/a=1"]),
        // What fails ends its stage.
        (
            "- path: /a\n- {path: /b, content: {a: b}}\n- path: /c\n- {path: /d, defer: 1}\n",
            &["/a=", "/d="],
        ),
        (
            "- path: /a\n- {path: /b, content: 600}\n- path: /c\n",
            &["/a="],
        ),
        ("- path: /a\n- {path: 5}\n- path: /c\n", &["/a="]),
        ("- path: /a\n- word\n- path: /c\n", &["/a="]),
        ("- path: /a\n- 5\n- path: /c\n", &[]),
        ("- path: /a\n-\n- path: /c\n", &[]),
        (
            "- path: /a\n- {content: x}\n- {path: ''}\n- path: /c\n",
            &["/a=", "/c="],
        ),
        ("- {path: /a, source: http://x}\n- path: /c\n", &[]),
        ("- {path: /a, source: {uri: ''}, content: x}\n", &["/a=x"]),
        (
            "- {path: /a, source: {uri: 'http://x'}, content: x}\n- path: /b\n",
            &["/b="],
        ),
        ("  path: /a\n", &[]),
    ] {
        assert_eq!(files(config(entries).as_bytes()), expected, "{entries}");
    }
}
