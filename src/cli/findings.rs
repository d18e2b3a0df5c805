// SPDX-License-Identifier: Apache-2.0

//! What is wrong with the content of resources, beyond their file's form; for `check` and for the log.

use std::path::PathBuf;

use offline_fs_kbc::credential::{self, AuthFile};
use offline_fs_kbc::lint;
use offline_fs_kbc::resource::name::{CREDENTIAL, Name};
use offline_fs_kbc::resource::problem::{CREDENTIAL_REFUSED, Problem, Severity};
use offline_fs_kbc::resource::snapshot::{FileState, Resource, Snapshot};
use offline_fs_kbc::text::{EntryName, count};

/// What is wrong with the content of the resources, a sentence each; it begins with the file. `repairs` tells
/// whether the credential was to be repaired.
pub fn of_content(snapshot: &Snapshot, repairs: bool) -> Vec<(Severity, String)> {
    let found = lint::snapshot(snapshot, repairs).into_iter();
    let mut findings: Vec<_> = found
        .map(|(file, problem)| (problem.severity, format!("{}: {problem}", file.display())))
        .collect();
    for resource in &snapshot.credentials {
        let place = || format!("{}: entry {CREDENTIAL:?}", resource.file.display());
        for change in resource.changes() {
            let what = format!("{}: repaired before it is served: {change}", place());
            findings.push((Severity::Warning, what));
        }
        if let (Err(reason), Some(_)) = (&resource.value, resource.consequence()) {
            let what = format!(
                "{}: {reason}; {}; {}",
                place(),
                refused(snapshot),
                credential::FIX
            );
            findings.push((Severity::Error, what));
        }
    }
    let shares = shares(snapshot).map(|share| (Severity::Note, format!("credential: {share}")));
    findings.extend(shares);
    findings
}

/// What becomes of a credential that is refused.
fn refused(snapshot: &Snapshot) -> &'static str {
    match credential(snapshot).is_some_and(|resource| resource.value.is_ok()) {
        true => "it is left out of what is served",
        false => CREDENTIAL_REFUSED,
    }
}

/// What each file contributes to the credential, if several were merged.
pub fn shares(snapshot: &Snapshot) -> impl Iterator<Item = &String> {
    credential(snapshot).into_iter().flat_map(Resource::shares)
}

/// The credential that is served.
fn credential(snapshot: &Snapshot) -> Option<&Resource> {
    snapshot.resources.get(&Name::Path(CREDENTIAL.into()))
}

/// The problem of a whole file, with what it means.
pub fn of_whole_file(problem: Problem) -> Problem {
    Problem {
        what: format!(
            "{}; nothing of it is served (a running daemon goes on with the last good version)",
            problem.what
        ),
        ..problem
    }
}

/// What is no mistake for certain, and yet may be why a pull fails: the file, if it is about one, and the
/// problem.
pub fn notes(snapshot: &Snapshot) -> Vec<(Option<PathBuf>, Problem)> {
    let other = snapshot
        .resources
        .iter()
        .filter(|(name, _)| matches!(name, Name::Other(_)));
    let mut notes: Vec<_> = other
        .map(|(name, resource)| {
            let note = Problem::of_file(
                Severity::Note,
                "name-unasked",
                "clients ask for resources as <repository>/<type>/<tag>; this name can only be the id of a key",
                "if clients are to ask for it, name it <repository>/<type>/<tag>",
            );
            let note = note.about_entry(name.as_str(), None);
            (Some(resource.file.to_path_buf()), note)
        })
        .collect();
    if credential(snapshot).is_none() {
        notes.push((None, no_credential()));
    }
    notes
}

fn no_credential() -> Problem {
    Problem::of_file(
        Severity::Note,
        "credential-missing",
        format!(
            "no credential ({CREDENTIAL}): guest-pull and kata-agents before 3.8 pull anonymously, those of 3.8 to \
             3.17 that ask for one pull no image"
        ),
        "write one with `offline-fs-kbc pack --credential auth.json`",
    )
}

/// The line of a list that tells how a resource stands.
pub fn line(name: &Name, resource: &Resource) -> String {
    let old = if resource.old { name.old() } else { None };
    let old = old.map(|old| format!(" (as {old})")).unwrap_or_default();
    let state = describe(name, resource);
    let name = match name {
        Name::Path(path) if !EntryName(path).is_hidden() => name.to_string(),
        name => EntryName(name.as_str()).to_string(),
    };
    format!("  {name}{old}: {state}")
}

/// How a resource stands, in a few words.
fn describe(name: &Name, resource: &Resource) -> String {
    match &resource.value {
        Ok(value) if is_credential(name) => {
            format!("{}, {}", bytes(value.len()), registries(value.expose()))
        }
        Ok(value) => bytes(value.len()),
        Err(_) => "broken".to_owned(),
    }
}

/// What is served, in one line: what `systemctl status` shows. `content` is how many problems
/// [`of_content`] found.
pub fn summary(snapshot: &Snapshot, content: usize) -> String {
    let usable = snapshot
        .resources
        .values()
        .filter(|r| r.value.is_ok())
        .count();
    let credential = match credential(snapshot).map(|resource| &resource.value) {
        None => "none".to_owned(),
        Some(Err(_)) => "broken".to_owned(),
        Some(Ok(value)) => registries(value.expose()),
    };
    let mut text = format!(
        "serving {}; credential: {credential}",
        count(usable, "resource", "resources")
    );
    let problems = of_files(snapshot) + content;
    if problems > 0 {
        text.push_str(&format!(
            "; {}, see the log",
            count(problems, "problem", "problems")
        ));
    }
    text
}

/// How many problems the files have, by their form.
pub fn of_files(snapshot: &Snapshot) -> usize {
    let problems = snapshot.files.iter().map(|file| match &file.state {
        FileState::Absent => 0,
        FileState::Loaded { problems, .. } => problems.len(),
        FileState::Failed { .. } => 1,
    });
    problems.sum()
}

fn bytes(length: usize) -> String {
    count(length, "byte", "bytes")
}

fn is_credential(name: &Name) -> bool {
    name.as_str() == CREDENTIAL
}

/// How many registries a credential has.
pub fn registries(credential: &[u8]) -> String {
    match AuthFile::parse(credential) {
        Ok(file) => count(file.entries.len(), "registry", "registries"),
        Err(_) => "not an auth.json".to_owned(),
    }
}
