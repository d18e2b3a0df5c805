// SPDX-License-Identifier: Apache-2.0

//! From the name of an image to its layers in the store.

use std::fs::File;
use std::io::{self, Read};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread;

use common::text::Escaped;
use thiserror::Error;

use crate::claim::{Claim, Making, claim, with_room};
use crate::compression::{self, decompressed};
use crate::digest::{Digest, Digesting};
use crate::encryption::{self, Decryptor};
use crate::erofs;
use crate::failure::{Failure, Kind, shortened};
use crate::layer;
use crate::lookup::{self, configuration, of_registry, warn_of_platform};
use crate::memory::{STACK, Turn, Turns};
use crate::pipe::Pipe;
use crate::policy::{self, Rules};
use crate::question::{Ask, Question};
use crate::registry::manifest::{self, Descriptor};
use crate::registry::platform::Platform;
use crate::registry::{self, Client};

pub use crate::lookup::{Found, find};
pub use crate::memory::LAYERS_AT_ONCE;

/// Nothing of an encrypted layer counts then, whatever else is wrong with it.
const WRONG_HMAC: &str = "it is encrypted, and its HMAC is wrong: it was changed since it was encrypted, or was encrypted with \
                          another key than the one that comes with it; encrypt and push the image again";

/// What then is wrong in an encrypted layer was so before it was encrypted, or the counter began elsewhere.
const RIGHT_HMAC: &str = "; it is encrypted and its HMAC is right: it was broken before it was encrypted, or its nonce is wrong";

/// Why an image can't be pulled.
#[derive(Debug, Error)]
pub enum Error {
    /// The registry has no image that can be used.
    #[error(transparent)]
    Lookup(#[from] lookup::Error),
    /// The policy doesn't let it in.
    #[error(transparent)]
    Policy(#[from] policy::Error),
    /// A layer can't be had, or made into a file system.
    #[error("layer {number} of {layers} ({digest}): {failure}")]
    Layer {
        /// Which, beginning with 1.
        number: usize,
        /// How many there are.
        layers: usize,
        /// The digest of its blob.
        digest: Digest,
        /// What is wrong.
        failure: Failure,
    },
}

impl Error {
    /// What kind of failure it is.
    pub fn kind(&self) -> Kind {
        match self {
            Self::Lookup(error) => error.kind(),
            Self::Policy(policy::Error::Registry(error)) => of_registry(error),
            Self::Policy(policy::Error::Refused(_)) => Kind::Configuration,
            Self::Layer { failure, .. } => failure.kind,
        }
    }
}

/// What happens during a pull.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The image is known.
    Started {
        /// How many layers it has.
        layers: usize,
        /// How many bytes their blobs have together.
        bytes: u64,
    },
    /// More bytes of blobs were read.
    Read(u64),
    /// A layer is in the store.
    Layer {
        /// The length of its blob.
        bytes: u64,
        /// Whether it was there before.
        stored: bool,
    },
}

/// An image whose layers are in the store.
#[derive(Debug)]
pub struct Pulled {
    /// The digest of the image's manifest.
    pub manifest: Digest,
    /// The digests of the layers' archives, the lowest first.
    pub layers: Vec<Digest>,
}

/// What a pull works with.
#[derive(Clone, Copy)]
pub struct Means<'m> {
    /// The client of the image's repository.
    pub client: &'m Client,
    /// The signatures that the image must have, if any.
    pub rules: Option<&'m Rules>,
    /// How many layers are fetched at once.
    pub at_once: usize,
    /// Who is told what happens.
    pub events: &'m (dyn Fn(Event) + Sync),
    /// Who is asked for the layers' files, and for what only the daemon has.
    pub ask: &'m Ask<'m>,
}

/// Pulls the layers of an image that was found in the client's repository for this platform.
///
/// # Errors
///
/// If anything of it can't be had, or isn't what its digest says. Layers that are whole stay in the store.
pub fn pull(means: &Means<'_>, found: Found, platform: &Platform) -> Result<Pulled, Error> {
    let Known {
        digest,
        layers,
        diff_ids,
    } = accept(means, found, platform)?;
    for (at, diff_id) in diff_ids.iter().enumerate() {
        // Before room is made for those that are not stored.
        (means.ask)(&Question::Hold(*diff_id)).map_err(|failure| Error::Layer {
            number: at + 1,
            layers: diff_ids.len(),
            digest: *diff_id,
            failure,
        })?;
    }
    fetch_all(means, &layers, &diff_ids)?;
    Ok(Pulled {
        manifest: digest,
        layers: diff_ids,
    })
}

/// An image whose signatures are good, and of which only the layers are missing.
pub(crate) struct Known {
    /// The digest of its manifest.
    pub(crate) digest: Digest,
    /// The blobs of its layers, the lowest first.
    pub(crate) layers: Vec<Descriptor>,
    /// The digests of their archives.
    pub(crate) diff_ids: Vec<Digest>,
}

/// Checks the signatures of an image that was found, reads its configuration, and tells that it is known.
///
/// # Errors
///
/// If the policy doesn't let it in, or its configuration can't be had or used.
pub(crate) fn accept(means: &Means<'_>, found: Found, platform: &Platform) -> Result<Known, Error> {
    let Means { client, events, .. } = means;
    let Found {
        digest,
        documents,
        manifest,
        config,
    } = found;
    if let Some(rules) = means.rules {
        rules.check(client, means.ask, &documents)?;
    }
    // The layers need the memory that these take.
    drop(documents);
    let config = match config {
        Some(config) => config,
        None => configuration(client, &manifest)?,
    };
    warn_of_platform(&config, platform);
    let diff_ids =
        manifest::diff_ids(&config, manifest.layers.len()).map_err(lookup::Error::from)?;
    drop(config);
    let bytes = manifest.layers.iter().map(|layer| layer.size);
    events(Event::Started {
        layers: manifest.layers.len(),
        bytes: bytes.fold(0, u64::saturating_add),
    });
    Ok(Known {
        digest,
        layers: manifest.layers,
        diff_ids,
    })
}

/// Fetches what is not stored, some at once. After the first failure no other begins, and those that run are given up.
fn fetch_all(means: &Means<'_>, layers: &[Descriptor], diff_ids: &[Digest]) -> Result<(), Error> {
    let events = means.events;
    let next = AtomicUsize::new(0);
    let stop = AtomicBool::new(false);
    let turns = Turns::default();
    // The first that failed by itself; others fail because they are stopped.
    let first = OnceLock::new();
    let results = Mutex::new(Vec::new());
    let work = || {
        loop {
            let at = next.fetch_add(1, Ordering::Relaxed);
            let (Some(layer), Some(diff_id)) = (layers.get(at), diff_ids.get(at)) else {
                return;
            };
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let named = |failure: Failure| Error::Layer {
                number: at + 1,
                layers: layers.len(),
                digest: layer.digest,
                failure,
            };
            let wait = || !stop.load(Ordering::Relaxed);
            let claim = || claim(means.ask, diff_id, layer.size, &wait);
            let found = || {
                let bytes = layer.size;
                events(Event::Layer {
                    bytes,
                    stored: true,
                });
                Ok(())
            };
            let attempt = |is_last| {
                let give_all_up = |failure: &Failure| {
                    // The others go on if this one may be made again.
                    if is_last || failure.kind != Kind::NoRoom {
                        let _ = first.set(at);
                        stop.store(true, Ordering::Relaxed);
                    }
                };
                let make = |making, turn: &Turn<'_>| match stop.load(Ordering::Relaxed) {
                    true => Err(other("given up, since another layer failed".to_owned())),
                    false => fetch(means, layer, diff_id, making, turn, &stop, &give_all_up),
                };
                match claim()? {
                    Claim::Stored => return found(),
                    Claim::ToMake(making) => {
                        let turn = turns.shared();
                        let made = make(making, &turn);
                        if !turn.needs_all() {
                            return made;
                        }
                    }
                }
                eprintln!(
                    "guest-pull: the layer {} needs a window of zstd that has no room in memory beside other layers; \
                     it is fetched again when they are there",
                    layer.digest
                );
                match claim()? {
                    Claim::Stored => found(),
                    Claim::ToMake(making) => make(making, &turns.alone()),
                }
            };
            let result = with_room(means.ask, diff_id, &wait, &attempt).map_err(named);
            if result.is_err() {
                let _ = first.set(at);
                stop.store(true, Ordering::Relaxed);
            }
            let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
            results.push((at, result));
        }
    };
    thread::scope(|scope| {
        for _ in 1..means.at_once.min(layers.len()).min(LAYERS_AT_ONCE) {
            // Without one, there are fewer at once.
            let _ = thread::Builder::new()
                .stack_size(STACK)
                .spawn_scoped(scope, work);
        }
        work();
    });
    let mut results = results.into_inner().unwrap_or_else(PoisonError::into_inner);
    let position = results.iter().position(|(at, _)| first.get() == Some(at));
    if let Some(position) = position {
        let (_, failed) = results.swap_remove(position);
        failed?;
    }
    results.into_iter().try_for_each(|(_, result)| result)
}

/// Fetches one layer and makes its file system, in one pass: nothing of it is seen by anybody before both digests are
/// right.
fn fetch(
    means: &Means<'_>,
    layer: &Descriptor,
    diff_id: &Digest,
    making: Making<'_>,
    turn: &Turn<'_>,
    stop: &AtomicBool,
    give_all_up: &(dyn Fn(&Failure) + Sync),
) -> Result<(), Failure> {
    let failed = Mutex::new(None);
    let watch = Watch {
        stop,
        give_all_up,
        events: means.events,
        failed: &failed,
    };
    let result = fetch_watched(means, layer, diff_id, making, turn, &watch);
    result.map_err(|failure| {
        // What fails after the registry did has no other reason.
        let failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
        failed.unwrap_or(failure)
    })
}

fn fetch_watched(
    means: &Means<'_>,
    layer: &Descriptor,
    diff_id: &Digest,
    making: Making<'_>,
    turn: &Turn<'_>,
    watch: &Watch<'_>,
) -> Result<(), Failure> {
    // Before anything is fetched that nobody could decrypt.
    let decryptor = encryption::decryptor(layer, means.ask)?;
    let is_encrypted = decryptor.is_some();
    // Set when nobody reads the blob any more, which the thread that fetches it learns only where a part of it is full.
    let is_unread = AtomicBool::new(false);
    let is_over = || watch.stop.load(Ordering::Relaxed) || is_unread.load(Ordering::Relaxed);
    let blob = means
        .client
        .blob(&layer.digest, layer.size, &is_over)
        .map_err(|error| Failure::new(of_registry(&error), error.to_string()))?;
    let size = layer.size;
    let watched = Watched {
        inner: blob.take(size.saturating_add(1)),
        watch,
    };
    let (file, scratch) = making.files()?;
    let target = Target {
        file,
        scratch,
        turn,
    };
    let (blob, converted) = thread::scope(|scope| {
        let started = Pipe::start(scope, Digesting::new(watched));
        let (mut blob, reading) = started.map_err(no_thread)?;
        // The rest of a blob is not waited for, unless it tells whether the layer is authentic.
        let leave_rest = |failure: &Failure| {
            let tells_nothing = !is_encrypted || failure.kind == Kind::NoRoom;
            if turn.needs_all() || tells_nothing {
                is_unread.store(true, Ordering::Relaxed);
            }
            if !turn.needs_all() && tells_nothing {
                (watch.give_all_up)(failure);
            }
        };
        let converted = match decryptor {
            None => {
                let converted = convert(&mut blob, layer, target, diff_id, &leave_rest);
                Ok(converted.inspect_err(&leave_rest)?)
            }
            Some(decryptor) => {
                convert_encrypted(&mut blob, decryptor, layer, target, diff_id, &leave_rest)?
            }
        };
        // What follows the archive in the blob belongs to the blob's digest.
        io::copy(&mut blob, &mut io::sink())
            .map_err(|error| other(format!("its blob: {error}")))?;
        let blob = reading.join().map_err(panicked)?;
        Ok::<_, Failure>((blob, converted))
    })?;
    if blob.length() != size {
        return Err(other(format!(
            "its blob has {} bytes, and the manifest says {size}",
            match blob.length() > size {
                true => "more".to_owned(),
                false => blob.length().to_string(),
            }
        )));
    }
    let digest = blob.digest();
    if digest != layer.digest {
        return Err(other(format!("its blob has the digest {digest}")));
    }
    let (summary, found) = converted?;
    if found != *diff_id {
        return Err(other(format!(
            "its archive has the digest {found}, and the configuration says {diff_id}"
        )));
    }
    making.finish(summary)?;
    (watch.events)(Event::Layer {
        bytes: size,
        stored: false,
    });
    Ok(())
}

/// Where a layer goes, and what it can take meanwhile.
struct Target<'t> {
    file: File,
    scratch: File,
    turn: &'t Turn<'t>,
}

/// Makes a file system of the archive in a blob, and the digest of the archive. If that fails, `failed` is told before the
/// threads are waited for that read the blob.
fn convert(
    blob: &mut Pipe,
    layer: &Descriptor,
    target: Target<'_>,
    diff_id: &Digest,
    failed: &dyn Fn(&Failure),
) -> Result<(layer::Summary, Digest), Failure> {
    thread::scope(|scope| {
        let Target {
            file,
            scratch,
            turn,
        } = target;
        let archive =
            decompressed(blob, turn).map_err(|error| other(format!("its blob: {error}")))?;
        warn_of_label(layer, archive.kind());
        let (archive, decompressing) = Pipe::start(scope, archive).map_err(no_thread)?;
        let (mut archive, hashing) = archive.digested(scope).map_err(no_thread)?;
        let summary = layer::convert(&mut archive, file, scratch, true, diff_id.uuid());
        let summary = summary.map_err(|error| of_layer(&error));
        let summary = summary.inspect_err(failed);
        // The threads end when nobody reads any more.
        drop(archive);
        decompressing.join().map_err(panicked)?;
        let digest = hashing.join().map_err(panicked)?;
        Ok((summary?, digest))
    })
}

/// The same of an encrypted blob. What is wrong with its content is the inner failure, which counts only if the blob is the
/// one that the manifest names: so who reads it can tell a broken transfer, another key and a broken archive apart.
fn convert_encrypted(
    blob: &mut Pipe,
    decryptor: Decryptor,
    layer: &Descriptor,
    target: Target<'_>,
    diff_id: &Digest,
    failed: &dyn Fn(&Failure),
) -> Result<Result<(layer::Summary, Digest), Failure>, Failure> {
    thread::scope(|scope| {
        let turn = target.turn;
        let started = Pipe::start(scope, decryptor.decrypt(blob));
        let (mut plain, decrypting) = started.map_err(no_thread)?;
        let converted = match convert(&mut plain, layer, target, diff_id, failed) {
            Err(failure) if failure.kind == Kind::NoRoom || turn.needs_all() => {
                return Err(failure);
            }
            converted => converted,
        };
        // The HMAC is over all of it.
        let rest = io::copy(&mut plain, &mut io::sink());
        drop(plain);
        let decrypted = decrypting.join().map_err(panicked)?;
        let converted = match converted {
            // Whoever came upon the failure has told it.
            Err(failure) if decrypted.has_failed() => return Err(failure),
            converted => converted,
        };
        rest.map_err(|error| other(format!("its blob: {error}")))?;
        Ok(match decrypted.is_authentic() {
            true => converted.map_err(|mut failure| {
                failure.message.push_str(RIGHT_HMAC);
                failure
            }),
            false => Err(other(WRONG_HMAC.to_owned())),
        })
    })
}

/// Says that a layer's media type is wrong, as it is now and then: its content counts.
fn warn_of_label(layer: &Descriptor, kind: compression::Kind) {
    let media_type = &layer.media_type;
    if compression::Kind::of_media_type(media_type).is_some_and(|label| label != kind) {
        eprintln!(
            "guest-pull: the layer {} is labelled \"{}\" and is {}; its content counts",
            layer.digest,
            Escaped(media_type),
            kind.name()
        );
    }
}

fn other(message: String) -> Failure {
    Failure::new(Kind::Other, message)
}

fn no_thread(error: io::Error) -> Failure {
    other(format!("no thread can be started: {error}"))
}

fn panicked<T>(_: T) -> Failure {
    other("a bug: one of its threads panicked".to_owned())
}

fn of_layer(error: &layer::Error) -> Failure {
    match error {
        layer::Error::Write(erofs::Error::Write(error)) => {
            Failure::of_io("can't write the layer's file", error)
        }
        layer::Error::Write(erofs::Error::Scratch(error)) => {
            Failure::of_io("can't use the layer's scratch file", error)
        }
        // The reason must not be lost behind a name of a MiB.
        layer::Error::Entry { path, what } => {
            other(format!("entry {}: {}", shortened(path), shortened(what)))
        }
        _ => other(error.to_string()),
    }
}

/// What a layer's fetching looks at, and tells.
struct Watch<'w> {
    /// Whether it should be given up.
    stop: &'w AtomicBool,
    /// Gives all layers up, because of this one.
    give_all_up: &'w (dyn Fn(&Failure) + Sync),
    events: &'w (dyn Fn(Event) + Sync),
    /// How the registry failed.
    failed: &'w Mutex<Option<Failure>>,
}

/// Tells what was read, and how the registry failed.
struct Watched<'w, R> {
    inner: R,
    watch: &'w Watch<'w>,
}

impl<R: Read> Read for Watched<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer);
        if let Err(error) = &read {
            let inner = error.get_ref();
            let registry = inner.and_then(|inner| inner.downcast_ref::<registry::Error>());
            if let Some(error) = registry {
                let failure = Failure::new(of_registry(error), error.to_string());
                let failed = self.watch.failed.lock();
                *failed.unwrap_or_else(PoisonError::into_inner) = Some(failure);
            }
        }
        let length = read?;
        (self.watch.events)(Event::Read(length as u64));
        Ok(length)
    }
}
