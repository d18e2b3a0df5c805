// SPDX-License-Identifier: Apache-2.0

//! Unwrapping of image layers' keys, and on a build host wrapping: ocicrypt's key-provider protocol, its
//! annotation packets, and their ciphers. Which key an id means is for the caller to say.

pub mod annotation;
pub mod cipher;
#[cfg(feature = "tools")]
pub mod command;
#[cfg(feature = "tools")]
pub mod parameters;
pub mod protocol;

use thiserror::Error;
use zeroize::Zeroizing;

use crate::keyprovider::annotation::Packet;

/// The length of a key-encryption key (AES-256), in bytes.
pub const KEY_BYTES: usize = 32;

/// Why a key can't be unwrapped. No text holds a part of a key or a packet.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// The request is not of the key-provider protocol.
    #[error("the request is not ocicrypt's key-provider protocol: {0}")]
    Protocol(String),
    /// The annotation is no packet.
    #[error("the annotation packet is malformed: {0}")]
    Packet(String),
    /// A `wrap_type` that is none of those known.
    #[error("the annotation packet's wrap_type {0} is unknown; A256GCM and A256CTR are known")]
    Algorithm(String),
    /// Anything that goes wrong from there on. Which it was, a peer is not told.
    #[error("the annotation packet does not decrypt with its key")]
    Decrypt,
}

/// Unwraps what a packet holds with the key that its `kid` means.
///
/// # Errors
///
/// [`Error::Algorithm`] and [`Error::Decrypt`].
pub fn unwrap(packet: &Packet, key: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
    let key = key.try_into().map_err(|_| Error::Decrypt)?;
    cipher::decrypt(&packet.wrap_type, key, &packet.iv, &packet.wrapped_data)
}
