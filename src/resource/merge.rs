// SPDX-License-Identifier: Apache-2.0

//! Which of several files' entries of one name is served.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::resource::entries::{self, Entries, Entry};
use crate::resource::file::Kind;
use crate::resource::loaded::Loaded;
use crate::resource::name::{ALIASES, Name};
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

/// The entries of a file, and its path.
type Layer<'a> = (&'a Arc<Path>, &'a Entries);

fn merge_all<'a>(
    files: impl Iterator<Item = (&'a Kind, &'a Arc<Path>, &'a Entries)>,
    statuses: Vec<FileStatus>,
) -> Snapshot {
    let (mut resources, mut keys) = (Vec::new(), Vec::new());
    for (kind, file, entries) in files {
        let layers: &mut Vec<Layer<'_>> = match kind {
            Kind::Resources | Kind::Whole(_) | Kind::Directory => &mut resources,
            Kind::Keys => &mut keys,
        };
        layers.push((file, entries));
    }
    Snapshot {
        resources: pick(&resources),
        keys: pick(&keys),
        files: statuses,
    }
}

/// Of each name the entry that counts, where the lowest layer comes first.
fn pick(layers: &[Layer<'_>]) -> BTreeMap<Name, Resource> {
    let mut picked = BTreeMap::new();
    for (file, entries) in layers {
        let entries = entries.iter();
        let these = entries.map(|entry| (entry.name.clone(), resource(entry, file)));
        if picked.is_empty() {
            // Made at once, which takes less time and memory than one by one.
            picked = these.collect();
        } else {
            picked.extend(these);
        }
    }
    // No other names can come both ways.
    for (_, path) in ALIASES {
        let name = Name::Path(path.into());
        let same = layers.iter().flat_map(|(file, entries)| {
            let same = entries.named(&name).iter();
            same.map(move |entry| (entry, *file))
        });
        let same: Vec<_> = same.collect();
        if let Some((entry, file)) = entries::counting(&same, |(entry, _)| entry) {
            picked.insert(name, resource(entry, file));
        }
    }
    picked
}

fn resource(entry: &Entry, file: &Arc<Path>) -> Resource {
    Resource {
        value: entry.value.clone(),
        file: Arc::clone(file),
        old: entry.old,
        treated: None,
    }
}
