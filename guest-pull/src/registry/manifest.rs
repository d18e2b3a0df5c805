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
    /// It isn't one.
    #[error("it is no image that can be run: {0}")]
    NoImage(String),
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
    /// What it says that it is, if it isn't an image; empty if it doesn't.
    pub artifact_type: String,
}

/// Images for several platforms.
#[derive(Debug)]
pub struct Index {
    entries: Vec<Entry>,
}

/// One of an index.
#[derive(Debug)]
pub struct Entry {
    /// Its manifest, or another index.
    pub descriptor: Descriptor,
    /// What it runs on; none if its configuration alone says so.
    pub platform: Option<Platform>,
    /// Whether it may be an image: no attestation of another entry, no artifact, nothing that needs what no machine has.
    is_image: bool,
}

impl Entry {
    fn of(value: &Value) -> Result<Self, Error> {
        let descriptor = Descriptor::of("index", value)?;
        let is_attestation = value["annotations"]["vnd.docker.reference.type"].is_string();
        let is_artifact = is_filled(&value["artifactType"]);
        let features = value["platform"]["os.features"].as_array();
        let needs_features = features.is_some_and(|features| !features.is_empty());
        // Not every index says what its entries are.
        let is_document =
            descriptor.media_type.is_empty() || Form::of(&descriptor.media_type).is_some();
        Ok(Self {
            descriptor,
            platform: Platform::of_json(&value["platform"]),
            is_image: is_document && !is_attestation && !is_artifact && !needs_features,
        })
    }
}

/// The two forms of documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Manifest,
    Index,
}

impl Form {
    /// Of a media type; none of others.
    fn of(media_type: &str) -> Option<Self> {
        match media_type {
            "application/vnd.oci.image.manifest.v1+json"
            | "application/vnd.docker.distribution.manifest.v2+json" => Some(Self::Manifest),
            "application/vnd.oci.image.index.v1+json"
            | "application/vnd.docker.distribution.manifest.list.v2+json" => Some(Self::Index),
            _ => None,
        }
    }

    fn with_article(self) -> &'static str {
        match self {
            Self::Manifest => "a manifest",
            Self::Index => "an index",
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Index => "index",
        }
    }
}

fn is_filled(value: &Value) -> bool {
    value.as_str().is_some_and(|text| !text.is_empty())
}

/// Parses a manifest or an index.
///
/// # Errors
///
/// As [`parse_said`].
pub fn parse(bytes: &[u8]) -> Result<Document, Error> {
    parse_said(bytes, &[])
}

/// Parses a manifest or an index. `said` are the media types that others say it has: the registry, and the index that led to
/// it; those that are no document's are passed over, since servers send what they like.
///
/// # Errors
///
/// If it is neither, or of the old schema 1; if it could be taken for both, or is said to be the other: then it would be one
/// image here, and another for who checked it.
pub fn parse_said(bytes: &[u8], said: &[&str]) -> Result<Document, Error> {
    let value: Value =
        serde_json::from_slice(bytes).map_err(|_| malformed("manifest", "is not JSON"))?;
    if value["schemaVersion"] == 1 || value.get("fsLayers").is_some() {
        let what = "is of schema 1, which has no digests of what its layers contain; push the image again with a newer tool";
        return Err(malformed("manifest", what));
    }
    let own = value["mediaType"].as_str().unwrap_or_default();
    if !own.is_empty() && Form::of(own).is_none() {
        return Err(Error::NoImage(format!(
            "a document of the type \"{}\"",
            shown(own)
        )));
    }
    if value["schemaVersion"] != 2 {
        return Err(malformed("manifest", "has no schemaVersion 2"));
    }
    let is_there = |name: &str| value.get(name).is_some_and(|value| !value.is_null());
    let is_index = is_there("manifests");
    let is_manifest = is_there("layers") || is_there("config");
    if is_index && is_manifest {
        return Err(malformed(
            "manifest",
            "has what a manifest has, and what an index has: it could be taken for two images",
        ));
    }
    let form = if is_index {
        Form::Index
    } else {
        Form::Manifest
    };
    let said = said.iter().copied().chain([own]);
    if let Some(other) = said.filter_map(Form::of).find(|other| *other != form) {
        return Err(malformed(
            form.name(),
            format!("is said to be {} by its media type", other.with_article()),
        ));
    }
    match form {
        Form::Manifest => Manifest::of(&value).map(Document::Manifest),
        Form::Index => {
            let entries = value["manifests"].as_array();
            let entries = entries.ok_or_else(|| malformed("index", "has no list of manifests"))?;
            let entries = entries
                .iter()
                .map(Entry::of)
                .collect::<Result<_, Error>>()?;
            Ok(Document::Index(Index { entries }))
        }
    }
}

impl Manifest {
    fn of(value: &Value) -> Result<Self, Error> {
        let artifact_type = value["artifactType"].as_str().unwrap_or_default();
        let config = Descriptor::of("manifest", &value["config"]);
        let layers = value["layers"].as_array();
        let layers =
            layers.ok_or_else(|| malformed("manifest", "has neither layers nor manifests"))?;
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
        Ok(Self {
            config: config?,
            layers: layers.collect::<Result<_, Error>>()?,
            artifact_type: artifact_type.to_owned(),
        })
    }

    /// Whether it is an image that can be run.
    ///
    /// # Errors
    ///
    /// If its configuration or a layer is of another kind: then it is an artifact, such as a chart or a signature.
    pub fn check_is_image(&self) -> Result<(), Error> {
        let config_type = self.config.media_type.as_str();
        if !CONFIGS.contains(&config_type) {
            let name = match self.artifact_type.is_empty() {
                true => config_type,
                false => &self.artifact_type,
            };
            let what = format!("an artifact of the type \"{}\"", shown(name));
            return Err(Error::NoImage(what));
        }
        for (at, layer) in self.layers.iter().enumerate() {
            check_layer(&layer.media_type).map_err(|what| {
                let media_type = shown(&layer.media_type);
                Error::NoImage(format!("layer {} is {what} (\"{media_type}\")", at + 1))
            })?;
        }
        Ok(())
    }
}

/// The media types of images' configurations. Old tools of Docker push them without one, or with the second last.
const CONFIGS: [&str; 4] = [
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
    "application/octet-stream",
    "",
];

/// Whether a layer is one of an image's. How it is compressed, its content tells.
fn check_layer(media_type: &str) -> Result<(), &'static str> {
    if media_type.contains("nondistributable") || media_type.contains("rootfs.foreign") {
        return Err("not in the registry: a foreign layer, such as those of Windows");
    }
    let rest = [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar",
    ];
    let rest = rest
        .iter()
        .find_map(|prefix| media_type.strip_prefix(prefix));
    let Some(rest) = rest else {
        return Err("no layer of an image");
    };
    // The second is the early form of Docker's types.
    let plain = rest
        .strip_suffix("+encrypted")
        .or(rest.strip_suffix("+enc"));
    let rest = plain.unwrap_or(rest);
    match rest {
        "" | "+gzip" | ".gzip" | "+zstd" | ".zstd" => Ok(()),
        _ => Err("of a kind that guest-pull does not know"),
    }
}

/// A media type for a message.
fn shown(media_type: &str) -> String {
    let start: String = media_type.chars().take(100).collect();
    start.escape_debug().to_string()
}

impl Index {
    /// The entries that may fit a platform, the best first. Then come those without one, whose configuration must tell, as
    /// containerd does. At most so many are given.
    pub fn candidates(&self, wanted: &Platform, most: usize) -> Vec<&Entry> {
        let images = self.entries.iter().filter(|entry| entry.is_image);
        let mut ranked: Vec<(Option<u32>, &Entry)> = Vec::new();
        for entry in images {
            let rank = match &entry.platform {
                Some(platform) => match wanted.rank(platform) {
                    Some(rank) => Some(rank),
                    None => continue,
                },
                None => None,
            };
            // Of equals, the first.
            let at = ranked.partition_point(|(other, _)| *other >= rank);
            ranked.insert(at, (rank, entry));
            ranked.truncate(most);
        }
        ranked.into_iter().map(|(_, entry)| entry).collect()
    }

    /// The platforms that it names.
    pub fn platforms(&self) -> impl Iterator<Item = String> {
        let platforms = self
            .entries
            .iter()
            .filter_map(|entry| entry.platform.as_ref());
        let platforms = platforms.map(Platform::to_string);
        // Attestations, which builders add to images, are for this one.
        platforms.filter(|platform| platform != "unknown/unknown")
    }
}

/// What an image's configuration says that it runs on.
pub fn platform(config: &[u8]) -> Option<Platform> {
    let value: Value = serde_json::from_slice(config).ok()?;
    Platform::of_json(&value).filter(|platform| !platform.architecture.is_empty())
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
