// SPDX-License-Identifier: Apache-2.0

//! The ciphers of annotation packets.

use aes_gcm::aead::AeadInOut as _;
use aes_gcm::{Aes256Gcm, KeyInit as _, Tag};
use ctr::Ctr128BE;
use ctr::cipher::{KeyIvInit as _, StreamCipher as _};
use zeroize::Zeroizing;

use crate::keyprovider::{Error, KEY_BYTES};
use crate::text::Quoted;

/// The length of GCM's tag, which follows the ciphertext, in bytes.
const TAG_BYTES: usize = 16;

/// Decrypts `data` with the algorithm that `wrap_type` names: `A256GCM` (iv of 12 bytes, the tag after the
/// ciphertext), or `A256CTR`, also spelled `aes_256_ctr` (iv of 16 bytes, not authenticated).
///
/// # Errors
///
/// [`Error::Algorithm`] for any other name, and [`Error::Decrypt`] for any other failure.
pub fn decrypt(
    wrap_type: &str,
    key: &[u8; KEY_BYTES],
    iv: &[u8],
    data: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Error> {
    match wrap_type {
        "A256GCM" => decrypt_gcm(key, iv, data).ok_or(Error::Decrypt),
        "A256CTR" | "aes_256_ctr" => decrypt_ctr(key, iv, data).ok_or(Error::Decrypt),
        other => Err(Error::Algorithm(Quoted(other).to_string())),
    }
}

fn decrypt_gcm(key: &[u8; KEY_BYTES], iv: &[u8], data: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let nonce = <&[u8; 12]>::try_from(iv).ok()?;
    let (text, tag) = data.split_at_checked(data.len().checked_sub(TAG_BYTES)?)?;
    let tag = <&[u8; TAG_BYTES]>::try_from(tag).ok()?;
    let mut text = Zeroizing::new(text.to_vec());
    Aes256Gcm::new(key.into())
        .decrypt_inout_detached(
            nonce.into(),
            &[],
            text.as_mut_slice().into(),
            &Tag::from(*tag),
        )
        .ok()?;
    Some(text)
}

fn decrypt_ctr(key: &[u8; KEY_BYTES], iv: &[u8], data: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    let mut text = Zeroizing::new(data.to_vec());
    let mut cipher = Ctr128BE::<aes_gcm::aes::Aes256>::new_from_slices(key, iv).ok()?;
    cipher.try_apply_keystream(&mut text).ok()?;
    Some(text)
}

/// An algorithm that wraps keys.
#[cfg(feature = "tools")]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Algorithm {
    /// AES-256-GCM.
    #[default]
    Gcm,
    /// AES-256-CTR, which is not authenticated.
    Ctr,
}

#[cfg(feature = "tools")]
impl Algorithm {
    /// The algorithm that parameters and packets call by this name.
    pub fn of_name(name: &str) -> Option<Self> {
        match name {
            "A256GCM" => Some(Self::Gcm),
            "A256CTR" => Some(Self::Ctr),
            _ => None,
        }
    }

    /// Its name in a packet's `wrap_type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gcm => "A256GCM",
            Self::Ctr => "A256CTR",
        }
    }
}

/// Encrypts `data` with a fresh initialisation vector. Returns the ciphertext, with GCM's tag after it, and
/// the vector.
///
/// # Errors
///
/// If the kernel gives no random bytes.
#[cfg(feature = "tools")]
pub fn encrypt(
    algorithm: Algorithm,
    key: &[u8; KEY_BYTES],
    data: &[u8],
) -> std::io::Result<(Vec<u8>, Vec<u8>)> {
    let failed = || std::io::Error::other("the key can't be wrapped");
    let mut text = Vec::with_capacity(data.len() + TAG_BYTES);
    text.extend_from_slice(data);
    let iv = match algorithm {
        Algorithm::Gcm => {
            let iv = crate::random::bytes::<12>()?;
            let tag = Aes256Gcm::new(key.into())
                .encrypt_inout_detached((&*iv).into(), &[], text.as_mut_slice().into())
                .map_err(|_| failed())?;
            text.extend_from_slice(&tag);
            iv.to_vec()
        }
        Algorithm::Ctr => {
            let iv = crate::random::bytes::<16>()?;
            let cipher = Ctr128BE::<aes_gcm::aes::Aes256>::new_from_slices(key, &*iv);
            let mut cipher = cipher.map_err(|_| failed())?;
            cipher
                .try_apply_keystream(&mut text)
                .map_err(|_| failed())?;
            iv.to_vec()
        }
    };
    Ok((text, iv))
}
