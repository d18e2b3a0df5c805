// SPDX-License-Identifier: Apache-2.0

//! Stacks the layers of an image, and mounts them where kata-agent looks.
//!
//! Nothing here reads what came from outside: layers are open files of the store.
//!
//! The layers are mounted in a mount namespace of their own, which ends with the thread that made it. Only the overlay is
//! moved out of it. It holds the layers, so that all of them go when it goes, and there is nothing to clean up.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::thread;

use nix::mount::{MntFlags, MsFlags, mount as mount_at, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use rustix::fs::CWD;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use thiserror::Error;

use crate::digest::Digest;
pub use crate::directories::Check;
use crate::failure::{Failure, Kind};
use crate::links;
use crate::store::{self, Held, Store};
use crate::sys;
use crate::writable::Writable;

/// What to do where the kernel has no EROFS.
pub const OF_EROFS: &str =
    "load the module erofs, or build the kernel with CONFIG_EROFS_FS and CONFIG_EROFS_FS_ZIP";

/// What to do where the kernel has no overlays.
pub const OF_OVERLAY: &str = "load the module overlay, or build the kernel with CONFIG_OVERLAY_FS";

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
    #[error("the kernel can't mount EROFS; {OF_EROFS}")]
    NoErofs,
    /// The kernel has EROFS, and does not take a layer.
    #[error("the layer {0}: {1}")]
    Layer(Digest, io::Error),
    /// The kernel has no overlayfs.
    #[error("the kernel can't mount overlays; {OF_OVERLAY}")]
    NoOverlay,
    /// A path has a character that separates the overlay's options.
    #[error("{}: a path with a comma, a colon or a backslash can't be an overlay's", .0.display())]
    Path(PathBuf),
    /// Something is in the place of the root file system.
    #[error("{} is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// Something is mounted there.
    #[error("{} has a mount already; unmount it, or take another bundle", .0.display())]
    Mounted(PathBuf),
    /// A layer has no loop device.
    #[error("a loop device for the layer {0}: {1}")]
    NoDevice(Digest, sys::NoDevice),
    /// There is no thread to mount.
    #[error("{0}")]
    NoThread(Failure),
    /// There is no place for the writable layer.
    #[error("the writable layer: {0}")]
    Writable(#[from] store::Error),
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

impl Error {
    /// The file system's error, where that is the reason.
    pub fn io(&self) -> Option<&io::Error> {
        match self {
            Self::Step { error, .. } | Self::Layer(_, error) => Some(error),
            Self::Writable(error) => Some(error.io()),
            _ => None,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let what = "it can't be mounted";
        match &error {
            Error::NoThread(failure) => {
                Self::new(failure.kind, format!("{what}: {}", failure.message))
            }
            Error::NoDevice(..) => Self::new(Kind::Exhausted, format!("{what}: {error}")),
            Error::Layer(id, error) => Self::of_io(format_args!("{what}: the layer {id}"), error),
            Error::Step { step, error } => Self::of_io(format_args!("{what}: {step}"), error),
            Error::Writable(writable) => {
                let place = writable.path().display();
                let what = format_args!("{what}: the writable layer: {place}");
                Self::of_io(what, writable.io())
            }
            _ => Self::new(Kind::Other, format!("{what}: {error}")),
        }
    }
}

/// How layers are mounted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum By {
    /// From their files where the kernel can (Linux 6.12), else from loop devices.
    #[default]
    File,
    /// From loop devices.
    LoopDevice,
}

/// A mounted image, to be kept or undone.
#[derive(Debug)]
#[must_use]
pub struct Mounted {
    /// Where it is mounted.
    pub root: PathBuf,
    directory: Made,
    writable: Writable,
}

impl Mounted {
    /// Leaves it mounted.
    pub fn keep(mut self) {
        self.directory.0 = None;
        self.writable.keep();
    }

    /// Unmounts it, and removes what was written and made for it.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn undo(self) -> io::Result<()> {
        let unmounted = umount2(&self.root, MntFlags::MNT_DETACH);
        if unmounted.is_err() {
            // It is in use still.
            self.keep();
        }
        unmounted.map_err(Into::into)
    }
}

/// A directory that was made, and is removed when this is dropped.
#[derive(Debug)]
struct Made(Option<PathBuf>);

impl Drop for Made {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            let _ = fs::remove_dir(path);
        }
    }
}

/// Mounts the layers, the lowest first, at `rootfs` in the directory `bundle`, with a writable layer in the bundle or in
/// the store: [`writable`]. Nothing else is mounted in the bundle. Ends early if `check` fails, which is asked now and then.
///
/// # Errors
///
/// If the kernel or the file system refuses. Nothing is mounted then, and nothing is left in the bundle.
pub fn mount(
    store: &Store,
    layers: &[(Digest, &Held)],
    bundle: &Path,
    by: By,
    check: Check<'_>,
) -> Result<Mounted, Error> {
    let absolute = |path: &Path| {
        let path = fs::canonicalize(path).map_err(step(path.display().to_string()))?;
        let text = path.as_os_str().as_encoded_bytes();
        match text.iter().any(|byte| b",:\\".contains(byte)) {
            true => Err(Error::Path(path)),
            false => Ok(path),
        }
    };
    let bundle = absolute(bundle)?;
    let root = bundle.join("rootfs");
    let directory = make_root(&bundle, &root)?;
    let writable = Writable::make(store, &bundle)?;
    let places = Places {
        root: root.clone(),
        upper: absolute(&writable.upper)?,
        work: absolute(&writable.work)?,
    };
    let here = store
        .mounts()
        .map_err(step("the store's directory for mounts"))?;
    // A thread can leave a mount namespace alone; the process's other threads stay where they are.
    let result = thread::scope(|scope| {
        let apart = || mount_apart(layers, &places, &here, by, check);
        let apart = thread::Builder::new().spawn_scoped(scope, apart);
        apart.map(thread::ScopedJoinHandle::join)
    });
    let result = result.map_err(|error| Error::NoThread(Failure::no_thread(&error)))?;
    result.unwrap_or_else(|_| {
        let error = io::Error::other("a bug: the thread that mounts panicked");
        Err(step("mounting")(error))
    })?;
    Ok(Mounted {
        root,
        directory,
        writable,
    })
}

/// Makes the directory to mount at, unless it is there.
fn make_root(bundle: &Path, root: &Path) -> Result<Made, Error> {
    match fs::create_dir(root) {
        Ok(()) => Ok(Made(Some(root.to_owned()))),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let look =
                |path: &Path| fs::symlink_metadata(path).map_err(step(path.display().to_string()));
            let (there, around) = (look(root)?, look(bundle)?);
            if !there.is_dir() {
                return Err(Error::NotADirectory(root.to_owned()));
            }
            // kata-agent unmounts once: what is below would stay.
            if there.dev() != around.dev() {
                return Err(Error::Mounted(root.to_owned()));
            }
            Ok(Made(None))
        }
        Err(error) => Err(step(root.display().to_string())(error)),
    }
}

fn mount_apart(
    layers: &[(Digest, &Held)],
    places: &Places,
    here: &Path,
    by: By,
    check: Check<'_>,
) -> Result<(), Error> {
    let nix =
        |what: &str, result: nix::Result<()>| result.map_err(|error| step(what)(error.into()));
    let outside = File::open("/proc/thread-self/ns/mnt").map_err(step("the mount namespace"))?;
    nix("a mount namespace", unshare(CloneFlags::CLONE_NEWNS))?;
    let none = None::<&str>;
    // What is unmounted outside goes here too, and nothing goes the other way.
    let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    nix(
        "mounts that others don't see",
        mount_at(none, "/", none, slave, none),
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
    let mut devices = Vec::new();
    for (at, (id, layer)) in layers.iter().enumerate() {
        check().map_err(step("mounting"))?;
        let directory = PathBuf::from(at.to_string());
        fs::create_dir(&directory).map_err(step("a directory for a layer"))?;
        devices.extend(mount_layer(id, &layer.file, &directory, by)?);
    }
    let stored: Vec<_> = layers.iter().map(|(_, layer)| &layer.stored).collect();
    // What is below a layer that hides everything would not be seen.
    let lowest = stored
        .iter()
        .rposition(|stored| stored.hides_all)
        .unwrap_or(0);
    let mut lower: Vec<_> = (lowest..layers.len())
        .rev()
        .map(|at| at.to_string())
        .collect();
    if lower.is_empty() {
        fs::create_dir("empty").map_err(step("a directory for no layers"))?;
        lower.push("empty".to_owned());
    }
    links::prepare(&places.upper, &stored, lowest, check)
        .map_err(step("what the writable layer has at first"))?;
    fs::create_dir("root").map_err(step("a directory for the overlay"))?;
    let options = format!(
        "lowerdir={},upperdir={},workdir={},index=off,metacopy=off,redirect_dir=nofollow,xino=off",
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
fn mount_layer(id: &Digest, file: &File, directory: &Path, by: By) -> Result<Option<File>, Error> {
    let mount_from = |source: &Path| {
        mount_at(
            Some(source),
            directory,
            Some("erofs"),
            MsFlags::MS_RDONLY,
            None::<&str>,
        )
    };
    let failed = |error: nix::Error| Error::Layer(*id, error.into());
    let mounted = match by {
        // By its descriptor, so that it is the file that was checked.
        By::File => mount_from(&PathBuf::from(format!(
            "/proc/self/fd/{}",
            file.as_raw_fd()
        ))),
        By::LoopDevice => Err(nix::Error::ENOTBLK),
    };
    match mounted {
        Ok(()) => Ok(None),
        Err(nix::Error::ENODEV) => Err(Error::NoErofs),
        Err(nix::Error::ENOTBLK) => {
            let attached = sys::attach(file);
            let (device, path) = attached.map_err(|error| Error::NoDevice(*id, error))?;
            mount_from(&path).map_err(failed)?;
            Ok(Some(device))
        }
        Err(error) => Err(failed(error)),
    }
}
