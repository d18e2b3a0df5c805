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
    // A login, as in a URL.
    let has_login = bare
        .split_once('@')
        .is_some_and(|(_, digest)| !digest.starts_with("sha"));
    if bare.contains(is_odd) || within_name || has_login || bare.split('/').any(str::is_empty) {
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
        Some(_) if !is_registry && host.contains(':') => Spelling::Unclear,
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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What image-rs looks up for an image: `get_image_namespaces` after the whole name.
    fn namespaces(registry: &str, repository: &str, suffix: &str) -> Vec<String> {
        let mut name = format!("{registry}/{repository}");
        let mut all = vec![format!("{name}{suffix}"), name.clone()];
        while let Some((parent, _)) = name.rsplit_once('/') {
            name = parent.to_owned();
            all.push(name.clone());
        }
        if let Some((host, _)) = name.rsplit_once(':') {
            name = host.to_owned();
        }
        while let Some((_, domain)) = name.split_once('.') {
            name = domain.to_owned();
            all.push(format!("*.{name}"));
        }
        all
    }

    /// The spelling that is suggested is one that the image meant is looked up by; the one that was written is not.
    #[test]
    fn scopes_are_spelled_as_clients_look_them_up() {
        let busybox = namespaces("docker.io", "library/busybox", ":1.36");
        let app = namespaces("quay.io:8443", "org/app", ":1");
        let digest = namespaces("quay.io:8443", "org/app", "@sha256:00");
        for (scope, meant, image) in [
            ("busybox", "docker.io/library/busybox", &busybox),
            ("busybox:1.36", "docker.io/library/busybox:1.36", &busybox),
            ("library/busybox", "docker.io/library/busybox", &busybox),
            (
                "docker.io/busybox:1.36",
                "docker.io/library/busybox:1.36",
                &busybox,
            ),
            ("index.docker.io", "docker.io", &busybox),
            ("index.docker.io/library", "docker.io/library", &busybox),
            ("docker.io/", "docker.io", &busybox),
            ("docker.io/*", "docker.io", &busybox),
            ("docker.io/library/*", "docker.io/library", &busybox),
            ("https://docker.io", "docker.io", &busybox),
            (
                "docker://docker.io/library/busybox",
                "docker.io/library/busybox",
                &busybox,
            ),
            ("quay.io:8443/org/**", "quay.io:8443/org", &app),
            (" quay.io:8443/Org/App", "quay.io:8443/org/app", &app),
            (
                "quay.io:8443/org/App@sha256:00",
                "quay.io:8443/org/app@sha256:00",
                &digest,
            ),
        ] {
            assert_eq!(
                spelling(scope),
                Spelling::Write(meant.to_owned()),
                "{scope}"
            );
            assert!(image.iter().any(|one| one == meant), "{meant}");
            assert!(!image.iter().any(|one| one == scope), "{scope}");
        }
        assert_eq!(spelling("*"), Spelling::Write(String::new()));
        for scope in [
            "quay.io/org-*",
            "*quay.io",
            "quay*.io",
            "*.quay.io/org",
            "*.quay.io:443",
            "*.*.io",
            "<registry>/<image>",
            "quay.io//org",
            "docker:quay.io/org",
            "quay.io/two words",
            "user:hunter2@quay.io",
            "user@quay.io:443/org",
            "https://user:hunter2@quay.io/org",
        ] {
            assert_eq!(spelling(scope), Spelling::Unclear, "{scope}");
        }
    }

    proptest! {
        /// Whatever an image is looked up by is a good scope.
        #[test]
        fn what_is_looked_up_is_spelled_well(
            registry in "(([a-z0-9]{1,8}\\.){1,3}[a-z]{2,5}(:[0-9]{1,5})?|localhost(:5000)?|registry:5000)",
            repository in "[a-z0-9]{1,5}(/[a-z0-9]{1,5}([._-][a-z0-9]{1,5})?){0,3}",
            suffix in "(:[A-Za-z0-9_][A-Za-z0-9._-]{0,8}|@sha256:[0-9a-f]{8}|:[A-Z0-9]{1,3}@sha256:[0-9a-f]{8})",
        ) {
            for scope in namespaces(&registry, &repository, &suffix) {
                prop_assert_eq!(spelling(&scope), Spelling::Matches, "{}", scope);
            }
        }

        /// A suggestion needs no other one.
        #[test]
        fn a_suggestion_is_spelled_well(scope in "[a-zA-Z.:/@* -]{1,20}") {
            if let Spelling::Write(meant) = spelling(&scope)
            {
                let again = spelling(&meant);
                prop_assert!(meant.is_empty() || again == Spelling::Matches, "{:?} -> {:?} -> {:?}", scope, meant, again);
            }
        }
    }
}
