// SPDX-License-Identifier: Apache-2.0

//! The numbers and records of the format; all are little endian.

/// The size of a block. Larger ones need a kernel with larger pages or Linux 6.4.
pub const BLOCK: usize = 4096;

/// Where the superblock is in the first block.
pub const SUPERBLOCK_OFFSET: usize = 1024;

/// The length of the superblock.
const SUPERBLOCK_BYTES: usize = 128;

const MAGIC: u32 = 0xe0f5_e1e2;

/// Inodes have times of modification, and not only the file system.
const COMPAT_MTIME: u32 = 0x2;

/// Zeros come before the data of a compressed cluster, and not after it.
const INCOMPAT_ZERO_PADDING: u32 = 0x1;

/// A configuration for each algorithm follows the superblock, and clusters have more than one block.
const INCOMPAT_COMPRESSION_CONFIGS: u32 = 0x2;

/// The bit of LZ4 among the algorithms.
const LZ4: u16 = 0x1;

/// How far back a match of LZ4 may lie.
const LZ4_MAX_DISTANCE: u16 = 65535;

/// The size of an inode with 64-bit sizes, 32-bit owners and a time of its own.
pub const INODE_BYTES: usize = 64;

/// Inodes are numbered by their place in units of this many bytes.
pub const SLOT: usize = 32;

/// The length of the header before an inode's extended attributes.
pub const XATTR_HEADER_BYTES: usize = 12;

/// The length of the record of one extended attribute, before its name and value.
pub const XATTR_ENTRY_BYTES: usize = 4;

/// The most bytes that an inode's extended attributes can take: their number of words has 16 bits.
pub const MAX_XATTR_BYTES: usize = XATTR_HEADER_BYTES + 4 * (u16::MAX as usize - 1);

/// The length of one record of a directory, without the name.
pub const DIRENT_BYTES: usize = 12;

/// What is compressed at once. Larger clusters shrink a little more, and cost more for each random read.
pub const CLUSTER: usize = 64 * 1024;

/// The length of what comes before the index of a compressed file: a header of 8 bytes, and 8 of padding.
pub const INDEX_HEADER_BYTES: usize = 16;

/// The length of the index's record for one block of a compressed file.
pub const INDEX_ENTRY_BYTES: usize = 8;

/// How an inode's content is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// Whole blocks, one after another.
    Plain = 0,
    /// Compressed, with a record for each block of the content.
    Compressed = 1,
    /// Whole blocks, and the rest after the inode.
    Inline = 2,
}

/// An inode as it stands on disk.
pub struct RawInode {
    pub layout: Layout,
    /// The words of extended attributes, as the format counts them.
    pub xattr_count: u16,
    pub mode: u16,
    pub size: u64,
    /// The first block, the number of compressed blocks, or the device's number.
    pub union: u32,
    pub number: u32,
    pub uid: u32,
    pub gid: u32,
    pub seconds: i64,
    pub nanoseconds: u32,
    pub links: u32,
}

impl RawInode {
    /// Its bytes.
    pub fn encode(&self) -> [u8; INODE_BYTES] {
        let mut bytes = [0; INODE_BYTES];
        let mut put = Fields::new(&mut bytes);
        // The lowest bit says that it is an extended inode.
        put.u16(1 | (self.layout as u16) << 1);
        put.u16(self.xattr_count);
        put.u16(self.mode);
        put.u16(0);
        put.u64(self.size);
        put.u32(self.union);
        put.u32(self.number);
        put.u32(self.uid);
        put.u32(self.gid);
        put.u64(self.seconds as u64);
        put.u32(self.nanoseconds);
        put.u32(self.links);
        bytes
    }
}

/// What the superblock says.
pub struct Superblock {
    pub root: u16,
    pub inodes: u64,
    pub blocks: u32,
    pub metadata_block: u32,
    pub uuid: [u8; 16],
    /// Whether any file is compressed.
    pub compressed: bool,
}

impl Superblock {
    /// Its bytes, and those of the configurations after it.
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = vec![0; SUPERBLOCK_BYTES];
        let mut put = Fields::new(&mut bytes);
        put.u32(MAGIC);
        // No checksum: dm-verity or the digest of the layer are stronger.
        put.u32(0);
        put.u32(COMPAT_MTIME);
        put.bytes(&[BLOCK.trailing_zeros() as u8, 0]);
        put.u16(self.root);
        put.u64(self.inodes);
        // The time of the file system, which no inode uses.
        put.u64(0);
        put.u32(0);
        put.u32(self.blocks);
        put.u32(self.metadata_block);
        // No attributes are shared between inodes.
        put.u32(0);
        put.bytes(&self.uuid);
        // No name.
        put.bytes(&[0; 16]);
        let (features, algorithms) = match self.compressed {
            true => (INCOMPAT_ZERO_PADDING | INCOMPAT_COMPRESSION_CONFIGS, LZ4),
            false => (0, 0),
        };
        put.u32(features);
        put.u16(algorithms);
        if self.compressed {
            let mut config = [0; 16];
            let mut put = Fields::new(&mut config);
            // The length of what follows.
            put.u16(14);
            put.u16(LZ4_MAX_DISTANCE);
            put.u16((CLUSTER / BLOCK) as u16);
            bytes.extend(config);
        }
        bytes
    }
}

/// Writes numbers one after another.
pub struct Fields<'a> {
    rest: &'a mut [u8],
}

impl<'a> Fields<'a> {
    /// Writes into `bytes`, from their start.
    pub fn new(bytes: &'a mut [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Writes the bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        let rest = std::mem::take(&mut self.rest);
        let length = bytes.len().min(rest.len());
        let (these, rest) = rest.split_at_mut(length);
        these.copy_from_slice(&bytes[..length]);
        self.rest = rest;
    }

    /// Writes 16 bits.
    pub fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    /// Writes 32 bits.
    pub fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    /// Writes 64 bits.
    pub fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }
}
