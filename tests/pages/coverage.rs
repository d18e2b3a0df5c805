// SPDX-License-Identifier: Apache-2.0

//! No command in the documents is there unless something runs it, or a reason says why not.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::PAGES;
use crate::page::commands;

/// Pages whose commands other tests run, or that no test here can run, with the reason.
const ELSEWHERE: [(&str, &str); 0] = [];

#[test]
fn each_command_in_the_documents_is_run_or_says_why_not() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut pages: Vec<_> = fs::read_dir(root.join("docs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "md"))
        .collect();
    for name in ["README.md", "SECURITY.md"] {
        pages.push(root.join(name));
    }
    let mut unused: BTreeSet<_> = ELSEWHERE.iter().map(|(name, _)| *name).collect();
    let mut problems = Vec::new();
    for path in pages {
        let name = path.file_stem().unwrap().to_str().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        let is_walked = PAGES.contains(&name);
        for (language, first, reason) in commands(&text) {
            let is_elsewhere = unused.remove(name) || ELSEWHERE.iter().any(|(page, _)| *page == name);
            if is_walked && is_elsewhere {
                problems.push(format!("{name}: it is walked, and named in ELSEWHERE"));
            }
            if !is_walked && !is_elsewhere && reason.is_none() {
                problems.push(format!("{name}: no test runs the block `{language}` {first:?}"));
            }
        }
    }
    problems.extend(unused.iter().map(|name| format!("{name}: it has no commands")));
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
