// SPDX-License-Identifier: Apache-2.0

//! No command in the documents is there unless something runs it, or a reason says why not.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::PAGES;
use crate::page::commands;

/// Blocks that are not run here: the page, the beginning of the block's first line (nothing means all blocks of the page), and
/// who runs it, or why nobody can.
const ELSEWHERE: [(&str, &str, &str); 19] = [
    (
        "troubleshooting",
        "$ offline-fs-kbc check ",
        "tests/black_box/commands.rs",
    ),
    (
        "comparison",
        "make compare",
        "benches/tests/comparison.rs plays this project's column",
    ),
    (
        "interfaces",
        "offline-fs-kbc keygen --signing",
        "tests/black_box/sealing.rs",
    ),
    ("image", "make deb", "tests/podvm builds and installs"),
    ("image", "make build", "tests/podvm makes such a file"),
    ("image", "chroot ", "tests/podvm, in its image"),
    ("image", "systemctl status", "tests/podvm, in its VM"),
    ("image", "dpkg --install", "tests/podvm, in its VM"),
    ("image", "make test-podvm", "it is a test"),
    ("systemd", "install ", "tests/podvm, in its VM"),
    (
        "ccv0-2023",
        "",
        "it is for VMs of that time; tests/podvm runs the same commands",
    ),
    (
        "kata-3",
        "",
        "it is for VMs of that time; tests/podvm runs the same commands",
    ),
    ("fuzzing", "DIFFERENTIAL_SEED=", "it takes an hour"),
    (
        "guest-pull",
        "guest-pull plan quay.io",
        "it asks a public registry",
    ),
    ("verify", "git clone", "it builds twice: tests/reproducible"),
    ("verify", "dpkg --verify", "tests/podvm, in its VM"),
    (
        "README",
        "make demo",
        ".ci/run runs `make test`; tests/black_box/puller.rs goes the same way",
    ),
    ("README", "make deb", "tests/podvm builds and installs"),
    ("README", "offline-fs-kbc ", "tests/podvm, in its VM"),
];

/// All documents.
fn pages(root: &Path) -> Vec<PathBuf> {
    let docs = fs::read_dir(root.join("docs")).unwrap();
    let docs = docs.map(|entry| entry.unwrap().path());
    let more = ["README.md", "SECURITY.md", "CHANGELOG.md"].map(|name| root.join(name));
    docs.filter(|path| path.extension().is_some_and(|end| end == "md"))
        .chain(more)
        .collect()
}

#[test]
fn each_command_in_the_documents_is_run_or_says_why_not() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut used = BTreeSet::new();
    let mut problems = Vec::new();
    for path in pages(root) {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        for (language, first, reason) in commands(&text) {
            let named = ELSEWHERE
                .iter()
                .position(|(page, begin, _)| *page == name && first.starts_with(begin));
            used.extend(named);
            let others = usize::from(named.is_some()) + usize::from(reason.is_some());
            let problem = match (PAGES.contains(&name), others) {
                (true, 0) | (false, 1) => continue,
                // In a page that is walked, a block may be for another place.
                (true, 1) if named.is_none() => continue,
                (false, 0) => "no test runs it, and no reason says why",
                _ => "it is run, or named twice",
            };
            problems.push(format!("{name}: `{language}` {first:?}: {problem}"));
        }
    }
    for (at, (page, begin, _)) in ELSEWHERE.iter().enumerate() {
        if !used.contains(&at) {
            problems.push(format!("{page}: no block begins with {begin:?}"));
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

/// Every page that has inputs, or is walked, is there.
#[test]
fn the_pages_that_are_walked_are_there() {
    for name in PAGES {
        assert!(crate::page::path(name).is_file(), "docs/{name}.md");
    }
}
