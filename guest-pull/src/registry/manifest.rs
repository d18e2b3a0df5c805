// SPDX-License-Identifier: Apache-2.0

//! Manifests, indexes and configurations of images, of OCI and of Docker.

use std::collections::BTreeMap;

use common::text::count;
use thiserror::Error;

use crate::digest::Digest;
use crate::document::{Part, beginning};
use crate::registry::platform::Platform;

/// The names of all annotations about encryption begin so.
pub(crate) const ABOUT_ENCRYPTION: &str = "org.opencontainers.image.enc.";

/// The largest manifest, index or configuration: the limit that registries have too.
pub const MAX_BYTES: usize = 4 << 20;

/// The most layers of an image. The kernel stacks at most 500, and Docker makes at most 127.
pub const MAX_LAYERS: usize = 500;

/// The most manifests of an index. Real ones have up to about fifty; a text of the largest size has room for 40,000.
pub const MAX_MANIFESTS: usize = 10_000;

/// The most annotations of a layer about its encryption. Each recipient's scheme has one, and there are two others.
pub const MAX_ANNOTATIONS: usize = 64;

/// How much of a media type is kept, in characters. RFC 6838 allows as many, and those that are known are shorter.
const MAX_MEDIA_TYPE: usize = 255;

/// How much of a text is shown in a message.
const SHOWN: usize = 100;

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
    /// What is said of its encryption.
    pub annotations: BTreeMap<String, String>,
}

impl Descriptor {
    fn of(document: &'static str, value: Part<'_>) -> Result<Self, Error> {
        Self::read(value).map_err(|what| malformed(document, what))
    }

    fn read(value: Part<'_>) -> Result<Self, String> {
        let [media_type, digest, size, about] =
            value.pick(["mediaType", "digest", "size", "annotations"])?;
        let digest = digest.text_or_empty()?;
        let digest = Digest::parse(&digest).ok_or_else(|| {
            let digest = shown(&digest);
            format!("has the digest \"{digest}\", which is no sha256:<64 digits>")
        })?;
        let size = size
            .number()
            .ok_or_else(|| format!("has no size for {digest}"))?;
        let mut annotations = BTreeMap::new();
        let mut problem = None;
        about.each_member(|name, value| {
            if !name.starts_with(ABOUT_ENCRYPTION) {
                return;
            }
            match value.text() {
                Ok(Some(_)) if annotations.len() >= MAX_ANNOTATIONS => {
                    problem = Some(format!(
                        "has more than {MAX_ANNOTATIONS} annotations about encryption for {digest}"
                    ));
                }
                Ok(Some(text)) => {
                    annotations.insert(name.to_owned(), text.into_owned());
                }
                Ok(None) => {}
                Err(what) => problem = Some(what),
            }
        })?;
        match problem {
            Some(what) => Err(what),
            None => Ok(Self {
                media_type: beginning(&media_type.text_or_empty()?, MAX_MEDIA_TYPE),
                digest,
                size,
                annotations,
            }),
        }
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
#[derive(Clone, Debug)]
pub struct Index {
    entries: Vec<Entry>,
}

/// One of an index.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Its manifest, or another index.
    pub descriptor: Descriptor,
    /// What it runs on; none if its configuration alone says so.
    pub platform: Option<Platform>,
    /// Whether it may be an image: no attestation of another entry, no artifact, nothing that needs what no machine has.
    is_image: bool,
}

impl Entry {
    fn of(value: Part<'_>) -> Result<Self, Error> {
        let descriptor = Descriptor::of("index", value)?;
        Self::read(descriptor, value).map_err(|what| malformed("index", what))
    }

    fn read(descriptor: Descriptor, value: Part<'_>) -> Result<Self, String> {
        let [annotations, artifact_type, platform] =
            value.pick(["annotations", "artifactType", "platform"])?;
        let [referrer] = annotations.pick(["vnd.docker.reference.type"])?;
        let [features] = platform.pick(["os.features"])?;
        let is_attestation = referrer.text()?.is_some();
        // Not every index says what its entries are.
        let is_document =
            descriptor.media_type.is_empty() || Form::of(&descriptor.media_type).is_some();
        let is_special =
            is_attestation || artifact_type.is_filled_text() || features.is_filled_array();
        Ok(Self {
            descriptor,
            platform: Platform::of_json(platform)?,
            is_image: is_document && !is_special,
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
    let wrong = |what: String| malformed("manifest", what);
    let document = Part::document(bytes).map_err(wrong)?;
    let names = [
        "schemaVersion",
        "mediaType",
        "fsLayers",
        "manifests",
        "layers",
        "config",
        "artifactType",
    ];
    let [
        version,
        own,
        fs_layers,
        manifests,
        layers,
        config,
        artifact_type,
    ] = document.pick(names).map_err(wrong)?;
    if version.number() == Some(1) || fs_layers.is_there() {
        let what = "is of schema 1, which has no digests of what its layers contain; push the image again with a newer tool";
        return Err(malformed("manifest", what));
    }
    let own = own.text_or_empty().map_err(wrong)?;
    if !own.is_empty() && Form::of(&own).is_none() {
        return Err(Error::NoImage(format!(
            "a document of the type \"{}\"",
            shown(&own)
        )));
    }
    if version.number() != Some(2) {
        return Err(malformed("manifest", "has no schemaVersion 2"));
    }
    let is_index = manifests.is_there();
    let is_manifest = layers.is_there() || config.is_there();
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
    let said = said.iter().copied().chain([&*own]);
    if let Some(other) = said.filter_map(Form::of).find(|other| *other != form) {
        return Err(malformed(
            form.name(),
            format!("is said to be {} by its media type", other.with_article()),
        ));
    }
    match form {
        Form::Manifest => {
            let artifact_type = artifact_type.text_or_empty().map_err(wrong)?;
            Manifest::of(config, layers, &artifact_type).map(Document::Manifest)
        }
        Form::Index => Index::of(manifests).map(Document::Index),
    }
}

impl Manifest {
    fn of(config: Part<'_>, layers: Part<'_>, artifact_type: &str) -> Result<Self, Error> {
        let config = Descriptor::of("manifest", config);
        let layers = layers.list(MAX_LAYERS).map_err(|count| {
            let what = format!("has {count} layers, and at most {MAX_LAYERS} can be stacked");
            malformed("manifest", what)
        })?;
        let layers =
            layers.ok_or_else(|| malformed("manifest", "has neither layers nor manifests"))?;
        let layers = layers
            .into_iter()
            .map(|layer| Descriptor::of("manifest", layer));
        Ok(Self {
            config: config?,
            layers: layers.collect::<Result<_, Error>>()?,
            artifact_type: beginning(artifact_type, MAX_MEDIA_TYPE),
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
    beginning(media_type, SHOWN).escape_debug().to_string()
}

impl Index {
    fn of(manifests: Part<'_>) -> Result<Self, Error> {
        let entries = manifests.list(MAX_MANIFESTS).map_err(|count| {
            let what = format!("has {count} manifests, and at most {MAX_MANIFESTS} are read");
            malformed("index", what)
        })?;
        let entries = entries.ok_or_else(|| malformed("index", "has no list of manifests"))?;
        let entries = entries.into_iter().map(Entry::of);
        Ok(Self {
            entries: entries.collect::<Result<_, Error>>()?,
        })
    }

    /// The entries that may fit a platform, the best first. Then come those without one, whose configuration must tell, as
    /// containerd does. At most so many are given, and the others are forgotten.
    pub fn candidates(self, wanted: &Platform, most: usize) -> Vec<Entry> {
        let images = self.entries.into_iter().filter(|entry| entry.is_image);
        let mut ranked: Vec<(Option<u32>, Entry)> = Vec::new();
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
    let platform = Platform::of_json(Part::document(config).ok()?).ok()?;
    platform.filter(|platform| !platform.architecture.is_empty())
}

/// The digests of the layers' archives, as an image's configuration has them.
///
/// # Errors
///
/// If it has none, or not one for each layer.
pub fn diff_ids(config: &[u8], layers: usize) -> Result<Vec<Digest>, Error> {
    read_diff_ids(config, layers).map_err(|what| malformed("configuration", what))
}

fn read_diff_ids(config: &[u8], layers: usize) -> Result<Vec<Digest>, String> {
    let [rootfs] = Part::document(config)?.pick(["rootfs"])?;
    let [ids] = rootfs.pick(["diff_ids"])?;
    let another = |ids: usize| {
        format!(
            "has {ids} rootfs.diff_ids, and the manifest {}",
            count(layers, "layer", "layers")
        )
    };
    let ids = ids.list(layers).map_err(another)?;
    let ids = ids.ok_or("has no rootfs.diff_ids")?;
    if ids.len() != layers {
        return Err(another(ids.len()));
    }
    let id = |value: Part<'_>| {
        let id = value.text()?.and_then(|id| Digest::parse(&id));
        id.ok_or_else(|| "has a rootfs.diff_ids that is no sha256:<64 digits>".to_owned())
    };
    ids.into_iter().map(id).collect()
}
