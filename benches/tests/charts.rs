// SPDX-License-Identifier: Apache-2.0

//! The charts: those of the documentation are of its figures, and odd figures break none.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use roxmltree::Document;
use serde_json::{Value, json};

/// All charts of both benchmarks.
const ALL: [&str; 7] = [
    "daemon-latency.svg",
    "daemon-memory.svg",
    "daemon-throughput.svg",
    "pull-held.svg",
    "pull-peak.svg",
    "pull-small.svg",
    "pull-time.svg",
];

fn figures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/figures")
}

fn run(directory: &Path, measured: &[PathBuf]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_charts"));
    command.arg(directory).args(measured);
    command.output().expect("charts")
}

/// The charts of some JSON, by their names.
fn drawn(measured: &[PathBuf]) -> BTreeMap<String, String> {
    let directory = tempfile::tempdir().unwrap();
    let output = run(directory.path(), measured);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let entries = fs::read_dir(directory.path()).unwrap();
    let read = entries.map(|entry| {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        (name, fs::read_to_string(entry.path()).unwrap())
    });
    read.collect()
}

/// The charts of a value instead of a file.
fn drawn_of(value: &Value) -> BTreeMap<String, String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("figures.json");
    fs::write(&path, value.to_string()).unwrap();
    drawn(&[path])
}

fn committed() -> [PathBuf; 2] {
    ["bench.json", "bench-pull.json"].map(|name| figures().join(name))
}

fn parsed(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// The texts of a chart, which must be XML and within its picture.
fn texts(name: &str, chart: &str) -> Vec<String> {
    let document = Document::parse(chart).unwrap_or_else(|error| panic!("{name}: {error}"));
    let root = document.root_element();
    let size = |side: &str| root.attribute(side).unwrap().parse::<f64>().unwrap();
    let (width, height) = (size("width"), size("height"));
    for node in document.descendants() {
        for (sides, most) in [(["x", "x1", "x2"], width), (["y", "y1", "y2"], height)] {
            for side in sides {
                if let Some(at) = node.attribute(side) {
                    let at: f64 = at.parse().unwrap_or(f64::NAN);
                    assert!((0.0..=most).contains(&at), "{name}: {side} is {at}");
                }
            }
        }
    }
    let texts = document
        .descendants()
        .filter(|node| node.has_tag_name("text"));
    texts
        .map(|node| node.text().unwrap_or_default().trim().to_owned())
        .collect()
}

/// `make figures` was run after the figures were replaced or the drawing was changed.
#[test]
fn the_committed_charts_are_of_the_committed_figures() {
    let drawn = drawn(&committed());
    assert_eq!(drawn.keys().collect::<Vec<_>>(), ALL.each_ref());
    for (name, chart) in drawn {
        let committed = fs::read_to_string(figures().join(&name)).unwrap_or_default();
        assert!(
            committed == chart,
            "docs/figures/{name} is not what is drawn now; fix: run `make figures`"
        );
        let texts = texts(&name, &chart);
        let cut: Vec<_> = texts.iter().filter(|text| text.ends_with('…')).collect();
        assert!(cut.is_empty(), "{name}: {cut:?} does not fit");
    }
}

/// Every figure that a chart shows is there: a benchmark that renames one would leave its bars out. And the figures say where
/// they come from, but nothing of the directories there.
#[test]
fn the_committed_figures_are_whole() {
    for path in committed() {
        let text = fs::read_to_string(&path).unwrap();
        for directory in ["/home/", "/root/", "/tmp/", "/target/", "/work/"] {
            assert!(!text.contains(directory), "{}: {directory}", path.display());
        }
        let json = parsed(&path);
        for member in ["version", "commit", "date"] {
            assert!(json["run"][member].is_string(), "{member}");
        }
        assert!(json["run"]["quick"].is_boolean());
        for member in ["cpu", "kernel"] {
            assert!(json["run"]["machine"][member].is_string(), "{member}");
        }
        assert!(json["run"]["machine"]["cores"].is_u64());
    }
    for (name, chart) in drawn(&committed()) {
        let texts = texts(&name, &chart);
        // A peer that is missing has a reason.
        assert!(
            !texts.contains(&"not measured".to_owned()),
            "{name}: {texts:?}"
        );
        assert!(
            texts
                .iter()
                .any(|text| text.contains("guest-pull") || text == "offline-fs-kbc")
        );
    }
}

/// What is missing is said, and is no bar of length 0; what is odd does not break the picture.
#[test]
fn odd_figures_break_no_chart() {
    let section = "one-layer: <b> & \"c\"\u{1}: 1.0 MB";
    let run = json!({"benchmark": "bench-pull", "version": "<&>", "quick": true});
    let row = |name: &str, value: Value| json!({"section": section, "name": name, "value": value, "unit": "s", "floors": []});
    for [ours, others] in [
        [json!(1e300), json!(1e-300)],
        [json!(1e-9), json!(0.0)],
        [json!(0.0), json!(0)],
        [json!(-1.0), json!(null)],
        [json!("many"), json!(f64::MAX)],
        [json!(5e-324), json!(5e-324)],
    ] {
        let odd = json!({
            "run": run, "figures": [
                row("guest-pull", ours.clone()), row("containerd", others.clone()), row("guest-pull, again", ours),
                row("containerd, peak memory", others), row("a <name> & more", json!(1)),
            ],
            "missing": [
                {"section": null, "peer": "skopeo + umoci", "reason": "it & <its> library are not here, ".repeat(20)},
            ],
        });
        let drawn = drawn_of(&odd);
        assert_eq!(drawn.len(), 4);
        let texts = texts("pull-time.svg", &drawn["pull-time.svg"]);
        let has = |part: &str| texts.iter().any(|text| text.contains(part));
        assert!(has("<&>") && has("<b> & \"c\": 1.0 MB"), "{texts:?}");
        assert!(has("not measured: it & <its> library"), "{texts:?}");
        assert!(has("A short run (QUICK=1)"), "{texts:?}");
        for (name, chart) in &drawn {
            self::texts(name, chart);
        }
    }
    for benchmark in ["bench", "bench-pull"] {
        let empty = json!({"run": {"benchmark": benchmark}});
        for (name, chart) in drawn_of(&empty) {
            texts(&name, &chart);
        }
    }
}

/// What is no benchmark's JSON is refused, with the file's name.
#[test]
fn what_can_not_be_drawn_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("figures.json");
    for (text, says) in [
        ("{", "EOF"),
        ("{}", "must be bench or bench-pull"),
        (
            r#"{"run": {"benchmark": "other"}}"#,
            "must be bench or bench-pull",
        ),
    ] {
        fs::write(&path, text).unwrap();
        let output = run(directory.path(), std::slice::from_ref(&path));
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        assert!(
            error.contains(says) && error.contains("figures.json"),
            "{error}"
        );
    }
    let output = run(directory.path(), &[]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("make bench"));
}
