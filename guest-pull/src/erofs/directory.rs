// SPDX-License-Identifier: Apache-2.0

//! Directories: blocks of records, each block with the names behind its records.

use crate::erofs::format::{BLOCK, DIRENT_BYTES, Fields};

/// One name in a directory.
pub struct Dirent<'a> {
    /// The name.
    pub name: &'a [u8],
    /// Where the inode is, in slots.
    pub inode: u64,
    /// What it is: `FT_*` of the format.
    pub file_type: u8,
}

/// The length of a directory with names of these lengths, in their order.
pub fn size(names: impl Iterator<Item = usize>) -> u64 {
    let mut whole = 0;
    let mut used = 0;
    for name in names {
        let takes = DIRENT_BYTES + name;
        if used + takes > BLOCK {
            whole += BLOCK as u64;
            used = 0;
        }
        used += takes;
    }
    whole + used as u64
}

/// The content of a directory with these entries, which are sorted by the bytes of their names.
pub fn encode(entries: &[Dirent<'_>]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = entries;
    while !rest.is_empty() {
        let mut used = 0;
        let fits = rest.iter().take_while(|entry| {
            used += DIRENT_BYTES + entry.name.len();
            used <= BLOCK
        });
        let (block, later) = rest.split_at(fits.count().max(1));
        rest = later;
        let start = bytes.len();
        let mut name_offset = block.len() * DIRENT_BYTES;
        for entry in block {
            let mut record = [0; DIRENT_BYTES];
            let mut put = Fields::new(&mut record);
            put.u64(entry.inode);
            // Less than a block.
            put.u16(name_offset as u16);
            put.bytes(&[entry.file_type]);
            bytes.extend(record);
            name_offset += entry.name.len();
        }
        for entry in block {
            bytes.extend(entry.name);
        }
        if !rest.is_empty() {
            bytes.resize(start + BLOCK, 0);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The length that is reckoned with before the inodes have their places is the length that it has.
    #[test]
    fn the_size_is_known_beforehand() {
        let names: Vec<_> = (0..2000).map(|n| vec![b'a'; 1 + n * 7 % 255]).collect();
        for count in [0, 1, 2, 15, 16, 17, 100, 1999, 2000] {
            let names = &names[..count];
            let entries: Vec<_> = names
                .iter()
                .map(|name| Dirent {
                    name,
                    inode: 7,
                    file_type: 1,
                })
                .collect();
            let encoded = encode(&entries);
            assert_eq!(encoded.len() as u64, size(names.iter().map(Vec::len)));
        }
    }
}
