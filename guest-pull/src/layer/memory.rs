// SPDX-License-Identifier: Apache-2.0

//! Bounds the memory of layers that are being made.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::erofs::{Content, Kind, Xattr};

/// How much memory all layers that are made at once may take for what is written last: inodes, names, targets of links,
/// extended attributes, and the ends of contents. Most take 200 bytes an inode, and less than 10 MiB. It leaves the worker a
/// third of its own for the rest.
const MAX_MEMORY: usize = 448 << 20;

/// What all layers of this process take of it.
static MEMORY: AtomicUsize = AtomicUsize::new(0);

/// What one layer takes of it, which is given back when the layer is dropped.
#[derive(Default)]
pub struct Memory(usize);

impl Memory {
    /// Takes more.
    ///
    /// # Errors
    ///
    /// If all layers together take too much.
    pub fn take(&mut self, bytes: usize) -> Result<(), String> {
        let bytes = bytes.min(MAX_MEMORY + 1);
        match MEMORY.fetch_add(bytes, Ordering::Relaxed) + bytes <= MAX_MEMORY {
            true => {
                self.0 += bytes;
                Ok(())
            }
            false => {
                MEMORY.fetch_sub(bytes, Ordering::Relaxed);
                Err(format!(
                    "the names, attributes and ends of files up to here, and of layers that are made meanwhile, take more than {} MiB",
                    MAX_MEMORY >> 20
                ))
            }
        }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        MEMORY.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// What an inode takes, about.
pub const INODE_BYTES: usize = 160;
/// What a name takes, about, beside the text.
pub const NAME_BYTES: usize = 48;

/// How much memory an inode with a name takes.
pub fn memory_of(kind: &Kind) -> usize {
    let more = match kind {
        Kind::File(Content::Plain { tail, .. }) => tail.len(),
        Kind::File(Content::Compressed { clusters, .. }) => size_of_val(&**clusters),
        Kind::Symlink(target) => target.len(),
        _ => 0,
    };
    INODE_BYTES + NAME_BYTES + more
}

/// How much memory attributes take.
pub fn memory_of_all(xattrs: &[Xattr]) -> usize {
    let lengths = xattrs.iter().map(|(name, value)| name.len() + value.len());
    lengths.map(|length| NAME_BYTES + length).sum()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What one layer takes, others can't take meanwhile.
    #[test]
    fn layers_share_the_memory() {
        let (mut one, mut other) = (Memory::default(), Memory::default());
        // Other tests of this process take some too.
        one.take(MAX_MEMORY * 2 / 3).unwrap();
        assert!(other.take(MAX_MEMORY / 2).is_err());
        drop(other);
        drop(one);
        Memory::default().take(MAX_MEMORY / 2).unwrap();
    }
}
