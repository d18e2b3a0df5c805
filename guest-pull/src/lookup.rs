// SPDX-License-Identifier: Apache-2.0

//! From the name of an image to its manifest, through indexes.

use thiserror::Error;

use crate::digest::Digest;
use crate::failure::Kind;
use crate::registry::manifest::{self, Descriptor, Document, Index, Manifest};
use crate::registry::platform::Platform;
use crate::registry::{self, Client};

/// How deep an index may be within an index.
const MAX_INDEXES: usize = 4;

/// How many manifests and indexes are looked at for one image: entries of an index that name no platform are tried in turn.
const MAX_DOCUMENTS: usize = 32;

/// How many platforms a message lists: real indexes have up to about twenty.
const SHOWN_PLATFORMS: usize = 30;

/// Why a registry has no image that can be used.
#[derive(Debug, Error)]
pub enum Error {
    /// The registry doesn't give it.
    #[error(transparent)]
    Registry(#[from] registry::Error),
    /// What it says of itself can't be used.
    #[error(transparent)]
    Manifest(#[from] manifest::Error),
    /// A document isn't the one that was asked for.
    #[error("the {document} that came has the digest {found}, and {wanted} was asked for")]
    Digest {
        /// Which document.
        document: &'static str,
        /// The digest that was asked for.
        wanted: Digest,
        /// The digest that it has.
        found: Digest,
    },
    /// Indexes lead to indexes.
    #[error("the image is an index within more than {MAX_INDEXES} others")]
    TooManyIndexes,
    /// An index has many entries that don't say what they are for.
    #[error(
        "more than {MAX_DOCUMENTS} manifests would have to be looked at to find one for this platform"
    )]
    TooManyDocuments,
    /// A document hasn't the size that was said.
    #[error("the {document} {digest} has {found} bytes, and what leads to it says {said}")]
    Size {
        /// Which document.
        document: &'static str,
        /// Its digest.
        digest: Digest,
        /// The size that was said.
        said: u64,
        /// The size that it has.
        found: usize,
    },
    /// The entry of an index that fits can't be used.
    #[error("the index's entry for {platform} ({digest}): {error}")]
    Entry {
        /// What it says that it runs on.
        platform: Platform,
        /// Its digest.
        digest: Digest,
        /// What is wrong.
        error: Box<Error>,
    },
}

impl Error {
    /// What kind of failure it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Registry(error) => of_registry(error),
            Self::Entry { error, .. } => error.kind(),
            _ => Kind::Other,
        }
    }
}

/// The kind of a registry's failure.
pub fn of_registry(error: &registry::Error) -> Kind {
    match error {
        registry::Error::Refused { status, .. } if status.as_u16() == 403 => Kind::Forbidden,
        registry::Error::Refused { .. } => Kind::Refused,
        registry::Error::Denied { .. } => Kind::Forbidden,
        registry::Error::Missing { .. } => Kind::Missing,
        registry::Error::Unreachable { .. } | registry::Error::Incompatible { .. } => {
            Kind::Unreachable
        }
        registry::Error::GivenUp { error, .. } => of_registry(error),
        registry::Error::Proxy { .. } => Kind::Configuration,
        registry::Error::Busy { .. } => Kind::Busy,
        registry::Error::Answer { .. } => Kind::Other,
    }
}

/// What a registry has under a name, for a platform.
#[derive(Debug)]
pub struct Found {
    /// The digest of the manifest.
    pub digest: Digest,
    /// What came on the way: indexes, the first of which the reference names, and at last the manifest. Each is bound to
    /// the one before by its digest.
    pub documents: Vec<(Digest, Vec<u8>)>,
    /// The manifest.
    pub manifest: Manifest,
    /// Its configuration, if it was needed to find it.
    pub config: Option<Vec<u8>>,
}

/// The manifest for the platform.
///
/// # Errors
///
/// If the registry has none, or it can't be used.
pub fn find(client: &Client, reference: &str, platform: &Platform) -> Result<Found, Error> {
    let mut search = Search {
        client,
        platform,
        looked_at: 0,
        platforms: Vec::new(),
    };
    match search.look_at(reference, None, false, 0)? {
        Some(found) => Ok(found),
        None => {
            let found = list(&search.platforms);
            let wanted = platform.clone();
            Err(manifest::Error::Platform { wanted, found }.into())
        }
    }
}

/// The platforms that there are, for a message.
fn list(platforms: &[String]) -> String {
    let shown: Vec<_> = platforms.iter().take(SHOWN_PLATFORMS).cloned().collect();
    match (shown.is_empty(), platforms.len() - shown.len()) {
        (true, _) => "nothing with a platform".to_owned(),
        (false, 0) => shown.join(", "),
        (false, _) => format!("{} and others", shown.join(", ")),
    }
}

/// The way through indexes to the manifest for a platform.
struct Search<'s> {
    client: &'s Client,
    platform: &'s Platform,
    looked_at: usize,
    /// Those that there are.
    platforms: Vec<String>,
}

impl Search<'_> {
    /// The manifest that a document is or leads to; none if there is none for the platform. `said` is what an index says of
    /// the document; if it names no platform, the image's configuration decides.
    fn look_at(
        &mut self,
        reference: &str,
        said: Option<&Descriptor>,
        config_decides: bool,
        depth: usize,
    ) -> Result<Option<Found>, Error> {
        self.looked_at += 1;
        if depth > MAX_INDEXES {
            return Err(Error::TooManyIndexes);
        }
        if self.looked_at > MAX_DOCUMENTS {
            return Err(Error::TooManyDocuments);
        }
        let (bytes, media_type) = self.client.document(reference)?;
        let digest = match Digest::parse(reference) {
            Some(digest) => check("manifest", &digest, &bytes)?,
            None => Digest::of(&bytes),
        };
        if let Some(said) = said {
            check_size("manifest", said, &bytes)?;
        }
        let types = [
            media_type.as_deref().unwrap_or_default(),
            said.map_or("", |said| &said.media_type),
        ];
        let manifest = match manifest::parse_said(&bytes, &types)? {
            Document::Manifest(manifest) => manifest,
            Document::Index(index) => {
                let found = self.look_in(index, depth)?;
                return Ok(found.map(|mut found| {
                    found.documents.insert(0, (digest, bytes));
                    found
                }));
            }
        };
        if let Err(error) = manifest.check_is_image() {
            return match config_decides {
                true => Ok(None),
                false => Err(error.into()),
            };
        }
        let mut config = None;
        if config_decides {
            let text = configuration(self.client, &manifest)?;
            let platform = manifest::platform(&text);
            if let Some(other) = platform.filter(|it| self.platform.rank(it).is_none()) {
                self.note(other.to_string());
                return Ok(None);
            }
            config = Some(text);
        }
        Ok(Some(Found {
            digest,
            documents: vec![(digest, bytes)],
            manifest,
            config,
        }))
    }

    /// Keeps a platform for the error, each once.
    fn note(&mut self, platform: String) {
        note(&mut self.platforms, platform);
    }

    fn look_in(&mut self, index: Index, depth: usize) -> Result<Option<Found>, Error> {
        // The index itself is not kept: what it leads to may be as large.
        let mut platforms = Vec::new();
        index.platforms().for_each(|it| note(&mut platforms, it));
        for entry in index.candidates(self.platform, MAX_DOCUMENTS) {
            let digest = entry.descriptor.digest;
            let config_decides = entry.platform.is_none();
            let reference = digest.to_string();
            let descriptor = Some(&entry.descriptor);
            let found = self.look_at(&reference, descriptor, config_decides, depth + 1);
            let found = found.map_err(|error| match &entry.platform {
                Some(platform) => Error::Entry {
                    platform: platform.clone(),
                    digest,
                    error: Box::new(error),
                },
                None => error,
            })?;
            if found.is_some() {
                return Ok(found);
            }
        }
        platforms.into_iter().for_each(|it| self.note(it));
        Ok(None)
    }
}

/// Keeps a platform, each once, and as many as a message lists.
fn note(platforms: &mut Vec<String>, platform: String) {
    if platforms.len() <= SHOWN_PLATFORMS && !platforms.contains(&platform) {
        platforms.push(platform);
    }
}

/// An image's configuration.
///
/// # Errors
///
/// If the registry doesn't give it, or not as the manifest says.
pub fn configuration(client: &Client, manifest: &Manifest) -> Result<Vec<u8>, Error> {
    let descriptor = &manifest.config;
    if descriptor.size > manifest::MAX_BYTES as u64 {
        return Err(manifest::Error::Malformed {
            document: "configuration",
            what: format!(
                "has {} bytes, and at most {} are read",
                descriptor.size,
                manifest::MAX_BYTES
            ),
        }
        .into());
    }
    let config = client.small_blob(&descriptor.digest)?;
    check("configuration", &descriptor.digest, &config)?;
    check_size("configuration", descriptor, &config)?;
    Ok(config)
}

/// Says so if an image is for another platform than the machine's: it is pulled all the same, as containerd does, since
/// images with a wrong label are about and run.
pub fn warn_of_platform(config: &[u8], platform: &Platform) {
    let other = manifest::platform(config).filter(|other| platform.rank(other).is_none());
    if let Some(other) = other {
        eprintln!(
            "guest-pull: the image's configuration says that it is for {other}, and this is {platform}"
        );
    }
}

fn check_size(document: &'static str, said: &Descriptor, bytes: &[u8]) -> Result<(), Error> {
    match said.size == bytes.len() as u64 {
        true => Ok(()),
        false => Err(Error::Size {
            document,
            digest: said.digest,
            said: said.size,
            found: bytes.len(),
        }),
    }
}

fn check(document: &'static str, wanted: &Digest, bytes: &[u8]) -> Result<Digest, Error> {
    let found = Digest::of(bytes);
    match found == *wanted {
        true => Ok(found),
        false => Err(Error::Digest {
            document,
            wanted: *wanted,
            found,
        }),
    }
}
