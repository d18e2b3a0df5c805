// SPDX-License-Identifier: Apache-2.0

//! Compares what the project's documents say with what cargo and the sources say.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

/// Runs a program in the project's directory and returns its output.
fn output(program: &str, args: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(args).current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = command.output().expect(program);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {stderr}");
    String::from_utf8(output.stdout).unwrap()
}

fn triple() -> String {
    format!("{}-unknown-linux-gnu", std::env::consts::ARCH)
}

fn metadata() -> Value {
    let args = [
        "metadata",
        "--locked",
        "--format-version=1",
        "--filter-platform",
    ];
    serde_json::from_str(&output(env!("CARGO"), &[&args[..], &[&triple()]].concat())).unwrap()
}

/// The package of the workspace that has this name.
fn ours<'m>(metadata: &'m Value, name: &str) -> &'m Value {
    let mut packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .find(|package| package["source"].is_null() && package["name"] == name)
        .expect(name)
}

fn read(path: &str) -> String {
    fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// docs/dependencies.md explains each direct dependency.
#[test]
fn every_direct_dependency_is_explained() {
    let metadata = metadata();
    let document = read("docs/dependencies.md");
    for (package, heading, kind) in [
        ("offline-fs-kbc", "## In the program", None),
        ("offline-fs-kbc-common", "## At the build", Some("build")),
        ("offline-fs-kbc", "## In the tests", Some("dev")),
        ("offline-fs-kbc-common", "## In the shared crate", None),
        (
            "offline-fs-kbc-common",
            "## In the shared crate's tests",
            Some("dev"),
        ),
        ("guest-pull", "## In guest-pull", None),
        ("guest-pull", "## In guest-pull's tests", Some("dev")),
    ] {
        let ours = ours(&metadata, package);
        let start = format!("{heading}\n");
        let section = document.split_once(&start).expect(heading).1;
        let section = section.split("\n## ").next().unwrap();
        let rows = section.lines().filter(|line| line.starts_with("| `"));
        let listed: Vec<_> = rows.map(|row| row.split('`').nth(1).unwrap()).collect();
        let dependencies = ours["dependencies"].as_array().unwrap().iter();
        let declared: BTreeSet<_> = dependencies
            .filter(|dependency| dependency["kind"].as_str() == kind)
            .map(|dependency| dependency["name"].as_str().unwrap())
            .collect();
        assert_eq!(
            listed,
            declared.into_iter().collect::<Vec<_>>(),
            "{heading}"
        );
    }
}

/// The bills of materials list exactly the crates of the image build, and of guest-pull.
#[test]
fn the_sboms_list_what_cargo_tree_lists() {
    sbom_is_right("offline-fs-kbc", &["--no-default-features"]);
    sbom_is_right("guest-pull", &[]);
}

fn sbom_is_right(package: &str, features: &[&str]) {
    let triple = triple();
    let tree = |edges: &str| -> BTreeSet<String> {
        let args = [
            "tree",
            "--locked",
            "--prefix=none",
            "--package",
            package,
            "--target",
            &triple,
        ];
        let args = [&args[..], features, &["--edges", edges]].concat();
        let tree = output(env!("CARGO"), &args);
        let crates = tree.lines().filter(|line| !line.is_empty());
        crates
            .map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" "))
            .collect()
    };
    let sbom = output("release/sbom", &[&triple, package]);
    assert_eq!(
        sbom,
        output("release/sbom", &[&triple, package]),
        "it changes from run to run"
    );
    let sbom: Value = serde_json::from_str(&sbom).unwrap();
    let name = |component: &Value| {
        let text = |member: &str| component[member].as_str().unwrap().to_owned();
        format!("{} v{}", text("name"), text("version"))
    };
    let components = sbom["components"].as_array().unwrap();
    let mut listed: BTreeSet<_> = components.iter().map(name).collect();
    assert_eq!(listed.len(), components.len(), "a crate comes twice");
    listed.insert(name(&sbom["metadata"]["component"]));
    assert_eq!(listed, tree("normal,build"));
    let linked = |component: &&Value| component["scope"] == "required";
    let linked: BTreeSet<_> = components.iter().filter(linked).map(name).collect();
    // The normal edges include procedural macros and their dependencies.
    assert!(linked.is_subset(&tree("normal,no-proc-macro")));
    for component in components {
        // The shared crate comes from this repository.
        let is_ours = component["name"] == "offline-fs-kbc-common";
        assert!(
            is_ours || component["hashes"][0]["content"].is_string(),
            "{component}"
        );
        assert!(
            component["licenses"][0]["expression"].is_string(),
            "{component}"
        );
    }
}

/// Packages for crates.io have what their build needs: all sources, and what build scripts read. They have nothing else, and
/// no other crates of the workspace are published.
#[test]
fn published_crates_have_their_sources_and_nothing_else() {
    let metadata = metadata();
    let packages = metadata["packages"].as_array().unwrap().iter();
    let published: BTreeSet<_> = packages
        .filter(|package| package["source"].is_null() && package["publish"].is_null())
        .map(|package| package["name"].as_str().unwrap())
        .collect();
    let crates: [(&str, &str, &[&str]); 3] = [
        ("guest-pull", "guest-pull/", &["src", "build.rs", "LICENSE"]),
        (
            "offline-fs-kbc",
            "",
            &["src", "man", "LICENSE", "README.md", "CHANGELOG.md"],
        ),
        (
            "offline-fs-kbc-common",
            "common/",
            &["src", "protos", "build.rs", "LICENSE"],
        ),
    ];
    let version = &ours(&metadata, "offline-fs-kbc")["version"];
    assert_eq!(published, crates.iter().map(|(name, ..)| *name).collect());
    for (name, directory, parts) in crates {
        let args = ["package", "--list", "--allow-dirty", "--package", name];
        let listed = output(env!("CARGO"), &args);
        // What cargo adds.
        let added = [
            ".cargo_vcs_info.json",
            "Cargo.lock",
            "Cargo.toml",
            "Cargo.toml.orig",
            "README.md",
        ];
        let listed: BTreeSet<_> = listed
            .lines()
            .filter(|file| !added.contains(file))
            .collect();
        let paths: Vec<_> = parts
            .iter()
            .map(|part| format!("{directory}{part}"))
            .collect();
        let paths: Vec<_> = paths.iter().map(String::as_str).collect();
        let found = output("find", &[&paths[..], &["!", "-type", "d"]].concat());
        let wanted: BTreeSet<_> = found
            .lines()
            .map(|file| file.strip_prefix(directory).unwrap())
            .filter(|file| !added.contains(file))
            .collect();
        assert_eq!(listed, wanted, "{name}");
        let ours = ours(&metadata, name);
        for member in ["description", "license", "readme"] {
            assert!(ours[member].is_string(), "{name}: {member}");
        }
        assert_eq!(&ours["version"], version, "{name}");
    }
}

/// What pulls images does not grow the daemon: no network, layers or mounts in its tree.
#[test]
fn the_daemon_has_nothing_of_guest_pull() {
    let tree = |package: &str| -> BTreeSet<String> {
        let args = [
            "tree",
            "--locked",
            "--no-default-features",
            "--prefix=none",
            "--edges=normal,no-proc-macro",
            "--package",
            package,
        ];
        let tree = output(env!("CARGO"), &args);
        let names = tree.lines().filter_map(|line| line.split(' ').next());
        names.map(str::to_owned).collect()
    };
    let (daemon, puller) = (tree("offline-fs-kbc"), tree("guest-pull"));
    for name in [
        "guest-pull",
        "ureq",
        "rustls",
        "lz4_flex",
        "flate2",
        "zstd",
        "rustix",
    ] {
        assert!(!daemon.contains(name) && puller.contains(name), "{name}");
    }
    assert!(puller.len() <= 140, "{}", puller.len());
}

/// The declared minimum version of Rust can build every crate.
#[test]
fn no_locked_crate_needs_a_newer_rust() {
    let number = |text: &str| -> Vec<u32> {
        let parts = text.split('.').take(2);
        parts.map(|part| part.parse().unwrap()).collect()
    };
    let metadata = metadata();
    let ours = ours(&metadata, "offline-fs-kbc");
    let declared = ours["rust_version"].as_str().unwrap();
    assert!(read("Makefile").contains(&format!("\nCARGO_NEEDED := {declared}\n")));
    assert!(read("README.md").contains(&format!("cargo {declared} or newer")));
    for package in metadata["packages"].as_array().unwrap() {
        if let Some(needed) = package["rust_version"].as_str() {
            let (name, version) = (&package["name"], &package["version"]);
            assert!(
                number(needed) <= number(declared),
                "{name} {version} needs Rust {needed}"
            );
        }
    }
}

/// The sources in a directory below src/, with their paths, without the tests at their ends.
fn sources(directory: &str) -> Vec<(String, String)> {
    let files = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(directory)).unwrap();
    let mut sources = Vec::new();
    for file in files {
        let path = format!(
            "{directory}/{}",
            file.unwrap().file_name().to_string_lossy()
        );
        if path.ends_with(".rs") {
            let text = read(&path);
            let program = text.split("#[cfg(test)]\nmod tests").next().unwrap();
            let lines = program
                .lines()
                .filter(|line| !line.trim_start().starts_with("//"));
            let program = lines.collect::<Vec<_>>().join("\n");
            sources.push((path, program));
        }
    }
    sources
}

/// docs/design.md: `resource` knows no ttrpc, `rpc` knows no file but one, `server` knows no resource.
#[test]
fn dependencies_point_down() {
    let design = read("docs/design.md");
    for (room, sentence, unknown) in [
        (
            "resource",
            "`resource` knows no ttrpc",
            &[
                "ttrpc::",
                "protobuf::",
                "crate::proto",
                "crate::rpc",
                "crate::server",
            ][..],
        ),
        (
            "rpc",
            "`rpc` no file",
            &["std::fs", "std::io", "tokio::", "nix::", "file::read"],
        ),
        (
            "server",
            "`server` no resource",
            &[
                "crate::resource",
                "crate::credential",
                "crate::lint",
                "crate::rpc",
            ],
        ),
    ] {
        assert!(design.contains(sentence), "docs/design.md: {sentence}");
        let sources = sources(&format!("src/{room}"));
        assert!(!sources.is_empty());
        for (path, text) in sources {
            for unknown in unknown {
                // Decision 11 has the reason.
                let is_key_file = path == "src/rpc/sealedsecret.rs" && *unknown == "file::read";
                assert_eq!(text.contains(unknown), is_key_file, "{path}: {unknown}");
            }
        }
    }
}

/// All sources below a directory, including its subdirectories.
fn sources_below(directory: &str) -> Vec<(String, String)> {
    let mut all = sources(directory);
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(directory)).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            let name = entry.file_name();
            all.extend(sources_below(&format!(
                "{directory}/{}",
                name.to_string_lossy()
            )));
        }
    }
    all
}

/// The paths below `crate` that a source names, with one level of braces expanded.
fn named_paths(text: &str) -> Vec<String> {
    let mut paths = Vec::new();
    for root in ["crate::", "offline_fs_kbc::", "guest_pull::"] {
        for (at, _) in text.match_indices(root) {
            let rest = &text[at + root.len()..];
            let is_path = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
            let end = rest.find(|c| !is_path(c)).unwrap_or(rest.len());
            let (path, rest) = rest.split_at(end);
            match rest.strip_prefix('{') {
                None => paths.push(path.to_owned()),
                Some(rest) => {
                    let inner = rest.split('}').next().unwrap();
                    let items = inner.split(',').map(str::trim);
                    paths.extend(items.map(|item| format!("{path}{item}")));
                }
            }
        }
    }
    paths
}

/// Whether `a` is a submodule of `b`.
fn is_within(a: &str, b: &str) -> bool {
    a.strip_prefix(b).is_some_and(|rest| rest.starts_with("::"))
}

/// Where the programs' sources are: the daemon's, and guest-pull's.
const PROGRAMS: [&str; 2] = ["src", "guest-pull/src"];

/// The modules of a program, each with those that it imports, but for its submodules and what it is a submodule of.
type Imports = BTreeMap<String, BTreeSet<String>>;

fn imports(directory: &str) -> Imports {
    let module = |path: &str| {
        let path = &path[directory.len() + 1..path.len() - ".rs".len()];
        let path = path.replace('/', "::");
        path.strip_suffix("::mod").unwrap_or(&path).to_owned()
    };
    let sources = sources_below(directory);
    let modules: BTreeSet<String> = sources.iter().map(|(path, _)| module(path)).collect();
    let imports = |path: &str, text: &str| -> BTreeSet<String> {
        let own = module(path);
        let found = named_paths(text).into_iter().filter_map(|mut named| {
            while !modules.contains(&named) {
                named.truncate(named.rfind("::")?);
            }
            Some(named)
        });
        found
            .filter(|named| *named != own && !is_within(named, &own) && !is_within(&own, named))
            .collect()
    };
    let graph = sources
        .iter()
        .map(|(path, text)| (module(path), imports(path, text)));
    graph.collect()
}

/// Modules that import each other can't be understood separately. A module and its submodules count as one.
#[test]
fn no_two_modules_import_each_other() {
    for (program, known) in [
        ("src", ("cli::serve", "resource::store")),
        ("guest-pull/src", ("worker::start", "pull")),
    ] {
        let mut graph = imports(program);
        assert!(graph[known.0].contains(known.1), "{graph:?}");
        // Remove modules that import none of the remaining ones, until nothing or a cycle is left.
        loop {
            let left: BTreeSet<String> = graph.keys().cloned().collect();
            let before = graph.len();
            graph.retain(|_, imports| imports.iter().any(|import| left.contains(import)));
            if graph.len() == before {
                break;
            }
        }
        assert!(graph.is_empty(), "these import each other: {graph:#?}");
    }
}

/// The part of docs/design.md below a heading.
fn of_design(heading: &str) -> String {
    let design = read("docs/design.md");
    let start = format!("\n## {heading}\n");
    let part = design.split_once(&start).expect(heading).1;
    part.split("\n## ").next().unwrap().to_owned()
}

/// docs/design.md lists the modules of each program in layers. Each is in one of them, and imports only from lower ones.
#[test]
fn modules_import_from_lower_layers() {
    let section = of_design("Layers");
    for program in PROGRAMS {
        let start = format!("\n```text\n{program}/\n");
        let list = section.split_once(&start).expect(program).1;
        let list = list.split("```").next().unwrap();
        let mut layers = BTreeMap::new();
        for (number, line) in list.lines().enumerate() {
            let modules = line.trim().split("  ").next().unwrap();
            for module in modules.split(" · ") {
                let before = layers.insert(module.to_owned(), number);
                assert_eq!(before, None, "{program}: {module} comes twice");
            }
        }
        let top = |module: &str| module.split("::").next().unwrap().to_owned();
        let mut modules = BTreeSet::new();
        for (module, imports) in imports(program) {
            let own = top(&module);
            // The root of the library only names the others.
            if own == "lib" {
                continue;
            }
            let layer = layers.get(&own);
            let layer = layer.unwrap_or_else(|| panic!("{program}: {own} has no layer"));
            for import in imports.iter().filter(|import| top(import) != own) {
                let other = top(import);
                assert!(
                    layers.get(&other).is_some_and(|below| below > layer),
                    "{program}: {module} imports {import}, which is not in a lower layer"
                );
            }
            modules.insert(own);
        }
        let listed: BTreeSet<_> = layers.into_keys().collect();
        assert_eq!(listed, modules, "{program}");
    }
}

/// The pictures in docs/design.md: modules that an arrow connects are there, and one of the two imports the other.
#[test]
fn the_arrows_of_the_two_ways_are_imports() {
    let graphs = PROGRAMS.map(imports);
    let is_part = |module: &str, whole: &str| module == whole || is_within(module, whole);
    let imports = |graph: &Imports, from: &str, to: &str| {
        let mut importing = graph.iter().filter(|(module, _)| is_part(module, from));
        importing.any(|(_, imports)| imports.iter().any(|import| is_part(import, to)))
    };
    let section = of_design("The two ways");
    let pictures = section.split("```").skip(1).step_by(2);
    let mut arrows = 0;
    for line in pictures.flat_map(str::lines) {
        let ends: Vec<_> = line.split(" ─> ").collect();
        for pair in ends.windows(2) {
            let from = pair[0].split_whitespace().last().unwrap();
            let to = pair[1].split_whitespace().next().unwrap();
            let mut graphs = graphs.iter();
            let is_import =
                graphs.any(|graph| imports(graph, from, to) || imports(graph, to, from));
            assert!(is_import, "{from} ─> {to}: neither imports the other");
            arrows += 1;
        }
    }
    assert!(arrows > 30, "{arrows}");
}

/// The most lines of a file: what a reader can have in mind.
const MAX_LINES: usize = 600;

/// No file that people read is too long to be read. Lock files, figures, generated inputs and licences are not written by hand.
#[test]
fn no_file_is_too_long() {
    let files = output("git", &["ls-files"]);
    let is_written = |path: &&str| {
        !path.ends_with(".lock")
            && !path.starts_with("docs/figures/")
            && !path.starts_with("fuzz/corpus/")
            && !path.contains("/vectors/")
    };
    let mut checked = 0;
    for path in files.lines().filter(is_written) {
        let Ok(text) = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)) else {
            // A recording, or a file that is removed and not committed yet.
            continue;
        };
        let lines = text.lines().count();
        assert!(
            lines <= MAX_LINES,
            "{path} has {lines} lines, more than {MAX_LINES}: split it"
        );
        checked += 1;
    }
    assert!(checked > 300, "{checked}");
}

/// The anchor of a heading, as the pages of code hosts make it.
fn anchor(heading: &str) -> String {
    let is_kept = |c: &char| c.is_alphanumeric() || [' ', '-', '_'].contains(c);
    let kept = heading
        .trim()
        .to_lowercase()
        .chars()
        .filter(is_kept)
        .collect::<String>();
    kept.replace(' ', "-")
}

/// Each link of a document to another one leads somewhere: to a file, and to a heading in it.
#[test]
fn links_between_documents_lead_somewhere() {
    let mut links = 0;
    for page in output("git", &["ls-files", "*.md"]).lines() {
        let text = read(page);
        for (at, _) in text.match_indices("](") {
            let target = text[at + 2..].split(')').next().unwrap();
            if target.contains("://") {
                continue;
            }
            let (file, fragment) = target.split_once('#').unwrap_or((target, ""));
            let directory = Path::new(page).parent().unwrap();
            let file = match file {
                "" => page.into(),
                file => directory.join(file),
            };
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(&file);
            assert!(path.exists(), "{page}: {target}");
            if !fragment.is_empty() {
                let text = fs::read_to_string(&path).unwrap();
                let mut headings = text.lines().filter(|line| line.starts_with('#'));
                let has = headings.any(|line| anchor(line.trim_start_matches('#')) == fragment);
                assert!(has, "{page}: {target}: no such heading");
            }
            links += 1;
        }
    }
    assert!(links > 50, "{links}");
}
