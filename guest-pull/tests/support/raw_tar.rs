// SPDX-License-Identifier: Apache-2.0

//! Archives written byte by byte, for what no tool writes.

// Each of the tests' programs uses a part of it.
#![allow(dead_code)]

/// The length of a header.
const BLOCK: usize = 512;

/// The types of entries.
pub const FILE: u8 = b'0';
pub const LINK: u8 = b'1';
pub const SYMLINK: u8 = b'2';
pub const CHARACTER: u8 = b'3';
pub const DISK: u8 = b'4';
pub const DIRECTORY: u8 = b'5';
pub const PIPE: u8 = b'6';
pub const GLOBAL: u8 = b'g';
pub const PAX: u8 = b'x';
pub const LONG_NAME: u8 = b'L';
pub const LONG_LINK: u8 = b'K';
pub const SPARSE: u8 = b'S';

/// Where fields of a header are, and how long they are.
pub const NAME: (usize, usize) = (0, 100);
pub const MODE: (usize, usize) = (100, 8);
pub const UID: (usize, usize) = (108, 8);
pub const GID: (usize, usize) = (116, 8);
pub const SIZE: (usize, usize) = (124, 12);
pub const TIME: (usize, usize) = (136, 12);
pub const CHECKSUM: (usize, usize) = (148, 8);
pub const TARGET: (usize, usize) = (157, 100);
pub const MAGIC: (usize, usize) = (257, 8);
pub const MAJOR: (usize, usize) = (329, 8);
pub const MINOR: (usize, usize) = (337, 8);
pub const PREFIX: (usize, usize) = (345, 155);

/// The magics of GNU tar, of POSIX, and of the time before.
pub const GNU: &[u8] = b"ustar  \0";
pub const USTAR: &[u8] = b"ustar\x0000";
pub const V7: &[u8] = &[0; 8];

/// An entry: what comes before its header, the header, and the content.
#[derive(Clone)]
pub struct Entry {
    before: Vec<u8>,
    header: [u8; BLOCK],
    checksum: Option<Vec<u8>>,
    content: Vec<u8>,
}

impl Entry {
    /// One of root in the format of POSIX; a name that is too long for its field is cut off.
    pub fn new(kind: u8, name: impl AsRef<[u8]>) -> Self {
        let entry = Self {
            before: Vec::new(),
            header: [0; BLOCK],
            checksum: None,
            content: Vec::new(),
        };
        let mut entry = entry
            .set(MAGIC, USTAR)
            .number(MODE, if kind == DIRECTORY { 0o755 } else { 0o644 })
            .number(UID, 0)
            .number(GID, 0)
            .number(SIZE, 0)
            .number(TIME, 1_500_000_000)
            .number(MAJOR, 0)
            .number(MINOR, 0);
        entry.header[156] = kind;
        let name = name.as_ref();
        entry.set(NAME, &name[..name.len().min(100)])
    }

    /// A file with a content.
    pub fn file(name: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Self {
        Self::new(FILE, name).content(content)
    }

    /// A directory.
    pub fn directory(name: impl AsRef<[u8]>) -> Self {
        Self::new(DIRECTORY, name)
    }

    /// A link of either kind.
    pub fn link(kind: u8, name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self::new(kind, name).set(TARGET, target.as_ref())
    }

    /// Puts bytes into a field, and NUL bytes after them.
    pub fn set(mut self, (at, length): (usize, usize), bytes: &[u8]) -> Self {
        assert!(bytes.len() <= length);
        self.header[at..at + length].fill(0);
        self.header[at..at + bytes.len()].copy_from_slice(bytes);
        self
    }

    /// Puts an octal number into a field.
    pub fn number(self, field: (usize, usize), number: u64) -> Self {
        let digits = field.1 - 1;
        self.set(field, format!("{number:0digits$o}").as_bytes())
    }

    /// Puts a number into a field in the form of GNU tar for large and negative ones.
    pub fn base_256(self, field: (usize, usize), number: i64) -> Self {
        let fill = if number < 0 { 0xff } else { 0 };
        let mut bytes = vec![fill; field.1];
        let number = number.to_be_bytes();
        let (kept, from) = match field.1 < 8 {
            true => (field.1, 8 - field.1),
            false => (8, 0),
        };
        let start = field.1 - kept;
        bytes[start..].copy_from_slice(&number[from..]);
        bytes[0] |= 0x80;
        self.set(field, &bytes)
    }

    pub fn mode(self, mode: u64) -> Self {
        self.number(MODE, mode)
    }

    pub fn owner(self, uid: u64, gid: u64) -> Self {
        self.number(UID, uid).number(GID, gid)
    }

    pub fn device(self, major: u64, minor: u64) -> Self {
        self.number(MAJOR, major).number(MINOR, minor)
    }

    /// Gives it a content, and its length.
    pub fn content(mut self, content: impl AsRef<[u8]>) -> Self {
        self.content = content.as_ref().to_vec();
        let length = self.content.len() as u64;
        self.number(SIZE, length)
    }

    /// Puts something before the header.
    pub fn after(mut self, before: Self) -> Self {
        self.before.extend(before.bytes());
        self
    }

    /// Puts a PAX header with these records before it.
    pub fn pax(self, list: &[(&str, &[u8])]) -> Self {
        self.after(Self::new(PAX, "PaxHeaders/x").content(records(list)))
    }

    /// Puts an entry of GNU tar before it that has a long name or target.
    pub fn long(self, kind: u8, text: impl AsRef<[u8]>) -> Self {
        let text = [text.as_ref(), &[0]].concat();
        let long = Self::new(kind, "././@LongLink").set(MAGIC, GNU);
        self.after(long.content(text))
    }

    /// Puts this into the field of the checksum.
    pub fn checksum(mut self, text: &[u8]) -> Self {
        self.checksum = Some(text.to_vec());
        self
    }

    /// The sum of the header's bytes, of which none is over 127 unless `signed` says how those are taken.
    pub fn sum(&self, signed: bool) -> i64 {
        let mut header = self.header;
        header[148..156].fill(b' ');
        let bytes = header.iter().map(|byte| match signed {
            true => i64::from(*byte as i8),
            false => i64::from(*byte),
        });
        bytes.sum()
    }

    /// All of it.
    pub fn bytes(mut self) -> Vec<u8> {
        let sum = format!("{:06o}\0 ", self.sum(false)).into_bytes();
        let sum = self.checksum.take().unwrap_or(sum);
        self = self.set(CHECKSUM, &sum);
        let mut bytes = self.before;
        bytes.extend(self.header);
        bytes.extend(self.content);
        bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
        bytes
    }
}

/// The records of a PAX header.
pub fn records(list: &[(&str, &[u8])]) -> Vec<u8> {
    let mut text = Vec::new();
    for (key, value) in list {
        let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
        let mut length = rest.len() + 1;
        while length != rest.len() + length.to_string().len() {
            length = rest.len() + length.to_string().len();
        }
        text.extend(length.to_string().into_bytes());
        text.extend(rest);
    }
    text
}

/// The entries one after another, without an end.
pub fn open_archive(entries: &[Entry]) -> Vec<u8> {
    let entries = entries.iter().cloned();
    entries.flat_map(Entry::bytes).collect()
}

/// An archive of these entries.
pub fn archive(entries: &[Entry]) -> Vec<u8> {
    let mut bytes = open_archive(entries);
    bytes.resize(bytes.len() + 2 * BLOCK, 0);
    bytes
}
