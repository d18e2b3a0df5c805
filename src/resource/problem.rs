// SPDX-License-Identifier: Apache-2.0

//! What is wrong with a file or one of its entries, in words for the person who mends it.

use std::fmt;

use crate::json::Position;
use crate::text::EntryName;

/// One thing that is wrong with a file, without any part of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The entry, by its name as the file has it; none if the whole file is meant.
    pub entry: Option<String>,
    /// Where in the file.
    pub position: Option<Position>,
    /// What is wrong.
    pub what: String,
    /// What to do or to type.
    pub mend: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(position) = self.position {
            write!(f, "{position}: ")?;
        }
        if let Some(entry) = &self.entry {
            write!(f, "entry {}: ", EntryName(entry))?;
        }
        write!(f, "{}; {}", self.what, self.mend)
    }
}
