// SPDX-License-Identifier: Apache-2.0

//! Bytes that are wiped when they are dropped, and never printed.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use zeroize::Zeroizing;

/// The decoded bytes of a resource or a key.
///
/// Clones and parts share the bytes, which are overwritten when the last of them is dropped. So the values of
/// one file share one allocation and are wiped together. `Debug` prints `[redacted]`.
#[derive(Clone)]
pub struct Secret {
    all: Arc<Wiped>,
    start: usize,
    length: usize,
}

/// Wipes the whole allocation at once. `Zeroizing` overwrites the elements one by one, but the spare capacity
/// in one go, which is many times faster; so the vector is cleared first.
struct Wiped(Zeroizing<Vec<u8>>);

impl Drop for Wiped {
    fn drop(&mut self) {
        self.0.clear();
    }
}

impl Secret {
    /// Takes ownership of the bytes.
    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self {
            start: 0,
            length: bytes.len(),
            all: Arc::new(Wiped(bytes)),
        }
    }

    /// A part of the bytes; the range is cut to those that exist.
    pub fn part(&self, range: Range<usize>) -> Self {
        let start = range.start.min(self.length);
        let end = range.end.clamp(start, self.length);
        Self {
            all: Arc::clone(&self.all),
            start: self.start + start,
            length: end - start,
        }
    }

    /// The bytes. The name makes each use stand out in the code.
    pub fn expose(&self) -> &[u8] {
        &self.all.0[self.start..self.start + self.length]
    }

    /// The number of bytes, which is not secret.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A value can't reach a log through `{:?}`, however deeply it is nested.
    #[test]
    fn debug_shows_nothing() {
        let secret = Secret::new(Zeroizing::new(b"hunter2".to_vec()));
        assert_eq!(format!("{:?}", Some(secret)), "Some([redacted])");
    }

    /// A part never exceeds the bytes that it is a part of.
    #[test]
    fn parts_lie_within() {
        let all = Secret::new(Zeroizing::new(b"hunter2".to_vec()));
        let part = all.part(2..5);
        drop(all);
        assert_eq!(part.expose(), b"nte");
        assert_eq!(part.part(1..3).expose(), b"te");
        assert_eq!(part.part(1..9).expose(), b"te");
        assert!(part.part(4..5).is_empty());
    }
}
