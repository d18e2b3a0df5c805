// SPDX-License-Identifier: Apache-2.0

//! The text of a resources file: its entries in order, with those of an existing file unchanged.

use std::path::Path;

use anyhow::{Context as _, bail};
use offline_fs_kbc::json;
use offline_fs_kbc::resource::file::{self, Kind};
use offline_fs_kbc::resource::name::{CREDENTIAL, Name};
use offline_fs_kbc::resource::parse::{MAX_ENTRIES, parse_object};
use offline_fs_kbc::resource::problem::NAME_SPELLING;
use offline_fs_kbc::userdata;
use zeroize::Zeroizing;

/// The entries of a resources file, as JSON literals.
pub struct Document(Vec<Entry>);

/// A name and a value, both as JSON literals.
pub struct Entry {
    /// The name as a JSON string.
    written: String,
    /// The value: a JSON string, unless an existing file has something else there.
    value: Zeroizing<String>,
}

impl Entry {
    /// An entry with this base64 as its value.
    ///
    /// # Errors
    ///
    /// Never: any text can be written as a JSON string.
    pub fn new(name: &str, base64: &str) -> anyhow::Result<Self> {
        Ok(Self {
            written: serde_json::to_string(name)?,
            value: Zeroizing::new(format!("\"{base64}\"")),
        })
    }
}

impl Document {
    /// A document with these entries.
    pub fn new(given: Vec<(Name, Entry)>) -> Self {
        Self(given.into_iter().map(|(_, entry)| entry).collect())
    }

    /// The entries of the file at `path`, each value byte for byte as it is there, each path in the spelling in
    /// which all agents look it up. A `given` entry replaces those of the same name, in any spelling; new names
    /// come last.
    ///
    /// # Errors
    ///
    /// If the file can't be read, or is not a JSON object.
    pub fn merge(path: &Path, given: Vec<(Name, Entry)>) -> anyhow::Result<Self> {
        let shown = path.display();
        let content = file::read(path).with_context(|| format!("can't read {shown}"))?;
        let parsed = match parse_object(&content.text, &Kind::Resources) {
            Ok(parsed) => parsed,
            Err(problem) => bail!("{shown}: {problem}"),
        };
        let found = parsed.problems.iter();
        for problem in found.filter(|problem| problem.code != NAME_SPELLING) {
            let name = problem.entry.as_deref().map(Name::parse);
            if !given
                .iter()
                .any(|(given, _)| name == Some(Ok(given.clone())))
            {
                let done = match problem.code {
                    "name-twice" => "only the last is kept",
                    _ => "kept as it is",
                };
                super::warn(format!("{shown}: {problem}; {done}"));
            }
        }
        let mut given: Vec<(Name, Option<Entry>)> = given
            .into_iter()
            .map(|(name, entry)| (name, Some(entry)))
            .collect();
        let mut entries = Vec::new();
        for member in json::members(&content.text, MAX_ENTRIES)? {
            // Upstream agents find a path by one spelling only, and the oldest ones the old names only.
            let name = Name::parse(&member.name).ok();
            let written = match &name {
                Some(name) if !Name::is_old(&member.name) => name.as_str(),
                _ => &member.name,
            };
            match given
                .iter_mut()
                .find(|(given, _)| Some(given) == name.as_ref())
            {
                // The new value replaces the first entry of this name; further ones are dropped.
                Some((_, entry)) => entries.extend(entry.take()),
                None => {
                    let written = serde_json::to_string(written)?;
                    // Two spellings of a path are one entry now, and the last counts, as in the daemon.
                    entries.retain(|entry: &Entry| entry.written != written);
                    entries.push(Entry {
                        written,
                        value: Zeroizing::new(member.value.to_owned()),
                    });
                }
            }
        }
        entries.extend(given.into_iter().filter_map(|(_, entry)| entry));
        Ok(Self(entries))
    }

    /// The text with one entry a line, for people.
    pub fn lines(&self) -> Zeroizing<String> {
        self.text(["{\n  ", ",\n  ", ": ", "\n}\n"])
    }

    /// The text without white space, as in cloud-api-adaptor's template.
    pub fn dense(&self) -> Zeroizing<String> {
        self.text(["{", ",", ":", "}\n"])
    }

    fn text(&self, [first, next, colon, last]: [&str; 4]) -> Zeroizing<String> {
        // Allocate all of it at once, since a string that grows leaves copies in memory.
        let most = first.len().max(next.len()) + colon.len();
        let room = |entry: &Entry| most + entry.written.len() + entry.value.len();
        let room = first.len() + last.len() + self.0.iter().map(room).sum::<usize>();
        let mut text = Zeroizing::new(String::with_capacity(room));
        let mut before = first;
        for entry in &self.0 {
            text.extend([before, &entry.written, colon, &entry.value]);
            before = next;
        }
        text.push_str(last);
        text
    }

    /// Checks that the credential is below the size at which cloud-api-adaptor leaves it out.
    ///
    /// # Errors
    ///
    /// If it is too large.
    pub fn check_delivery(&self) -> anyhow::Result<()> {
        let text = self.dense();
        let entries = match parse_object(text.as_bytes(), &Kind::Resources) {
            Ok(entries) => entries,
            Err(problem) => bail!("the merged entries: {problem}"),
        };
        for entry in entries.iter() {
            let size = entry.value.as_ref().map_or(0, |value| value.len());
            let most = userdata::AUTH_JSON_BYTES;
            if entry.name.as_str() == CREDENTIAL && size >= most {
                bail!(
                    "the credential has {size} bytes; cloud-api-adaptor up to v0.7.0 leaves out one of {most} or \
                     more, and says so in its own log alone: remove registries that the pods don't need, or put the resources \
                     file into the image"
                );
            }
        }
        Ok(())
    }
}
