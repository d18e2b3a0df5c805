// SPDX-License-Identifier: Apache-2.0

//! The name of an image, as clients take it apart.

use std::fmt;

use thiserror::Error;

/// An image's name, with what people leave out of it put in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageName {
    /// The registry, with its port.
    pub registry: String,
    /// The repository.
    pub repository: String,
    /// `:tag` or `@digest`.
    pub suffix: String,
}

/// Why a text is no name of an image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("not the name of an image; write REGISTRY/REPOSITORY:TAG, without a scheme")]
pub struct NotAnImage;

impl ImageName {
    /// Takes a name apart: without a registry it is Docker Hub's, and there without a slash of `library`.
    ///
    /// # Errors
    ///
    /// Where it has a scheme, an empty part, or characters that no name has.
    pub fn parse(text: &str) -> Result<Self, NotAnImage> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || "-._:/@+[]".contains(c);
        if text.contains("://") || !text.chars().all(is_name) {
            return Err(NotAnImage);
        }
        let (name, digest) = match text.split_once('@') {
            Some((name, digest)) => (name, Some(digest)),
            None => (text, None),
        };
        // A colon before the last slash is a port's.
        let slash = name.rfind('/').map_or(0, |slash| slash + 1);
        let (name, tag) = match name[slash..].find(':') {
            Some(colon) => (&name[..slash + colon], Some(&name[slash + colon + 1..])),
            None => (name, None),
        };
        let (registry, repository) = match name.split_once('/') {
            Some((first, rest)) if is_registry(first) => (first, rest),
            _ => ("docker.io", name),
        };
        let registry = match registry {
            "index.docker.io" => "docker.io",
            other => other,
        };
        let repository = match registry {
            "docker.io" if !repository.contains('/') => format!("library/{repository}"),
            _ => repository.to_owned(),
        };
        // Beside a digest nobody looks at the tag again.
        if tag.is_some_and(|tag| tag.is_empty() || tag.contains(':')) {
            return Err(NotAnImage);
        }
        let suffix = match (tag, digest) {
            (_, Some(digest)) => format!("@{digest}"),
            (Some(tag), None) => format!(":{tag}"),
            (None, None) => ":latest".to_owned(),
        };
        if suffix.len() == 1 || repository.split('/').any(str::is_empty) {
            return Err(NotAnImage);
        }
        Ok(Self {
            registry: registry.to_owned(),
            repository,
            suffix,
        })
    }

    /// Whether a name begins with a registry. One without is Docker Hub's, unless the configuration lists other
    /// registries to look into.
    pub fn names_registry(text: &str) -> bool {
        let first = text.split_once('/').map(|(first, _)| first);
        first.is_some_and(is_registry)
    }
}

/// Whether the first part of a name is a registry, and not a part of the repository.
fn is_registry(part: &str) -> bool {
    part.contains(['.', ':']) || part == "localhost"
}

impl fmt::Display for ImageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.registry, self.repository, self.suffix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_completed() {
        for (text, expected) in [
            ("alpine", "docker.io/library/alpine:latest"),
            ("org/app:1", "docker.io/org/app:1"),
            ("docker.io/alpine", "docker.io/library/alpine:latest"),
            ("index.docker.io/org/app", "docker.io/org/app:latest"),
            ("quay.io/org/app:1", "quay.io/org/app:1"),
            ("localhost/app", "localhost/app:latest"),
            (
                "127.0.0.1:5000/a/b@sha256:00",
                "127.0.0.1:5000/a/b@sha256:00",
            ),
            ("quay.io/a:1@sha256:00", "quay.io/a@sha256:00"),
        ] {
            let name = ImageName::parse(text).map(|name| name.to_string());
            assert_eq!(name.as_deref(), Ok(expected), "{text}");
            let names_one = !expected.starts_with("docker.io") || text.contains("docker.io");
            assert_eq!(ImageName::names_registry(text), names_one, "{text}");
        }
        for text in [
            "",
            "https://quay.io/a",
            "docker://a",
            "quay.io/",
            "a b",
            "a:",
            "a:@sha256:00",
            "a:b:c@sha256:00",
            "a//b",
            "quay.io/a\n",
        ] {
            assert_eq!(ImageName::parse(text), Err(NotAnImage), "{text:?}");
        }
    }
}
