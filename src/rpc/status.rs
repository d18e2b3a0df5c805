// SPDX-License-Identifier: Apache-2.0

//! The statuses of refused requests. No client looks at the code, all log the text: it is what a
//! person sees.

use std::fmt::{self, Write as _};

use ttrpc::{Code, Status, get_status};

use crate::resource::name::Name;
use crate::resource::snapshot::{FileState, Snapshot};
use crate::text::{EntryName, Escaped};

/// How many existing names an answer lists.
const LISTED_NAMES: usize = 20;

/// The length of a list of names, in bytes: an answer should fit a line of a log.
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

/// The same status, its text saying what it is about.
pub fn about(what: &str, status: Status) -> Status {
    refuse(status.code(), format_args!("{what}: {}", status.message))
}

/// A NOT_FOUND for a key, with the ids that there are.
pub fn key_not_found(kid: &Name, snapshot: &Snapshot) -> Status {
    let known = snapshot.keys.keys().map(Name::as_str);
    let known: Vec<_> = known
        .filter(|id| !EntryName(id).is_hidden())
        .map(Escaped)
        .collect();
    refuse(
        Code::NOT_FOUND,
        match known[..] {
            [] => format!("no key {kid}; there is none in the keys file, and no such resource"),
            _ => format!("no key {kid}; the keys file has: {}", list(&known)),
        },
    )
}

/// A NOT_FOUND that names what was asked for, and what is there instead.
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
        text.push_str("; it is a key of the keys file, and keys are not handed out");
    }
    if snapshot.resources.is_empty() {
        text.push_str("; nothing is configured: ");
        let files = snapshot.files.iter().map(|file| {
            let path = file.source.path.display();
            match &file.state {
                FileState::Absent => format!("{path} is absent"),
                FileState::Loaded { .. } => format!("{path} has no usable name"),
                FileState::Failed { problem, .. } => format!("{path}: {}", problem.what),
            }
        });
        text.push_str(&list(&files.collect::<Vec<_>>()));
    } else {
        text.push_str("; there are: ");
        let names = snapshot.resources.keys().filter_map(|name| match name {
            // Any other name can't be asked for; a very long one may be a value in the wrong place.
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

/// The first items, as many as fit.
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

    /// However many names there are, the answer stays short and says how many it left out.
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
