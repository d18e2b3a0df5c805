// SPDX-License-Identifier: Apache-2.0

//! A directory with one file per resource, `<repository>/<type>/<tag>` below it, such as a Kubernetes secret
//! volume or a drop-in directory.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::resource::file::{MAX_FILE_BYTES, MAX_WHOLE_BYTES};
use crate::resource::name::Name;
use crate::resource::problem::{Problem, Severity};
use crate::text::EntryName;

/// The most files of one directory. Each is checked before requests are answered, and a secret volume has a
/// handful.
pub const MAX_FILES: usize = 256;

/// The most directory entries that are read, which bounds the cost of a wrong directory.
const MAX_NAMES: usize = 4 * MAX_FILES;

/// One file of a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedFile {
    /// Whether its name is an old name.
    pub is_old: bool,
    /// The name of the resource.
    pub name: Name,
    /// Its path, with symbolic links resolved.
    pub path: PathBuf,
}

/// What was found below a directory.
#[derive(Debug, Default)]
pub struct Listing {
    /// The directory's path, with symbolic links resolved. Nothing outside of it may be served.
    pub root: PathBuf,
    /// The files that can be served.
    pub files: Vec<ListedFile>,
    /// Why some entries of the directory can't be served.
    pub problems: Vec<Problem>,
    /// Entries that could not be read, by their paths below the directory, and why. Files that were loaded
    /// from there may still exist.
    pub unreadable: Vec<(String, Problem)>,
    /// The directories that were read.
    pub directories: Vec<PathBuf>,
}

impl Listing {
    /// Whether the resource of this name may be at a path that could not be read.
    pub fn may_contain(&self, name: &Name) -> bool {
        self.unreadable.iter().any(|(below, _)| {
            let rest = name.as_str().strip_prefix(below.as_str());
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
                || Name::is_old(below) && Name::parse(below).as_ref() == Ok(name)
        })
    }
}

/// Lists the files below `root`: those at the third level, and those at the first level that have an old
/// name. Names that begin with a dot are skipped: Kubernetes' own `..data`, and temporary files.
///
/// Symbolic links are followed, but not to anything outside of `root`. Somebody who can write there may
/// replace a file by a link after this check, so the file's reader must check again what it has opened.
///
/// # Errors
///
/// If the directory itself can't be read.
pub fn list(root: &Path) -> io::Result<Listing> {
    let mut walk = Walk {
        listing: Listing {
            root: root.canonicalize()?,
            ..Listing::default()
        },
        names: 0,
        bytes: 0,
        is_full: false,
    };
    let top = walk.listing.root.clone();
    walk.descend(&top, "")?;
    Ok(walk.listing)
}

struct Walk {
    listing: Listing,
    names: usize,
    bytes: u64,
    is_full: bool,
}

impl Walk {
    /// Reads `directory`, whose path below the root is `above`.
    fn descend(&mut self, directory: &Path, above: &str) -> io::Result<()> {
        let mut names = Vec::new();
        self.listing.directories.push(directory.to_owned());
        for entry in fs::read_dir(directory)? {
            let name = entry?.file_name();
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            self.names += 1;
            if self.names > MAX_NAMES {
                self.overflow(format!("more than {MAX_NAMES} names"));
                break;
            }
            names.push(name);
        }
        // Sorted, so that the limits always leave out the same files, and messages keep their order.
        names.sort_unstable();
        for name in names {
            let below = match name.to_str() {
                Some(name) if above.is_empty() => name.to_owned(),
                Some(name) => format!("{above}/{name}"),
                None => {
                    self.refuse(&name.to_string_lossy(), "its name is not UTF-8");
                    continue;
                }
            };
            self.visit(&directory.join(name), &below);
        }
        Ok(())
    }

    fn visit(&mut self, path: &Path, below: &str) {
        let path = match path.canonicalize() {
            Ok(path) => path,
            // A file that has just been removed is ignored.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                if path.is_symlink() {
                    self.refuse(below, "it is a dangling symbolic link");
                }
                return;
            }
            Err(error) => return self.unreadable(below, &error),
        };
        if !path.starts_with(&self.listing.root) {
            return self.refuse(below, "it is a symbolic link out of the directory");
        }
        let metadata = match path.metadata() {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => return self.unreadable(below, &error),
        };
        let depth = below.split('/').count();
        if metadata.is_dir() {
            if depth == 3 {
                return self.refuse(below, "it is a directory where a file should be");
            }
            // A loop of links ends at the third level too.
            match self.descend(&path, below) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    self.unreadable(below, &error)
                }
                _ => {}
            }
            return;
        }
        let is_old = Name::is_old(below);
        let name = match Name::parse(below) {
            // The name must equal the path exactly: a query, for example, is not part of a path.
            Ok(name @ Name::Path(_)) if is_old || name.as_str() == below => name,
            _ => {
                return self.refuse(
                    below,
                    "it is not <repository>/<type>/<tag>, nor an old name",
                );
            }
        };
        if metadata.len() > MAX_WHOLE_BYTES {
            let what = format!(
                "it has {} bytes, over the limit of {MAX_WHOLE_BYTES}",
                metadata.len()
            );
            return self.refuse(below, &what);
        }
        if self.listing.files.len() == MAX_FILES {
            return self.overflow(format!("more than {MAX_FILES} files"));
        }
        if self.bytes + metadata.len() > MAX_FILE_BYTES {
            return self.overflow(format!("more than {MAX_FILE_BYTES} bytes in all"));
        }
        self.bytes += metadata.len();
        self.listing.files.push(ListedFile { is_old, name, path });
    }

    fn refuse(&mut self, below: &str, what: &str) {
        self.listing.problems.push(Problem::of_file(
            Severity::Error,
            "directory-entry",
            format!("{}: {what}; it is not served", EntryName(below)),
            "put it at <repository>/<type>/<tag> below the directory, as a file or a link within it",
        ));
    }

    fn unreadable(&mut self, below: &str, error: &io::Error) {
        let problem = Problem::of_file(
            Severity::Error,
            "unreadable",
            format!("{}: can't read it: {error}", EntryName(below)),
            "make it readable for root without capabilities: `chown -R root:root` and `chmod -R u+rX` the directory",
        );
        self.listing.unreadable.push((below.to_owned(), problem));
    }

    fn overflow(&mut self, what: String) {
        if !self.is_full {
            self.is_full = true;
            self.listing.problems.push(Problem::of_file(
                Severity::Error,
                "too-many",
                format!("{what}; the rest is not served"),
                "keep only the files that clients ask for",
            ));
        }
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
            .map(|listed| listed.name.as_str())
            .collect()
    }

    /// In a Kubernetes secret volume, the names are links through `..data`, which is itself a link.
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

    /// Nothing outside is served, whichever way a link or a name leads there.
    #[test]
    fn links_out_of_the_directory_are_refused() {
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
            "\\\"a\\\": it is a symbolic link out",
            "x/y/file\\\": it is a symbolic link out",
            "x/y/up",
            "gone",
            "stray",
            "x/y/z",
        ] {
            assert!(said.contains(part), "{part}: {said}");
        }
        assert!(list(&at("nowhere")).is_err());
    }

    /// The cost of a directory is limited, and files that are left out are reported.
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
        // Only the file that is too large for any client is left out.
        let large = fs::File::create(type_dir.join("0000")).unwrap();
        large.set_len(MAX_WHOLE_BYTES + 1).unwrap();
        let listing = list(dir.path()).unwrap();
        assert_eq!(
            (listing.files.len(), listing.problems.len()),
            (MAX_FILES, 1)
        );
        for n in 0..20 {
            let file = fs::File::create(type_dir.join(format!("{n:04}"))).unwrap();
            file.set_len(MAX_WHOLE_BYTES).unwrap();
        }
        let listing = list(dir.path()).unwrap();
        assert_eq!(listing.files.len() as u64, MAX_FILE_BYTES / MAX_WHOLE_BYTES);
        assert!(listing.problems[0].what.contains("bytes in all"));
    }
}
