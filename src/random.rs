// SPDX-License-Identifier: Apache-2.0

//! Random bytes from the kernel.

use std::io;

use zeroize::Zeroizing;

/// `N` fresh random bytes, suitable for a key.
///
/// # Errors
///
/// If the kernel gives none; there is no fallback.
pub fn bytes<const N: usize>() -> io::Result<Zeroizing<[u8; N]>> {
    let mut bytes = Zeroizing::new([0; N]);
    getrandom::fill(bytes.as_mut_slice())
        .map_err(|error| io::Error::other(format!("no random bytes from the kernel: {error}")))?;
    Ok(bytes)
}
