// SPDX-License-Identifier: Apache-2.0

//! The credential of a snapshot, as it goes out.

use std::path::Path;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::credential::AuthFile;
use crate::credential::repair::{Served, repair};
use crate::resource::name::{CREDENTIAL, Name};
use crate::resource::secret::Secret;
use crate::resource::snapshot::{FileState, Outcome, Resource, Snapshot};

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
    /// Prepares the credential of a snapshot.
    pub fn apply(self, snapshot: &mut Snapshot) {
        let name = Name::Path(CREDENTIAL.into());
        let is_unconfigured = is_unconfigured(snapshot);
        match snapshot.resources.get_mut(&name) {
            Some(resource) => self.deliver(resource),
            None if self.empty && is_unconfigured => {
                let mut resource = Resource {
                    value: Ok(Secret::new(Zeroizing::new(EMPTY.as_bytes().to_vec()))),
                    file: Arc::from(Path::new("--empty-credential")),
                    old: false,
                    outcome: None,
                };
                self.deliver(&mut resource);
                snapshot.resources.insert(name, resource);
            }
            None => {}
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
                changes: Vec::new(),
                consequence: consequence(value.expose()),
            },
            Served::Repaired { text, changes } => {
                let consequence = consequence(&text);
                resource.value = Ok(Secret::new(text));
                Outcome {
                    changes,
                    consequence,
                }
            }
            Served::Refused(reason) => {
                resource.value = Err(reason.as_str().into());
                Outcome {
                    changes: Vec::new(),
                    consequence: Some((true, reason)),
                }
            }
        };
        resource.outcome = Some(Box::new(outcome));
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
