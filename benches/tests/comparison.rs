// SPDX-License-Identifier: Apache-2.0

//! docs/comparison.md says what the programs do: this project's column is played again, and the page has the record word for word.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The project's directory.
const PROJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// What `make compare` wrote.
fn record() -> PathBuf {
    Path::new(PROJECT).join("docs/figures/compare.json")
}

fn rows(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).expect("a record");
    let record: Value = serde_json::from_str(&text).expect("JSON");
    record["rows"].as_array().expect("rows").clone()
}

/// A program of this project that a variable names. Where it must be there (CI is set), the test fails if it isn't.
fn program(variable: &str) -> Option<PathBuf> {
    let must = std::env::var_os("CI").is_some();
    let path = std::env::var_os(variable).map(PathBuf::from);
    let path = path.filter(|path| path.exists());
    assert!(path.is_some() || !must, "{variable} names no program");
    path
}

/// Nothing stands on the page that is not in the record.
#[test]
fn the_page_has_the_record() {
    let output = Command::new(env!("CARGO_BIN_EXE_compare"))
        .arg("--render")
        .arg(record())
        .output()
        .expect("compare");
    assert!(output.status.success(), "{output:?}");
    let tables = String::from_utf8(output.stdout).expect("UTF-8");
    let page = fs::read_to_string(Path::new(PROJECT).join("docs/comparison.md")).expect("the page");
    assert!(
        page.contains(&tables),
        "`make compare CDH=PATH UPDATE=1` writes the page anew:\n{tables}"
    );
    // All else on it is about the command, and has no rows.
    let others = page.replace(&tables, "");
    assert!(
        !others.lines().any(|line| line.starts_with('|')),
        "{others}"
    );
    for row in rows(&record()) {
        assert!(
            row["stock"].is_string(),
            "{} was not played with the stock program",
            row["id"]
        );
    }
}

/// This project still does what the record says.
#[test]
fn this_project_does_what_the_page_says() {
    let is_root = nix::unistd::geteuid().is_root();
    let must = std::env::var_os("CI").is_some();
    assert!(is_root || !must, "this test needs root");
    let tools = ["DOCKER_REGISTRY", "SKOPEO", "COSIGN", "COSIGN_2"].map(program);
    if tools.iter().any(Option::is_none) {
        return;
    }
    let programs = (program("OFFLINE_FS_KBC_BIN"), program("GUEST_PULL_BIN"));
    let (true, (Some(daemon), Some(guest_pull))) = (is_root, programs) else {
        return;
    };
    let directory = tempfile::tempdir().expect("a directory");
    let json = directory.path().join("compare.json");
    let output = Command::new(env!("CARGO_BIN_EXE_compare"))
        .args([&daemon, &guest_pull])
        .arg("--json")
        .arg(&json)
        .output()
        .expect("compare");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    let (seen, written) = (rows(&json), rows(&record()));
    let ids = |rows: &[Value]| rows.iter().map(|row| row["id"].clone()).collect::<Vec<_>>();
    assert_eq!(ids(&seen), ids(&written), "the points");
    let mut different = Vec::new();
    for (seen, written) in seen.iter().zip(&written) {
        assert_eq!(seen["point"], written["point"]);
        // Figures depend on how the programs were built.
        if seen["figure"] == false && seen["ours"] != written["ours"] {
            different.push(format!(
                "{}:\n  now  {}\n  page {}",
                seen["id"], seen["ours"], written["ours"]
            ));
        }
    }
    assert!(
        different.is_empty(),
        "the page says something else:\n{}",
        different.join("\n")
    );
}
