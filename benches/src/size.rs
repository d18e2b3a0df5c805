// SPDX-License-Identifier: Apache-2.0

//! Figures that do not depend on the machine: sizes, crates, lines, instructions.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use offline_fs_kbc_bench::process;
use offline_fs_kbc_bench::report::Report;
use offline_fs_kbc_bench::server::Programs;
use serde_json::Value;

const SIZE: &str = "Size";
const INSTRUCTIONS: &str = "Instructions (callgrind)";

/// The targets of the image build.
const MOST_MEGABYTES: f64 = 2.5;
const MOST_CRATES: f64 = 110.0;

/// Measures them.
pub fn measure(report: &mut Report, programs: &Programs, dynamic: Option<PathBuf>) {
    let megabytes = |path: &Path| process::size(path).map(|bytes| bytes / 1e6);
    if let Some(size) = megabytes(&programs.daemon) {
        let row = report.row(SIZE, "image build, static", size, "MB");
        row.at_most(MOST_MEGABYTES);
    }
    match dynamic.as_deref().and_then(megabytes) {
        Some(size) => drop(report.row(SIZE, "with the tools, dynamic", size, "MB")),
        None => report.note("No dynamic binary: `make build` makes it."),
    }
    match crates() {
        Some(crates) => {
            let row = report.row(SIZE, "crates in the daemon's tree", crates, "");
            row.at_most(MOST_CRATES);
        }
        None => report.note("No number of crates: cargo tree failed."),
    }
    let (all, code) = lines(Path::new("src"));
    report.row(SIZE, "lines below src/", all, "");
    report.row(SIZE, "of them code, without tests", code, "");
    instructions(report, &programs.daemon);
}

/// The number of crates of the image build, without this one.
fn crates() -> Option<f64> {
    let output = Command::new("cargo")
        .args(["tree", "--locked", "--package", "offline-fs-kbc"])
        .args(["--no-default-features", "--edges", "normal"])
        .args(["--prefix", "none", "--format", "{p}"])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let crates: BTreeSet<_> = text
        .lines()
        .map(|line| line.trim_end_matches(" (*)"))
        .filter(|line| !line.is_empty())
        .collect();
    output.status.success().then_some(crates.len() as f64 - 1.0)
}

/// The lines of the sources below a directory: all of them, and those that are not empty, comments or tests.
fn lines(directory: &Path) -> (f64, f64) {
    let (mut all, mut code) = (0.0, 0.0);
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            let below = lines(&path);
            all += below.0;
            code += below.1;
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).unwrap_or_default();
            all += text.lines().count() as f64;
            let product = text.lines().take_while(|line| *line != "#[cfg(test)]");
            let product = product.filter(|line| {
                let line = line.trim_start();
                !line.is_empty() && !line.starts_with("//")
            });
            code += product.count() as f64;
        }
    }
    (all, code)
}

/// The counts of `tests/instructions`.
fn instructions(report: &mut Report, daemon: &Path) {
    let output = Command::new("tests/instructions")
        .arg("--count")
        .arg(daemon)
        .output();
    let counts = output
        .ok()
        .filter(|output| output.status.success())
        .and_then(|output| serde_json::from_slice::<Value>(&output.stdout).ok());
    match counts.as_ref().and_then(Value::as_object) {
        Some(counts) if !counts.is_empty() => {
            for (name, count) in counts {
                let count = count.as_f64().unwrap_or_default();
                report.row(INSTRUCTIONS, name, count, "");
            }
        }
        _ => report.note("No instruction counts: valgrind is not installed."),
    }
}
