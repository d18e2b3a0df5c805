// SPDX-License-Identifier: Apache-2.0

//! Spellings of one name. A registry can be written in several ways that lead to the same server, and what a policy or a
//! configuration says of one of them is not to be evaded by another.

use std::net::Ipv6Addr;

use common::auth_json::image::ImageName;
use common::text::EntryName;

use crate::registry::{check_registry, check_repository};

/// The name with its registry in the spelling that people use.
pub fn plainest(image: &ImageName) -> ImageName {
    let registry = image.registry.to_ascii_lowercase();
    let registry = registry.strip_suffix(":443").unwrap_or(&registry);
    let registry = match registry.trim_end_matches('.') {
        "index.docker.io" | "registry-1.docker.io" => "docker.io",
        other => other,
    };
    ImageName {
        registry: address(registry).unwrap_or_else(|| registry.to_owned()),
        ..image.clone()
    }
}

/// An address of IPv6 in its shortest form, with what follows it; none if it is something else.
fn address(registry: &str) -> Option<String> {
    let (address, port) = registry.strip_prefix('[')?.split_once(']')?;
    let address: Ipv6Addr = address.parse().ok()?;
    Some(format!("[{address}]{port}"))
}

/// What scopes are, for messages.
const SCOPES: &str = "\"\", *.DOMAIN, HOST[:PORT], or HOST[:PORT]/PATH with or without :TAG or @DIGEST, in lower case";

/// Checks a scope of a policy's transport `docker`, which must be such that there can be an image in it: another one may be
/// the only thing that keeps an image out, and would not.
///
/// # Errors
///
/// How to write it.
pub fn check_scope(scope: &str) -> Result<(), String> {
    if is_scope(scope) {
        return Ok(());
    }
    let better = better(scope).filter(|better| is_scope(better));
    let fix = match better {
        Some(better) => format!("write {}", EntryName(&better)),
        None => format!("a scope is {SCOPES}"),
    };
    Err(format!(
        "no image is in the scope {}: {fix}",
        EntryName(scope)
    ))
}

/// Whether there can be an image in the scope.
fn is_scope(scope: &str) -> bool {
    if let Some(domain) = scope.strip_prefix("*.") {
        return !domain.contains(':') && is_host(domain);
    }
    let Some((host, path)) = scope.split_once('/') else {
        return scope.is_empty() || is_host(scope) && names_host(scope);
    };
    if !is_host(host) || !names_host(host) {
        return false;
    }
    match path.contains([':', '@']) {
        true => ImageName::parse(scope).is_ok_and(|image| {
            crate::registry::reference(&image).is_ok() && image.to_string() == scope
        }),
        false => check_repository(path).is_ok(),
    }
}

/// Whether images' names have such a registry, and none that is another in them.
fn is_host(host: &str) -> bool {
    let is_lower = !host.bytes().any(|byte| byte.is_ascii_uppercase());
    is_lower && host != "index.docker.io" && check_registry(host).is_ok()
}

/// Whether the first part of a name is a registry.
fn names_host(host: &str) -> bool {
    ImageName::names_registry(&format!("{host}/"))
}

/// What was meant by a scope, perhaps.
fn better(scope: &str) -> Option<String> {
    let name = scope.split_once("://").map_or(scope, |(_, name)| name);
    let name = name.trim_end_matches('/');
    if let Some(domain) = name.strip_prefix("*.") {
        let host = domain.split(['/', ':']).next()?;
        return Some(format!("*.{}", host.to_ascii_lowercase()));
    }
    let is_host = !name.contains('/') && name.split(':').next()?.contains('.');
    let text = match is_host {
        true => format!("{name}/a"),
        false => name.to_owned(),
    };
    let image = ImageName::parse(&text.to_ascii_lowercase()).ok()?;
    // Tags may have letters of both cases.
    let suffix = ImageName::parse(&text).ok()?.suffix;
    let ImageName {
        registry,
        repository,
        ..
    } = image;
    let last = name.rsplit('/').next()?;
    Some(match (is_host, last.contains([':', '@'])) {
        (true, _) => registry,
        (false, true) => format!("{registry}/{repository}{suffix}"),
        (false, false) => format!("{registry}/{repository}"),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// What leads to the same server has one spelling.
    #[test]
    fn registries_have_one_spelling() {
        for (name, wanted) in [
            ("Quay.IO:443/a/b:1", "quay.io/a/b:1"),
            ("quay.io./a/b:1", "quay.io/a/b:1"),
            ("registry-1.docker.io/a/b:1", "docker.io/a/b:1"),
            ("[0:0::0001]:5000/a:1", "[::1]:5000/a:1"),
            ("[0:0::0001]:443/a:1", "[::1]/a:1"),
            ("quay.io:8443/a:1", "quay.io:8443/a:1"),
        ] {
            let name = ImageName::parse(name).unwrap();
            assert_eq!(plainest(&name).to_string(), wanted);
        }
    }

    /// A scope that no image is in is an error that says how to write it; those that can be meant are none.
    #[test]
    fn scopes_can_have_images() {
        let digest = format!("@sha256:{}", "0".repeat(64));
        for scope in [
            "",
            "*.example.com",
            "*.com",
            "localhost",
            "localhost:5000",
            "r.example",
            "r.example:5000",
            "[::1]:5000",
            "127.0.0.1:5000/a",
            "docker.io",
            "docker.io/library",
            "docker.io/alpine",
            "docker.io/library/alpine:3",
            "r.example/a",
            "r.example:5000/a/b/c",
            "r.example/a/b:V1",
            &format!("r.example/a/b{digest}"),
        ] {
            assert_eq!(check_scope(scope), Ok(()), "{scope}");
        }
        for (scope, fix) in [
            ("alpine", "write \"docker.io/library/alpine\""),
            ("alpine:3.19", "write \"docker.io/library/alpine:3.19\""),
            ("org/app", "write \"docker.io/org/app\""),
            (
                "docker.io/alpine:V3",
                "write \"docker.io/library/alpine:V3\"",
            ),
            ("docker.io/alpine:3", "write \"docker.io/library/alpine:3\""),
            ("index.docker.io", "write \"docker.io\""),
            ("index.docker.io/org/app", "write \"docker.io/org/app\""),
            ("r.example/", "write \"r.example\""),
            ("r.example/a/", "write \"r.example/a\""),
            ("docker://r.example/a:1", "write \"r.example/a:1\""),
            ("https://r.example", "write \"r.example\""),
            ("R.Example/a", "write \"r.example/a\""),
            ("r.example/A", "write \"r.example/a\""),
            ("*.example.com/x", "write \"*.example.com\""),
            ("*.example.com:5000", "write \"*.example.com\""),
            ("*", "a scope is"),
            ("*example.com", "a scope is"),
            ("r.example/a*", "a scope is"),
            ("r.example:port/a", "a scope is"),
            (
                &format!("r.example/a:1{digest}"),
                "write \"r.example/a@sha256:",
            ),
            ("r.example/a@sha256:00", "a scope is"),
        ] {
            let error = check_scope(scope).err().unwrap_or_default();
            assert!(error.contains(fix), "{scope}: {error}");
        }
    }
}
