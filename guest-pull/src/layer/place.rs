// SPDX-License-Identifier: Apache-2.0

//! Puts entries into the tree of a layer.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;

use crate::erofs::{self, Attributes, ContentWriter, Device, Kind, NodeId, ROOT, Tree, Xattr};
use crate::layer::path::{MAX_NAME, MAX_PATH, parts};
use crate::layer::{Error, Summary};

/// How many inodes a layer has at most: five times those of a whole distribution with its documentation.
pub const MAX_INODES: usize = 2_000_000;

/// How many symbolic links one path leads through at most, as containerd counts them.
const MAX_LINKS: usize = 255;

/// The attribute by which overlayfs hides what lower layers have in a directory.
const OPAQUE: &[u8] = b"trusted.overlay.opaque";

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
    pub(super) entries: usize,
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
        let id = self.add(attributes, kind)?;
        self.tree.link(directory, &name, id);
        Ok(())
    }

    /// Puts a directory at a path. If there is one, it keeps what is in it, and gets these attributes.
    pub(super) fn put_directory(
        &mut self,
        path: &[u8],
        attributes: Attributes,
    ) -> Result<(), String> {
        if parts(path)?.is_empty() {
            self.implied.remove(&ROOT);
            self.tree.get_mut(ROOT).attributes = attributes;
            return Ok(());
        }
        let (directory, name) = self.resolve(path)?;
        let entries = self.tree.entries(directory);
        let before = entries.and_then(|entries| entries.get(&*name).copied());
        match before.filter(|id| self.tree.entries(*id).is_some()) {
            Some(id) => {
                self.implied.remove(&id);
                self.tree.get_mut(id).attributes = attributes;
            }
            None => {
                let id = self.add_directory(attributes, directory, name.len())?;
                self.tree.link(directory, &name, id);
            }
        }
        Ok(())
    }

    /// Gives what is at the path `target` another name, and the attributes of that name's entry, as containerd does. It
    /// keeps extended attributes that this entry doesn't have.
    pub(super) fn put_link(
        &mut self,
        path: &[u8],
        target: &[u8],
        attributes: Attributes,
    ) -> Result<(), String> {
        let shown = target.escape_ascii().to_string();
        let (directory, name) = self
            .resolve(target)
            .map_err(|what| format!("a hard link to {shown}: {what}"))?;
        let entries = self.tree.entries(directory);
        let id = entries.and_then(|entries| entries.get(&*name).copied());
        let Some(id) = id else {
            return Err(format!(
                "a hard link to {shown}, which the layer doesn't have before it"
            ));
        };
        if self.tree.entries(id).is_some() {
            return Err(format!("a hard link to {shown}, which is a directory"));
        }
        let node = self.tree.get_mut(id);
        let mode = match node.kind {
            // Linux knows no other mode of a link.
            Kind::Symlink(_) => node.attributes.mode,
            _ => attributes.mode,
        };
        let mut xattrs = attributes.xattrs;
        for before in std::mem::take(&mut node.attributes.xattrs) {
            // The kernel takes capabilities away when containerd sets the owner again.
            let is_lost = *before.0 == *b"security.capability";
            if !is_lost && xattrs.iter().all(|(name, _)| *name != before.0) {
                xattrs.push(before);
            }
        }
        node.attributes = Attributes {
            mode,
            xattrs: sorted(xattrs),
            ..attributes
        };
        let (directory, name) = self.resolve(path)?;
        self.tree.link(directory, &name, id);
        Ok(())
    }

    /// Takes a name away from the lower layers.
    pub(super) fn put_whiteout(&mut self, directory: &[u8], name: &[u8]) -> Result<(), String> {
        if self.is_below_file(directory)? {
            return Ok(());
        }
        let directory = self.directory(directory)?;
        self.bound()?;
        self.whiteouts.insert((directory, name.into()));
        Ok(())
    }

    /// Hides what the lower layers have in a directory.
    pub(super) fn put_opaque(&mut self, directory: &[u8]) -> Result<(), String> {
        if self.is_below_file(directory)? {
            return Ok(());
        }
        let directory = self.directory(directory)?;
        self.opaque.insert(directory);
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

    fn directory(&mut self, path: &[u8]) -> Result<NodeId, String> {
        let parts = parts(path)?;
        self.walk(&parts)
    }

    /// Whether a path leads below a file of this layer: where a file replaces a directory, umoci also takes away what was in
    /// that. The file stays.
    fn is_below_file(&self, path: &[u8]) -> Result<bool, String> {
        let mut at = ROOT;
        for part in parts(path)? {
            let entries = self.tree.entries(at);
            let Some(next) = entries.and_then(|entries| entries.get(part)) else {
                return Ok(false);
            };
            match self.tree.get(*next).kind {
                Kind::Directory { .. } => at = *next,
                Kind::Symlink(_) => return Ok(false),
                _ => return Ok(true),
            }
        }
        Ok(false)
    }

    /// The directory at a path. Symbolic links of this layer are followed within it; what is missing, and what is neither
    /// directory nor link, becomes a directory.
    fn walk(&mut self, parts: &[&[u8]]) -> Result<NodeId, String> {
        let mut links = 0;
        let mut at = ROOT;
        // The parts that are still to be walked, the next one last.
        let mut rest: Vec<Box<[u8]>> = parts.iter().rev().map(|part| (*part).into()).collect();
        while let Some(part) = rest.pop() {
            let Kind::Directory { entries, parent } = &self.tree.get(at).kind else {
                return Err("it is below something that is no directory".to_owned());
            };
            // Only targets of links have this.
            if *part == *b".." {
                at = *parent;
                continue;
            }
            let next = entries.get(&part).copied();
            let kind = next.map(|next| &self.tree.get(next).kind);
            at = match (next, kind) {
                (Some(next), Some(Kind::Directory { .. })) => next,
                (Some(_), Some(Kind::Symlink(target))) => {
                    links += 1;
                    if links > MAX_LINKS {
                        return Err(format!("it leads through more than {MAX_LINKS} links"));
                    }
                    let from = if target.starts_with(b"/") { ROOT } else { at };
                    let names = target.rsplit(|byte| *byte == b'/');
                    let names = names.filter(|name| !matches!(*name, b"" | b"."));
                    for name in names {
                        if name.len() > MAX_NAME {
                            return Err(
                                "it leads through a link with a part over 255 bytes".to_owned()
                            );
                        }
                        rest.push(name.into());
                    }
                    from
                }
                _ => {
                    let attributes = Attributes {
                        mode: 0o755,
                        ..Attributes::default()
                    };
                    let id = self.add_directory(attributes, at, part.len())?;
                    self.tree.link(at, &part, id);
                    self.implied.insert(id);
                    id
                }
            };
        }
        Ok(at)
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
        let length = self.lengths.get(&parent).copied().unwrap_or_default() + 1 + name;
        if length >= MAX_PATH {
            return Err("links make its path longer than 4095 bytes".to_owned());
        }
        let id = self.tree.add_directory(attributes, parent);
        let id = id.ok_or_else(too_many)?;
        self.lengths.insert(id, length);
        Ok(id)
    }

    fn bound(&self) -> Result<(), String> {
        // A whiteout becomes an inode in the end.
        match self.tree.len() + self.whiteouts.len() < MAX_INODES {
            true => Ok(()),
            false => Err(too_many()),
        }
    }

    /// Writes the file system.
    pub(super) fn finish(mut self, uuid: [u8; 16]) -> Result<Summary, Error> {
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
        let mut implied = Vec::new();
        if !self.implied.is_empty() {
            let directories = self.tree.directories().into_iter();
            let these = directories.filter(|(id, _)| self.implied.contains(id));
            implied.extend(these.map(|(_, path)| path));
        }
        let hides_all = self.opaque.contains(&ROOT);
        let bytes = erofs::finish(&self.tree, self.contents, uuid)?;
        Ok(Summary {
            bytes,
            entries: self.entries,
            implied,
            hides_all,
        })
    }
}

fn too_many() -> String {
    format!("the layer has more than {MAX_INODES} inodes")
}

/// The attributes of an archive's entry that a layer keeps: overlayfs' own would be obeyed, and SELinux labels are those of
/// the machine that made the image. containerd drops the same.
pub(crate) fn is_kept(name: &[u8]) -> bool {
    !name.starts_with(b"trusted.overlay.") && name != b"security.selinux"
}

/// Sorts attributes, and of those that come twice keeps the last.
pub(super) fn sorted(mut xattrs: Vec<Xattr>) -> Vec<Xattr> {
    xattrs.reverse();
    xattrs.sort_by(|a, b| a.0.cmp(&b.0));
    xattrs.dedup_by(|later, earlier| later.0 == earlier.0);
    xattrs
}
