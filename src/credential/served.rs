// SPDX-License-Identifier: Apache-2.0

//! The credential of a snapshot, as it goes out.

use std::path::Path;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::credential::AuthFile;
use crate::credential::merge::{Merged, merge};
use crate::resource::name::{CREDENTIAL, Name};
use crate::resource::repair::{Served, repair};
use crate::resource::secret::Secret;
use crate::resource::snapshot::{FileState, Outcome, Resource, Snapshot};
use crate::text::RegistryName;

/// A credential that every client accepts, and finds no login in.
const EMPTY: &str = r#"{"auths":{}}"#;

/// How many registries are named in a line about what a file contributes: what a person reads.
const NAMED_REGISTRIES: usize = 20;

/// What is done with the credential before it is served.
#[derive(Clone, Copy, Debug)]
pub struct Delivery {
    /// One that clients would reject is repaired, or refused if it can't be.
    pub repair: bool,
    /// Where none is configured, one without registries is served.
    pub empty: bool,
}

impl Delivery {
    /// Prepares the credential of a snapshot: those of its files are repaired, and merged if there are several.
    pub fn apply(self, snapshot: &mut Snapshot) {
        for credential in &mut snapshot.credentials {
            self.deliver(credential);
        }
        let name = Name::Path(CREDENTIAL.into());
        if let Some(resource) = combine(&snapshot.credentials) {
            snapshot.resources.insert(name, resource);
        } else if self.empty && is_unconfigured(snapshot) {
            let mut resource = Resource {
                value: Ok(Secret::new(Zeroizing::new(EMPTY.as_bytes().to_vec()))),
                file: Arc::from(Path::new("--empty-credential")),
                old: false,
                outcome: None,
            };
            self.deliver(&mut resource);
            snapshot.resources.insert(name, resource);
        }
    }

    fn deliver(self, resource: &mut Resource) {
        let Ok(value) = &resource.value else { return };
        let served = if self.repair {
            repair(value.expose())
        } else {
            Served::Untouched
        };
        let outcome = match served {
            Served::Untouched => Outcome {
                consequence: consequence(value.expose()),
                ..Outcome::default()
            },
            Served::Repaired { text, changes } => {
                let consequence = consequence(&text);
                resource.value = Ok(Secret::new(text));
                Outcome {
                    changes,
                    consequence,
                    ..Outcome::default()
                }
            }
            Served::Refused(reason) => {
                resource.value = Err(reason.as_str().into());
                Outcome {
                    consequence: Some((true, reason)),
                    ..Outcome::default()
                }
            }
        };
        resource.outcome = Some(Box::new(outcome));
    }
}

/// What is served of the credentials of several files, lowest precedence first.
///
/// If only one of them has entries that count, it is served byte for byte. One that is empty or can't be used takes
/// nothing away from the others. If none has entries, and one can't be used, requests are refused.
fn combine(credentials: &[Resource]) -> Option<Resource> {
    let last = credentials.last()?;
    let mut sources = Vec::new();
    for resource in credentials {
        let Ok(value) = &resource.value else { continue };
        match AuthFile::parse(value.expose()) {
            Ok(file) if file.is_readable() && !file.entries.is_empty() => {
                sources.push((resource, file));
            }
            _ => {}
        }
    }
    if sources.len() < 2 {
        let alone = sources.first().map(|(resource, _)| *resource);
        // An empty one must not hide that another is broken: clients keep what they get.
        let broken = || credentials.iter().rfind(|resource| resource.value.is_err());
        return alone.or_else(broken).or(Some(last)).cloned();
    }
    let files: Vec<_> = sources.iter().map(|(_, file)| file).collect();
    let Merged { text, parts } = merge(&files);
    let mut counting = 0;
    let mut merged = last.clone();
    let mut outcome = Outcome::default();
    for ((resource, _), part) in sources.iter().zip(parts) {
        if !part.served.is_empty() {
            counting += 1;
            merged = (*resource).clone();
            let file = resource.file.display();
            let changes = resource.changes().iter();
            let changes = changes.map(|change| format!("{file}: {change}"));
            outcome.changes.extend(changes);
        }
        let mut share = format!("{}: ", resource.file.display());
        list(&mut share, part.served.iter());
        for (by, (later, _)) in sources.iter().enumerate() {
            let mut keys = part.shadowed.iter().filter(|(_, other)| *other == by);
            if keys.clone().next().is_some() {
                share.push_str("; overridden by ");
                share.push_str(&later.file.to_string_lossy());
                share.push_str(": ");
                list(&mut share, keys.by_ref().map(|(key, _)| key));
            }
        }
        outcome.shares.push(share);
    }
    if counting > 1 {
        merged.value = Ok(Secret::new(text));
    }
    merged.outcome = Some(Box::new(outcome));
    Some(merged)
}

/// Adds the names of registries to a text.
fn list<'k>(text: &mut String, keys: impl Iterator<Item = &'k String>) {
    let mut count = 0;
    for key in keys {
        count += 1;
        if count <= NAMED_REGISTRIES {
            text.push_str(if count > 1 { ", " } else { "" });
            text.push_str(&RegistryName(key).to_string());
        }
    }
    match count {
        0 => text.push_str("nothing"),
        count if count > NAMED_REGISTRIES => {
            text.push_str(&format!(" and {} more", count - NAMED_REGISTRIES));
        }
        _ => {}
    }
}

/// What a client makes of a credential that it gets.
fn consequence(text: &[u8]) -> Option<(bool, String)> {
    match AuthFile::parse(text) {
        Ok(file) if file.entries.is_empty() => Some((
            false,
            "got a credential without registries: it pulls anonymously".to_owned(),
        )),
        Ok(file) if file.is_readable() => None,
        _ => Some((
            true,
            "got a credential that it rejects as a whole (--repair-credential is off)".to_owned(),
        )),
    }
}

/// Whether there is no credential on purpose, and not for a file that can't be read now: clients keep
/// what they get.
fn is_unconfigured(snapshot: &Snapshot) -> bool {
    let failed = |state: &FileState| matches!(state, FileState::Failed { .. });
    !snapshot.files.iter().any(|file| failed(&file.state))
}
