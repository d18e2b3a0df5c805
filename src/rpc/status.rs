// SPDX-License-Identifier: Apache-2.0

//! The statuses of refused requests. guest-pull alone looks at the code. The text is what a person sees: kata-agents from
//! 3.8 on put it into the pod's event, those of 2023 log it at trace.

use std::fmt::{self, Write as _};

use ttrpc::{Code, Status, get_status};

use crate::resource::name::Name;
use crate::resource::snapshot::{FileState, Snapshot};
use crate::text::{EntryName, Escaped};

/// How many existing names a refusal lists.
const LISTED_NAMES: usize = 20;

/// The longest list of names, in bytes: a refusal should fit a line of a log.
const LISTED_BYTES: usize = 1024;

/// An INVALID_ARGUMENT with this text.
pub fn invalid_argument(text: impl fmt::Display) -> Status {
    refuse(Code::INVALID_ARGUMENT, text)
}

/// A FAILED_PRECONDITION with this text.
pub fn failed_precondition(text: impl fmt::Display) -> Status {
    refuse(Code::FAILED_PRECONDITION, text)
}

/// An UNIMPLEMENTED with this text.
pub fn unimplemented(text: impl fmt::Display) -> Status {
    refuse(Code::UNIMPLEMENTED, text)
}

/// A NOT_FOUND with this text.
pub fn absent(text: impl fmt::Display) -> Status {
    refuse(Code::NOT_FOUND, text)
}

/// The same status, with `what` before its text.
pub fn about(what: &str, status: Status) -> Status {
    refuse(status.code(), format_args!("{what}: {}", status.message))
}

/// A NOT_FOUND for a key, with a list of the existing ids.
pub fn key_not_found(kid: &Name, snapshot: &Snapshot) -> Status {
    let known = snapshot.keys.keys().map(Name::as_str);
    let known: Vec<_> = known
        .filter(|id| !EntryName(id).is_hidden())
        .map(Escaped)
        .collect();
    refuse(
        Code::NOT_FOUND,
        match known[..] {
            [] => format!("no key {kid}; the keys file has no keys, and there is no such resource"),
            _ => format!("no key {kid}; the keys file has: {}", list(&known)),
        },
    )
}

/// A NOT_FOUND for a resource, with a list of the existing names.
pub fn not_found(name: &Name, snapshot: &Snapshot) -> Status {
    let mut text = format!("no resource {name}");
    match (name, name.old()) {
        (Name::Other(_), _) => text.push_str(" (a name is <repository>/<type>/<tag>)"),
        (Name::Path(_), Some(old)) => {
            let _ = write!(text, " (old name: {old})");
        }
        (Name::Path(_), None) => {}
    }
    if snapshot.keys.contains_key(name) {
        text.push_str("; it is a key in the keys file, and keys are not served as resources");
    }
    if snapshot.resources.is_empty() {
        text.push_str("; no resources are configured: ");
        let files = snapshot.files.iter().map(|file| {
            let path = file.source.path.display();
            match &file.state {
                FileState::Absent => format!("{path} is absent"),
                FileState::Loaded { .. } => format!("{path} has no usable entry"),
                FileState::Failed { problem, .. } => format!("{path}: {}", problem.what),
            }
        });
        text.push_str(&list(&files.collect::<Vec<_>>()));
    } else {
        text.push_str("; the resources are: ");
        let names = snapshot.resources.keys().filter_map(|name| match name {
            // No client can ask for any other name, and a very long name may be a value in the wrong place.
            Name::Path(path) if !EntryName(path).is_hidden() => Some(Escaped(path)),
            _ => None,
        });
        text.push_str(&list(&names.collect::<Vec<_>>()));
    }
    refuse(Code::NOT_FOUND, text)
}

fn refuse(code: Code, text: impl fmt::Display) -> Status {
    get_status(code, text.to_string())
}

/// Joins the first items, as many as fit.
fn list<T: fmt::Display>(items: &[T]) -> String {
    let all = items.len();
    let mut text = String::new();
    for (listed, item) in items.iter().enumerate() {
        let item = item.to_string();
        let more = format!(" and {} more", all - listed);
        if listed == LISTED_NAMES || text.len() + item.len() + 2 + more.len() > LISTED_BYTES {
            text.push_str(&more);
            break;
        }
        if listed > 0 {
            text.push_str(", ");
        }
        text.push_str(&item);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// However many names there are, the list stays short and says how many are left out.
    #[test]
    fn lists_are_bounded() {
        let names: Vec<_> = (0..30).map(|n| format!("a/b/{n:02}")).collect();
        let text = list(&names);
        assert!(text.starts_with("a/b/00, a/b/01"));
        assert!(text.ends_with("a/b/19 and 10 more"), "{text}");
        let long = vec!["x".repeat(200); 30];
        let text = list(&long);
        assert!(
            text.len() <= LISTED_BYTES && text.ends_with(" and 25 more"),
            "{text}"
        );
        assert_eq!(list(&[""; 0]), "");
    }
}
