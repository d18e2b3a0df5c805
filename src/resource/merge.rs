// SPDX-License-Identifier: Apache-2.0

//! Which entry is served if several files have the same name.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use crate::resource::entries::{self, Entries, Entry};
use crate::resource::file::Kind;
use crate::resource::name::{ALIASES, CREDENTIAL, Name};
use crate::resource::snapshot::{FileStatus, Resource, Snapshot};

/// One file's part of a snapshot.
pub(super) struct Layer<'a> {
    /// The kind of its entries.
    pub kind: &'a Kind,
    /// Its path.
    pub file: &'a Arc<Path>,
    /// Its entries.
    pub entries: &'a Entries,
}

/// A snapshot of one file.
pub fn of_entries(kind: &Kind, file: &Path, entries: &Entries) -> Snapshot {
    let file = &Arc::from(file);
    let layer = Layer {
        kind,
        file,
        entries,
    };
    merge(std::iter::once(layer), Vec::new())
}

/// Merges the layers, lowest precedence first: the last layer that has a name overrides the others, and
/// within a file the path overrides the old name. A broken entry does not hide a good one under the other
/// name.
pub(super) fn merge<'a>(
    layers: impl Iterator<Item = Layer<'a>>,
    statuses: Vec<FileStatus>,
) -> Snapshot {
    let (keys, resources): (Vec<_>, Vec<_>) = layers.partition(|layer| *layer.kind == Kind::Keys);
    Snapshot {
        resources: pick(&resources),
        credentials: credentials(&resources),
        keys: pick(&keys),
        files: statuses,
    }
}

/// The effective entry of each name; the lowest layer comes first.
fn pick(layers: &[Layer<'_>]) -> BTreeMap<Name, Resource> {
    let mut picked = BTreeMap::new();
    for Layer { file, entries, .. } in layers {
        let entries = entries.iter();
        let these = entries.map(|entry| (entry.name.clone(), resource(entry, file)));
        if picked.is_empty() {
            // Collecting at once takes less time and memory than inserting one by one.
            picked = these.collect();
        } else {
            picked.extend(these);
        }
    }
    // Only these names have two spellings.
    for (_, path) in ALIASES {
        let name = Name::Path(path.into());
        let same = layers.iter().flat_map(|layer| {
            let same = layer.entries.named(&name).iter();
            same.map(|entry| (entry, layer.file))
        });
        let same: Vec<_> = same.collect();
        if let Some((entry, file)) = entries::effective(&same, |(entry, _)| entry) {
            picked.insert(name, resource(entry, file));
        }
    }
    picked
}

/// The effective credential of each layer that has one.
fn credentials(layers: &[Layer<'_>]) -> Vec<Resource> {
    let name = Name::Path(CREDENTIAL.into());
    let found = layers
        .iter()
        .filter_map(|layer| Some(resource(layer.entries.get(&name)?, layer.file)));
    found.collect()
}

fn resource(entry: &Entry, file: &Arc<Path>) -> Resource {
    Resource {
        value: entry.value.clone(),
        file: Arc::clone(file),
        old: entry.old,
        outcome: None,
    }
}
