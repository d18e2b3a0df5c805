// SPDX-License-Identifier: Apache-2.0

//! What is wrong with the content of resources, beyond their file's form; for `check` and for the log.

use offline_fs_kbc::credential::{self, AuthFile};
use offline_fs_kbc::resource::name::{CREDENTIAL, Name};
use offline_fs_kbc::resource::store::{FileState, Resource, Snapshot};
use offline_fs_kbc::rpc::getresource::answer_bytes;
use offline_fs_kbc::server::limits::MAX_MESSAGE_BYTES;
use offline_fs_kbc::text::{EntryName, count};

/// What is wrong with the content of the resources, a sentence each; it begins with the file.
pub fn of_content(snapshot: &Snapshot) -> Vec<String> {
    let mut findings = Vec::new();
    for (name, resource) in &snapshot.resources {
        let Ok(value) = &resource.value else { continue };
        let file = resource.file.display();
        let size = answer_bytes(value.len());
        if size > MAX_MESSAGE_BYTES as u64 {
            findings.push(format!(
                "{file}: entry {}: an answer of {size} bytes, over ttrpc's cap of \
                 {MAX_MESSAGE_BYTES}, can't be sent; make the resource smaller",
                EntryName(name.as_str())
            ));
        }
        if is_credential(name) {
            let lint = credential::lint(value.expose());
            findings.extend(
                lint.iter()
                    .map(|what| format!("{file}: entry {}: {what}", EntryName(name.as_str()))),
            );
        }
    }
    findings
}

/// What is no mistake for certain, and yet may be why a pull fails; a sentence each.
pub fn notes(snapshot: &Snapshot) -> Vec<String> {
    let other = snapshot
        .resources
        .iter()
        .filter(|(name, _)| matches!(name, Name::Other(_)));
    let mut notes: Vec<_> = other
        .map(|(name, resource)| {
            let (file, name) = (resource.file.display(), EntryName(name.as_str()));
            format!("{file}: entry {name}: no client can ask for a resource of this name, only for a key")
        })
        .collect();
    if !snapshot.resources.keys().any(is_credential) {
        notes.push(format!(
            "no credential ({CREDENTIAL}): clients pull anonymously; write one with `pack`"
        ));
    }
    notes
}

/// How a resource stands, in a few words.
pub fn describe(name: &Name, resource: &Resource) -> String {
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
    let credential = snapshot
        .resources
        .iter()
        .find(|(name, _)| is_credential(name));
    let credential = match credential.map(|(_, resource)| &resource.value) {
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

fn registries(credential: &[u8]) -> String {
    match AuthFile::parse(credential) {
        Ok(file) => count(file.entries.len(), "registry", "registries"),
        Err(_) => "not an auth.json".to_owned(),
    }
}
