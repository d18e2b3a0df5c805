// SPDX-License-Identifier: Apache-2.0

//! Tests: bounds, and that no value is said.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;

use super::{codes, files, multipart};
use crate::encoding::tests::gzip;
use crate::userdata::{RESOURCES_PATH, read, write};

/// A little text that stands for much, or lies deep, costs little and is a note.
#[test]
fn what_grows_without_a_bound_is_not_read() {
    let mut laughs = "#cloud-config\na0: &a0 [x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..40 {
        let many = vec![format!("*a{}", level - 1); 9].join(", ");
        writeln!(laughs, "a{level}: &a{level} [{many}]").unwrap();
    }
    // Aliases alone are no harm.
    assert_eq!(
        files(format!("{laughs}write_files: [{{path: /a}}]\n").as_bytes()),
        ["/a="]
    );
    let mut merges = "#cloud-config\na0: &a0 {".to_owned();
    (0..1000).for_each(|key| write!(merges, "k{key}: x, ").unwrap());
    merges += "}\n";
    for level in 1..1000 {
        writeln!(merges, "a{level}: &a{level} {{<<: *a{}}}", level - 1).unwrap();
    }
    let deep = |open: &str, close: &str| {
        format!(
            "#cloud-config\na: {}{}\n",
            open.repeat(100),
            close.repeat(100)
        )
    };
    let deepest = format!("#cloud-config\na: {}", "[".repeat(100_000));
    let itself = "#cloud-config\na: &a [*a]\n".to_owned();
    let many = format!("#cloud-config\na: [{}]\n", "x, ".repeat(200_001));
    for text in [
        merges,
        deep("[", "]"),
        deep("{a: ", "}"),
        itself,
        many,
        deepest,
    ] {
        let found = codes(text.as_bytes());
        let found: Vec<_> = found
            .iter()
            .filter(|code| !code.ends_with("size"))
            .collect();
        assert!(
            found == ["note user-data-unread"]
                || (found == ["error user-data-yaml"] && text.len() > 90_000),
            "{found:?}"
        );
    }
    let content = STANDARD.encode(gzip(&vec![b'x'; 9 << 20]));
    let twice = format!(
        "#cloud-config\nc: &c {content}\nwrite_files:\n- {{path: /a, encoding: gz+b64, content: *c}}\n"
    );
    let text = format!("{twice}- {{path: /b, encoding: gz+b64, content: *c}}\n");
    assert_eq!(read(text.as_bytes()).files.len(), 1);
    assert!(codes(text.as_bytes()).contains(&"note user-data-unread".to_owned()));
    let bomb = gzip(&gzip(&vec![b'x'; 17 << 20]));
    let spaces = gzip(&vec![b' '; 17 << 20]);
    assert!(codes(&spaces).contains(&"note user-data-unread".to_owned()));
    assert_eq!(codes(&bomb).len(), 1);
    let parts = vec![("X: y", "#!"); 1000];
    let found = codes(multipart(&parts).as_bytes());
    let notes = found.iter().filter(|code| *code == "note user-data-unread");
    assert_eq!(notes.count(), 101);
    let mut nested = String::new();
    for level in 0..300 {
        write!(nested, "Content-Type: multipart/mixed; boundary=b{level:03}\nMIME-Version: 1.0\n\n--b{level:03}\n").unwrap();
    }
    assert!(codes(nested.as_bytes()).contains(&"note user-data-unread".to_owned()));
}

proptest! {
    /// Nothing makes it fail, and no finding has a word of a value.
    #[test]
    fn nothing_that_is_found_has_a_part_of_a_value(
        entries in prop::collection::vec((
            prop::sample::select(vec!["path", "content", "encoding", "append", "source", "permissions", "<<", "x"]),
            prop::sample::select(vec![
                "/run/peerpod/auth.json", "hunter2", "'hunter2", "\"hunter2\\x\"", "|\n    hunter2\n", ">-\n   hunter2", "{a: hunter2}",
                "[hunter2]", "&a hunter2", "*a", "*hunter2", "!!binary hunter2", "!hunter2 x", "b64", "gz+b64", "@hunter2", "%hunter2",
                "`hunter2", "true", "600", "{{ hunter2 }}", "hunter2: hunter2", "\thunter2", "- hunter2", "? hunter2", "",
            ]),
        ), 0..8),
        start in prop::sample::select(vec![
            "#cloud-config\n", "## template: jinja\n#cloud-config\n", "MIME-Version: 1.0\n", "#cloud-config-archive\n", "",
            "#cloud-config-jsonp\n", "#include\n", "hunter2\n",
        ]),
    ) {
        let mut text = format!("{start}write_files:\n");
        for (index, (key, value)) in entries.iter().enumerate() {
            let dash = if index % 3 == 0 { "- " } else { "  " };
            writeln!(text, "{dash}{key}: {value}").unwrap();
        }
        // As long as a value is, so that it is not shown as a name.
        let text = text.replace("hunter2", &"hunter2".repeat(20));
        for problem in read(text.as_bytes()).problems {
            prop_assert!(!problem.to_string().contains("hunter2"), "{problem}
{text}");
        }
    }

    /// Any bytes are read without a panic.
    #[test]
    fn any_bytes_are_read(bytes: Vec<u8>, text in "(#cloud-config\n|MIME-Version: 1\n)[ -~\n\t\u{e9}]{0,200}") {
        read(&bytes);
        read(text.as_bytes());
    }

    /// What `pack` writes is read back.
    #[test]
    fn what_is_written_comes_back(text in "[!-~][ -~\n\u{e9}]{0,80}[!-~]") {
        let data = write(&[(RESOURCES_PATH, &text)]).unwrap();
        let read = read(data.as_bytes());
        prop_assert!(read.problems.iter().all(|problem| problem.code == "user-data-peerpod"));
        let expected = format!("{text}\n");
        prop_assert_eq!(&*read.files[0].content, expected.as_bytes());
    }
}
