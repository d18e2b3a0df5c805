// SPDX-License-Identifier: Apache-2.0

//! Manifests, indexes and configurations of images, of OCI and of Docker.

use std::collections::BTreeMap;

use serde_json::Value;
use thiserror::Error;

use crate::digest::Digest;
use crate::registry::platform::Platform;

/// The largest manifest, index or configuration: the limit that registries have too.
pub const MAX_BYTES: usize = 4 << 20;

/// The most layers of an image. The kernel stacks at most 500, and Docker makes at most 127.
pub const MAX_LAYERS: usize = 500;

/// What a registry is asked for.
pub const ACCEPTED: &str = "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, \
                            application/vnd.docker.distribution.manifest.v2+json, \
                            application/vnd.docker.distribution.manifest.list.v2+json";

/// Why an image is refused because of what it says of itself.
#[derive(Debug, Error)]
pub enum Error {
    /// It isn't what it should be.
    #[error("the {document} {what}")]
    Malformed {
        /// Which document.
        document: &'static str,
        /// What is wrong with it.
        what: String,
    },
    /// There is no image for the platform.
    #[error("the image has nothing for {wanted}; it has: {found}")]
    Platform {
        /// The platform that was asked for.
        wanted: Platform,
        /// Those that there are.
        found: String,
    },
}

fn malformed(document: &'static str, what: impl Into<String>) -> Error {
    let what = what.into();
    Error::Malformed { document, what }
}

/// What one document says of another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// What it is.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its length in bytes.
    pub size: u64,
    /// What else is said of it.
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    fn of(document: &'static str, value: &Value) -> Result<Self, Error> {
        let media_type = value["mediaType"].as_str().unwrap_or_default().to_owned();
        let digest = value["digest"].as_str().unwrap_or_default();
        let digest = Digest::parse(digest).ok_or_else(|| {
            let digest = digest.escape_debug();
            malformed(
                document,
                format!("has the digest \"{digest}\", which is no sha256:<64 digits>"),
            )
        })?;
        let size = value["size"]
            .as_u64()
            .ok_or_else(|| malformed(document, format!("has no size for {digest}")))?;
        let annotations = value["annotations"].as_object().into_iter().flatten();
        let annotations = annotations
            .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
        Ok(Self {
            media_type,
            digest,
            size,
            annotations: annotations.collect(),
        })
    }
}

/// What a registry answers to the name of an image.
#[derive(Debug)]
pub enum Document {
    /// One image.
    Manifest(Manifest),
    /// Several, of which one is chosen.
    Index(Index),
}

/// An image.
#[derive(Debug, PartialEq, Eq)]
pub struct Manifest {
    /// Its configuration.
    pub config: Descriptor,
    /// Its layers, the lowest first.
    pub layers: Vec<Descriptor>,
}

/// Images for several platforms.
#[derive(Debug)]
pub struct Index {
    entries: Vec<(Descriptor, Option<Platform>)>,
}

/// Parses a manifest or an index.
///
/// # Errors
///
/// If it is neither, or of the old schema 1.
pub fn parse(bytes: &[u8]) -> Result<Document, Error> {
    let value: Value =
        serde_json::from_slice(bytes).map_err(|_| malformed("manifest", "is not JSON"))?;
    if value["schemaVersion"] != 2 {
        let what = "is of schema 1, which has no digests of what its layers contain; push the image again with a newer tool";
        return Err(malformed("manifest", what));
    }
    if let Some(entries) = value["manifests"].as_array() {
        let entry = |value: &Value| {
            let descriptor = Descriptor::of("index", value)?;
            Ok((descriptor, Platform::of_json(&value["platform"])))
        };
        let entries = entries.iter().map(entry).collect::<Result<_, Error>>()?;
        return Ok(Document::Index(Index { entries }));
    }
    let layers = value["layers"]
        .as_array()
        .ok_or_else(|| malformed("manifest", "has neither layers nor manifests"))?;
    if layers.len() > MAX_LAYERS {
        return Err(malformed(
            "manifest",
            format!(
                "has {} layers, and at most {MAX_LAYERS} can be stacked",
                layers.len()
            ),
        ));
    }
    let layers = layers.iter().map(|layer| Descriptor::of("manifest", layer));
    Ok(Document::Manifest(Manifest {
        config: Descriptor::of("manifest", &value["config"])?,
        layers: layers.collect::<Result<_, Error>>()?,
    }))
}

impl Index {
    /// The entry for a platform.
    ///
    /// # Errors
    ///
    /// If there is none.
    pub fn choose(&self, wanted: &Platform) -> Result<&Descriptor, Error> {
        let ranked = self.entries.iter().filter_map(|(descriptor, platform)| {
            // An index of one image need not say what it is for.
            let rank = match platform {
                Some(platform) => wanted.rank(platform)?,
                None if self.entries.len() == 1 => 0,
                None => return None,
            };
            Some((rank, descriptor))
        });
        // Of equals, the first.
        let best = ranked.fold(None, |best: Option<(u32, &Descriptor)>, next| match best {
            Some(best) if best.0 >= next.0 => Some(best),
            _ => Some(next),
        });
        let found = || {
            let platforms = self
                .entries
                .iter()
                .filter_map(|(_, platform)| platform.as_ref());
            let platforms = platforms.map(Platform::to_string);
            // Attestations, which builders add to images, are for this one.
            let platforms: Vec<_> = platforms
                .filter(|platform| platform != "unknown/unknown")
                .collect();
            match platforms.is_empty() {
                true => "nothing with a platform".to_owned(),
                false => platforms.join(", "),
            }
        };
        best.map(|(_, descriptor)| descriptor)
            .ok_or_else(|| Error::Platform {
                wanted: wanted.clone(),
                found: found(),
            })
    }
}

/// The digests of the layers' archives, as an image's configuration has them.
///
/// # Errors
///
/// If it has none, or not one for each layer.
pub fn diff_ids(config: &[u8], layers: usize) -> Result<Vec<Digest>, Error> {
    let value: Value =
        serde_json::from_slice(config).map_err(|_| malformed("configuration", "is not JSON"))?;
    let ids = value["rootfs"]["diff_ids"]
        .as_array()
        .ok_or_else(|| malformed("configuration", "has no rootfs.diff_ids"))?;
    if ids.len() != layers {
        let what = format!(
            "has {} rootfs.diff_ids, and the manifest {layers} layers",
            ids.len()
        );
        return Err(malformed("configuration", what));
    }
    let id = |value: &Value| {
        let id = value.as_str().and_then(Digest::parse);
        id.ok_or_else(|| {
            malformed(
                "configuration",
                "has a rootfs.diff_ids that is no sha256:<64 digits>",
            )
        })
    };
    ids.iter().map(id).collect()
}
