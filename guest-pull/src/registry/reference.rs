// SPDX-License-Identifier: Apache-2.0

//! What may be asked of a registry: the grammar of names, as containerd and Docker have it.

use std::net::{Ipv4Addr, Ipv6Addr};

use common::auth_json::image::ImageName;

use crate::digest::Digest;

/// The longest repository, which other clients have too.
const MAX_REPOSITORY: usize = 255;

/// The longest tag.
const MAX_TAG: usize = 128;

/// The tag or digest of an image's name, as a registry is asked for it. Where the name has both, the digest counts.
///
/// # Errors
///
/// If the name is one that no registry has, with the reason. If its digest can't be checked: it would be taken for a tag, and
/// any image for the one that was meant.
pub fn reference(image: &ImageName) -> Result<&str, String> {
    check_registry(&image.registry)?;
    check_repository(&image.repository)?;
    let is_tag = |tag: &str| {
        let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        tag.len() <= MAX_TAG
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
        _ => Err(format!(
            "its tag is not letters, digits, \"_\", \".\" and \"-\", {MAX_TAG} at most"
        )),
    }
}

/// A host name, or an address, perhaps with a port.
pub(crate) fn check_registry(registry: &str) -> Result<(), String> {
    let is_name = |host: &str| {
        host.split('.').all(|label| {
            let letters = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
            let is_open = label.starts_with('-') || label.ends_with('-');
            !label.is_empty() && !is_open && label.bytes().all(letters)
        })
    };
    // Resolvers read `127.1`, `2130706433` and `0x7f.1` as addresses too: other spellings, which nothing compares.
    let is_number = |host: &str| {
        let last = host.rsplit('.').next().unwrap_or(host);
        is_digits(last) || last.starts_with("0x") || last.starts_with("0X")
    };
    let is_named = |host: &str| match is_number(host) {
        true => host.parse::<Ipv4Addr>().is_ok(),
        false => is_name(host),
    };
    let (is_host, port) = match registry.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((address, port)) => (address.parse::<Ipv6Addr>().is_ok(), port),
            None => (false, ""),
        },
        None => {
            let end = registry.find(':').unwrap_or(registry.len());
            (is_named(&registry[..end]), &registry[end..])
        }
    };
    // Zeros before it would make another spelling of the same registry.
    let is_port =
        |port: &str| is_digits(port) && !port.starts_with('0') && port.parse::<u16>().is_ok();
    let is_port = port.is_empty() || port.strip_prefix(':').is_some_and(is_port);
    match (is_host, is_port) {
        (true, true) => Ok(()),
        (false, _) => Err(format!(
            "its registry \"{registry}\" is not the name or address of a host"
        )),
        (true, false) => Err(format!(
            "its registry \"{registry}\" has a port that is not 1 to 65535, without zeros before it"
        )),
    }
}

fn is_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// Parts between slashes: lower-case letters and digits, with one ".", "_", "__" or any number of "-" between them.
pub(crate) fn check_repository(repository: &str) -> Result<(), String> {
    if repository.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(format!(
            "its repository \"{repository}\" has upper-case letters; registries have lower-case ones alone"
        ));
    }
    if repository.len() > MAX_REPOSITORY {
        return Err(format!(
            "its repository is longer than {MAX_REPOSITORY} characters"
        ));
    }
    let is_word = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_separator =
        |text: &str| matches!(text, "." | "_" | "__") || text.bytes().all(|byte| byte == b'-');
    let is_part = |part: &str| {
        let ends_well = part.bytes().next().is_some_and(is_word)
            && part.bytes().next_back().is_some_and(is_word);
        let mut separators = part.split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit());
        ends_well && separators.all(is_separator)
    };
    match repository.split('/').all(is_part) {
        true => Ok(()),
        false => Err(format!(
            "its repository \"{repository}\" is not parts of lower-case letters and digits, with \"/\" between them, \
             and \".\", \"_\", \"__\" or \"-\" within them"
        )),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A registry has no other spelling by numbers: what is said of it would not count for that.
    #[test]
    fn numbers_have_one_spelling() {
        for (registry, is_good) in [
            ("quay.io:443", true),
            ("quay.io:0443", false),
            ("quay.io:00443", false),
            ("127.0.0.1:5000", true),
            ("127.1", false),
            ("127.0.0.01:5000", false),
            ("2130706433", false),
            ("0x7f000001:5000", false),
            ("127.0.0.0x1", false),
            ("1.example", true),
            ("example.0a", true),
        ] {
            assert_eq!(check_registry(registry).is_ok(), is_good, "{registry}");
        }
    }

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
