// SPDX-License-Identifier: Apache-2.0

//! What is wrong with the content of resources, beyond their file's form: what each means for a pull, and
//! what repairs it. No finding holds a part of a value.

#[cfg(feature = "tools")]
pub mod component;
pub mod credential;
#[cfg(feature = "tools")]
mod keys;
pub mod policy;
#[cfg(feature = "tools")]
pub mod registries;
pub mod registry;
pub mod signing;

use std::path::Path;

use crate::resource::name::{CREDENTIAL, Name};
use crate::resource::problem::{Problem, Severity};
use crate::resource::snapshot::Snapshot;
use crate::text::EntryName;

/// The largest resource that clients can take: what ttrpc carries in one message, less the twelve bytes that go
/// around it.
pub const MAX_RESOURCE_BYTES: usize = (4 << 20) - 12;

/// What is wrong with one resource. `others` gives the resources that there are beside it, `repairs` tells whether
/// the daemon repairs a credential.
pub fn resource(
    name: &Name,
    bytes: &[u8],
    others: &policy::Resources<'_>,
    repairs: bool,
) -> Vec<Problem> {
    let mut found = Vec::new();
    if bytes.len() > MAX_RESOURCE_BYTES {
        found.push(Problem::of_file(
            Severity::Error,
            "too-large",
            format!(
                "{} bytes, over the {MAX_RESOURCE_BYTES} that ttrpc can carry (4 MiB with what goes \
                 around them); every request for it is refused",
                bytes.len()
            ),
            "make the resource smaller",
        ));
    }
    if bytes.is_empty() {
        // Reported as empty, which is all there is to say.
        return found;
    }
    found.extend(match name.as_str() {
        CREDENTIAL => credential::lint(bytes, repairs),
        "default/security-policy/test" => policy::lint(bytes, others),
        #[cfg(feature = "tools")]
        "default/sigstore-config/test" => match std::str::from_utf8(bytes) {
            Ok(text) => registries::sigstore(text),
            Err(_) => signing::sigstore(bytes),
        },
        #[cfg(not(feature = "tools"))]
        "default/sigstore-config/test" => signing::sigstore(bytes),
        "default/gpg-public-config/test" => signing::gpg(bytes),
        "default/cosign-public-key/test" => signing::cosign(bytes),
        _ => Vec::new(),
    });
    found
}

/// What is wrong with all resources of a snapshot: the file, and the problem, which names the entry. `repairs`
/// tells whether the daemon repairs a credential.
pub fn snapshot(snapshot: &Snapshot, repairs: bool) -> Vec<(&Path, Problem)> {
    let others = |name: &Name| {
        let resource = snapshot.resources.get(name)?;
        // One that is broken has a finding of its own.
        Some(
            resource
                .value
                .as_ref()
                .map_or(&[][..], |value| value.expose()),
        )
    };
    let mut found = Vec::new();
    for (name, resource) in &snapshot.resources {
        // Each file's own credential, and not what was made of them.
        let own = match name.as_str() {
            CREDENTIAL => &snapshot.credentials[..],
            _ => std::slice::from_ref(resource),
        };
        for resource in own {
            let Ok(value) = &resource.value else { continue };
            for problem in self::resource(name, value.expose(), &others, repairs) {
                found.push((&*resource.file, within(problem, name)));
            }
        }
    }
    found
}

/// The same problem as one of an entry of a resources file: what was an entry there is a part here.
pub fn within(problem: Problem, name: &Name) -> Problem {
    let what = match &problem.entry {
        Some(part) => format!("registry {}: {}", EntryName(part), problem.what),
        None => problem.what,
    };
    Problem {
        entry: Some(name.as_str().to_owned()),
        position: None,
        what,
        ..problem
    }
}
