// SPDX-License-Identifier: Apache-2.0

//! `check`: every problem at once, before a pod finds it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use offline_fs_kbc::resource::store::{FileState, Source, Store};
use offline_fs_kbc::text::count;

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
        let problems = if self.file.is_empty() {
            report(self.files.sources(&self.root), false)
        } else {
            let sources = self.file.into_iter().map(|path| Source {
                kind: config::kind_of(&path),
                path,
            });
            sources.map(|source| report(vec![source], true)).sum()
        };
        Ok(if problems == 0 {
            println!("no problems");
            ExitCode::SUCCESS
        } else {
            println!("{}", count(problems, "problem", "problems"));
            ExitCode::FAILURE
        })
    }
}

/// Prints how these files stand together; gives the number of problems.
fn report(sources: Vec<Source>, must_exist: bool) -> usize {
    let store = Store::new(sources);
    store.refresh();
    let snapshot = store.snapshot();
    let mut problems = findings::of_files(&snapshot);
    for file in &snapshot.files {
        let path = file.source.path.display();
        match &file.state {
            FileState::Absent if must_exist => {
                problems += 1;
                println!("error: {path}: there is no such file");
            }
            FileState::Absent => println!("{path}: absent"),
            FileState::Failed { problem, .. } => println!("error: {path}: {problem}"),
            FileState::Loaded {
                entries,
                bytes,
                problems,
            } => {
                println!(
                    "{path}: {}, {bytes} bytes",
                    count(*entries, "entry", "entries")
                );
                let all = snapshot.resources.iter().chain(&snapshot.keys);
                for (name, resource) in all.filter(|(_, r)| *r.file == *file.source.path) {
                    let old = if resource.old { name.old() } else { None };
                    let old = old.map(|old| format!(" (as {old})")).unwrap_or_default();
                    println!("  {name}{old}: {}", findings::describe(name, resource));
                }
                for problem in problems {
                    println!("error: {path}: {problem}");
                }
            }
        }
    }
    let content = findings::of_content(&snapshot);
    for finding in &content {
        println!("error: {finding}");
    }
    problems + content.len()
}
