// SPDX-License-Identifier: Apache-2.0

//! Directories that a layer has no entry for, although it has something below them.
//!
//! In an overlay, a directory has the attributes of the topmost layer that has it. A layer must have one for each of its
//! files, but says nothing about those that its archive has no entry for: such a directory should stay as the lower layers
//! have it. So it is made once more in the writable layer, which is on top of all, with the attributes of the topmost
//! layer whose archive had an entry for it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _, lchown};
use std::path::{Path, PathBuf};

use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;

use crate::layer::is_kept;
use crate::store::Stored;

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
    upper: &Path,
    layers: &[Layer<'_>],
    more: &BTreeSet<Vec<u8>>,
) -> io::Result<BTreeSet<Vec<u8>>> {
    // Parents first. The root is the writable layer's own, so it always needs its attributes.
    let mut wanted = BTreeSet::from([b"/".to_vec()]);
    wanted.extend(more.iter().cloned());
    for layer in layers {
        wanted.extend(layer.implied.iter().map(|path| path.to_vec()));
    }
    let mut made = BTreeSet::new();
    for path in &wanted {
        let (top, attributes) = find(layers, path);
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
pub fn set_times(upper: &Path, layers: &[Layer<'_>], made: &BTreeSet<Vec<u8>>) -> io::Result<()> {
    for path in made.iter().rev() {
        let time = match find(layers, path) {
            (_, Some(at)) => {
                let from = fs::symlink_metadata(below(&layers[at].root, path))?;
                TimeSpec::new(from.mtime(), from.mtime_nsec())
            }
            // As in a layer that says nothing about it.
            (_, None) => TimeSpec::new(0, 0),
        };
        set_time(&below(upper, path), time)?;
    }
    Ok(())
}

/// Sets the time of what is at a path, be it a link.
pub fn set_time(path: &Path, time: TimeSpec) -> io::Result<()> {
    let flags = UtimensatFlags::NoFollowSymlink;
    utimensat(nix::fcntl::AT_FDCWD, path, &time, &time, flags)?;
    Ok(())
}

/// A mounted layer.
pub struct Layer<'l> {
    pub root: PathBuf,
    implied: BTreeSet<&'l [u8]>,
    /// The hard links to files of lower layers, and those files.
    pub links: &'l [(Vec<u8>, Vec<u8>)],
    targets: BTreeMap<&'l [u8], &'l [u8]>,
}

impl<'l> Layer<'l> {
    /// What a hard link to a file of a lower layer links to; none if there is no such link at a path.
    pub fn target(&self, path: &[u8]) -> Option<&'l [u8]> {
        self.targets.get(path).copied()
    }
}

/// The topmost of the layers that has something at a path, if it is seen.
pub fn topmost(layers: &[Layer<'_>], path: &[u8]) -> Option<usize> {
    let name = path.iter().rposition(|byte| *byte == b'/')?;
    for (at, layer) in layers.iter().enumerate() {
        let hides = match look(layer, &path[..name]) {
            Found::Directory { hides } => {
                let found = fs::symlink_metadata(below(&layer.root, path));
                match found {
                    Ok(found) if found.file_type().is_char_device() && found.rdev() == 0 => true,
                    Ok(_) => return Some(at),
                    Err(_) => hides,
                }
            }
            Found::Nothing { hides } => hides,
        };
        if hides {
            return None;
        }
    }
    None
}

/// A path of a layer, below where it is mounted.
pub fn below(root: &Path, path: &[u8]) -> PathBuf {
    let relative = path.strip_prefix(b"/").unwrap_or(path);
    match relative.is_empty() {
        true => root.to_owned(),
        false => root.join(OsStr::from_bytes(relative)),
    }
}

/// The topmost layer that has the directory, and the topmost one whose archive had an entry for it. The layers are
/// sorted, the topmost first.
fn find(layers: &[Layer<'_>], path: &[u8]) -> (Option<usize>, Option<usize>) {
    let mut top = None;
    for (at, layer) in layers.iter().enumerate() {
        match look(layer, path) {
            Found::Directory { hides } => {
                top = top.or(Some(at));
                if !layer.implied.contains(path) {
                    return (top, Some(at));
                }
                if hides {
                    break;
                }
            }
            Found::Nothing { hides: true } => break,
            Found::Nothing { hides: false } => {}
        }
    }
    (top, None)
}

/// What a layer has at a path.
enum Found {
    /// A directory; `hides` tells whether lower layers' are not seen.
    Directory { hides: bool },
    /// No directory.
    Nothing { hides: bool },
}

fn look(layer: &Layer<'_>, path: &[u8]) -> Found {
    let mut hides = false;
    let mut at = layer.root.clone();
    let parts = path
        .split(|byte| *byte == b'/')
        .filter(|part| !part.is_empty());
    for part in parts {
        at.push(OsStr::from_bytes(part));
        match fs::symlink_metadata(&at) {
            Ok(metadata) if metadata.is_dir() => hides |= is_opaque(&at),
            // A whiteout, or another thing in a directory's place.
            Ok(_) => return Found::Nothing { hides: true },
            Err(_) => return Found::Nothing { hides },
        }
    }
    Found::Directory { hides }
}

fn is_opaque(directory: &Path) -> bool {
    let mut value = [0; 2];
    let length = rustix::fs::lgetxattr(directory, "trusted.overlay.opaque", &mut value);
    length.is_ok_and(|length| value[..length] == *b"y")
}

/// Makes a directory of the writable layer like that of the layers.
fn make(upper: &Path, path: &[u8], layers: &[Layer<'_>]) -> io::Result<()> {
    let to = below(upper, path);
    if path != b"/" {
        fs::create_dir(&to)?;
    }
    let Some(at) = find(layers, path).1 else {
        return fs::set_permissions(&to, fs::Permissions::from_mode(0o755));
    };
    let from = below(&layers[at].root, path);
    let metadata = fs::symlink_metadata(&from)?;
    lchown(&to, Some(metadata.uid()), Some(metadata.gid()))?;
    fs::set_permissions(&to, fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
    copy_xattrs(&from, &to)
}

/// Whether an attribute says who may do what.
fn is_acl(name: &[u8]) -> bool {
    name.starts_with(b"system.posix_acl_")
}

/// Copies the extended attributes, but for those that no layer has.
pub fn copy_xattrs(from: &Path, to: &Path) -> io::Result<()> {
    let mut names = vec![0; 65_536];
    let length = rustix::fs::llistxattr(from, &mut names)?;
    let mut value = vec![0; 65_536];
    for name in names[..length].split(|byte| *byte == 0) {
        if name.is_empty() || !is_kept(name) {
            continue;
        }
        let length = rustix::fs::lgetxattr(from, name, &mut value)?;
        let set =
            rustix::fs::lsetxattr(to, name, &value[..length], rustix::fs::XattrFlags::empty());
        match set {
            // The kernel leaves these out too where it copies a directory up: before Linux 6.6 tmpfs has none of users.
            Err(rustix::io::Errno::OPNOTSUPP)
                if !name.starts_with(b"security.") && !is_acl(name) => {}
            set => set?,
        }
    }
    Ok(())
}
