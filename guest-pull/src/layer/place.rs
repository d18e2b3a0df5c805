// SPDX-License-Identifier: Apache-2.0

//! Puts entries into the tree of a layer.

use std::collections::BTreeMap;
use std::fs::File;

use crate::erofs::{
    self, Attributes, Blob, Content, ContentWriter, Device, Kind, NodeId, ROOT, Tree,
};
use crate::layer::attributes::{fitting, sorted};
use crate::layer::late::{Kept, LateLink};
use crate::layer::path::{MAX_PATH, parts, shown};
use crate::layer::way::{Stop, Way};
use crate::layer::{Error, Fault, MAX_NOTES, MAX_NOTES_BYTES, Summary};

/// How many inodes a layer has at most: five times those of a whole distribution with its documentation.
pub const MAX_INODES: usize = 2_000_000;

/// How many parts of paths a layer's entries may lead through, those of links' targets among them, and attributes that are
/// said anew: ten for each of the most inodes. Each is a look-up in pages, so that all of them take up to a minute of the
/// processor's time. Without it, long paths through many links would take hours.
const MAX_STEPS: u64 = 20_000_000;

/// The attribute by which overlayfs hides what lower layers have in a directory.
const OPAQUE: &[u8] = b"trusted.overlay.opaque";

/// The attribute with a program's capabilities.
const CAPABILITY: &[u8] = b"security.capability";

/// How many hard links of a layer may come before their targets. Tools write the target first, so that more than a few
/// are only there to take time.
const MAX_LATE_LINKS: usize = 10_000;

/// The marks of a node: a directory that no entry was for, so far; one that hides what lower layers have in it.
const IMPLIED: u8 = 1;
const HIDES: u8 = 2;

/// A layer that is being put together.
pub struct Layer {
    tree: Tree,
    contents: ContentWriter,
    /// How many names the layer takes away from lower ones, which the tree has noted.
    whiteouts: usize,
    /// Hard links whose targets were not there yet.
    late: Vec<Kept>,
    /// The files in the place of links to lower layers, and what each links to.
    lower: BTreeMap<NodeId, Blob>,
    /// How many parts of paths there were to walk, and more that takes time.
    steps: u64,
    pub(super) entries: usize,
}

/// Directories without an entry, and links to files of lower layers with those files.
type Notes = (Vec<Vec<u8>>, Vec<(Vec<u8>, Vec<u8>)>);

impl Layer {
    /// An empty layer, whose file system goes into `file`, and what is known of it until it is finished, into `scratch`.
    pub fn new(file: File, scratch: File, compress: bool) -> Result<Self, Error> {
        let mut tree = Tree::new(scratch)?;
        tree.update(ROOT, |root| root.marks = IMPLIED)?;
        Ok(Self {
            tree,
            contents: ContentWriter::new(file, compress),
            whiteouts: 0,
            late: Vec::new(),
            lower: BTreeMap::new(),
            steps: 0,
            entries: 0,
        })
    }

    /// Where the content of the next file goes, and what must be given along.
    pub(super) fn contents(&mut self) -> (&mut ContentWriter, &mut Tree) {
        (&mut self.contents, &mut self.tree)
    }

    /// Keeps the target of a symbolic link.
    pub(super) fn keep(&mut self, target: &[u8]) -> Result<Blob, Fault> {
        Ok(self.tree.keep(target)?)
    }

    /// Puts what is no directory and no hard link at a path. What was there before is gone, of whatever kind.
    pub(super) fn put(
        &mut self,
        path: &[u8],
        attributes: Attributes,
        kind: Kind,
    ) -> Result<(), Fault> {
        let (directory, name) = self.resolve(path)?;
        let attributes = fitting(attributes, &kind)?;
        let id = self.add(&attributes, kind)?;
        Ok(self.tree.link(directory, &name, id)?)
    }

    /// Leaves nothing at a path.
    pub(super) fn put_nothing(&mut self, path: &[u8]) -> Result<(), Fault> {
        let (directory, name) = self.resolve(path)?;
        Ok(self.tree.unlink(directory, &name)?)
    }

    /// Gives the root directory the time of its entry. containerd makes nothing else of that entry, and images of which the
    /// entry has the mode of a temporary directory work there.
    pub(super) fn put_root(&mut self, attributes: &Attributes) -> Result<(), Fault> {
        Ok(self.tree.update(ROOT, |root| {
            root.marks &= !IMPLIED;
            (root.seconds, root.nanoseconds) = (attributes.seconds, attributes.nanoseconds);
        })?)
    }

    /// Puts a directory at a path. If there is one, it keeps what is in it, and its extended attributes.
    pub(super) fn put_directory(
        &mut self,
        path: &[u8],
        attributes: Attributes,
    ) -> Result<(), Fault> {
        let (directory, name) = self.resolve(path)?;
        match self.tree.find(directory, &name)? {
            Some(id) if self.is_directory(id)? => {
                self.tree.update(id, |node| node.marks &= !IMPLIED)?;
                self.overwrite(id, attributes)?;
            }
            _ => {
                let id = self.add_directory(&Attributes::default(), directory, name.len())?;
                self.overwrite(id, attributes)?;
                self.tree.link(directory, &name, id)?;
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
    ) -> Result<(), Fault> {
        // First what has the name goes, as for containerd: if it was the target, the link leads to nothing.
        let (directory, name) = self.resolve(path)?;
        self.tree.unlink(directory, &name)?;
        match self.link_target(target)? {
            Some(id) => {
                self.overwrite(id, attributes)?;
                self.tree.link(directory, &name, id)?;
            }
            None if self.late.len() < MAX_LATE_LINKS => {
                let link = LateLink {
                    path: path.into(),
                    directory,
                    name,
                    target: target.into(),
                    attributes,
                };
                self.late.push(link.keep(&mut self.tree)?);
            }
            None => {
                return Err(Fault::from(format!(
                    "one of more than {MAX_LATE_LINKS} hard links to names that the layer doesn't have before them"
                )));
            }
        }
        Ok(())
    }

    /// What a hard link's target is; none if there is nothing.
    fn link_target(&mut self, target: &[u8]) -> Result<Option<NodeId>, Fault> {
        let of = |what: &str| format!("a hard link to {}{what}", shown(target));
        let names = parts(target).map_err(|what| of(&format!(": {what}")))?;
        let Some((name, above)) = names.split_last() else {
            return Err(of(", which is a directory").into());
        };
        let directory = self.find(above).map_err(|fault| match fault {
            Fault::Entry(what) => of(&format!(": {what}")).into(),
            other => other,
        })?;
        let Some(directory) = directory else {
            return Ok(None);
        };
        match self.tree.find(directory, name)? {
            Some(id) if self.is_directory(id)? => Err(of(", which is a directory").into()),
            found => Ok(found),
        }
    }

    fn is_directory(&mut self, id: NodeId) -> Result<bool, Fault> {
        Ok(self.tree.get(id)?.is_directory())
    }

    /// Gives an inode that has attributes those of another entry for it.
    fn overwrite(&mut self, id: NodeId, attributes: Attributes) -> Result<(), Fault> {
        let node = self.tree.get(id)?;
        let mut xattrs = self.tree.xattrs(&node)?;
        // All of them are sorted again.
        self.step(1 + xattrs.len() + attributes.xattrs.len())?;
        // The kernel takes it away at each change of the owner.
        xattrs.retain(|(name, _)| **name != *CAPABILITY);
        xattrs.extend(attributes.xattrs);
        let attributes = Attributes {
            xattrs: sorted(xattrs),
            ..attributes
        };
        let attributes = fitting(attributes, &node.kind)?;
        Ok(self.tree.set_attributes(id, &attributes)?)
    }

    /// Makes the hard links whose targets came after them. A link to such a link may stand before or after it: going
    /// backwards and then forwards settles chains in either order. More steps would let an archive take any time.
    fn put_late_links(&mut self) -> Result<(), Error> {
        let late = std::mem::take(&mut self.late);
        let mut missing = Vec::new();
        for kept in late.into_iter().rev() {
            let link = LateLink::of(kept, &mut self.tree)?;
            if !self.put_late_link(&link)? {
                missing.push(kept);
            }
        }
        for kept in missing.into_iter().rev() {
            let link = LateLink::of(kept, &mut self.tree)?;
            if !self.put_late_link(&link)? {
                self.put_lower_link(link)?;
            }
        }
        Ok(())
    }

    /// Leaves an empty file with the attributes of the link's entry where a link to a file of a lower layer is: the mount
    /// puts a copy of that file there, since only then are the lower layers known.
    fn put_lower_link(&mut self, link: LateLink) -> Result<(), Error> {
        if self.tree.find(link.directory, &link.name)?.is_some() {
            return Ok(());
        }
        let parts = |path| parts(path).map_err(|what| link.refused(what));
        let names = parts(&link.target)?;
        if names == parts(&link.path)? {
            return Err(link.refused("a hard link to itself"));
        }
        let mut target = Vec::new();
        for part in names {
            target.push(b'/');
            target.extend(part);
        }
        let target = self.tree.keep(&target)?;
        let kind = Kind::File(Content::empty());
        let attributes = fitting(link.attributes.clone(), &kind);
        let attributes = attributes.map_err(|what| link.refused(what))?;
        let id = self.add(&attributes, kind);
        let id = id.map_err(|fault| link.failed(fault))?;
        self.tree.link(link.directory, &link.name, id)?;
        self.lower.insert(id, target);
        Ok(())
    }

    /// Makes one of them; false if its target is missing still.
    fn put_late_link(&mut self, link: &LateLink) -> Result<bool, Error> {
        // A later entry has taken the place of the directory that it was in, and the link is gone with it.
        if self.tree.is_gone(link.directory)? {
            return Ok(true);
        }
        let found = self
            .link_target(&link.target)
            .map_err(|fault| link.failed(fault))?;
        let Some(id) = found else { return Ok(false) };
        // A later entry of the same name has taken its place.
        if self.tree.find(link.directory, &link.name)?.is_none() {
            self.tree.link(link.directory, &link.name, id)?;
        }
        Ok(true)
    }

    /// Takes a name away from the lower layers.
    pub(super) fn put_whiteout(&mut self, directory: &[u8], name: &[u8]) -> Result<(), Fault> {
        if let Some(directory) = self.directory(directory)? {
            self.bound()?;
            self.whiteouts += usize::from(self.tree.note(directory, name)?);
        }
        Ok(())
    }

    /// Hides what the lower layers have in a directory.
    pub(super) fn put_opaque(&mut self, directory: &[u8]) -> Result<(), Fault> {
        if let Some(directory) = self.directory(directory)? {
            self.tree.update(directory, |node| node.marks |= HIDES)?;
        }
        Ok(())
    }

    /// The directory in which a path's last part is, and that part.
    fn resolve(&mut self, path: &[u8]) -> Result<(NodeId, Vec<u8>), Fault> {
        let parts = parts(path)?;
        let Some((name, above)) = parts.split_last() else {
            return Err(Fault::from(
                "it would be the root directory, which is a directory",
            ));
        };
        let parent = self.walk(above)?;
        Ok((parent, name.to_vec()))
    }

    /// The directory in which something is taken away; none if the layer has a file in its place, so that nothing of lower
    /// layers is seen there anyway. umoci writes such entries where a file replaces a directory.
    fn directory(&mut self, path: &[u8]) -> Result<Option<NodeId>, Fault> {
        let parts = parts(path)?;
        let mut way = self.way(&parts)?;
        match self.follow(&mut way)? {
            Stop::Other(_) => Ok(None),
            Stop::End | Stop::Missing(_) => self.walk(&parts).map(Some),
        }
    }

    /// The directory at a path, if there is one.
    fn find(&mut self, parts: &[&[u8]]) -> Result<Option<NodeId>, Fault> {
        let mut way = self.way(parts)?;
        match self.follow(&mut way)? {
            Stop::End => Ok(Some(way.at())),
            Stop::Missing(_) | Stop::Other(_) => Ok(None),
        }
    }

    /// The directory at a path. What is missing becomes a directory.
    fn walk(&mut self, parts: &[&[u8]]) -> Result<NodeId, Fault> {
        let mut way = self.way(parts)?;
        loop {
            match self.follow(&mut way)? {
                Stop::End => return Ok(way.at()),
                Stop::Other(part) => {
                    let part = part.escape_ascii();
                    return Err(format!("it is below {part}, which is no directory").into());
                }
                Stop::Missing(part) => {
                    let attributes = Attributes {
                        mode: 0o755,
                        ..Attributes::default()
                    };
                    let id = self.add_directory(&attributes, way.at(), part.len())?;
                    self.tree.link(way.at(), &part, id)?;
                    self.tree.update(id, |node| node.marks |= IMPLIED)?;
                    way.enter(id);
                }
            }
        }
    }

    /// A way from the root.
    fn way(&mut self, parts: &[&[u8]]) -> Result<Way, Fault> {
        self.step(parts.len())?;
        Ok(Way::new(parts))
    }

    /// Goes on along a way, as far as there are directories.
    fn follow(&mut self, way: &mut Way) -> Result<Stop, Fault> {
        let mut steps = 0;
        let left = MAX_STEPS.saturating_sub(self.steps);
        let stop = way.follow(&mut self.tree, |more| {
            steps += more as u64;
            match steps <= left {
                true => Ok(()),
                false => Err(too_far()),
            }
        });
        self.steps += steps;
        stop
    }

    /// Counts what takes time.
    fn step(&mut self, steps: usize) -> Result<(), Fault> {
        self.steps += steps as u64;
        match self.steps <= MAX_STEPS {
            true => Ok(()),
            false => Err(too_far()),
        }
    }

    fn add(&mut self, attributes: &Attributes, kind: Kind) -> Result<NodeId, Fault> {
        self.bound()?;
        Ok(self.tree.add(attributes, kind)?)
    }

    /// Adds a directory whose name has so many bytes. Links can lead to paths that are longer than any name in the archive.
    fn add_directory(
        &mut self,
        attributes: &Attributes,
        parent: NodeId,
        name: usize,
    ) -> Result<NodeId, Fault> {
        self.bound()?;
        let above = match self.tree.get(parent)?.kind {
            Kind::Directory(directory) => directory.path as usize,
            _ => 0,
        };
        if above + 1 + name >= MAX_PATH {
            return Err(Fault::from("links make its path longer than 4095 bytes"));
        }
        Ok(self.tree.add_directory(attributes, parent)?)
    }

    fn bound(&self) -> Result<(), Fault> {
        // A whiteout becomes an inode in the end.
        match self.tree.len() + self.whiteouts < MAX_INODES {
            true => Ok(()),
            false => Err(format!("the layer has more than {MAX_INODES} inodes").into()),
        }
    }

    /// The directories without an entry, sorted, and the links to files of lower layers, in the order of their entries: absolute
    /// paths. This is known after the file system was written.
    fn notes(&mut self) -> Result<Notes, Error> {
        let (mut implied, mut links) = (Vec::new(), Vec::new());
        let mut bounds = Bounds::default();
        for id in self.tree.ids() {
            let node = self.tree.get(id)?;
            if !node.is_written() || !node.is_directory() {
                continue;
            }
            if node.marks & IMPLIED != 0 {
                let path = self.tree.path(id)?;
                bounds.count(path.len() + 1)?;
                implied.push(path);
            }
            if self.lower.is_empty() {
                continue;
            }
            let mut entries = self.tree.entries(id);
            while let Some((name, child)) = entries.next(&mut self.tree)? {
                if let Some(target) = self.lower.get(&child) {
                    let target = self.tree.bytes(*target)?;
                    let path = self.tree.path(id)?;
                    let path = path.strip_suffix(b"/").unwrap_or(&path);
                    bounds.count(path.len() + name.len() + target.len() + 4)?;
                    links.push((child, [path, b"/", &name].concat(), target));
                }
            }
        }
        implied.sort();
        links.sort();
        let links = links.into_iter();
        Ok((
            implied,
            links.map(|(_, path, target)| (path, target)).collect(),
        ))
    }

    /// Makes a device 0/0 of each name that the layer takes away from lower ones.
    fn put_whiteouts(&mut self) -> Result<(), Error> {
        let mut noted = self.tree.noted();
        while let Some((directory, name)) = noted.next(&mut self.tree)? {
            if self.tree.is_gone(directory)? {
                continue;
            }
            match self.tree.find(directory, &name)? {
                // What this layer has replaces what lower layers have; a directory would be merged with theirs.
                Some(id) => self.tree.update(id, |node| {
                    if node.is_directory() {
                        node.marks |= HIDES;
                    }
                })?,
                None => {
                    let kind = Kind::CharacterDevice(Device::default());
                    let id = self.tree.add(&Attributes::default(), kind)?;
                    self.tree.link(directory, &name, id)?;
                }
            }
        }
        Ok(())
    }

    /// Says of each directory that hides what lower layers have, that it does.
    fn hide(&mut self) -> Result<(), Error> {
        for id in self.tree.ids() {
            let node = self.tree.get(id)?;
            if node.marks & HIDES != 0 {
                let mut xattrs = self.tree.xattrs(&node)?;
                xattrs.push((OPAQUE.into(), b"y"[..].into()));
                xattrs.sort();
                if let Err(error) = erofs::check(&node.kind, &xattrs) {
                    return Err(Error::Entry {
                        path: shown(&self.tree.path(id)?),
                        what: error.to_string(),
                    });
                }
                self.tree.set_xattrs(id, &xattrs)?;
            }
        }
        Ok(())
    }

    /// Writes the file system.
    pub(super) fn finish(mut self, uuid: [u8; 16]) -> Result<Summary, Error> {
        self.put_late_links()?;
        self.put_whiteouts()?;
        self.hide()?;
        let hides_all = self.tree.get(ROOT)?.marks & HIDES != 0;
        let bytes = erofs::finish(&mut self.tree, &mut self.contents, uuid)?;
        let (implied, links) = self.notes()?;
        Ok(Summary {
            bytes,
            entries: self.entries,
            implied,
            links,
            hides_all,
        })
    }
}

/// What the notes about a layer take so far.
#[derive(Default)]
struct Bounds {
    count: usize,
    bytes: usize,
}

impl Bounds {
    fn count(&mut self, bytes: usize) -> Result<(), Error> {
        self.count += 1;
        self.bytes += bytes;
        if self.count > MAX_NOTES {
            return Err(Error::Limit {
                what: "directories without an entry, and links to files of lower layers; build the layer with entries for its directories",
                most: MAX_NOTES,
            });
        }
        match self.bytes <= MAX_NOTES_BYTES {
            true => Ok(()),
            false => Err(Error::Limit {
                what: "bytes of paths of directories without an entry, and of links to files of lower layers; build the layer with entries for its directories",
                most: MAX_NOTES_BYTES,
            }),
        }
    }
}

fn too_far() -> Fault {
    format!("the paths of the layer have more than {MAX_STEPS} parts").into()
}
