// SPDX-License-Identifier: Apache-2.0

//! How the scope of a policy must be spelled for clients to find it.
//!
//! image-rs v0.21.0, `signature/image/mod.rs` (`get_image_namespaces`), looks up the whole name of the image with tag
//! or digest, then its repository and each part of its path up to the registry, then the registry's domains after
//! `*.`, without a port. All are compared byte by byte, in the long form: `docker.io/library/busybox`, never
//! `busybox`.

use crate::credential::image::ImageName;

/// What a scope matches.
#[derive(Debug, PartialEq, Eq)]
pub enum Spelling {
    /// There are images that it matches.
    Matches,
    /// No image, but some would by this spelling.
    Write(String),
    /// No image, and what is meant is not clear.
    Unclear,
}

/// Whether a scope of the transport `docker` is spelled so that an image can match it.
pub fn spelling(scope: &str) -> Spelling {
    let bare = scope.trim_ascii();
    let bare = bare.split_once("://").map_or(bare, |(_, rest)| rest);
    let bare = bare.trim_end_matches(['/', '*']);
    if bare.is_empty() {
        // The empty scope is that of all images.
        return compare(scope, String::new());
    }
    if let Some(domain) = bare.strip_prefix("*.") {
        return match domain.contains(['*', '/', ':', ' ']) || scope.ends_with('*') {
            true => Spelling::Unclear,
            false => compare(scope, bare.to_owned()),
        };
    }
    // A wildcard within a name has no spelling at all.
    let is_odd = |c: char| !(c.is_ascii_alphanumeric() || "-._:/@+[]".contains(c));
    let within_name = scope.ends_with('*') && !scope.ends_with("/*") && !scope.ends_with("/**");
    if bare.contains(is_odd) || within_name || bare.split('/').any(str::is_empty) {
        return Spelling::Unclear;
    }
    let (host, path) = match bare.split_once('/') {
        Some((host, path)) => (host, Some(path)),
        None => (bare, None),
    };
    let is_registry = match host.split_once(':') {
        // Without a slash this may be a tag.
        Some((_, port)) => port.bytes().all(|byte| byte.is_ascii_digit()),
        None => host.contains('.') || host == "localhost",
    } || host.starts_with('[');
    match path {
        _ if !is_registry => expand(scope, bare),
        None if host == "index.docker.io" => compare(scope, "docker.io".to_owned()),
        None => compare(scope, host.to_owned()),
        // A tag or a digest makes it an image; a namespace of Docker Hub needs no "library".
        Some(path) if path.contains([':', '@']) => expand(scope, bare),
        Some(path) => {
            let host = match host {
                "index.docker.io" => "docker.io",
                host => host,
            };
            compare(scope, format!("{host}/{}", path.to_ascii_lowercase()))
        }
    }
}

/// A repository in the long form.
pub fn repository(text: &str) -> Option<String> {
    let image = ImageName::parse(text).ok()?;
    Some(format!("{}/{}", image.registry, image.repository))
}

/// A scope that is an image or a repository, in the long form.
fn expand(scope: &str, bare: &str) -> Spelling {
    let Some(repository) = repository(bare) else {
        return Spelling::Unclear;
    };
    // What comes after the repository is kept as it is.
    let after_slash = bare.rfind('/').map_or(0, |slash| slash + 1);
    let name_end = bare.find('@').unwrap_or(bare.len());
    let tag = bare
        .get(after_slash..name_end)
        .and_then(|name| name.find(':'));
    let suffix = tag.map_or(name_end, |colon| after_slash + colon);
    let suffix = bare.get(suffix..).unwrap_or_default();
    compare(scope, repository.to_ascii_lowercase() + suffix)
}

fn compare(scope: &str, meant: String) -> Spelling {
    match meant == scope {
        true => Spelling::Matches,
        false => Spelling::Write(meant),
    }
}
