// SPDX-License-Identifier: Apache-2.0

//! Image policies: which images may be pulled, and whose signatures they need (containers-policy.json(5)).
//!
//! The mounter reads the policy, and refuses what needs no look at the image. What is left are [`Rules`]: signatures that
//! the image must have, with the keys. The worker checks them at each pull, as soon as it knows the digests, and before it
//! asks for a layer.

pub mod bundle;
mod cosign;
mod identity;
pub mod keys;
pub mod lookaside;
mod object;
pub mod openpgp;
mod parse;
pub mod payload;
mod problems;
mod rules;
mod signed_by;
mod source;

use thiserror::Error;

use crate::registry;

pub use rules::{Rules, local_signature};
pub use source::{refuses_all, rules_for};

/// The most signatures of one image, of each kind, that are looked at. A repository that others may write to could hold up
/// pulls with many; containers/image reads as many.
const MAX_SIGNATURES: usize = 128;

/// The largest signature that is read. Real ones have a few KiB.
const MAX_SIGNATURE_BYTES: u64 = 1 << 20;

/// Why an image is not let in.
#[derive(Debug, Error)]
pub enum Error {
    /// The policy is against it.
    #[error("the policy does not allow this image: {0}")]
    Refused(String),
    /// Signatures can't be had.
    #[error("the policy wants a signature: {0}")]
    Registry(registry::Error),
}
