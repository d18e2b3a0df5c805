// SPDX-License-Identifier: Apache-2.0

//! Decrypts a layer as it is read: AES-256 in counter mode, with HMAC-SHA256 over the ciphertext by the same key.

use std::io::{self, Read};

use aes::Aes256;
use common::base64;
use common::json;
use ctr::Ctr128BE;
use ctr::cipher::{KeyIvInit as _, StreamCipher as _};
use ring::hmac;
use zeroize::Zeroizing;

use crate::encryption::annotations::{MAX_MEMBERS, Public, nonce};

/// The length of a layer's key, in bytes.
const KEY_BYTES: usize = 32;

/// What decrypts one layer, and tells at its end whether it was the one that was encrypted.
pub struct Decryptor {
    cipher: Ctr128BE<Aes256>,
    found: hmac::Context,
    expected: [u8; 32],
}

impl Decryptor {
    /// Takes the secret options as the key provider gave them. The digest among them is not looked at: tools write that of a
    /// blob which they compress anew before they encrypt it.
    ///
    /// # Errors
    ///
    /// If they are not the options of a layer. The reason shows nothing of them.
    pub(super) fn new(public: &Public, options: &[u8]) -> Result<Self, String> {
        // The parser's own reason could be about a key.
        let members = json::members(options, MAX_MEMBERS)
            .map_err(|_| "what it unwraps is no JSON object with a layer's key")?;
        let key = json::string(&members, "symkey").map(Zeroizing::new);
        let key = key.and_then(|key| base64::decode(&key).ok());
        let key = key.ok_or("what it unwraps has no \"symkey\" in base64")?;
        let length = key.len();
        if length != KEY_BYTES {
            return Err(format!(
                "what it unwraps has a \"symkey\" of {length} bytes, and AES-256 has {KEY_BYTES}"
            ));
        }
        let secret = nonce(&members).map_err(|what| format!("what it unwraps has {what}"))?;
        let nonce = match (public.nonce, secret) {
            // Upstream takes the public one. The HMAC is not over it, so that whoever can change the manifest could.
            (Some(public), Some(secret)) if public != secret => {
                return Err("what it unwraps has another \"nonce\" than the annotation".to_owned());
            }
            (public, secret) => public.or(secret),
        };
        let nonce = nonce.ok_or("neither what it unwraps nor the annotation has a \"nonce\"")?;
        let cipher = Ctr128BE::new_from_slices(&key, &nonce);
        Ok(Self {
            // Both lengths are right.
            cipher: cipher.map_err(|error| error.to_string())?,
            found: hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &key)),
            expected: public.hmac,
        })
    }

    /// Decrypts what `inner` reads.
    pub fn decrypt<R: Read>(self, inner: R) -> Decrypting<R> {
        Decrypting {
            inner,
            decryptor: self,
            has_failed: false,
        }
    }
}

/// Reads from another reader, and decrypts what it reads.
pub struct Decrypting<R> {
    inner: R,
    decryptor: Decryptor,
    has_failed: bool,
}

impl<R> Decrypting<R> {
    /// Whether the other reader failed. Then there is more that was not read, and the HMAC says nothing.
    pub fn has_failed(&self) -> bool {
        self.has_failed
    }

    /// Whether all that was read has the HMAC that the layer should have.
    pub fn is_authentic(self) -> bool {
        let found = self.decryptor.found.sign();
        let pairs = found.as_ref().iter().zip(&self.decryptor.expected);
        // In the same time, whichever byte is wrong.
        pairs.fold(0, |different, (a, b)| different | (a ^ b)) == 0
    }
}

impl<R: Read> Read for Decrypting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer);
        let is_failure = |error: &io::Error| error.kind() != io::ErrorKind::Interrupted;
        self.has_failed |= read.as_ref().is_err_and(is_failure);
        let length = read?;
        let part = &mut buffer[..length];
        self.decryptor.found.update(part);
        let decrypted = self.decryptor.cipher.try_apply_keystream(part);
        decrypted.map_err(|_| io::Error::other("longer than its counter"))?;
        Ok(length)
    }
}
