// SPDX-License-Identifier: Apache-2.0

//! The inodes of a file system, and the names that lead to them.

use std::fs::File;

use crate::erofs::Error;
use crate::erofs::names::{Cursor, Names};
use crate::erofs::node::{Attributes, Directory, Kind, Node, NodeId, Nodes, ROOT};
use crate::erofs::scratch::{Blob, Heap, Scratch};
use crate::erofs::xattr::{self, Xattr};

/// How many directories are above one at most: each takes two bytes of a path.
const MAX_DEPTH: usize = 2048;

/// The inodes of a file system, in a scratch file.
#[derive(Debug)]
pub struct Tree {
    scratch: Scratch,
    nodes: Nodes,
    names: Names,
    /// Names in directories that mean something to whoever makes the tree.
    noted: Names,
    heap: Heap,
}

impl Tree {
    /// An empty root directory that everybody may enter and root may write. What memory should not hold goes to `scratch`,
    /// an empty file that can be read and written.
    ///
    /// # Errors
    ///
    /// If the scratch file can't be read or written.
    pub fn new(scratch: File) -> Result<Self, Error> {
        let mut tree = Self {
            scratch: Scratch::new(scratch),
            nodes: Nodes::default(),
            names: Names::default(),
            noted: Names::default(),
            heap: Heap::default(),
        };
        let attributes = Attributes {
            mode: 0o755,
            ..Attributes::default()
        };
        tree.add_directory(&attributes, ROOT)?;
        Ok(tree)
    }

    /// The node.
    ///
    /// # Errors
    ///
    /// If the scratch file can't be read or written, as for all that follows.
    pub fn get(&mut self, id: NodeId) -> Result<Node, Error> {
        self.nodes.get(&mut self.scratch, id)
    }

    /// Changes the node.
    ///
    /// # Errors
    ///
    /// If the scratch file can't be read or written.
    pub fn update(&mut self, id: NodeId, change: impl FnOnce(&mut Node)) -> Result<(), Error> {
        let mut node = self.get(id)?;
        change(&mut node);
        self.nodes.set(&mut self.scratch, id, &node)
    }

    /// Keeps bytes.
    ///
    /// # Errors
    ///
    /// If there are too many, or the scratch file can't be read or written.
    pub fn keep(&mut self, bytes: &[u8]) -> Result<Blob, Error> {
        self.heap.add(&mut self.scratch, bytes)
    }

    /// Forgets the bytes that were kept from there on.
    pub(super) fn forget(&mut self, at: u32) {
        self.heap.truncate(at);
    }

    /// Bytes that were kept.
    ///
    /// # Errors
    ///
    /// If the scratch file can't be read or written.
    pub fn bytes(&mut self, blob: Blob) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        self.put_bytes(blob, &mut bytes)?;
        Ok(bytes)
    }

    /// Puts bytes that were kept after those in `to`.
    pub(super) fn put_bytes(&mut self, blob: Blob, to: &mut Vec<u8>) -> Result<(), Error> {
        self.heap.read(&mut self.scratch, blob, to)
    }

    /// The extended attributes of a node.
    ///
    /// # Errors
    ///
    /// If the scratch file can't be read or written.
    pub fn xattrs(&mut self, node: &Node) -> Result<Vec<Xattr>, Error> {
        Ok(xattr::unpack(&self.bytes(node.xattrs)?))
    }

    /// Gives a node extended attributes.
    ///
    /// # Errors
    ///
    /// If the scratch file can't be read or written.
    pub fn set_xattrs(&mut self, id: NodeId, xattrs: &[Xattr]) -> Result<(), Error> {
        let xattrs = self.keep(&xattr::pack(xattrs))?;
        self.update(id, |node| node.xattrs = xattrs)
    }

    /// Gives a node attributes.
    ///
    /// # Errors
    ///
    /// If the scratch file can't be read or written.
    pub fn set_attributes(&mut self, id: NodeId, attributes: &Attributes) -> Result<(), Error> {
        self.update(id, |node| {
            node.mode = attributes.mode;
            (node.uid, node.gid) = (attributes.uid, attributes.gid);
            (node.seconds, node.nanoseconds) = (attributes.seconds, attributes.nanoseconds);
        })?;
        self.set_xattrs(id, &attributes.xattrs)
    }

    /// Adds a node that no name leads to yet.
    ///
    /// # Errors
    ///
    /// If there are too many, or the scratch file can't be read or written.
    pub fn add(&mut self, attributes: &Attributes, kind: Kind) -> Result<NodeId, Error> {
        let node = Node {
            mode: attributes.mode,
            uid: attributes.uid,
            gid: attributes.gid,
            seconds: attributes.seconds,
            nanoseconds: attributes.nanoseconds,
            xattrs: self.keep(&xattr::pack(&attributes.xattrs))?,
            kind,
            links: 0,
            marks: 0,
            next: None,
            slot: 0,
        };
        self.nodes.add(&mut self.scratch, &node)
    }

    /// Adds a directory below `parent` that no name leads to yet.
    ///
    /// # Errors
    ///
    /// If there are too many nodes, or the scratch file can't be read or written.
    pub fn add_directory(
        &mut self,
        attributes: &Attributes,
        parent: NodeId,
    ) -> Result<NodeId, Error> {
        self.add(attributes, Kind::Directory(Directory::new(parent)))
    }

    /// What has a name in a directory; none if there is no such name, or `directory` is none.
    ///
    /// # Errors
    ///
    /// If the scratch file can't be read or written.
    pub fn find(&mut self, directory: NodeId, name: &[u8]) -> Result<Option<NodeId>, Error> {
        let found = self.names.get(&mut self.scratch, directory.0, name)?;
        Ok(found.map(NodeId))
    }

    /// Gives a node a name in a directory. What had the name before has it no more. Nothing happens if `directory` is none.
    ///
    /// # Errors
    ///
    /// If the name is too long, or the scratch file can't be read or written.
    pub fn link(&mut self, directory: NodeId, name: &[u8], id: NodeId) -> Result<(), Error> {
        let Kind::Directory(above) = self.get(directory)?.kind else {
            return Ok(());
        };
        let before = self
            .names
            .insert(&mut self.scratch, directory.0, name, id.0)?;
        let mut node = self.get(id)?;
        node.links += 1;
        if let Kind::Directory(made) = &mut node.kind {
            made.name = self.keep(name)?;
            made.path = above.path + 1 + name.len() as u32;
        }
        self.nodes.set(&mut self.scratch, id, &node)?;
        match before {
            Some(before) => self.unlinked(NodeId(before)),
            None => Ok(()),
        }
    }

    /// Takes a name out of a directory.
    ///
    /// # Errors
    ///
    /// If the scratch file can't be read or written.
    pub fn unlink(&mut self, directory: NodeId, name: &[u8]) -> Result<(), Error> {
        let before = self.names.remove(&mut self.scratch, directory.0, name)?;
        match before {
            Some(before) => self.unlinked(NodeId(before)),
            None => Ok(()),
        }
    }

    /// Whether no name leads to a directory any more.
    ///
    /// # Errors
    ///
    /// If the scratch file can't be read or written.
    pub fn is_gone(&mut self, directory: NodeId) -> Result<bool, Error> {
        Ok(directory != ROOT && self.get(directory)?.links == 0)
    }

    /// Counts a name less, and those below it if it was the last name of a directory.
    fn unlinked(&mut self, id: NodeId) -> Result<(), Error> {
        // Directories that are gone, of which each names the next: there may be any number.
        let mut gone = None;
        self.count_down(id, &mut gone)?;
        while let Some(directory) = gone {
            gone = self.get(directory)?.next;
            let mut entries = self.entries(directory);
            while let Some((name, child)) = entries.next(self)? {
                self.names.remove(&mut self.scratch, directory.0, &name)?;
                self.count_down(child, &mut gone)?;
            }
        }
        Ok(())
    }

    /// Counts a name less. A directory without one becomes the first of those that are gone.
    fn count_down(&mut self, id: NodeId, gone: &mut Option<NodeId>) -> Result<(), Error> {
        let next = *gone;
        self.update(id, |node| {
            node.links = node.links.saturating_sub(1);
            if node.links == 0 && node.is_directory() {
                node.next = next;
                *gone = Some(id);
            }
        })
    }

    /// The entries of a directory, sorted by the bytes of their names; none if it is something else.
    pub fn entries(&self, directory: NodeId) -> Entries {
        Entries(Cursor::new(Some(directory.0)))
    }

    /// Notes a name in a directory; false if it was noted before.
    ///
    /// # Errors
    ///
    /// If the name is too long, or the scratch file can't be read or written.
    pub fn note(&mut self, directory: NodeId, name: &[u8]) -> Result<bool, Error> {
        let before = self.noted.insert(&mut self.scratch, directory.0, name, 0)?;
        Ok(before.is_none())
    }

    /// All names that were noted, sorted by the numbers of their directories.
    pub fn noted(&self) -> Noted {
        Noted(Cursor::new(None))
    }

    /// The absolute path of a directory.
    ///
    /// # Errors
    ///
    /// If the scratch file can't be read or written.
    pub fn path(&mut self, directory: NodeId) -> Result<Vec<u8>, Error> {
        let mut names = Vec::new();
        let mut id = directory;
        while id != ROOT && names.len() < MAX_DEPTH {
            let Kind::Directory(directory) = self.get(id)?.kind else {
                break;
            };
            names.push(directory.name);
            id = directory.parent;
        }
        let mut path = Vec::new();
        for name in names.into_iter().rev() {
            path.push(b'/');
            self.put_bytes(name, &mut path)?;
        }
        if path.is_empty() {
            path.push(b'/');
        }
        Ok(path)
    }

    /// The number of nodes, those that no name leads to among them.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is nothing but the root.
    pub fn is_empty(&self) -> bool {
        self.len() == 1
    }

    /// All nodes, those that no name leads to among them.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..self.len()).map(|number| NodeId(number as u32))
    }
}

/// The entries of a directory, one after another. Those that it has given may be taken away meanwhile; none may be added.
pub struct Entries(Cursor);

impl Entries {
    /// The name of the next entry, which stays the next; none after the last.
    pub(super) fn peek(&mut self, tree: &mut Tree) -> Result<Option<(&[u8], NodeId)>, Error> {
        let next = self.0.peek(&tree.names, &mut tree.scratch)?;
        Ok(next.map(|(_, name, number)| (name, NodeId(number))))
    }

    pub(super) fn advance(&mut self) {
        self.0.advance();
    }

    /// The next entry; none after the last.
    ///
    /// # Errors
    ///
    /// If the scratch file can't be read or written.
    pub fn next(&mut self, tree: &mut Tree) -> Result<Option<(Vec<u8>, NodeId)>, Error> {
        let next = self.peek(tree)?;
        let next = next.map(|(name, id)| (name.to_vec(), id));
        self.advance();
        Ok(next)
    }
}

/// Names that were noted, one after another. None may be noted meanwhile.
pub struct Noted(Cursor);

impl Noted {
    /// The next one, and the directory that it is in; none after the last.
    ///
    /// # Errors
    ///
    /// If the scratch file can't be read or written.
    pub fn next(&mut self, tree: &mut Tree) -> Result<Option<(NodeId, Vec<u8>)>, Error> {
        let next = self.0.peek(&tree.noted, &mut tree.scratch)?;
        let next = next.map(|(directory, name, _)| (NodeId(directory), name.to_vec()));
        self.0.advance();
        Ok(next)
    }
}
