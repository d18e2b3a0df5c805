// SPDX-License-Identifier: Apache-2.0

//! The last state of one file, or of one directory of files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use tracing::{error, info, warn};

use crate::rate::{Before, CHANGES, Rate};
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
    seen: Seen,
    state: FileState,
    /// The content of the last successful load.
    entries: Entries,
    /// When that content was read.
    since: Option<Instant>,
    /// The last error, and when it occurred.
    last_error: Option<(Instant, String)>,
    /// Limits how often the state is logged; the files of a directory share one limit.
    rate: Arc<Rate>,
    /// The directory, with symbolic links resolved, outside of which the file must not be read.
    root: Option<PathBuf>,
    /// Whether the rate limit kept the present state out of the log.
    unsaid: bool,
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
enum Seen {
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
            rate: Arc::new(Rate::new(match source.kind {
                Kind::Directory => DIRECTORY_CHANGES,
                _ => CHANGES,
            })),
            file: Arc::from(source.path.as_path()),
            source,
            seen: Seen::Never,
            state: FileState::Absent,
            entries: Entries::default(),
            since: None,
            last_error: None,
            root: None,
            unsaid: false,
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

    pub(super) fn is_unsaid(&self) -> bool {
        self.parts().any(|part| part.unsaid)
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
            since: self.since,
            last_error: self.last_error.clone(),
        }
    }

    fn may_have_changed(&self) -> bool {
        match self.seen {
            Seen::Never | Seen::Unreadable | Seen::Listed => true,
            Seen::Absent => !matches!(Identity::of(&self.source.path), Err(e) if is_absent(&e)),
            Seen::Read { identity, settled } => {
                !settled || !matches!(Identity::of(&self.source.path), Ok(now) if now == identity)
            }
        }
    }

    /// Reads and parses the file. Returns whether anything about it is new.
    fn load(&mut self) -> bool {
        let (seen, state) = match file::read_within(&self.source.path, self.root.as_deref()) {
            Ok(content) => {
                let seen = Seen::Read {
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
                        (seen, state)
                    }
                    // The next check may have enough memory.
                    Err(problem) if problem.code == NO_MEMORY => {
                        (Seen::Unreadable, self.failed(problem))
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
        // A second read of the same file, which the clock's resolution made necessary, is not news.
        let same_file = match (&self.seen, &seen) {
            (Seen::Read { identity: old, .. }, Seen::Read { identity: new, .. }) => old == new,
            (old, new) => old == new,
        };
        let news = !(same_file && self.state == state);
        // A file with the same metadata may still have other content: see CLOCK_DOUBT.
        let changed = news || matches!(seen, Seen::Read { .. });
        self.seen = seen;
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
        let news = self.seen == Seen::Never || self.state != state;
        self.seen = Seen::Listed;
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
                Some(child) => child.moved(source),
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
            .partition(|((_, name), _)| listing.may_have(name));
        self.children.extend(kept);
        changed |= !gone.is_empty();
        let state = match listing.unseen.first() {
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
    fn moved(mut self, source: Source) -> Self {
        if self.source != source {
            self.file = Arc::from(source.path.as_path());
            self.source = source;
            self.seen = Seen::Never;
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
            FileState::Loaded { .. } => self.since = Some(Instant::now()),
            FileState::Failed { problem, .. } if news => {
                self.last_error = Some((Instant::now(), problem.to_string()));
            }
            FileState::Failed { .. } => {}
            FileState::Absent => self.since = None,
        }
        self.state = state;
        self.unsaid |= news;
    }

    /// Logs the file's state if it is new and the rate limit allows.
    fn log_news(&mut self) {
        if self.unsaid {
            if let Some(before) = self.rate.now() {
                self.unsaid = false;
                self.log(before);
            }
        }
    }

    fn failed(&self, problem: Problem) -> FileState {
        let kept = !self.entries.is_empty() || !self.children.is_empty();
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
                let entries = match (&self.source.kind, entries) {
                    (Kind::Whole(name), _) => format!("the resource {name}"),
                    (Kind::Directory, n) => count(*n, "file", "files"),
                    (_, n) => count(*n, "entry", "entries"),
                };
                info!("{path}: {entries}, {bytes} bytes{before}");
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
                error!("{path}: {problem} (its last good content is still served){before}");
            }
            FileState::Failed {
                problem,
                kept: false,
            } => error!("{path}: {problem}{before}"),
        }
    }
}
