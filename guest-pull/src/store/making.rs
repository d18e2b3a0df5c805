// SPDX-License-Identifier: Apache-2.0

//! A layer that is being made: its files, which a worker gets to write, and how it becomes a stored one.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;
use rustix::fs::{Mode, OFlags};

use crate::store::{Error, Held, at};
use crate::sys::{self, Others};

/// The files of a layer that is being made, all empty at first. Who has them can write these, and no other.
#[derive(Debug)]
pub struct Files {
    /// Becomes the layer.
    pub layer: File,
    /// Becomes the notes about it.
    pub notes: File,
    /// For what need not stay. It has no name.
    pub scratch: File,
}

impl Files {
    /// The same files again.
    ///
    /// # Errors
    ///
    /// If there are too many descriptors.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            layer: self.layer.try_clone()?,
            notes: self.notes.try_clone()?,
            scratch: self.scratch.try_clone()?,
        })
    }
}

/// A layer that is being made. No other process makes it meanwhile; if it is dropped, nothing is left of it.
#[derive(Debug)]
pub struct Making {
    /// Its files. They are gone once the layer is published.
    files: Option<Files>,
    paths: Paths,
    /// The lock file, whose lock this process has until it is dropped.
    _lock: Flock<File>,
    is_done: bool,
}

/// Where the files of a layer are.
#[derive(Debug)]
struct Paths {
    layer: PathBuf,
    temporary: PathBuf,
    notes: PathBuf,
    lock: PathBuf,
}

/// What became of a layer that is to be published.
pub enum Publishing {
    /// It is stored.
    Done(Held),
    /// The file system can't tell whether somebody still can write it. It can be published when nobody else is there.
    Later(Making),
}

impl Making {
    /// Begins to make the layer of this path, whose lock is held.
    pub(super) fn begin(layer: PathBuf, lock: Flock<File>) -> Result<Self, Error> {
        let paths = Paths {
            temporary: layer.with_extension("new"),
            notes: layer.with_extension("notes"),
            lock: layer.with_extension("lock"),
            layer,
        };
        let mut making = Self {
            files: None,
            paths,
            _lock: lock,
            is_done: false,
        };
        let new = |path: &Path| {
            // What is there is a killed process's, which may still be open somewhere.
            let _ = fs::remove_file(path);
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(true).mode(0o600);
            options.open(path).map_err(at(path))
        };
        let directory = making.paths.layer.parent().unwrap_or(Path::new("."));
        let files = Files {
            layer: new(&making.paths.temporary)?,
            notes: new(&making.paths.notes)?,
            scratch: unnamed(directory).map_err(at(directory))?,
        };
        making.files = Some(files);
        Ok(making)
    }

    /// The files, to be written.
    ///
    /// # Errors
    ///
    /// If there are too many descriptors.
    pub fn files(&self) -> io::Result<Files> {
        match &self.files {
            Some(files) => files.try_clone(),
            None => Err(io::Error::other("the layer is published already")),
        }
    }

    /// Makes the layer visible to others, once nobody can change it any more: who writes it has to close its files first.
    /// `is_alone` says that all who had them have ended.
    ///
    /// # Errors
    ///
    /// If the files can't be written, or somebody still can write them.
    pub fn publish(mut self, is_alone: bool) -> Result<Publishing, Error> {
        // A name is all that says that a layer is whole, so on a disk it must not outlive a power cut that the content does
        // not. In memory, where the store of a pod VM is, this costs nothing.
        if let Some(files) = self.files.take() {
            let paths = &self.paths;
            files.notes.sync_data().map_err(at(&paths.notes))?;
            files.layer.sync_data().map_err(at(&paths.temporary))?;
        }
        if self.writers()? == Others::Unknown && !is_alone {
            return Ok(Publishing::Later(self));
        }
        let paths = &self.paths;
        let Some(held) = Held::open(&paths.temporary, &paths.notes)? else {
            let text = "it is empty or broken";
            return Err(at(&paths.notes)(io::Error::other(text)));
        };
        // The notes have their name already, since the layer counts as stored when its own file has its name.
        fs::rename(&paths.temporary, &paths.layer).map_err(at(&paths.layer))?;
        self.is_done = true;
        Ok(Publishing::Done(held))
    }
}

impl Making {
    /// Who can still write the files: nobody, or the file system can't tell. It is an error if somebody can.
    fn writers(&self) -> Result<Others, Error> {
        let mut others = Others::None;
        for path in [&self.paths.temporary, &self.paths.notes] {
            let file = File::open(path).map_err(at(path))?;
            match sys::writers(&file).map_err(at(path))? {
                Others::None => {}
                Others::Unknown => others = Others::Unknown,
                Others::Some => {
                    let text = "it is still open for writing: who made it may change it";
                    return Err(at(path)(io::Error::other(text)));
                }
            }
        }
        Ok(others)
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        if !self.is_done {
            let _ = fs::remove_file(&self.paths.temporary);
            let _ = fs::remove_file(&self.paths.notes);
        }
        let _ = fs::remove_file(&self.paths.lock);
    }
}

/// A file without a name in the file system of a directory.
fn unnamed(directory: &Path) -> io::Result<File> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    match rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(file.into()),
        // Some file systems can't. The name is one that `sweep` removes.
        Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::ISDIR) => {
            let path = directory.join(format!("{}.scratch", std::process::id()));
            let mut options = OpenOptions::new();
            options.read(true).write(true).create_new(true).mode(0o600);
            let file = options.open(&path)?;
            fs::remove_file(&path)?;
            Ok(file)
        }
        Err(error) => Err(error.into()),
    }
}
