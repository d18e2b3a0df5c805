// SPDX-License-Identifier: Apache-2.0

//! What is printed: lines for a person, findings for a person or a program.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::{env, fmt};

use clap::ValueEnum;
use offline_fs_kbc::resource::name::Name;
use offline_fs_kbc::resource::problem::{Problem, Severity};
use offline_fs_kbc::resource::snapshot::Snapshot;
use offline_fs_kbc::text::{EntryName, count};
use serde_json::{Value, json};

/// How something is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For a person.
    Text,
    /// For a program; the form is in docs/check.md.
    Json,
}

/// What was looked at, in order.
#[derive(Default)]
pub struct Report {
    lines: Vec<Line>,
    images: Vec<Value>,
    served: Vec<Value>,
    /// Whether images would be pulled: the last lines.
    verdicts: Vec<String>,
}

enum Line {
    /// What there is.
    Plain(String),
    /// What is wrong.
    Finding(Option<PathBuf>, Problem),
}

impl Report {
    /// Adds a line that says what there is.
    pub fn line(&mut self, text: String) {
        self.lines.push(Line::Plain(text));
    }

    /// Adds what is wrong with a file, or with none of them.
    pub fn find(&mut self, file: Option<&Path>, problem: Problem) {
        let file = file.map(Path::to_owned);
        self.lines.push(Line::Finding(file, problem));
    }

    /// Adds what a client does for an image.
    pub fn image(&mut self, value: Value) {
        self.images.push(value);
    }

    /// Adds whether an image would be pulled.
    pub fn verdict(&mut self, text: &str) {
        self.verdicts.push(text.to_owned());
    }

    /// Adds what a daemon serves of a file: what clients can ask for.
    pub fn serve(&mut self, snapshot: &Snapshot) {
        for (name, resource) in &snapshot.resources {
            if let (Name::Path(name), Ok(value)) = (name, &resource.value) {
                let mut served = json!({
                    "file": resource.file.display().to_string(),
                    "name": &**name,
                    "bytes": value.len(),
                });
                if !resource.shares().is_empty() {
                    served["shares"] = json!(resource.shares());
                }
                self.served.push(served);
            }
        }
    }

    /// How many findings are of this severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings()
            .filter(|(_, problem)| problem.severity == severity)
            .count()
    }

    fn findings(&self) -> impl Iterator<Item = (Option<&Path>, &Problem)> {
        self.lines.iter().filter_map(|line| match line {
            Line::Finding(file, problem) => Some((file.as_deref(), problem)),
            Line::Plain(_) => None,
        })
    }

    /// All of it.
    pub fn render(&self, format: Format) -> String {
        match format {
            Format::Text => {
                self.text(io::stdout().is_terminal() && env::var_os("NO_COLOR").is_none())
            }
            Format::Json => format!("{:#}\n", self.json()),
        }
    }

    fn text(&self, coloured: bool) -> String {
        let mut text = String::new();
        for line in &self.lines {
            match line {
                Line::Plain(line) => text.push_str(line),
                Line::Finding(file, problem) => {
                    let severity = Coloured(problem.severity, coloured);
                    let _ = write!(text, "{severity}: ");
                    if let Some(file) = file {
                        let _ = write!(text, "{}: ", file.display());
                    }
                    if let Some(position) = problem.position {
                        let _ = write!(text, "{position}: ");
                    }
                    if let Some(entry) = &problem.entry {
                        let _ = write!(text, "entry {}: ", EntryName(entry));
                    }
                    let _ = write!(
                        text,
                        "{} [{}]\n  fix: {}",
                        problem.what, problem.code, problem.fix
                    );
                }
            }
            text.push('\n');
        }
        let (errors, warnings) = (self.count(Severity::Error), self.count(Severity::Warning));
        text.push_str(&match (errors, warnings) {
            (0, 0) => "no problems\n".to_owned(),
            _ => format!(
                "{}, {}\n",
                count(errors, "error", "errors"),
                count(warnings, "warning", "warnings")
            ),
        });
        for verdict in &self.verdicts {
            text.push_str(verdict);
            text.push('\n');
        }
        text
    }

    fn json(&self) -> Value {
        let findings = self.findings().map(|(file, problem)| {
            json!({
                "severity": problem.severity.to_string(),
                "code": problem.code,
                "file": file.map(|file| file.display().to_string()),
                "entry": problem.entry.as_deref().map(shown),
                "line": problem.position.map(|position| position.line),
                "column": problem.position.map(|position| position.column),
                "message": problem.what,
                "fix": problem.fix,
            })
        });
        let mut report = json!({
            "version": 1,
            "findings": findings.collect::<Vec<_>>(),
            "served": self.served,
        });
        if !self.images.is_empty() {
            report["images"] = json!(self.images);
        }
        report
    }
}

/// An entry's name as it stands in the file, unless it may be a value.
fn shown(entry: &str) -> String {
    match EntryName(entry).is_hidden() {
        true => EntryName(entry).to_string(),
        false => entry.to_owned(),
    }
}

/// A severity, in colour where that is wanted.
struct Coloured(Severity, bool);

impl fmt::Display for Coloured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let colour = match self.0 {
            Severity::Error => "1;31",
            Severity::Warning => "1;33",
            Severity::Note => "1;36",
        };
        match self.1 {
            true => write!(f, "\x1b[{colour}m{}\x1b[0m", self.0),
            false => self.0.fmt(f),
        }
    }
}
