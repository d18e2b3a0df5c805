// SPDX-License-Identifier: Apache-2.0

//! Which of several files' entries of one name is served.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::resource::entries::{self, Entries, Entry};
use crate::resource::file::Kind;
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

/// An entry, and the file that has it.
type Found<'a> = (&'a Entry, &'a Arc<Path>);

fn merge_all<'a>(
    files: impl Iterator<Item = (&'a Kind, &'a Arc<Path>, &'a Entries)>,
    statuses: Vec<FileStatus>,
) -> Snapshot {
    let (mut resources, mut keys) = (Vec::new(), Vec::new());
    for (kind, file, entries) in files {
        let found = match kind {
            Kind::Resources | Kind::Whole(_) | Kind::Directory => &mut resources,
            Kind::Keys => &mut keys,
        };
        found.extend(entries.iter().map(|entry| (entry, file)));
    }
    Snapshot {
        resources: pick(resources),
        keys: pick(keys),
        files: statuses,
    }
}

/// Of each name the entry that counts. They come lowest precedence first.
fn pick(mut found: Vec<Found<'_>>) -> BTreeMap<Name, Resource> {
    // Those of one name keep their order.
    found.sort_by(|(a, _), (b, _)| a.name.cmp(&b.name));
    let names = found.chunk_by(|(a, _), (b, _)| a.name == b.name);
    let picked = names.filter_map(|same| entries::counting(same, |(entry, _)| entry));
    picked
        .map(|(entry, file)| {
            let resource = Resource {
                value: entry.value.clone(),
                file: Arc::clone(file),
                old: entry.old,
                treated: None,
            };
            (entry.name.clone(), resource)
        })
        .collect()
}
