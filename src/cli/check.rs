// SPDX-License-Identifier: Apache-2.0

//! `check`: every problem at once, before a pod finds it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use offline_fs_kbc::resource::file::Kind;
use offline_fs_kbc::resource::name::Name;
use offline_fs_kbc::resource::store::{FileState, FileStatus, Snapshot, Source, Store};
use offline_fs_kbc::text::{EntryName, count};

use crate::cli::findings;
use crate::config::{self, Files, Root};

/// Load files as the daemon does and report every problem
///
/// Without FILE: the files that the daemon would load. Prints names and sizes, never values. Exit
/// status: 0 fine, 1 problems, 2 usage.
#[derive(Args)]
pub struct Check {
    /// Files to check, each on its own; one called ...keys.json holds keys
    #[arg(value_name = "FILE", conflicts_with_all = ["resources", "keys", "extra_file", "root"])]
    file: Vec<PathBuf>,

    #[command(flatten)]
    files: Files,

    #[command(flatten)]
    root: Root,
}

impl Check {
    /// Prints what is there and what is wrong with it.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        crate::process::seclude()?;
        let mut report = Report::default();
        if self.file.is_empty() {
            report.add(self.files.sources(&self.root), false);
        } else {
            for path in self.file {
                let kind = config::kind_of(&path);
                report.add(vec![Source { path, kind }], true);
            }
        }
        report.line(match report.problems {
            0 => "no problems".to_owned(),
            n => count(n, "problem", "problems"),
        });
        super::print(&report.text)?;
        Ok(if report.problems == 0 {
            ExitCode::SUCCESS
        } else {
            ExitCode::FAILURE
        })
    }
}

/// What is printed.
#[derive(Default)]
struct Report {
    text: String,
    problems: usize,
}

impl Report {
    /// Adds how these files stand together.
    fn add(&mut self, sources: Vec<Source>, must_exist: bool) {
        let store = Store::new(sources);
        store.refresh();
        let snapshot = store.snapshot();
        for file in &snapshot.files {
            self.add_file(file, &snapshot, must_exist);
        }
        for finding in findings::of_content(&snapshot) {
            self.problem(finding);
        }
        // Of what could not be read there is nothing more to say.
        let telling = |file: &FileStatus| match file.state {
            FileState::Absent => !must_exist,
            FileState::Loaded { .. } => file.source.kind == Kind::Resources,
            FileState::Failed { .. } => false,
        };
        if snapshot.files.iter().any(telling) {
            for note in findings::notes(&snapshot) {
                self.line(format!("note: {note}"));
            }
        }
    }

    fn add_file(&mut self, file: &FileStatus, snapshot: &Snapshot, must_exist: bool) {
        let path = file.source.path.display();
        match &file.state {
            FileState::Absent if must_exist => {
                self.problem(format!("{path}: there is no such file"))
            }
            FileState::Absent => self.line(format!("{path}: absent")),
            FileState::Failed { problem, .. } => self.problem(format!("{path}: {problem}")),
            FileState::Loaded {
                entries,
                bytes,
                problems,
                exposures,
            } => {
                let entries = count(*entries, "entry", "entries");
                self.line(format!("{path}: {entries}, {bytes} bytes"));
                let all = snapshot.resources.iter().chain(&snapshot.keys);
                for (name, resource) in all.filter(|(_, r)| *r.file == *file.source.path) {
                    let old = if resource.old { name.old() } else { None };
                    let old = old.map(|old| format!(" (as {old})")).unwrap_or_default();
                    let state = findings::describe(name, resource);
                    let name = match name {
                        Name::Path(path) if !EntryName(path).is_hidden() => name.to_string(),
                        name => EntryName(name.as_str()).to_string(),
                    };
                    self.line(format!("  {name}{old}: {state}"));
                }
                // On a build host the file is another's and elsewhere than in the VM.
                for exposure in exposures.iter().filter(|_| !must_exist) {
                    let sentence = exposure.about(&file.source.path).to_string();
                    if exposure.is_error() {
                        self.problem(sentence);
                    } else {
                        self.line(format!("warning: {sentence}"));
                    }
                }
                for problem in problems {
                    self.problem(format!("{path}: {problem}"));
                }
            }
        }
    }

    fn problem(&mut self, text: String) {
        self.problems += 1;
        self.line(format!("error: {text}"));
    }

    fn line(&mut self, text: String) {
        self.text.push_str(&text);
        self.text.push('\n');
    }
}
