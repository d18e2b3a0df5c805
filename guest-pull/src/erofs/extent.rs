// SPDX-License-Identifier: Apache-2.0

//! Where the content of a file is in the file system.

use crate::erofs::scratch::Blob;

/// Where the content of a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// Whole blocks from `block` on, and after them `tail`, which goes behind the inode.
    Plain {
        /// The first block; 0 if there is none.
        block: u32,
        /// The content's length.
        size: u64,
        /// The end of the content.
        tail: Blob,
    },
    /// Compressed clusters.
    Compressed {
        /// They have `CLUSTER` bytes of content each, but for the last. Each is kept as [`Cluster::encode`] has it.
        clusters: Blob,
        /// How many blocks they take.
        blocks: u32,
        /// The content's length.
        size: u64,
    },
}

impl Content {
    /// Nothing.
    pub fn empty() -> Self {
        Self::Plain {
            block: 0,
            size: 0,
            tail: Blob::default(),
        }
    }

    /// The length of the content.
    pub fn size(&self) -> u64 {
        match self {
            Self::Plain { size, .. } | Self::Compressed { size, .. } => *size,
        }
    }
}

/// Where one cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Its first block.
    pub block: u32,
    /// How many blocks it takes.
    pub blocks: u8,
    /// Whether it is compressed.
    pub compressed: bool,
}

impl Cluster {
    /// The length of its record.
    pub const BYTES: usize = 6;

    /// Its record.
    pub(super) fn encode(self) -> [u8; Self::BYTES] {
        let [a, b, c, d] = self.block.to_le_bytes();
        [a, b, c, d, self.blocks, u8::from(self.compressed)]
    }

    /// The cluster that a record says.
    pub(super) fn decode([a, b, c, d, blocks, compressed]: [u8; Self::BYTES]) -> Self {
        Self {
            block: u32::from_le_bytes([a, b, c, d]),
            blocks,
            compressed: compressed != 0,
        }
    }
}
