// SPDX-License-Identifier: Apache-2.0

//! The directory of layers: each a file that is named by the digest of its archive, and there only when it is whole.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use thiserror::Error;

use crate::digest::Digest;
use crate::layer::path::parts;
use crate::layer::{MAX_NOTES, MAX_NOTES_BYTES, Summary};

/// Why the store can't be used.
#[derive(Debug, Error)]
#[error("{}: {error}", path.display())]
pub struct Error {
    /// The file or directory.
    path: PathBuf,
    /// What is wrong with it.
    error: io::Error,
}

impl Error {
    /// What is wrong.
    pub fn io(&self) -> &io::Error {
        &self.error
    }
}

fn at(path: &Path) -> impl Fn(io::Error) -> Error {
    let path = path.to_owned();
    move |error| Error {
        path: path.clone(),
        error,
    }
}

/// A directory of layers.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
    layers: PathBuf,
    mounts: PathBuf,
}

/// What is known of a stored layer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stored {
    /// The directories that the archive had no entry for.
    pub implied: Vec<Vec<u8>>,
    /// The hard links to files of lower layers, and those files.
    pub links: Vec<(Vec<u8>, Vec<u8>)>,
    /// Whether it hides everything below it.
    pub hides_all: bool,
}

/// What a pull that needs a layer finds.
pub enum Claim {
    /// It is there.
    Stored(Stored),
    /// It is to be made, by who has this.
    ToMake(Making),
}

/// A layer that is being made. No other process makes it meanwhile; if it is dropped, nothing is left of it.
pub struct Making {
    /// The file for the layer, empty.
    pub file: File,
    /// An empty file without a name, for what memory should not hold while the layer is made.
    pub scratch: File,
    path: PathBuf,
    temporary: PathBuf,
    notes: PathBuf,
    /// The lock file, whose lock this process has until it is dropped.
    _lock: Flock<File>,
    lock_path: PathBuf,
    is_done: bool,
}

/// The pause between two attempts at a lock: another pull needs a second or more for a layer.
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// The first line of the notes about a layer, so that later versions know them.
const NOTES: &[u8] = b"guest-pull 1\n";

impl Store {
    /// Opens the store, and makes its directories.
    ///
    /// # Errors
    ///
    /// If they can't be made.
    pub fn open(directory: &Path) -> Result<Self, Error> {
        let layers = directory.join("layers");
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&layers)
            .map_err(at(&layers))?;
        let mounts = directory.join("mounts");
        let directory = directory.to_owned();
        Ok(Self {
            directory,
            layers,
            mounts,
        })
    }

    /// The directory of all.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The directory of writable layers, which need not exist.
    pub fn writable(&self) -> PathBuf {
        self.directory.join("writable")
    }

    /// Removes what killed processes left of layers that they were making. What a running one makes is locked, and stays.
    pub fn sweep(&self) {
        let entries = fs::read_dir(&self.layers).into_iter().flatten();
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let is_of_making = |path: &PathBuf| {
            path.extension()
                .is_some_and(|kind| kind == "lock" || kind == "new" || kind == "scratch")
        };
        for path in paths.filter(is_of_making) {
            let lock_path = path.with_extension("lock");
            let Ok(file) = open_lock(&lock_path) else {
                continue;
            };
            let Ok(lock) = Flock::lock(file, FlockArg::LockExclusiveNonblock) else {
                continue;
            };
            if !is_at(&lock, &lock_path) {
                continue;
            }
            let _ = fs::remove_file(path.with_extension("new"));
            let _ = fs::remove_file(path.with_extension("scratch"));
            if !path.with_extension("erofs").exists() {
                let _ = fs::remove_file(path.with_extension("notes"));
            }
            let _ = fs::remove_file(&lock_path);
        }
    }

    /// The path of a layer's file.
    pub fn path(&self, diff_id: &Digest) -> PathBuf {
        self.layers.join(format!("{}.erofs", diff_id.hex()))
    }

    /// An empty directory, over which a mounter puts a file system of its own.
    ///
    /// # Errors
    ///
    /// If it can't be made.
    pub fn mounts(&self) -> io::Result<PathBuf> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.mounts)?;
        fs::canonicalize(&self.mounts)
    }

    /// Looks for a layer. If another process is making it, waits until that has succeeded or failed, as long as `wait` says
    /// so. A layer whose notes are missing or broken counts as none, and is made anew.
    ///
    /// # Errors
    ///
    /// If the store can't be read or written, or the wait was given up.
    pub fn claim(&self, diff_id: &Digest, wait: &dyn Fn() -> bool) -> Result<Claim, Error> {
        let path = self.path(diff_id);
        let lock_path = path.with_extension("lock");
        loop {
            if let Some(stored) = self.stored(diff_id)? {
                return Ok(Claim::Stored(stored));
            }
            let lock = lock(&lock_path, wait).map_err(at(&lock_path))?;
            // Whoever had the lock may have made the layer, and removed the lock's file.
            if !is_at(&lock, &lock_path) {
                continue;
            }
            if let Some(stored) = self.stored(diff_id)? {
                let _ = fs::remove_file(&lock_path);
                return Ok(Claim::Stored(stored));
            }
            let temporary = path.with_extension("new");
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&temporary)
                .map_err(at(&temporary))?;
            let scratch = unnamed(&path.with_extension("scratch"))?;
            return Ok(Claim::ToMake(Making {
                file,
                scratch,
                notes: path.with_extension("notes"),
                path,
                temporary,
                _lock: lock,
                lock_path,
                is_done: false,
            }));
        }
    }

    /// What is known of a layer, if it is stored.
    ///
    /// # Errors
    ///
    /// If the store can't be read.
    pub fn stored(&self, diff_id: &Digest) -> Result<Option<Stored>, Error> {
        let path = self.path(diff_id);
        if !path.exists() {
            return Ok(None);
        }
        let notes = path.with_extension("notes");
        let mut text = Vec::new();
        let file = match File::open(&notes) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at(&notes)(error)),
        };
        file.take(MAX_NOTES_BYTES as u64 + 1)
            .read_to_end(&mut text)
            .map_err(at(&notes))?;
        // After a power cut they may be empty.
        Ok(Stored::parse(&text))
    }
}

impl Making {
    /// Makes the layer visible to others.
    ///
    /// # Errors
    ///
    /// If its files can't be written.
    pub fn finish(mut self, summary: Summary) -> Result<Stored, Error> {
        let stored = Stored {
            implied: summary.implied,
            links: summary.links,
            hides_all: summary.hides_all,
        };
        let notes = stored.encode();
        if notes.len() > MAX_NOTES_BYTES {
            let what =
                "the layer has too many directories without entries, or links to lower layers";
            return Err(at(&self.notes)(io::Error::other(what)));
        }
        // The notes come first, since the layer counts as stored when its own file has its name.
        if !stored.is_sound() {
            let what = "a directory without an entry, or a link to a lower layer, has a name that no path can have";
            return Err(at(&self.notes)(io::Error::other(what)));
        }
        let write = || {
            let mut file = File::create(&self.notes)?;
            file.write_all(&notes)?;
            file.sync_data()
        };
        write().map_err(at(&self.notes))?;
        // A name is all that says that a layer is whole, so on a disk it must not outlive a power cut that the content does
        // not. In memory, where the store of a pod VM is, this costs nothing.
        self.file.sync_data().map_err(at(&self.temporary))?;
        fs::rename(&self.temporary, &self.path).map_err(at(&self.path))?;
        self.is_done = true;
        Ok(stored)
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        if !self.is_done {
            let _ = fs::remove_file(&self.temporary);
            let _ = fs::remove_file(&self.notes);
        }
        let _ = fs::remove_file(&self.lock_path);
    }
}

impl Stored {
    /// The notes: a line that says whether the layer hides all below it, then the directories, each with a NUL byte at its
    /// end; then the links, after an equals sign, each with its target behind it.
    fn encode(&self) -> Vec<u8> {
        let mut text = NOTES.to_vec();
        text.extend(if self.hides_all {
            &b"hides all\n"[..]
        } else {
            b"\n"
        });
        for path in &self.implied {
            text.extend(path);
            text.push(0);
        }
        for (path, target) in &self.links {
            text.extend([b"=", &path[..], b"\0", target, b"\0"].concat());
        }
        text
    }

    /// Whether [`Stored::parse`] takes all of it.
    fn is_sound(&self) -> bool {
        let links = self.links.iter().flat_map(|(path, target)| [path, target]);
        let mut paths = self.implied.iter().chain(links);
        self.implied.len() + self.links.len() <= MAX_NOTES
            && paths.all(|path| normal(path).is_some())
    }

    /// The mounter reads what the worker wrote, so each path must be one that can't lead anywhere else.
    fn parse(text: &[u8]) -> Option<Self> {
        if text.len() > MAX_NOTES_BYTES {
            return None;
        }
        let text = text.strip_prefix(NOTES)?;
        let end = text.iter().position(|byte| *byte == b'\n')?;
        let hides_all = match &text[..end] {
            b"hides all" => true,
            b"" => false,
            _ => return None,
        };
        let list = &text[end + 1..];
        let mut stored = Self {
            hides_all,
            ..Self::default()
        };
        if list.is_empty() {
            return Some(stored);
        }
        let mut paths = list.strip_suffix(&[0])?.split(|byte| *byte == 0);
        while let Some(path) = paths.next() {
            if stored.implied.len() + stored.links.len() == MAX_NOTES {
                return None;
            }
            match path.strip_prefix(b"=") {
                Some(link) => {
                    let target = paths.next()?;
                    stored.links.push((normal(link)?, normal(target)?));
                }
                None => stored.implied.push(normal(path)?),
            }
        }
        Some(stored)
    }
}

/// A file without a name, made at a path that is free again at once.
fn unnamed(path: &Path) -> Result<File, Error> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(at(path))?;
    fs::remove_file(path).map_err(at(path))?;
    Ok(file)
}

/// A path, if it is as this program writes it: from the root, with nothing in it that leads elsewhere.
fn normal(path: &[u8]) -> Option<Vec<u8>> {
    let parts = parts(path).ok()?;
    let normal: Vec<_> = parts
        .iter()
        .flat_map(|part| [b"/", *part].concat())
        .collect();
    let is_root = parts.is_empty() && path == b"/";
    (is_root || normal == path && !parts.is_empty()).then(|| path.to_vec())
}

/// Waits for the lock on a file, which is made if it is missing. It is asked for again and again, since the kernel's own wait
/// can't be given up.
fn lock(path: &Path, wait: &dyn Fn() -> bool) -> io::Result<Flock<File>> {
    let mut file = open_lock(path)?;
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, Errno::EINTR)) => file = back,
            Err((back, Errno::EWOULDBLOCK)) => {
                if !wait() {
                    return Err(io::Error::other("given up, since another layer failed"));
                }
                file = back;
                thread::sleep(LOCK_RETRY);
            }
            Err((_, error)) => return Err(error.into()),
        }
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

/// Whether the path still leads to the locked file.
pub(crate) fn is_at(lock: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    let identity = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let locked = lock.metadata().map(identity);
    let there = fs::symlink_metadata(path).map(identity);
    matches!((locked, there), (Ok(locked), Ok(there)) if locked == there)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic, clippy::unwrap_used)]
    use super::*;

    fn making(store: &Store, id: &Digest) -> Making {
        match store.claim(id, &|| true).unwrap() {
            Claim::ToMake(making) => making,
            Claim::Stored(_) => panic!("it is stored"),
        }
    }

    fn names(store: &Store) -> Vec<String> {
        let entries = fs::read_dir(&store.layers).unwrap();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// A layer is there when it is whole, with its notes; what was given up leaves nothing.
    #[test]
    fn a_layer_is_whole_or_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let id = Digest::of(b"a");
        drop(making(&store, &id));
        assert!(names(&store).is_empty());
        let mut made = making(&store, &id);
        made.file.write_all(b"layer").unwrap();
        let summary = Summary {
            implied: vec![b"/".to_vec(), b"/a\nb".to_vec()],
            links: vec![(b"/a/link".to_vec(), b"/b".to_vec())],
            hides_all: true,
            ..Summary::default()
        };
        let stored = made.finish(summary).unwrap();
        assert_eq!(names(&store).len(), 2, "{:?}", names(&store));
        match store.claim(&id, &|| true).unwrap() {
            Claim::Stored(found) => assert_eq!(found, stored),
            Claim::ToMake(_) => panic!("it is not stored"),
        }
        assert_eq!(fs::read(store.path(&id)).unwrap(), b"layer");
    }

    /// What a killed process left goes; what a running one makes, and what is stored, stays.
    #[test]
    fn what_was_left_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let [left, stored, running] = [&b"a"[..], b"b", b"c"].map(Digest::of);
        let finished = making(&store, &stored).finish(Summary::default());
        finished.unwrap();
        for kind in ["new", "notes", "lock"] {
            fs::write(store.path(&left).with_extension(kind), "").unwrap();
        }
        fs::write(store.path(&stored).with_extension("lock"), "").unwrap();
        let running = making(&store, &running);
        store.sweep();
        // Two files each: of the stored layer, and of the one that is being made.
        assert_eq!(names(&store).len(), 4, "{:?}", names(&store));
        assert!(store.path(&stored).exists() && running.temporary.exists());
        drop(running);
        assert_eq!(names(&store).len(), 2);
    }

    /// What a worker that was taken over could write beside a layer leads nowhere.
    #[test]
    fn notes_have_plain_paths_alone() {
        let notes = |path: &[u8]| [NOTES, b"\n", path, b"\0"].concat();
        for good in [&b"/"[..], b"/a", b"/a b/\xff"] {
            let stored = Stored::parse(&notes(good)).unwrap();
            assert_eq!(stored.implied, [good]);
        }
        for bad in [
            &b""[..],
            b"a",
            b"//a",
            b"/a/",
            b"/a//b",
            b"/./a",
            b"/../a",
            b"/a/..",
        ] {
            assert!(
                Stored::parse(&notes(bad)).is_none(),
                "{}",
                bad.escape_ascii()
            );
        }
    }

    /// Of several that need a layer at once, one makes it and the others wait for it; if that one fails, the next makes it.
    #[test]
    fn one_makes_a_layer_and_others_wait() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let id = Digest::of(b"a");
        let first = making(&store, &id);
        thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    let store = store.clone();
                    scope.spawn(move || match store.claim(&id, &|| true).unwrap() {
                        Claim::ToMake(making) => {
                            making.finish(Summary::default()).unwrap();
                            1
                        }
                        Claim::Stored(_) => 0,
                    })
                })
                .collect();
            drop(first);
            let made: i32 = threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .sum();
            assert_eq!(made, 1);
        });
    }
}
