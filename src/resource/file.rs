// SPDX-License-Identifier: Apache-2.0

//! What may be a file to serve from, and how one is read: whole, bounded, and never waited for.

use std::fs::{self, File, Metadata, OpenOptions};
use std::io::{self, Read as _, Seek as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use nix::fcntl::OFlag;
use zeroize::Zeroizing;

use crate::resource::exposure::Exposure;
use crate::resource::name::Name;
use crate::resource::problem::{Problem, Severity};

/// The largest file that is read: what ttrpc can carry in one answer (4 MiB), sixteen times. Memory
/// of a pod VM is dear, and what is larger is a mistake.
pub const MAX_FILE_BYTES: u64 = 64 << 20;

/// The largest file that is one resource: ttrpc can carry no larger one.
pub const MAX_WHOLE_BYTES: u64 = 4 << 20;

/// How long a file's time stamps may fail to tell a second change from the first: before Linux 6.13
/// they advance by the timer's tick of up to 10 ms. A file that changed less than this before it was
/// read is read again at the next check.
const CLOCK_DOUBT: Duration = Duration::from_millis(50);

/// How often a file that changes while it is read is read again, before it counts as unreadable for
/// now. A part of the old content with a part of the new must not be served.
const READ_ATTEMPTS: usize = 3;

/// How much is compared at once when a file is read a second time: a second copy of it is not needed.
const COMPARED_BYTES: usize = 16 << 10;

/// What a file, or a directory of files, holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Resources by name: a JSON object of base64.
    Resources,
    /// Keys that encrypt image layers' keys, by key id, in the same form. Each has 32 bytes.
    Keys,
    /// One resource: the file's bytes as they are.
    Whole(Name),
    /// A directory of such files, whose paths are the names.
    Directory,
}

/// What tells one state of a file from another, without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Identity {
    /// The identity of the file at `path` as it is now, symbolic links followed.
    ///
    /// # Errors
    ///
    /// As `stat` fails: absent, or a directory on the way that may not be entered.
    pub fn of(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|metadata| Self::from(&metadata))
    }

    /// Whether a change right after `now` would show in the identity.
    fn is_settled(&self, now: SystemTime) -> bool {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let (seconds, nanoseconds) = self.changed;
        let (Ok(seconds), Ok(nanoseconds)) = (seconds.try_into(), nanoseconds.try_into()) else {
            return false;
        };
        now.abs_diff(Duration::new(seconds, nanoseconds)) > CLOCK_DOUBT
    }
}

impl From<&Metadata> for Identity {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// A file's bytes with what they were read from.
pub struct Content {
    /// The bytes, wiped when dropped.
    pub text: Zeroizing<Vec<u8>>,
    /// The file that they were read from.
    pub identity: Identity,
    /// Whether the identity is sure to change with the next change of the file.
    pub settled: bool,
    /// What else about the file is worth saying.
    pub exposures: Vec<Exposure>,
}

/// Reads the file at `path`, which must be regular and at most [`MAX_FILE_BYTES`] long.
///
/// # Errors
///
/// `NotFound` or `NotADirectory` where it is absent; otherwise an error whose text says what is
/// wrong without the path.
pub fn read(path: &Path) -> io::Result<Content> {
    read_within(path, None)
}

/// Reads the same file if it is below `root`, whatever links led to it.
///
/// # Errors
///
/// As for [`read`]; and where it is elsewhere.
pub fn read_within(path: &Path, root: Option<&Path>) -> io::Result<Content> {
    for _ in 0..READ_ATTEMPTS {
        // Without O_NONBLOCK a FIFO would hang the only thread.
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags((OFlag::O_NONBLOCK | OFlag::O_NOCTTY).bits())
            .open(path)?;
        if let Some(root) = root {
            // What was opened counts, not what was there when the directory was listed.
            let opened = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()))?;
            if !opened.starts_with(root) {
                return Err(io::Error::other("a link out of the directory"));
            }
        }
        let before = file.metadata()?;
        let identity = Identity::from(&before);
        let settled = identity.is_settled(SystemTime::now());
        let text = read_regular(&file, &before)?;
        // Where the clock would not show a change during the read, a second read may.
        let whole = settled || {
            file.rewind()?;
            holds(&file, &text)?
        };
        if whole && identity == Identity::from(&file.metadata()?) {
            return Ok(Content {
                text,
                identity,
                settled,
                exposures: Exposure::of(&file, &before),
            });
        }
    }
    Err(io::Error::other("it is being written to all the time"))
}

fn no_memory(bytes: usize) -> io::Error {
    io::Error::other(format!("no memory for its {bytes} bytes"))
}

fn read_regular(file: &File, metadata: &Metadata) -> io::Result<Zeroizing<Vec<u8>>> {
    if !metadata.is_file() {
        let kind = metadata.file_type();
        let kind = if kind.is_dir() {
            "a directory"
        } else if kind.is_fifo() {
            "a FIFO"
        } else if kind.is_socket() {
            "a socket"
        } else {
            "a device"
        };
        return Err(io::Error::other(format!("{kind}, not a regular file")));
    }
    let too_large = |bytes| {
        io::Error::other(format!(
            "{bytes} bytes long, over the cap of {MAX_FILE_BYTES}"
        ))
    };
    if metadata.len() > MAX_FILE_BYTES {
        return Err(too_large(metadata.len()));
    }
    // One byte more than the file has: the end is then seen without growing, which would leave an
    // unwiped copy.
    let capacity = usize::try_from(metadata.len()).map_err(io::Error::other)? + 1;
    let mut text = Zeroizing::new(Vec::new());
    // Where memory is limited, a file that is too large for it is an error and no end of the process.
    text.try_reserve_exact(capacity)
        .map_err(|_| no_memory(capacity))?;
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_FILE_BYTES {
        return Err(too_large(text.len() as u64));
    }
    Ok(text)
}

/// Whether what is left to read of the file is this text.
fn holds(file: &File, text: &[u8]) -> io::Result<bool> {
    // Not on the stack, which keeps what it grew to.
    let mut part = Zeroizing::new(vec![0; COMPARED_BYTES]);
    let mut rest = text;
    // One byte more than it should have, no further.
    let mut file = file.take(text.len() as u64 + 1);
    loop {
        let length = match file.read(&mut part) {
            Ok(0) => return Ok(rest.is_empty()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        match rest.strip_prefix(&part[..length]) {
            Some(more) => rest = more,
            None => return Ok(false),
        }
    }
}

/// Whether the error means that there is no file, rather than one that can't be read.
pub fn is_absent(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}

/// The problem of a file that exists and can't be read.
pub fn unreadable(error: &io::Error, path: &Path) -> Problem {
    let fix = match error.kind() {
        io::ErrorKind::PermissionDenied => {
            format!(
                "let its reader in: `chown root:root {0}; chmod 0600 {0}`",
                path.display()
            )
        }
        _ => "put a regular, readable file there, or remove it".to_owned(),
    };
    let what = format!("can't be read: {error}");
    Problem::of_file(Severity::Error, "unreadable", what, fix)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A value that changes at every look is never put together from parts.
    #[test]
    fn a_file_that_is_being_written_is_never_read_in_part() {
        use std::os::unix::fs::FileExt as _;
        use std::sync::atomic::{AtomicBool, Ordering};
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, vec![b'a'; 256 << 10]).unwrap();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let writer = OpenOptions::new().write(true).open(&path).unwrap();
            let stop = &stop;
            scope.spawn(move || {
                for byte in (b'a'..=b'z').cycle() {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    writer.write_all_at(&vec![byte; 256 << 10], 0).unwrap();
                }
            });
            for _ in 0..50 {
                if let Ok(content) = read(&path) {
                    let first = content.text[0];
                    let whole = content.text.iter().all(|&byte| byte == first);
                    stop.fetch_or(!whole, Ordering::Relaxed);
                    assert!(whole, "parts of two contents");
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
    }

    /// Only regular files are read, and none that would fill the memory.
    #[test]
    fn what_is_read_is_regular_and_bounded() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let large = dir.path().join("large");
        File::create(&large)
            .unwrap()
            .set_len(MAX_FILE_BYTES + 1)
            .unwrap();
        for (path, text) in [
            (fifo.as_path(), "a FIFO, not a regular file"),
            (dir.path(), "a directory, not a regular file"),
            (
                large.as_path(),
                "67108865 bytes long, over the cap of 67108864",
            ),
            (Path::new("/dev/null"), "a device, not a regular file"),
        ] {
            assert_eq!(read(path).err().unwrap().to_string(), text);
        }
    }

    /// A file that changed a moment ago may change again unseen; one that rested may not.
    #[test]
    fn a_fresh_file_is_unsettled() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        fs::write(&path, "{}").unwrap();
        let identity = Identity::of(&path).unwrap();
        let changed =
            UNIX_EPOCH + Duration::new(identity.changed.0 as u64, identity.changed.1 as u32);
        assert!(!identity.is_settled(changed + Duration::from_millis(49)));
        assert!(!identity.is_settled(changed - Duration::from_millis(49)));
        assert!(identity.is_settled(changed + Duration::from_millis(51)));
        assert!(identity.is_settled(UNIX_EPOCH));
    }
}
