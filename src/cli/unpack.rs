// SPDX-License-Identifier: Apache-2.0

//! `unpack`: writes the entries of a resources file as files.

use std::fs::{DirBuilder, File};
use std::io::{self, Write as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};

use anyhow::{Context as _, bail};
use clap::Args;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat, renameat};
use nix::sys::stat::{Mode, mkdirat};
use nix::unistd::{UnlinkatFlags, linkat, unlinkat};
use offline_fs_kbc::resource::entries::Entry;
use offline_fs_kbc::resource::file;
use offline_fs_kbc::resource::name::Name;
use offline_fs_kbc::resource::parse::parse_object;
use offline_fs_kbc::resource::problem::NAME_SPELLING;
use offline_fs_kbc::text::{EntryName, Escaped, count};

use crate::config::kind_of_entries;

/// What `--help` and the manual show at the end.
const EXAMPLE: &str = "Example:
  offline-fs-kbc unpack aa-offline_fs_kbc-resources.json -C resources";

/// Write the entries of a resources file as files, <repository>/<type>/<tag>
///
/// An entry with an old name is written to the path of its new name. An entry that is broken, or whose name
/// is not a path, is reported, and the others are written. A file whose name ends in keys.json is read as a
/// keys file.
#[derive(Args)]
#[command(after_help = EXAMPLE)]
pub struct Unpack {
    /// The resources file
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// The target directory, created if it is missing; nothing is written outside it
    #[arg(short = 'C', value_name = "DIR")]
    directory: PathBuf,

    /// Replace files that exist
    #[arg(long)]
    force: bool,
}

impl Unpack {
    /// Writes the files.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        crate::process::harden()?;
        let shown = self.file.display();
        let content = file::read(&self.file).with_context(|| format!("can't read {shown}"))?;
        let entries = match parse_object(&content.text, &kind_of_entries(&self.file)) {
            Ok(entries) => entries,
            Err(problem) => bail!("{shown}: {problem}"),
        };
        // A file's path has one spelling.
        let found = entries.problems.iter();
        let mut problems: Vec<String> = found
            .filter(|problem| problem.code != NAME_SPELLING)
            .map(|problem| problem.to_string())
            .collect();
        let directory = open_root(&self.directory)
            .with_context(|| format!("can't open {}", self.directory.display()))?;
        // These are the entries that the daemon would serve.
        for Entry { name, value, .. } in entries.effective() {
            // The problems say what is wrong with the value.
            let Ok(value) = value else { continue };
            match place(&directory, name, value.expose(), self.force) {
                Ok(()) => {
                    let path = self.directory.join(name.as_str());
                    let path = path.display().to_string();
                    super::print(format!("{}: {} bytes\n", Escaped(&path), value.len()))?;
                }
                Err(error) => problems.push(format!(
                    "entry {}: not written: {error}",
                    EntryName(name.as_str())
                )),
            }
        }
        for problem in &problems {
            super::warn(format!("{shown}: {problem}"));
        }
        if problems.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        bail!(
            "{shown}: {}, see above",
            count(problems.len(), "problem", "problems")
        )
    }
}

fn open_root(path: &Path) -> io::Result<File> {
    if !path.exists() {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    }
    let directory = File::open(path)?;
    if directory.metadata()?.is_dir() {
        Ok(directory)
    } else {
        Err(io::Error::other("it is not a directory"))
    }
}

/// Writes one entry to its path below `root`. It opens one directory at a time and follows no symbolic link,
/// so it never leaves `root`.
fn place(root: &File, name: &Name, bytes: &[u8], force: bool) -> io::Result<()> {
    let Name::Path(path) = name else {
        return Err(io::Error::other(
            "its name is not <repository>/<type>/<tag>, so it has no path",
        ));
    };
    let parts: Vec<&str> = path.split('/').collect();
    let [repository, kind, tag] = parts[..] else {
        return Err(io::Error::other("its name does not have three parts"));
    };
    if parts.iter().any(|part| [".", ".."].contains(part)) {
        return Err(io::Error::other("a part of its name is . or .."));
    }
    if path.contains('\0') {
        return Err(io::Error::other("its name contains a NUL byte"));
    }
    let directory = enter(&enter(root, repository)?, kind)?;
    write(&directory, tag, bytes, force)
}

fn enter(parent: &impl AsFd, name: &str) -> io::Result<OwnedFd> {
    match mkdirat(parent, name, Mode::S_IRWXU) {
        Ok(()) | Err(Errno::EEXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    openat(parent, name, flags, Mode::empty()).map_err(|error| match error {
        Errno::ENOTDIR | Errno::ELOOP => io::Error::other(format!(
            "{} is not a directory; symbolic links are not followed",
            EntryName(name)
        )),
        error => error.into(),
    })
}

fn write(directory: &OwnedFd, tag: &str, bytes: &[u8], force: bool) -> io::Result<()> {
    let temporary = format!(".offline-fs-kbc.{}.tmp", process::id());
    let temporary = temporary.as_str();
    let remove = || unlinkat(directory, temporary, UnlinkatFlags::NoRemoveDir);
    // Remove a file that a killed process with the same id may have left.
    let _ = remove();
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    let file = openat(directory, temporary, flags | OFlag::O_CLOEXEC, mode)?;
    let mut file = File::from(file);
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    let placed = written.and_then(|()| {
        if force {
            // A rename replaces whatever is there; a symbolic link itself, not its target.
            Ok(renameat(directory, temporary, directory, tag)?)
        } else {
            // A hard link, unlike a rename, never replaces a file.
            linkat(directory, temporary, directory, tag, AtFlags::empty()).map_err(|error| {
                match error {
                    Errno::EEXIST => io::Error::other("the file exists; --force replaces it"),
                    error => error.into(),
                }
            })
        }
    });
    // After a rename it is already gone.
    let _ = remove();
    placed
}
