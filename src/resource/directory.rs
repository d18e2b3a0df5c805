// SPDX-License-Identifier: Apache-2.0

//! A directory of resources, a file each: `<repository>/<type>/<tag>` below it, as a Kubernetes secret
//! volume or a drop-in directory has them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::resource::file::MAX_FILE_BYTES;
use crate::resource::name::Name;
use crate::resource::problem::{Problem, Severity};
use crate::text::Shown;

/// The most files of one directory. Each is looked at before answers are given, and a secret volume has a
/// handful.
pub const MAX_FILES: usize = 256;

/// The most names that are looked at for them, so that a wrong directory costs no more.
const MAX_NAMES: usize = 4 * MAX_FILES;

/// What was found below a directory.
#[derive(Debug, Default)]
pub struct Listing {
    /// The files: whether it goes by an old name, the resource that it is, and the path without links.
    pub files: Vec<(bool, Name, PathBuf)>,
    /// What is there and can't be served.
    pub problems: Vec<Problem>,
}

/// Lists the files below `root`: at the third level by their path, and beside that those of an old name
/// at the first. Names that begin with a dot are passed over: Kubernetes' own `..data`, and files that
/// are being written.
///
/// Links are followed, but to nothing outside of `root`.
///
/// # Errors
///
/// As the directory itself can't be listed.
pub fn list(root: &Path) -> io::Result<Listing> {
    let root = root.canonicalize()?;
    let mut found = Finding {
        listing: Listing::default(),
        names: 0,
        bytes: 0,
        full: false,
        root,
    };
    let top = found.root.clone();
    found.descend(&top, "")?;
    Ok(found.listing)
}

/// The directories in which a change may make another listing of `root`: those above the files, and the root.
pub fn directories(root: &Path) -> Vec<PathBuf> {
    let mut found = vec![root.to_owned()];
    if let Ok(listing) = list(root) {
        for (_, _, file) in &listing.files {
            let above = file.ancestors().skip(1).take(3);
            found.extend(above.map(Path::to_owned));
        }
    }
    found.sort_unstable();
    found.dedup();
    found
}

struct Finding {
    root: PathBuf,
    listing: Listing,
    names: usize,
    bytes: u64,
    full: bool,
}

impl Finding {
    /// Looks at what is in `directory`, whose path below the root is `above`.
    fn descend(&mut self, directory: &Path, above: &str) -> io::Result<()> {
        let mut names = Vec::new();
        for entry in fs::read_dir(directory)? {
            let name = entry?.file_name();
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            self.names += 1;
            if self.names > MAX_NAMES {
                return self.overflow(format!("more than {MAX_NAMES} names"));
            }
            names.push(name);
        }
        // Which of two files is left out at a cap, and the order of messages, is no chance.
        names.sort_unstable();
        for name in names {
            let below = match name.to_str() {
                Some(name) if above.is_empty() => name.to_owned(),
                Some(name) => format!("{above}/{name}"),
                None => {
                    self.problem(&name.to_string_lossy(), "its name is not UTF-8");
                    continue;
                }
            };
            if self.full {
                return Ok(());
            }
            self.look(&directory.join(name), &below)?;
        }
        Ok(())
    }

    fn look(&mut self, path: &Path, below: &str) -> io::Result<()> {
        // What vanishes meanwhile was never there.
        let path = match path.canonicalize() {
            Ok(path) => path,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !path.is_symlink() => {
                return Ok(());
            }
            Err(error) => {
                self.problem(below, &format!("it can't be looked at: {error}"));
                return Ok(());
            }
        };
        if !path.starts_with(&self.root) {
            self.problem(below, "it is a link out of the directory");
            return Ok(());
        }
        let Ok(metadata) = path.metadata() else {
            return Ok(());
        };
        let depth = below.split('/').count();
        if metadata.is_dir() {
            if depth < 3 {
                // A loop of links ends at the third level.
                return match self.descend(&path, below) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                    Err(error) => {
                        self.problem(below, &format!("it can't be listed: {error}"));
                        Ok(())
                    }
                    done => done,
                };
            }
            self.problem(below, "a directory where a file should be");
            return Ok(());
        }
        let name = match Name::parse(below) {
            Ok(name @ Name::Path(_)) if depth == 3 || Name::is_old(below) => name,
            _ => {
                self.problem(
                    below,
                    "it is not <repository>/<type>/<tag>, nor an old name",
                );
                return Ok(());
            }
        };
        self.bytes += metadata.len();
        if self.listing.files.len() == MAX_FILES {
            return self.overflow(format!("more than {MAX_FILES} files"));
        }
        if self.bytes > MAX_FILE_BYTES {
            return self.overflow(format!("more than {MAX_FILE_BYTES} bytes together"));
        }
        self.listing.files.push((depth == 1, name, path));
        Ok(())
    }

    fn problem(&mut self, below: &str, what: &str) {
        let problem = Problem::of_file(
            Severity::Error,
            "directory-entry",
            format!("{}: {what}; it is not served", Shown(below)),
            "put it at <repository>/<type>/<tag> below the directory, as a file or a link within it",
        );
        self.listing.problems.push(problem);
    }

    fn overflow(&mut self, what: String) -> io::Result<()> {
        if !self.full {
            self.full = true;
            self.listing.problems.push(Problem::of_file(
                Severity::Error,
                "too-many",
                format!("{what}; the rest is not served"),
                "leave only what clients ask for",
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::os::unix::fs::symlink;

    fn names(listing: &Listing) -> Vec<&str> {
        listing
            .files
            .iter()
            .map(|(_, name, _)| name.as_str())
            .collect()
    }

    /// A Kubernetes secret volume: the names are links through `..data`, which is itself one.
    #[test]
    fn a_secret_volume_is_listed_by_its_names() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("..2026_01/default/credential")).unwrap();
        fs::write(at("..2026_01/default/credential/test"), "{}").unwrap();
        fs::write(at("..2026_01/Policy"), "{}").unwrap();
        symlink("..2026_01", at("..data")).unwrap();
        symlink("..data/default", at("default")).unwrap();
        symlink("..data/Policy", at("Policy")).unwrap();
        let listing = list(dir.path()).unwrap();
        assert_eq!(
            names(&listing),
            ["default/security-policy/test", "default/credential/test"]
        );
        assert!(listing.problems.is_empty(), "{:?}", listing.problems);
    }

    /// Nothing outside is served, whatever way a link or a name leads there.
    #[test]
    fn nothing_leads_out() {
        let outside = tempfile::tempdir().unwrap();
        fs::create_dir_all(outside.path().join("b")).unwrap();
        fs::write(outside.path().join("b/c"), "secret").unwrap();
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        symlink(outside.path(), at("a")).unwrap();
        fs::create_dir_all(at("x/y/z")).unwrap();
        symlink(outside.path().join("b/c"), at("x/y/file")).unwrap();
        symlink("../../..", at("x/y/up")).unwrap();
        symlink("nowhere", at("x/y/gone")).unwrap();
        symlink(".", at("loop")).unwrap();
        fs::write(at("stray"), "").unwrap();
        let listing = list(dir.path()).unwrap();
        // A loop of links within ends at the third level.
        assert_eq!(names(&listing), ["loop/loop/stray"]);
        let said = format!("{:?}", listing.problems);
        for part in [
            "\\\"a\\\": it is a link out",
            "x/y/file\\\": it is a link out",
            "x/y/up",
            "gone",
            "stray",
            "x/y/z",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(list(&at("nowhere")).is_err());
    }

    /// What a directory can cost is bounded, and what is left out is said.
    #[test]
    fn files_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let type_dir = dir.path().join("a/b");
        fs::create_dir_all(&type_dir).unwrap();
        for n in 0..=MAX_FILES {
            fs::write(type_dir.join(format!("{n:04}")), "x").unwrap();
        }
        let listing = list(dir.path()).unwrap();
        assert_eq!(listing.files.len(), MAX_FILES);
        assert_eq!(listing.problems.len(), 1);
        fs::File::create(type_dir.join("0000"))
            .unwrap()
            .set_len(MAX_FILE_BYTES)
            .unwrap();
        let listing = list(dir.path()).unwrap();
        assert_eq!(listing.files.len(), 1);
        assert!(listing.problems[0].what.contains("bytes together"));
    }
}
