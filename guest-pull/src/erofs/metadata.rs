// SPDX-License-Identifier: Apache-2.0

//! The end of a file system: directories, inodes, and the superblock.

use std::os::unix::fs::FileExt as _;

use crate::erofs::Error;
use crate::erofs::content::{Cluster, Content, ContentWriter, MAX_INLINE};
use crate::erofs::directory::{self, Dirent};
use crate::erofs::format::{
    BLOCK, CLUSTER, Fields, INDEX_ENTRY_BYTES, INDEX_HEADER_BYTES, INODE_BYTES, Layout,
    MAX_XATTR_BYTES, RawInode, SLOT, SUPERBLOCK_OFFSET, Superblock, XATTR_ENTRY_BYTES,
    XATTR_HEADER_BYTES,
};
use crate::erofs::tree::{Device, Kind, Node, NodeId, ROOT, Tree, Xattr};

/// How much of the metadata is written at once.
const PART: usize = 64 * BLOCK;

/// The prefixes of extended attributes that the format has numbers for; the longest that fits counts.
const PREFIXES: [(u8, &[u8]); 5] = [
    (2, b"system.posix_acl_access"),
    (3, b"system.posix_acl_default"),
    (1, b"user."),
    (4, b"trusted."),
    (6, b"security."),
];

/// Writes everything but the contents of files, and gives the length of the file system in bytes.
///
/// `uuid` identifies it; two layers of one overlay must not have the same.
///
/// # Errors
///
/// If the file can't be written, or an inode doesn't fit the format.
pub fn finish(tree: &Tree, mut writer: ContentWriter, uuid: [u8; 16]) -> Result<u64, Error> {
    let order = tree.reachable();
    let places = Places::of(tree, &order)?;
    // Directories that don't fit behind their inodes, which must come before the metadata.
    let mut directories = vec![(0, Box::default()); tree.len()];
    for &id in &order {
        if let Some(content) = encode_directory(tree, id, &places) {
            let whole = content.len() - inline_length(content.len());
            let block = match whole {
                0 => 0,
                _ => writer.append(0, &content[..whole])?,
            };
            directories[tree.index(id)] = (block, content[whole..].into());
        }
    }
    writer.flush()?;
    let metadata_block = writer.blocks();
    let mut part = Vec::with_capacity(PART + BLOCK);
    // The place of the part in the metadata.
    let mut start = 0;
    for &id in &order {
        let at = (places.slot(tree, id) * SLOT as u64 - start) as usize;
        part.resize(at, 0);
        encode_node(tree, id, &directories[tree.index(id)], &mut part);
        if part.len() >= PART {
            let whole = part.len() - part.len() % BLOCK;
            writer.append(0, &part[..whole])?;
            part.drain(..whole);
            start += whole as u64;
        }
    }
    writer.append(0, &part)?;
    writer.flush()?;
    let superblock = Superblock {
        root: places.slot(tree, ROOT) as u16,
        inodes: order.len() as u64,
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

/// Where the inodes are, in slots from the start of the metadata.
struct Places(Vec<u64>);

impl Places {
    fn of(tree: &Tree, order: &[NodeId]) -> Result<Self, Error> {
        let mut places = vec![0; tree.len()];
        // The first slot stays free, since programs take the inode 0 for none.
        let mut next = SLOT as u64;
        for &id in order {
            let node = tree.get(id);
            let head = INODE_BYTES + xattr_bytes(&node.attributes.xattrs)?;
            let (in_one_block, rest) = behind(tree, id);
            if head % SLOT + in_one_block > BLOCK {
                return Err(Error::Link(in_one_block));
            }
            // A link with a target that no place is good enough for is for later kernels alone.
            let is_link = matches!(node.kind, Kind::Symlink(_))
                && SLOT + head - INODE_BYTES + in_one_block <= BLOCK;
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
            places[tree.index(id)] = next / SLOT as u64;
            let end = next
                + match rest {
                    0 => head + in_one_block,
                    rest => head.next_multiple_of(INDEX_ENTRY_BYTES) + rest,
                } as u64;
            next = end.next_multiple_of(SLOT as u64);
        }
        Ok(Self(places))
    }

    fn slot(&self, tree: &Tree, id: NodeId) -> u64 {
        self.0[tree.index(id)]
    }
}

/// How many bytes come behind the inode and its attributes: the end of a content, which must lie in one block, or the
/// index of a compressed file with its header.
fn behind(tree: &Tree, id: NodeId) -> (usize, usize) {
    match &tree.get(id).kind {
        Kind::File(Content::Plain { tail, .. }) => (tail.len(), 0),
        Kind::File(Content::Compressed { size, .. }) => {
            let blocks = size.div_ceil(BLOCK as u64) as usize;
            (0, INDEX_HEADER_BYTES + blocks * INDEX_ENTRY_BYTES)
        }
        Kind::Directory { .. } => {
            let names = names(tree, id).map(|(name, _)| name.len());
            (
                inline_length(directory::size(names.into_iter()) as usize),
                0,
            )
        }
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
fn names(tree: &Tree, id: NodeId) -> std::vec::IntoIter<(&[u8], NodeId)> {
    let mut names: Vec<(&[u8], NodeId)> = Vec::new();
    if let Kind::Directory { entries, parent } = &tree.get(id).kind {
        names.extend(entries.iter().map(|(name, &id)| (&**name, id)));
        for (name, id) in [(&b".."[..], *parent), (b".", id)] {
            let at = names.partition_point(|(other, _)| *other < name);
            names.insert(at, (name, id));
        }
    }
    names.into_iter()
}

/// The content of a directory; none if it is something else.
fn encode_directory(tree: &Tree, id: NodeId, places: &Places) -> Option<Vec<u8>> {
    tree.entries(id)?;
    let entries = names(tree, id).map(|(name, id)| Dirent {
        name,
        inode: places.slot(tree, id),
        file_type: file_type(&tree.get(id).kind),
    });
    Some(directory::encode(&entries.collect::<Vec<_>>()))
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

fn encode_node(tree: &Tree, id: NodeId, directory: &(u32, Box<[u8]>), to: &mut Vec<u8>) {
    let node = tree.get(id);
    let (layout, size, union, tail): (_, _, _, &[u8]) = match &node.kind {
        Kind::File(Content::Plain { block, size, tail }) => (layout_of(tail), *size, *block, tail),
        Kind::File(Content::Compressed { clusters, size }) => {
            let blocks = clusters.iter().map(|cluster| u32::from(cluster.blocks));
            (Layout::Compressed, *size, blocks.sum(), &[])
        }
        Kind::Directory { .. } => {
            let (block, tail) = directory;
            let names = names(tree, id).map(|(name, _)| name.len());
            (layout_of(tail), directory::size(names), *block, tail)
        }
        Kind::Symlink(target) => (Layout::Inline, target.len() as u64, 0, target),
        Kind::CharacterDevice(device) | Kind::BlockDevice(device) => {
            (Layout::Plain, 0, encode_device(*device), &[])
        }
        Kind::Fifo => (Layout::Plain, 0, 0, &[]),
    };
    let attributes = &node.attributes;
    let xattrs = encode_xattrs(&attributes.xattrs);
    let raw = RawInode {
        layout,
        xattr_count: match xattrs.len() {
            0 => 0,
            // That it fits was checked when it got its place.
            bytes => (1 + (bytes - XATTR_HEADER_BYTES) / 4) as u16,
        },
        mode: type_bits(&node.kind) | attributes.mode & 0o7777,
        size,
        union,
        number: tree.index(id) as u32 + 1,
        uid: attributes.uid,
        gid: attributes.gid,
        seconds: attributes.seconds,
        nanoseconds: attributes.nanoseconds,
        links: links(tree, node),
    };
    to.extend(raw.encode());
    to.extend(xattrs);
    to.extend(tail);
    if let Kind::File(Content::Compressed { clusters, size }) = &node.kind {
        to.resize(to.len().next_multiple_of(INDEX_ENTRY_BYTES), 0);
        encode_index(clusters, *size, to);
    }
}

fn layout_of(tail: &[u8]) -> Layout {
    match tail.is_empty() {
        true => Layout::Plain,
        false => Layout::Inline,
    }
}

/// How many names an inode has: of a directory its own, `.`, and `..` of each directory in it.
fn links(tree: &Tree, node: &Node) -> u32 {
    match &node.kind {
        Kind::Directory { entries, .. } => {
            let directories = entries.values().filter(|id| tree.entries(**id).is_some());
            2 + directories.count() as u32
        }
        _ => node.links,
    }
}

/// The index of a compressed file: for each block of the content, where its cluster is.
fn encode_index(clusters: &[Cluster], size: u64, to: &mut Vec<u8>) {
    /// The first kind of clusters has more than one block.
    const BIG_CLUSTERS: u16 = 0x2;
    const PLAIN: u16 = 0;
    const HEAD: u16 = 1;
    const NOT_HEAD: u16 = 2;
    /// What is in the field is the number of the cluster's blocks.
    const BLOCK_COUNT: u16 = 1 << 11;
    let mut header = [0; INDEX_HEADER_BYTES];
    let mut put = Fields::new(&mut header);
    put.u32(0);
    put.u16(BIG_CLUSTERS);
    // LZ4 is the algorithm 0, and the index has a record for each block.
    to.extend(header);
    let mut left = size.div_ceil(BLOCK as u64);
    for cluster in clusters {
        // At most the blocks of a cluster's content.
        let records = left.min((CLUSTER / BLOCK) as u64) as u16;
        left -= u64::from(records);
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
}

/// The prefix's number and the rest of an extended attribute's name; none if the format has no number for it.
fn split_xattr(name: &[u8]) -> Option<(u8, &[u8])> {
    let (number, rest) = PREFIXES
        .iter()
        .find_map(|(number, prefix)| Some((*number, name.strip_prefix(*prefix)?)))?;
    // The first two are whole names.
    let is_whole = matches!(number, 2 | 3);
    (!is_whole || rest.is_empty()).then_some((number, rest))
}

/// How many bytes the attributes take.
fn xattr_bytes(xattrs: &[Xattr]) -> Result<usize, Error> {
    let mut bytes = 0;
    for (name, value) in xattrs {
        let Some((_, rest)) = split_xattr(name) else {
            continue;
        };
        let fits = rest.len() <= usize::from(u8::MAX) && value.len() <= usize::from(u16::MAX);
        let entry = XATTR_ENTRY_BYTES + rest.len() + value.len();
        bytes += entry.next_multiple_of(4);
        if !fits || bytes + XATTR_HEADER_BYTES > MAX_XATTR_BYTES {
            return Err(Error::Xattrs {
                name: name.escape_ascii().to_string(),
                bytes,
                most: MAX_XATTR_BYTES,
            });
        }
    }
    Ok(match bytes {
        0 => 0,
        bytes => XATTR_HEADER_BYTES + bytes,
    })
}

fn encode_xattrs(xattrs: &[Xattr]) -> Vec<u8> {
    let mut encoded = Vec::new();
    for (name, value) in xattrs {
        let Some((prefix, rest)) = split_xattr(name) else {
            continue;
        };
        if encoded.is_empty() {
            // No filter of names, and no shared attributes.
            encoded.resize(XATTR_HEADER_BYTES, 0);
        }
        encoded.extend([rest.len() as u8, prefix]);
        encoded.extend((value.len() as u16).to_le_bytes());
        encoded.extend(rest);
        encoded.extend(&**value);
        encoded.resize(encoded.len().next_multiple_of(4), 0);
    }
    encoded
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::erofs::Attributes;

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
        let writer = ContentWriter::new(file.try_clone().unwrap(), false);
        let mut tree = Tree::default();
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
            let target = vec![b't'; length].into();
            let id = tree.add(attributes, Kind::Symlink(target)).unwrap();
            tree.link(ROOT, format!("{length}").as_bytes(), id);
        }
        let order = tree.reachable();
        let places = Places::of(&tree, &order).unwrap();
        let length = finish(&tree, writer, [1; 16]).unwrap();
        let mut image = vec![0; length as usize];
        file.read_exact_at(&mut image, 0).unwrap();
        let metadata = number(&image, SUPERBLOCK_OFFSET + 40, 4) * BLOCK;
        let mut links = 0;
        for &id in &order {
            let at = metadata + places.slot(&tree, id) as usize * SLOT;
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
        let mut tree = Tree::default();
        for number in 0..100 {
            let kind = Kind::Symlink(vec![b't'; 4000 + number % 96].into());
            let id = tree.add(Attributes::default(), kind).unwrap();
            tree.link(ROOT, format!("{number}").as_bytes(), id);
        }
        Places::of(&tree, &tree.reachable()).unwrap();
    }

    /// The names of ACLs have nothing behind them.
    #[test]
    fn names_of_acls_are_whole() {
        let acl = b"system.posix_acl_access";
        assert_eq!(split_xattr(acl), Some((2, &b""[..])));
        assert_eq!(split_xattr(b"system.posix_acl_accessX"), None);
        assert_eq!(split_xattr(b"system.posix_acl_default2"), None);
        assert_eq!(split_xattr(b"user.x"), Some((1, &b"x"[..])));
    }
}
