// SPDX-License-Identifier: Apache-2.0

//! Initdata of Confidential Containers, which gives a VM its `aa.toml`, `cdh.toml` and `policy.rego`: the TOML file,
//! and what the pod's annotation has of it, base64 of its gzip.
//!
//! The format is in the Trustee project's `kbs/docs/initdata.md`; what kata-agent and the runtimes make of it was read
//! in kata-containers 7c6ba40c (August 2026).

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use thiserror::Error;
use zeroize::Zeroizing;

use crate::encoding::{Gunzip, gunzip, is_gzip};
use crate::json::{Places, Position};
use crate::lint::component;
use crate::resource::problem::{Problem, Severity};
use crate::text::EntryName;
use crate::toml;
use common::base64 as encoded;

/// The largest initdata that is read. The policies that genpolicy writes have some hundred KiB.
pub const MAX_BYTES: usize = 4 << 20;

/// The annotations whose value is initdata: today's, and the one until August 2025.
pub const ANNOTATIONS: [&str; 2] = [
    "io.katacontainers.config.hypervisor.cc_init_data",
    "io.katacontainers.config.runtime.cc_init_data",
];

/// The one version of the format that there is.
const VERSION: &str = "0.1.0";

/// The digests that a VM can be bound to its initdata by.
const ALGORITHMS: [&str; 3] = ["sha256", "sha384", "sha512"];

/// The files that kata-agent takes out of it.
const FILES: [&str; 3] = ["aa.toml", "cdh.toml", "policy.rego"];

/// How to write it for the annotation.
const ENCODE: &str = "`gzip <initdata.toml | base64 -w 0`";

/// In which form it is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The TOML file.
    Toml,
    /// Its gzip.
    Gzip,
    /// Base64 of its gzip, as the annotation has it.
    Annotation,
    /// Base64 of the TOML file, which the annotation had before 2025.
    Base64,
}

/// Initdata, taken out of what it is packed in.
pub struct Initdata {
    /// The form that it was in.
    pub form: Form,
    /// The TOML file.
    pub text: Zeroizing<String>,
    table: Result<BTreeMap<String, Value>, toml::Error>,
    problems: Vec<Problem>,
}

/// Why a file is not read as initdata.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// It is something else.
    #[error("not initdata")]
    NotInitdata,
    /// It is gzip, or base64 of gzip, that is cut off or damaged; whether it is initdata can't be known.
    #[error("gzip that is cut off or damaged")]
    BrokenGzip,
    /// It would be larger than this program reads.
    #[error("more than {MAX_BYTES} bytes, of which initdata never has as many")]
    TooLarge,
}

/// Takes initdata out of a file: in TOML, its gzip, or what the annotation has, with or without the annotation's name
/// before it.
///
/// # Errors
///
/// Where it is something else, or can't be unpacked.
pub fn read(bytes: &[u8]) -> Result<Initdata, Error> {
    if is_gzip(bytes) {
        return unzipped(bytes, Form::Gzip, Vec::new());
    }
    if bytes.len() > MAX_BYTES {
        return Err(Error::TooLarge);
    }
    let text = std::str::from_utf8(bytes).map_err(|_| Error::NotInitdata)?;
    if let Some(value) = annotation(text) {
        let mut problems = Vec::new();
        let decoded = encoded::decode(value).ok();
        if let Some(decoded) = decoded {
            if is_gzip(&decoded) {
                problems.extend(spelling(value));
                return unzipped(&decoded, Form::Annotation, problems);
            }
            if let Ok(initdata) = recognised(&decoded, Form::Base64, Vec::new()) {
                return Ok(initdata.with(Problem::of_file(
                    Severity::Warning,
                    "initdata-not-compressed",
                    "is base64 without gzip, which runtimes since 2025 refuse to start a pod with",
                    format!("compress it first: {ENCODE}"),
                )));
            }
        }
    }
    recognised(bytes, Form::Toml, Vec::new())
}

/// The annotation's value, where a text is nothing else.
fn annotation(text: &str) -> Option<&str> {
    let mut value = text.trim_ascii();
    for name in ANNOTATIONS {
        let rest = value.strip_prefix(['"', '\'']).unwrap_or(value);
        if let Some(rest) = rest.strip_prefix(name) {
            let rest = rest
                .strip_prefix(['"', '\''])
                .unwrap_or(rest)
                .trim_ascii_start();
            let rest = rest.strip_prefix([':', '=']).unwrap_or(rest).trim_ascii();
            value = rest.trim_matches(['"', '\'', ',']);
        }
    }
    let is_base64 = |byte: u8| {
        byte.is_ascii_alphanumeric() || byte.is_ascii_whitespace() || b"+/=-_".contains(&byte)
    };
    (!value.is_empty() && value.bytes().all(is_base64)).then_some(value)
}

/// What the runtimes say of base64 that is written otherwise than they want it.
fn spelling(value: &str) -> Option<Problem> {
    let has_breaks = value.contains(|c: char| c.is_ascii_whitespace());
    let dense: Zeroizing<String> = Zeroizing::new(value.split_ascii_whitespace().collect());
    let (severity, what) = match STANDARD.decode(&*dense).map(Zeroizing::new) {
        Err(_) => (
            Severity::Error,
            "is base64 in another alphabet or without padding; the runtime does not start the pod",
        ),
        Ok(_) if has_breaks => (
            Severity::Warning,
            "is base64 of several lines, which the runtime in Go takes and the one in Rust refuses",
        ),
        Ok(_) => return None,
    };
    let fix = format!("write it in one line: {ENCODE}");
    Some(Problem::of_file(severity, "initdata-base64", what, fix))
}

fn unzipped(bytes: &[u8], form: Form, problems: Vec<Problem>) -> Result<Initdata, Error> {
    match gunzip(bytes) {
        Ok(text) if text.len() > MAX_BYTES => Err(Error::TooLarge),
        Ok(text) => recognised(&text, form, problems),
        Err(Gunzip::TooLarge) => Err(Error::TooLarge),
        Err(Gunzip::Broken) => Err(Error::BrokenGzip),
    }
}

fn recognised(bytes: &[u8], form: Form, problems: Vec<Problem>) -> Result<Initdata, Error> {
    let text = std::str::from_utf8(bytes).map_err(|_| Error::NotInitdata)?;
    let table = toml::table(bytes, MAX_BYTES);
    let is_initdata = match &table {
        Ok(table) => {
            let of_data = |name: &str| {
                table
                    .get("data")
                    .is_some_and(|data| data.get(name).is_some())
            };
            let is_there = |name: &str| table.contains_key(name);
            FILES.iter().any(|name| of_data(name) || is_there(name))
                || (is_there("algorithm") && is_there("version"))
                || (is_there("data") && (is_there("algorithm") || is_there("version")))
        }
        Err(_) => looks_like(text),
    };
    match is_initdata {
        true => Ok(Initdata {
            form,
            text: Zeroizing::new(text.to_owned()),
            table,
            problems,
        }),
        false => Err(Error::NotInitdata),
    }
}

/// Whether a text that is no TOML was meant as initdata: by its lines.
fn looks_like(text: &str) -> bool {
    let begins = |name: &str| {
        text.lines().any(|line| {
            let line = line.trim_ascii_start();
            let rest = line.strip_prefix(['"', '\'']).unwrap_or(line);
            let rest = rest.strip_prefix(name).unwrap_or_default();
            let rest = rest.strip_prefix(['"', '\'']).unwrap_or(rest);
            rest.trim_ascii_start().starts_with('=')
        })
    };
    FILES.iter().any(|name| begins(name)) || (begins("algorithm") && begins("version"))
}

impl Initdata {
    fn with(mut self, problem: Problem) -> Self {
        self.problems.push(problem);
        self
    }

    /// A file in it, by its name.
    pub fn file(&self, name: &str) -> Option<&str> {
        let table = self.table.as_ref().ok()?;
        table.get("data")?.get(name)?.as_str()
    }

    /// What is wrong with it and with the files in it, which are the entries. Places are those of the TOML file, and
    /// are left out where that is packed.
    pub fn lint(&self) -> Vec<Problem> {
        let mut found = self.problems.clone();
        match &self.table {
            Ok(table) => {
                self.lint_head(table, &mut found);
                self.lint_files(table, &mut found);
            }
            Err(error) => found.push(unparsed(error)),
        }
        if self.form != Form::Toml {
            for problem in &mut found {
                problem.position = None;
            }
        }
        found
    }

    fn lint_head(&self, table: &BTreeMap<String, Value>, found: &mut Vec<Problem>) {
        const REFUSED: &str = "kata-agent refuses it, and the VM does not start";
        let mut add = |severity, code, key: &str, what: String, fix: String| {
            let problem = Problem::of_file(severity, code, what, fix);
            found.push(problem.about_entry(key, self.line_of(key)));
        };
        let text = |key: &str| table.get(key).and_then(Value::as_str);
        match text("algorithm") {
            Some(name) if ALGORITHMS.contains(&name) => {}
            name => {
                let what = match name {
                    Some(name) => format!("is {}", EntryName(name)),
                    None => "is missing, or not a string".to_owned(),
                };
                // Beside the case, people write SHA-384.
                let plain = name
                    .unwrap_or_default()
                    .to_ascii_lowercase()
                    .replace(['-', '_'], "");
                let known = ALGORITHMS.iter().find(|known| **known == plain);
                let fix = format!("write algorithm = \"{}\"", known.unwrap_or(&"sha384"));
                let what = format!(
                    "{what}, where {} are known; {REFUSED}",
                    ALGORITHMS.join(", ")
                );
                add(
                    Severity::Error,
                    "initdata-algorithm",
                    "algorithm",
                    what,
                    fix,
                );
            }
        }
        match text("version") {
            Some(VERSION) => {}
            version => {
                let what = match version {
                    Some(version) => format!("is {}", EntryName(version)),
                    None => "is missing, or not a string".to_owned(),
                };
                add(
                    Severity::Error,
                    "initdata-version",
                    "version",
                    format!("{what}, where {VERSION} is the one that there is; {REFUSED}"),
                    format!("write version = \"{VERSION}\""),
                );
            }
        }
        if !table.get("data").is_some_and(Value::is_object) {
            add(
                Severity::Error,
                "initdata-data",
                "data",
                format!("is missing, or not a table; {REFUSED}"),
                "write a line [data], and the files below it: \"cdh.toml\" = '''…'''".to_owned(),
            );
        }
        for key in table.keys() {
            match key.as_str() {
                "algorithm" | "version" | "data" => {}
                name if FILES.contains(&name) => add(
                    Severity::Error,
                    "initdata-misplaced",
                    name,
                    "stands outside of [data], where it has no effect".to_owned(),
                    "move it below the line [data]".to_owned(),
                ),
                name => add(
                    Severity::Warning,
                    "unknown-key",
                    name,
                    "is a key that initdata does not have; it is ignored".to_owned(),
                    "leave it out, or move it below the line [data] if it is a file".to_owned(),
                ),
            }
        }
    }

    fn lint_files(&self, table: &BTreeMap<String, Value>, found: &mut Vec<Problem>) {
        let Some(Value::Object(data)) = table.get("data") else {
            return;
        };
        for (name, value) in data {
            let mut add = |severity, code, what: &str, fix: &str| {
                let problem = Problem::of_file(severity, code, what, fix);
                found.push(problem.about_entry(name, self.line_of(name)));
            };
            let Value::String(text) = value else {
                // An unquoted key with a dot is a table in a table.
                let (what, fix) = match value {
                    Value::Object(_) => (
                        "is a table, where a file is a string; kata-agent refuses all of it, and the VM does not \
                         start",
                        "put the name into quotes: \"cdh.toml\" = '''…'''",
                    ),
                    _ => (
                        "is not a string; kata-agent refuses all of it, and the VM does not start",
                        "write the file's text between ''' and '''",
                    ),
                };
                add(Severity::Error, "initdata-data", what, fix);
                continue;
            };
            match name.as_str() {
                "aa.toml" => self.lint_inner(name, text, component::aa(text), found),
                "cdh.toml" => self.lint_inner(name, text, component::cdh(text), found),
                "policy.rego" => {
                    let is_package = |line: &str| {
                        let mut words = line.split_ascii_whitespace();
                        words.next() == Some("package") && words.next() == Some("agent_policy")
                    };
                    if !text.lines().any(is_package) {
                        add(
                            Severity::Error,
                            "agent-policy",
                            "has no line \"package agent_policy\", by which kata-agent finds its rules: it allows \
                             nothing",
                            "write package agent_policy at its beginning",
                        );
                    }
                }
                _ => add(
                    Severity::Note,
                    "initdata-file",
                    "is a file that kata-agent does not take out: it knows aa.toml, cdh.toml and policy.rego",
                    "look for a spelling mistake, unless something else in the VM reads initdata.toml",
                ),
            }
        }
    }

    /// The findings of a file in it, with the file's name before what they are about.
    fn lint_inner(&self, name: &str, text: &str, inner: Vec<Problem>, found: &mut Vec<Problem>) {
        let start = self.place_of(text);
        found.extend(inner.into_iter().map(|problem| {
            let position = match (problem.position, start) {
                (Some(position), Some(start)) => Some(position.within(start)),
                _ => self.line_of(name),
            };
            let entry = match &problem.entry {
                Some(entry) => format!("{name}: {entry}"),
                None => name.to_owned(),
            };
            problem.about_entry(entry, position)
        }));
    }

    /// Where a file's text stands, if it stands there as it is, and once.
    fn place_of(&self, text: &str) -> Option<Position> {
        let mut places = self.text.match_indices(text).filter(|_| !text.is_empty());
        let (at, _) = places.next().filter(|_| places.next().is_none())?;
        Some(Places::new(self.text.as_bytes()).at(at))
    }

    /// Where a key's line is, if just one begins so.
    fn line_of(&self, key: &str) -> Option<Position> {
        component::position_of(&self.text, key)
    }
}

fn unparsed(error: &toml::Error) -> Problem {
    let (severity, position, what, fix) = match error {
        toml::Error::Limit => (
            Severity::Note,
            None,
            "was not looked into: it is too large or too deeply nested for this check",
            "check it by eye",
        ),
        toml::Error::NotUtf8 => (
            Severity::Error,
            None,
            "is not UTF-8; the runtime does not start the pod",
            "save it as UTF-8",
        ),
        toml::Error::Syntax(position) => (
            Severity::Error,
            *position,
            "can't be parsed as TOML; the runtime does not start the pod",
            "correct it there; a file that has ''' in itself goes between \"\"\" and \"\"\", and one that has both can't be there",
        ),
    };
    let mut problem = Problem::of_file(severity, "initdata-toml", what, fix);
    problem.position = position;
    problem
}

#[cfg(test)]
mod tests;
