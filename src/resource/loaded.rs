// SPDX-License-Identifier: Apache-2.0

//! The last state of one file, or of one directory of files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tracing::{error, info, warn};

use crate::rate::{CHANGES_PER_PERIOD, RateLimit, Suppressed};
use crate::resource::directory::{self, Listing};
use crate::resource::entries::Entries;
use crate::resource::file::{self, Identity, Kind, is_absent, unreadable};
use crate::resource::merge::Layer;
use crate::resource::name::Name;
use crate::resource::parse;
use crate::resource::problem::{NO_MEMORY, Problem, Severity};
use crate::resource::snapshot::{FileState, FileStatus, LOGGED_PROBLEMS, Source};
use crate::text::count;

/// One file or directory, with its last good content.
pub(super) struct Loaded {
    source: Source,
    /// The path again, shared with the resources.
    file: Arc<Path>,
    last_check: LastCheck,
    state: FileState,
    /// The content of the last successful load.
    entries: Entries,
    /// When that content was read.
    loaded_at: Option<Instant>,
    /// The last error, and when it occurred.
    last_error: Option<(Instant, String)>,
    /// Limits how often the state is logged; the files of a directory share one limit.
    rate: Arc<RateLimit>,
    /// The directory, with symbolic links resolved, outside of which the file must not be read.
    root: Option<PathBuf>,
    /// Whether the rate limit kept the present state out of the log.
    unlogged: bool,
    /// The files of a directory.
    children: BTreeMap<ChildKey, Loaded>,
}

/// How often a directory is listed again if it changes while its files are read: Kubernetes swaps all names
/// of a secret volume at once, and files from before and after a swap do not belong together.
const LIST_ATTEMPTS: usize = 8;

/// How many changes of a directory's files are logged in a period: enough for all files of a usual directory.
const DIRECTORY_CHANGES: u32 = 64;

/// The key of a directory's file. Old names sort first, so that the path overrides the old name of the same
/// resource.
type ChildKey = (bool, Name);

/// What the last check found at the file's path.
#[derive(Clone, Copy, PartialEq, Eq)]
enum LastCheck {
    Never,
    Absent,
    /// It could not be read. Nothing shows when it can be read again, so each check tries.
    Unreadable,
    Read {
        identity: Identity,
        settled: bool,
    },
    /// It is a directory, which is listed again at each check.
    Listed,
}

impl Loaded {
    pub(super) fn new(source: Source) -> Self {
        Self {
            rate: Arc::new(RateLimit::new(match source.kind {
                Kind::Directory => DIRECTORY_CHANGES,
                _ => CHANGES_PER_PERIOD,
            })),
            file: Arc::from(source.path.as_path()),
            source,
            last_check: LastCheck::Never,
            state: FileState::Absent,
            entries: Entries::default(),
            loaded_at: None,
            last_error: None,
            root: None,
            unlogged: false,
            children: BTreeMap::new(),
        }
    }

    /// Reads the files that have changed, or all of them, and logs what is new. Returns whether any file was
    /// read, or has gone.
    pub(super) fn refresh(&mut self, all: bool) -> bool {
        let changed = match self.source.kind {
            Kind::Directory => self.load_directory(all),
            _ => self.load_file(all),
        };
        self.log_news();
        changed
    }

    fn load_file(&mut self, all: bool) -> bool {
        (all || self.may_have_changed()) && self.load()
    }

    /// This file, or the directory and all files in it.
    pub(super) fn parts(&self) -> impl Iterator<Item = &Self> {
        std::iter::once(self).chain(self.children.values())
    }

    pub(super) fn has_unlogged_changes(&self) -> bool {
        self.parts().any(|part| part.unlogged)
    }

    /// Its part of the snapshot.
    pub(super) fn layer(&self) -> Layer<'_> {
        Layer {
            kind: &self.source.kind,
            file: &self.file,
            entries: &self.entries,
        }
    }

    pub(super) fn status(&self) -> FileStatus {
        FileStatus {
            source: self.source.clone(),
            state: self.state.clone(),
            loaded_at: self.loaded_at,
            last_error: self.last_error.clone(),
        }
    }

    fn may_have_changed(&self) -> bool {
        match self.last_check {
            LastCheck::Never | LastCheck::Unreadable | LastCheck::Listed => true,
            LastCheck::Absent => {
                !matches!(Identity::of(&self.source.path), Err(e) if is_absent(&e))
            }
            LastCheck::Read { identity, settled } => {
                !settled || !matches!(Identity::of(&self.source.path), Ok(now) if now == identity)
            }
        }
    }

    /// Reads and parses the file. Returns whether anything about it is new.
    fn load(&mut self) -> bool {
        let (last_check, state) = match file::read_within(&self.source.path, self.root.as_deref()) {
            Ok(content) => {
                let last_check = LastCheck::Read {
                    identity: content.identity,
                    settled: content.settled,
                };
                let bytes = content.text.len() as u64;
                match parse::parse(content.text, &self.source.kind) {
                    Ok(mut entries) => {
                        let state = FileState::Loaded {
                            entries: entries.len(),
                            bytes,
                            problems: std::mem::take(&mut entries.problems),
                            exposures: content.exposures,
                        };
                        self.entries = entries;
                        (last_check, state)
                    }
                    // The next check may have enough memory.
                    Err(problem) if problem.code == NO_MEMORY => {
                        (LastCheck::Unreadable, self.failed(problem))
                    }
                    Err(problem) => (last_check, self.failed(problem)),
                }
            }
            Err(error) if is_absent(&error) => {
                self.entries = Entries::default();
                (LastCheck::Absent, FileState::Absent)
            }
            Err(error) => (
                LastCheck::Unreadable,
                self.failed(unreadable(&error, &self.file)),
            ),
        };
        // A second read of the same file, which the clock's resolution made necessary, is not news.
        let same_file = match (&self.last_check, &last_check) {
            (LastCheck::Read { identity: old, .. }, LastCheck::Read { identity: new, .. }) => {
                old == new
            }
            (old, new) => old == new,
        };
        let news = !(same_file && self.state == state);
        // A file with the same metadata may still have other content: see CLOCK_DOUBT.
        let changed = news || matches!(last_check, LastCheck::Read { .. });
        self.last_check = last_check;
        self.set(state, news);
        changed
    }

    /// Lists the directory and refreshes its files. Returns whether anything about them is new.
    fn load_directory(&mut self, all: bool) -> bool {
        let mut changed = false;
        let mut state = FileState::Absent;
        let mut before = None;
        for _ in 0..LIST_ATTEMPTS {
            match directory::list(&self.source.path) {
                Ok(listing) => {
                    // The listing did not change while the files were read, so they belong together.
                    if before.as_ref() == Some(&listing.files) {
                        break;
                    }
                    let (new, next) = self.load_files(&listing, all && before.is_none());
                    changed |= new;
                    state = next;
                    if !new {
                        break;
                    }
                    before = Some(listing.files);
                }
                Err(error) if is_absent(&error) => {
                    changed |= !std::mem::take(&mut self.children).is_empty();
                    state = FileState::Absent;
                    break;
                }
                Err(error) => {
                    state = self.failed(unreadable(&error, &self.file));
                    break;
                }
            }
        }
        for child in self.children.values_mut() {
            child.log_news();
        }
        let news = self.last_check == LastCheck::Never || self.state != state;
        self.last_check = LastCheck::Listed;
        self.set(state, news);
        news || changed
    }

    /// Loads the listed files. Returns whether anything about them is new, and the state of the directory.
    fn load_files(&mut self, listing: &Listing, all: bool) -> (bool, FileState) {
        let mut changed = false;
        let mut before = std::mem::take(&mut self.children);
        for listed in &listing.files {
            let key = (!listed.is_old, listed.name.clone());
            let source = Source {
                path: listed.path.clone(),
                kind: Kind::Whole(listed.name.clone()),
            };
            let mut child = match before.remove(&key) {
                Some(child) => child.with_source(source),
                None => Self {
                    rate: Arc::clone(&self.rate),
                    ..Self::new(source)
                },
            };
            child.root = Some(listing.root.clone());
            changed |= child.load_file(all);
            self.children.insert(key, child);
        }
        // Files at a path that could not be read may still exist.
        let (kept, gone): (BTreeMap<_, _>, BTreeMap<_, _>) = before
            .into_iter()
            .partition(|((_, name), _)| listing.may_contain(name));
        self.children.extend(kept);
        changed |= !gone.is_empty();
        let state = match listing.unreadable.first() {
            Some((_, problem)) => self.failed(problem.clone()),
            None => FileState::Loaded {
                entries: self.children.len(),
                bytes: self.children.values().map(Self::bytes).sum(),
                problems: listing.problems.clone(),
                exposures: Vec::new(),
            },
        };
        (changed, state)
    }

    /// The same file at another path. Its content is kept until the new path is read.
    fn with_source(mut self, source: Source) -> Self {
        if self.source != source {
            self.file = Arc::from(source.path.as_path());
            self.source = source;
            self.last_check = LastCheck::Never;
        }
        self
    }

    fn bytes(&self) -> u64 {
        match self.state {
            FileState::Loaded { bytes, .. } => bytes,
            _ => 0,
        }
    }

    fn set(&mut self, state: FileState, news: bool) {
        match &state {
            FileState::Loaded { .. } => self.loaded_at = Some(Instant::now()),
            FileState::Failed { problem, .. } if news => {
                self.last_error = Some((Instant::now(), problem.to_string()));
            }
            FileState::Failed { .. } => {}
            FileState::Absent => self.loaded_at = None,
        }
        self.state = state;
        self.unlogged |= news;
    }

    /// Logs the file's state if it is new and the rate limit allows.
    fn log_news(&mut self) {
        if self.unlogged {
            if let Some(suppressed) = self.rate.allow() {
                self.unlogged = false;
                self.log(suppressed);
            }
        }
    }

    fn failed(&self, problem: Problem) -> FileState {
        let kept = !self.entries.is_empty() || !self.children.is_empty();
        FileState::Failed { problem, kept }
    }

    fn log(&self, suppressed: Suppressed) {
        let path = self.file.display();
        match &self.state {
            FileState::Absent => info!("{path}: absent{suppressed}"),
            FileState::Loaded {
                entries,
                bytes,
                problems,
                exposures,
            } => {
                let entries = match (&self.source.kind, entries) {
                    (Kind::Whole(name), _) => format!("the resource {name}"),
                    (Kind::Directory, n) => count(*n, "file", "files"),
                    (_, n) => count(*n, "entry", "entries"),
                };
                info!("{path}: {entries}, {bytes} bytes{suppressed}");
                let exposures = exposures
                    .iter()
                    .map(|exposure| exposure.problem(&self.file));
                let shown = problems.iter().take(LOGGED_PROBLEMS).cloned();
                for problem in exposures.chain(shown) {
                    match problem.severity {
                        Severity::Error => error!("{path}: {problem}"),
                        _ => warn!("{path}: {problem}"),
                    }
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
                error!("{path}: {problem} (its last good content is still served){suppressed}");
            }
            FileState::Failed {
                problem,
                kept: false,
            } => error!("{path}: {problem}{suppressed}"),
        }
    }
}
