// SPDX-License-Identifier: Apache-2.0

//! Wakes the daemon when a watched file changes (inotify).
//!
//! This only makes the daemon react sooner. What is served is checked at each request, and whether a socket's
//! path still exists is checked by a timer too. So nothing is lost if there is no watch, or if it misses an
//! event.

use std::io;
use std::os::fd::{AsFd as _, AsRawFd, RawFd};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::sleep;

/// The wait after an event: a file that is being written should be complete when it is read, and a busy
/// directory causes at most one check in this time.
const DEBOUNCE: Duration = Duration::from_millis(100);

/// The events of a directory that show a change of one of its files. A write alone is not among them, only
/// the close after it.
const EVENTS: AddWatchFlags = AddWatchFlags::IN_ATTRIB
    .union(AddWatchFlags::IN_CLOSE_WRITE)
    .union(AddWatchFlags::IN_CREATE)
    .union(AddWatchFlags::IN_DELETE)
    .union(AddWatchFlags::IN_DELETE_SELF)
    .union(AddWatchFlags::IN_MOVED_FROM)
    .union(AddWatchFlags::IN_MOVED_TO)
    .union(AddWatchFlags::IN_MOVE_SELF)
    .union(AddWatchFlags::IN_ONLYDIR);

/// A watch on the directories of some files, which need not exist.
pub struct Watch {
    inotify: AsyncFd<Events>,
    files: Vec<PathBuf>,
    /// More directories to watch.
    more: Directories,
    watched: Vec<WatchDescriptor>,
}

/// Returns the directories that exist when it is called.
type Directories = Box<dyn Fn() -> Vec<PathBuf> + Send>;

/// The inotify descriptor, in the form that tokio accepts.
struct Events(Inotify);

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Watch {
    /// Starts to watch the files at these paths, and everything in the directories that `more` returns.
    ///
    /// # Errors
    ///
    /// If the kernel's limits on inotify are reached.
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
        watch.update_watches()?;
        Ok(watch)
    }

    /// Waits for an event in any of the directories, of whatever file. Events between two calls are not
    /// missed.
    ///
    /// # Errors
    ///
    /// If the watch cannot be kept up.
    pub async fn changed(&mut self) -> io::Result<()> {
        let mut ready = self.inotify.readable().await?;
        sleep(DEBOUNCE).await;
        loop {
            match ready.get_inner().0.read_events() {
                // The kind of event does not matter.
                Ok(_) | Err(Errno::EINTR) => {}
                Err(Errno::EAGAIN) => break,
                Err(error) => return Err(error.into()),
            }
        }
        ready.clear_ready();
        drop(ready);
        self.update_watches()
    }

    /// Watches the directories that matter now, and drops the watches on all others.
    fn update_watches(&mut self) -> io::Result<()> {
        let Events(inotify) = self.inotify.get_ref();
        let mut watched = Vec::new();
        let directories = self.files.iter().flat_map(|path| directories_of(path));
        let directories = directories.chain((self.more)());
        for directory in directories {
            match inotify.add_watch(&directory, EVENTS) {
                Ok(descriptor) => watched.push(descriptor),
                // The limit on watches is reached.
                Err(error @ (Errno::ENOSPC | Errno::ENOMEM)) => return Err(error.into()),
                // The directory has just been removed, or is not readable.
                Err(_) => {}
            }
        }
        for descriptor in self.watched.drain(..) {
            if !watched.contains(&descriptor) {
                // This fails if the directory was removed, which removes its watch too.
                let _ = inotify.rm_watch(descriptor);
            }
        }
        self.watched = watched;
        Ok(())
    }
}

/// Registers the descriptor with tokio.
fn register(events: Events) -> io::Result<AsyncFd<Events>> {
    // The function is deprecated because a type could close or change its descriptor while it is registered.
    // This type keeps one descriptor for as long as it lives.
    #[allow(deprecated)]
    AsyncFd::with_interest(events, Interest::READABLE)
}

/// The directories in which a change can make `path` another file: its own directory, or the closest one
/// above that exists; the directory of the file that it resolves to; and those of symbolic links on the way.
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

    /// Each way in which a file appears, changes or goes is noticed; reading it is not.
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
            // One step may cause events in two batches; wait until none are left.
            while timeout(3 * DEBOUNCE, watch.changed()).await.is_ok() {}
        }
    }
}
