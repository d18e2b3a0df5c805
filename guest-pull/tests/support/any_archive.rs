// SPDX-License-Identifier: Apache-2.0

//! Archives that bytes choose: of few names, so that entries meet each other, and of all that archives can say.

// Each of the tests' programs uses a part of it.
#![allow(dead_code)]

use std::collections::{BTreeMap, BTreeSet};

use crate::raw_tar::{
    CHARACTER, DIRECTORY, DISK, Entry, FILE, GID, GLOBAL, GNU, LINK, LONG_LINK, LONG_NAME, MAGIC,
    MODE, PIPE, SPARSE, SYMLINK, TARGET, TIME, UID, V7, archive, open_archive,
};

/// The most entries of one archive.
const MAX_ENTRIES: usize = 64;

/// Which archives there may be.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Allowed {
    /// Any.
    Everything,
    /// Those that containerd reads as this program does: docs/guest-pull-cases.md has the others.
    AsContainerd {
        /// There is no layer below it. There, containerd removes what it has extracted, which no later layer shows.
        is_lowest: bool,
        /// There is no layer above it, for which containerd would look for directories through its links.
        is_topmost: bool,
    },
}

/// Names of directories, and names of what is in them. An entry has the wrong kind of name now and then.
const DIRECTORIES: [&[u8]; 3] = [b"a", b"b", b"c"];
const LEAVES: [&[u8]; 8] = [b"f", b"g", b"h", b"i", b"j", b"\xc3\xa9", b"\xff\n", b" x "];

/// How long contents are: around the sizes of blocks, ends behind inodes, and clusters.
const LENGTHS: [usize; 12] = [
    0, 1, 5, 100, 511, 2048, 2049, 4095, 4096, 4097, 9000, 70_000,
];

const MODES: [u64; 8] = [0o644, 0o755, 0o600, 0o4755, 0o2711, 0o1777, 0, 0o100_7777];

/// ACLs as the attribute has them: for a user beside owner, group and others; and one without an owner.
const ACL: &[u8] =
    b"\x02\0\0\0\x01\0\x07\0\xff\xff\xff\xff\x02\0\x07\0\xe8\x03\0\0\x04\0\x05\0\xff\xff\xff\xff\
                     \x10\0\x07\0\xff\xff\xff\xff\x20\0\x05\0\xff\xff\xff\xff";
const BROKEN_ACL: &[u8] = b"\x02\0\0\0\x20\0\x05\0\xff\xff\xff\xff";

const CAPABILITY: &[u8] = b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0";

/// Choices that bytes make. When there are no more, each is the first.
pub struct Choices<'b> {
    rest: &'b [u8],
    allowed: Allowed,
}

impl<'b> Choices<'b> {
    pub fn new(bytes: &'b [u8], allowed: Allowed) -> Self {
        Self {
            rest: bytes,
            allowed,
        }
    }

    fn byte(&mut self) -> u8 {
        let (byte, rest) = self.rest.split_first().unwrap_or((&0, &[]));
        self.rest = rest;
        *byte
    }

    fn below(&mut self, end: usize) -> usize {
        usize::from(self.byte()) % end.max(1)
    }

    fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.below(all.len())]
    }

    /// Once in so many times.
    fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == times - 1
    }

    /// The same, where everything is allowed.
    fn odd(&mut self, times: usize) -> bool {
        self.allowed == Allowed::Everything && self.once_in(times)
    }

    fn has_more(&self) -> bool {
        !self.rest.is_empty()
    }

    /// A directory below the root, or the root.
    fn directory(&mut self) -> Vec<u8> {
        let depth = self.of(&[0, 0, 1, 1, 1, 2, 2, 3]);
        let parts: Vec<_> = (0..depth).map(|_| self.of(&DIRECTORIES)).collect();
        parts.join(&b'/')
    }

    fn name(&mut self, is_directory: bool) -> Vec<u8> {
        let is_usual = !self.once_in(16);
        if self.once_in(40) {
            return vec![b'n'; self.of(&[90, 101, 200, 255])];
        }
        match is_directory == is_usual {
            true => self.of(&DIRECTORIES).to_vec(),
            false => self.of(&LEAVES).to_vec(),
        }
    }

    fn path(&mut self, is_directory: bool) -> Vec<u8> {
        let (directory, name) = (self.directory(), self.name(is_directory));
        joined(&directory, &name)
    }

    fn content(&mut self) -> Vec<u8> {
        let length = self.of(&LENGTHS);
        let kind = self.byte();
        match kind % 3 {
            0 => vec![kind; length],
            1 => (0..length).map(|at| (at / 100) as u8 ^ kind).collect(),
            _ => noise(kind, length),
        }
    }
}

/// Bytes that don't shrink.
fn noise(seed: u8, length: usize) -> Vec<u8> {
    let mut state = u64::from(seed) << 1 | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 8) as u8
    };
    (0..length).map(next).collect()
}

fn joined(directory: &[u8], name: &[u8]) -> Vec<u8> {
    match directory {
        b"" => name.to_vec(),
        directory => [directory, b"/", name].concat(),
    }
}

/// An archive that is being made.
struct Making<'c, 'b> {
    choices: &'c mut Choices<'b>,
    /// What was made and is no directory, for hard links.
    files: Vec<Vec<u8>>,
    /// All that was made, with the directories above, for whiteouts; and whether there was an entry for a directory.
    made: BTreeMap<Vec<u8>, bool>,
    /// What was taken away.
    gone: BTreeSet<Vec<u8>>,
}

/// The archive that the bytes choose. Each entry takes some of them.
pub fn any_archive(choices: &mut Choices<'_>) -> Vec<u8> {
    let mut making = Making {
        choices,
        files: Vec::new(),
        made: BTreeMap::new(),
        gone: BTreeSet::new(),
    };
    let mut entries = Vec::new();
    while making.choices.has_more() && entries.len() < MAX_ENTRIES {
        entries.extend(making.entry());
    }
    let end = making.choices.below(8);
    match end {
        0 => open_archive(&entries),
        1 => [archive(&entries), b"something".to_vec()].concat(),
        _ => archive(&entries),
    }
}

impl Making<'_, '_> {
    fn entry(&mut self) -> Option<Entry> {
        let entry = match self.choices.below(20) {
            0..=4 => {
                let content = self.choices.content();
                self.file(FILE)?.content(content)
            }
            5..=8 => self.directory()?,
            9 | 10 => self.symlink()?,
            11 | 12 => self.hard_link()?,
            13 => self.device()?,
            14 | 15 => return self.whiteout(),
            16 => return self.opaque(),
            // They have PAX headers, and only the last of several counts.
            17 => return self.sparse(),
            18 => {
                let entry = self.attributed()?;
                return Some(self.decorated(entry));
            }
            _ => return self.other(),
        };
        let entry = self.decorated(entry);
        Some(match self.choices.below(12) {
            0 => entry.pax(&[("gid", b"4294967294"), ("mtime", b"1.5")]),
            1 if self.choices.odd(2) => entry.pax(&[("mtime", b"-1.5"), ("atime", b"3")]),
            _ => entry,
        })
    }

    /// An entry of what is no directory.
    fn file(&mut self, kind: u8) -> Option<Entry> {
        let path = self.path(false)?;
        Some(self.named_so(kind, &path))
    }

    fn directory(&mut self) -> Option<Entry> {
        let path = self.path(true)?;
        Some(self.named_so(DIRECTORY, &path))
    }

    /// A path for an entry. For containerd it must not be one at which it mixes entries up: it sets the times of all
    /// directories that had an entry last of all, whatever is there then; a directory whose entry comes after those in it
    /// keeps attributes of the lower layers; and one that was taken away before comes with what lower layers have in it.
    fn path(&mut self, is_directory: bool) -> Option<Vec<u8>> {
        let path = self.choices.path(is_directory);
        if self.choices.allowed != Allowed::Everything {
            let below = [&path, &b"/"[..]].concat();
            let mut here = self.made.iter();
            let parts = path.split(|byte| *byte == b'/').count();
            let is_gone = (1..=parts).any(|count| {
                let above: Vec<_> = path.split(|byte| *byte == b'/').take(count).collect();
                (is_directory || count < parts) && self.gone.contains(&above.join(&b'/'))
            });
            let is_mixed_up = match is_directory {
                true => self.made.get(&path) == Some(&false),
                false => {
                    here.any(|(made, had)| *had && (*made == path || made.starts_with(&below)))
                }
            };
            if is_mixed_up || is_gone {
                return None;
            }
        }
        let ends = path.iter().enumerate();
        let ends = ends.filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in ends {
            self.made.entry(path[..end].to_vec()).or_insert(false);
        }
        self.made.insert(path.clone(), is_directory);
        if !is_directory {
            self.files.push(path.clone());
        }
        Some(path)
    }

    fn named_so(&mut self, kind: u8, path: &[u8]) -> Entry {
        let before: &[u8] = self.choices.of(&[b"", b"", b"", b"./", b"/", b".//"]);
        let after: &[u8] = match kind {
            DIRECTORY => b"/",
            _ => b"",
        };
        let mut path = [before, path, after].concat();
        if self.choices.odd(60) {
            path.extend(b"/../x");
        }
        match self.choices.once_in(12) || path.len() > 100 {
            true => Entry::new(kind, "short").long(LONG_NAME, &path),
            false => Entry::new(kind, &path),
        }
    }

    fn symlink(&mut self) -> Option<Entry> {
        let path = self.path(false)?;
        let is_below = match self.choices.allowed {
            Allowed::Everything => false,
            Allowed::AsContainerd { is_topmost, .. } => !is_topmost,
        };
        if is_below && DIRECTORIES.iter().any(|name| path.ends_with(name)) {
            self.files.pop();
            self.made.remove(&path);
            return None;
        }
        let entry = self.named_so(SYMLINK, &path);
        let mut target = self.choices.path(true);
        match self.choices.below(8) {
            0 => target.insert(0, b'/'),
            1 => target = [b"../", &target[..]].concat(),
            // Containerd makes no directory for `x` of `x/..`.
            2 if self.choices.odd(2) => target.extend(b"/../../b"),
            3 => target = b"loop".to_vec(),
            4 => target = vec![b't'; 1000],
            _ => {}
        }
        Some(with_target(entry, &target))
    }

    fn hard_link(&mut self) -> Option<Entry> {
        let target = match self.files.len() {
            0 => self.choices.path(false),
            _ if self.choices.odd(6) => self.choices.path(false),
            count => {
                let at = self.choices.below(count);
                self.files[at].clone()
            }
        };
        if self.files.is_empty() && self.choices.allowed != Allowed::Everything {
            return None;
        }
        Some(with_target(self.file(LINK)?, &target))
    }

    fn device(&mut self) -> Option<Entry> {
        let kind = self.choices.of(&[CHARACTER, DISK, PIPE]);
        let entry = self.file(kind)?;
        let (major, minor) = self.choices.of(&[(1, 3), (5, 0), (259, 70_000), (4095, 1)]);
        Some(match self.choices.odd(8) {
            true => entry.device(0, 0),
            false => entry.device(major, minor),
        })
    }

    fn is_lowest(&self) -> bool {
        match self.choices.allowed {
            Allowed::Everything => false,
            Allowed::AsContainerd { is_lowest, .. } => is_lowest,
        }
    }

    /// Takes something away; for containerd, nothing that the layer has.
    fn whiteout(&mut self) -> Option<Entry> {
        let directory = self.choices.directory();
        let is_directory = self.choices.once_in(2);
        let name = self.choices.name(is_directory);
        let path = joined(&directory, &name);
        let is_strict = self.choices.allowed != Allowed::Everything;
        if is_strict
            && (self.made.contains_key(&path) || self.gone.contains(&path) || name.len() > 90)
        {
            return None;
        }
        if self.is_lowest() {
            return None;
        }
        // Containerd makes directories for such names, which it then ignores.
        let is_builders = (directory.is_empty() || !is_strict) && self.choices.once_in(4);
        let prefix: &[u8] = if is_builders { b".wh..wh." } else { b".wh." };
        self.gone.insert(path);
        let path = joined(&directory, &[prefix, &name].concat());
        Some(self.named_so(FILE, &path))
    }

    fn opaque(&mut self) -> Option<Entry> {
        let directory = self.choices.directory();
        let is_strict = self.choices.allowed != Allowed::Everything;
        if self.is_lowest() || is_strict && directory.is_empty() {
            return None;
        }
        self.made.entry(directory.clone()).or_insert(false);
        let path = joined(&directory, b".wh..wh..opq");
        Some(self.named_so(FILE, &path))
    }

    /// A file with holes, in one of the forms in which archives say that.
    fn sparse(&mut self) -> Option<Entry> {
        let mut parts = Vec::new();
        let mut content = Vec::new();
        let mut end = 0;
        for _ in 0..self.choices.below(5) {
            let start = end + self.choices.of(&[0, 1, 511, 4096, 100_000]);
            let length = self.choices.of(&[0, 1, 512, 4096, 5000]);
            content.extend(vec![b'd'; length]);
            end = start + length;
            parts.push((start, length));
        }
        let mut size = end + self.choices.of(&[0, 1, 4096, 1_000_000]);
        if self.choices.odd(10) {
            size = self.choices.of(&[0, 1, usize::MAX >> 1, 1 << 26, 17 << 30]);
        }
        if self.choices.odd(10) {
            parts.reverse();
        }
        let path = self.path(false)?;
        if self.choices.odd(4) {
            return Some(own_sparse(&path, &parts, size).content(content));
        }
        let count = parts.len().to_string();
        let size = size.to_string();
        let numbers = parts.iter().flat_map(|(start, length)| [start, length]);
        let numbers: Vec<_> = numbers.map(usize::to_string).collect();
        let mut records: Vec<(&str, &[u8])> = Vec::new();
        Some(match self.choices.below(3) {
            0 => {
                records.push(("GNU.sparse.size", size.as_bytes()));
                records.push(("GNU.sparse.numblocks", count.as_bytes()));
                for (at, number) in numbers.iter().enumerate() {
                    let key = ["GNU.sparse.offset", "GNU.sparse.numbytes"][at % 2];
                    records.push((key, number.as_bytes()));
                }
                self.named_so(FILE, &path).content(content).pax(&records)
            }
            1 => {
                let map = numbers.join(",");
                records.push(("GNU.sparse.size", size.as_bytes()));
                records.push(("GNU.sparse.numblocks", count.as_bytes()));
                records.push(("GNU.sparse.map", map.as_bytes()));
                self.named_so(FILE, &path).content(content).pax(&records)
            }
            _ => {
                let lines = [&[count][..], &numbers].concat();
                let mut whole = (lines.join("\n") + "\n").into_bytes();
                whole.resize(whole.len().next_multiple_of(512), 0);
                whole.extend(content);
                records.push(("GNU.sparse.major", b"1"));
                records.push(("GNU.sparse.minor", b"0"));
                records.push(("GNU.sparse.name", &path));
                records.push(("GNU.sparse.realsize", size.as_bytes()));
                Entry::new(FILE, "GNUSparseFile.0/x")
                    .content(whole)
                    .pax(&records)
            }
        })
    }

    /// A file or directory with extended attributes.
    fn attributed(&mut self) -> Option<Entry> {
        let is_directory = self.choices.once_in(2);
        let entry = match is_directory {
            true => self.directory()?,
            false => self.file(FILE)?,
        };
        let long = vec![b'v'; self.choices.of(&[0, 1, 3, 4, 500])];
        let mut records: Vec<(&str, &[u8])> = vec![("SCHILY.xattr.user.a", &long)];
        for (key, value) in [
            ("SCHILY.xattr.user.b\n", b"=\n".as_slice()),
            ("SCHILY.xattr.system.posix_acl_access", ACL),
            ("RHT.security.selinux", b"label"),
            ("comment", b"x"),
        ] {
            if self.choices.once_in(3) {
                records.push((key, value));
            }
        }
        if !is_directory && self.choices.once_in(3) {
            records.push(("SCHILY.xattr.security.capability", CAPABILITY));
        }
        for (key, value) in [
            ("SCHILY.xattr.trusted.a", b"x".as_slice()),
            ("SCHILY.xattr.trusted.overlay.opaque", b"y"),
            ("SCHILY.xattr.system.posix_acl_default", ACL),
            ("SCHILY.xattr.system.posix_acl_access", BROKEN_ACL),
            ("SCHILY.xattr.security.capability", b"short"),
            ("SCHILY.xattr.user.", b"x"),
            ("SCHILY.xattr.other", b"x"),
        ] {
            if self.choices.odd(12) {
                records.push((key, value));
            }
        }
        Some(entry.pax(&records))
    }

    fn other(&mut self) -> Option<Entry> {
        Some(match self.choices.below(6) {
            0 => {
                let text = crate::raw_tar::records(&[("comment", b"x")]);
                Entry::new(GLOBAL, "pax_global_header").content(text)
            }
            1 => {
                let entry = Entry::directory("./");
                self.decorated(entry)
            }
            2 => {
                let path = self.path(true)?;
                Entry::new(0, [&path, &b"/"[..]].concat()).set(MAGIC, V7)
            }
            3 if self.choices.odd(2) => self.file(b'7')?,
            _ => {
                let path = self.path(false)?;
                let records: &[(&str, &[u8])] = &[("path", &path), ("size", b"1"), ("uid", b"7")];
                Entry::file("short", "x").pax(records)
            }
        })
    }

    /// The entry with another mode, owner and time.
    fn decorated(&mut self, entry: Entry) -> Entry {
        let mut entry = entry;
        if self.choices.once_in(2) {
            let mode = self.choices.of(&MODES);
            // With containerd, a directory without an entry gets the group of the one above it by this bit.
            let is_kept = self.choices.allowed == Allowed::Everything;
            entry = entry.number(MODE, if is_kept { mode } else { mode & !0o2000 });
        }
        match self.choices.below(8) {
            0 => entry = entry.number(UID, 1000).number(GID, 65_534),
            1 => entry = entry.base_256(UID, 3_000_000),
            3 if self.choices.odd(3) => entry = entry.base_256(GID, -1),
            _ => {}
        }
        match self.choices.below(8) {
            0 => entry.number(TIME, 0),
            1 => entry.base_256(TIME, -5),
            2 => entry.base_256(TIME, i64::MAX),
            3 => entry.number(TIME, 1_600_000_000),
            _ => entry,
        }
    }
}

fn with_target(entry: Entry, target: &[u8]) -> Entry {
    match target.len() > 100 {
        true => entry.long(LONG_LINK, target),
        false => entry.set(TARGET, target),
    }
}

/// A file with holes in GNU tar's own form, of at most four parts.
fn own_sparse(path: &[u8], parts: &[(usize, usize)], size: usize) -> Entry {
    let mut entry = Entry::new(SPARSE, path).set(MAGIC, GNU);
    for (at, (start, length)) in parts.iter().take(4).enumerate() {
        let record = format!("{start:011o}\0{length:011o}\0");
        entry = entry.set((386 + 24 * at, 24), record.as_bytes());
    }
    let size = size.min(0o77_777_777_777);
    entry.set((483, 12), format!("{size:011o}\0").as_bytes())
}
