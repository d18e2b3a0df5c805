// SPDX-License-Identifier: Apache-2.0

//! The snapshot that is served, and how it follows the files.
//!
//! A snapshot never changes: a reload parses everything first and then swaps the whole. Clients keep
//! what they got for the life of the VM, so a stale answer is for ever: [`Store::refresh`] compares
//! each file's identity with what was loaded and belongs before each batch of answers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use crate::resource::entries::Value;
use crate::resource::exposure::Exposure;
use crate::resource::file::Kind;
use crate::resource::loaded::Loaded;
use crate::resource::merge::merge;
use crate::resource::name::Name;
use crate::resource::problem::Problem;

pub use crate::resource::loaded::{is_absent, unreadable};
pub use crate::resource::merge::of_entries;

/// How many problems of a file are logged at a load, so that a file of nothing but mistakes neither
/// fills the journal nor holds up the serving thread.
pub const LOGGED_PROBLEMS: usize = 20;

/// A file to serve from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Where it is, whether or not it exists now.
    pub path: PathBuf,
    /// What its entries are.
    pub kind: Kind,
}

/// A resource or key as it is served.
#[derive(Clone, Debug)]
pub struct Resource {
    /// Its bytes, or why there are none.
    pub value: Value,
    /// The file that it comes from.
    pub file: Arc<Path>,
    /// Whether the file has it under its old name.
    pub old: bool,
    /// What was found in it and done to it before it is served: of most nothing, which takes no room.
    pub treated: Option<Box<Treated>>,
}

/// What was found in a resource and done to it before it is served.
#[derive(Clone, Debug, Default)]
pub struct Treated {
    /// How the bytes differ from the file's, a sentence each; mostly not at all.
    pub changes: Vec<String>,
    /// What it makes a client do that gets it, where that is not what a person would expect; whether that
    /// is to be mended, and the words. Of what is refused for its content, why.
    pub consequence: Option<(bool, String)>,
}

impl Resource {
    /// How the bytes differ from the file's.
    pub fn changes(&self) -> &[String] {
        self.treated
            .as_ref()
            .map_or(&[], |treated| &treated.changes)
    }

    /// What it makes a client do that gets it.
    pub fn consequence(&self) -> Option<&(bool, String)> {
        self.treated.as_ref()?.consequence.as_ref()
    }
}

/// How a file stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileState {
    /// It does not exist, which is normal for every default.
    Absent,
    /// It was read.
    Loaded {
        /// How many names it has.
        entries: usize,
        /// Its length.
        bytes: u64,
        /// What is wrong with single entries.
        problems: Vec<Problem>,
        /// What else about it is worth saying.
        exposures: Vec<Exposure>,
    },
    /// It could not be used as it is now.
    Failed {
        /// Why.
        problem: Problem,
        /// Whether what it held before is still served.
        kept: bool,
    },
}

/// A file and how it stands.
#[derive(Clone, Debug)]
pub struct FileStatus {
    /// The file.
    pub source: Source,
    /// How it stands.
    pub state: FileState,
    /// When what is served of it was read or seen to be still the same.
    pub since: Option<Instant>,
    /// What went wrong last, and when, be it mended or not.
    pub last_error: Option<(Instant, String)>,
}

/// Everything that is served at one moment.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Resources by name.
    pub resources: BTreeMap<Name, Resource>,
    /// Keys by key id, apart from the resources so that no request for a resource finds one.
    pub keys: BTreeMap<Name, Resource>,
    /// The files in order of precedence, lowest first.
    pub files: Vec<FileStatus>,
}

/// What is done to each snapshot before it is served.
type Finish = Box<dyn Fn(&mut Snapshot) + Send + Sync>;

/// Loads files and holds the snapshot of what they held last.
pub struct Store {
    loaded: Mutex<Vec<Loaded>>,
    // There is one thread, and it holds the lock for as long as cloning a pointer takes.
    snapshot: RwLock<Arc<Snapshot>>,
    finish: Finish,
}

impl Store {
    /// A store of `sources`, lowest precedence first, with nothing loaded yet.
    pub fn new(sources: Vec<Source>) -> Self {
        Self::finished_by(sources, |_| {})
    }

    /// The same, where `finish` changes each snapshot before it is served.
    pub fn finished_by(
        sources: Vec<Source>,
        finish: impl Fn(&mut Snapshot) + Send + Sync + 'static,
    ) -> Self {
        let loaded = sources.into_iter().map(Loaded::new).collect();
        Self {
            loaded: Mutex::new(loaded),
            snapshot: RwLock::default(),
            finish: Box::new(finish),
        }
    }

    /// What is served now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        let snapshot = self.snapshot.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&snapshot)
    }

    /// Reads the files that changed since they were read last, logs what is new about them, and swaps
    /// the snapshot. Tells whether any file was read, or went away.
    pub fn refresh(&self) -> bool {
        self.load(false)
    }

    /// Whether there is news of a file that was not logged, since it changes too often. The next
    /// [`Store::refresh`] after a while logs it.
    pub fn is_behind(&self) -> bool {
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.iter().any(Loaded::is_unsaid)
    }

    /// Reads every file anew, changed or not.
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
            let mut snapshot = merge(&loaded);
            (self.finish)(&mut snapshot);
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
    use crate::resource::name::CREDENTIAL;
    use std::fs;

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

    /// Whatever happens to the file, the next look serves its present content.
    #[test]
    fn a_change_is_seen_at_the_next_look() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        let store = store(&[&path]);
        assert!(served(&store).is_none());
        fs::write(&path, credential("YQ==")).unwrap();
        assert_eq!(served(&store).unwrap().unwrap(), b"a");
        // The same size, within one tick of the clock.
        fs::write(&path, credential("Yg==")).unwrap();
        assert_eq!(served(&store).unwrap().unwrap(), b"b");
        fs::write(dir.path().join("new"), credential("Yw==")).unwrap();
        fs::rename(dir.path().join("new"), &path).unwrap();
        assert_eq!(served(&store).unwrap().unwrap(), b"c");
        fs::remove_file(&path).unwrap();
        assert!(served(&store).is_none());
    }

    /// A half-written file must not take away what was good; an entry that breaks is an error.
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

    /// The last file that has a name wins; a broken one hides a good one only under the same name.
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
