// SPDX-License-Identifier: Apache-2.0

//! What an image runs on, in the words of Go.

use std::fmt;

use crate::document::{Part, beginning};

/// How much is kept of a name, in characters. What is longer names no platform of any machine.
const MAX_NAME: usize = 64;

/// A platform.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Platform {
    /// The operating system.
    pub os: String,
    /// The architecture.
    pub architecture: String,
    /// Which version of the architecture; empty if it does not matter.
    pub variant: String,
}

impl Platform {
    /// That of this machine.
    pub fn of_this_machine() -> Self {
        let (architecture, variant) = match std::env::consts::ARCH {
            "x86_64" => ("amd64", ""),
            "aarch64" => ("arm64", "v8"),
            "x86" => ("386", ""),
            "powerpc64" if cfg!(target_endian = "little") => ("ppc64le", ""),
            "arm" => ("arm", "v7"),
            other => (other, ""),
        };
        Self {
            os: "linux".to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
        }
    }

    /// Parses `os/architecture` or `os/architecture/variant`; none if the text is something else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('/');
        let [os, architecture] = [parts.next()?, parts.next()?];
        let variant = parts.next().unwrap_or_default();
        let is_word = |word: &str| word.chars().all(|c| c.is_ascii_alphanumeric());
        let usable = !os.is_empty() && !architecture.is_empty() && parts.next().is_none();
        (usable && [os, architecture, variant].into_iter().all(is_word)).then(|| Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
        })
    }

    /// The platform of an index's entry or of an image's configuration, if it has one.
    ///
    /// # Errors
    ///
    /// If it can't be read.
    pub(crate) fn of_json(value: Part<'_>) -> Result<Option<Self>, String> {
        let [os, architecture, variant] = value.pick(["os", "architecture", "variant"])?;
        let (Some(os), Some(architecture)) = (os.text()?, architecture.text()?) else {
            return Ok(None);
        };
        Ok(Some(Self {
            os: beginning(&os, MAX_NAME),
            architecture: beginning(&architecture, MAX_NAME),
            variant: beginning(&variant.text_or_empty()?, MAX_NAME),
        }))
    }

    /// How well an image for `other` runs here, more being better; none if it doesn't. Attestations of an image have the
    /// platform unknown/unknown.
    ///
    /// As containerd does, but for one thing: a machine of 64 bits gets no image of 32 bits. Linux switches 32-bit programs
    /// off in TDX and SEV guests, and newer Arm processors have no way to run them.
    pub fn rank(&self, other: &Self) -> Option<u32> {
        let (here, there) = (self.normalized(), other.normalized());
        if here.os != there.os || here.architecture != there.architecture {
            return None;
        }
        if here.variant == there.variant {
            return Some(u32::MAX);
        }
        // Later versions run what is made for earlier ones.
        let version = |variant: &str| match (variant, here.architecture.as_str()) {
            ("", "arm64") => Some(8),
            ("", "amd64") => Some(1),
            (variant, _) => variant.strip_prefix('v')?.parse::<u32>().ok(),
        };
        let (here, there) = (version(&here.variant)?, version(&there.variant)?);
        (there <= here).then_some(there)
    }

    /// With the names that are meant, where people write others.
    fn normalized(&self) -> Self {
        let lower = |text: &str| text.to_ascii_lowercase();
        let (architecture, variant) = (lower(&self.architecture), lower(&self.variant));
        let (architecture, variant) = match (architecture.as_str(), variant.as_str()) {
            ("x86_64" | "x86-64" | "amd64", "v1") => ("amd64", ""),
            ("x86_64" | "x86-64", other) => ("amd64", other),
            ("aarch64" | "arm64", "8" | "v8") => ("arm64", ""),
            ("aarch64", other) => ("arm64", other),
            ("i386", _) => ("386", ""),
            ("armhf", _) | ("arm", "" | "7") => ("arm", "v7"),
            ("armel", _) | ("arm", "6") => ("arm", "v6"),
            ("arm", "5") => ("arm", "v5"),
            ("arm", "8") => ("arm", "v8"),
            other => other,
        };
        Self {
            os: lower(&self.os),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{}",
            self.os.escape_debug(),
            self.architecture.escape_debug()
        )?;
        match self.variant.as_str() {
            "" => Ok(()),
            variant => write!(f, "/{}", variant.escape_debug()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rank(here: &str, there: &str) -> Option<u32> {
        Platform::parse(here)?.rank(&Platform::parse(there)?)
    }

    /// What containerd's matching gives for the machines that pod VMs run on, but for images of 32 bits.
    #[test]
    fn variants_run_where_they_should() {
        for (here, there, runs) in [
            ("linux/arm64/v8", "linux/arm64", true),
            ("linux/arm64/v8", "linux/arm64/v8", true),
            ("linux/arm64", "linux/arm64/v8", true),
            ("linux/arm64", "linux/aarch64", true),
            ("linux/arm64/v8", "linux/arm64/v9", false),
            ("linux/arm64/v8", "linux/arm/v7", false),
            ("linux/arm/v7", "linux/arm", true),
            ("linux/arm/v7", "linux/arm/v6", true),
            ("linux/arm/v6", "linux/arm/v7", false),
            ("linux/arm/v6", "linux/arm", false),
            ("linux/amd64", "linux/amd64", true),
            ("linux/amd64", "linux/amd64/v1", true),
            ("linux/amd64", "Linux/AMD64", true),
            ("linux/amd64", "linux/amd64/v2", false),
            ("linux/amd64", "linux/amd64/v3", false),
            ("linux/amd64/v3", "linux/amd64/v2", true),
            ("linux/amd64/v3", "linux/amd64", true),
            ("linux/amd64", "linux/386", false),
            ("linux/amd64", "linux/arm64", false),
            ("linux/amd64", "windows/amd64", false),
            ("linux/amd64", "unknown/unknown", false),
            ("linux/s390x", "linux/s390x", true),
            ("linux/s390x", "linux/s390x/z13", false),
        ] {
            assert_eq!(rank(here, there).is_some(), runs, "{here} {there}");
        }
        assert!(rank("linux/arm/v7", "linux/arm/v7") > rank("linux/arm/v7", "linux/arm/v6"));
        assert!(rank("linux/arm/v7", "linux/arm/v6") > rank("linux/arm/v7", "linux/arm/v5"));
        assert!(rank("linux/amd64/v3", "linux/amd64/v2") > rank("linux/amd64/v3", "linux/amd64"));
    }
}
