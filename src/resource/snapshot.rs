// SPDX-License-Identifier: Apache-2.0

//! What is served at one moment: the resources, and the state of the files that they come from.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use crate::resource::entries::Value;
use crate::resource::exposure::Exposure;
use crate::resource::file::Kind;
use crate::resource::name::Name;
use crate::resource::problem::Problem;

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
    pub outcome: Option<Box<Outcome>>,
}

/// What was found in a resource and done to it before it is served.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// How the bytes differ from the file's, a sentence each; mostly not at all.
    pub changes: Vec<String>,
    /// What it makes a client do that gets it, where that is not what a person would expect; whether that
    /// is to be repaired, and the words. Of what is refused for its content, why.
    pub consequence: Option<(bool, String)>,
}

impl Resource {
    /// How the bytes differ from the file's.
    pub fn changes(&self) -> &[String] {
        self.outcome
            .as_ref()
            .map_or(&[], |outcome| &outcome.changes)
    }

    /// What it makes a client do that gets it.
    pub fn consequence(&self) -> Option<&(bool, String)> {
        self.outcome.as_ref()?.consequence.as_ref()
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
    /// What went wrong last, and when, be it repaired or not.
    pub last_error: Option<(Instant, String)>,
}

/// Everything that is served at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Resources by name.
    pub resources: BTreeMap<Name, Resource>,
    /// Keys by key id, apart from the resources so that no request for a resource finds one.
    pub keys: BTreeMap<Name, Resource>,
    /// The files in order of precedence, lowest first.
    pub files: Vec<FileStatus>,
}
