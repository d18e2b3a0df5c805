// SPDX-License-Identifier: Apache-2.0

//! Writes an EROFS file system in one pass: the contents of files as they come, then the metadata, then the superblock.
//!
//! Nothing is extracted, so a layer has no path that could lead anywhere, and what it says about owners, modes and
//! attributes needs no capability to be kept. The format is that of the kernel's `fs/erofs/erofs_fs.h` (Linux 5.13 and
//! later); docs/guest-pull.md has the choices.

mod content;
mod directory;
mod extent;
mod format;
mod metadata;
mod names;
mod node;
mod scratch;
mod tree;
mod xattr;

pub use content::ContentWriter;
pub use extent::Content;
pub use metadata::{check, finish};
pub use node::{Attributes, Device, Directory, Kind, Node, NodeId, ROOT};
pub use scratch::Blob;
pub use tree::{Entries, Noted, Tree};
pub use xattr::Xattr;

use std::io;

use thiserror::Error;

/// Why a file system can't be written.
#[derive(Debug, Error)]
pub enum Error {
    /// The file can't be written.
    #[error("can't write the layer's file: {0}")]
    Write(#[from] io::Error),
    /// The scratch file can't be used.
    #[error("can't use the layer's scratch file: {0}")]
    Scratch(io::Error),
    /// What goes to the scratch file is too much.
    #[error("the names, attributes and ends of files up to here take more than {} MiB", .0 >> 20)]
    TooMuch(usize),
    /// A name is too long.
    #[error("a name has {0} bytes, and at most 255 fit")]
    Name(usize),
    /// Extended attributes don't fit the format.
    #[error(
        "the extended attributes up to {name} take {bytes} bytes, and at most {most} fit an inode"
    )]
    Xattrs {
        /// The one that doesn't fit.
        name: String,
        /// What they take.
        bytes: usize,
        /// What fits.
        most: usize,
    },
    /// A symbolic link is too long.
    #[error("a link's target of {0} bytes and its extended attributes don't fit a block")]
    Link(usize),
    /// The file system has more blocks than the format can number.
    #[error("the layer has more than 16 TiB")]
    TooLarge,
}
