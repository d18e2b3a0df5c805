// SPDX-License-Identifier: Apache-2.0

//! The mount of an image of one file, by what stores, stacks and mounts the layers of all images. Nothing of it comes from
//! outside, and nothing is left of it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use thiserror::Error;

use crate::claim::{Claim, claim};
use crate::digest::Digest;
use crate::failure::{Failure, Kind};
use crate::layer;
use crate::mount::{self, By};
use crate::question::{Answer, Question};
use crate::store::{PullLayers, Store};

/// The name of the file.
const NAME: &str = "file";

/// Its length: two clusters that shrink to a block each, so that the kernel has something to decompress.
const LENGTH: usize = 2 * (64 << 10);

/// Why it can't be mounted.
#[derive(Debug, Error)]
pub(super) enum Error {
    /// The store is no good.
    #[error("{0}")]
    Store(Failure),
    /// The kernel or the file system is no good.
    #[error("{0}")]
    Mount(mount::Error),
    /// What is mounted is not what was stored.
    #[error("the kernel reads its file wrongly: {0}")]
    Content(String),
}

/// A directory that is removed with all that is in it.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Mounts it in a new directory in `place`, reads it, and unmounts it.
pub(super) fn mount(place: &Path) -> Result<(), Error> {
    // No other process has this id, and one that was killed leaves its directory to the next of this id.
    let directory = Directory(place.join(format!(".guest-pull-check-{}", std::process::id())));
    let of_io = |error: io::Error| Error::Store(Failure::of_io(directory.0.display(), &error));
    let _ = fs::remove_dir_all(&directory.0);
    fs::create_dir(&directory.0).map_err(of_io)?;
    let bundle = directory.0.join("bundle");
    fs::create_dir(&bundle).map_err(of_io)?;
    let store = Store::open(&directory.0.join("store"));
    let store =
        store.map_err(|error| Error::Store(Failure::of_io(error.path().display(), error.io())))?;
    let mut pull_layers = PullLayers::new(&store);
    let id = stored(&mut pull_layers).map_err(Error::Store)?;
    let layers = pull_layers.take(&[id]).map_err(Error::Store)?;
    let mounted =
        mount::mount(&store, &layers, &bundle, By::File, &|| Ok(())).map_err(Error::Mount)?;
    let content = fs::read(mounted.root.join(NAME));
    mounted.undo().map_err(of_io)?;
    let wrong = match content {
        Ok(content) if content == content_of_file() => return Ok(()),
        Ok(content) => format!("{} bytes of other content", content.len()),
        Err(error) => error.to_string(),
    };
    Err(Error::Content(wrong))
}

/// Makes the layer, as a worker does.
fn stored(pull_layers: &mut PullLayers<'_>) -> Result<Digest, Failure> {
    let archive = archive();
    let id = Digest::of(&archive);
    let pull_layers = Mutex::new(pull_layers);
    let ask = |question: &Question| -> Result<Answer, Failure> {
        let locked = pull_layers.lock();
        locked
            .unwrap_or_else(PoisonError::into_inner)
            .answer(question)
    };
    let bytes = archive.len() as u64;
    let Claim::ToMake(making) = claim(&ask, &id, bytes, &|| false)? else {
        return Err(Failure::new(Kind::Other, "a new store has a layer already"));
    };
    let (file, scratch) = making.files()?;
    let summary = layer::convert(&archive[..], file, scratch, true, id.uuid());
    let summary = summary.map_err(|error| Failure::new(Kind::Other, error.to_string()))?;
    making.finish(summary)?;
    Ok(id)
}

fn content_of_file() -> Vec<u8> {
    b"guest-pull".iter().copied().cycle().take(LENGTH).collect()
}

/// A tar archive of the file: ustar(5).
fn archive() -> Vec<u8> {
    let mut header = [0_u8; 512];
    let fields = [
        (0, NAME.to_owned()),
        (100, "0000644".to_owned()),
        (108, "0000000".to_owned()),
        (116, "0000000".to_owned()),
        (124, format!("{LENGTH:011o}")),
        (136, "00000000000".to_owned()),
        // The field of the sum counts as spaces in it.
        (148, "        ".to_owned()),
        (156, "0".to_owned()),
        (257, "ustar\0".to_owned() + "00"),
    ];
    let put = |header: &mut [u8; 512], at: usize, text: &str| {
        for (to, from) in header.iter_mut().skip(at).zip(text.bytes()) {
            *to = from;
        }
    };
    for (at, text) in &fields {
        put(&mut header, *at, text);
    }
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    put(&mut header, 148, &format!("{sum:06o}\0 "));
    let mut archive = header.to_vec();
    archive.extend(content_of_file());
    // Two blocks of zeros are the end.
    archive.resize(archive.len().next_multiple_of(512) + 2 * 512, 0);
    archive
}
