// SPDX-License-Identifier: Apache-2.0

//! The contents of files, compressed as they come.

use std::fs::File;
use std::os::unix::fs::FileExt as _;

use lz4_flex::block::{compress_into, get_maximum_output_size};

use crate::erofs::Error;
use crate::erofs::extent::{Cluster, Content};
use crate::erofs::format::{BLOCK, CLUSTER};
use crate::erofs::scratch::Blob;
use crate::erofs::tree::Tree;

/// How much is written to the file at once: few system calls, and little memory for each layer.
const BUFFER: usize = 256 * 1024;

/// The longest end of a file that is put after its inode, where it takes no block of its own: half a block, so that an
/// inode with it fits a block with others.
pub const MAX_INLINE: usize = BLOCK / 2;

/// The clusters of the present file.
#[derive(Default)]
struct Clusters {
    /// Where the record of the first is kept, if there is one, and its block. The records of the others follow.
    first: Option<(u32, u32)>,
    count: usize,
    blocks: u32,
    has_compressed: bool,
}

impl Clusters {
    fn add(&mut self, tree: &mut Tree, cluster: Cluster) -> Result<(), Error> {
        let record = tree.keep(&cluster.encode())?;
        self.first.get_or_insert((record.at, cluster.block));
        self.count += 1;
        self.blocks += u32::from(cluster.blocks);
        self.has_compressed |= cluster.compressed;
        Ok(())
    }
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
    clusters: Clusters,
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
            clusters: Clusters::default(),
            size: 0,
            compressed: vec![0; get_maximum_output_size(CLUSTER)],
            compress,
            has_compressed: false,
        }
    }

    /// Adds to the content of the present file. Where its clusters are is kept in the tree.
    ///
    /// # Errors
    ///
    /// If the layer's file or the scratch file can't be written.
    pub fn write(&mut self, tree: &mut Tree, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let room = self.room(tree)?;
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
    /// If the layer's file or the scratch file can't be written.
    pub fn room(&mut self, tree: &mut Tree) -> Result<&mut [u8], Error> {
        if self.filled == CLUSTER {
            self.flush_cluster(tree)?;
        }
        Ok(&mut self.pending[self.filled..])
    }

    /// Adds the first bytes of the room to the content of the present file.
    pub fn filled(&mut self, length: usize) {
        let length = length.min(CLUSTER - self.filled);
        self.filled += length;
        self.size += length as u64;
    }

    /// Ends the present file. The next bytes are another one's. What the tree kept since the file's first byte must be its
    /// clusters alone.
    ///
    /// # Errors
    ///
    /// If the layer's file or the scratch file can't be written.
    pub fn finish_file(&mut self, tree: &mut Tree) -> Result<Content, Error> {
        let size = std::mem::take(&mut self.size);
        if !self.clusters.has_compressed && !self.try_compressed(tree)? {
            let length = std::mem::take(&mut self.filled);
            let whole = length - length % BLOCK;
            let keep_tail = length - whole <= MAX_INLINE;
            let end = if keep_tail { whole } else { length };
            let appended = match end {
                0 => None,
                _ => Some(self.append_pending(end)?),
            };
            // Where the clusters are needs no record, since they follow one another.
            let block = match std::mem::take(&mut self.clusters).first {
                Some((record, block)) => {
                    tree.forget(record);
                    block
                }
                None => appended.unwrap_or_default(),
            };
            let tail = tree.keep(&self.pending[end..length])?;
            return Ok(Content::Plain { block, size, tail });
        }
        if self.filled > 0 {
            self.flush_cluster(tree)?;
        }
        let clusters = std::mem::take(&mut self.clusters);
        let (at, _) = clusters.first.unwrap_or_default();
        Ok(Content::Compressed {
            clusters: Blob {
                at,
                length: (clusters.count * Cluster::BYTES) as u32,
            },
            blocks: clusters.blocks,
            size,
        })
    }

    /// Writes the pending bytes compressed, if that takes fewer blocks.
    fn try_compressed(&mut self, tree: &mut Tree) -> Result<bool, Error> {
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
        let cluster = Cluster {
            block: block?,
            blocks: blocks as u8,
            compressed: true,
        };
        self.clusters.add(tree, cluster)?;
        self.filled = 0;
        self.has_compressed = true;
        Ok(true)
    }

    fn flush_cluster(&mut self, tree: &mut Tree) -> Result<(), Error> {
        if self.try_compressed(tree)? {
            return Ok(());
        }
        let length = std::mem::take(&mut self.filled);
        let block = self.append_pending(length)?;
        let cluster = Cluster {
            block,
            blocks: length.div_ceil(BLOCK) as u8,
            compressed: false,
        };
        self.clusters.add(tree, cluster)
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
