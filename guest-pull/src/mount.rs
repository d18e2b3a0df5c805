// SPDX-License-Identifier: Apache-2.0

//! Stacks the layers of an image, and mounts them where kata-agent looks.
//!
//! Nothing here reads what came from outside: layers are files of the store, named by digests.
//!
//! The layers are mounted in a mount namespace of their own, which ends with the thread that made it. Only the overlay is
//! moved out of it. It holds the layers, so that all of them go when it goes, and there is nothing to clean up.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::thread;

use nix::mount::{MsFlags, mount as mount_at};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use thiserror::Error;

use crate::digest::Digest;
use crate::directories;
use crate::loop_device;
use crate::store::{Store, Stored};

/// Why an image can't be mounted.
#[derive(Debug, Error)]
pub enum Error {
    /// A step failed.
    #[error("{step}: {error}")]
    Step {
        /// What was tried.
        step: String,
        /// Why it failed.
        error: io::Error,
    },
    /// The kernel has no EROFS.
    #[error(
        "the kernel can't mount EROFS; load the module erofs, or build the kernel with CONFIG_EROFS_FS and CONFIG_EROFS_FS_ZIP"
    )]
    NoErofs,
    /// The kernel has no overlayfs.
    #[error(
        "the kernel can't mount overlays; load the module overlay, or build the kernel with CONFIG_OVERLAY_FS"
    )]
    NoOverlay,
    /// A path has a character that separates the overlay's options.
    #[error("{}: a path with a comma, a colon or a backslash can't be an overlay's", .0.display())]
    Path(PathBuf),
    /// Something is in the place of the root file system.
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
}

fn step(step: impl Into<String>) -> impl FnOnce(io::Error) -> Error {
    let step = step.into();
    move |error| Error::Step { step, error }
}

/// What an overlay needs beside its layers.
struct Places {
    /// Where it is to be seen.
    root: PathBuf,
    /// What is written goes here.
    upper: PathBuf,
    work: PathBuf,
}

/// Mounts the layers, the lowest first, at `rootfs` in the directory `bundle`, with a writable layer in the directory
/// `writable`.
///
/// # Errors
///
/// If the kernel or the file system refuses. Nothing is mounted then.
pub fn mount(
    store: &Store,
    layers: &[(Digest, Stored)],
    bundle: &Path,
    writable: &Path,
) -> Result<(), Error> {
    let absolute = |path: &Path| {
        let path = fs::canonicalize(path).map_err(step(path.display().to_string()))?;
        let text = path.as_os_str().as_encoded_bytes();
        match text.iter().any(|byte| b",:\\".contains(byte)) {
            true => Err(Error::Path(path)),
            false => Ok(path),
        }
    };
    let (bundle, writable) = (absolute(bundle)?, absolute(writable)?);
    let places = Places {
        root: bundle.join("rootfs"),
        upper: writable.join("upper"),
        work: writable.join("work"),
    };
    for directory in [&places.root, &places.upper, &places.work] {
        match fs::create_dir(directory) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                let is_directory = |metadata: fs::Metadata| metadata.is_dir();
                if !fs::symlink_metadata(directory).is_ok_and(is_directory) {
                    return Err(Error::NotADirectory(directory.clone()));
                }
            }
            Err(error) => return Err(step(directory.display().to_string())(error)),
        }
    }
    let here = store
        .mounts()
        .map_err(step("the store's directory for mounts"))?;
    let files: Vec<_> = layers.iter().map(|(id, _)| store.path(id)).collect();
    let stored: Vec<_> = layers.iter().map(|(_, stored)| stored).collect();
    // A thread can leave a mount namespace alone; the process's other threads stay where they are.
    let result = thread::scope(|scope| {
        let apart = scope.spawn(|| mount_apart(&files, &stored, &places, &here));
        apart.join()
    });
    result.unwrap_or_else(|_| {
        let error = io::Error::other("a bug: the thread that mounts panicked");
        Err(step("mounting")(error))
    })
}

fn mount_apart(
    files: &[PathBuf],
    stored: &[&Stored],
    places: &Places,
    here: &Path,
) -> Result<(), Error> {
    let nix =
        |what: &str, result: nix::Result<()>| result.map_err(|error| step(what)(error.into()));
    let outside = File::open("/proc/thread-self/ns/mnt").map_err(step("the mount namespace"))?;
    nix("a mount namespace", unshare(CloneFlags::CLONE_NEWNS))?;
    let none = None::<&str>;
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    nix(
        "a private mount namespace",
        mount_at(none, "/", none, private, none),
    )?;
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    let options = Some("mode=0700,size=1m");
    nix(
        "a directory for the layers",
        mount_at(Some("tmpfs"), here, Some("tmpfs"), flags, options),
    )?;
    // Names relative to it are short, so that the options of hundreds of layers fit a page.
    std::env::set_current_dir(here).map_err(step(here.display().to_string()))?;
    // Kept until the overlay is mounted: a loop device goes when nobody holds it.
    let mut held = Vec::new();
    for (at, file) in files.iter().enumerate() {
        let directory = PathBuf::from(at.to_string());
        fs::create_dir(&directory).map_err(step("a directory for a layer"))?;
        held.extend(mount_layer(file, &directory)?);
    }
    // What is below a layer that hides everything would not be seen.
    let lowest = stored
        .iter()
        .rposition(|stored| stored.hides_all)
        .unwrap_or(0);
    let mut lower: Vec<_> = (lowest..files.len())
        .rev()
        .map(|at| at.to_string())
        .collect();
    if lower.is_empty() {
        fs::create_dir("empty").map_err(step("a directory for no layers"))?;
        lower.push("empty".to_owned());
    }
    directories::prepare(&places.upper, stored, lowest)
        .map_err(step("the directories of the writable layer"))?;
    fs::create_dir("root").map_err(step("a directory for the overlay"))?;
    let options = format!(
        "lowerdir={},upperdir={},workdir={},index=off,metacopy=off,redirect_dir=off,xino=off",
        lower.join(":"),
        places.upper.display(),
        places.work.display()
    );
    let mounted = mount_at(
        Some("overlay"),
        "root",
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    );
    mounted.map_err(|error| match error {
        nix::Error::ENODEV => Error::NoOverlay,
        error => step("the overlay of the layers")(error.into()),
    })?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let overlay =
        open_tree(CWD, "root", flags).map_err(|error| step("the overlay")(error.into()))?;
    nix(
        "the mount namespace outside",
        setns(&outside, CloneFlags::CLONE_NEWNS),
    )?;
    let moved = move_mount(
        overlay.as_fd(),
        "",
        CWD,
        &places.root,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    );
    moved.map_err(|error| step(places.root.display().to_string())(error.into()))
}

/// Mounts one layer, from its file where the kernel can (Linux 6.12), else from a loop device; gives what must be held
/// until it is in use.
fn mount_layer(file: &Path, directory: &Path) -> Result<Option<File>, Error> {
    let mount_from = |source: &Path| {
        mount_at(
            Some(source),
            directory,
            Some("erofs"),
            MsFlags::MS_RDONLY,
            None::<&str>,
        )
    };
    let failed = |error: nix::Error| step(format!("the layer {}", file.display()))(error.into());
    match mount_from(file) {
        Ok(()) => Ok(None),
        Err(nix::Error::ENODEV) => Err(Error::NoErofs),
        Err(nix::Error::ENOTBLK) => {
            let (device, path) = loop_device::attach(file)
                .map_err(step(format!("a loop device for {}", file.display())))?;
            mount_from(&path).map_err(failed)?;
            Ok(Some(device))
        }
        Err(error) => Err(failed(error)),
    }
}
