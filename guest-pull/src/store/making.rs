// SPDX-License-Identifier: Apache-2.0

//! A layer that is being made: its files, which a worker gets to write, and how it becomes a stored one.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use nix::fcntl::Flock;
use rustix::fs::{AtFlags, CWD, Mode, OFlags, linkat};
use rustix::io::Errno;

use crate::question::Files;
use crate::store::{Error, Held, at};
use crate::sys::{self, Others};

/// A layer that is being made. No other process makes it meanwhile; if it is dropped, nothing is left of it.
#[derive(Debug)]
pub struct Making {
    /// Its files. They are gone once the layer is published.
    files: Option<Files>,
    /// The layer and the notes for reading alone, of a layer without a name that can be published only later.
    reading: Option<(File, File)>,
    /// Whether layer and notes have names, where the file system has no files without. They are a killed process's else, and
    /// take room until the next pull; and the kernel kills processes when there is no room.
    are_named: bool,
    paths: Paths,
    /// The lock file, whose lock this process has until it is dropped; none if the layer is for this pull alone.
    lock: Option<Flock<File>>,
    is_done: bool,
}

/// Says who can still write a file.
type Writers<'w> = dyn Fn(&File) -> io::Result<Others> + 'w;

/// Where the files of a layer are.
#[derive(Debug)]
struct Paths {
    layer: PathBuf,
    temporary: PathBuf,
    notes: PathBuf,
    scratch: PathBuf,
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
            scratch: layer.with_extension("scratch"),
            lock: layer.with_extension("lock"),
            layer,
        };
        let mut making = Self {
            files: None,
            reading: None,
            are_named: false,
            paths,
            lock: Some(lock),
            is_done: false,
        };
        let paths = &making.paths;
        // What is there is a killed process's, or counts as no layer: with new notes it would count as one.
        for path in [&paths.layer, &paths.temporary, &paths.notes, &paths.scratch] {
            let _ = fs::remove_file(path);
        }
        let directory = paths.layer.parent().unwrap_or(Path::new("."));
        let layer = unnamed(directory).map_err(at(directory))?;
        making.are_named = layer.is_none();
        let file = |path: &Path| match making.are_named {
            true => named(path),
            false => Ok(unnamed(directory)
                .map_err(at(directory))?
                .ok_or_else(|| at(directory)(io::ErrorKind::Unsupported.into()))?),
        };
        let scratch = file(&paths.scratch)?;
        if making.are_named {
            fs::remove_file(&paths.scratch).map_err(at(&paths.scratch))?;
        }
        let files = Files {
            notes: file(&paths.notes)?,
            layer: match layer {
                Some(layer) => layer,
                None => named(&paths.temporary)?,
            },
            scratch,
        };
        making.files = Some(files);
        Ok(making)
    }

    /// Begins to make a layer that another pull is making too. It gets no name, so that it goes with the mount that uses it.
    /// None if the file system has no files without names.
    pub(super) fn begin_beside(layer: PathBuf) -> Result<Option<Self>, Error> {
        let directory = layer.parent().unwrap_or(Path::new(".")).to_owned();
        let file = || unnamed(&directory).map_err(at(&directory));
        let (Some(layer_file), Some(notes), Some(scratch)) = (file()?, file()?, file()?) else {
            return Ok(None);
        };
        let files = Files {
            layer: layer_file,
            notes,
            scratch,
        };
        let name =
            |descriptor: &File| PathBuf::from(format!("/proc/self/fd/{}", descriptor.as_raw_fd()));
        Ok(Some(Self {
            paths: Paths {
                temporary: name(&files.layer),
                notes: name(&files.notes),
                scratch: PathBuf::new(),
                lock: PathBuf::new(),
                layer,
            },
            files: Some(files),
            reading: None,
            are_named: false,
            lock: None,
            is_done: false,
        }))
    }

    /// How many bytes of room the files take.
    pub fn size(&self) -> u64 {
        let Some(Files {
            layer,
            notes,
            scratch,
        }) = &self.files
        else {
            return 0;
        };
        // stat(2) counts in such units, whatever the blocks of the file system are.
        let size = |file: &File| {
            file.metadata()
                .map_or(0, |of| of.blocks().saturating_mul(512))
        };
        [layer, notes, scratch].map(size).iter().sum()
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
        if self.lock.is_none() {
            return self.finish_beside(is_alone, &sys::writers);
        }
        // A name is all that says that a layer is whole, so on a disk it must not outlive a power cut that the content does
        // not. In memory, where the store of a pod VM is, this costs nothing.
        if let Some(files) = self.files.take() {
            let paths = &self.paths;
            files.notes.sync_data().map_err(at(&paths.notes))?;
            files.layer.sync_data().map_err(at(&paths.temporary))?;
            if !self.are_named {
                name(&files.notes, &paths.notes)?;
                name(&files.layer, &paths.temporary)?;
            }
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
    /// Takes a layer that gets no name. `writers` says who can still write a file.
    fn finish_beside(mut self, is_alone: bool, writers: &Writers<'_>) -> Result<Publishing, Error> {
        if let Some(files) = self.files.take() {
            // By the descriptors that are closed here, they are opened once more, for reading alone.
            let open = |path: &Path| File::open(path).map_err(at(path));
            self.reading = Some((open(&self.paths.temporary)?, open(&self.paths.notes)?));
            drop(files);
        }
        let Some((layer, notes)) = self.reading.take() else {
            return Err(at(&self.paths.layer)(io::ErrorKind::InvalidInput.into()));
        };
        let mut is_unknown = false;
        for file in [&layer, &notes] {
            match writers(file).map_err(at(&self.paths.layer))? {
                Others::None => {}
                Others::Unknown if is_alone => {}
                Others::Unknown => is_unknown = true,
                Others::Some => {
                    let text = "it is still open for writing: who made it may change it";
                    return Err(at(&self.paths.layer)(io::Error::other(text)));
                }
            }
        }
        if is_unknown {
            self.reading = Some((layer, notes));
            return Ok(Publishing::Later(self));
        }
        match Held::of(layer, notes).map_err(at(&self.paths.layer))? {
            Some(held) => Ok(Publishing::Done(held)),
            None => {
                let text = "its notes are empty or broken";
                Err(at(&self.paths.layer)(io::Error::other(text)))
            }
        }
    }

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
        if self.lock.is_none() {
            return;
        }
        if !self.is_done {
            let _ = fs::remove_file(&self.paths.temporary);
            let _ = fs::remove_file(&self.paths.notes);
        }
        let _ = fs::remove_file(&self.paths.lock);
    }
}

/// A new file of this name.
fn named(path: &Path) -> Result<File, Error> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    options.open(path).map_err(at(path))
}

/// A file without a name in the file system of a directory, which goes with its last user; none if the file system has no
/// such files.
fn unnamed(directory: &Path) -> io::Result<Option<File>> {
    let flags = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    match rustix::fs::open(directory, flags, Mode::RUSR | Mode::WUSR) {
        Ok(file) => Ok(Some(file.into())),
        Err(Errno::OPNOTSUPP | Errno::ISDIR) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Gives a file without a name this one: openat(2), at `O_TMPFILE`.
fn name(file: &File, path: &Path) -> Result<(), Error> {
    let descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
    let named = linkat(CWD, descriptor, CWD, path, AtFlags::SYMLINK_FOLLOW);
    named.map_err(|error| at(path)(error.into()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic, clippy::unwrap_used)]
    use std::io::{Read as _, Write as _};

    use super::*;
    use crate::digest::Digest;
    use crate::store::{Store, Stored};

    /// Where the file system can't tell who writes a file, a layer for one pull alone is published when its maker has ended.
    /// One that somebody is known to write is never.
    #[test]
    fn a_layer_without_a_name_can_wait_for_its_maker() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let store = Store::open(dir.path()).unwrap();
        let id = Digest::of(b"a");
        let made = || {
            let making = store.make_beside(&id).unwrap().unwrap();
            let mut files = making.files().unwrap();
            files.layer.write_all(b"layer").unwrap();
            files.notes.write_all(&Stored::default().encode()).unwrap();
            (making, files)
        };
        let (making, files) = made();
        drop(files);
        let unknown = |_: &File| Ok(Others::Unknown);
        let Publishing::Later(making) = making.finish_beside(false, &unknown).unwrap() else {
            panic!("its maker may still write it");
        };
        let Publishing::Done(mut held) = making.finish_beside(true, &unknown).unwrap() else {
            panic!("its maker has ended");
        };
        let mut layer = String::new();
        held.file.read_to_string(&mut layer).unwrap();
        assert_eq!(layer, "layer");
        let (making, files) = made();
        assert!(making.publish(true).is_err());
        drop(files);
        assert_eq!(fs::read_dir(dir.path().join("layers")).unwrap().count(), 0);
    }
}
