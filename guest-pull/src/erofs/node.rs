// SPDX-License-Identifier: Apache-2.0

//! Inodes, as they are kept until they are written: records of one length in pages of the scratch file.

use crate::erofs::Error;
use crate::erofs::extent::Content;
use crate::erofs::format::Fields;
use crate::erofs::scratch::{Blob, PAGE, Pages, Scratch};
use crate::erofs::xattr::{self, Xattr};

/// The place of a node in its tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub(super) u32);

/// The root directory.
pub const ROOT: NodeId = NodeId(0);

/// What an inode says besides what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// The permissions, with the setuid, setgid and sticky bits.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The time of modification in seconds since 1970.
    pub seconds: i64,
    /// And the nanoseconds after it.
    pub nanoseconds: u32,
    /// The extended attributes, sorted by name.
    pub xattrs: Vec<Xattr>,
}

impl Attributes {
    /// All of them in one piece.
    pub fn pack(&self) -> Vec<u8> {
        let mut fixed = [0; Self::FIXED];
        let mut put = Fields::new(&mut fixed);
        put.u16(self.mode);
        for number in [self.uid, self.gid, self.nanoseconds] {
            put.u32(number);
        }
        put.u64(self.seconds as u64);
        [&fixed[..], &xattr::pack(&self.xattrs)].concat()
    }

    /// The attributes in such a piece.
    pub fn unpack(packed: &[u8]) -> Self {
        let mut get = Reading(packed);
        Self {
            mode: get.u16(),
            uid: get.u32(),
            gid: get.u32(),
            nanoseconds: get.u32(),
            seconds: get.u64() as i64,
            xattrs: xattr::unpack(get.0),
        }
    }

    /// The length of what all have.
    const FIXED: usize = 22;
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    File(Content),
    /// A directory.
    Directory(Directory),
    /// A symbolic link with this target.
    Symlink(Blob),
    /// A character device.
    CharacterDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
}

/// What is known of a directory beside the names in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Directory {
    /// The directory that it is in; the root is in itself.
    pub parent: NodeId,
    /// Its name there.
    pub(super) name: Blob,
    /// The length of its path; 0 of the root.
    pub path: u32,
    /// How many directories are in it. This and the rest are known at the end.
    pub(super) directories: u32,
    /// The length of its content.
    pub(super) size: u64,
    /// The first block of its content; 0 if there is none.
    pub(super) block: u32,
    /// The end of its content.
    pub(super) tail: Blob,
}

impl Directory {
    /// An empty one.
    pub(super) fn new(parent: NodeId) -> Self {
        Self {
            parent,
            name: Blob::default(),
            path: 0,
            directories: 0,
            size: 0,
            block: 0,
            tail: Blob::default(),
        }
    }
}

/// The number of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Its driver.
    pub major: u32,
    /// Which of the driver's devices.
    pub minor: u32,
}

/// An inode.
#[derive(Clone, Copy, Debug)]
pub struct Node {
    /// The permissions, with the setuid, setgid and sticky bits.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The time of modification in seconds since 1970.
    pub seconds: i64,
    /// And the nanoseconds after it.
    pub nanoseconds: u32,
    /// The extended attributes, encoded.
    pub(super) xattrs: Blob,
    /// What it is.
    pub kind: Kind,
    /// How many names lead to it; of a directory it is one, or none.
    pub links: u32,
    /// What whoever makes the tree notes about it: bits with any meaning.
    pub marks: u8,
    /// The node that is written after it.
    pub(super) next: Option<NodeId>,
    /// Where it is written, in slots from the start of the metadata; 0 if it isn't, since no name leads to it.
    pub(super) slot: u64,
}

impl Node {
    /// Whether it is a directory.
    pub fn is_directory(&self) -> bool {
        matches!(self.kind, Kind::Directory(_))
    }

    /// Whether it is a part of the file system. This is known after the file system was written.
    pub fn is_written(&self) -> bool {
        self.slot != 0
    }
}

/// The length of a record.
const RECORD: usize = 96;

/// How many records are in a page.
const IN_PAGE: usize = PAGE / RECORD;

/// What says that no node follows.
const NONE: u32 = u32::MAX;

/// What the kinds are called in a record.
const PLAIN: u8 = 1;
const COMPRESSED: u8 = 2;
const DIRECTORY: u8 = 3;
const SYMLINK: u8 = 4;
const CHARACTER: u8 = 5;
const BLOCK_DEVICE: u8 = 6;
const FIFO: u8 = 7;

/// The fields that kinds have, in one form for all.
#[derive(Default)]
struct Fixed {
    kind: u8,
    size: u64,
    numbers: [u32; 4],
    blob: Blob,
    other: Blob,
}

impl Fixed {
    fn of(kind: &Kind) -> Self {
        let of = |kind, numbers| Self {
            kind,
            numbers,
            ..Self::default()
        };
        match *kind {
            Kind::File(Content::Plain { block, size, tail }) => Self {
                size,
                blob: tail,
                ..of(PLAIN, [block, 0, 0, 0])
            },
            Kind::File(Content::Compressed {
                clusters,
                blocks,
                size,
            }) => Self {
                size,
                blob: clusters,
                ..of(COMPRESSED, [blocks, 0, 0, 0])
            },
            Kind::Directory(directory) => Self {
                size: directory.size,
                blob: directory.tail,
                other: directory.name,
                ..of(
                    DIRECTORY,
                    [
                        directory.block,
                        directory.parent.0,
                        directory.directories,
                        directory.path,
                    ],
                )
            },
            Kind::Symlink(target) => Self {
                blob: target,
                ..of(SYMLINK, [0; 4])
            },
            Kind::CharacterDevice(device) => of(CHARACTER, [device.major, device.minor, 0, 0]),
            Kind::BlockDevice(device) => of(BLOCK_DEVICE, [device.major, device.minor, 0, 0]),
            Kind::Fifo => of(FIFO, [0; 4]),
        }
    }

    fn kind(&self) -> Kind {
        let [first, second, third, fourth] = self.numbers;
        let device = Device {
            major: first,
            minor: second,
        };
        match self.kind {
            PLAIN => Kind::File(Content::Plain {
                block: first,
                size: self.size,
                tail: self.blob,
            }),
            COMPRESSED => Kind::File(Content::Compressed {
                clusters: self.blob,
                blocks: first,
                size: self.size,
            }),
            DIRECTORY => Kind::Directory(Directory {
                parent: NodeId(second),
                name: self.other,
                path: fourth,
                directories: third,
                size: self.size,
                block: first,
                tail: self.blob,
            }),
            SYMLINK => Kind::Symlink(self.blob),
            CHARACTER => Kind::CharacterDevice(device),
            BLOCK_DEVICE => Kind::BlockDevice(device),
            // Nothing else is ever written.
            _ => Kind::Fifo,
        }
    }
}

/// Reads numbers one after another.
struct Reading<'a>(&'a [u8]);

impl Reading<'_> {
    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let (first, rest) = self.0.split_first_chunk().unwrap_or((&[0; N], &[]));
        self.0 = rest;
        *first
    }

    fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    fn blob(&mut self) -> Blob {
        Blob {
            at: self.u32(),
            length: self.u32(),
        }
    }
}

impl Node {
    fn encode(&self, record: &mut [u8]) {
        let fixed = Fixed::of(&self.kind);
        let mut put = Fields::new(record);
        put.bytes(&[fixed.kind, self.marks]);
        put.u16(self.mode);
        for number in [self.uid, self.gid, self.nanoseconds, self.links] {
            put.u32(number);
        }
        put.u32(self.next.map_or(NONE, |next| next.0));
        put.u64(self.seconds as u64);
        put.u64(self.slot);
        put.u64(fixed.size);
        for blob in [self.xattrs, fixed.blob, fixed.other] {
            put.u32(blob.at);
            put.u32(blob.length);
        }
        for number in fixed.numbers {
            put.u32(number);
        }
    }

    fn decode(record: &[u8]) -> Self {
        let mut get = Reading(record);
        let [kind, marks] = get.bytes();
        let mode = get.u16();
        let [uid, gid, nanoseconds, links] = [get.u32(), get.u32(), get.u32(), get.u32()];
        let next = get.u32();
        let [seconds, slot, size] = [get.u64(), get.u64(), get.u64()];
        let [xattrs, blob, other] = [get.blob(), get.blob(), get.blob()];
        let fixed = Fixed {
            kind,
            size,
            numbers: [get.u32(), get.u32(), get.u32(), get.u32()],
            blob,
            other,
        };
        Self {
            mode,
            uid,
            gid,
            seconds: seconds as i64,
            nanoseconds,
            xattrs,
            kind: fixed.kind(),
            links,
            marks,
            next: (next != NONE).then_some(NodeId(next)),
            slot,
        }
    }
}

/// The nodes of a tree.
#[derive(Debug, Default)]
pub struct Nodes {
    pages: Pages,
    count: usize,
}

impl Nodes {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Adds a node.
    ///
    /// # Errors
    ///
    /// If there are too many, or the scratch file can't be read or written.
    pub fn add(&mut self, scratch: &mut Scratch, node: &Node) -> Result<NodeId, Error> {
        let id = u32::try_from(self.count).ok().filter(|id| *id != NONE);
        let id = NodeId(id.ok_or(Error::TooLarge)?);
        self.count += 1;
        self.set(scratch, id, node)?;
        Ok(id)
    }

    fn place(&mut self, scratch: &mut Scratch, id: NodeId) -> Result<(u32, usize), Error> {
        let number = id.0 as usize;
        let page = self.pages.page(scratch, number / IN_PAGE)?;
        Ok((page, number % IN_PAGE * RECORD))
    }

    /// A node.
    ///
    /// # Errors
    ///
    /// If the scratch file can't be read or written.
    pub fn get(&mut self, scratch: &mut Scratch, id: NodeId) -> Result<Node, Error> {
        let (page, at) = self.place(scratch, id)?;
        let page = scratch.get(page)?;
        Ok(Node::decode(page.get(at..).unwrap_or_default()))
    }

    /// Changes a node.
    ///
    /// # Errors
    ///
    /// If the scratch file can't be read or written.
    pub fn set(&mut self, scratch: &mut Scratch, id: NodeId, node: &Node) -> Result<(), Error> {
        let (page, at) = self.place(scratch, id)?;
        let page = scratch.get_mut(page)?;
        if let Some(record) = page.get_mut(at..at + RECORD) {
            node.encode(record);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Attributes come back as they were.
    #[test]
    fn attributes_come_back() {
        let attributes = Attributes {
            mode: 0o6755,
            uid: 1,
            gid: 2,
            seconds: -3,
            nanoseconds: 4,
            xattrs: vec![(b"user.x"[..].into(), b"y"[..].into())],
        };
        assert_eq!(Attributes::unpack(&attributes.pack()), attributes);
    }

    /// A node of each kind comes back as it was.
    #[test]
    fn nodes_come_back() {
        let mut scratch = Scratch::new(tempfile::tempfile().unwrap());
        let mut nodes = Nodes::default();
        let blob = |at| Blob { at, length: at + 1 };
        let device = Device { major: 5, minor: 6 };
        let kinds = [
            Kind::File(Content::Plain {
                block: 7,
                size: 1 << 40,
                tail: blob(8),
            }),
            Kind::File(Content::Compressed {
                clusters: blob(9),
                blocks: 10,
                size: 1 << 41,
            }),
            Kind::Directory(Directory {
                parent: NodeId(11),
                name: blob(12),
                path: 17,
                directories: 13,
                size: 1 << 42,
                block: 14,
                tail: blob(15),
            }),
            Kind::Symlink(blob(16)),
            Kind::CharacterDevice(device),
            Kind::BlockDevice(device),
            Kind::Fifo,
        ];
        let node = |number: usize| Node {
            mode: 0o7777,
            uid: 1,
            gid: number as u32,
            seconds: -3,
            nanoseconds: 4,
            xattrs: blob(5),
            kind: kinds[number % kinds.len()],
            links: 6,
            marks: 7,
            next: (number % 2 == 0).then_some(NodeId(8)),
            slot: 1 << 39,
        };
        for number in 0..1000 {
            nodes.add(&mut scratch, &node(number)).unwrap();
        }
        for number in 0..1000 {
            let found = nodes.get(&mut scratch, NodeId(number)).unwrap();
            assert_eq!(format!("{found:?}"), format!("{:?}", node(number as usize)));
        }
    }
}
