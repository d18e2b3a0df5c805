// SPDX-License-Identifier: Apache-2.0

//! The entries of a file, and which of two of one name counts.

use crate::resource::name::Name;
use crate::resource::problem::Problem;
use crate::resource::secret::Secret;

/// The decoded bytes of an entry, or why there are none.
pub type Value = Result<Secret, Box<str>>;

/// One entry of a file.
pub struct Entry {
    /// Its name; that of an old name is the path.
    pub name: Name,
    /// What it holds.
    pub value: Value,
    /// Whether the file has it under its old name.
    pub old: bool,
}

/// The entries of a file.
#[derive(Default)]
pub struct Entries {
    /// In the order of their names, and of one name that under the old name first: at most two.
    list: Vec<Entry>,
    /// What is wrong with single entries.
    pub problems: Vec<Problem>,
    is_whole: bool,
}

impl Entries {
    /// One resource, by its path.
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

    /// These, which must be in the order that the list has.
    pub(super) fn of_sorted(list: Vec<Entry>, problems: Vec<Problem>) -> Self {
        Self {
            list,
            problems,
            is_whole: false,
        }
    }

    /// All of them, in the order of their names; of one name that under the old name first.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.list.iter()
    }

    /// What would be served of the file alone: of each name the entry that counts.
    pub fn counting(&self) -> impl Iterator<Item = &Entry> {
        let names = self.list.chunk_by(|a, b| a.name == b.name);
        names.filter_map(|same| counting(same, |entry| entry))
    }

    /// The entry of this name that counts.
    pub fn get(&self, name: &Name) -> Option<&Entry> {
        counting(self.named(name), |entry| entry)
    }

    /// The entries of this name, that under the old name first.
    pub(super) fn named(&self, name: &Name) -> &[Entry] {
        let first = self.list.partition_point(|entry| entry.name < *name);
        let rest = &self.list[first..];
        &rest[..rest.partition_point(|entry| entry.name == *name)]
    }

    /// How many names there are.
    pub fn len(&self) -> usize {
        self.list.chunk_by(|a, b| a.name == b.name).count()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }
}

/// Of what has one name, lowest precedence first, that whose entry counts: the last. But a broken one does not
/// hide a good one under the other way to write the name, if that is the last of its own way.
pub(super) fn counting<T>(same: &[T], entry: impl Fn(&T) -> &Entry) -> Option<&T> {
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

    /// Each name is there once, by the entry that counts, and no other is found in its place.
    #[test]
    fn each_name_counts_once() {
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
        assert_eq!(entries.counting().map(shown).collect::<Vec<_>>(), expected);
        assert_eq!((entries.len(), entries.iter().count()), (4, 6));
        for entry in entries.counting() {
            let found = entries.get(&entry.name).unwrap();
            assert!(std::ptr::eq(found, entry));
        }
        for absent in ["a/b/c", "c/d/e", "z"] {
            assert!(entries.get(&Name::parse(absent).unwrap()).is_none());
        }
    }
}
