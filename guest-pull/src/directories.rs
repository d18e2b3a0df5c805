// SPDX-License-Identifier: Apache-2.0

//! Directories that a layer has no entry for, although it has something below them.
//!
//! In an overlay, a directory has the attributes of the topmost layer that has it. A layer must have one for each of its
//! files, but says nothing about those that its archive has no entry for: such a directory should stay as the lower layers
//! have it. So it is made once more in the writable layer, which is on top of all, with the attributes of the topmost
//! layer whose archive had an entry for it.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;

use rustix::fs::{AtFlags, CWD, Mode, openat2, statat};
use rustix::io::Errno;

use crate::store::Stored;
use crate::upper::{Opened, Upper, beneath, directory_flags};

/// The layers that are seen, the topmost first. They are mounted at `0`, `1` and so on in the current directory; those below
/// `lowest` are not seen.
pub fn layers<'l>(stored: &[&'l Stored], lowest: usize) -> Vec<Layer<'l>> {
    let layer = |at: usize| Layer {
        root: PathBuf::from(at.to_string()),
        implied: stored[at].implied.iter().map(Vec::as_slice).collect(),
        links: &stored[at].links,
        targets: stored[at]
            .links
            .iter()
            .map(|(path, target)| (path.as_slice(), target.as_slice()))
            .collect(),
    };
    (lowest..stored.len()).rev().map(layer).collect()
}

/// Makes directories below `upper`, which becomes the writable layer: those that need their attributes said once more, and
/// `more`. Gives all that it made; their times are to be set when nothing is put into them any more.
pub fn make_all(
    upper: &Upper,
    layers: &[Layer<'_>],
    more: &BTreeSet<Vec<u8>>,
    check: Check<'_>,
) -> io::Result<BTreeSet<Vec<u8>>> {
    // Parents first. The root is the writable layer's own, so it always needs its attributes.
    let mut wanted = BTreeSet::from([b"/".to_vec()]);
    wanted.extend(more.iter().cloned());
    for layer in layers {
        wanted.extend(layer.implied.iter().map(|path| path.to_vec()));
    }
    let mut made = BTreeSet::new();
    for path in &wanted {
        check()?;
        let (top, attributes) = find(layers, path)?;
        // Where the topmost layer says what the directory is like, or none does, the overlay shows what is right.
        let is_right = top == attributes || attributes.is_none();
        if path != b"/" && is_right && !more.contains(path) {
            continue;
        }
        // The directories above it are made too, and must not lose their own attributes.
        let ends = path.iter().enumerate().skip(1);
        let ends = ends.filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        for end in ends.chain([path.len()]) {
            let path = &path[..end];
            if made.insert(path.to_vec()) {
                make(upper, path, layers)?;
            }
        }
    }
    Ok(made)
}

/// Sets the times of directories that were made.
pub fn set_times(
    upper: &Upper,
    layers: &[Layer<'_>],
    made: &BTreeSet<Vec<u8>>,
    check: Check<'_>,
) -> io::Result<()> {
    for path in made.iter().rev() {
        check()?;
        let (seconds, nanoseconds) = match find(layers, path)? {
            (_, Some(at)) => {
                let from = layers[at].open(path)?.metadata()?;
                (from.mtime(), from.mtime_nsec())
            }
            // As in a layer that says nothing about it.
            (_, None) => (0, 0),
        };
        upper.at(path)?.set_time(seconds, nanoseconds)?;
    }
    Ok(())
}

/// Fails when what is done for the caller is to end.
pub type Check<'c> = &'c (dyn Fn() -> io::Result<()> + Sync);

/// A mounted layer.
pub struct Layer<'l> {
    pub root: PathBuf,
    pub implied: BTreeSet<&'l [u8]>,
    /// The hard links to files of lower layers, and those files.
    pub links: &'l [(Vec<u8>, Vec<u8>)],
    targets: BTreeMap<&'l [u8], &'l [u8]>,
}

impl<'l> Layer<'l> {
    /// What a hard link to a file of a lower layer links to; none if there is no such link at a path.
    pub fn target(&self, path: &[u8]) -> Option<&'l [u8]> {
        self.targets.get(path).copied()
    }

    /// Opens what is at a path of the layer, be it a link. No link on the way is followed.
    pub fn open(&self, path: &[u8]) -> io::Result<Opened> {
        let root = openat2(CWD, &self.root, directory_flags(), Mode::empty(), beneath())?;
        Opened::at(root, path)
    }
}

/// The topmost of the layers that has something at a path, if it is seen.
pub fn topmost(layers: &[Layer<'_>], path: &[u8]) -> io::Result<Topmost> {
    let end = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    let name = path.get(end + 1..).unwrap_or_default();
    for (at, layer) in layers.iter().enumerate() {
        let hides = match look(layer, &path[..end])? {
            Found::Directory { directory, hides } => {
                match statat(&directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                    Ok(found) => {
                        let kind = rustix::fs::FileType::from_raw_mode(found.st_mode);
                        let is_device = kind == rustix::fs::FileType::CharacterDevice;
                        if !is_device || found.st_rdev != 0 {
                            return Ok(Topmost::Of(at));
                        }
                        true
                    }
                    Err(Errno::NOENT) => hides,
                    Err(error) => return Err(error.into()),
                }
            }
            Found::Nothing { hides } => hides,
            Found::Other { is_link: true } => return Ok(Topmost::BelowLink),
            Found::Other { is_link: false } => true,
        };
        if hides {
            break;
        }
    }
    Ok(Topmost::None)
}

/// What has a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topmost {
    /// This layer.
    Of(usize),
    /// None, since a layer has a symbolic link on the way.
    BelowLink,
    /// None.
    None,
}

/// The topmost layer that has the directory, and the topmost one whose archive had an entry for it. The layers are
/// sorted, the topmost first. One that hides what is below it does not end the search if it has the directory: containerd
/// takes the attributes of the lower directory there too. If it has not, the directory is not seen.
fn find(layers: &[Layer<'_>], path: &[u8]) -> io::Result<(Option<usize>, Option<usize>)> {
    let mut top = None;
    for (at, layer) in layers.iter().enumerate() {
        match look(layer, path)? {
            Found::Directory { .. } => {
                top = top.or(Some(at));
                if !layer.implied.contains(path) {
                    return Ok((top, Some(at)));
                }
            }
            // It was taken away, and must not come back.
            Found::Nothing { hides: true } if top.is_none() => break,
            Found::Nothing { .. } => {}
            Found::Other { .. } => break,
        }
    }
    Ok((top, None))
}

/// What a layer has at a path.
enum Found {
    /// A directory; `hides` tells whether lower layers' are not seen.
    Directory { directory: OwnedFd, hides: bool },
    /// Nothing.
    Nothing { hides: bool },
    /// A whiteout, or another thing in the place of a directory, at the path or on the way.
    Other { is_link: bool },
}

fn look(layer: &Layer<'_>, path: &[u8]) -> io::Result<Found> {
    let open =
        |at: &OwnedFd, part: &[u8]| openat2(at, part, directory_flags(), Mode::empty(), beneath());
    let mut hides = false;
    let mut at = openat2(
        CWD,
        &layer.root,
        directory_flags(),
        Mode::empty(),
        beneath(),
    )?;
    let parts = path
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty());
    for part in parts {
        match open(&at, part) {
            Ok(directory) => {
                hides |= is_opaque(&directory)?;
                at = directory;
            }
            Err(Errno::NOENT) => return Ok(Found::Nothing { hides }),
            Err(Errno::NOTDIR | Errno::LOOP) => {
                let found = statat(&at, part, AtFlags::SYMLINK_NOFOLLOW)?;
                let kind = rustix::fs::FileType::from_raw_mode(found.st_mode);
                let is_link = kind == rustix::fs::FileType::Symlink;
                return Ok(Found::Other { is_link });
            }
            Err(error) => return Err(error.into()),
        }
    }
    let directory = at;
    Ok(Found::Directory { directory, hides })
}

fn is_opaque(directory: &OwnedFd) -> io::Result<bool> {
    let mut value = [0; 2];
    match rustix::fs::fgetxattr(directory, "trusted.overlay.opaque", &mut value) {
        Ok(length) => Ok(value[..length] == *b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::RANGE) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Makes a directory of the writable layer like that of the layers.
fn make(upper: &Upper, path: &[u8], layers: &[Layer<'_>]) -> io::Result<()> {
    if path != b"/" {
        upper.make_directory(path)?;
    }
    let to = upper.at(path)?;
    to.remove_acls()?;
    let Some(at) = find(layers, path)?.1 else {
        return to.set_mode(0o755);
    };
    let from = layers[at].open(path)?;
    let metadata = from.metadata()?;
    to.set_owner(&metadata)?;
    to.set_mode(metadata.mode())?;
    upper.copy_xattrs(&from, &to)
}
