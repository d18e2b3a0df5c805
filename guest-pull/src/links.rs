// SPDX-License-Identifier: Apache-2.0

//! Hard links of a layer to files of lower layers.
//!
//! An overlay can't link over layers. The layer has an empty file with the attributes of the link's entry in its place; here
//! the file's content is copied into the writable layer, which is on top of all. Whoever changes one of the two changes it
//! alone, as it is with a file that an overlay copied up.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;

use crate::directories::{self, Check, Layer, Topmost};
use crate::failure::shortened;
use crate::store::Stored;
use crate::upper::{Opened, Upper};

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

/// How many bytes of lower layers' files are copied at most: holes of files take no room, and time. It is as much as the
/// holes of a layer's archive have.
const MAX_COPIED: u64 = 16 << 30;

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
    let upper = Upper::open(upper)?;
    check_room(&upper, &layers, &links, check)?;
    let parents: BTreeSet<_> = links
        .iter()
        .map(|link| parent(link.path).to_vec())
        .collect();
    let made = directories::make_all(&upper, &layers, &parents, check)?;
    let mut copies: BTreeMap<_, &[u8]> = BTreeMap::new();
    for link in &links {
        check()?;
        let copied = match copies.get(&link.key()) {
            Some(copy) => upper.make_link(link.path, copy),
            None => {
                let from = layers[link.from].open(link.target);
                from.and_then(|from| copy(&from, &upper, link.path, check))
            }
        };
        let said = || layers[link.at].open(link.path);
        let copied = copied.and_then(|()| say(&said()?, &upper, link.path));
        copied.map_err(|error| failed(link.path, link.target, &error))?;
        copies.entry(link.key()).or_insert(link.path);
    }
    directories::set_times(&upper, &layers, &made, check)
}

/// Refuses layers whose notes have more to look for than that.
fn bound(layers: &[Layer<'_>], most: usize) -> io::Result<()> {
    let all = directories_above(layers) + links_in(layers);
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

/// How many parts a path has, and one more.
fn parts(path: &[u8]) -> usize {
    1 + path.iter().filter(|byte| **byte == b'/').count()
}

/// The parts of the paths of hard links and of their targets. Each target is looked for once, by whatever links it is
/// reached.
fn links_in(layers: &[Layer<'_>]) -> usize {
    let links = layers.iter().flat_map(|layer| layer.links);
    links
        .map(|(path, target)| parts(path) + parts(target))
        .sum()
}

/// The parts of the paths of all directories that may have to be made: those without an entry, those that hard links are in,
/// and those above them, each once. (Deep ones are above each other, so they count more than their own parts.)
fn directories_above(layers: &[Layer<'_>]) -> usize {
    let mut paths = BTreeSet::new();
    for layer in layers {
        paths.extend(layer.implied.iter().copied());
        paths.extend(layer.links.iter().map(|(path, _)| parent(path)));
    }
    let mut before: &[u8] = b"";
    let mut all: usize = 0;
    for path in paths {
        let same = path.iter().zip(before).take_while(|(a, b)| a == b).count();
        // What is above both was counted with the one before.
        let is_whole = |end: usize| path.get(end).is_none_or(|byte| *byte == b'/');
        let ends = (1..=path.len()).filter(|end| is_whole(*end));
        let mut depth = 1;
        for end in ends {
            depth += 1;
            let is_known = end <= same && before.get(end).is_none_or(|byte| *byte == b'/');
            if !is_known {
                all = all.saturating_add(depth);
            }
        }
        before = path;
    }
    all
}

/// Refuses copies that there is no room for, or that would take too long.
fn check_room(
    upper: &Upper,
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
    if bytes > MAX_COPIED {
        return Err(io::Error::other(format!(
            "the files of lower layers that hard links lead to have {bytes} bytes, and at most {MAX_COPIED} are copied; \
             build the image with the links in the layer of the files"
        )));
    }
    let room = upper.room()?;
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

fn parent(path: &[u8]) -> &[u8] {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(end) if end > 0 => &path[..end],
        _ => b"/",
    }
}

fn failed(path: &[u8], target: &[u8], error: &io::Error) -> io::Error {
    let [path, target] = [path, target].map(|path| path.escape_ascii().to_string());
    let (path, target) = (shortened(&path), shortened(&target));
    let text = format!("entry {path}: a hard link to {target}: {error}");
    io::Error::new(error.kind(), text)
}

/// The links that nothing of a later layer has replaced or taken away.
fn seen<'l>(layers: &[Layer<'l>], check: Check<'_>) -> io::Result<Vec<Link<'l>>> {
    let mut links = Vec::new();
    let mut sources = Sources::new();
    for (at, layer) in layers.iter().enumerate() {
        for (path, target) in layer.links {
            check()?;
            if directories::topmost(layers, path)? != Topmost::Of(at) {
                continue;
            }
            let found = source(layers, at, target, &mut sources);
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

/// The files that targets of links were found to be, by the layer that has the link and by the target.
type Sources<'l> = BTreeMap<(usize, &'l [u8]), (usize, &'l [u8])>;

/// The layer below one that has a file, and its name there. If it is such a link itself, it is that of what it links to.
/// `known` spares looks: many links can lead to one, and that by a long way to its file.
fn source<'l>(
    layers: &[Layer<'l>],
    at: usize,
    target: &'l [u8],
    known: &mut Sources<'l>,
) -> io::Result<(usize, &'l [u8])> {
    let mut way = Vec::new();
    let mut next = (at, target);
    let found = loop {
        if let Some(found) = known.get(&next) {
            break *found;
        }
        way.push(next);
        let (at, target) = next;
        let below = layers.get(at + 1..).unwrap_or_default();
        let at = match directories::topmost(below, target)? {
            Topmost::Of(further) => at + 1 + further,
            Topmost::BelowLink => {
                let text = "it leads through a symbolic link of a lower layer; only those of the layer itself are followed";
                return Err(io::Error::other(text));
            }
            Topmost::None => {
                return Err(io::Error::other("neither its layer nor one below has that"));
            }
        };
        match layers[at].target(target) {
            Some(further) => next = (at, further),
            None => break (at, target),
        }
    };
    known.extend(way.into_iter().map(|link| (link, found)));
    Ok(found)
}

/// Copies a file or a symbolic link, with its extended attributes.
fn copy(from: &Opened, upper: &Upper, path: &[u8], check: Check<'_>) -> io::Result<()> {
    let metadata = from.metadata()?;
    let kind = metadata.file_type();
    if kind.is_symlink() {
        upper.make_symlink(path, &from.target()?)?;
    } else if kind.is_file() {
        let file = upper.make_file(path)?;
        upper.at(path)?.remove_acls()?;
        // It is a file, and the same one: a pipe could keep who opens it waiting.
        let content = File::open(from.name())?.take(metadata.len());
        copy_content(content, &file, check)?;
    } else {
        return Err(io::Error::other("it is neither a file nor a symbolic link"));
    }
    upper.copy_xattrs(from, &upper.at(path)?)
}

/// Copies a content, but for blocks of zeros, which become holes.
fn copy_content(mut from: impl io::Read, to: &File, check: Check<'_>) -> io::Result<()> {
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
fn say(said: &Opened, upper: &Upper, path: &[u8]) -> io::Result<()> {
    let metadata = said.metadata()?;
    let to = upper.at(path)?;
    // It takes capabilities away, there too.
    to.set_owner(&metadata)?;
    if !to.metadata()?.is_symlink() {
        upper.copy_xattrs(said, &to)?;
        to.set_mode(metadata.mode())?;
    }
    to.set_time(metadata.mtime(), metadata.mtime_nsec())
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
        // Both layers need /, /a and /a/b, which have two, two and three parts, and each has a link of two and three.
        let error = bound(&layers, 33).unwrap_err().to_string();
        assert!(
            error.contains("paths of 17 parts, to be looked for in 2 layers: 34 looks"),
            "{error}"
        );
        assert!(bound(&layers, 34).is_ok());
        // Directories above each other are each looked for from the root.
        let deep = Stored {
            implied: vec![[b"/d".repeat(2000), b"/e".to_vec()].concat()],
            ..Stored::default()
        };
        let layers = directories::layers(&[&deep], 0);
        assert_eq!(directories_above(&layers), (2..=2002).sum::<usize>());
        // What is above both counts once, and a name that begins with another is another.
        let both = Stored {
            implied: [&b"/a/b"[..], b"/a/bc", b"/a/bc/d"]
                .map(<[u8]>::to_vec)
                .into(),
            ..Stored::default()
        };
        let layers = directories::layers(&[&both], 0);
        assert_eq!(directories_above(&layers), 2 + 3 + 3 + 4);
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
