// SPDX-License-Identifier: Apache-2.0

//! The end of a file system: directories, inodes, and the superblock.
//!
//! Each step goes through the inodes in the order in which they are written, and through the names of one directory at a
//! time, so that it takes the same memory for any number of them.

use std::os::unix::fs::FileExt as _;

use crate::erofs::Error;
use crate::erofs::content::{ContentWriter, MAX_INLINE};
use crate::erofs::directory::{Encoder, Size};
use crate::erofs::extent::{Cluster, Content};
use crate::erofs::format::{
    BLOCK, CLUSTER, Fields, INDEX_ENTRY_BYTES, INDEX_HEADER_BYTES, INODE_BYTES, Layout, RawInode,
    SLOT, SUPERBLOCK_OFFSET, Superblock, XATTR_HEADER_BYTES,
};
use crate::erofs::node::{Device, Kind, Node, NodeId, ROOT};
use crate::erofs::scratch::Blob;
use crate::erofs::tree::{Entries, Tree};
use crate::erofs::xattr::{self, Xattr};

/// How much of the metadata is written at once.
const PART: usize = 64 * BLOCK;

/// How many records of clusters are read at once.
const CLUSTERS: usize = 1024;

/// Writes everything but the contents of files, and gives the length of the file system in bytes.
///
/// `uuid` identifies it; two layers of one overlay must not have the same.
///
/// # Errors
///
/// If the file or the scratch file can't be written, or an inode doesn't fit the format.
pub fn finish(tree: &mut Tree, writer: &mut ContentWriter, uuid: [u8; 16]) -> Result<u64, Error> {
    let inodes = place_all(tree)?;
    // Directories that don't fit behind their inodes, which must come before the metadata.
    let mut next = Some(ROOT);
    while let Some(id) = next {
        let node = tree.get(id)?;
        if node.is_directory() {
            write_directory(tree, id, &node, writer)?;
        }
        next = node.next;
    }
    writer.flush()?;
    let metadata_block = writer.blocks();
    let mut inode = Inodes::new(writer);
    let mut next = Some(ROOT);
    while let Some(id) = next {
        let node = tree.get(id)?;
        inode.add(tree, id, &node)?;
        next = node.next;
    }
    inode.finish()?;
    writer.flush()?;
    let superblock = Superblock {
        root: tree.get(ROOT)?.slot as u16,
        inodes,
        blocks: writer.blocks(),
        metadata_block,
        uuid,
        compressed: writer.has_compressed(),
    };
    let mut first = vec![0; SUPERBLOCK_OFFSET];
    first.extend(superblock.encode());
    first.resize(BLOCK, 0);
    writer.file().write_all_at(&first, 0)?;
    Ok(u64::from(writer.blocks()) * BLOCK as u64)
}

/// Puts the nodes that names lead to into their order, the root first, each once, a directory before what is in it; and
/// gives each its place. Returns how many there are.
fn place_all(tree: &mut Tree) -> Result<u64, Error> {
    // The first slot stays free, since programs take the inode 0 for none.
    let mut at = SLOT as u64;
    let mut inodes = 0;
    // Those that names lead to, but have no place yet, have this until they get it: it is no place, since it is the root's.
    let waiting = 1;
    let mut last = ROOT;
    tree.update(ROOT, |root| root.next = None)?;
    let mut next = Some(ROOT);
    while let Some(id) = next {
        inodes += 1;
        let mut node = tree.get(id)?;
        if node.is_directory() {
            let mut size = Size::default();
            let mut directories = 0;
            let mut listing = Listing::new(tree, id, &node);
            while let Some((name, child)) = listing.peek(tree)? {
                size.add(name.len());
                let is_dot = listing.advance();
                if is_dot {
                    continue;
                }
                let found = tree.get(child)?;
                directories += u32::from(found.is_directory());
                if found.slot == 0 && child != ROOT {
                    tree.update(child, |child| (child.slot, child.next) = (waiting, None))?;
                    tree.update(last, |last| last.next = Some(child))?;
                    last = child;
                }
            }
            // The node that is written after this one may be known by now.
            node = tree.get(id)?;
            if let Kind::Directory(directory) = &mut node.kind {
                (directory.size, directory.directories) = (size.bytes(), directories);
            }
        }
        let (place, end) = place(tree, &node, at)?;
        at = end;
        node.slot = place / SLOT as u64;
        next = node.next;
        tree.update(id, |written| *written = node)?;
    }
    Ok(inodes)
}

/// Checks that an inode of this kind can have these extended attributes, as long as it is known which entry of an archive says
/// so: at the end, nobody could name it.
///
/// # Errors
///
/// If it can't.
pub fn check(kind: &Kind, xattrs: &[Xattr]) -> Result<(), Error> {
    let head = INODE_BYTES + xattr::size(xattrs)?;
    match kind {
        Kind::Symlink(target) if head % SLOT + target.len() > BLOCK => {
            Err(Error::Link(target.len()))
        }
        _ => Ok(()),
    }
}

/// Where a node goes that comes after `next`, and where it ends, in bytes from the start of the metadata.
fn place(tree: &mut Tree, node: &Node, mut next: u64) -> Result<(u64, u64), Error> {
    let head = INODE_BYTES + xattr::size(&tree.xattrs(node)?)?;
    let (in_one_block, rest) = behind(node);
    if head % SLOT + in_one_block > BLOCK {
        return Err(Error::Link(in_one_block));
    }
    // A link with a target that no place is good enough for is for later kernels alone.
    let is_link =
        matches!(node.kind, Kind::Symlink(_)) && SLOT + head - INODE_BYTES + in_one_block <= BLOCK;
    // Where the end of a content starts in its block. Before Linux 6.12 and its stable releases, the kernel takes
    // a link's to be in the block in which its inode ends, behind all of its extended attributes.
    let starts = |next: u64| match is_link {
        true => (next as usize + INODE_BYTES - 1) % BLOCK + 1 + head - INODE_BYTES,
        false => (next as usize + head) % BLOCK,
    };
    // The end of a content must lie in one block.
    while in_one_block > 0 && starts(next) + in_one_block > BLOCK {
        next += SLOT as u64;
    }
    let end = next
        + match rest {
            0 => head + in_one_block,
            rest => head.next_multiple_of(INDEX_ENTRY_BYTES) + rest,
        } as u64;
    Ok((next, end.next_multiple_of(SLOT as u64)))
}

/// How many bytes come behind the inode and its attributes: the end of a content, which must lie in one block, or the
/// index of a compressed file with its header.
fn behind(node: &Node) -> (usize, usize) {
    match &node.kind {
        Kind::File(Content::Plain { tail, .. }) => (tail.len(), 0),
        Kind::File(Content::Compressed { size, .. }) => {
            let blocks = size.div_ceil(BLOCK as u64) as usize;
            (0, INDEX_HEADER_BYTES + blocks * INDEX_ENTRY_BYTES)
        }
        Kind::Directory(directory) => (inline_length(directory.size as usize), 0),
        Kind::Symlink(target) => (target.len(), 0),
        Kind::CharacterDevice(_) | Kind::BlockDevice(_) | Kind::Fifo => (0, 0),
    }
}

/// How much of a content of this length goes behind the inode.
fn inline_length(length: usize) -> usize {
    match length % BLOCK {
        rest if rest <= MAX_INLINE => rest,
        _ => 0,
    }
}

/// The names in a directory, `.` and `..` among them, sorted by their bytes.
struct Listing {
    entries: Entries,
    /// Those that are still to come, the next one last.
    dots: Vec<(&'static [u8], NodeId)>,
    /// Whether the next one is one of them.
    is_dot: bool,
}

impl Listing {
    fn new(tree: &Tree, id: NodeId, node: &Node) -> Self {
        let parent = match &node.kind {
            Kind::Directory(directory) => directory.parent,
            _ => id,
        };
        Self {
            entries: tree.entries(id),
            dots: vec![(b"..", parent), (b".", id)],
            is_dot: false,
        }
    }

    /// The next one, which stays the next.
    fn peek(&mut self, tree: &mut Tree) -> Result<Option<(&[u8], NodeId)>, Error> {
        let entry = self.entries.peek(tree)?;
        let dot = self.dots.last().copied();
        self.is_dot = match (&entry, &dot) {
            (Some((name, _)), Some((dot, _))) => dot < name,
            (_, dot) => dot.is_some(),
        };
        Ok(if self.is_dot { dot } else { entry })
    }

    /// Goes on to the next one; gives whether the one before was `.` or `..`.
    fn advance(&mut self) -> bool {
        match self.is_dot {
            true => self.dots.truncate(self.dots.len() - 1),
            false => self.entries.advance(),
        }
        self.is_dot
    }
}

/// Writes the content of a directory, but for an end that goes behind its inode.
fn write_directory(
    tree: &mut Tree,
    id: NodeId,
    node: &Node,
    writer: &mut ContentWriter,
) -> Result<(), Error> {
    let mut first = None;
    let mut content = Encoder::default();
    let mut listing = Listing::new(tree, id, node);
    while let Some((name, child)) = listing.peek(tree)? {
        let name = name.to_vec();
        listing.advance();
        let child = tree.get(child)?;
        if let Some(block) = content.add(&name, child.slot, file_type(&child.kind)) {
            let block = writer.append(0, &block)?;
            first.get_or_insert(block);
        }
    }
    let mut tail = content.rest();
    if inline_length(tail.len()) == 0 && !tail.is_empty() {
        let block = writer.append(0, &tail)?;
        first.get_or_insert(block);
        tail.clear();
    }
    let kept = tree.keep(&tail)?;
    tree.update(id, |node| {
        if let Kind::Directory(directory) = &mut node.kind {
            (directory.block, directory.tail) = (first.unwrap_or_default(), kept);
        }
    })
}

/// What a directory says of the kind of an entry.
fn file_type(kind: &Kind) -> u8 {
    match kind {
        Kind::File(_) => 1,
        Kind::Directory { .. } => 2,
        Kind::CharacterDevice(_) => 3,
        Kind::BlockDevice(_) => 4,
        Kind::Fifo => 5,
        Kind::Symlink(_) => 7,
    }
}

/// The bits of a mode that say what it is.
fn type_bits(kind: &Kind) -> u16 {
    match kind {
        Kind::File(_) => 0o100_000,
        Kind::Directory { .. } => 0o040_000,
        Kind::CharacterDevice(_) => 0o020_000,
        Kind::BlockDevice(_) => 0o060_000,
        Kind::Fifo => 0o010_000,
        Kind::Symlink(_) => 0o120_000,
    }
}

/// A device's number in the kernel's 32 bits.
fn encode_device(device: Device) -> u32 {
    device.minor & 0xff | (device.major & 0xfff) << 8 | (device.minor & 0xf_ff00) << 12
}

/// Writes inodes, and what is behind each.
struct Inodes<'w> {
    writer: &'w mut ContentWriter,
    /// What is to be written next,
    part: Vec<u8>,
    /// and its place in the metadata.
    start: u64,
}

impl<'w> Inodes<'w> {
    fn new(writer: &'w mut ContentWriter) -> Self {
        Self {
            writer,
            part: Vec::with_capacity(PART + BLOCK),
            start: 0,
        }
    }

    /// Writes the whole blocks of what is to be written, if that is much.
    fn bound(&mut self) -> Result<(), Error> {
        if self.part.len() >= PART {
            let whole = self.part.len() - self.part.len() % BLOCK;
            self.writer.append(0, &self.part[..whole])?;
            self.part.drain(..whole);
            self.start += whole as u64;
        }
        Ok(())
    }

    fn finish(self) -> Result<(), Error> {
        self.writer.append(0, &self.part)?;
        Ok(())
    }

    fn add(&mut self, tree: &mut Tree, id: NodeId, node: &Node) -> Result<(), Error> {
        let at = node.slot * SLOT as u64 - self.start;
        self.part.resize(at as usize, 0);
        let none = Blob::default();
        let (layout, size, union, tail) = match node.kind {
            Kind::File(Content::Plain { block, size, tail }) => {
                (layout_of(tail), size, block, tail)
            }
            Kind::File(Content::Compressed { blocks, size, .. }) => {
                (Layout::Compressed, size, blocks, none)
            }
            Kind::Directory(directory) => (
                layout_of(directory.tail),
                directory.size,
                directory.block,
                directory.tail,
            ),
            Kind::Symlink(target) => (Layout::Inline, target.len() as u64, 0, target),
            Kind::CharacterDevice(device) | Kind::BlockDevice(device) => {
                (Layout::Plain, 0, encode_device(device), none)
            }
            Kind::Fifo => (Layout::Plain, 0, 0, none),
        };
        let xattrs = xattr::encode(&tree.xattrs(node)?);
        let raw = RawInode {
            layout,
            xattr_count: match xattrs.len() {
                0 => 0,
                // That it fits was checked when it got its place.
                bytes => (1 + (bytes - XATTR_HEADER_BYTES) / 4) as u16,
            },
            mode: type_bits(&node.kind) | node.mode & 0o7777,
            size,
            union,
            number: id.0 + 1,
            uid: node.uid,
            gid: node.gid,
            seconds: node.seconds,
            nanoseconds: node.nanoseconds,
            links: links(node),
        };
        self.part.extend(raw.encode());
        self.part.extend(xattrs);
        tree.put_bytes(tail, &mut self.part)?;
        if let Kind::File(Content::Compressed { clusters, size, .. }) = node.kind {
            let aligned = self.part.len().next_multiple_of(INDEX_ENTRY_BYTES);
            self.part.resize(aligned, 0);
            self.add_index(tree, clusters, size)?;
        }
        self.bound()
    }

    /// The index of a compressed file: for each block of the content, where its cluster is.
    fn add_index(&mut self, tree: &mut Tree, clusters: Blob, size: u64) -> Result<(), Error> {
        /// The first kind of clusters has more than one block.
        const BIG_CLUSTERS: u16 = 0x2;
        let mut header = [0; INDEX_HEADER_BYTES];
        let mut put = Fields::new(&mut header);
        put.u32(0);
        put.u16(BIG_CLUSTERS);
        // LZ4 is the algorithm 0, and the index has a record for each block.
        self.part.extend(header);
        let mut left = size.div_ceil(BLOCK as u64);
        let mut records = Vec::new();
        let mut rest = clusters;
        while !rest.is_empty() {
            let now = rest.length.min((CLUSTERS * Cluster::BYTES) as u32);
            records.clear();
            tree.put_bytes(
                Blob {
                    length: now,
                    ..rest
                },
                &mut records,
            )?;
            rest = Blob {
                at: rest.at + now,
                length: rest.length - now,
            };
            let clusters = records.chunks_exact(Cluster::BYTES);
            for record in clusters.filter_map(<[u8]>::first_chunk) {
                // At most the blocks of a cluster's content.
                let count = left.min((CLUSTER / BLOCK) as u64) as u16;
                left -= u64::from(count);
                encode_cluster(Cluster::decode(*record), count, &mut self.part);
                self.bound()?;
            }
        }
        Ok(())
    }
}

fn layout_of(tail: Blob) -> Layout {
    match tail.is_empty() {
        true => Layout::Plain,
        false => Layout::Inline,
    }
}

/// How many names an inode has: of a directory its own, `.`, and `..` of each directory in it.
fn links(node: &Node) -> u32 {
    match &node.kind {
        Kind::Directory(directory) => 2 + directory.directories,
        _ => node.links,
    }
}

/// The records of one cluster in the index: for each block of its content, where it is.
fn encode_cluster(cluster: Cluster, records: u16, to: &mut Vec<u8>) {
    const PLAIN: u16 = 0;
    const HEAD: u16 = 1;
    const NOT_HEAD: u16 = 2;
    /// What is in the field is the number of the cluster's blocks.
    const BLOCK_COUNT: u16 = 1 << 11;
    for at in 0..records {
        let mut record = [0; INDEX_ENTRY_BYTES];
        let mut put = Fields::new(&mut record);
        match (cluster.compressed, at) {
            (false, _) => {
                put.u16(PLAIN);
                put.u16(0);
                put.u32(cluster.block + u32::from(at));
            }
            (true, 0) => {
                put.u16(HEAD);
                put.u16(0);
                put.u32(cluster.block);
            }
            (true, _) => {
                put.u16(NOT_HEAD);
                put.u16(0);
                put.u16(match at {
                    1 => u16::from(cluster.blocks) | BLOCK_COUNT,
                    _ => at,
                });
                put.u16(records - at);
            }
        }
        to.extend(record);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::erofs::Attributes;

    fn tree() -> Tree {
        Tree::new(tempfile::tempfile().unwrap()).unwrap()
    }

    fn number(bytes: &[u8], at: usize, length: usize) -> usize {
        let bytes = &bytes[at..at + length];
        bytes
            .iter()
            .rev()
            .fold(0, |sum, byte| sum << 8 | usize::from(*byte))
    }

    /// Older kernels read a link only if its target ends in the block in which its inode ends, and they reckon with all of
    /// its extended attributes there.
    #[test]
    fn older_kernels_read_links() {
        let file = tempfile::tempfile().unwrap();
        let mut writer = ContentWriter::new(file.try_clone().unwrap(), false);
        let mut tree = tree();
        for length in 1..4065 {
            // With a prime step, they come in any order.
            let length = length * 1009 % 4065;
            let value = vec![b'x'; length % 7 * 40].into_boxed_slice();
            let attributes = Attributes {
                xattrs: match length % 3 == 0 && length < 3700 {
                    true => vec![(b"trusted.note"[..].into(), value)],
                    false => Vec::new(),
                },
                ..Attributes::default()
            };
            let target = tree.keep(&vec![b't'; length]).unwrap();
            let id = tree.add(&attributes, Kind::Symlink(target)).unwrap();
            tree.link(ROOT, format!("{length}").as_bytes(), id).unwrap();
        }
        let length = finish(&mut tree, &mut writer, [1; 16]).unwrap();
        let mut image = vec![0; length as usize];
        file.read_exact_at(&mut image, 0).unwrap();
        let metadata = number(&image, SUPERBLOCK_OFFSET + 40, 4) * BLOCK;
        let mut links = 0;
        for id in tree.ids() {
            let at = metadata + tree.get(id).unwrap().slot as usize * SLOT;
            if number(&image, at + 4, 2) >> 12 != 0o12 {
                continue;
            }
            links += 1;
            let size = number(&image, at + 8, 8);
            let xattrs = match number(&image, at + 2, 2) {
                0 => 0,
                count => XATTR_HEADER_BYTES + (count - 1) * 4,
            };
            let rest = (at + INODE_BYTES - 1) % BLOCK + 1;
            assert!(
                rest + xattrs + size <= BLOCK,
                "{at}: {rest} {xattrs} {size}"
            );
            let target = &image[at + INODE_BYTES + xattrs..][..size];
            assert!(target.iter().all(|byte| *byte == b't'));
        }
        assert_eq!(links, 4064);
    }

    /// The longest targets still have a place.
    #[test]
    fn the_longest_links_have_a_place() {
        let mut tree = tree();
        for number in 0..100 {
            let target = tree.keep(&vec![b't'; 4000 + number % 96]).unwrap();
            let kind = Kind::Symlink(target);
            let id = tree.add(&Attributes::default(), kind).unwrap();
            tree.link(ROOT, format!("{number}").as_bytes(), id).unwrap();
        }
        place_all(&mut tree).unwrap();
    }
}
