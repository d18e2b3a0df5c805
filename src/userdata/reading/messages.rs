// SPDX-License-Identifier: Apache-2.0

//! Tests: multipart messages, archives, and how parts are merged.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{CONFIG, codes, config, files, multipart};
use crate::encoding::tests::gzip;

#[test]
fn the_parts_of_a_message_are_read() {
    let a = config("- {path: /a, content: A}\n");
    let base64 = STANDARD.encode(&a);
    let packed = STANDARD.encode(gzip(a.as_bytes()));
    let jinja = format!("## template: jinja\n{a}");
    let inner = format!("--in\n{CONFIG}\n\n{a}--in--\n");
    let archive = "#cloud-config-archive\n- 'write_files: [{path: /a, content: A}]'\n";
    for (headers, body) in [
        (CONFIG, &a),
        ("Content-Type: TEXT/Cloud-Config; charset=\"us-ascii\"", &a),
        (CONFIG, &a.replace("#cloud-config\n", "")),
        (
            "Content-Type: text/cloud-config\nContent-Transfer-Encoding: base64",
            &base64,
        ),
        (
            "Content-Type: text/cloud-config\nContent-Transfer-Encoding: Quoted-Printable",
            &a.replace('A', "=41"),
        ),
        (
            "Content-Type: text/cloud-config\nContent-Transfer-Encoding: 8bit",
            &a,
        ),
        ("Content-Type: text/plain", &a),
        ("Content-Type: text/x-shellscript", &a),
        ("X-Some: header", &a),
        (
            "Content-Type: application/x-gzip\nContent-Transfer-Encoding: base64",
            &packed,
        ),
        ("Content-Type: text/jinja2", &jinja),
        ("Content-Type: text/plain", &jinja),
        ("Content-Type: multipart/mixed; boundary=in", &inner),
        (
            "Content-Type: text/cloud-config-archive",
            &archive.to_owned(),
        ),
        (
            "Content-Type: text/cloud-config;\n charset=utf-8\nContent-Disposition: attachment; filename=\"a.yaml\"",
            &a,
        ),
    ] {
        let text = multipart(&[(headers, body)]);
        for text in [text.clone(), text.replace('\n', "\r\n")] {
            assert_eq!(files(text.as_bytes()), ["/a=A"], "{text}");
            assert_eq!(codes(text.as_bytes()), [""; 0], "{text}");
        }
        assert_eq!(files(&gzip(text.as_bytes())), ["/a=A"], "{text}");
    }
    // One part, without a container; a line that is no header ends the headers.
    for text in [
        format!("MIME-Version: 1.0\n{CONFIG}\n\n{a}"),
        format!("MIME-Version: 1.0\n{CONFIG}\n{a}"),
        format!("MIME-Version: 1.0\n\n{a}"),
        format!("{a}# mime-version: 1.0\n"),
        multipart(&[(CONFIG, &a)]).replace("--==B==--", ""),
        multipart(&[(CONFIG, &a)]).replace(&format!("{CONFIG}\n\n"), &format!("{CONFIG}\n")),
    ] {
        assert_eq!(files(text.as_bytes()), ["/a=A"], "{text}");
    }
}

#[test]
fn what_is_wrong_with_a_message_is_found() {
    let a = config("- {path: /a, content: A}\n");
    let late = format!("X-Long: {}\n", "x".repeat(4096));
    for (text, expected) in [
        (
            multipart(&[("Content-Type: text/yaml", &a)]),
            "warning user-data-part",
        ),
        (
            multipart(&[("Content-Type: application/json", "{}")]),
            "note user-data-part",
        ),
        (
            multipart(&[("Content-Type: application/gzip", "x"), (CONFIG, &a)]),
            "error user-data-part",
        ),
        (
            multipart(&[(CONFIG, "#cloud-config\n# é")]),
            "error user-data-part",
        ),
        (
            multipart(&[(CONFIG, "#cloud-config\n# €")]),
            "warning user-data-part",
        ),
        (
            multipart(&[(CONFIG, &a)]).replace("\"==B==\"", "other"),
            "error user-data-part",
        ),
        (
            multipart(&[(CONFIG, &a)]).replace("; boundary=\"==B==\"", ""),
            "error user-data-part",
        ),
        (
            multipart(&[(CONFIG, &a)]).replace("MIME-Version: 1.0\n", ""),
            "error user-data-header",
        ),
        (late + &multipart(&[(CONFIG, &a)]), "error user-data-header"),
        (multipart(&[(CONFIG, "a: b: c")]), "error user-data-yaml"),
        (
            multipart(&[("Content-Type: message/rfc822", "a: b")]),
            "note user-data-unread",
        ),
        (
            multipart(&[("Content-Type: text/x-shellscript", "#!/bin/sh")]),
            "note user-data-unread",
        ),
        (
            multipart(&[(CONFIG, "--==B==x\n")]),
            "note user-data-unread",
        ),
    ] {
        let found = codes(text.as_bytes());
        assert!(
            found.iter().any(|code| code == expected),
            "{text} {found:?}"
        );
        assert_eq!(files(text.as_bytes()), [""; 0], "{text}");
    }
}

/// Which lists of two parts are written, by what either says of merging.
#[test]
fn parts_are_merged_as_cloud_init_merges_them() {
    let (a, b) = (
        config("- {path: /a, content: A}\n"),
        config("- {path: /b}\n- {path: /a, content: B}\n"),
    );
    let append = "list(append)+dict(recurse_list)+str()";
    for (merge, expected, is_whole) in [
        ("", &["/b=", "/a=B"][..], false),
        ("+", &["/b=", "/a=B"], false),
        (append, &["/b=", "/a=B"], true),
        ("List(Append) + Dict(recurse-array)", &["/b=", "/a=B"], true),
        (
            "m_list(append)+m_dict(recurse_array)",
            &["/b=", "/a=B"],
            true,
        ),
        ("list(prepend)+dict(recurse_array)", &["/b=", "/a=A"], true),
        ("list()+dict(recurse_array)", &["/b="], false),
        ("list(no_replace)+dict(recurse_array)", &["/a=A"], false),
        ("list()+dict()", &["/a=A"], false),
        ("list(append)", &["/a=A"], false),
        ("dict(replace)", &["/b=", "/a=B"], false),
        (
            "list(recurse_dict)+dict(recurse_array,recurse_str)+str(append)",
            &["/a/b=A"],
            false,
        ),
        ("foo()", &["/a=A"], false),
        ("list", &["/a=A"], false),
    ] {
        let header = format!("{CONFIG}\nMerge-Type: {merge}");
        let how = format!("{b}merge_how: '{merge}'\n");
        for (header, b) in [(header.as_str(), &b), (CONFIG, &how)] {
            let text = multipart(&[(CONFIG, &a), (header, b)]);
            assert_eq!(files(text.as_bytes()), expected, "{text}");
            let found = codes(text.as_bytes());
            assert_eq!(
                !found.iter().any(|code| code.contains("user-data-merge")),
                is_whole,
                "{text}"
            );
        }
    }
    let mut list = format!("{b}merge_how:\n- {{name: list, settings: [append]}}\n");
    list += "- {name: dict, settings: [recurse_list]}\n";
    let text = multipart(&[(CONFIG, &a), (CONFIG, &list)]);
    assert_eq!(codes(text.as_bytes()), [""; 0]);
    // What has no list takes none away.
    let text = multipart(&[(CONFIG, &a), (CONFIG, "#cloud-config\nruncmd: []\n")]);
    assert_eq!(files(text.as_bytes()), ["/a=A"]);
    assert_eq!(codes(text.as_bytes()), [""; 0]);
}

#[test]
fn archives_are_read() {
    for (items, expected) in [
        (
            "- type: text/cloud-config\n  content: |\n    write_files: [{path: /a}]\n",
            &["/a="][..],
        ),
        (
            "- |\n  #cloud-config\n  write_files: [{path: /a}]\n",
            &["/a="],
        ),
        (
            "- 'write_files: [{path: /a}]'\n- 'write_files: [{path: /b}]'\n",
            &["/b="],
        ),
        (
            "- 'write_files: [{path: /a}]'\n- content: 'write_files: [{path: /b}]'\n  Merge-Type: list(append)+dict(recurse_list)\n",
            &["/a=", "/b="],
        ),
        (
            "- {type: text/plain, content: 'write_files: [{path: /a}]'}\n",
            &[],
        ),
        (
            "- \"#cloud-config-archive\\n- 'write_files: [{path: /a}]'\"\n",
            &[],
        ),
        (
            "- \"## template: jinja\\n#cloud-config\\nwrite_files: [{path: /a}]\"\n",
            &["/a="],
        ),
        (
            "- 5\n- type: text/cloud-config\n- 'write_files: [{path: /a}]'\n",
            &["/a="],
        ),
        ("- 'write_files: [{path: /a}]'\n- content: {a: b}\n", &[]),
        (
            "- 'write_files: [{path: /a}]'\n- {type: foo, content: x}\n",
            &[],
        ),
        ("a: b\n", &[]),
    ] {
        let text = format!("#cloud-config-archive\n{items}");
        assert_eq!(files(text.as_bytes()), expected, "{text}");
    }
}
