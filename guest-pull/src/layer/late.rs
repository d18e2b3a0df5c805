// SPDX-License-Identifier: Apache-2.0

//! Hard links that came before their targets, kept until the end.

use crate::erofs::{self, Attributes, Blob, NodeId, Tree};
use crate::layer::path::shown;
use crate::layer::{Error, Fault};

/// A hard link whose target was not there yet.
pub struct LateLink {
    /// The name in the archive.
    pub path: Vec<u8>,
    pub directory: NodeId,
    pub name: Vec<u8>,
    pub target: Vec<u8>,
    pub attributes: Attributes,
}

/// Where one is kept: the names and attributes of ten thousand take far more memory than a layer may.
#[derive(Clone, Copy)]
pub struct Kept {
    directory: NodeId,
    path: Blob,
    name: Blob,
    target: Blob,
    attributes: Blob,
}

impl LateLink {
    /// Keeps it in the tree's scratch file.
    pub fn keep(&self, tree: &mut Tree) -> Result<Kept, erofs::Error> {
        Ok(Kept {
            directory: self.directory,
            path: tree.keep(&self.path)?,
            name: tree.keep(&self.name)?,
            target: tree.keep(&self.target)?,
            attributes: tree.keep(&self.attributes.pack())?,
        })
    }

    /// One that was kept.
    pub fn of(kept: Kept, tree: &mut Tree) -> Result<Self, erofs::Error> {
        Ok(Self {
            path: tree.bytes(kept.path)?,
            directory: kept.directory,
            name: tree.bytes(kept.name)?,
            target: tree.bytes(kept.target)?,
            attributes: Attributes::unpack(&tree.bytes(kept.attributes)?),
        })
    }

    /// An error that names it.
    pub fn refused(&self, what: impl Into<String>) -> Error {
        Error::Entry {
            path: shown(&self.path),
            what: what.into(),
        }
    }

    /// The same of a fault.
    pub fn failed(&self, fault: Fault) -> Error {
        match fault {
            Fault::Entry(what) => self.refused(what),
            Fault::Write(error) => Error::Write(error),
        }
    }
}
