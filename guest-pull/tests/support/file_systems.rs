// SPDX-License-Identifier: Apache-2.0

//! Small file systems for stores: in memory, and on a disk that is a file.

// Each of the tests' programs uses a part of it.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::mount::{MntFlags, umount2};
use rustix::fs::statvfs;
use tempfile::TempDir;

use crate::host::run;

/// How many bytes an ext4 has beside what is wanted: for itself, and for what makes it smaller.
const OWN: u64 = 24 << 20;

/// How many bytes a file system in memory has beside a disk's: for its directories.
const MEMORY_OWN: u64 = 1 << 20;

/// A mounted file system, which goes with the test.
pub struct FileSystem {
    /// Where it is mounted.
    pub path: PathBuf,
    /// In memory: a file system of its own, since `/dev/shm` is small in containers.
    dir: TempDir,
}

impl FileSystem {
    /// In memory, with these options.
    pub fn tmpfs(options: &str) -> Self {
        let made = Self::prepared(0);
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", options, "tmpfs"])
            .arg(&made.path));
        made
    }

    /// An ext4 in which so many KiB are free.
    pub fn ext4(kibibytes: u64) -> Self {
        let length = (kibibytes << 10) + OWN;
        let made = Self::prepared(length);
        let file = fs::File::create(made.disk()).unwrap();
        file.set_len(length).unwrap();
        run(Command::new("mkfs.ext4")
            .args(["-q", "-m", "0"])
            .arg(made.disk()));
        made.mount();
        // What it needs for itself depends on its size.
        let status = statvfs(&made.path).unwrap();
        let free = status.f_bavail * status.f_frsize;
        let ballast = fs::File::create(made.path.join("ballast")).unwrap();
        let length = free - (kibibytes << 10);
        rustix::fs::fallocate(&ballast, rustix::fs::FallocateFlags::empty(), 0, length).unwrap();
        made
    }

    /// The file system of a disk's copy.
    pub fn of_disk(copy: &Path) -> Self {
        let made = Self::prepared(fs::metadata(copy).unwrap().len());
        fs::copy(copy, made.disk()).unwrap();
        fs::remove_file(copy).unwrap();
        made.mount();
        made
    }

    /// A place for it, and for a disk of so many bytes.
    fn prepared(length: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let size = format!("size={}", length + MEMORY_OWN);
        run(Command::new("mount")
            .args(["-t", "tmpfs", "-o", &size, "tmpfs"])
            .arg(dir.path()));
        let path = dir.path().join("mounted");
        fs::create_dir(&path).unwrap();
        Self { path, dir }
    }

    fn mount(&self) {
        let mut command = Command::new("mount");
        command
            .args(["-o", "loop"])
            .args([self.disk(), self.path.clone()]);
        run(&mut command);
    }

    /// The file that is the disk.
    pub fn disk(&self) -> PathBuf {
        self.dir.path().join("disk")
    }

    /// How many bytes are used, and how many files there are.
    pub fn used(&self) -> (u64, u64) {
        let status = statvfs(&self.path).unwrap();
        let bytes = (status.f_blocks - status.f_bfree) * status.f_frsize;
        (bytes, status.f_files - status.f_ffree)
    }
}

impl Drop for FileSystem {
    fn drop(&mut self) {
        for path in [&*self.path, self.dir.path()] {
            let _ = umount2(path, MntFlags::MNT_DETACH);
        }
    }
}
