// SPDX-License-Identifier: Apache-2.0

//! The ciphers of annotation packets.

use aes_gcm::aead::AeadInOut as _;
use aes_gcm::{Aes256Gcm, KeyInit as _, Tag};
use ctr::Ctr128BE;
use ctr::cipher::{KeyIvInit as _, StreamCipher as _};
use zeroize::Zeroizing;

use crate::keyprovider::{Error, KEY_BYTES};
use crate::text::Shown;

/// The length of GCM's tag, which follows the ciphertext, in bytes.
const TAG_BYTES: usize = 16;

/// Decrypts `data` by the algorithm that `wrap_type` names: `A256GCM` (iv of 12 bytes, the tag
/// after the ciphertext) or `A256CTR`, once `aes_256_ctr` (iv of 16 bytes, no authentication).
///
/// # Errors
///
/// [`Error::Algorithm`] for any other name, and [`Error::Decrypt`] for whatever else is wrong.
pub fn decrypt(
    wrap_type: &str,
    key: &[u8; KEY_BYTES],
    iv: &[u8],
    data: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Error> {
    match wrap_type {
        "A256GCM" => decrypt_gcm(key, iv, data).ok_or(Error::Decrypt),
        "A256CTR" | "aes_256_ctr" => decrypt_ctr(key, iv, data).ok_or(Error::Decrypt),
        other => Err(Error::Algorithm(Shown(other).to_string())),
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
