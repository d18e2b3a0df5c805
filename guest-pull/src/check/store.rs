// SPDX-License-Identifier: Apache-2.0

//! The place of the store: whether it can be written, and has room.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{StatVfsMountFlags, statvfs};

use crate::check::{Finding, Root};
use crate::store::Room;

/// The least room of a store, in bytes. The smallest base images, such as Alpine's of 4 MiB, take about twice the size of
/// their blob, and the writable layer of the container is there too: with less, hardly any image can be pulled.
pub const LEAST_ROOM: u64 = 16 << 20;

/// The least number of files that can still be made: six directories of the store and of a container, four files of a layer
/// while it is made, and some for the container's own.
pub const LEAST_FILES: u64 = 16;

/// What is wrong with the place. Nothing of a store that is not there yet is made.
pub(super) fn look(root: Root<'_>, work_dir: &Path) -> Option<Finding> {
    let shown = work_dir.display();
    let unusable = |what: String| {
        let fix = "set work_dir in [image] of cdh.toml to a directory of a file system that can be written";
        Finding::error(
            "store-unusable",
            format!("the store of layers {shown} can't be used: {what}"),
            fix,
        )
    };
    let (place, metadata) = match nearest(&root.path(work_dir)) {
        Ok(found) => found,
        Err(error) => return Some(unusable(error.to_string())),
    };
    if !metadata.is_dir() {
        return Some(unusable(format!("{} is not a directory", place.display())));
    }
    let status = match statvfs(&place) {
        Ok(status) => status,
        Err(error) => {
            return Some(unusable(format!(
                "{}: {}",
                place.display(),
                io::Error::from(error)
            )));
        }
    };
    if status.f_flag.contains(StatVfsMountFlags::RDONLY) {
        let what = format!(
            "the file system of {} is mounted read-only; a disk with errors becomes so",
            place.display()
        );
        return Some(unusable(what));
    }
    let room = Room::of(&place).ok()?;
    if room.has(LEAST_ROOM, LEAST_FILES) {
        return None;
    }
    Some(Finding::error(
        "store-room",
        format!(
            "the store of layers {shown} has too little room for any image: {}, and {} MiB and {LEAST_FILES} files are the \
             least",
            room.shown(LEAST_FILES),
            LEAST_ROOM >> 20
        ),
        "give the VM more memory, or set work_dir in [image] of cdh.toml to a larger disk",
    ))
}

/// The file or directory itself, or the one above it which is there.
///
/// # Errors
///
/// If it can't be looked at.
pub fn nearest(path: &Path) -> io::Result<(PathBuf, fs::Metadata)> {
    for path in path.ancestors() {
        // A relative path ends in an empty one.
        let path = if path.as_os_str() == OsStr::new("") {
            Path::new(".")
        } else {
            path
        };
        match fs::metadata(path) {
            Ok(metadata) => return Ok((path.to_owned(), metadata)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                return Err(io::Error::new(
                    error.kind(),
                    format!("{}: {error}", path.display()),
                ));
            }
        }
    }
    Err(io::ErrorKind::NotFound.into())
}
