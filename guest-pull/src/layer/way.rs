// SPDX-License-Identifier: Apache-2.0

//! Paths that are walked in a layer's tree, through its symbolic links.

use crate::erofs::{Kind, NodeId, ROOT, Tree};
use crate::layer::Fault;
use crate::layer::path::MAX_NAME;

/// How many symbolic links one path leads through at most, as containerd counts them.
const MAX_LINKS: usize = 255;

/// A path that is being walked.
pub struct Way {
    at: NodeId,
    /// What is still to be walked: the path, and above it the targets of links that it led through. Each target may lead
    /// through others before its end, so that the parts of all of them would be many.
    rest: Vec<Rest>,
    /// How many symbolic links it led through.
    links: usize,
}

/// The rest of a path.
struct Rest {
    path: Vec<u8>,
    at: usize,
}

impl Rest {
    /// The next part that is not empty or `.`.
    fn next(&mut self) -> Option<&[u8]> {
        loop {
            let rest = self.path.get(self.at..)?;
            let length = rest.iter().position(|byte| *byte == b'/');
            let length = length.unwrap_or(rest.len());
            let start = self.at;
            self.at += length + 1;
            if !matches!(&self.path[start..start + length], b"" | b".") {
                return self.path.get(start..start + length);
            }
        }
    }

    fn is_over(&self) -> bool {
        self.at >= self.path.len()
    }
}

/// Where walking a path stops.
pub enum Stop {
    /// At its end.
    End,
    /// At a part that is not there.
    Missing(Vec<u8>),
    /// At a part that is neither directory nor link.
    Other(Vec<u8>),
}

impl Way {
    /// A path from the root with these parts.
    pub fn new(parts: &[&[u8]]) -> Self {
        let path = parts.join(&b'/');
        Self {
            at: ROOT,
            rest: vec![Rest { path, at: 0 }],
            links: 0,
        }
    }

    /// The directory that was come to.
    pub fn at(&self) -> NodeId {
        self.at
    }

    /// Goes on from a directory in place of the part that was missing.
    pub fn enter(&mut self, directory: NodeId) {
        self.at = directory;
    }

    /// Goes on as far as there are directories. Symbolic links of the tree are followed within it. `step` counts what takes
    /// time.
    pub fn follow(
        &mut self,
        tree: &mut Tree,
        mut step: impl FnMut(usize) -> Result<(), Fault>,
    ) -> Result<Stop, Fault> {
        while let Some(rest) = self.rest.last_mut() {
            let Some(part) = rest.next() else {
                self.rest.pop();
                continue;
            };
            // Only targets of links have this.
            if part == b".." {
                let Kind::Directory(directory) = tree.get(self.at)?.kind else {
                    return Err(Fault::from("it is below something that is no directory"));
                };
                self.at = directory.parent;
                continue;
            }
            let Some(next) = tree.find(self.at, part)? else {
                return Ok(Stop::Missing(part.to_vec()));
            };
            match tree.get(next)?.kind {
                Kind::Directory(_) => self.at = next,
                Kind::Symlink(target) => {
                    self.links += 1;
                    if self.links > MAX_LINKS {
                        let text = format!("it leads through more than {MAX_LINKS} links");
                        return Err(text.into());
                    }
                    let path = tree.bytes(target)?;
                    if path.starts_with(b"/") {
                        self.at = ROOT;
                    }
                    // Before they are walked: a walk that ends early would not come to them.
                    let parts = || path.split(|byte| *byte == b'/');
                    step(parts().count())?;
                    if parts().any(|part| part.len() > MAX_NAME) {
                        return Err(Fault::from(
                            "it leads through a link with a part over 255 bytes",
                        ));
                    }
                    // A chain of links keeps one at a time.
                    self.rest.retain(|rest| !rest.is_over());
                    self.rest.push(Rest { path, at: 0 });
                }
                _ => return Ok(Stop::Other(part.to_vec())),
            }
        }
        Ok(Stop::End)
    }
}
