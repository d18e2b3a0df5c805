// SPDX-License-Identifier: Apache-2.0

//! Directories: blocks of records, each block with the names behind its records.

use crate::erofs::format::{BLOCK, DIRENT_BYTES, Fields};

/// The length of a directory's content, before the inodes have their places.
#[derive(Default)]
pub struct Size {
    whole: u64,
    used: usize,
}

impl Size {
    /// Counts the next name, of this length.
    pub fn add(&mut self, name: usize) {
        let takes = DIRENT_BYTES + name;
        if self.used + takes > BLOCK {
            self.whole += BLOCK as u64;
            self.used = 0;
        }
        self.used += takes;
    }

    /// The length with all names so far.
    pub fn bytes(&self) -> u64 {
        self.whole + self.used as u64
    }
}

/// A directory's content as it is put together, block by block.
#[derive(Default)]
pub struct Encoder {
    /// Of each entry of the present block, where its inode is in slots, what it is, and the length of its name.
    entries: Vec<(u64, u8, usize)>,
    names: Vec<u8>,
}

impl Encoder {
    /// Adds an entry: names come sorted by their bytes. Gives the block before, if this one did not fit it.
    pub fn add(&mut self, name: &[u8], inode: u64, file_type: u8) -> Option<Vec<u8>> {
        let used = self.entries.len() * DIRENT_BYTES + self.names.len();
        let full = (used + DIRENT_BYTES + name.len() > BLOCK).then(|| {
            let mut block = self.rest();
            block.resize(BLOCK, 0);
            block
        });
        self.entries.push((inode, file_type, name.len()));
        self.names.extend(name);
        full
    }

    /// The last block, without what is unused of it.
    pub fn rest(&mut self) -> Vec<u8> {
        let mut block = Vec::with_capacity(BLOCK);
        let mut name_offset = self.entries.len() * DIRENT_BYTES;
        for (inode, file_type, length) in self.entries.drain(..) {
            let mut record = [0; DIRENT_BYTES];
            let mut put = Fields::new(&mut record);
            put.u64(inode);
            // Less than a block.
            put.u16(name_offset as u16);
            put.bytes(&[file_type]);
            block.extend(record);
            name_offset += length;
        }
        block.append(&mut self.names);
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The length that is reckoned with before the inodes have their places is the length that it has.
    #[test]
    fn the_size_is_known_beforehand() {
        for count in [0, 1, 2, 15, 16, 17, 100, 1999, 2000] {
            let (mut size, mut encoder) = (Size::default(), Encoder::default());
            let mut encoded = Vec::new();
            for number in 0..count {
                let name = vec![b'a'; 1 + number * 7 % 255];
                size.add(name.len());
                encoded.extend(encoder.add(&name, 7, 1).unwrap_or_default());
            }
            encoded.extend(encoder.rest());
            assert_eq!(encoded.len() as u64, size.bytes());
        }
    }
}
