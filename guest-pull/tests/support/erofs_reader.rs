// SPDX-License-Identifier: Apache-2.0

//! A reader of EROFS that trusts nothing: it follows each name to its content, and fails at anything that the format does
//! not allow, or that the writer should not have made. It is written from the format's description in the kernel's
//! `fs/erofs/erofs_fs.h`, and shares no code with the writer.

// Each of the tests' programs uses a part of it.
#![allow(dead_code)]

use std::collections::hash_map::{DefaultHasher, Entry};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::Hasher as _;

const BLOCK: usize = 4096;
const SUPERBLOCK: usize = 1024;
const SLOT: usize = 32;

/// The features that need a reader that knows them: zeros before compressed data, and a configuration of compression.
const COMPRESSED: u32 = 0x1 | 0x2;

/// The most names that are followed: an image with a cycle has no end.
const MAX_NAMES: usize = 5_000_000;

/// What an inode is, with what its names lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file: its length, and a hash of its content ([`hash`]).
    File(u64, u64),
    Directory,
    Symlink(Vec<u8>),
    Character(u32),
    Block(u32),
    Fifo,
}

/// What a name leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub kind: Kind,
    /// Without the bits of the type.
    pub mode: u16,
    pub uid: u32,
    pub gid: u32,
    pub seconds: i64,
    pub nanoseconds: u32,
    pub links: u32,
    /// By their whole names.
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
    /// The first name of the same inode, in the order of paths; its own if there is no other.
    pub first: Vec<u8>,
}

/// All names of an image: absolute paths, `/` for the root.
pub type Tree = BTreeMap<Vec<u8>, Named>;

/// The hash of a file's content.
pub fn hash(content: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(content);
    hasher.finish()
}

/// Reads a whole image.
///
/// # Errors
///
/// What is wrong with it.
pub fn read(image: &[u8]) -> Result<Tree, String> {
    let mut reader = Reader::new(image)?;
    let tree = reader.walk()?;
    reader.check_places()?;
    Ok(tree)
}

/// A number of so many bytes.
fn number(bytes: &[u8], at: usize, length: usize) -> Result<u64, String> {
    let bytes = bytes.get(at..at + length);
    let bytes = bytes.ok_or_else(|| format!("{at}: it is cut off"))?;
    Ok(bytes
        .iter()
        .rev()
        .fold(0, |all, byte| all << 8 | u64::from(*byte)))
}

fn check(is_right: bool, what: impl FnOnce() -> String) -> Result<(), String> {
    match is_right {
        true => Ok(()),
        false => Err(what()),
    }
}

/// An inode, as it is read once.
#[derive(Clone)]
struct Inode {
    entry: Named,
    /// The content of a directory.
    content: Vec<u8>,
    links: u32,
}

struct Reader<'i> {
    image: &'i [u8],
    metadata: usize,
    root: u64,
    inodes: u64,
    features: u32,
    /// What is used of the image: starts, ends, and what is there.
    places: Vec<(usize, usize, String)>,
    has_compressed: bool,
    numbers: BTreeSet<u64>,
}

impl<'i> Reader<'i> {
    fn new(image: &'i [u8]) -> Result<Self, String> {
        let field = |at: usize, length| number(image, SUPERBLOCK + at, length);
        check(field(0, 4)? == 0xe0f5_e1e2, || "no magic".to_owned())?;
        let bits = field(12, 1)?;
        check(bits == 12, || format!("blocks of 2^{bits} bytes"))?;
        check(field(8, 4)? & !0x2 == 0, || {
            "unknown compatible features".to_owned()
        })?;
        let features = field(80, 4)? as u32;
        check(features == 0 || features == COMPRESSED, || {
            format!("features {features:x}")
        })?;
        // What stays zero: slots of extensions, shared attributes, more devices, larger blocks of directories.
        for (at, length) in [(13, 1), (44, 4), (86, 2), (88, 2), (90, 1)] {
            let found = field(at, length)?;
            check(found == 0, || format!("{found} at {at} of the superblock"))?;
        }
        if features == COMPRESSED {
            // LZ4 alone, with a configuration of 14 bytes: how far back matches lie, and the blocks of a cluster.
            let said = (
                field(84, 2)?,
                field(128, 2)?,
                field(130, 2)?,
                field(132, 2)?,
            );
            check(said == (1, 14, 65_535, 16), || {
                format!("configuration {said:?}")
            })?;
        }
        let blocks = field(36, 4)? as usize;
        check(image.len() == blocks * BLOCK, || {
            format!("{} bytes in {blocks} blocks", image.len())
        })?;
        let metadata = field(40, 4)? as usize * BLOCK;
        check((BLOCK..image.len()).contains(&metadata), || {
            format!("the metadata is at {metadata}")
        })?;
        Ok(Self {
            image,
            metadata,
            root: field(14, 2)?,
            inodes: field(16, 8)?,
            features,
            places: vec![(0, BLOCK, "the superblock".to_owned())],
            has_compressed: false,
            numbers: BTreeSet::new(),
        })
    }

    /// Follows all names.
    fn walk(&mut self) -> Result<Tree, String> {
        let mut inodes: HashMap<u64, Inode> = HashMap::new();
        let mut names: HashMap<u64, u32> = HashMap::new();
        let mut found: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
        let mut left = vec![(Vec::new(), self.root, self.root)];
        while let Some((path, id, parent)) = left.pop() {
            let shown = path.escape_ascii().to_string();
            let within = |what: String| format!("{shown}: {what}");
            if let Entry::Vacant(vacant) = inodes.entry(id) {
                vacant.insert(self.inode(id).map_err(within)?);
            }
            let count = names.entry(id).or_default();
            *count += 1;
            let is_directory = inodes[&id].entry.kind == Kind::Directory;
            check(!is_directory || *count == 1, || {
                within("a directory with two names".to_owned())
            })?;
            check(found.len() < MAX_NAMES, || "names without end".to_owned())?;
            let mut directories = 0;
            let content = inodes
                .get_mut(&id)
                .map(|inode| std::mem::take(&mut inode.content));
            let content = content.unwrap_or_default();
            let entries = entries(&content).map_err(within)?;
            let dot = |name: &[u8], wanted: u64| {
                let dot = entries.iter().find(|entry| entry.name == name);
                dot.is_some_and(|dot| (dot.inode, dot.kind) == (wanted, 2))
            };
            check(!is_directory || dot(b".", id) && dot(b"..", parent), || {
                within("wrong dots".to_owned())
            })?;
            for entry in &entries {
                if [&b"."[..], b".."].contains(&entry.name) {
                    continue;
                }
                let below = [&path, &b"/"[..], entry.name].concat();
                if let Entry::Vacant(vacant) = inodes.entry(entry.inode) {
                    let read = self.inode(entry.inode);
                    vacant
                        .insert(read.map_err(|what| format!("{}: {what}", below.escape_ascii()))?);
                }
                let kind = match inodes[&entry.inode].entry.kind {
                    Kind::File(..) => 1,
                    Kind::Directory => 2,
                    Kind::Character(_) => 3,
                    Kind::Block(_) => 4,
                    Kind::Fifo => 5,
                    Kind::Symlink(_) => 7,
                };
                check(kind == entry.kind, || {
                    within(format!(
                        "{} is of the kind {kind}",
                        entry.name.escape_ascii()
                    ))
                })?;
                directories += u32::from(kind == 2);
                left.push((below, entry.inode, id));
            }
            if let Some(inode) = inodes.get_mut(&id) {
                inode.links = if is_directory {
                    2 + directories
                } else {
                    *count
                };
            }
            found.insert(path, id);
        }
        check(inodes.len() as u64 == self.inodes, || {
            format!("{} inodes of {}", inodes.len(), self.inodes)
        })?;
        check(!self.has_compressed || self.features != 0, || {
            "a compressed file without the feature".to_owned()
        })?;
        Self::tree(found, &inodes)
    }

    fn tree(found: BTreeMap<Vec<u8>, u64>, inodes: &HashMap<u64, Inode>) -> Result<Tree, String> {
        let mut firsts: HashMap<u64, Vec<u8>> = HashMap::new();
        let mut tree = Tree::new();
        for (path, id) in found {
            let inode = &inodes[&id];
            let said = inode.entry.links;
            check(said == inode.links, || {
                format!("{}: {said} links of {}", path.escape_ascii(), inode.links)
            })?;
            let path = if path.is_empty() { b"/".to_vec() } else { path };
            let first = firsts.entry(id).or_insert_with(|| path.clone()).clone();
            tree.insert(
                path,
                Named {
                    first,
                    ..inode.entry.clone()
                },
            );
        }
        Ok(tree)
    }

    /// Reads an inode, with its content.
    fn inode(&mut self, id: u64) -> Result<Inode, String> {
        let at = usize::try_from(id).ok().and_then(|id| id.checked_mul(SLOT));
        let at = at.and_then(|at| at.checked_add(self.metadata));
        let at = at.filter(|at| id != 0 && at + 64 <= self.image.len());
        let at = at.ok_or_else(|| format!("no inode is at {id}"))?;
        let image = self.image;
        let field = |offset: usize, length| number(image, at + offset, length);
        let format = field(0, 2)?;
        check(format & !0xe == 1, || {
            format!("inode {id}: the format {format}")
        })?;
        let layout = format >> 1;
        let (mode, size, union) = (field(4, 2)? as u16, field(8, 8)?, field(16, 4)? as u32);
        check(self.numbers.insert(field(20, 4)?), || {
            format!("inode {id}: its number is taken")
        })?;
        let mut end = at + 64;
        let xattrs = match field(2, 2)? as usize {
            0 => BTreeMap::new(),
            words => {
                let start = end;
                end += 12 + 4 * (words - 1);
                let bytes = image.get(start..end);
                xattrs(bytes.ok_or("attributes over the end")?)?
            }
        };
        let content = match mode >> 12 {
            0o10 | 0o4 | 0o12 => self.content(layout, size, union, &mut end)?,
            _ => {
                check(layout == 0 && size == 0, || {
                    format!("inode {id}: a device with a content")
                })?;
                Vec::new()
            }
        };
        let kind = match mode >> 12 {
            0o10 => Kind::File(size, hash(&content)),
            0o4 => Kind::Directory,
            0o12 => {
                let is_target = (1..4096).contains(&content.len()) && !content.contains(&0);
                check(is_target, || format!("inode {id}: an odd target"))?;
                Kind::Symlink(content.clone())
            }
            0o2 => Kind::Character(union),
            0o6 => Kind::Block(union),
            0o1 => Kind::Fifo,
            other => return Err(format!("inode {id}: the type {other:o}")),
        };
        self.places.push((at, end, format!("inode {id}")));
        let nanoseconds = field(40, 4)? as u32;
        check(nanoseconds < 1_000_000_000, || {
            format!("inode {id}: {nanoseconds} ns")
        })?;
        let content = match kind {
            Kind::Directory => content,
            _ => Vec::new(),
        };
        let entry = Named {
            kind,
            mode: mode & 0o7777,
            uid: field(24, 4)? as u32,
            gid: field(28, 4)? as u32,
            seconds: field(32, 8)? as i64,
            nanoseconds,
            links: field(44, 4)? as u32,
            xattrs,
            first: Vec::new(),
        };
        Ok(Inode {
            entry,
            content,
            links: 0,
        })
    }

    /// The content of an inode, which ends at `end` before it, and with what is behind it after.
    fn content(
        &mut self,
        layout: u64,
        size: u64,
        union: u32,
        end: &mut usize,
    ) -> Result<Vec<u8>, String> {
        let length = usize::try_from(size).map_err(|_| "an endless content")?;
        match layout {
            0 => self.blocks(union, length, length.div_ceil(BLOCK)),
            1 => self.compressed(length, union, end),
            2 => {
                let tail = length % BLOCK;
                check(tail > 0, || "nothing is behind the inode".to_owned())?;
                let mut content = self.blocks(union, length - tail, length / BLOCK)?;
                let behind = self.image.get(*end..*end + tail);
                content.extend(behind.ok_or("a content over the end")?);
                // The kernel reads it from one block.
                check(*end / BLOCK == (*end + tail - 1) / BLOCK, || {
                    format!("the end of a content crosses blocks at {end}")
                })?;
                *end += tail;
                Ok(content)
            }
            other => Err(format!("the layout {other}")),
        }
    }

    /// So many bytes from a block on, which have `blocks` blocks to themselves.
    fn blocks(&mut self, first: u32, length: usize, blocks: usize) -> Result<Vec<u8>, String> {
        if length == 0 {
            return Ok(Vec::new());
        }
        let start = first as usize * BLOCK;
        let bytes = self.image.get(start..start + blocks * BLOCK);
        let bytes = bytes.ok_or_else(|| format!("block {first} is over the end"))?;
        let (content, padding) = bytes.split_at(length);
        check(padding.iter().all(|byte| *byte == 0), || {
            format!("block {first}: something follows the content")
        })?;
        let what = format!("block {first}");
        self.places.push((start, start + blocks * BLOCK, what));
        Ok(content.to_vec())
    }

    /// A compressed content: a header, and a record for each of its blocks.
    fn compressed(&mut self, size: usize, said: u32, end: &mut usize) -> Result<Vec<u8>, String> {
        self.has_compressed = true;
        let header = end.next_multiple_of(8);
        let head = number(self.image, header, 8)?;
        // Clusters of several blocks, LZ4, records of 4096 bytes.
        check(head == 0x2 << 32, || format!("the header {head:x}"))?;
        let records = header + 16;
        let count = size.div_ceil(BLOCK);
        *end = records + 8 * count;
        let image = self.image;
        let record = |at: usize| -> Result<_, String> {
            let field = |offset, length| number(image, records + 8 * at + offset, length);
            Ok((field(0, 2)?, field(2, 2)?, field(4, 4)?))
        };
        let mut content = Vec::with_capacity(size);
        let mut at = 0;
        let mut used = 0;
        while at < count {
            let (kind, offset, block) = record(at)?;
            check(offset == 0 && kind < 2, || format!("record {at} is {kind}"))?;
            let rest = size - content.len();
            if kind == 0 {
                content.extend(self.blocks(block as u32, rest.min(BLOCK), 1)?);
                (at, used) = (at + 1, used + 1);
                continue;
            }
            // The records up to the next cluster, the first of which says how many blocks this one has.
            let mut next = at + 1;
            let mut blocks = 1;
            let mut distances = Vec::new();
            while next < count {
                let (kind, offset, both) = record(next)?;
                if kind != 2 {
                    break;
                }
                let (back, onward) = ((both & 0xffff) as usize, (both >> 16) as usize);
                match next - at {
                    1 => {
                        check(back >> 11 == 1, || format!("record {next} has no count"))?;
                        blocks = back & 0x7ff;
                    }
                    distance => check(back == distance, || {
                        format!("record {next} is {back} from its head")
                    })?,
                }
                check(offset == 0, || format!("record {next} has an offset"))?;
                distances.push(next + onward);
                next += 1;
            }
            check(distances.iter().all(|end| *end == next), || {
                format!("record {at}: {next} is next, and its records say {distances:?}")
            })?;
            let length = rest.min((next - at) * BLOCK);
            check((1..=16).contains(&blocks) && blocks < next - at, || {
                format!("record {at}: {blocks} blocks for {length} bytes")
            })?;
            let cluster = self.blocks(block as u32, blocks * BLOCK, blocks)?;
            let start = cluster.iter().position(|byte| *byte != 0);
            let start = start.filter(|start| *start < BLOCK);
            let start = start.ok_or_else(|| format!("block {block}: only zeros"))?;
            let plain = lz4_flex::block::decompress(&cluster[start..], length);
            let plain = plain.map_err(|error| format!("block {block}: {error}"))?;
            check(plain.len() == length, || {
                format!("block {block}: {} bytes of {length}", plain.len())
            })?;
            content.extend(plain);
            (at, used) = (next, used + blocks);
        }
        check(used as u64 == u64::from(said), || {
            format!("{used} blocks of {said}")
        })?;
        Ok(content)
    }

    /// Nothing lies on something else.
    fn check_places(&mut self) -> Result<(), String> {
        self.places.sort();
        let pair = self.places.windows(2).find(|pair| pair[0].1 > pair[1].0);
        match pair {
            Some(pair) => Err(format!("{} lies on {}", pair[1].2, pair[0].2)),
            None => Ok(()),
        }
    }
}

/// A name in a directory.
struct Dirent<'c> {
    name: &'c [u8],
    inode: u64,
    kind: u8,
}

/// The names of a directory, which must be in order.
fn entries(content: &[u8]) -> Result<Vec<Dirent<'_>>, String> {
    let mut all: Vec<Dirent<'_>> = Vec::new();
    let mut blocks = content.chunks(BLOCK).peekable();
    while let Some(block) = blocks.next() {
        let first = number(block, 8, 2)? as usize;
        check(first % 12 == 0 && first > 0, || format!("names at {first}"))?;
        for at in 0..first / 12 {
            let start = number(block, 12 * at + 8, 2)? as usize;
            let end = match at + 1 < first / 12 {
                true => number(block, 12 * (at + 1) + 8, 2)? as usize,
                // Zeros fill up a block that another one follows.
                false if blocks.peek().is_some() => {
                    let rest = block.get(start..).unwrap_or_default();
                    let padding = rest.iter().rev().take_while(|byte| **byte == 0);
                    start + rest.len() - padding.count()
                }
                false => block.len(),
            };
            let name = block.get(start..end).unwrap_or_default();
            let is_name =
                (1..=255).contains(&name.len()) && !name.iter().any(|b| b"/\0".contains(b));
            check(is_name, || format!("the name {}", name.escape_ascii()))?;
            let is_sorted = all.last().is_none_or(|before| before.name < name);
            check(is_sorted, || {
                format!("{} is out of order", name.escape_ascii())
            })?;
            check(number(block, 12 * at + 11, 1)? == 0, || {
                format!("{}: something follows its kind", name.escape_ascii())
            })?;
            all.push(Dirent {
                name,
                inode: number(block, 12 * at, 8)?,
                kind: number(block, 12 * at + 10, 1)? as u8,
            });
        }
    }
    Ok(all)
}

/// Extended attributes: a header without filter and shared ones, and records.
fn xattrs(bytes: &[u8]) -> Result<BTreeMap<Vec<u8>, Vec<u8>>, String> {
    let (header, mut rest) = bytes.split_at(12);
    check(header == [0; 12], || "shared attributes".to_owned())?;
    let mut all = BTreeMap::new();
    while !rest.is_empty() {
        let (name_length, prefix) = (number(rest, 0, 1)? as usize, number(rest, 1, 1)?);
        let value_length = number(rest, 2, 2)? as usize;
        let prefix: &[u8] = match prefix {
            1 => b"user.",
            2 => b"system.posix_acl_access",
            3 => b"system.posix_acl_default",
            4 => b"trusted.",
            6 => b"security.",
            other => return Err(format!("attributes with the prefix {other}")),
        };
        let length = 4 + name_length + value_length;
        let record = rest.get(4..length).ok_or("a cut attribute")?;
        let (name, value) = record.split_at(name_length);
        let name = [prefix, name].concat();
        check(name.len() <= 255, || "a long attribute".to_owned())?;
        check(all.insert(name, value.to_vec()).is_none(), || {
            "an attribute that comes twice".to_owned()
        })?;
        let whole = length.next_multiple_of(4);
        rest = rest.get(whole..).ok_or("a cut attribute")?;
    }
    Ok(all)
}
