// SPDX-License-Identifier: Apache-2.0

//! What an image runs on, in the words of Go.

use std::fmt;

use serde_json::Value;

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

    /// The platform of an index's entry.
    pub fn of_json(value: &Value) -> Option<Self> {
        let text = |name: &str| value[name].as_str().map(str::to_owned);
        Some(Self {
            os: text("os")?,
            architecture: text("architecture")?,
            variant: text("variant").unwrap_or_default(),
        })
    }

    /// How well an image for `other` runs here, more being better; none if it doesn't. Attestations of an image have the
    /// platform unknown/unknown.
    pub fn rank(&self, other: &Self) -> Option<u32> {
        if self.os != other.os || self.architecture != other.architecture {
            return None;
        }
        let version = |variant: &str| match (variant, self.architecture.as_str()) {
            ("", "arm64") => Some(8),
            ("", "arm") => Some(7),
            ("", "amd64") => Some(1),
            (variant, _) => variant.strip_prefix('v')?.parse::<u32>().ok(),
        };
        match (version(&self.variant), version(&other.variant)) {
            _ if self.variant == other.variant => Some(u32::MAX),
            // Later versions run what is made for earlier ones.
            (Some(here), Some(there)) if there <= here => Some(there),
            (Some(_), Some(_)) => None,
            // Where the machine's version is not known, an image without one is made for all.
            (None, _) => other.variant.is_empty().then_some(0),
            (_, None) => None,
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

    /// What containerd's matching gives for the machines that pod VMs run on.
    #[test]
    fn variants_run_where_they_should() {
        assert!(rank("linux/arm64/v8", "linux/arm64").is_some());
        assert!(rank("linux/arm64/v8", "linux/arm64/v8") > rank("linux/arm64/v8", "linux/arm64"));
        assert!(rank("linux/arm/v7", "linux/arm/v7") > rank("linux/arm/v7", "linux/arm/v6"));
        assert!(rank("linux/arm/v6", "linux/arm/v7").is_none());
        assert!(rank("linux/amd64", "linux/amd64").is_some());
        assert!(rank("linux/amd64", "linux/amd64/v3").is_none());
        assert!(rank("linux/amd64", "linux/arm64").is_none());
        assert!(rank("linux/amd64", "windows/amd64").is_none());
        assert!(rank("linux/amd64", "unknown/unknown").is_none());
        assert!(rank("linux/s390x", "linux/s390x").is_some());
    }
}
