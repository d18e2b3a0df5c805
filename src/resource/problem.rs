// SPDX-License-Identifier: Apache-2.0

//! What is wrong with a file or one of its entries, in words for the person who repairs it.

use std::fmt;

use crate::json::Position;
use crate::text::EntryName;

/// The code of the problem that has nothing to do with the file: it may be gone at the next look.
pub const NO_MEMORY: &str = "no-memory";

/// What it means that nothing of a credential can be served.
pub const CREDENTIAL_REFUSED: &str = "if no other file has a credential, requests for it are refused: kata-agents \
                                      before 3.8 then pull anonymously, those of 3.8 to 3.17 and guest-pull pull no image";

/// The code of the problem that the tools which write names solve by themselves.
pub const NAME_SPELLING: &str = "name-spelling";

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// No mistake for certain, and yet it may be why a pull fails.
    Note,
    /// It works, but not as it may be meant, or not everywhere.
    Warning,
    /// Something that is asked for won't be had.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// One thing that is wrong with a file, without any part of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// How bad it is.
    pub severity: Severity,
    /// What kind of problem it is, in a word that stays the same from release to release.
    pub code: &'static str,
    /// The entry, by its name as the file has it; none if the whole file is meant.
    pub entry: Option<String>,
    /// Where in the file.
    pub position: Option<Position>,
    /// What is wrong, and what it means for a pull.
    pub what: String,
    /// What to do or to type.
    pub fix: String,
}

impl Problem {
    /// One about a whole file.
    pub fn of_file(
        severity: Severity,
        code: &'static str,
        what: impl Into<String>,
        fix: impl Into<String>,
    ) -> Self {
        Self {
            severity,
            code,
            entry: None,
            position: None,
            what: what.into(),
            fix: fix.into(),
        }
    }

    /// The same about one entry.
    pub fn about_entry(mut self, entry: impl Into<String>, position: Option<Position>) -> Self {
        self.entry = Some(entry.into());
        self.position = position;
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(position) = self.position {
            write!(f, "{position}: ")?;
        }
        if let Some(entry) = &self.entry {
            write!(f, "entry {}: ", EntryName(entry))?;
        }
        write!(f, "{}; {}", self.what, self.fix)
    }
}
