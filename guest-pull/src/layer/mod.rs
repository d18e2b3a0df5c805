// SPDX-License-Identifier: Apache-2.0

//! A layer's archive, made into a read-only file system in one pass.
//!
//! What is right, entry by entry, is what containerd makes of the archive. The file system says the rest in the words of
//! overlayfs: a name that a layer takes away is a character device 0/0, a directory that hides what is below it has the
//! attribute `trusted.overlay.opaque`.

mod acl;
mod archive;
mod attributes;
mod header;
mod late;
pub(crate) mod path;
mod pax;
mod place;
mod reader;
mod sparse;
mod way;

pub(crate) use attributes::is_kept;

use std::fs::File;
use std::io::{self, Read};

use common::text::count;
use thiserror::Error;

use crate::erofs;

pub use place::Layer;

/// The longest notes about a layer, which have its directories without an entry and its links to lower layers: an ordinary
/// one has a few. The mounter looks at each of them.
pub(crate) const MAX_NOTES_BYTES: usize = 1 << 20;

/// How many of them there are: as paths of their own, they take three times the memory of short ones in a row.
pub(crate) const MAX_NOTES: usize = 20_000;

/// Why a layer is refused.
#[derive(Debug, Error)]
pub enum Error {
    /// The archive ends too early, or isn't one.
    #[error("the archive can't be read after {}: {error}", count(*entries, "entry", "entries"))]
    Archive {
        /// How many entries came before.
        entries: usize,
        /// What is wrong.
        error: io::Error,
    },
    /// An entry can't be what it says it is.
    #[error("entry {path}: {what}")]
    Entry {
        /// The name in the archive, escaped.
        path: String,
        /// What is wrong with it.
        what: String,
    },
    /// The archive has more of something than a layer may have.
    #[error("more than {most} {what}")]
    Limit {
        /// What there is too much of.
        what: &'static str,
        /// The most that a layer may have.
        most: usize,
    },
    /// The file system can't be written.
    #[error(transparent)]
    Write(#[from] erofs::Error),
}

/// Why an entry can't be put into a layer.
#[derive(Debug)]
enum Fault {
    /// What is wrong with it.
    Entry(String),
    /// The file system can't be written.
    Write(erofs::Error),
}

impl From<String> for Fault {
    fn from(what: String) -> Self {
        Self::Entry(what)
    }
}

impl From<&str> for Fault {
    fn from(what: &str) -> Self {
        Self::Entry(what.to_owned())
    }
}

impl From<erofs::Error> for Fault {
    fn from(error: erofs::Error) -> Self {
        Self::Write(error)
    }
}

/// What became of a layer's archive.
#[derive(Debug, Default)]
pub struct Summary {
    /// The length of the file system in bytes.
    pub bytes: u64,
    /// How many entries the archive had.
    pub entries: usize,
    /// The directories that the archive has no entry for, although it has entries below them: absolute paths, sorted. In an
    /// overlay they should have the attributes of the lower layers' directories.
    pub implied: Vec<Vec<u8>>,
    /// The hard links to files that the layer doesn't have, and those files: absolute paths. There is an empty file with the
    /// link's attributes in the place of each.
    pub links: Vec<(Vec<u8>, Vec<u8>)>,
    /// Whether the layer hides everything that is below it.
    pub hides_all: bool,
}

/// Reads an uncompressed archive to its end, and writes the file system into `file`, which is empty. `uuid` identifies it.
///
/// What must be known until the end goes to `scratch`, another empty file that can be read and written, as far as it is more
/// than a few MiB.
///
/// # Errors
///
/// If the archive is broken or refused, or a file can't be written.
pub fn convert(
    archive: impl Read,
    file: File,
    scratch: File,
    compress: bool,
    uuid: [u8; 16],
) -> Result<Summary, Error> {
    let mut layer = Layer::new(file, scratch, compress)?;
    archive::read(archive, &mut layer)?;
    layer.finish(uuid)
}
