// SPDX-License-Identifier: Apache-2.0

//! The program guest-pull in an image that is being built: whether it could be started there.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use crate::check::{Finding, Root};

/// Where packages and `make install` put it.
const PLACES: [&str; 2] = ["/usr/bin/guest-pull", "/usr/local/bin/guest-pull"];

/// How programs name their loader, and versions of the C library's symbols.
const LOADERS: [&[u8]; 2] = [b"/lib64/ld", b"/lib/ld"];
const VERSION: &[u8] = b"GLIBC_2.";

/// How much of a program is looked at for the name of its loader, which stands right after the headers.
const BEGINNING: usize = 4096;

/// Directories of the C library, each with one more level: Debian has them by machine.
const LIBRARIES: [&str; 4] = ["/lib", "/lib64", "/usr/lib", "/usr/lib64"];
const C_LIBRARY: &str = "libc.so.6";

/// What keeps it from being started.
pub(super) fn look(root: Root<'_>) -> Option<Finding> {
    let mut paths = PLACES.iter().map(|path| root.path(Path::new(path)));
    // An absolute link leads nowhere below another root.
    let path = paths.find(|path| path.is_file())?;
    let shown = path.display();
    let missing = |what: String, fix| {
        Some(Finding::error(
            "guest-pull-missing",
            format!("{what}: no image is pulled"),
            fix,
        ))
    };
    let mode = path.metadata().ok()?.permissions().mode();
    if mode & 0o111 == 0 {
        return missing(format!("{shown} is not executable"), "`chmod 0755` it");
    }
    let program = fs::read(&path).ok()?;
    let beginning = program.get(..BEGINNING).unwrap_or(&program);
    let fix = "take an image with glibc 2.34 or later, or build guest-pull for this one";
    let loader = LOADERS.iter().find_map(|start| text_at(beginning, start))?;
    if root.path(Path::new(&loader)).symlink_metadata().is_err() {
        let what = format!(
            "{shown} needs {loader}, which is not there: it is for another C library or machine"
        );
        return missing(what, fix);
    }
    let needed = newest(&program)?;
    let library = c_library(root).and_then(|path| fs::read(path).ok())?;
    match newest(&library) {
        Some(there) if there < needed => {
            let what = format!("{shown} needs glibc 2.{needed}, and 2.{there} is there");
            missing(what, fix)
        }
        _ => None,
    }
}

/// The C library, if it is where distributions have it.
fn c_library(root: Root<'_>) -> Option<PathBuf> {
    LIBRARIES.iter().find_map(|directory| {
        let directory = root.path(Path::new(directory));
        let below = fs::read_dir(&directory).ok()?;
        let below = below.filter_map(|entry| Some(entry.ok()?.path()));
        let mut places = std::iter::once(directory).chain(below);
        places.find_map(|place| Some(place.join(C_LIBRARY)).filter(|path| path.is_file()))
    })
}

/// The text that begins so, up to the zero at its end.
fn text_at(bytes: &[u8], start: &[u8]) -> Option<String> {
    let at = bytes.windows(start.len()).position(|part| part == start)?;
    let text = bytes.get(at..)?.split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(text).into_owned())
}

/// The newest version of glibc that a file names: which a program needs, or the library has.
fn newest(bytes: &[u8]) -> Option<u32> {
    let starts = bytes.windows(VERSION.len()).enumerate();
    let starts = starts.filter(|(_, part)| *part == VERSION);
    let versions = starts.filter_map(|(at, _)| {
        let rest = bytes.get(at + VERSION.len()..)?;
        let digits: String = rest
            .iter()
            .take(3)
            .map(|byte| char::from(*byte))
            .take_while(char::is_ascii_digit)
            .collect();
        digits.parse().ok()
    });
    versions.max()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The newest version is the largest number, not the last text.
    #[test]
    fn versions_are_compared_as_numbers() {
        let program = b"\0GLIBC_2.2.5\0GLIBC_2.34\0GLIBC_2.4\0GLIBC_2.\0GLIBC_PRIVATE";
        assert_eq!(newest(program), Some(34));
        assert_eq!(newest(b"GLIBC_"), None);
        let text = text_at(b"\x7fELF\0/lib64/ld-linux-x86-64.so.2\0\x04", LOADERS[0]);
        assert_eq!(text.as_deref(), Some("/lib64/ld-linux-x86-64.so.2"));
    }
}
