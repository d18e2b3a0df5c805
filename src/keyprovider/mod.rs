// SPDX-License-Identifier: Apache-2.0

//! Unwraps the keys of image layers, and wraps them on a build host: ocicrypt's key-provider protocol, its
//! annotation packets, and their ciphers. The caller looks up the key of an id.

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

/// Why a key can't be unwrapped. The messages show no part of a key or a wrapped key.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Error {
    /// The request does not follow the key-provider protocol.
    #[error("the request is not ocicrypt's key-provider protocol: {0}")]
    Protocol(String),
    /// The annotation is not a packet.
    #[error("the annotation packet is malformed: {0}")]
    Packet(String),
    /// The packet has an unknown `wrap_type`.
    #[error("the annotation packet's wrap_type {0} is unknown; A256GCM and A256CTR are known")]
    Algorithm(String),
    /// Decryption failed. A peer is not told why.
    #[error("the annotation packet cannot be decrypted with its key")]
    Decrypt,
}

/// Unwraps a packet's data with `key`, the key that its `kid` names.
///
/// # Errors
///
/// [`Error::Algorithm`] and [`Error::Decrypt`].
pub fn unwrap(packet: &Packet, key: &[u8]) -> Result<Zeroizing<Vec<u8>>, Error> {
    let key = key.try_into().map_err(|_| Error::Decrypt)?;
    cipher::decrypt(&packet.wrap_type, key, &packet.iv, &packet.wrapped_data)
}
