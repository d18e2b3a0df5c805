// SPDX-License-Identifier: Apache-2.0

//! The contents of files, compressed as they come.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use lz4_flex::block::{compress_into, get_maximum_output_size};

use crate::erofs::Error;
use crate::erofs::format::{BLOCK, CLUSTER};

/// How much is written to the file at once: few system calls, and little memory for each layer.
const BUFFER: usize = 256 * 1024;

/// The longest end of a file that is put after its inode, where it takes no block of its own: half a block, so that an
/// inode with it fits a block with others.
pub const MAX_INLINE: usize = BLOCK / 2;

/// Where the content of a file is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// Whole blocks from `block` on, and after them `tail`, which goes behind the inode.
    Plain {
        /// The first block; 0 if there is none.
        block: u32,
        /// The content's length.
        size: u64,
        /// The end of the content.
        tail: Box<[u8]>,
    },
    /// Compressed clusters.
    Compressed {
        /// They have `CLUSTER` bytes of content each, but for the last.
        clusters: Box<[Cluster]>,
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
            tail: Box::default(),
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

/// Writes the contents of files into the data area.
pub struct ContentWriter {
    file: File,
    /// What is to be written next, whole blocks.
    buffer: Vec<u8>,
    /// The number of blocks written, those in the buffer among them.
    blocks: u32,
    /// The present file's content that is not written yet is at the start of this cluster,
    pending: Box<[u8]>,
    /// and has this length.
    filled: usize,
    clusters: Vec<Cluster>,
    size: u64,
    compressed: Vec<u8>,
    compress: bool,
    has_compressed: bool,
}

impl ContentWriter {
    /// Writes into `file`, whose first block stays free for the superblock. Without `compress`, everything is stored as it
    /// is.
    pub fn new(file: File, compress: bool) -> Self {
        Self {
            file,
            buffer: Vec::with_capacity(BUFFER + CLUSTER),
            blocks: 1,
            pending: vec![0; CLUSTER].into(),
            filled: 0,
            clusters: Vec::new(),
            size: 0,
            compressed: vec![0; get_maximum_output_size(CLUSTER)],
            compress,
            has_compressed: false,
        }
    }

    /// Adds to the content of the present file.
    ///
    /// # Errors
    ///
    /// If the layer's file can't be written.
    pub fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let room = self.room()?;
            let (now, later) = bytes.split_at(room.len().min(bytes.len()));
            room[..now.len()].copy_from_slice(now);
            self.filled(now.len());
            bytes = later;
        }
        Ok(())
    }

    /// Where more of the present file's content can be put, at least a byte: [`ContentWriter::filled`] says that it was.
    ///
    /// # Errors
    ///
    /// If the layer's file can't be written.
    pub fn room(&mut self) -> Result<&mut [u8], Error> {
        if self.filled == CLUSTER {
            self.flush_cluster()?;
        }
        Ok(&mut self.pending[self.filled..])
    }

    /// Adds the first bytes of the room to the content of the present file.
    pub fn filled(&mut self, length: usize) {
        let length = length.min(CLUSTER - self.filled);
        self.filled += length;
        self.size += length as u64;
    }

    /// Ends the present file. The next bytes are another one's.
    ///
    /// # Errors
    ///
    /// If the layer's file can't be written.
    pub fn finish_file(&mut self) -> Result<Content, Error> {
        let size = std::mem::take(&mut self.size);
        let all_plain = self.clusters.iter().all(|cluster| !cluster.compressed);
        if all_plain && !self.try_compressed()? {
            let first = self.clusters.first().map(|cluster| cluster.block);
            let length = std::mem::take(&mut self.filled);
            let whole = length - length % BLOCK;
            let keep_tail = length - whole <= MAX_INLINE;
            let end = if keep_tail { whole } else { length };
            let appended = match end {
                0 => None,
                _ => Some(self.append_pending(end)?),
            };
            let block = first.or(appended).unwrap_or_default();
            let tail = self.pending[end..length].into();
            self.clusters.clear();
            return Ok(Content::Plain { block, size, tail });
        }
        if self.filled > 0 {
            self.flush_cluster()?;
        }
        let clusters = std::mem::take(&mut self.clusters).into();
        Ok(Content::Compressed { clusters, size })
    }

    /// Writes the pending bytes compressed, if that takes fewer blocks.
    fn try_compressed(&mut self) -> Result<bool, Error> {
        // A block is the least that anything takes.
        if !self.compress || self.filled <= BLOCK {
            return Ok(false);
        }
        let pending = &self.pending[..self.filled];
        // The buffer is as long as the result can be, so this can't fail.
        let length = compress_into(pending, &mut self.compressed).unwrap_or(CLUSTER);
        let blocks = length.div_ceil(BLOCK);
        if blocks >= self.filled.div_ceil(BLOCK) {
            return Ok(false);
        }
        let compressed = std::mem::take(&mut self.compressed);
        let padding = blocks * BLOCK - length;
        let block = self.append(padding, &compressed[..length]);
        self.compressed = compressed;
        self.clusters.push(Cluster {
            block: block?,
            blocks: blocks as u8,
            compressed: true,
        });
        self.filled = 0;
        self.has_compressed = true;
        Ok(true)
    }

    fn flush_cluster(&mut self) -> Result<(), Error> {
        if self.try_compressed()? {
            return Ok(());
        }
        let length = std::mem::take(&mut self.filled);
        let block = self.append_pending(length)?;
        self.clusters.push(Cluster {
            block,
            blocks: length.div_ceil(BLOCK) as u8,
            compressed: false,
        });
        Ok(())
    }

    /// Appends the first pending bytes as they are.
    fn append_pending(&mut self, length: usize) -> Result<u32, Error> {
        let pending = std::mem::take(&mut self.pending);
        let block = self.append(0, &pending[..length]);
        self.pending = pending;
        block
    }

    /// Appends zeros, the bytes, and zeros up to the next block; gives the first block.
    pub(super) fn append(&mut self, zeros: usize, bytes: &[u8]) -> Result<u32, Error> {
        let first = self.blocks;
        let blocks = u32::try_from((zeros + bytes.len()).div_ceil(BLOCK)).ok();
        self.blocks = blocks
            .and_then(|blocks| first.checked_add(blocks))
            .ok_or(Error::TooLarge)?;
        self.buffer.resize(self.buffer.len() + zeros, 0);
        self.buffer.extend_from_slice(bytes);
        self.buffer
            .resize(self.buffer.len().next_multiple_of(BLOCK), 0);
        if self.buffer.len() >= BUFFER {
            self.flush()?;
        }
        Ok(first)
    }

    /// Writes what is buffered.
    pub(super) fn flush(&mut self) -> Result<(), Error> {
        let buffered = (self.buffer.len() / BLOCK) as u64;
        let at = (u64::from(self.blocks) - buffered) * BLOCK as u64;
        self.file.write_all_at(&self.buffer, at)?;
        self.buffer.clear();
        Ok(())
    }

    /// The number of blocks so far.
    pub(super) fn blocks(&self) -> u32 {
        self.blocks
    }

    /// Whether any file is compressed.
    pub(super) fn has_compressed(&self) -> bool {
        self.has_compressed
    }

    /// The file, for the superblock at its start.
    pub(super) fn file(&self) -> &File {
        &self.file
    }
}
