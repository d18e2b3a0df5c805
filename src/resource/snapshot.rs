// SPDX-License-Identifier: Apache-2.0

//! A snapshot: the resources that are served at one moment, and the state of their files.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::resource::entries::Value;
use crate::resource::exposure::Exposure;
use crate::resource::file::Kind;
use crate::resource::name::Name;
use crate::resource::problem::Problem;

/// How many problems of a file are logged at a load: a file full of mistakes should neither fill the journal
/// nor block the serving thread.
pub const LOGGED_PROBLEMS: usize = 20;

/// A file to load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its path; the file need not exist.
    pub path: PathBuf,
    /// The kind of its entries.
    pub kind: Kind,
}

/// A resource or key in the form in which it is served.
#[derive(Clone, Debug)]
pub struct Resource {
    /// Its bytes, or why it can't be served.
    pub value: Value,
    /// The file that it comes from, for messages.
    pub file: Arc<Path>,
    /// Whether the file has it under its old name.
    pub old: bool,
    /// The changes to it before it is served. Most have none, and a missing box takes little memory.
    pub outcome: Option<Box<Outcome>>,
}

/// The changes to a resource before it is served, and their consequence.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// How the served bytes differ from the file's, a sentence each.
    pub changes: Vec<String>,
    /// What a client does with the resource, if a person would not expect that: whether it needs a fix, and
    /// the text. If the resource is refused because of its content, the reason.
    pub consequence: Option<(bool, String)>,
    /// What each file contributes to it, a sentence each, lowest precedence first, if several were merged.
    pub shares: Vec<String>,
}

impl Resource {
    /// How the served bytes differ from the file's.
    pub fn changes(&self) -> &[String] {
        self.outcome
            .as_ref()
            .map_or(&[], |outcome| &outcome.changes)
    }

    /// What a client does with the resource, if that is unexpected.
    pub fn consequence(&self) -> Option<&(bool, String)> {
        self.outcome.as_ref()?.consequence.as_ref()
    }

    /// What each file contributes to it, if several were merged.
    pub fn shares(&self) -> &[String] {
        self.outcome.as_ref().map_or(&[], |outcome| &outcome.shares)
    }
}

/// The state of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileState {
    /// It does not exist, which is normal for a default path.
    Absent,
    /// It was loaded.
    Loaded {
        /// The number of names in it.
        entries: usize,
        /// Its length in bytes.
        bytes: u64,
        /// What is wrong with single entries.
        problems: Vec<Problem>,
        /// What is wrong with its mode, owner or file system.
        exposures: Vec<Exposure>,
    },
    /// Its present content can't be used.
    Failed {
        /// Why.
        problem: Problem,
        /// Whether the last good content is still served.
        kept: bool,
    },
}

/// A file and its state.
#[derive(Clone, Debug)]
pub struct FileStatus {
    /// The file.
    pub source: Source,
    /// Its state.
    pub state: FileState,
    /// When its content was last read, or found unchanged.
    pub loaded_at: Option<Instant>,
    /// The last error and when it occurred, even if it is fixed now.
    pub last_error: Option<(Instant, String)>,
}

/// Everything that is served at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Resources by name.
    pub resources: BTreeMap<Name, Resource>,
    /// The registry credential of each file that has one, lowest precedence first. What is served of them is among the
    /// resources.
    pub credentials: Vec<Resource>,
    /// Keys by key id. They are separate from the resources, so that a request for a resource never finds a
    /// key.
    pub keys: BTreeMap<Name, Resource>,
    /// The files in order of precedence, lowest first.
    pub files: Vec<FileStatus>,
}
