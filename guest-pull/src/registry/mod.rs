// SPDX-License-Identifier: Apache-2.0

//! The client of a registry: the OCI distribution protocol, as far as a pull needs it.

mod challenge;
mod client;
mod error;
mod forward;
pub mod manifest;
pub mod platform;
mod roots;
mod token;
mod transport;
mod url;

pub use client::{Blob, Client};
pub use error::Error;
pub use roots::roots;
pub use token::Login;
pub use transport::Options;
pub use url::server;

use common::auth_json::image::ImageName;

use crate::digest::Digest;

/// The tag or digest of an image's name, as a registry is asked for it.
///
/// # Errors
///
/// If it is neither: a digest that can't be checked would be taken for a tag, and any image for the one that was meant.
pub fn reference(image: &ImageName) -> Result<&str, String> {
    let is_tag = |tag: &str| {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        tag.len() <= 128
            && tag.bytes().next().is_some_and(word)
            && tag.bytes().all(|byte| word(byte) || b".-".contains(&byte))
    };
    let suffix = image.suffix.as_str();
    if let Some(digest) = suffix.strip_prefix('@') {
        return match Digest::parse(digest) {
            Some(_) => Ok(digest),
            None => Err("its digest is not sha256: and 64 digits in lower case".to_owned()),
        };
    }
    match suffix.strip_prefix(':') {
        Some(tag) if is_tag(tag) => Ok(tag),
        _ => Err("its tag is not letters, digits, \"_\", \".\" and \"-\", 128 at most".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What is pinned by a digest is checked by it, or refused; and neither leads anywhere else in the registry.
    #[test]
    fn references_are_tags_or_digests() {
        let digest = format!("sha256:{}", "0".repeat(64));
        for (suffix, is_good) in [
            (":1".to_owned(), true),
            (":v1.2-x_y".to_owned(), true),
            (format!("@{digest}"), true),
            (format!("@{}", digest.replace('0', "A")), false),
            (format!("@sha512:{}", "0".repeat(128)), false),
            ("@sha256:00".to_owned(), false),
            ("@x/../../y".to_owned(), false),
            ("@latest".to_owned(), false),
            (":a/b".to_owned(), false),
            (":..".to_owned(), false),
        ] {
            let image = ImageName {
                suffix: suffix.clone(),
                ..ImageName::parse("r.example/a/b:1").unwrap()
            };
            assert_eq!(reference(&image).is_ok(), is_good, "{suffix}");
        }
    }
}
