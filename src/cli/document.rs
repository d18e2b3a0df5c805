// SPDX-License-Identifier: Apache-2.0

//! A resources file as text: its entries in order, those of an existing file kept as they are.

use std::path::Path;

use anyhow::{Context as _, bail};
use offline_fs_kbc::json;
use offline_fs_kbc::resource::file::{self, Kind};
use offline_fs_kbc::resource::name::{CREDENTIAL, Name};
use offline_fs_kbc::resource::parse::{MAX_ENTRIES, parse_object};
use offline_fs_kbc::userdata;
use zeroize::Zeroizing;

/// The entries of a resources file, each as JSON has it.
pub struct Document(Vec<Entry>);

/// A name and a value, both as JSON literals.
pub struct Entry {
    /// The name, a JSON string.
    written: String,
    /// The value, a JSON string unless a file had something else there.
    value: Zeroizing<String>,
}

impl Entry {
    /// One whose value is this base64.
    ///
    /// # Errors
    ///
    /// Never: any text is a JSON string.
    pub fn new(name: &str, base64: &str) -> anyhow::Result<Self> {
        Ok(Self {
            written: serde_json::to_string(name)?,
            value: Zeroizing::new(format!("\"{base64}\"")),
        })
    }
}

impl Document {
    /// One that has just these entries.
    pub fn new(given: Vec<(Name, Entry)>) -> Self {
        Self(given.into_iter().map(|(_, entry)| entry).collect())
    }

    /// The entries of the file at `path`, each value byte for byte as it stands there, but that `given`
    /// ones replace those of the same name, whichever way it is written. What is new comes last.
    ///
    /// # Errors
    ///
    /// Where the file can't be read, or is not a JSON object.
    pub fn merge(path: &Path, given: Vec<(Name, Entry)>) -> anyhow::Result<Self> {
        let shown = path.display();
        let content = file::read(path).with_context(|| format!("can't read {shown}"))?;
        let parsed = match parse_object(&content.text, &Kind::Resources) {
            Ok(parsed) => parsed,
            Err(problem) => bail!("{shown}: {problem}"),
        };
        for problem in &parsed.problems {
            let name = problem.entry.as_deref().map(Name::parse);
            if !given
                .iter()
                .any(|(given, _)| name == Some(Ok(given.clone())))
            {
                super::warn(format!("{shown}: {problem}; kept as it is"));
            }
        }
        let mut given: Vec<(Name, Option<Entry>)> = given
            .into_iter()
            .map(|(name, entry)| (name, Some(entry)))
            .collect();
        let mut entries = Vec::new();
        for member in json::members(&content.text, MAX_ENTRIES)? {
            let name = Name::parse(&member.name).ok();
            match given
                .iter_mut()
                .find(|(given, _)| Some(given) == name.as_ref())
            {
                // The new value takes the place of the first of its name; more of them go.
                Some((_, entry)) => entries.extend(entry.take()),
                None => entries.push(Entry {
                    written: serde_json::to_string(&member.name)?,
                    value: Zeroizing::new(member.value.to_owned()),
                }),
            }
        }
        entries.extend(given.into_iter().filter_map(|(_, entry)| entry));
        Ok(Self(entries))
    }

    /// The text for people, an entry a line.
    pub fn lines(&self) -> Zeroizing<String> {
        self.text(["{\n  ", ",\n  ", ": ", "\n}\n"])
    }

    /// The text in the form of cloud-api-adaptor's template, with no blank in it.
    pub fn dense(&self) -> Zeroizing<String> {
        self.text(["{", ",", ":", "}\n"])
    }

    fn text(&self, [first, next, colon, last]: [&str; 4]) -> Zeroizing<String> {
        // Room for all of it, since a text that grows leaves copies behind.
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

    /// Checks the credential against the size at which cloud-api-adaptor leaves it out.
    ///
    /// # Errors
    ///
    /// Where it is too large.
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
                    "the credential has {size} bytes; cloud-api-adaptor leaves out one of {most} or \
                     more, silently: remove registries that the pods don't need, or put the resources \
                     file into the image"
                );
            }
        }
        Ok(())
    }
}
