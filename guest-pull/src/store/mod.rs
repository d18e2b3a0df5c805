// SPDX-License-Identifier: Apache-2.0

//! The directory of layers: each a file that is named by the digest of its archive, and there only when it is whole.

mod making;
mod notes;
mod pull_layers;
mod room;

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use thiserror::Error;

use crate::digest::Digest;
use crate::layer::MAX_NOTES_BYTES;

pub use making::{Making, Publishing};
pub use notes::{MAX_NOTED_PATHS, Stored};
pub use pull_layers::PullLayers;
pub(crate) use room::is_in_memory;
pub use room::{Need, Room, need_of};

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
    /// The file or directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is wrong.
    pub fn io(&self) -> &io::Error {
        &self.error
    }
}

pub(crate) fn at(path: &Path) -> impl Fn(io::Error) -> Error {
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

/// A stored layer that is open. As long as it is, no pull evicts it for its room.
#[derive(Debug)]
pub struct Held {
    /// Its file, for reading.
    pub file: File,
    /// What is known of it.
    pub stored: Stored,
}

/// What a pull that needs a layer finds.
pub enum Claim {
    /// It is there.
    Stored(Held),
    /// Another pull is making it.
    Busy,
    /// It is to be made, by who has this.
    ToMake(Making),
}

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

    /// The store that is there, of which nothing is made; none if there is none.
    pub fn existing(directory: &Path) -> Option<Self> {
        let layers = directory.join("layers");
        layers.is_dir().then(|| Self {
            mounts: directory.join("mounts"),
            directory: directory.to_owned(),
            layers,
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
        let of_making = ["lock", "new", "scratch"].map(OsStr::new);
        let is_left = |path: &PathBuf| {
            let kind = path.extension().unwrap_or_default();
            // Of a stored layer there are both.
            let is_alone = |other: &str| !path.with_extension(other).exists();
            of_making.contains(&kind)
                || kind == "notes" && is_alone("erofs")
                || kind == "erofs" && is_alone("notes")
        };
        for path in paths.filter(is_left) {
            let lock_path = path.with_extension("lock");
            let Ok(Some(lock)) = try_lock(&lock_path) else {
                continue;
            };
            if !is_at(&lock, &lock_path) {
                continue;
            }
            let _ = fs::remove_file(path.with_extension("new"));
            let _ = fs::remove_file(path.with_extension("scratch"));
            let both = ["erofs", "notes"].map(|kind| path.with_extension(kind));
            if !both.iter().all(|path| path.exists()) {
                let _ = both.map(fs::remove_file);
            }
            let _ = fs::remove_file(&lock_path);
        }
    }

    /// Whether a process is making a layer now: this one, or another.
    pub fn is_making(&self) -> bool {
        let entries = fs::read_dir(&self.layers).into_iter().flatten();
        let mut paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        paths.any(|path| {
            // Nothing else is opened: who has a layer open at that moment keeps others from evicting it.
            if path.extension().is_none_or(|kind| kind != "lock") {
                return false;
            }
            let mut options = OpenOptions::new();
            options.read(true);
            options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
            // It may go at any time.
            options.open(path).is_ok_and(|file| {
                // Who wants the lock at this moment finds it taken, and asks again.
                let locked = Flock::lock(file, FlockArg::LockSharedNonblock);
                matches!(locked, Err((_, Errno::EWOULDBLOCK)))
            })
        })
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

    /// Looks for a layer. One whose notes are missing or broken counts as none, and is made anew.
    ///
    /// # Errors
    ///
    /// If the store can't be read or written.
    pub fn claim(&self, diff_id: &Digest) -> Result<Claim, Error> {
        let path = self.path(diff_id);
        let lock_path = path.with_extension("lock");
        loop {
            if let Some(held) = self.held(diff_id)? {
                return Ok(Claim::Stored(held));
            }
            let Some(lock) = try_lock(&lock_path).map_err(at(&lock_path))? else {
                return Ok(Claim::Busy);
            };
            // Whoever had the lock may have made the layer, and removed the lock's file.
            if !is_at(&lock, &lock_path) {
                continue;
            }
            if let Some(held) = self.held(diff_id)? {
                let _ = fs::remove_file(&lock_path);
                return Ok(Claim::Stored(held));
            }
            return Making::begin(path, lock).map(Claim::ToMake);
        }
    }

    /// Begins to make a layer for one pull alone, since the other one that is making it takes too long; none if the file
    /// system can't have such layers.
    ///
    /// # Errors
    ///
    /// If the store can't be written.
    pub fn make_beside(&self, diff_id: &Digest) -> Result<Option<Making>, Error> {
        Making::begin_beside(self.path(diff_id))
    }

    /// A layer, if it is stored.
    ///
    /// # Errors
    ///
    /// If the store can't be read.
    pub fn held(&self, diff_id: &Digest) -> Result<Option<Held>, Error> {
        let path = self.path(diff_id);
        let held = Held::open(&path, &path.with_extension("notes"))?;
        if let Some(held) = &held {
            // Those that were used longest ago are evicted first.
            let _ = held.file.set_modified(SystemTime::now());
        }
        Ok(held)
    }
}

impl Held {
    /// Opens a layer's file, and reads its notes; none if one is missing, or the notes are broken: after a power cut they may
    /// be empty.
    fn open(layer: &Path, notes: &Path) -> Result<Option<Self>, Error> {
        let open = |path: &Path| match open_regular(path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(at(path)(error)),
        };
        let (Some(file), Some(list)) = (open(layer)?, open(notes)?) else {
            return Ok(None);
        };
        Self::of(file, list).map_err(at(notes))
    }

    /// A layer of a file, with the notes in another one; none if these are broken.
    fn of(file: File, notes: File) -> io::Result<Option<Self>> {
        let mut text = Vec::new();
        let most = MAX_NOTES_BYTES as u64 + 1;
        notes.take(most).read_to_end(&mut text)?;
        Ok(Stored::parse(&text).map(|stored| Self { file, stored }))
    }
}

/// Opens a file of the store for reading. Whoever can write there could leave a link to something else, or a pipe that keeps
/// who opens it waiting.
fn open_regular(path: &Path) -> io::Result<File> {
    // This opens only the name. Of a link, it is the link itself.
    let mut options = OpenOptions::new();
    options.read(true);
    options.custom_flags(libc::O_PATH | libc::O_NOFOLLOW);
    let name = options.open(path)?;
    if !name.metadata()?.is_file() {
        let text = "it is no regular file; remove it from the store";
        return Err(io::Error::other(text));
    }
    // Another pull may look at this moment whether anybody uses the file: it has a lease then, for which the kernel has this
    // process wait. With O_NONBLOCK it would fail instead.
    File::open(format!("/proc/self/fd/{}", name.as_raw_fd()))
}

/// Locks a file, which is made if it is missing, unless somebody has the lock.
fn try_lock(path: &Path) -> io::Result<Option<Flock<File>>> {
    match Flock::lock(open_lock(path)?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error.into()),
    }
}

fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
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
    use crate::layer::Summary;
    use crate::sys::{self, Others};
    use std::io::Write as _;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    fn making(store: &Store, id: &Digest) -> Making {
        match store.claim(id).unwrap() {
            Claim::ToMake(making) => making,
            Claim::Busy | Claim::Stored(_) => panic!("it is not to be made"),
        }
    }

    /// Writes a layer as a worker does, and publishes it.
    fn publish(making: Making, stored: &Stored) -> Held {
        let mut files = making.files().unwrap();
        files.layer.write_all(b"layer").unwrap();
        files.notes.write_all(&stored.encode()).unwrap();
        drop(files);
        match making.publish(false).unwrap() {
            Publishing::Done(held) => held,
            Publishing::Later(_) => panic!("the file system has no leases"),
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

    /// A layer is there when it is whole, with its notes; what was evicted leaves nothing.
    #[test]
    fn a_layer_is_whole_or_not_there() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let id = Digest::of(b"a");
        drop(making(&store, &id));
        assert!(names(&store).is_empty());
        let stored = Stored::from(Summary {
            implied: vec![b"/".to_vec(), b"/a\nb".to_vec()],
            links: vec![(b"/a/link".to_vec(), b"/b".to_vec())],
            hides_all: true,
            ..Summary::default()
        });
        let published = publish(making(&store, &id), &stored);
        assert_eq!(published.stored, stored);
        assert_eq!(names(&store).len(), 2, "{:?}", names(&store));
        match store.claim(&id).unwrap() {
            Claim::Stored(found) => assert_eq!(found.stored, stored),
            Claim::Busy | Claim::ToMake(_) => panic!("it is not stored"),
        }
        assert_eq!(fs::read(store.path(&id)).unwrap(), b"layer");
    }

    /// What a killed process left goes; what a running one makes, and what is stored, stays.
    #[test]
    fn what_was_left_is_swept() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let [left, alone, stored, running] = [&b"a"[..], b"b", b"c", b"d"].map(Digest::of);
        publish(making(&store, &stored), &Stored::default());
        for kind in ["new", "notes", "lock"] {
            fs::write(store.path(&left).with_extension(kind), "").unwrap();
        }
        fs::write(store.path(&alone).with_extension("notes"), "").unwrap();
        fs::write(store.path(&stored).with_extension("lock"), "").unwrap();
        fs::write(store.layers.join("1.scratch"), "").unwrap();
        fs::write(store.path(&Digest::of(b"e")), "").unwrap();
        let running = making(&store, &running);
        store.sweep();
        // Of the stored layer two files, and of the one that is being made the lock: its files have no names yet.
        assert_eq!(names(&store).len(), 3, "{:?}", names(&store));
        assert!(store.is_making());
        assert!(store.path(&stored).exists());
        drop(running);
        assert_eq!(names(&store).len(), 2);
        assert!(!store.is_making());
    }

    /// The mounter opens regular files alone: no link to one, and no pipe, which would keep it waiting.
    #[test]
    fn other_files_are_not_opened() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let id = Digest::of(b"a");
        let path = store.path(&id);
        let notes = path.with_extension("notes");
        let pipe = |path: &Path| nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let link = |path: &Path| std::os::unix::fs::symlink("/etc/passwd", path).unwrap();
        for other in [&pipe as &dyn Fn(&Path), &link] {
            for (odd, good) in [(&notes, &path), (&path, &notes)] {
                fs::write(good, Stored::default().encode()).unwrap();
                other(odd);
                let error = store.held(&id).unwrap_err().to_string();
                assert!(error.contains("no regular file"), "{error}");
                fs::remove_file(good).unwrap();
                fs::remove_file(odd).unwrap();
            }
        }
    }

    /// One pull looks whether a layer is used, which takes a lease of it, while another one opens the layer: that one waits
    /// for a moment, and does not fail.
    #[test]
    fn a_lease_fails_no_other_pull() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let id = Digest::of(b"a");
        drop(publish(making(&store, &id), &Stored::default()));
        let file = || File::open(store.path(&id)).unwrap();
        let is_over = AtomicBool::new(false);
        thread::scope(|scope| {
            let leasing = scope.spawn(|| {
                let mut leases = 0;
                while !is_over.load(Ordering::Relaxed) {
                    leases += usize::from(sys::users(&file()).unwrap() == Others::None);
                }
                leases
            });
            // As often as it takes for the two to meet.
            let path = store.path(&id);
            let opened: Vec<_> = (0..50_000).map(|_| open_regular(&path).map(drop)).collect();
            is_over.store(true, Ordering::Relaxed);
            opened.into_iter().collect::<io::Result<()>>().unwrap();
            assert!(leasing.join().unwrap() > 0);
        });
    }

    /// Whether others make layers is asked of the locks alone: nothing else is opened, be it a pipe that nobody writes.
    #[test]
    fn only_locks_say_that_layers_are_made() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let pipe = |name: &str| {
            let path = store.layers.join(name);
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        };
        for name in ["a.erofs", "b.lock", "c"] {
            pipe(name);
        }
        assert!(!store.is_making());
        let making = making(&store, &Digest::of(b"d"));
        assert!(store.is_making());
        drop(making);
    }

    /// What a killed process left of a layer, with all names that it can have, goes when the layer is made anew.
    #[test]
    fn a_layer_is_made_from_the_start() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let id = Digest::of(b"a");
        for kind in ["erofs", "new", "scratch", "lock"] {
            fs::write(store.path(&id).with_extension(kind), "left").unwrap();
        }
        let making = making(&store, &id);
        let lock = format!("{}.lock", id.hex());
        assert_eq!(names(&store), [lock]);
        drop(making);
        assert!(names(&store).is_empty());
    }

    /// A layer that somebody can still write is not published: neither by a descriptor, nor by memory.
    #[test]
    fn who_can_write_a_layer_publishes_none() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        for kind in ["layer", "notes"] {
            let making = making(&store, &Digest::of(b"a"));
            let mut files = making.files().unwrap();
            files.notes.write_all(&Stored::default().encode()).unwrap();
            let (layer, notes) = (Some(files.layer), Some(files.notes));
            let kept = if kind == "layer" { layer } else { notes };
            assert!(making.publish(true).is_err(), "{kind}");
            drop(kept);
            assert!(names(&store).is_empty());
        }
    }

    /// Of several that need a layer at once, one makes it; if that one fails, another makes it.
    #[test]
    fn one_makes_a_layer_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let id = Digest::of(b"a");
        let first = making(&store, &id);
        assert!(matches!(store.claim(&id).unwrap(), Claim::Busy));
        drop(first);
        let second = making(&store, &id);
        assert!(matches!(store.claim(&id).unwrap(), Claim::Busy));
        publish(second, &Stored::default());
        assert!(matches!(store.claim(&id).unwrap(), Claim::Stored(_)));
    }
}
