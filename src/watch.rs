// SPDX-License-Identifier: Apache-2.0

//! Notices that something happens beside files, so that who looks at them needs no clock.
//!
//! A convenience and no more: what is served rests on a comparison at each request, and whether a socket's path still is
//! there is looked at by the clock too, if seldom. So nothing is lost where a watch can't be had, or misses something.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;

/// How long is waited after something happened: a file that is being written should be whole when it is
/// looked at, and a busy directory is looked at no more often than this.
const SETTLE: Duration = Duration::from_millis(100);

/// What happens to a directory when one of its files changes. Writing alone is not among it, only the
/// end of writing.
const EVENTS: AddWatchFlags = AddWatchFlags::IN_ATTRIB
    .union(AddWatchFlags::IN_CLOSE_WRITE)
    .union(AddWatchFlags::IN_CREATE)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_ONLYDIR);

/// A watch over the directories of some files, whether or not these exist.
pub struct Watch {
    inotify: AsyncFd<Events>,
    files: Vec<PathBuf>,
    /// What else is watched now.
    more: Directories,
    watched: Vec<WatchDescriptor>,
}

/// Directories, as they are when it is called.
type Directories = Box<dyn Fn() -> Vec<PathBuf> + Send>;

/// The kernel's events, as the runtime wants them.
struct Events(Inotify);

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Watch {
    /// Watches from now on: the files at these paths, and all that is in the directories that `more` gives.
    ///
    /// # Errors
    ///
    /// Where the kernel's limits leave no watch.
    pub fn new(
        files: Vec<PathBuf>,
        more: impl Fn() -> Vec<PathBuf> + Send + 'static,
    ) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
        let mut watch = Self {
            inotify: register(Events(inotify))?,
            files,
            more: Box::new(more),
            watched: Vec::new(),
        };
        watch.follow()?;
        Ok(watch)
    }

    /// Waits until something has happened, to whatever file beside them. Nothing that happens between
    /// two calls is missed.
    ///
    /// # Errors
    ///
    /// Where the watch is lost.
    pub async fn changed(&mut self) -> io::Result<()> {
        let mut ready = self.inotify.readable().await?;
        sleep(SETTLE).await;
        loop {
            match ready.get_inner().0.read_events() {
                // What it was is not asked.
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        ready.clear_ready();
        drop(ready);
        self.follow()
    }

    /// Watches the directories that matter now, and no others.
    fn follow(&mut self) -> io::Result<()> {
        let Events(inotify) = self.inotify.get_ref();
        let mut watched = Vec::new();
        let directories = self.files.iter().flat_map(|path| directories_of(path));
        let directories = directories.chain((self.more)());
        for directory in directories {
            match inotify.add_watch(&directory, EVENTS) {
                Ok(descriptor) => watched.push(descriptor),
                // The kernel's limits leave no more.
                Err(error @ (Errno::ENOSPC | Errno::ENOMEM)) => return Err(error.into()),
                // It has just gone, or may not be entered.
                Err(_) => {}
            }
        }
        for descriptor in self.watched.drain(..) {
            if !watched.contains(&descriptor) {
                // It fails where the directory is gone, and its watch with it.
                let _ = inotify.rm_watch(descriptor);
            }
        }
        self.watched = watched;
        Ok(())
    }
}

/// Hands the events to the runtime.
fn register(events: Events) -> io::Result<AsyncFd<Events>> {
    // It is deprecated since a type might close its descriptor, or answer with another, while it is
    // registered. This one holds one descriptor for as long as it lives.
    #[allow(deprecated)]
    AsyncFd::with_interest(events, Interest::READABLE)
}

/// The directories in which a change may make another file of `path`: its own, or what exists of the
/// way there; that of the file which it leads to; and those of links on the way.
fn directories_of(path: &Path) -> Vec<PathBuf> {
    let mut directories = Vec::new();
    let existing = path.ancestors().skip(1).find(|above| above.is_dir());
    directories.extend(existing.map(Path::to_owned));
    if let Ok(target) = path.canonicalize() {
        directories.extend(target.parent().map(Path::to_owned));
    }
    let links = path.ancestors().filter(|above| above.is_symlink());
    directories.extend(links.filter_map(Path::parent).map(Path::to_owned));
    directories
}

#[cfg(test)]
mod tests {
    #![allow(clippy::expect_used, clippy::unwrap_used)]
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use tokio::time::timeout;

    /// Whatever way a file comes, changes or goes, it is noticed; and reading is no change.
    #[tokio::test]
    async fn every_change_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let file = at("volume/sub/file");
        let mut watch = Watch::new(vec![file.clone()], Vec::new).unwrap();
        let steps: [(&str, &dyn Fn()); 8] = [
            ("a directory comes", &|| {
                fs::create_dir_all(at("volume/sub")).unwrap()
            }),
            ("a file comes", &|| fs::write(&file, "1").unwrap()),
            ("it is written", &|| fs::write(&file, "2").unwrap()),
            ("it is replaced", &|| {
                fs::write(at("new"), "3").unwrap();
                fs::rename(at("new"), &file).unwrap();
            }),
            ("it becomes a link", &|| {
                fs::create_dir(at("elsewhere")).unwrap();
                fs::write(at("elsewhere/file"), "4").unwrap();
                fs::remove_file(&file).unwrap();
                symlink(at("elsewhere/file"), &file).unwrap();
            }),
            ("the link's target is written", &|| {
                fs::write(at("elsewhere/file"), "5").unwrap()
            }),
            ("the directory is replaced", &|| {
                fs::rename(at("volume/sub"), at("old")).unwrap();
                fs::create_dir(at("volume/sub")).unwrap();
                fs::write(&file, "6").unwrap();
            }),
            ("all is removed", &|| {
                fs::remove_dir_all(at("volume")).unwrap()
            }),
        ];
        for (what, step) in steps {
            step();
            let noticed = timeout(Duration::from_secs(20), watch.changed()).await;
            noticed.expect(what).unwrap();
            let _ = fs::read(&file);
            // What one step did may show in two parts; then there is rest.
            while timeout(3 * SETTLE, watch.changed()).await.is_ok() {}
        }
    }
}
