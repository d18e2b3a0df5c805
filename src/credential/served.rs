// SPDX-License-Identifier: Apache-2.0

//! The credential of a snapshot, as it goes out.

use std::path::Path;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::credential::AuthFile;
use crate::credential::merge::{Merged, merge};
use crate::credential::repair::{Served, repair};
use crate::resource::name::{CREDENTIAL, Name};
use crate::resource::secret::Secret;
use crate::resource::snapshot::{FileState, Outcome, Resource, Share, Snapshot};

/// A credential that every client accepts, and finds no login in.
const EMPTY: &str = r#"{"auths":{}}"#;

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
/// nothing away from the others.
fn combine(credentials: &[Resource]) -> Option<Resource> {
    let (last, others) = credentials.split_last()?;
    if others.is_empty() {
        return Some(last.clone());
    }
    let parsed = credentials.iter().filter_map(|resource| {
        let file = AuthFile::parse(resource.value.as_ref().ok()?.expose()).ok()?;
        (file.is_readable() && !file.entries.is_empty()).then_some((resource, file))
    });
    let (with_entries, files): (Vec<_>, Vec<_>) = parsed.unzip();
    let Merged { text, parts } = merge(&files.iter().collect::<Vec<_>>());
    let shares = with_entries
        .iter()
        .zip(parts)
        .map(|(resource, part)| Share {
            file: Arc::clone(&resource.file),
            served: part.served,
            shadowed: part
                .shadowed
                .into_iter()
                .filter_map(|(key, by)| Some((key, Arc::clone(&with_entries.get(by)?.file))))
                .collect(),
        });
    let shares: Vec<_> = shares.collect();
    let mut counting = with_entries
        .iter()
        .zip(&shares)
        .filter(|(_, share)| !share.served.is_empty())
        .map(|(resource, _)| *resource);
    let Some(first) = counting.next() else {
        let usable = credentials.iter().rfind(|resource| resource.value.is_ok());
        return Some(usable.unwrap_or(last).clone());
    };
    let more: Vec<_> = counting.collect();
    let mut resource = more.last().unwrap_or(&first).to_owned().clone();
    let mut outcome = resource.outcome.take().unwrap_or_default();
    if !more.is_empty() {
        resource.value = Ok(Secret::new(text));
        let all = std::iter::once(first).chain(more);
        outcome.changes = all.flat_map(changes_with_file).collect();
    }
    if with_entries.len() > 1 {
        outcome.shares = shares;
    }
    resource.outcome = Some(outcome);
    Some(resource)
}

/// The changes to a credential, each with its file.
fn changes_with_file(resource: &Resource) -> impl Iterator<Item = String> {
    let file = resource.file.display();
    let changes = resource.changes().iter();
    changes.map(move |change| format!("{file}: {change}"))
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
            "got a credential that it rejects as a whole (--repair-credential is off): it pulls \
             anonymously, and private images fail with \"Not authorized\""
                .to_owned(),
        )),
    }
}

/// Whether there is no credential on purpose, and not for a file that can't be read now: clients keep
/// what they get.
fn is_unconfigured(snapshot: &Snapshot) -> bool {
    let failed = |state: &FileState| matches!(state, FileState::Failed { .. });
    !snapshot.files.iter().any(|file| failed(&file.state))
}
