// SPDX-License-Identifier: Apache-2.0

//! Puts entries into the tree of a layer.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;

use crate::erofs::{self, Attributes, Content, ContentWriter, Device, Kind, NodeId, ROOT, Tree};
use crate::layer::attributes::{fitting, sorted};
use crate::layer::memory::{INODE_BYTES, Memory, NAME_BYTES, memory_of, memory_of_all};
use crate::layer::path::{MAX_NAME, MAX_PATH, parts};
use crate::layer::{Error, MAX_NOTES_BYTES, Summary};

/// How many inodes a layer has at most: five times those of a whole distribution with its documentation.
pub const MAX_INODES: usize = 2_000_000;

/// How many parts of paths a layer's entries may lead through, those of links' targets among them, and attributes that are
/// said anew: twelve for each of the most entries, and a few seconds' worth. Without it, long paths through many links would
/// take hours.
const MAX_STEPS: u64 = 50_000_000;

/// How many symbolic links one path leads through at most, as containerd counts them.
const MAX_LINKS: usize = 255;

/// The attribute by which overlayfs hides what lower layers have in a directory.
const OPAQUE: &[u8] = b"trusted.overlay.opaque";

/// The attribute with a program's capabilities.
const CAPABILITY: &[u8] = b"security.capability";

/// How many hard links of a layer may come before their targets. Tools write the target first, so that more than a few
/// are only there to take time.
const MAX_LATE_LINKS: usize = 10_000;

/// A layer that is being put together.
pub struct Layer {
    tree: Tree,
    contents: ContentWriter,
    /// The directories that no entry was for, so far.
    implied: BTreeSet<NodeId>,
    /// How long the paths of directories are, but for the root's.
    lengths: BTreeMap<NodeId, usize>,
    /// What the layer takes away from lower ones: a directory, and a name in it.
    whiteouts: BTreeSet<(NodeId, Box<[u8]>)>,
    opaque: BTreeSet<NodeId>,
    /// Hard links whose targets were not there yet.
    late: Vec<LateLink>,
    /// The files in the place of links to lower layers, and what each links to.
    lower: BTreeMap<NodeId, Vec<u8>>,
    /// How much memory all of it takes.
    memory: Memory,
    /// How many parts of paths there were to walk, and more that takes time.
    steps: Cell<u64>,
    pub(super) entries: usize,
}

/// Directories without an entry, and links to files of lower layers with those files.
type Notes = (Vec<Vec<u8>>, Vec<(Vec<u8>, Vec<u8>)>);

/// A hard link whose target was not there yet.
struct LateLink {
    /// The name in the archive.
    path: Box<[u8]>,
    directory: NodeId,
    name: Box<[u8]>,
    target: Box<[u8]>,
    attributes: Attributes,
}

impl LateLink {
    fn refused(&self, what: String) -> Error {
        Error::Entry {
            path: self.path.escape_ascii().to_string(),
            what,
        }
    }
}

/// A path that is being walked.
struct Way {
    at: NodeId,
    /// The parts that are still to be walked, the next one last.
    rest: Vec<Box<[u8]>>,
    /// How many symbolic links it led through.
    links: usize,
}

impl Way {
    fn new(parts: &[&[u8]]) -> Self {
        Self {
            at: ROOT,
            rest: parts.iter().rev().map(|part| (*part).into()).collect(),
            links: 0,
        }
    }
}

/// Where walking a path stops.
enum Stop {
    /// At its end.
    End,
    /// At a part that is not there.
    Missing(Box<[u8]>),
    /// At a part that is neither directory nor link.
    Other(Box<[u8]>),
}

impl Layer {
    /// An empty layer, whose file system goes into `file`.
    pub fn new(file: File, compress: bool) -> Self {
        Self {
            tree: Tree::default(),
            contents: ContentWriter::new(file, compress),
            implied: BTreeSet::from([ROOT]),
            lengths: BTreeMap::new(),
            whiteouts: BTreeSet::new(),
            opaque: BTreeSet::new(),
            late: Vec::new(),
            lower: BTreeMap::new(),
            memory: Memory::default(),
            steps: Cell::new(0),
            entries: 0,
        }
    }

    /// Where the content of the next file goes.
    pub(super) fn contents(&mut self) -> &mut ContentWriter {
        &mut self.contents
    }

    /// Puts what is no directory and no hard link at a path. What was there before is gone, of whatever kind.
    pub(super) fn put(
        &mut self,
        path: &[u8],
        attributes: Attributes,
        kind: Kind,
    ) -> Result<(), String> {
        let (directory, name) = self.resolve(path)?;
        let attributes = fitting(attributes, &kind)?;
        self.count(memory_of(&kind) + memory_of_all(&attributes.xattrs) + name.len())?;
        let id = self.add(attributes, kind)?;
        self.tree.link(directory, &name, id);
        Ok(())
    }

    /// Leaves nothing at a path.
    pub(super) fn put_nothing(&mut self, path: &[u8]) -> Result<(), String> {
        let (directory, name) = self.resolve(path)?;
        self.tree.unlink(directory, &name);
        Ok(())
    }

    /// Gives the root directory the time of its entry. containerd makes nothing else of that entry, and images of which the
    /// entry has the mode of a temporary directory work there.
    pub(super) fn put_root(&mut self, attributes: &Attributes) {
        self.implied.remove(&ROOT);
        let root = &mut self.tree.get_mut(ROOT).attributes;
        (root.seconds, root.nanoseconds) = (attributes.seconds, attributes.nanoseconds);
    }

    /// Puts a directory at a path. If there is one, it keeps what is in it, and its extended attributes.
    pub(super) fn put_directory(
        &mut self,
        path: &[u8],
        attributes: Attributes,
    ) -> Result<(), String> {
        let (directory, name) = self.resolve(path)?;
        let entries = self.tree.entries(directory);
        let before = entries.and_then(|entries| entries.get(&*name).copied());
        match before.filter(|id| self.tree.entries(*id).is_some()) {
            Some(id) => {
                self.implied.remove(&id);
                self.overwrite(id, attributes)?;
            }
            None => {
                let id = self.add_directory(Attributes::default(), directory, name.len())?;
                self.overwrite(id, attributes)?;
                self.tree.link(directory, &name, id);
            }
        }
        Ok(())
    }

    /// Gives what is at the path `target` another name. What the entry says of it counts, as for containerd, which takes
    /// an entry of a link for one of the file. If nothing is there yet, it may come later, and its own entry counts then.
    pub(super) fn put_link(
        &mut self,
        path: &[u8],
        target: &[u8],
        attributes: Attributes,
    ) -> Result<(), String> {
        // First what has the name goes, as for containerd: if it was the target, the link leads to nothing.
        let (directory, name) = self.resolve(path)?;
        self.count(NAME_BYTES + name.len())?;
        self.tree.unlink(directory, &name);
        match self.link_target(target)? {
            Some(id) => {
                self.overwrite(id, attributes)?;
                self.tree.link(directory, &name, id);
            }
            None if self.late.len() < MAX_LATE_LINKS => {
                self.count(path.len() + target.len() + memory_of_all(&attributes.xattrs))?;
                self.late.push(LateLink {
                    path: path.into(),
                    directory,
                    name,
                    target: target.into(),
                    attributes,
                });
            }
            None => {
                return Err(format!(
                    "one of more than {MAX_LATE_LINKS} hard links to names that the layer doesn't have before them"
                ));
            }
        }
        Ok(())
    }

    /// What a hard link's target is; none if there is nothing.
    fn link_target(&self, target: &[u8]) -> Result<Option<NodeId>, String> {
        let shown = || format!("a hard link to {}", target.escape_ascii());
        let mut names = parts(target).map_err(|what| format!("{}: {what}", shown()))?;
        let Some(name) = names.pop() else {
            return Err(format!("{}, which is a directory", shown()));
        };
        let directory = self
            .find(&names)
            .map_err(|what| format!("{}: {what}", shown()))?;
        let entries = directory.and_then(|directory| self.tree.entries(directory));
        let id = entries.and_then(|entries| entries.get(name).copied());
        match id.filter(|id| self.tree.entries(*id).is_some()) {
            Some(_) => Err(format!("{}, which is a directory", shown())),
            None => Ok(id),
        }
    }

    /// Gives an inode that has attributes those of another entry for it.
    fn overwrite(&mut self, id: NodeId, attributes: Attributes) -> Result<(), String> {
        self.count(memory_of_all(&attributes.xattrs))?;
        let before = self.tree.get(id).attributes.xattrs.len();
        // All of them are sorted again.
        self.step(1 + before + attributes.xattrs.len())?;
        let node = self.tree.get_mut(id);
        let mut xattrs = std::mem::take(&mut node.attributes.xattrs);
        // The kernel takes it away at each change of the owner.
        xattrs.retain(|(name, _)| **name != *CAPABILITY);
        xattrs.extend(attributes.xattrs);
        let attributes = Attributes {
            xattrs: sorted(xattrs),
            ..attributes
        };
        node.attributes = fitting(attributes, &node.kind)?;
        Ok(())
    }

    /// Makes the hard links whose targets came after them. A link to such a link may stand before or after it: going
    /// backwards and then forwards settles chains in either order. More steps would let an archive take any time.
    fn put_late_links(&mut self) -> Result<(), Error> {
        let late = std::mem::take(&mut self.late);
        let mut missing = Vec::new();
        for link in late.into_iter().rev() {
            if !self.put_late_link(&link)? {
                missing.push(link);
            }
        }
        for link in missing.into_iter().rev() {
            if !self.put_late_link(&link)? {
                self.put_lower_link(link)?;
            }
        }
        Ok(())
    }

    /// Leaves an empty file with the attributes of the link's entry where a link to a file of a lower layer is: the mount
    /// puts a copy of that file there, since only then are the lower layers known.
    fn put_lower_link(&mut self, link: LateLink) -> Result<(), Error> {
        let entries = self.tree.entries(link.directory);
        if entries.is_some_and(|entries| entries.contains_key(&link.name)) {
            return Ok(());
        }
        let parts = |path| parts(path).map_err(|what| link.refused(what.to_owned()));
        let names = parts(&link.target)?;
        if names == parts(&link.path)? {
            return Err(link.refused("a hard link to itself".to_owned()));
        }
        let mut target = Vec::new();
        for part in names {
            target.push(b'/');
            target.extend(part);
        }
        let kind = Kind::File(Content::empty());
        let attributes = fitting(link.attributes.clone(), &kind);
        let attributes = attributes.map_err(|what| link.refused(what))?;
        let id = self.add(attributes, kind);
        let id = id.map_err(|what| link.refused(what))?;
        self.tree.link(link.directory, &link.name, id);
        self.lower.insert(id, target);
        Ok(())
    }

    /// Makes one of them; false if its target is missing still.
    fn put_late_link(&mut self, link: &LateLink) -> Result<bool, Error> {
        let found = self
            .link_target(&link.target)
            .map_err(|what| link.refused(what))?;
        let Some(id) = found else { return Ok(false) };
        let entries = self.tree.entries(link.directory);
        // A later entry of the same name has taken its place.
        if !entries.is_some_and(|entries| entries.contains_key(&link.name)) {
            self.tree.link(link.directory, &link.name, id);
        }
        Ok(true)
    }

    /// Takes a name away from the lower layers.
    pub(super) fn put_whiteout(&mut self, directory: &[u8], name: &[u8]) -> Result<(), String> {
        if let Some(directory) = self.directory(directory)? {
            self.bound()?;
            self.count(INODE_BYTES + NAME_BYTES + name.len())?;
            self.whiteouts.insert((directory, name.into()));
        }
        Ok(())
    }

    /// Hides what the lower layers have in a directory.
    pub(super) fn put_opaque(&mut self, directory: &[u8]) -> Result<(), String> {
        if let Some(directory) = self.directory(directory)? {
            self.opaque.insert(directory);
        }
        Ok(())
    }

    /// The directory in which a path's last part is, and that part.
    fn resolve(&mut self, path: &[u8]) -> Result<(NodeId, Box<[u8]>), String> {
        let mut parts = parts(path)?;
        let Some(name) = parts.pop() else {
            return Err("it would be the root directory, which is a directory".to_owned());
        };
        let parent = self.walk(&parts)?;
        Ok((parent, name.into()))
    }

    /// The directory in which something is taken away; none if the layer has a file in its place, so that nothing of lower
    /// layers is seen there anyway. umoci writes such entries where a file replaces a directory.
    fn directory(&mut self, path: &[u8]) -> Result<Option<NodeId>, String> {
        let parts = parts(path)?;
        let mut way = self.way(&parts)?;
        match self.follow(&mut way)? {
            Stop::Other(_) => Ok(None),
            Stop::End | Stop::Missing(_) => self.walk(&parts).map(Some),
        }
    }

    /// The directory at a path, if there is one.
    fn find(&self, parts: &[&[u8]]) -> Result<Option<NodeId>, String> {
        let mut way = self.way(parts)?;
        match self.follow(&mut way)? {
            Stop::End => Ok(Some(way.at)),
            Stop::Missing(_) | Stop::Other(_) => Ok(None),
        }
    }

    /// The directory at a path. What is missing becomes a directory.
    fn walk(&mut self, parts: &[&[u8]]) -> Result<NodeId, String> {
        let mut way = self.way(parts)?;
        loop {
            match self.follow(&mut way)? {
                Stop::End => return Ok(way.at),
                Stop::Other(part) => {
                    let part = part.escape_ascii();
                    return Err(format!("it is below {part}, which is no directory"));
                }
                Stop::Missing(part) => {
                    let attributes = Attributes {
                        mode: 0o755,
                        ..Attributes::default()
                    };
                    let id = self.add_directory(attributes, way.at, part.len())?;
                    self.tree.link(way.at, &part, id);
                    self.implied.insert(id);
                    way.at = id;
                }
            }
        }
    }

    /// A way from the root.
    fn way(&self, parts: &[&[u8]]) -> Result<Way, String> {
        self.step(parts.len())?;
        Ok(Way::new(parts))
    }

    /// Counts what takes time.
    fn step(&self, steps: usize) -> Result<(), String> {
        self.steps.set(self.steps.get() + steps as u64);
        match self.steps.get() <= MAX_STEPS {
            true => Ok(()),
            false => Err(format!(
                "the paths of the layer have more than {MAX_STEPS} parts"
            )),
        }
    }

    /// Goes on along a way, as far as there are directories. Symbolic links of this layer are followed within it.
    fn follow(&self, way: &mut Way) -> Result<Stop, String> {
        while let Some(part) = way.rest.pop() {
            let Kind::Directory { entries, parent } = &self.tree.get(way.at).kind else {
                return Err("it is below something that is no directory".to_owned());
            };
            // Only targets of links have this.
            if *part == *b".." {
                way.at = *parent;
                continue;
            }
            let Some(&next) = entries.get(&part) else {
                return Ok(Stop::Missing(part));
            };
            match &self.tree.get(next).kind {
                Kind::Directory { .. } => way.at = next,
                Kind::Symlink(target) => {
                    way.links += 1;
                    if way.links > MAX_LINKS {
                        return Err(format!("it leads through more than {MAX_LINKS} links"));
                    }
                    if target.starts_with(b"/") {
                        way.at = ROOT;
                    }
                    // Before they are copied: a walk that ends early would not come to them.
                    self.step(target.split(|byte| *byte == b'/').count())?;
                    let names = target.rsplit(|byte| *byte == b'/');
                    let names = names.filter(|name| !matches!(*name, b"" | b"."));
                    for name in names {
                        if name.len() > MAX_NAME {
                            let text = "it leads through a link with a part over 255 bytes";
                            return Err(text.to_owned());
                        }
                        way.rest.push(name.into());
                    }
                }
                _ => return Ok(Stop::Other(part)),
            }
        }
        Ok(Stop::End)
    }

    fn add(&mut self, attributes: Attributes, kind: Kind) -> Result<NodeId, String> {
        self.bound()?;
        self.tree.add(attributes, kind).ok_or_else(too_many)
    }

    /// Adds a directory whose name has so many bytes. Links can lead to paths that are longer than any name in the archive.
    fn add_directory(
        &mut self,
        attributes: Attributes,
        parent: NodeId,
        name: usize,
    ) -> Result<NodeId, String> {
        self.bound()?;
        self.count(INODE_BYTES + NAME_BYTES + name)?;
        let length = self.lengths.get(&parent).copied().unwrap_or_default() + 1 + name;
        if length >= MAX_PATH {
            return Err("links make its path longer than 4095 bytes".to_owned());
        }
        let id = self.tree.add_directory(attributes, parent);
        let id = id.ok_or_else(too_many)?;
        self.lengths.insert(id, length);
        Ok(id)
    }

    /// Counts the memory that something takes.
    fn count(&mut self, bytes: usize) -> Result<(), String> {
        self.memory.take(bytes)
    }

    fn bound(&self) -> Result<(), String> {
        // A whiteout becomes an inode in the end.
        match self.tree.len() + self.whiteouts.len() < MAX_INODES {
            true => Ok(()),
            false => Err(too_many()),
        }
    }

    /// The directories without an entry, sorted, and the links to files of lower layers, in the order of their entries: absolute
    /// paths.
    fn notes(&self) -> Result<Notes, Error> {
        let (mut implied, mut links) = (Vec::new(), Vec::new());
        let mut bytes = 0;
        let mut count = |more: usize| {
            bytes += more;
            match bytes <= MAX_NOTES_BYTES {
                true => Ok(()),
                false => Err(Error::Limit {
                    what: "bytes of paths of directories without an entry, and of links to files of lower layers",
                    most: MAX_NOTES_BYTES,
                }),
            }
        };
        self.tree
            .visit_directories(|directory, path| -> Result<(), Error> {
                if self.implied.contains(&directory) {
                    count(path.len() + 1)?;
                    implied.push(path.to_vec());
                }
                if self.lower.is_empty() {
                    return Ok(());
                }
                for (name, id) in self.tree.entries(directory).into_iter().flatten() {
                    if let Some(target) = self.lower.get(id) {
                        let path = path.strip_suffix(b"/").unwrap_or(path);
                        count(path.len() + name.len() + target.len() + 4)?;
                        let path = [path, b"/", name].concat();
                        links.push((*id, path, target.clone()));
                    }
                }
                Ok(())
            })?;
        implied.sort();
        links.sort();
        let links = links.into_iter();
        Ok((
            implied,
            links.map(|(_, path, target)| (path, target)).collect(),
        ))
    }

    /// Writes the file system.
    pub(super) fn finish(mut self, uuid: [u8; 16]) -> Result<Summary, Error> {
        self.put_late_links()?;
        for (directory, name) in std::mem::take(&mut self.whiteouts) {
            let entries = self.tree.entries(directory);
            match entries.and_then(|entries| entries.get(&name).copied()) {
                // What this layer has replaces what lower layers have; a directory would be merged with theirs.
                Some(id) if self.tree.entries(id).is_some() => {
                    self.opaque.insert(id);
                }
                Some(_) => {}
                None => {
                    let kind = Kind::CharacterDevice(Device::default());
                    if let Some(id) = self.tree.add(Attributes::default(), kind) {
                        self.tree.link(directory, &name, id);
                    }
                }
            }
        }
        for id in &self.opaque {
            let xattrs = &mut self.tree.get_mut(*id).attributes.xattrs;
            xattrs.push((OPAQUE.into(), b"y"[..].into()));
            xattrs.sort();
        }
        let (implied, links) = self.notes()?;
        let hides_all = self.opaque.contains(&ROOT);
        let bytes = erofs::finish(&self.tree, self.contents, uuid)?;
        Ok(Summary {
            bytes,
            entries: self.entries,
            implied,
            links,
            hides_all,
        })
    }
}

fn too_many() -> String {
    format!("the layer has more than {MAX_INODES} inodes")
}
