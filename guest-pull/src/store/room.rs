// SPDX-License-Identifier: Apache-2.0

//! The room of the store: how much there is, and what is evicted for more.

use std::fmt;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rustix::fs::{StatFs, statfs};

use crate::store::{Error, Store, at, is_at, open_regular};
use crate::sys::{self, Others};

/// File systems in memory: `TMPFS_MAGIC` and `RAMFS_MAGIC` of the kernel's `include/uapi/linux/magic.h`.
const IN_MEMORY: [u32; 2] = [0x0102_1994, 0x8584_58f6];

/// How many files a layer takes while it is made: itself, its notes, its scratch file and its lock.
pub(super) const FILES_OF_A_LAYER: u64 = 4;

/// How large a layer becomes, by the size of its blob: a Debian root file system takes 1.7 times as much, since it was
/// compressed better before.
const GROWTH: u64 = 2;

/// What a layer needs beside: blocks for what is small.
pub(super) const LEAST_ROOM: u64 = 1 << 20;

/// How many files a stored layer gives back: itself and its notes.
const FILES_OF_A_STORED_LAYER: u64 = 2;

/// Whether a file system is in memory, where its files take the VM's.
pub(crate) fn is_in_memory(status: &StatFs) -> bool {
    // The type has another width on each architecture; the numbers fit all.
    IN_MEMORY.contains(&(status.f_type as u32))
}

/// The room that a layer needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// How many bytes it is expected to take.
    pub bytes: u64,
    /// How many bytes it takes at least. Where it can't get them, no stored layer is evicted for it.
    pub least: u64,
    /// How many files it takes.
    pub files: u64,
}

/// How much room the file system of a store has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// The bytes that are free, if the file system has an end. In memory, no more than the machine has.
    pub free: Option<u64>,
    /// The bytes that the file system has.
    pub all: Option<u64>,
    /// How many files can still be made, if that has an end.
    pub files: Option<u64>,
}

impl Room {
    /// Of the file system that has this directory.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn of(directory: &Path) -> io::Result<Self> {
        let status = statfs(directory)?;
        // The types have other widths on other architectures.
        let block = u64::try_from(status.f_bsize).unwrap_or_default();
        let bytes = |blocks: u64| blocks.saturating_mul(block);
        // A tmpfs without a limit says 0 of 0.
        let has_end = status.f_blocks > 0;
        let mut free = has_end.then(|| bytes(status.f_bavail));
        if is_in_memory(&status) {
            let available = available_memory();
            free = match (free, available) {
                (Some(free), Some(available)) => Some(free.min(available)),
                (free, available) => free.or(available),
            };
        }
        Ok(Self {
            free,
            all: has_end.then(|| bytes(status.f_blocks)),
            files: (status.f_files > 0).then_some(status.f_ffree),
        })
    }

    /// Whether so many bytes fit, and so many files.
    pub fn has(&self, bytes: u64, files: u64) -> bool {
        self.free.is_none_or(|free| free >= bytes) && self.files.is_none_or(|free| free >= files)
    }
}

impl Room {
    /// In words; the files only if there are fewer than these.
    pub fn shown(&self, few: u64) -> String {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let bytes = match (self.free, self.all) {
            (Some(free), Some(all)) => format!("{} of {} MiB are free", mib(free), mib(all)),
            (Some(free), None) => format!("{} MiB are free", mib(free)),
            _ => "it has no limit".to_owned(),
        };
        match self.files.filter(|files| *files < few) {
            Some(files) => format!("{bytes}, and {files} files can still be made (inodes)"),
            None => bytes,
        }
    }
}

impl fmt::Display for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown(FILES_OF_A_LAYER))
    }
}

/// The memory that can still be used, in bytes: proc_meminfo(5).
fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

/// What layers need that are not stored, by the sizes of their blobs: as much is made room for, one by one.
pub fn need_of(blobs: &[u64]) -> Need {
    let sum = |bytes: &dyn Fn(u64) -> u64| {
        let all = blobs.iter().map(|blob| bytes(*blob));
        all.fold(0, u64::saturating_add)
    };
    Need {
        bytes: sum(&expected),
        least: sum(&|blob| blob),
        files: FILES_OF_A_LAYER.saturating_mul(blobs.len() as u64),
    }
}

/// How much room a layer is expected to take, whose blob has so many bytes.
pub(super) fn expected(bytes: u64) -> u64 {
    bytes.saturating_mul(GROWTH).saturating_add(LEAST_ROOM)
}

impl Store {
    /// Whether there is so much room, once all layers are evicted that nobody uses.
    pub fn could_have(&self, need: Need) -> bool {
        let (Ok(room), Ok(layers)) = (self.room(), self.by_use()) else {
            return false;
        };
        can_have(room, need, &layers)
    }

    /// The room of the store's file system.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn room(&self) -> Result<Room, Error> {
        Room::of(&self.layers).map_err(at(&self.layers))
    }

    /// That there is no room, in numbers: the layers of the image have so many bytes in the registry, if that is known.
    pub fn shortage(&self, bytes: Option<u64>) -> String {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let need = bytes.map(|bytes| {
            format!(
                "the image's layers have {} MiB in the registry, and take about {} MiB as file systems; ",
                mib(bytes),
                mib(bytes.saturating_mul(GROWTH))
            )
        });
        let room = self.room();
        let room = room.map_or_else(|error| error.to_string(), |room| room.to_string());
        format!(
            "no room: {}of the store {}, {room}",
            need.unwrap_or_default(),
            self.directory.display()
        )
    }

    /// Evicts stored layers that nothing is mounted from and no pull has open, the one that was used longest ago first,
    /// until the store has the room that is needed. If all of them together have less than the least of it, none is: any
    /// registry can say that a layer is larger than the store. Gives how many layers are gone.
    ///
    /// # Errors
    ///
    /// If the store can't be read.
    pub fn make_room(&self, need: Need) -> Result<usize, Error> {
        let mut evicted = 0;
        let room = self.room()?;
        if room.has(need.bytes, need.files) {
            return Ok(evicted);
        }
        let layers = self.by_use()?;
        if !can_have(room, need, &layers) {
            return Ok(evicted);
        }
        for path in layers {
            if evict(&path).map_err(at(&path))? {
                evicted += 1;
                if self.room()?.has(need.bytes, need.files) {
                    break;
                }
            }
        }
        Ok(evicted)
    }

    /// The layers' files, the one that was used longest ago first.
    fn by_use(&self) -> Result<Vec<PathBuf>, Error> {
        let entries = fs::read_dir(&self.layers).map_err(at(&self.layers))?;
        let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
        let layers = paths.filter(|path| path.extension().is_some_and(|kind| kind == "erofs"));
        let used = |path: &PathBuf| {
            let metadata = fs::symlink_metadata(path).ok()?;
            metadata.modified().ok().filter(|_| metadata.is_file())
        };
        let mut layers: Vec<(SystemTime, PathBuf)> = layers
            .filter_map(|path| Some((used(&path)?, path)))
            .collect();
        layers.sort();
        Ok(layers.into_iter().map(|(_, path)| path).collect())
    }
}

/// Whether there is the least room that is needed, once all of these layers are evicted that nobody uses.
fn can_have(mut room: Room, need: Need, layers: &[PathBuf]) -> bool {
    // stat(2) counts in such units, whatever the blocks of the file system are.
    let size = |path: &Path| {
        fs::symlink_metadata(path).map_or(0, |metadata| metadata.blocks().saturating_mul(512))
    };
    for path in layers {
        if room.has(need.least, need.files) {
            return true;
        }
        let is_unused = open_regular(path)
            .and_then(|file| sys::users(&file))
            .is_ok_and(|others| others == Others::None);
        if is_unused {
            let more = size(path).saturating_add(size(&path.with_extension("notes")));
            room.free = room.free.map(|free| free.saturating_add(more));
            let more = FILES_OF_A_STORED_LAYER;
            room.files = room.files.map(|files| files.saturating_add(more));
        }
    }
    room.has(need.least, need.files)
}

/// Removes a layer, unless somebody uses it: it would take its room all the same then, and would be fetched again. Whoever
/// opens it at this moment has it still.
fn evict(path: &Path) -> io::Result<bool> {
    let file = match open_regular(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    if sys::users(&file)? != Others::None {
        return Ok(false);
    }
    // First the notes: a pull that makes this layer anew from now on removes what is left of it, and its own notes stay. One
    // that was faster still has a layer of its own at this path.
    let _ = fs::remove_file(path.with_extension("notes"));
    if is_at(&file, path) {
        fs::remove_file(path)?;
    }
    Ok(true)
}
