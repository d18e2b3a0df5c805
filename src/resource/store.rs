// SPDX-License-Identifier: Apache-2.0

//! The snapshot that is served, and its reload when the files change.
//!
//! A snapshot is immutable: a reload parses everything first and then swaps the whole snapshot. Clients keep
//! what they got for the life of the VM, so a stale answer is never corrected. Therefore [`Store::refresh`],
//! which compares each file's identity with that of the loaded one, must be called before each batch of
//! answers.

use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::resource::loaded::Loaded;
use crate::resource::merge::merge;
use crate::resource::snapshot::{Snapshot, Source};

/// Changes each snapshot before it is served.
type Prepare = Box<dyn Fn(&mut Snapshot) + Send + Sync>;

/// Loads files, and holds the snapshot of their last good content.
pub struct Store {
    loaded: Mutex<Vec<Loaded>>,
    // There is one thread, and it holds the lock only while it clones a pointer.
    snapshot: RwLock<Arc<Snapshot>>,
    prepare: Prepare,
}

impl Store {
    /// A store of `sources`, lowest precedence first, with nothing loaded yet.
    pub fn new(sources: Vec<Source>) -> Self {
        Self::with_preparation(sources, |_| {})
    }

    /// The same, with a function that changes each snapshot before it is served.
    pub fn with_preparation(
        sources: Vec<Source>,
        prepare: impl Fn(&mut Snapshot) + Send + Sync + 'static,
    ) -> Self {
        let loaded = sources.into_iter().map(Loaded::new).collect();
        Self {
            loaded: Mutex::new(loaded),
            snapshot: RwLock::default(),
            prepare: Box::new(prepare),
        }
    }

    /// The snapshot that is served now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        let snapshot = self.snapshot.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&snapshot)
    }

    /// Reads the files that have changed, logs what is new about them, and swaps the snapshot. Returns
    /// whether any file was read, or has gone.
    pub fn refresh(&self) -> bool {
        self.load(false)
    }

    /// Whether the rate limit held back a message about a file. A [`Store::refresh`] in the next period logs
    /// it.
    pub fn has_unlogged_changes(&self) -> bool {
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.iter().any(Loaded::has_unlogged_changes)
    }

    /// Reads every file again, changed or not.
    pub fn reload(&self) {
        self.load(true);
    }

    fn load(&self, all: bool) -> bool {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = false;
        for file in loaded.iter_mut() {
            changed |= file.refresh(all);
        }
        if changed {
            let parts = || loaded.iter().flat_map(Loaded::parts);
            let statuses = parts().map(Loaded::status).collect();
            let mut snapshot = merge(parts().map(Loaded::layer), statuses);
            (self.prepare)(&mut snapshot);
            *self
                .snapshot
                .write()
                .unwrap_or_else(PoisonError::into_inner) = Arc::new(snapshot);
        }
        changed
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::resource::file::Kind;
    use crate::resource::name::{CREDENTIAL, Name};
    use crate::resource::snapshot::FileState;
    use std::fs;
    use std::path::Path;

    fn store(paths: &[&Path]) -> Store {
        let sources = paths.iter().map(|path| Source {
            path: path.to_path_buf(),
            kind: Kind::Resources,
        });
        Store::new(sources.collect())
    }

    fn served(store: &Store) -> Option<Result<Vec<u8>, Box<str>>> {
        store.refresh();
        let snapshot = store.snapshot();
        let resource = snapshot.resources.get(&Name::parse(CREDENTIAL).unwrap())?;
        Some(resource.value.clone().map(|value| value.expose().to_vec()))
    }

    fn credential(value: &str) -> String {
        format!(r#"{{"Credential":"{value}"}}"#)
    }

    /// Whatever happens to the file, the next refresh serves its present content.
    #[test]
    fn a_change_is_served_after_the_next_refresh() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let store = store(&[&path]);
        assert!(served(&store).is_none());
        fs::write(&path, credential("YQ==")).unwrap();
        assert_eq!(served(&store).unwrap().unwrap(), b"a");
        // The same size, within one tick of the file system's clock.
        fs::write(&path, credential("Yg==")).unwrap();
        assert_eq!(served(&store).unwrap().unwrap(), b"b");
        fs::write(dir.path().join("new"), credential("Yw==")).unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        assert_eq!(served(&store).unwrap().unwrap(), b"c");
        fs::remove_file(&path).unwrap();
        assert!(served(&store).is_none());
    }

    /// A half-written file must not replace the last good content; a broken entry is an error.
    #[test]
    fn last_good_is_kept_for_files_and_not_for_entries() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let store = store(&[&path]);
        fs::write(&path, "{\"Cred").unwrap();
        assert!(served(&store).is_none());
        fs::write(&path, credential("YQ==")).unwrap();
        assert_eq!(served(&store).unwrap().unwrap(), b"a");
        for broken in ["", "{\"Credential\":\"Y", "[]"] {
            fs::write(&path, broken).unwrap();
            assert_eq!(served(&store).unwrap().unwrap(), b"a", "{broken:?}");
            let FileState::Failed { kept, .. } = store.snapshot().files[0].state else {
                unreachable!("{broken:?} loaded");
            };
            assert!(kept);
        }
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert_eq!(served(&store).unwrap().unwrap(), b"a");
        fs::remove_dir(&path).unwrap();
        assert!(served(&store).is_none());
        fs::write(&path, credential("!")).unwrap();
        assert!(served(&store).unwrap().is_err());
    }

    /// The last file that has a name overrides the others; a broken entry hides a good one only under the
    /// same name.
    #[test]
    fn precedence_across_files() {
        let dir = tempfile::tempdir().unwrap();
        let [low, high] = ["low", "high"].map(|name| dir.path().join(name));
        let store = store(&[&low, &high]);
        let path = |value: &str| format!(r#"{{"default/credential/test":"{value}"}}"#);
        let both = |old: &str, path: &str| {
            format!(r#"{{"default/credential/test":"{path}","Credential":"{old}"}}"#)
        };
        for (lower, higher, expected) in [
            (credential("YQ=="), path("Yg=="), Some("b")),
            (path("YQ=="), credential("Yg=="), Some("b")),
            (path("YQ=="), "{}".to_owned(), Some("a")),
            (credential("YQ=="), path("!"), Some("a")),
            (path("YQ=="), credential("!"), Some("a")),
            (path("YQ=="), path("!"), None),
            (path("!"), credential("Yg=="), Some("b")),
            (both("YQ==", "Yg=="), "{}".to_owned(), Some("b")),
            (both("YQ==", "!"), "{}".to_owned(), Some("a")),
            (both("YQ==", "Yg=="), path("!"), Some("a")),
            (both("YQ==", "!"), credential("!"), None),
        ] {
            fs::write(&low, &lower).unwrap();
            fs::write(&high, &higher).unwrap();
            let found = served(&store).unwrap().ok();
            assert_eq!(
                found.as_deref(),
                expected.map(str::as_bytes),
                "{lower} {higher}"
            );
        }
    }
}
