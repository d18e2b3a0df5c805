// SPDX-License-Identifier: Apache-2.0

//! What an image's tree must be, made from what was put into its layers, and whether a mounted tree is that.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use crate::random::Random;

/// What all kinds of entries have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attributes {
    pub mode: u32,
    pub owner: (u32, u32),
    /// In seconds.
    pub time: i64,
}

impl Attributes {
    /// Any, also such as take root to make.
    pub fn any(random: &mut Random, modes: &[u32]) -> Self {
        Self {
            mode: random.one_of(modes).copied().unwrap_or(0o644),
            owner: (
                random
                    .one_of(&[0, 0, 0, 7, 61_180, 2_500_000])
                    .copied()
                    .unwrap_or(0),
                random.one_of(&[0, 0, 8, 65_534]).copied().unwrap_or(0),
            ),
            time: 1_000_000_000 + random.below(700_000_000) as i64,
        }
    }
}

/// The content of a file, which its seed decides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    pub seed: u64,
    pub length: usize,
    /// Whether it shrinks.
    pub is_text: bool,
}

impl Content {
    /// The bytes.
    pub fn bytes(&self) -> Vec<u8> {
        let mut random = Random::new(self.seed);
        let mut bytes = Vec::with_capacity(self.length + 8);
        while bytes.len() < self.length {
            let number = random.next();
            match self.is_text {
                true => bytes.extend(format!("line {} of many\n", number % 1000).bytes()),
                false => bytes.extend(number.to_le_bytes()),
            }
        }
        bytes.truncate(self.length);
        bytes
    }
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    Directory,
    /// Names of one file have one number.
    File {
        number: u64,
        content: Content,
    },
    Link(String),
}

/// An entry of a tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    pub attributes: Attributes,
    pub kind: Kind,
}

/// A tree by its paths, without a slash at the beginning.
pub type Tree = BTreeMap<String, Node>;

/// Removes what is at a path, and below it.
pub fn remove(tree: &mut Tree, path: &str) {
    tree.remove(path);
    remove_below(tree, path);
}

/// Removes what is below a path.
pub fn remove_below(tree: &mut Tree, path: &str) {
    let prefix = format!("{path}/");
    tree.retain(|other, _| !other.starts_with(&prefix));
}

/// The first difference of what is mounted, if there is any.
///
/// # Errors
///
/// If it can't be read.
pub fn difference(root: &Path, tree: &Tree) -> io::Result<Option<String>> {
    let mut found = 0;
    let mut directories = vec![String::new()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(root.join(&directory))? {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            let path = match directory.is_empty() {
                true => name.into_owned(),
                false => format!("{directory}/{name}"),
            };
            match tree.get(&path) {
                None => return Ok(Some(format!("{path} should not be there"))),
                Some(node) => {
                    if let Some(how) = differs(&root.join(&path), node)? {
                        return Ok(Some(format!("{path}: {how}")));
                    }
                    if node.kind == Kind::Directory {
                        directories.push(path);
                    }
                }
            }
            found += 1;
        }
    }
    if found != tree.len() {
        let missing = tree
            .keys()
            .find(|path| root.join(path).symlink_metadata().is_err());
        return Ok(Some(format!("{missing:?} is missing")));
    }
    linked(root, tree)
}

/// How an entry is not what it should be.
fn differs(path: &Path, node: &Node) -> io::Result<Option<String>> {
    let metadata = path.symlink_metadata()?;
    let is_right = match &node.kind {
        Kind::Directory => metadata.is_dir(),
        Kind::File { content, .. } => metadata.is_file() && metadata.len() == content.length as u64,
        Kind::Link(target) => metadata.is_symlink() && fs::read_link(path)? == Path::new(target),
    };
    if !is_right {
        return Ok(Some(format!("{metadata:?} for {node:?}")));
    }
    let found = Attributes {
        // A link has no mode of its own.
        mode: match node.kind {
            Kind::Link(_) => node.attributes.mode,
            _ => metadata.permissions().mode() & 0o7777,
        },
        owner: (metadata.uid(), metadata.gid()),
        time: metadata.mtime(),
    };
    if found != node.attributes {
        return Ok(Some(format!("{found:?} for {node:?}")));
    }
    if let Kind::File { content, .. } = &node.kind {
        if fs::read(path)? != content.bytes() {
            return Ok(Some(format!("another content than that of {content:?}")));
        }
    }
    Ok(None)
}

/// Whether the names of one file, and these alone, have one inode.
fn linked(root: &Path, tree: &Tree) -> io::Result<Option<String>> {
    let mut inodes = BTreeMap::new();
    for (path, node) in tree {
        if let Kind::File { number, .. } = node.kind {
            let metadata = root.join(path).symlink_metadata()?;
            let inode = (metadata.dev(), metadata.ino());
            if *inodes.entry(number).or_insert(inode) != inode {
                return Ok(Some(format!("{path} is another file than its first name")));
            }
        }
    }
    let mut files: Vec<_> = inodes.values().collect();
    files.sort();
    files.dedup();
    match files.len() == inodes.len() {
        true => Ok(None),
        false => Ok(Some("two files have one inode".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A tree on disk, as an image's would be mounted, and what it must be.
    fn both() -> (tempfile::TempDir, Tree) {
        let dir = tempfile::tempdir().expect("a directory");
        let content = Content {
            seed: 1,
            length: 1000,
            is_text: true,
        };
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("d")).expect("a directory");
        fs::write(at("d/f"), content.bytes()).expect("a file");
        fs::hard_link(at("d/f"), at("again")).expect("a link");
        symlink("d/f", at("link")).expect("a link");
        let mut tree = Tree::new();
        for (path, kind) in [
            ("d", Kind::Directory),
            ("d/f", Kind::File { number: 1, content }),
            ("again", Kind::File { number: 1, content }),
            ("link", Kind::Link("d/f".to_owned())),
        ] {
            let found = at(path).symlink_metadata().expect("it is there");
            let attributes = Attributes {
                mode: found.permissions().mode() & 0o7777,
                owner: (found.uid(), found.gid()),
                time: found.mtime(),
            };
            tree.insert(path.to_owned(), Node { attributes, kind });
        }
        (dir, tree)
    }

    /// Whatever is another is found: names, attributes, contents, targets, links.
    #[test]
    fn differences_are_found() {
        let (dir, tree) = both();
        assert_eq!(difference(dir.path(), &tree).expect("a tree"), None);
        type Spoil = fn(&mut Tree, &Path);
        let spoilt: [(&str, Spoil); 7] = [
            ("is missing", |tree, _| {
                let node = tree["link"].clone();
                tree.insert("more".to_owned(), node);
            }),
            ("should not be there", |tree, _| drop(tree.remove("d/f"))),
            ("d: ", |tree, _| {
                tree.get_mut("d").expect("it").attributes.time += 1
            }),
            ("link: ", |tree, _| {
                tree.get_mut("link").expect("it").kind = Kind::Link("d".to_owned());
            }),
            ("another content", |_, root| {
                fs::write(root.join("d/f"), [b'x'; 1000]).expect("a file");
            }),
            ("two files have one inode", |tree, _| {
                let node = tree.get_mut("again").expect("it");
                if let Kind::File { number, .. } = &mut node.kind {
                    *number = 2;
                }
            }),
            ("another file than its first name", |_, root| {
                let time = fs::metadata(root.join("again")).expect("it").modified();
                fs::remove_file(root.join("again")).expect("it");
                fs::copy(root.join("d/f"), root.join("again")).expect("a copy");
                let file = fs::File::options().write(true).open(root.join("again"));
                file.and_then(|file| file.set_modified(time?))
                    .expect("a time");
            }),
        ];
        for (what, spoil) in spoilt {
            let (dir, mut tree) = both();
            spoil(&mut tree, dir.path());
            let found = difference(dir.path(), &tree).expect("a tree");
            let found = found.unwrap_or_default();
            // What is written has another time, too, if a second has passed.
            let is_time = what == "another content" && found.contains("Attributes");
            assert!(found.contains(what) || is_time, "{what}: {found}");
        }
    }
}
