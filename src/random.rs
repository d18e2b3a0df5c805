// SPDX-License-Identifier: Apache-2.0

//! Random bytes from the kernel.

use std::io;

use zeroize::Zeroizing;

/// As many fresh bytes as asked for, good enough for a key.
///
/// # Errors
///
/// Where the kernel gives none; there is no second-best source.
pub fn bytes<const N: usize>() -> io::Result<Zeroizing<[u8; N]>> {
    let mut bytes = Zeroizing::new([0; N]);
    getrandom::fill(bytes.as_mut_slice())
        .map_err(|error| io::Error::other(format!("no random bytes from the kernel: {error}")))?;
    Ok(bytes)
}
