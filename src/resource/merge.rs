// SPDX-License-Identifier: Apache-2.0

//! Which of several entries of one name is served.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::resource::file::{Entries, Kind};
use crate::resource::loaded::Loaded;
use crate::resource::name::Name;
use crate::resource::store::{FileStatus, Resource, Snapshot};

/// A snapshot of one text alone.
pub fn of_entries(kind: &Kind, file: &Path, entries: &Entries) -> Snapshot {
    let file = Arc::from(file);
    merge_all(std::iter::once((kind, &file, entries)), Vec::new())
}

/// Puts the files' entries together, the last that has a name winning, and in one file the path over
/// the old name. A broken entry does not hide a good one under the other name.
pub(super) fn merge(files: &[Loaded]) -> Snapshot {
    let parts = || files.iter().flat_map(Loaded::parts);
    merge_all(
        parts().map(|file| (&file.source().kind, file.file(), file.entries())),
        parts().map(Loaded::status).collect(),
    )
}

fn merge_all<'a>(
    files: impl Iterator<Item = (&'a Kind, &'a Arc<Path>, &'a Entries)>,
    statuses: Vec<FileStatus>,
) -> Snapshot {
    let (mut resources, mut keys) = (BTreeMap::new(), BTreeMap::new());
    for (kind, file, entries) in files {
        let merged: &mut BTreeMap<Name, Spellings> = match kind {
            Kind::Resources | Kind::Whole(_) | Kind::Directory => &mut resources,
            Kind::Keys => &mut keys,
        };
        for (entries, old) in [(&entries.by_old_name, true), (&entries.by_path, false)] {
            for (name, value) in entries {
                let resource = Resource {
                    value: value.clone(),
                    file: Arc::clone(file),
                    old,
                    changes: Vec::new(),
                    consequence: None,
                };
                merged.entry(name.clone()).or_default().add(resource);
            }
        }
    }
    Snapshot {
        resources: pick(resources),
        keys: pick(keys),
        files: statuses,
    }
}

fn pick(merged: BTreeMap<Name, Spellings>) -> BTreeMap<Name, Resource> {
    let picked = merged.into_iter();
    picked
        .filter_map(|(name, spellings)| Some((name, spellings.pick()?)))
        .collect()
}

/// The winners under each of the two ways to write one name.
#[derive(Default)]
struct Spellings {
    /// The one that was added last.
    last: Option<Resource>,
    /// The last of the other way.
    other: Option<Resource>,
}

impl Spellings {
    fn add(&mut self, resource: Resource) {
        let old = resource.old;
        let before = self.last.replace(resource);
        if before.as_ref().is_some_and(|before| before.old != old) {
            self.other = before;
        }
    }

    fn pick(self) -> Option<Resource> {
        match (self.last, self.other) {
            (Some(last), Some(other)) if last.value.is_err() && other.value.is_ok() => Some(other),
            (last, _) => last,
        }
    }
}
