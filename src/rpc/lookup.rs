// SPDX-License-Identifier: Apache-2.0

//! Looks up resources and keys; the error is the status of the refusal.

use std::sync::Arc;

use crate::keyprovider::KEY_BYTES;
use crate::resource::name::{CREDENTIAL, Name};
use crate::resource::secret::Secret;
use crate::resource::snapshot::{FileState, FileStatus, Resource, Snapshot};
use crate::rpc::status;
use crate::server::method::{Consequence, Notes, Result, Subject};

/// How a line of the log begins, after the client.
const ASKED: &str = "asked for the credential and";

/// What a client does without a usable credential depends on its age, which its socket tells.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// `getresource.sock`: kata-agents of 2023. They go on without a login.
    Of2023,
    /// `cdh.sock`: kata-agents since then, which ask only where their configuration says so, and guest-pull. What they do
    /// differs by version, and by what they are told.
    Later,
}

impl Client {
    /// What it does; `is_missing` is whether it was told that there is none, `is_warning` whether there should be one.
    fn goes_on(self, is_missing: bool, is_warning: bool) -> &'static str {
        match (self, is_missing, is_warning) {
            (Self::Later, true, _) => {
                "guest-pull and kata-agents before 3.8 then pull anonymously, those of 3.8 to 3.17 pull no image, not even a \
                 public one"
            }
            (Self::Later, false, _) => {
                "kata-agents before 3.8 then pull anonymously, those of 3.8 to 3.17 and guest-pull pull no image, not even a \
                 public one"
            }
            (Self::Of2023, _, true) => {
                "a kata-agent of 2023 then pulls anonymously, and private images fail with \"Not authorized\""
            }
            (Self::Of2023, _, false) => {
                "a kata-agent of 2023 then pulls anonymously, which is enough for public images"
            }
        }
    }
}

/// Parses the name in a request, and notes it for the log.
pub fn name(text: &str, notes: &mut Notes) -> Result<Name> {
    let name = Name::parse(text).map_err(|error| {
        notes.subject = Subject::Quoted(text.into());
        status::invalid_argument(error)
    })?;
    notes.subject = match &name {
        Name::Path(path) => Subject::Name(Arc::clone(path)),
        Name::Other(other) => Subject::Quoted(Arc::clone(other)),
    };
    Ok(name)
}

/// The resource of this name; never a key.
pub fn resource(snapshot: &Snapshot, name: &Name) -> Result<Secret> {
    match (name, snapshot.resources.get(name)) {
        (Name::Path(_), Some(resource)) => usable(name, resource),
        _ => Err(status::not_found(name, snapshot)),
    }
}

/// The resource of this name, or else the key of this name: only for a daemon that exposes keys.
pub fn resource_or_key(snapshot: &Snapshot, name: &Name) -> Result<Secret> {
    match (
        snapshot.resources.contains_key(name),
        snapshot.keys.get(name),
    ) {
        (false, Some(key)) => usable(name, key),
        _ => resource(snapshot, name),
    }
}

/// The key of this id: from a keys file, or else a resource that is as long as a key.
pub fn key(snapshot: &Snapshot, kid: &str) -> Result<Secret> {
    // A key's id may be a text that is not a valid name, such as a plugin's.
    let name = Name::parse(kid).unwrap_or_else(|_| Name::Other(kid.into()));
    if let Some(key) = snapshot.keys.get(&name) {
        return usable(&name, key);
    }
    let Some(resource) = snapshot.resources.get(&name) else {
        return Err(status::key_not_found(&name, snapshot));
    };
    let secret = usable(&name, resource)?;
    match secret.len() {
        KEY_BYTES => Ok(secret),
        length => {
            let file = resource.file.display();
            Err(status::failed_precondition(format_args!(
                "{name} in {file} is not a key: it has {length} bytes, a key has {KEY_BYTES}"
            )))
        }
    }
}

/// Runs `find`. If the request is for the credential, notes for the log what the result makes the client do,
/// since not every client logs that.
pub fn with_consequence(
    client: Client,
    name: &Name,
    snapshot: &Snapshot,
    notes: &mut Notes,
    find: impl FnOnce() -> Result<Secret>,
) -> Result<Secret> {
    let result = find();
    if name.as_str() == CREDENTIAL {
        notes.consequence = match &result {
            Err(status) => Some(without_credential(client, status, snapshot)),
            Ok(_) => {
                let resource = snapshot.resources.get(name);
                let consequence = resource.and_then(|resource| resource.consequence().cloned());
                consequence.map(|(is_warning, what)| Consequence {
                    text: match is_warning {
                        true => format!("{ASKED} {what}: {}", client.goes_on(false, true)),
                        false => format!("{ASKED} {what}"),
                    },
                    is_warning,
                })
            }
        };
    }
    result
}

/// What a client does that gets no credential. A missing one is normal for the clients of 2023, which ask before they
/// pull public images too.
fn without_credential(client: Client, status: &ttrpc::Status, snapshot: &Snapshot) -> Consequence {
    let failed = |file: &FileStatus| matches!(file.state, FileState::Failed { .. });
    let is_missing = status.code() == ttrpc::Code::NOT_FOUND;
    let is_warning = client == Client::Later || !is_missing || snapshot.files.iter().any(failed);
    Consequence {
        text: format!(
            "{ASKED} got {:?}: {}: {}",
            status.code(),
            status.message,
            client.goes_on(is_missing, is_warning)
        ),
        is_warning,
    }
}

fn usable(name: &Name, resource: &Resource) -> Result<Secret> {
    resource.value.clone().map_err(|reason| {
        let file = resource.file.display();
        status::failed_precondition(format_args!("{name} in {file} is broken: {reason}"))
    })
}
