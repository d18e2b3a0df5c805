// SPDX-License-Identifier: Apache-2.0

//! Where the writable layer of an image goes, and how its room is given back.
//!
//! Where the store is in memory, it goes into the bundle, which kata-agent removes. Where the store is on a disk, it goes
//! there, since that disk is there to spare memory: into a directory of its own. Nobody tells this program when the overlay
//! is gone, so later pulls remove the directories that no overlay uses any more.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use ring::rand::{SecureRandom as _, SystemRandom};
use rustix::fs::statfs;

use crate::store::{Error, Store, at, is_at, is_in_memory};

/// How many random bytes a name has. A name is never used twice, and overlays are found by it.
const NAME_BYTES: usize = 16;

/// Directories for a writable layer. They are removed when this is dropped, unless they are kept.
#[derive(Debug)]
pub struct Writable {
    /// What is written goes here.
    pub upper: PathBuf,
    /// The overlay's own.
    pub work: PathBuf,
    /// What was made, and is removed with all that is in it.
    made: Vec<PathBuf>,
    /// Held until an overlay uses the directories, so that no other pull removes them.
    lock: Option<Flock<File>>,
}

impl Writable {
    /// Makes the directories: in the bundle, or in the store if that is on a disk.
    ///
    /// # Errors
    ///
    /// If they can't be made, or the bundle has files of an earlier pull.
    pub fn make(store: &Store, bundle: &Path) -> Result<Self, Error> {
        let status =
            statfs(store.directory()).map_err(|error| at(store.directory())(error.into()))?;
        let mut writable = match is_in_memory(&status) {
            true => {
                remove_unused(bundle);
                Self::of(bundle, Vec::new(), None)
            }
            false => {
                let (directory, lock) = make_locked(&store.writable())?;
                Self::of(&directory, vec![directory.clone()], Some(lock))
            }
        };
        for path in [writable.work.clone(), writable.upper.clone()] {
            fs::create_dir(&path).map_err(|error| match error.kind() {
                io::ErrorKind::AlreadyExists => taken(&path),
                _ => at(&path)(error),
            })?;
            if path == writable.work && writable.lock.is_none() {
                let lock = try_lock(&path).map_err(at(&path))?;
                let lock = lock.filter(|lock| is_at(lock, &path));
                writable.lock = Some(lock.ok_or_else(|| taken(&path))?);
            }
            writable.made.push(path);
        }
        Ok(writable)
    }

    fn of(directory: &Path, made: Vec<PathBuf>, lock: Option<Flock<File>>) -> Self {
        Self {
            upper: directory.join("upper"),
            work: directory.join("work"),
            made,
            lock,
        }
    }

    /// Leaves the directories, which an overlay uses now.
    pub fn keep(mut self) {
        self.made.clear();
    }
}

impl Drop for Writable {
    fn drop(&mut self) {
        for path in self.made.iter().rev() {
            let _ = fs::remove_dir_all(path);
        }
    }
}

fn taken(path: &Path) -> Error {
    let text = "it is there already, from another pull; remove it, or take another bundle";
    at(path)(io::Error::other(text))
}

/// Removes the directories in a bundle that a pull made which was killed before it mounted. An overlay makes a directory in
/// its work directory, and leaves it there.
fn remove_unused(bundle: &Path) {
    let [work, upper] = ["work", "upper"].map(|name| bundle.join(name));
    let Ok(Some(lock)) = try_lock(&work) else {
        return;
    };
    let is_empty = fs::read_dir(&work).is_ok_and(|mut entries| entries.next().is_none());
    if is_empty && is_at(&lock, &work) {
        let _ = fs::remove_dir_all(upper);
        let _ = fs::remove_dir(work);
    }
}

/// Makes a directory with a new name in `parent`, and locks it.
fn make_locked(parent: &Path) -> Result<(PathBuf, Flock<File>), Error> {
    let mut builder = DirBuilder::new();
    builder.mode(0o700);
    builder.recursive(true).create(parent).map_err(at(parent))?;
    builder.recursive(false);
    let parent = fs::canonicalize(parent).map_err(at(parent))?;
    loop {
        let mut bytes = [0_u8; NAME_BYTES];
        let filled = SystemRandom::new().fill(&mut bytes);
        filled.map_err(|_| at(&parent)(io::Error::other("no random bytes for a name")))?;
        let name: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let path = parent.join(name);
        builder.create(&path).map_err(at(&path))?;
        // Another pull may have found it before it was locked, and removed it.
        match try_lock(&path) {
            Ok(Some(lock)) if is_at(&lock, &path) => return Ok((path, lock)),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(&path)(error)),
            _ => {}
        }
    }
}

/// Locks a directory, unless somebody has it.
fn try_lock(path: &Path) -> io::Result<Option<Flock<File>>> {
    match Flock::lock(File::open(path)?, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::Error::EWOULDBLOCK)) => Ok(None),
        Err((_, error)) => Err(error.into()),
    }
}

/// Removes the directories of the store that no overlay uses any more, and gives what could not be removed.
pub fn reclaim(store: &Store) -> Vec<Error> {
    let parent = store.writable();
    let entries = match fs::read_dir(&parent) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => return vec![at(&parent)(error)],
    };
    // Locked before the mounts are read: whoever had a lock has mounted before it gave the lock up.
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let is_ours = |name: &String| {
        name.len() == 2 * NAME_BYTES && name.bytes().all(|byte| byte.is_ascii_hexdigit())
    };
    let free = names.filter(is_ours).filter_map(|name| {
        let lock = try_lock(&parent.join(&name)).ok()??;
        Some((name, lock))
    });
    let free: Vec<_> = free.collect();
    if free.is_empty() {
        return Vec::new();
    }
    let used = match names_in_use() {
        Ok(used) => used,
        Err(error) => return vec![at(Path::new("/proc"))(error)],
    };
    let unused = free.iter().filter(|(name, _)| !used.contains(name));
    let removed = unused.map(|(name, _)| {
        let path = parent.join(name);
        fs::remove_dir_all(&path).map_err(at(&path))
    });
    removed.filter_map(Result::err).collect()
}

/// The names of all writable layers that an overlay uses, in whatever mount namespace.
///
/// # Errors
///
/// If a namespace can't be read: then nobody knows what is unused.
fn names_in_use() -> io::Result<BTreeSet<String>> {
    let mut used = BTreeSet::new();
    let mut seen = BTreeSet::new();
    for entry in fs::read_dir("/proc")? {
        let process = entry?.path();
        let name = process.file_name().unwrap_or_default();
        if !name.as_encoded_bytes().iter().all(u8::is_ascii_digit) {
            continue;
        }
        // In one namespace, processes with different roots see different mounts. Who may not see where a process is reads
        // the same mounts once more.
        let namespace = fs::read_link(process.join("ns/mnt")).ok();
        let place = namespace.zip(fs::read_link(process.join("root")).ok());
        if place.as_ref().is_some_and(|place| seen.contains(place)) {
            continue;
        }
        match fs::read(process.join("mountinfo")) {
            Ok(text) => {
                used.extend(names_in(&text));
                seen.extend(place);
            }
            // It has ended, or is about to.
            Err(error) if is_gone(&error) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(used)
}

/// Whether a file of a process is not there, since the process has ended: it has no mounts then.
fn is_gone(error: &io::Error) -> bool {
    let gone = [libc::ENOENT, libc::ESRCH, libc::EINVAL];
    error
        .raw_os_error()
        .is_some_and(|code| gone.contains(&code))
}

/// The names of the writable layers in a `mountinfo`: proc_pid_mountinfo(5).
///
/// What precedes the name in the option `upperdir` depends on how the store was reached, and is escaped where it has
/// white space; the name itself and what is around it never is.
fn names_in(text: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(text);
    let overlays = text.lines().filter_map(|line| {
        let (_, rest) = line.split_once(" - ")?;
        rest.strip_prefix("overlay ")
    });
    let names = overlays.flat_map(|rest| {
        let options = rest.rsplit(' ').next().unwrap_or_default();
        options.split(',').filter_map(|option| {
            let upper = option.strip_prefix("upperdir=")?;
            let (_, name) = upper.strip_suffix("/upper")?.rsplit_once("/writable/")?;
            Some(name.to_owned())
        })
    });
    names.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The name is found whatever the path before it has, and among other mounts.
    #[test]
    fn overlays_are_found_by_name() {
        let text = "22 1 0:2 / / rw - ext4 /dev/vda rw,upperdir=/x/writable/no/upper\n\
            30 22 0:9 / /run/a\\040b/rootfs rw,relatime shared:1 - overlay overlay rw,lowerdir=0:1,\
            upperdir=/store\\040\\054x/writable/aa/upper,workdir=/y/writable/bb/work,xino=off\n\
            31 22 0:9 / /z rw - overlay overlay rw,lowerdir=0,upperdir=/other/upper,workdir=/other/work\n\
            32 22 0:9 / /z rw - overlay over lay rw,lowerdir=0,upperdir=/writable/cc/upper\n";
        assert_eq!(names_in(text.as_bytes()), ["aa", "cc"]);
    }
}
