// SPDX-License-Identifier: Apache-2.0

//! Hard links of a layer to files of lower layers.
//!
//! An overlay can't link over layers. The layer has an empty file with the attributes of the link's entry in its place; here
//! the file's content is copied into the writable layer, which is on top of all. Whoever changes one of the two changes it
//! alone, as it is with a file that an overlay copied up.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown, symlink};
use std::path::{Path, PathBuf};

use nix::sys::time::TimeSpec;

use crate::directories::{self, Layer, below, copy_xattrs};
use crate::store::Stored;

/// A link that is seen.
struct Link<'l> {
    path: &'l [u8],
    /// The layer that has it.
    at: usize,
    target: &'l [u8],
    /// The layer below that has the target.
    from: usize,
}

/// Makes what the writable layer needs before anything is written: directories, and copies of files. The layers are mounted
/// at `0`, `1` and so on in the current directory; those below `lowest` are not seen.
pub fn prepare(upper: &Path, stored: &[&Stored], lowest: usize) -> io::Result<()> {
    let layers = directories::layers(stored, lowest);
    let links = seen(&layers)?;
    let parents: BTreeSet<_> = links.iter().map(|link| parent(link.path)).collect();
    let made = directories::make_all(upper, &layers, &parents)?;
    let mut copies: BTreeMap<_, PathBuf> = BTreeMap::new();
    for link in &links {
        let to = below(upper, link.path);
        // Links of one layer to one file are links to each other too.
        let key = (link.at, link.from, link.target);
        let copied = match copies.get(&key) {
            Some(copy) => fs::hard_link(copy, &to),
            None => copy(&below(&layers[link.from].root, link.target), &to),
        };
        let said = below(&layers[link.at].root, link.path);
        let copied = copied.and_then(|()| say(&said, &to));
        copied.map_err(|error| failed(link.path, link.target, &error))?;
        copies.entry(key).or_insert(to);
    }
    directories::set_times(upper, &layers, &made)
}

fn parent(path: &[u8]) -> Vec<u8> {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(end) if end > 0 => path[..end].to_vec(),
        _ => b"/".to_vec(),
    }
}

fn failed(path: &[u8], target: &[u8], error: &io::Error) -> io::Error {
    let (path, target) = (path.escape_ascii(), target.escape_ascii());
    let text = format!("entry {path}: a hard link to {target}: {error}");
    io::Error::new(error.kind(), text)
}

/// The links that nothing of a later layer has replaced or taken away.
fn seen<'l>(layers: &[Layer<'l>]) -> io::Result<Vec<Link<'l>>> {
    let mut links = Vec::new();
    for (at, layer) in layers.iter().enumerate() {
        for (path, target) in layer.links {
            let top = directories::topmost(layers, path);
            if top != Some(at) {
                continue;
            }
            let (from, target) = source(layers, at, target).ok_or_else(|| {
                let error = io::Error::other("neither its layer nor one below has that");
                failed(path, target, &error)
            })?;
            links.push(Link {
                path,
                at,
                target,
                from,
            });
        }
    }
    Ok(links)
}

/// The layer below one that has a file, and its name there. If it is such a link itself, it is that of what it links to.
fn source<'l>(
    layers: &[Layer<'l>],
    mut at: usize,
    mut target: &'l [u8],
) -> Option<(usize, &'l [u8])> {
    loop {
        let below = layers.get(at + 1..)?;
        at += 1 + directories::topmost(below, target)?;
        match layers[at].target(target) {
            Some(further) => target = further,
            None => return Some((at, target)),
        }
    }
}

/// Copies a file or a symbolic link, with its extended attributes.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let kind = fs::symlink_metadata(from)?.file_type();
    if kind.is_symlink() {
        symlink(fs::read_link(from)?, to)?;
    } else if kind.is_file() {
        io::copy(&mut File::open(from)?, &mut File::create_new(to)?)?;
    } else {
        return Err(io::Error::other("it is neither a file nor a symbolic link"));
    }
    copy_xattrs(from, to)
}

/// Gives a copy what the link's entry says, as containerd gives it to the file.
fn say(said: &Path, to: &Path) -> io::Result<()> {
    let metadata = fs::symlink_metadata(said)?;
    // It takes capabilities away, there too.
    lchown(to, Some(metadata.uid()), Some(metadata.gid()))?;
    if !to.is_symlink() {
        copy_xattrs(said, to)?;
        fs::set_permissions(to, Permissions::from_mode(metadata.mode() & 0o7777))?;
    }
    directories::set_time(to, TimeSpec::new(metadata.mtime(), metadata.mtime_nsec()))
}
