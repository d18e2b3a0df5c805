// SPDX-License-Identifier: Apache-2.0

//! The entries of a file, and which of two entries with the same name is effective.

use crate::resource::name::Name;
use crate::resource::problem::Problem;
use crate::resource::secret::Secret;

/// The decoded bytes of an entry, or why it can't be served.
pub type Value = Result<Secret, Box<str>>;

/// One entry of a file.
pub struct Entry {
    /// Its name; for an old name, the path.
    pub name: Name,
    /// Its value.
    pub value: Value,
    /// Whether the file has it under its old name.
    pub old: bool,
}

/// The entries of a file.
#[derive(Default)]
pub struct Entries {
    /// Sorted by name. A name may have two entries: the one with the old name first, then the one with the
    /// path.
    list: Vec<Entry>,
    /// What is wrong with single entries.
    pub problems: Vec<Problem>,
    is_whole: bool,
}

impl Entries {
    /// A single resource.
    pub fn of_one(name: Name, value: Secret) -> Self {
        let entry = Entry {
            name,
            value: Ok(value),
            old: false,
        };
        Self {
            is_whole: true,
            ..Self::of_sorted(vec![entry], Vec::new())
        }
    }

    /// Whether the file is one resource, byte for byte.
    pub fn is_whole(&self) -> bool {
        self.is_whole
    }

    /// Entries that are already in the order of the list.
    pub(super) fn of_sorted(list: Vec<Entry>, problems: Vec<Problem>) -> Self {
        Self {
            list,
            problems,
            is_whole: false,
        }
    }

    /// All entries, sorted by name; an entry with the old name comes before the one with the path.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.list.iter()
    }

    /// The effective entry of each name: the one that is served if this file is the only one.
    pub fn effective(&self) -> impl Iterator<Item = &Entry> {
        let names = self.list.chunk_by(|a, b| a.name == b.name);
        names.filter_map(|same| effective(same, |entry| entry))
    }

    /// The effective entry of this name.
    pub fn get(&self, name: &Name) -> Option<&Entry> {
        effective(self.named(name), |entry| entry)
    }

    /// The entries of this name, the one with the old name first.
    pub(super) fn named(&self, name: &Name) -> &[Entry] {
        let first = self.list.partition_point(|entry| entry.name < *name);
        let rest = &self.list[first..];
        &rest[..rest.partition_point(|entry| entry.name == *name)]
    }

    /// The number of names.
    pub fn len(&self) -> usize {
        self.list.chunk_by(|a, b| a.name == b.name).count()
    }

    /// Whether there are no entries.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

/// The effective one of several entries with the same name, lowest precedence first: the last. But a broken
/// entry does not hide a good one under the other spelling of the name, if that is the last of its spelling.
pub(super) fn effective<T>(same: &[T], entry: impl Fn(&T) -> &Entry) -> Option<&T> {
    let last = same.last()?;
    if entry(last).value.is_ok() {
        return Some(last);
    }
    let mut others = same.iter().rev();
    let other = others.find(|other| entry(other).old != entry(last).old);
    let good = other.filter(|other| entry(other).value.is_ok());
    Some(good.unwrap_or(last))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::resource::file::Kind;
    use crate::resource::parse::parse_object;

    /// Each name has one effective entry, and looking the name up finds that entry.
    #[test]
    fn each_name_has_one_effective_entry() {
        let text = r#"{"b/c/d":"Yg==","Policy":"YQ==","default/security-policy/test":"!",
            "Credential":"YQ==","default/credential/test":"Yg==","a":"!"}"#;
        let entries = parse_object(text.as_bytes(), &Kind::Resources)
            .ok()
            .unwrap();
        let shown = |entry: &Entry| match &entry.value {
            Ok(value) => format!("{}={}", entry.name, value.expose().escape_ascii()),
            Err(_) => format!("{} is broken", entry.name),
        };
        let expected = [
            "b/c/d=b",
            "default/credential/test=b",
            "default/security-policy/test=a",
            "\"a\" is broken",
        ];
        assert_eq!(entries.effective().map(shown).collect::<Vec<_>>(), expected);
        assert_eq!((entries.len(), entries.iter().count()), (4, 6));
        for entry in entries.effective() {
            let found = entries.get(&entry.name).unwrap();
            assert!(std::ptr::eq(found, entry));
        }
        for absent in ["a/b/c", "c/d/e", "z"] {
            assert!(entries.get(&Name::parse(absent).unwrap()).is_none());
        }
    }
}
