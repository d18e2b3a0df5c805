// SPDX-License-Identifier: Apache-2.0

//! What is known of a stored layer beside its file system: the notes in the file next to it.

use crate::layer::path::parts;
use crate::layer::{MAX_NOTES, MAX_NOTES_BYTES, Summary};

/// The first line of the notes about a layer, so that later versions know them.
const NOTES: &[u8] = b"guest-pull 1\n";

/// The most paths of the notes about a layer: each link has two.
pub const MAX_NOTED_PATHS: usize = 2 * MAX_NOTES;

/// What is known of a stored layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// The directories that the archive had no entry for.
    pub implied: Vec<Vec<u8>>,
    /// The hard links to files of lower layers, and those files.
    pub links: Vec<(Vec<u8>, Vec<u8>)>,
    /// Whether it hides everything below it.
    pub hides_all: bool,
}

impl From<Summary> for Stored {
    fn from(summary: Summary) -> Self {
        Self {
            implied: summary.implied,
            links: summary.links,
            hides_all: summary.hides_all,
        }
    }
}

impl Stored {
    /// How many paths the notes have.
    pub fn noted_paths(&self) -> usize {
        self.implied.len() + 2 * self.links.len()
    }

    /// The notes: a line that says whether the layer hides all below it, then the directories, each with a NUL byte at its
    /// end; then the links, after an equals sign, each with its target behind it.
    pub fn encode(&self) -> Vec<u8> {
        let mut text = NOTES.to_vec();
        text.extend(if self.hides_all {
            &b"hides all\n"[..]
        } else {
            b"\n"
        });
        for path in &self.implied {
            text.extend(path);
            text.push(0);
        }
        for (path, target) in &self.links {
            text.extend([b"=", &path[..], b"\0", target, b"\0"].concat());
        }
        text
    }

    /// The mounter reads what the worker wrote, so each path must be one that can't lead anywhere else.
    pub fn parse(text: &[u8]) -> Option<Self> {
        if text.len() > MAX_NOTES_BYTES {
            return None;
        }
        let text = text.strip_prefix(NOTES)?;
        let end = text.iter().position(|byte| *byte == b'\n')?;
        let hides_all = match &text[..end] {
            b"hides all" => true,
            b"" => false,
            _ => return None,
        };
        let list = &text[end + 1..];
        let mut stored = Self {
            hides_all,
            ..Self::default()
        };
        if list.is_empty() {
            return Some(stored);
        }
        let list = list.strip_suffix(&[0])?;
        // Before any of them takes memory.
        if list.iter().filter(|byte| **byte == 0).count() >= MAX_NOTED_PATHS {
            return None;
        }
        let mut paths = list.split(|byte| *byte == 0);
        while let Some(path) = paths.next() {
            match path.strip_prefix(b"=") {
                Some(link) => {
                    let target = paths.next()?;
                    stored.links.push((normal(link)?, normal(target)?));
                }
                None => stored.implied.push(normal(path)?),
            }
        }
        Some(stored)
    }
}

/// A path, if it is as this program writes it: from the root, with nothing in it that leads elsewhere.
fn normal(path: &[u8]) -> Option<Vec<u8>> {
    let parts = parts(path).ok()?;
    let normal: Vec<_> = parts
        .iter()
        .flat_map(|part| [b"/", *part].concat())
        .collect();
    let is_root = parts.is_empty() && path == b"/";
    (is_root || normal == path && !parts.is_empty()).then(|| path.to_vec())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What a worker that was taken over could write beside a layer leads nowhere.
    #[test]
    fn notes_have_plain_paths_alone() {
        let notes = |path: &[u8]| [NOTES, b"\n", path, b"\0"].concat();
        for good in [&b"/"[..], b"/a", b"/a b/\xff"] {
            let stored = Stored::parse(&notes(good)).unwrap();
            assert_eq!(stored.implied, [good]);
        }
        for bad in [
            &b""[..],
            b"a",
            b"//a",
            b"/a/",
            b"/a//b",
            b"/./a",
            b"/../a",
            b"/a/..",
        ] {
            assert!(
                Stored::parse(&notes(bad)).is_none(),
                "{}",
                bad.escape_ascii()
            );
        }
    }

    /// Notes of more paths than a layer may have count as broken.
    #[test]
    fn notes_have_a_bounded_number_of_paths() {
        let notes = |paths: usize| [NOTES, b"\n", &b"/a\0".repeat(paths)].concat();
        let most = Stored::parse(&notes(MAX_NOTED_PATHS)).unwrap();
        assert_eq!(most.noted_paths(), MAX_NOTED_PATHS);
        assert_eq!(Stored::parse(&notes(MAX_NOTED_PATHS + 1)), None);
    }
}
