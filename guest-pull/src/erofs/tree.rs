// SPDX-License-Identifier: Apache-2.0

//! The inodes of a file system, and the names that lead to them.

use std::collections::BTreeMap;

use crate::erofs::content::Content;

/// The place of a node in its tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(u32);

/// The root directory.
pub const ROOT: NodeId = NodeId(0);

/// What an inode says besides what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Attributes {
    /// The permissions, with the setuid, setgid and sticky bits.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// The time of modification in seconds since 1970.
    pub seconds: i64,
    /// And the nanoseconds after it.
    pub nanoseconds: u32,
    /// The extended attributes, sorted by name.
    pub xattrs: Vec<Xattr>,
}

/// An extended attribute: its whole name, such as `user.x`, and its value.
pub type Xattr = (Box<[u8]>, Box<[u8]>);

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file.
    File(Content),
    /// A directory.
    Directory {
        /// Its entries, sorted by the bytes of their names.
        entries: BTreeMap<Box<[u8]>, NodeId>,
        /// The directory that it is in; the root is in itself.
        parent: NodeId,
    },
    /// A symbolic link with this target.
    Symlink(Box<[u8]>),
    /// A character device.
    CharacterDevice(Device),
    /// A block device.
    BlockDevice(Device),
    /// A named pipe.
    Fifo,
}

/// The number of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Its driver.
    pub major: u32,
    /// Which of the driver's devices.
    pub minor: u32,
}

/// An inode.
#[derive(Clone, Debug)]
pub struct Node {
    /// What it says.
    pub attributes: Attributes,
    /// What it is.
    pub kind: Kind,
    /// How many names lead to it; directories are counted by their subdirectories.
    pub links: u32,
}

/// The inodes of a file system.
#[derive(Debug)]
pub struct Tree {
    nodes: Vec<Node>,
}

impl Default for Tree {
    /// An empty root directory that everybody may enter and root may write.
    fn default() -> Self {
        let attributes = Attributes {
            mode: 0o755,
            ..Attributes::default()
        };
        let kind = Kind::Directory {
            entries: BTreeMap::new(),
            parent: ROOT,
        };
        let root = Node {
            attributes,
            kind,
            links: 0,
        };
        Self { nodes: vec![root] }
    }
}

impl Tree {
    /// The node.
    pub fn get(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    /// The node, to be changed.
    pub fn get_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }

    /// Adds a node that no name leads to yet. None if there are too many.
    pub fn add(&mut self, attributes: Attributes, kind: Kind) -> Option<NodeId> {
        let id = u32::try_from(self.nodes.len()).ok()?;
        self.nodes.push(Node {
            attributes,
            kind,
            links: 0,
        });
        Some(NodeId(id))
    }

    /// Adds a directory below `parent` that no name leads to yet. None if there are too many nodes.
    pub fn add_directory(&mut self, attributes: Attributes, parent: NodeId) -> Option<NodeId> {
        let kind = Kind::Directory {
            entries: BTreeMap::new(),
            parent,
        };
        self.add(attributes, kind)
    }

    /// The entries of a directory; none if it is something else.
    pub fn entries(&self, id: NodeId) -> Option<&BTreeMap<Box<[u8]>, NodeId>> {
        match &self.get(id).kind {
            Kind::Directory { entries, .. } => Some(entries),
            _ => None,
        }
    }

    /// Gives a node a name in a directory. What had the name before has it no more. Nothing happens if `directory` is none.
    pub fn link(&mut self, directory: NodeId, name: &[u8], id: NodeId) {
        if let Kind::Directory { entries, .. } = &mut self.get_mut(directory).kind {
            let before = entries.insert(name.into(), id);
            self.get_mut(id).links += 1;
            if let Some(before) = before {
                self.unlinked(before);
            }
        }
    }

    /// Takes a name out of a directory.
    pub fn unlink(&mut self, directory: NodeId, name: &[u8]) {
        if let Kind::Directory { entries, .. } = &mut self.get_mut(directory).kind {
            if let Some(before) = entries.remove(name) {
                self.unlinked(before);
            }
        }
    }

    /// Counts a name less, and those below it if it was the last name of a directory. The depth of directories is
    /// bounded by the length of paths.
    fn unlinked(&mut self, id: NodeId) {
        let mut gone = vec![id];
        while let Some(id) = gone.pop() {
            let node = self.get_mut(id);
            node.links = node.links.saturating_sub(1);
            if node.links == 0 {
                if let Kind::Directory { entries, .. } = &mut node.kind {
                    gone.extend(std::mem::take(entries).into_values());
                }
            }
        }
    }

    /// Visits the directories that names lead to, each with its absolute path, until one visit fails. All the paths at once
    /// could take far more memory than the names.
    ///
    /// # Errors
    ///
    /// That of the visit.
    pub fn visit_directories<E>(
        &self,
        mut visit: impl FnMut(NodeId, &[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut path: Vec<u8> = Vec::new();
        // Each with its name, and the length of the path of the directory that it is in.
        let mut left: Vec<(NodeId, &[u8], usize)> = vec![(ROOT, b"", 0)];
        while let Some((id, name, above)) = left.pop() {
            path.truncate(above);
            if id != ROOT {
                path.push(b'/');
                path.extend(name);
            }
            visit(id, if id == ROOT { b"/" } else { &path })?;
            for (name, &child) in self.entries(id).into_iter().flatten() {
                if self.entries(child).is_some() {
                    left.push((child, name, path.len()));
                }
            }
        }
        Ok(())
    }

    /// The number of nodes, those that no name leads to among them.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there is nothing but the root.
    pub fn is_empty(&self) -> bool {
        self.nodes.len() == 1
    }

    /// The nodes that names lead to, the root first, each once; a directory before what is in it.
    pub fn reachable(&self) -> Vec<NodeId> {
        let mut seen = vec![false; self.nodes.len()];
        let mut order = vec![ROOT];
        seen[0] = true;
        let mut next = 0;
        while let Some(&id) = order.get(next) {
            next += 1;
            for &child in self.entries(id).into_iter().flat_map(BTreeMap::values) {
                if !std::mem::replace(&mut seen[child.0 as usize], true) {
                    order.push(child);
                }
            }
        }
        order
    }

    /// The index of a node, below [`Tree::len`].
    pub fn index(&self, id: NodeId) -> usize {
        id.0 as usize
    }
}
