// SPDX-License-Identifier: Apache-2.0

//! Files that hold secrets: readable only by their owner, and written completely or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process;

use anyhow::Context as _;

/// Writes `bytes` to `path`, replacing an existing file by one of mode 0600. If the path is not a regular
/// file, such as `/dev/stdout`, it is opened and written to.
///
/// # Errors
///
/// If the file can't be written; an existing file is then unchanged.
pub fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    write_whole(path, bytes).with_context(|| format!("can't write {}", path.display()))
}

fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let target = match fs::metadata(path) {
        Ok(metadata) if !metadata.is_file() => {
            return OpenOptions::new().write(true).open(path)?.write_all(bytes);
        }
        // The file behind a symbolic link is replaced, not the link.
        Ok(_) => fs::canonicalize(path)?,
        Err(_) if fs::symlink_metadata(path).is_ok() => {
            return Err(io::Error::other("it is a dangling symbolic link"));
        }
        Err(_) => path.to_owned(),
    };
    let temporary = temporary_path_for(&target)?;
    let written = write_new(&temporary, bytes).and_then(|()| fs::rename(&temporary, &target));
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(&temporary);
        return written;
    }
    let directory = target.parent().filter(|dir| !dir.as_os_str().is_empty());
    // The file is complete. A failure here only means that its name may not survive a power failure.
    let _ = File::open(directory.unwrap_or(Path::new("."))).and_then(|dir| dir.sync_all());
    Ok(())
}

fn temporary_path_for(target: &Path) -> io::Result<PathBuf> {
    let name = target.file_name().ok_or(io::ErrorKind::InvalidInput)?;
    let mut temporary = std::ffi::OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.tmp", process::id()));
    Ok(target.with_file_name(temporary))
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    // Remove a file that a killed process with the same id may have left.
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Writes `bytes` to `path`, a new file of mode 0600.
///
/// # Errors
///
/// If the path exists, or the file can't be written.
#[cfg(feature = "tools")]
pub fn create(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let create = || {
        let temporary = temporary_path_for(path)?;
        // A hard link, unlike a rename, never replaces a file.
        let written = write_new(&temporary, bytes).and_then(|()| {
            fs::hard_link(&temporary, path).map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => {
                    io::Error::other("it exists and is never replaced; choose another name")
                }
                _ => error,
            })
        });
        let _ = fs::remove_file(&temporary);
        written
    };
    create().with_context(|| format!("can't create {}", path.display()))
}
