// SPDX-License-Identifier: Apache-2.0

//! Hard links of a layer to files of lower layers.
//!
//! An overlay can't link over layers. The layer has an empty file with the attributes of the link's entry in its place; here
//! the file's content is copied into the writable layer, which is on top of all. Whoever changes one of the two changes it
//! alone, as it is with a file that an overlay copied up.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Permissions};
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, lchown, symlink};
use std::path::{Path, PathBuf};

use nix::sys::time::TimeSpec;

use crate::directories::{self, Check, Layer, Opened, Topmost, below, copy_xattrs};
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

impl<'l> Link<'l> {
    /// What is the same for links of one layer to one file, which are links to each other too.
    fn key(&self) -> (usize, usize, &'l [u8]) {
        (self.at, self.from, self.target)
    }
}

/// How many parts of paths are looked for in how many layers, at most, before an image is mounted: a minute's worth. The
/// layers' notes could ask for days.
const MAX_LOOKS: usize = 50_000_000;

/// How much of a file is copied at once.
const PART: usize = 1 << 20;

/// What a hole in a file is made of.
const BLOCK: usize = 4096;

/// Makes what the writable layer needs before anything is written: directories, and copies of files. The layers are mounted
/// at `0`, `1` and so on in the current directory; those below `lowest` are not seen. Ends early if `check` fails.
pub fn prepare(
    upper: &Path,
    stored: &[&Stored],
    lowest: usize,
    check: Check<'_>,
) -> io::Result<()> {
    let layers = directories::layers(stored, lowest);
    bound(&layers, MAX_LOOKS)?;
    let links = seen(&layers, check)?;
    check_room(upper, &layers, &links, check)?;
    let parents: BTreeSet<_> = links.iter().map(|link| parent(link.path)).collect();
    let made = directories::make_all(upper, &layers, &parents, check)?;
    let mut copies: BTreeMap<_, PathBuf> = BTreeMap::new();
    for link in &links {
        check()?;
        let to = below(upper, link.path);
        let copied = match copies.get(&link.key()) {
            Some(copy) => fs::hard_link(copy, &to),
            None => {
                let from = layers[link.from].open(link.target);
                from.and_then(|from| copy(&from, &to, check))
            }
        };
        let said = || layers[link.at].open(link.path);
        let copied = copied.and_then(|()| say(&said()?, &to));
        copied.map_err(|error| failed(link.path, link.target, &error))?;
        copies.entry(link.key()).or_insert(to);
    }
    directories::set_times(upper, &layers, &made, check)
}

/// Refuses layers whose notes have more to look for than that.
fn bound(layers: &[Layer<'_>], most: usize) -> io::Result<()> {
    let parts = |path: &[u8]| 1 + path.iter().filter(|byte| **byte == b'/').count();
    let of_layer = |layer: &Layer<'_>| -> usize {
        let implied = layer.implied.iter().map(|path| parts(path));
        let links = layer.links.iter();
        let links = links.map(|(path, target)| parts(path) + parts(target));
        implied.chain(links).sum()
    };
    let all: usize = layers.iter().map(of_layer).sum();
    let looks = all.saturating_mul(layers.len());
    match looks <= most {
        true => Ok(()),
        false => Err(io::Error::other(format!(
            "the directories without entries and the links to lower layers have paths of {all} parts, to be looked for in \
             {} layers: {looks} looks, and at most {most} are taken; build the image with fewer layers, or with entries for \
             its directories",
            layers.len()
        ))),
    }
}

/// Refuses copies that there is no room for.
fn check_room(
    upper: &Path,
    layers: &[Layer<'_>],
    links: &[Link<'_>],
    check: Check<'_>,
) -> io::Result<()> {
    let mut bytes: u64 = 0;
    let mut counted = BTreeSet::new();
    for link in links {
        if counted.insert(link.key()) {
            check()?;
            let from = layers[link.from].open(link.target);
            let metadata = from.and_then(|from| from.metadata());
            let metadata = metadata.map_err(|error| failed(link.path, link.target, &error))?;
            bytes = bytes.saturating_add(metadata.len());
        }
    }
    let status = rustix::fs::statvfs(upper)?;
    let room = status.f_bavail.saturating_mul(status.f_frsize);
    match bytes <= room {
        true => Ok(()),
        false => {
            let text = format!(
                "the files of lower layers that hard links lead to have {bytes} bytes, and there is room for {room}"
            );
            Err(io::Error::new(io::ErrorKind::StorageFull, text))
        }
    }
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
fn seen<'l>(layers: &[Layer<'l>], check: Check<'_>) -> io::Result<Vec<Link<'l>>> {
    let mut links = Vec::new();
    for (at, layer) in layers.iter().enumerate() {
        for (path, target) in layer.links {
            check()?;
            if directories::topmost(layers, path)? != Topmost::Of(at) {
                continue;
            }
            let found = source(layers, at, target);
            let (from, target) = found.map_err(|error| failed(path, target, &error))?;
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
) -> io::Result<(usize, &'l [u8])> {
    loop {
        let below = layers.get(at + 1..).unwrap_or_default();
        at += match directories::topmost(below, target)? {
            Topmost::Of(further) => 1 + further,
            Topmost::BelowLink => {
                let text = "it leads through a symbolic link of a lower layer; only those of the layer itself are followed";
                return Err(io::Error::other(text));
            }
            Topmost::None => {
                return Err(io::Error::other("neither its layer nor one below has that"));
            }
        };
        match layers[at].target(target) {
            Some(further) => target = further,
            None => return Ok((at, target)),
        }
    }
}

/// Copies a file or a symbolic link, with its extended attributes.
fn copy(from: &Opened, to: &Path, check: Check<'_>) -> io::Result<()> {
    let kind = from.metadata()?.file_type();
    if kind.is_symlink() {
        symlink(from.target()?, to)?;
    } else if kind.is_file() {
        let file = File::create_new(to)?;
        directories::remove_acls(to)?;
        copy_content(&File::open(from.name())?, &file, check)?;
    } else {
        return Err(io::Error::other("it is neither a file nor a symbolic link"));
    }
    copy_xattrs(from, to)
}

/// Copies a content, but for blocks of zeros, which become holes.
fn copy_content(mut from: &File, to: &File, check: Check<'_>) -> io::Result<()> {
    let mut part = Vec::with_capacity(PART);
    let mut at = 0;
    loop {
        check()?;
        part.clear();
        from.by_ref().take(PART as u64).read_to_end(&mut part)?;
        if part.is_empty() {
            return to.set_len(at);
        }
        for block in part.chunks(BLOCK) {
            if block.iter().any(|byte| *byte != 0) {
                to.write_all_at(block, at)?;
            }
            at += block.len() as u64;
        }
    }
}

/// Gives a copy what the link's entry says, as containerd gives it to the file.
fn say(said: &Opened, to: &Path) -> io::Result<()> {
    let metadata = said.metadata()?;
    // It takes capabilities away, there too.
    lchown(to, Some(metadata.uid()), Some(metadata.gid()))?;
    if !to.is_symlink() {
        copy_xattrs(said, to)?;
        fs::set_permissions(to, Permissions::from_mode(metadata.mode() & 0o7777))?;
    }
    directories::set_time(to, TimeSpec::new(metadata.mtime(), metadata.mtime_nsec()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Notes that would have the mounter look for days are refused before it begins.
    #[test]
    fn looks_are_bounded() {
        let stored = Stored {
            implied: vec![b"/a/b".to_vec()],
            links: vec![(b"/link".to_vec(), b"/a/file".to_vec())],
            hides_all: false,
        };
        let layers = directories::layers(&[&stored, &stored], 0);
        // Three, two and three parts, in two layers, for two layers.
        assert!(bound(&layers, 32).is_ok());
        let error = bound(&layers, 31).unwrap_err().to_string();
        assert!(
            error.contains("paths of 16 parts, to be looked for in 2 layers: 32 looks"),
            "{error}"
        );
    }

    /// A content comes back whole, its zeros take no room, and a copy ends when its caller goes.
    #[test]
    fn zeros_become_holes() {
        let [from, to] = [0; 2].map(|_| tempfile::tempfile().unwrap());
        from.set_len(20 << 20).unwrap();
        from.write_all_at(b"start", 0).unwrap();
        from.write_all_at(b"middle", (9 << 20) - 3).unwrap();
        copy_content(&from, &to, &|| Ok(())).unwrap();
        let mut content = vec![0; 20 << 20];
        to.read_exact_at(&mut content, 0).unwrap();
        let at = (9 << 20) - 3;
        assert_eq!(
            (&content[..5], &content[at..at + 6]),
            (&b"start"[..], &b"middle"[..])
        );
        assert_eq!(content.iter().filter(|byte| **byte != 0).count(), 11);
        assert_eq!(to.metadata().unwrap().len(), 20 << 20);
        assert!(to.metadata().unwrap().blocks() * 512 < 1 << 20);
        let error = copy_content(&from, &to, &|| Err(io::Error::other("gone")));
        // It is at its end, and asks first.
        assert_eq!(error.unwrap_err().to_string(), "gone");
    }
}
