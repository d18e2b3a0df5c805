// SPDX-License-Identifier: Apache-2.0

//! The names of resources: KBS resource paths, and the old names for some of them.

use std::fmt;
use std::sync::Arc;

use memchr::memchr;
use thiserror::Error;

use crate::text::{EntryName, Escaped, Quoted};

/// The old names with their paths. Both names of a pair mean the same resource.
pub const ALIASES: [(&str, &str); 5] = [
    ("Credential", CREDENTIAL),
    ("Policy", "default/security-policy/test"),
    ("Sigstore Config", "default/sigstore-config/test"),
    ("GPG Keyring", "default/gpg-public-config/test"),
    ("Cosign Key", "default/cosign-public-key/test"),
];

/// The name of this KBC in clients' configuration and requests.
pub const KBC_NAME: &str = "offline_fs_kbc";

/// The path of the registry credential.
pub const CREDENTIAL: &str = "default/credential/test";

/// The name of a resource in the form in which it is looked up, whatever its spelling. Clones share the text.
///
/// ```
/// use offline_fs_kbc::resource::name::Name;
///
/// let name = Name::parse("kbs://host:8080/default/credential/test")?;
/// assert_eq!(name, Name::parse("Credential")?);
/// assert_eq!(name.to_string(), "default/credential/test");
/// # Ok::<(), offline_fs_kbc::resource::name::PluginName>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Name {
    /// `<repository>/<type>/<tag>`; an old name is stored as its path.
    Path(Arc<str>),
    /// Any other text. It can be the id of a key, but no client can ask for a resource by it.
    Other(Arc<str>),
}

/// The error for a `kbs+<plugin>://` name: only a key broker has plugins.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{} names a plugin of a key broker; this daemon serves only kbs:///<repository>/<type>/<tag>",
    EntryName(.0)
)]
pub struct PluginName(String);

impl Name {
    /// Parses a name in any spelling: an old name, a `kbs://` URI (the host and the query are ignored), or a
    /// path with or without a leading slash.
    ///
    /// # Errors
    ///
    /// For `kbs+<plugin>://…` only.
    pub fn parse(text: &str) -> Result<Self, PluginName> {
        if let Some((_, path)) = ALIASES.iter().find(|(old, _)| *old == text) {
            return Ok(Self::Path((*path).into()));
        }
        // Most names have no colon, and searching for one byte is cheaper than for a string.
        let scheme = memchr(b':', text.as_bytes()).and_then(|_| text.split_once("://"));
        let rest = match scheme {
            // The part before the first slash is the host, which is often empty.
            Some(("kbs", rest)) => rest.split_once('/').map_or("", |(_, path)| path),
            Some((scheme, _)) if scheme.starts_with("kbs+") => {
                return Err(PluginName(text.to_owned()));
            }
            _ => text.strip_prefix('/').unwrap_or(text),
        };
        let path = memchr(b'?', rest.as_bytes()).map_or(rest, |query| &rest[..query]);
        if has_three_segments(path) {
            Ok(Self::Path(path.into()))
        } else {
            Ok(Self::Other(text.into()))
        }
    }

    /// The old name of this path, if it has one.
    pub fn old(&self) -> Option<&'static str> {
        match self {
            Self::Path(path) => ALIASES
                .iter()
                .find(|(_, p)| **p == **path)
                .map(|(old, _)| *old),
            Self::Other(_) => None,
        }
    }

    /// Whether `text` is one of the old names.
    pub fn is_old(text: &str) -> bool {
        ALIASES.iter().any(|(old, _)| *old == text)
    }

    /// The text of the name.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Path(text) | Self::Other(text) => text,
        }
    }
}

/// This loops over bytes because it runs at each request; an iterator over segments takes four times as long.
fn has_three_segments(path: &str) -> bool {
    let mut segments = 0;
    let mut before = b'/';
    for &byte in path.as_bytes() {
        match (before, byte) {
            (b'/', b'/') => return false,
            (b'/', _) => segments += 1,
            _ => {}
        }
        before = byte;
    }
    segments == 3 && before != b'/'
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(text) => Escaped(text).fmt(f),
            Self::Other(text) => Quoted(text).fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    fn path(text: &str) -> Option<Arc<str>> {
        match Name::parse(text).unwrap() {
            Name::Path(path) => Some(path),
            Name::Other(_) => None,
        }
    }

    /// The spellings that released clients use for one resource.
    #[test]
    fn spellings_of_one_path() {
        for text in [
            "Credential",
            "default/credential/test",
            "/default/credential/test",
            "kbs:///default/credential/test",
            "kbs://localhost/default/credential/test",
            "kbs://[::1]:8080/default/credential/test",
            "kbs:///default/credential/test?version=1",
            "/default/credential/test?a=b/c",
        ] {
            assert_eq!(path(text).as_deref(), Some(CREDENTIAL), "{text}");
        }
    }

    #[test]
    fn every_old_name_is_its_path_and_back() {
        for (old, new) in ALIASES {
            assert_eq!(path(old).as_deref(), Some(new));
            assert_eq!(Name::parse(new).unwrap().old(), Some(old));
        }
    }

    #[test]
    fn a_path_has_three_segments() {
        for text in [
            "",
            "/",
            "a/b",
            "a/b/c/d",
            "a//c",
            "//a/b/c",
            "a/b/",
            "kbs://",
            "kbs:///a/b",
            "kbs://default/credential/test",
            "http://host/a/b/c",
            "credential",
        ] {
            assert_eq!(path(text), None, "{text}");
        }
    }

    #[test]
    fn a_plugin_is_refused_by_name() {
        let error = Name::parse("kbs+pkcs11:///a/b/c").unwrap_err();
        assert!(error.to_string().contains("kbs+pkcs11:///a/b/c"));
        // A text that is too long for a name may be a value in the wrong place.
        let error = Name::parse(&format!("kbs+x://{}", "hunter2".repeat(15))).unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    proptest! {
        /// A path prints as it was parsed, and parsing fails only for a plugin's name.
        #[test]
        fn a_path_parses_back(text in "\\PC{0,60}") {
            if let Ok(name @ Name::Path(_)) = Name::parse(&text) {
                prop_assert_eq!(Name::parse(name.as_str()).unwrap(), name.clone());
                prop_assert_eq!(Name::parse(&format!("kbs:///{}", name.as_str())).unwrap(), name);
            }
        }
    }
}
