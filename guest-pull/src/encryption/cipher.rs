// SPDX-License-Identifier: Apache-2.0

//! Decrypts a layer as it is read: AES-256 in counter mode, with HMAC-SHA256 over the ciphertext by the same key.

use std::io::{self, Read};

use aes::Aes256;
use common::base64;
use common::json;
use ctr::Ctr128BE;
use ctr::cipher::{KeyIvInit as _, StreamCipher as _};
use ring::hmac;
use zeroize::{Zeroize as _, Zeroizing};

use crate::encryption::annotations::{MAX_MEMBERS, Public, nonce};

/// The length of a layer's key, in bytes.
const KEY_BYTES: usize = 32;

/// How much of the stack is wiped: several times what the ciphers use, in a build without optimisation too.
const STACK_BYTES: usize = 16 << 10;

/// What decrypts one layer, and tells at its end whether it was the one that was encrypted.
pub struct Decryptor {
    /// It begins with the key, and wipes itself. It stays in one place, since one that moves leaves a copy behind.
    cipher: Box<Ctr128BE<Aes256>>,
    /// The key can't be found out from its state.
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
        let made = Self::make(public, options);
        wipe_stack();
        made
    }

    // Never inlined, so that what it leaves on the stack is where it is wiped.
    #[inline(never)]
    fn make(public: &Public, options: &[u8]) -> Result<Self, String> {
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
            cipher: Box::new(cipher.map_err(|error| error.to_string())?),
            found: hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &key)),
            expected: public.hmac,
        })
    }

    // Never inlined: see `make`.
    #[inline(never)]
    fn apply(&mut self, part: &mut [u8]) -> io::Result<()> {
        self.found.update(part);
        let decrypted = self.cipher.try_apply_keystream(part);
        decrypted.map_err(|_| io::Error::other("longer than its counter"))
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

/// Overwrites the part of the stack that the functions which ran just now have used. Both ciphers leave keys there: the HMAC's
/// masked by a constant, and the round keys.
#[inline(never)]
fn wipe_stack() {
    let mut used = [0_u8; STACK_BYTES];
    used.zeroize();
    std::hint::black_box(&used);
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
        if !read.as_ref().is_ok_and(|length| *length > 0) {
            // Nobody wipes the stack of a thread that ends.
            wipe_stack();
        }
        let length = read?;
        self.decryptor.apply(&mut buffer[..length])?;
        Ok(length)
    }
}
