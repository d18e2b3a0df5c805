// SPDX-License-Identifier: Apache-2.0

//! Encrypted layers, as ocicrypt makes them: the blob is the ciphertext of the compressed archive, and annotations of the
//! layer have its wrapped keys, one for each recipient, and the HMAC of the ciphertext.

mod annotations;
mod cipher;
pub mod provider;

use common::text::Escaped;

use crate::failure::{Failure, Kind};
use crate::question::{Answer, Question};
use crate::registry::manifest::Descriptor;
use annotations::Annotations;
pub use cipher::{Decrypting, Decryptor};

/// The key provider that the daemon is, as images name it.
const OURS: &str = "attestation-agent";

/// How many reasons a failure tells. Its text becomes a pod's event, and an image can have many recipients.
const REASONS: usize = 3;

/// What decrypts a layer; none if it isn't encrypted.
///
/// # Errors
///
/// If what the layer says of its encryption can't be used, or nobody has its key.
pub fn decryptor(
    layer: &Descriptor,
    ask: &dyn Fn(&Question) -> Result<Answer, Failure>,
) -> Result<Option<Decryptor>, Failure> {
    let Some(annotations) = Annotations::of(layer)? else {
        return Ok(None);
    };
    let mut reasons = Vec::new();
    for wrapped in &annotations.wrapped {
        let provider = Escaped(&wrapped.provider);
        let question = Question::Key {
            provider: wrapped.provider.clone(),
            packet: wrapped.packet.clone(),
        };
        let options = match ask(&question) {
            Ok(Answer::Key(options)) => options,
            Ok(_) => return Err(other("the mounter answers something else")),
            // Another recipient may have a key that is here.
            Err(failure) if failure.kind == Kind::Configuration => {
                reasons.push(failure.message);
                continue;
            }
            Err(failure) => return Err(failure),
        };
        match Decryptor::new(&annotations.public, &options) {
            Ok(decryptor) => return Ok(Some(decryptor)),
            // A256CTR unwraps with any key, and then gives anything.
            Err(what) => reasons.push(format!("the key provider {provider}: {what}")),
        }
    }
    Err(no_key(&annotations, &reasons))
}

fn no_key(annotations: &Annotations, reasons: &[String]) -> Failure {
    let mut text = "it is encrypted, and none of its keys can be unwrapped: ".to_owned();
    text.push_str(&reasons[..reasons.len().min(REASONS)].join("; "));
    if reasons.len() > REASONS {
        text.push_str(&format!("; and {} more", reasons.len() - REASONS));
    }
    let mut providers = annotations.wrapped.iter().map(|wrapped| &wrapped.provider);
    text.push_str(match providers.any(|provider| provider == OURS) {
        true => "; put the image's key into the VM's keys file",
        false => {
            "; the VM's key provider is attestation-agent: encrypt the image for that one too \
             (--encryption-key provider:attestation-agent:keyid=...)"
        }
    });
    Failure::new(Kind::Configuration, text)
}

fn other(message: impl Into<String>) -> Failure {
    Failure::new(Kind::Other, message)
}
