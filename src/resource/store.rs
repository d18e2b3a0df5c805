// SPDX-License-Identifier: Apache-2.0

//! The snapshot that is served, and how it follows the files.
//!
//! A snapshot never changes: a reload parses everything first and then swaps the whole. Clients keep
//! what they got for the life of the VM, so a stale answer is for ever: [`Store::refresh`] compares
//! each file's identity with what was loaded and belongs before each batch of answers.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use tracing::{error, info, warn};

use crate::rate::{Before, CHANGES, Rate};
use crate::resource::exposure::Exposure;
use crate::resource::file::{self, Entries, Identity, Kind, Value};
use crate::resource::name::Name;
use crate::resource::problem::Problem;
use crate::text::count;

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

/// Loads files and holds the snapshot of what they held last.
pub struct Store {
    loaded: Mutex<Vec<Loaded>>,
    // There is one thread, and it holds the lock for as long as cloning a pointer takes.
    snapshot: RwLock<Arc<Snapshot>>,
}

/// What is remembered of one file.
struct Loaded {
    source: Source,
    file: Arc<Path>,
    seen: Seen,
    state: FileState,
    /// The last good content.
    entries: Entries,
    /// How often its state is logged.
    rate: Rate,
    /// Whether its state was not logged, since it changes too often.
    unsaid: bool,
}

/// What was found at a file's path when it was looked at last.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    Never,
    Absent,
    /// It could not be read. Nothing shows when that ends, so each check tries again.
    Unreadable,
    Read {
        identity: Identity,
        settled: bool,
    },
}

impl Store {
    /// A store of `sources`, lowest precedence first, with nothing loaded yet.
    pub fn new(sources: Vec<Source>) -> Self {
        let loaded = sources
            .into_iter()
            .map(|source| Loaded {
                file: Arc::from(source.path.as_path()),
                source,
                seen: Seen::Never,
                state: FileState::Absent,
                entries: Entries::default(),
                rate: Rate::new(CHANGES),
                unsaid: false,
            })
            .collect();
        Self {
            loaded: Mutex::new(loaded),
            snapshot: RwLock::default(),
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
        self.load(Loaded::may_have_changed)
    }

    /// Whether there is news of a file that was not logged, since it changes too often. The next
    /// [`Store::refresh`] after a while logs it.
    pub fn is_behind(&self) -> bool {
        let loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.iter().any(|file| file.unsaid)
    }

    /// Reads every file anew, changed or not.
    pub fn reload(&self) {
        self.load(|_| true);
    }

    fn load(&self, wanted: impl Fn(&Loaded) -> bool) -> bool {
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let mut changed = false;
        for file in loaded.iter_mut() {
            if wanted(file) {
                changed |= file.load();
            }
            file.log_news();
        }
        if changed {
            let snapshot = Arc::new(merge(&loaded));
            *self
                .snapshot
                .write()
                .unwrap_or_else(PoisonError::into_inner) = snapshot;
        }
        changed
    }
}

impl Loaded {
    fn may_have_changed(&self) -> bool {
        match self.seen {
            Seen::Never | Seen::Unreadable => true,
            Seen::Absent => !matches!(Identity::of(&self.source.path), Err(e) if is_absent(&e)),
            Seen::Read { identity, settled } => {
                !settled || !matches!(Identity::of(&self.source.path), Ok(now) if now == identity)
            }
        }
    }

    /// Reads and parses the file; tells whether anything about it is new.
    fn load(&mut self) -> bool {
        let (seen, state) = match file::read(&self.source.path) {
            Ok(content) => {
                let seen = Seen::Read {
                    identity: content.identity,
                    settled: content.settled,
                };
                match file::parse(&content.text, self.source.kind) {
                    Ok(mut entries) => {
                        let state = FileState::Loaded {
                            entries: entries.len(),
                            bytes: content.text.len() as u64,
                            problems: std::mem::take(&mut entries.problems),
                            exposures: content.exposures,
                        };
                        self.entries = entries;
                        (seen, state)
                    }
                    Err(problem) => (seen, self.failed(problem)),
                }
            }
            Err(error) if is_absent(&error) => {
                self.entries = Entries::default();
                (Seen::Absent, FileState::Absent)
            }
            Err(error) => (
                Seen::Unreadable,
                self.failed(unreadable(&error, &self.file)),
            ),
        };
        // A second look at the same state, because the clock left doubt, is no news.
        let same_file = match (&self.seen, &seen) {
            (Seen::Read { identity: old, .. }, Seen::Read { identity: new, .. }) => old == new,
            (old, new) => old == new,
        };
        let news = !(same_file && self.state == state);
        // The same state of a file may still be another content: see CLOCK_DOUBT.
        let changed = news || matches!(seen, Seen::Read { .. });
        self.seen = seen;
        self.state = state;
        self.unsaid |= news;
        changed
    }

    /// Logs the file's state if that is news and there was not too much of it.
    fn log_news(&mut self) {
        if self.unsaid {
            if let Some(before) = self.rate.now() {
                self.unsaid = false;
                self.log(before);
            }
        }
    }

    fn failed(&self, problem: Problem) -> FileState {
        let kept = !self.entries.is_empty();
        FileState::Failed { problem, kept }
    }

    fn log(&self, before: Before) {
        let path = self.file.display();
        match &self.state {
            FileState::Absent => info!("{path}: absent{before}"),
            FileState::Loaded {
                entries,
                bytes,
                problems,
                exposures,
            } => {
                let entries = count(*entries, "entry", "entries");
                info!("{path}: {entries}, {bytes} bytes{before}");
                for exposure in exposures {
                    let sentence = exposure.about(&self.file);
                    if exposure.is_error() {
                        error!("{sentence}");
                    } else {
                        warn!("{sentence}");
                    }
                }
                for problem in problems.iter().take(LOGGED_PROBLEMS) {
                    error!("{path}: {problem}");
                }
                if problems.len() > LOGGED_PROBLEMS {
                    let more = problems.len() - LOGGED_PROBLEMS;
                    error!("{path}: {more} more problems; `offline-fs-kbc check` lists them all");
                }
            }
            FileState::Failed {
                problem,
                kept: true,
            } => {
                error!("{path}: {problem} (until then what it held before is served){before}");
            }
            FileState::Failed {
                problem,
                kept: false,
            } => error!("{path}: {problem}{before}"),
        }
    }
}

/// Puts the files' entries together, the last that has a name winning, and in one file the path over
/// the old name. A broken entry does not hide a good one under the other name.
fn merge(files: &[Loaded]) -> Snapshot {
    let (mut resources, mut keys) = (BTreeMap::new(), BTreeMap::new());
    for file in files {
        let merged: &mut BTreeMap<Name, Spellings> = match file.source.kind {
            Kind::Resources => &mut resources,
            Kind::Keys => &mut keys,
        };
        for (entries, old) in [
            (&file.entries.by_old_name, true),
            (&file.entries.by_path, false),
        ] {
            for (name, value) in entries {
                let resource = Resource {
                    value: value.clone(),
                    file: Arc::clone(&file.file),
                    old,
                };
                merged.entry(name.clone()).or_default().add(resource);
            }
        }
    }
    let status = |file: &Loaded| FileStatus {
        source: file.source.clone(),
        state: file.state.clone(),
    };
    Snapshot {
        resources: pick(resources),
        keys: pick(keys),
        files: files.iter().map(status).collect(),
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

/// Whether the error means that there is no file, rather than one that can't be read.
pub fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// The problem of a file that exists and can't be read.
pub fn unreadable(error: &io::Error, path: &Path) -> Problem {
    let mend = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            format!(
                "let its reader in: `chown root:root {0}; chmod 0600 {0}`",
                path.display()
            )
        }
        _ => "put a regular, readable file there, or remove it".to_owned(),
    };
    Problem {
        entry: None,
        position: None,
        what: format!("can't be read: {error}"),
        mend,
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

    fn served(store: &Store) -> Option<Result<Vec<u8>, String>> {
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
