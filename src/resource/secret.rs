// SPDX-License-Identifier: Apache-2.0

//! Bytes that wipe themselves and never print.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

/// The decoded bytes of a resource or a key.
///
/// Clones share the bytes, which are overwritten when the last one goes. It prints as `[redacted]`
/// whatever formats it.
#[derive(Clone)]
pub struct Secret(Arc<Zeroizing<Vec<u8>>>);

impl Secret {
    /// Takes the bytes over.
    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(Arc::new(bytes))
    }

    /// The bytes. The name is long so that a reader sees each place that looks inside.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }

    /// How many bytes they are, which is no secret.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
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

    /// A value can't reach a log by way of `{:?}`, however deep it sits.
    #[test]
    fn debug_shows_nothing() {
        let secret = Secret::new(Zeroizing::new(b"hunter2".to_vec()));
        assert_eq!(format!("{:?}", Some(secret)), "Some([redacted])");
    }
}
