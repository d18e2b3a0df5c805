// SPDX-License-Identifier: Apache-2.0

#![allow(clippy::unwrap_used)]

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::*;

const HEAD: &str = "algorithm = \"sha384\"\nversion = \"0.1.0\"\n";
const CDH: &str = "\"cdh.toml\" = '''\nsocket = \"unix:///run/confidential-containers/cdh.sock\"\ncredentials = \
                   []\n[kbc]\nname = \"offline_fs_kbc\"\n'''\n";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn findings(bytes: &[u8]) -> Vec<(Severity, &'static str, String)> {
    let found = read(bytes).unwrap().lint();
    assert!(!format!("{found:?}").contains("hunter"), "{found:?}");
    let short = |problem: Problem| {
        let entry = problem.entry.unwrap_or_default();
        (problem.severity, problem.code, entry)
    };
    found.into_iter().map(short).collect()
}

/// Initdata as documentation and operators write it, and what people make of it.
#[test]
fn initdata_is_judged() {
    use Severity::{Error, Note, Warning};
    let data = |files: &str| format!("{HEAD}[data]\n{files}");
    for (text, expected) in [
        (data(CDH), &[][..]),
        (data(""), &[]),
        // A KBS on the network for tokens, beside the offline KBC.
        (
            data(&format!(
                "\"aa.toml\" = '''\n[token_configs]\n[token_configs.kbs]\nurl = \"http://x\"\n'''\n{CDH}"
            )),
            &[(Note, "network-kbs", "aa.toml: token_configs.kbs")],
        ),
        // Red Hat's documentation.
        (
            data(
                "\"aa.toml\" = '''\n[token_configs]\n[token_configs.coco_as]\n\nurl = 'https://t'\n\n\
                 [token_configs.kbs]\nurl = 'https://t'\ncert = \"\"\"\n-----BEGIN CERTIFICATE-----\n\"\"\"\n'''\n\n\
                 \"cdh.toml\" = '''\nsocket = 'unix:///run/confidential-containers/cdh.sock'\ncredentials = \
                 []\n\n[kbc]\nname = 'cc_kbc'\nurl = 'https://t'\n\n[image]\nimage_security_policy_uri = \
                 'kbs:///default/security-policy/test'\n'''\n\n\"policy.rego\" = '''\npackage agent_policy\n\ndefault \
                 AllowRequestsFailingPolicy := false\n'''\n",
            ),
            &[
                (Note, "network-kbs", "aa.toml: token_configs.coco_as"),
                (Error, "another-kbc", "cdh.toml: kbc.name"),
                (
                    Note,
                    "asks-for",
                    "cdh.toml: image.image_security_policy_uri",
                ),
            ],
        ),
        (
            format!("algorithm = \"SHA-256\"\nversion = \"0.1.0\"\n[data]\n{CDH}"),
            &[(Error, "initdata-algorithm", "algorithm")],
        ),
        (
            format!("algorithm = \"sha384\"\nversion = \"0.2.0\"\n[data]\n{CDH}"),
            &[(Error, "initdata-version", "version")],
        ),
        (
            format!("version = \"0.1.0\"\n[data]\n{CDH}"),
            &[(Error, "initdata-algorithm", "algorithm")],
        ),
        (HEAD.to_owned(), &[(Error, "initdata-data", "data")]),
        (
            format!("{HEAD}{CDH}"),
            &[
                (Error, "initdata-data", "data"),
                (Error, "initdata-misplaced", "cdh.toml"),
            ],
        ),
        (
            data("cdh.toml = '''\n'''\n\"aa.toml\" = ''\n"),
            &[(Error, "initdata-data", "cdh")],
        ),
        (
            data("\"aa.toml\" = 1\n"),
            &[(Error, "initdata-data", "aa.toml")],
        ),
        (
            data("\"aa.toml\" = ''\n\"cdh.tml\" = 'hunter2'\n"),
            &[(Note, "initdata-file", "cdh.tml")],
        ),
        (
            data("\"policy.rego\" = '''\npackage policy\n'''\n"),
            &[(Error, "agent-policy", "policy.rego")],
        ),
        (
            data("\"cdh.toml\" = '''\n[kbc\n'''\n"),
            &[(Error, "component-toml", "cdh.toml")],
        ),
        (
            data(&format!("{CDH}[other]\nx = 1\n")),
            &[(Warning, "unknown-key", "other")],
        ),
        (
            data("\"cdh.toml\" = '''\ncert = '''hunter2'''\n'''\n"),
            &[(Error, "initdata-toml", "")],
        ),
        (
            data("\"cdh.toml\" = \"\nhunter2 = 1\"\n"),
            &[(Error, "initdata-toml", "")],
        ),
    ] {
        let expected: Vec<_> = expected
            .iter()
            .map(|(severity, code, entry)| (*severity, *code, (*entry).to_owned()))
            .collect();
        assert_eq!(findings(text.as_bytes()), expected, "{text}");
        // What the annotation has is judged alike.
        let packed = STANDARD.encode(gzip(text.as_bytes()));
        assert_eq!(findings(packed.as_bytes()), expected, "{text}");
    }
}

/// Each form in which it is kept, and what the runtimes do not take.
#[test]
fn forms_are_told_apart() {
    use Severity::{Error, Warning};
    let text = format!("{HEAD}[data]\n{CDH}");
    let zipped = gzip(text.as_bytes());
    let annotation = STANDARD.encode(&zipped);
    let lines: Vec<_> = annotation.as_bytes().chunks(76).collect();
    let lines = String::from_utf8(lines.join(&b"\n"[..])).unwrap();
    let breaks = (Warning, "initdata-base64", String::new());
    for (bytes, form, expected) in [
        (text.clone().into_bytes(), Form::Toml, None),
        (zipped.clone(), Form::Gzip, None),
        (annotation.clone().into_bytes(), Form::Annotation, None),
        (
            format!("{annotation}\n").into_bytes(),
            Form::Annotation,
            None,
        ),
        (lines.into_bytes(), Form::Annotation, Some(breaks)),
        (
            format!("    io.katacontainers.config.hypervisor.cc_init_data: \"{annotation}\"\n")
                .into_bytes(),
            Form::Annotation,
            None,
        ),
        (
            format!("io.katacontainers.config.runtime.cc_init_data={annotation}").into_bytes(),
            Form::Annotation,
            None,
        ),
        (
            format!("\"io.katacontainers.config.hypervisor.cc_init_data\": \"{annotation}\",")
                .into_bytes(),
            Form::Annotation,
            None,
        ),
        (
            STANDARD.encode(&text).into_bytes(),
            Form::Base64,
            Some((Warning, "initdata-not-compressed", String::new())),
        ),
    ] {
        assert_eq!(read(&bytes).unwrap().form, form);
        assert_eq!(findings(&bytes), Vec::from_iter(expected), "{form:?}");
        assert_eq!(*read(&bytes).unwrap().text, text);
    }
    // Go's and Rust's readers want padding.
    let padded = (0..3)
        .map(|more| format!("{text}{}", "#".repeat(more)))
        .map(|text| STANDARD.encode(gzip(text.as_bytes())))
        .find(|value| value.ends_with('='))
        .unwrap_or_default();
    let found = findings(padded.trim_end_matches('=').as_bytes());
    assert_eq!(found, [(Error, "initdata-base64", String::new())]);
}

#[test]
fn other_files_are_not_initdata() {
    for text in [
        "",
        "{}",
        "{\"auths\": {}}",
        "eyJhdXRocyI6IHt9fQ==",
        "hunter2",
        "[kbc]\nname = \"x\"\n",
        "[data]\nx = 1\n",
        "version = 2\n",
        "\u{0}\u{1}",
    ] {
        assert_eq!(
            read(text.as_bytes()).err(),
            Some(Error::NotInitdata),
            "{text}"
        );
    }
    let zipped = gzip(HEAD.as_bytes());
    assert_eq!(read(&zipped[..20]).err(), Some(Error::BrokenGzip));
    assert_eq!(read(&gzip(b"#!/bin/sh\n")).err(), Some(Error::NotInitdata));
}

/// A little annotation must not fill the memory.
#[test]
fn a_bomb_is_left_alone() {
    let bomb = gzip(&vec![b' '; MAX_BYTES + 1]);
    assert_eq!(read(&bomb).err(), Some(Error::TooLarge));
    assert_eq!(
        read(STANDARD.encode(&bomb).as_bytes()).err(),
        Some(Error::TooLarge)
    );
    assert_eq!(
        read(&vec![b' '; MAX_BYTES + 1]).err(),
        Some(Error::TooLarge)
    );
}

/// A finding in a file between ''' has its line in the whole; in what is packed there is none to show.
#[test]
fn places_are_those_of_the_whole_file() {
    let text = format!("{HEAD}[data]\n\"cdh.toml\" = '''\n[kbc]\nname = \"cc_kbc\"\n'''\n");
    let place = |bytes: &[u8]| read(bytes).unwrap().lint()[0].position;
    assert_eq!(
        place(text.as_bytes()).map(|at| (at.line, at.column)),
        Some((6, 1))
    );
    assert_eq!(place(&gzip(text.as_bytes())), None);
    // With escapes the text is not there as it is: the file's own line is shown.
    let text = format!("{HEAD}[data]\n\"cdh.toml\" = \"[kbc]\\nname = \\\"cc_kbc\\\"\\n\"\n");
    assert_eq!(place(text.as_bytes()).map(|at| at.line), Some(4));
}

#[test]
fn files_are_handed_out() {
    let initdata = read(format!("{HEAD}[data]\n{CDH}").as_bytes()).unwrap();
    assert!(initdata.file("cdh.toml").unwrap().starts_with("socket = "));
    assert_eq!(initdata.file("aa.toml"), None);
}
