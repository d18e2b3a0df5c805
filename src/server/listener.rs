// SPDX-License-Identifier: Apache-2.0

//! Taking an address, without taking it from somebody who answers there.
//!
//! Addresses are decided one by one, under a lock on a file in the socket's directory. A socket file
//! that nobody listens on is left over from a process that was killed, and is replaced. What is not a
//! socket is never touched.

use std::fmt;
use std::fs::{self, DirBuilder, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _,
    PermissionsExt as _,
};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg, OFlag};
use nix::sys::socket::sockopt::{AcceptConn, PeerCredentials};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, UnixAddr};
use nix::sys::stat::{Mode, umask};
use nix::unistd::geteuid;
use thiserror::Error;
use tracing::warn;

use crate::server::limits::LOCK_RETRY;

/// The file in a socket's directory whose lock decides who takes an address. It stays there: removing
/// a lock file would let two processes hold two locks.
const LOCK_FILE: &str = ".offline-fs-kbc.lock";

/// The directory of the attestation components' sockets, which other users may enter.
const SHARED_DIRECTORY: &str = "confidential-containers";

/// An absolute path of a unix socket, written `unix:///path` or as the path alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address(PathBuf);

/// Why a text is not an address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum AddressError {
    /// Another kind of address.
    #[error("not a unix socket address; write unix:///absolute/path")]
    NotUnix,
    /// The kernel's limit on such paths.
    #[error("{0} bytes long; the path of a unix socket has {MAX_PATH_BYTES} at most")]
    TooLong(usize),
}

/// The longest path that fits `sockaddr_un` with its end, as unix(7) has it.
const MAX_PATH_BYTES: usize = 107;

impl Address {
    /// The address of the socket at `path`.
    ///
    /// # Errors
    ///
    /// Where the path is relative or too long.
    pub fn new(path: PathBuf) -> Result<Self, AddressError> {
        let length = path.as_os_str().len();
        if !path.is_absolute() || path.file_name().is_none() {
            Err(AddressError::NotUnix)
        } else if length > MAX_PATH_BYTES {
            Err(AddressError::TooLong(length))
        } else {
            Ok(Self(path))
        }
    }

    /// The socket's path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let path = text
            .strip_prefix("unix://")
            .or_else(|| text.strip_prefix("unix:"));
        Self::new(path.unwrap_or(text).into())
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "unix://{}", self.0.display())
    }
}

/// Why an address can't be served.
#[derive(Debug, Error)]
pub enum Error {
    /// Something that is not a socket is in its place, and is left alone.
    #[error("{} is {what}, not a socket, and is left alone; remove it or choose another address", path.display())]
    NotASocket {
        /// The address.
        path: PathBuf,
        /// What is there.
        what: &'static str,
    },
    /// A directory can't be made.
    #[error("can't make the directory {}: {error}", path.display())]
    Directory {
        /// The directory.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The lock can't be had.
    #[error("can't lock {}: {error}", path.display())]
    Lock {
        /// The lock file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The socket's path can't be removed.
    #[error("can't remove {}: {error}", path.display())]
    Remove {
        /// The address.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The socket can't be made.
    #[error("can't listen on {}: {error}", path.display())]
    Bind {
        /// The address.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

/// What became of an attempt to take an address.
pub enum Claim {
    /// It is ours.
    Bound(Bound),
    /// Somebody answers there. The connection that showed it ends when they do.
    Live(UnixStream),
}

impl Claim {
    /// The id of the process that answers there, if it is another one and the kernel tells.
    pub fn holder(&self) -> Option<i32> {
        match self {
            Self::Bound(_) => None,
            Self::Live(stream) => {
                let peer = socket::getsockopt(stream, PeerCredentials).ok()?;
                Some(peer.pid()).filter(|pid| *pid > 0)
            }
        }
    }
}

/// A listening socket and its path.
pub struct Bound {
    /// The socket.
    pub listener: UnixListener,
    /// What tells whether the path still leads to it.
    pub mark: Mark,
    /// What removes the path at the end; none where the socket was handed over, and stays for who comes
    /// next.
    pub path: Option<BoundPath>,
}

impl Bound {
    /// A listening socket that the service manager made, with its address.
    ///
    /// # Errors
    ///
    /// Where it is no listening unix socket with a path.
    pub fn handed_over(listener: UnixListener) -> io::Result<(Address, Self)> {
        if !socket::getsockopt(&listener, AcceptConn)? {
            return Err(io::Error::other("not a listening socket"));
        }
        let address = listener.local_addr()?;
        let path = address.as_pathname().unwrap_or(Path::new(""));
        let address = Address::new(path.to_owned()).map_err(io::Error::other)?;
        listener.set_nonblocking(true)?;
        let mark = Mark::of(path);
        let path = None;
        Ok((
            address,
            Self {
                listener,
                mark,
                path,
            },
        ))
    }
}

/// The path of a socket that this process bound.
pub struct BoundPath {
    mark: Mark,
    /// Keeps the inode from being given to another file as long as the two are compared.
    _socket: UnixListener,
}

/// What tells whether a path still is the socket that was bound there.
#[derive(Clone)]
pub struct Mark {
    path: PathBuf,
    /// Device and inode of the socket file, which tell ours from another's; none if it was gone already.
    file: Option<(u64, u64)>,
}

impl Mark {
    /// The mark of what is at `path` now.
    fn of(path: &Path) -> Self {
        let path = path.to_owned();
        let file = file_at(&path);
        Self { path, file }
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is. It can't be told any more once the socket is closed.
    pub fn is_there(&self) -> bool {
        self.file.is_some() && file_at(&self.path) == self.file
    }
}

/// Device and inode of what is at `path`.
fn file_at(path: &Path) -> Option<(u64, u64)> {
    let metadata = fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

impl BoundPath {
    /// Removes the path if it still is the socket that this process bound.
    ///
    /// To be called while the listener still accepts, so that nobody connects to a socket that nobody
    /// serves.
    ///
    /// # Errors
    ///
    /// Where it can't be removed.
    pub fn remove(self) -> Result<(), Error> {
        // Without the lock it is not much worse: who finds this socket alive leaves it alone.
        let path = self.mark.path.clone();
        let _lock = lock_directory_of(&path, Duration::ZERO);
        if self.mark.is_there() {
            fs::remove_file(&path).map_err(|error| Error::Remove { path, error })?;
        }
        Ok(())
    }
}

/// Takes the address unless somebody answers there, and makes its directories where they are missing.
///
/// # Errors
///
/// Where the address is neither free nor answered.
///
/// It waits for at most `patience` for another copy that is about to decide about the same directory.
pub fn claim(address: &Address, patience: Duration) -> Result<Claim, Error> {
    let path = address.path();
    let failed = |error: io::Error| Error::Bind {
        path: path.to_owned(),
        error,
    };
    prepare_directory_of(path)?;
    let _lock = lock_directory_of(path, patience)?;
    match fs::symlink_metadata(path) {
        Ok(metadata) => {
            let kind = metadata.file_type();
            if !kind.is_socket() {
                let what = if kind.is_dir() {
                    "a directory"
                } else if kind.is_symlink() {
                    "a symbolic link"
                } else {
                    "a file"
                };
                let path = path.to_owned();
                return Err(Error::NotASocket { path, what });
            }
            if let Some(stream) = probe(path).map_err(|error| failed(error.into()))? {
                return Ok(Claim::Live(stream));
            }
            fs::remove_file(path).map_err(failed)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    // 0600 from its first moment; the file mode creation mask is the only way to have that.
    let before = umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    umask(before);
    let listener = listener.map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let mark = Mark::of(path);
    let path = BoundPath {
        mark: mark.clone(),
        _socket: listener.try_clone().map_err(failed)?,
    };
    Ok(Claim::Bound(Bound {
        listener,
        mark,
        path: Some(path),
    }))
}

/// Connects to the socket at `path`, without waiting; none if nobody listens.
fn probe(path: &Path) -> nix::Result<Option<UnixStream>> {
    // Of the standard library's own connect a full backlog would make a wait without end.
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let stream = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match socket::connect(stream.as_raw_fd(), &UnixAddr::new(path)?) {
        // EAGAIN is a full backlog: somebody listens, and is busy.
        Ok(()) | Err(Errno::EAGAIN) => Ok(Some(stream.into())),
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Makes the missing directories above `socket`, and warns where others could put a socket of theirs
/// in its place.
fn prepare_directory_of(socket: &Path) -> Result<(), Error> {
    let Some(parent) = socket.parent() else {
        return Ok(());
    };
    let ancestors: Vec<_> = parent.ancestors().collect();
    for directory in ancestors.into_iter().rev() {
        let below_shared = directory
            .parent()
            .is_some_and(|above| above.iter().any(|name| name == SHARED_DIRECTORY));
        let private = directory == parent && !directory.ends_with(SHARED_DIRECTORY);
        let mode = if private || below_shared {
            0o700
        } else {
            0o755
        };
        let failed = |error| Error::Directory {
            path: directory.to_owned(),
            error,
        };
        match fs::metadata(directory) {
            Ok(metadata) if metadata.is_dir() => {
                warn_if_writable(directory, &metadata, directory == parent);
            }
            _ => make_directory(directory, mode).map_err(failed)?,
        }
    }
    Ok(())
}

/// Makes one directory of exactly this mode, unless another process is quicker.
fn make_directory(directory: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(directory) {
        // The mask of the process took bits away, or would if it were another.
        Ok(()) => fs::set_permissions(directory, Permissions::from_mode(mode)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

fn warn_if_writable(directory: &Path, metadata: &Metadata, is_parent: bool) {
    const OTHERS_WRITE: u32 = 0o022;
    const STICKY: u32 = 0o1000;
    // Above the socket's own directory a sticky one, as /tmp, is safe: nobody renames what is another's.
    let safe = metadata.mode() & OTHERS_WRITE == 0 || !is_parent && metadata.mode() & STICKY != 0;
    let path = directory.display();
    if !safe {
        warn!("others can write to {path} and take the socket's place; `chmod go-w {path}`");
    }
    let owner = metadata.uid();
    if owner != 0 && owner != geteuid().as_raw() {
        warn!("uid {owner} owns {path} and can take the socket's place; `chown root:root {path}`");
    }
}

/// The lock on the directory of `socket`, for as long as the value lives.
fn lock_directory_of(socket: &Path, patience: Duration) -> Result<Flock<File>, Error> {
    let path = socket.with_file_name(LOCK_FILE);
    let failed = |error: io::Error| Error::Lock {
        path: path.clone(),
        error,
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .custom_flags((OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK).bits())
        .open(&path)
        .map_err(failed)?;
    let start = Instant::now();
    loop {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Ok(lock),
            Err((back, Errno::EAGAIN | Errno::EINTR)) if start.elapsed() < patience => {
                file = back;
                thread::sleep(LOCK_RETRY);
            }
            Err((_, error)) => return Err(failed(error.into())),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic, clippy::unwrap_used)]
    use super::*;

    fn bound(address: &Address) -> Bound {
        match claim(address, Duration::ZERO).unwrap() {
            Claim::Bound(bound) => bound,
            Claim::Live(_) => panic!("{address} is live"),
        }
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().mode() & 0o7777
    }

    #[test]
    fn addresses_are_absolute_unix_paths() {
        for text in ["unix:///run/a.sock", "unix:/run/a.sock", "/run/a.sock"] {
            let address = text.parse::<Address>().unwrap();
            assert_eq!(address.path(), Path::new("/run/a.sock"));
        }
        for text in [
            "",
            "unix://",
            "unix://run/a",
            "run/a",
            "vsock://1:2",
            "unix:///",
        ] {
            assert_eq!(
                text.parse::<Address>(),
                Err(AddressError::NotUnix),
                "{text}"
            );
        }
        let long = format!("/{}", "x".repeat(107));
        assert_eq!(long.parse::<Address>(), Err(AddressError::TooLong(108)));
    }

    /// Nobody but the owner gets near the socket, whatever the mask of the process is.
    #[test]
    fn modes_are_exact() {
        let dir = tempfile::tempdir().unwrap();
        let shared = dir.path().join("run/confidential-containers");
        let path = shared.join("attestation-agent/g.sock");
        let bound = bound(&Address::new(path.clone()).unwrap());
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        assert_eq!(mode(&shared), 0o755);
        bound.path.unwrap().remove().unwrap();
        assert!(!path.exists());
    }

    /// A live address is its owner's; a dead one is free; what is no socket is nobody's business.
    #[test]
    fn an_address_is_taken_only_when_nobody_answers() {
        let dir = tempfile::tempdir().unwrap();
        let address = Address::new(dir.path().join("g.sock")).unwrap();
        drop(UnixListener::bind(address.path()).unwrap());
        let first = bound(&address);
        assert!(matches!(
            claim(&address, Duration::ZERO).unwrap(),
            Claim::Live(_)
        ));
        // The first one's end must not remove the second one's socket.
        fs::remove_file(address.path()).unwrap();
        let second = bound(&address);
        first.path.unwrap().remove().unwrap();
        assert!(address.path().exists());
        second.path.unwrap().remove().unwrap();
        fs::write(address.path(), "mine").unwrap();
        assert!(matches!(
            claim(&address, Duration::ZERO),
            Err(Error::NotASocket { .. })
        ));
        assert_eq!(fs::read_to_string(address.path()).unwrap(), "mine");
    }

    /// A socket whose owner is busy, its backlog full, is live.
    #[test]
    fn a_full_backlog_is_live() {
        let dir = tempfile::tempdir().unwrap();
        let address = Address::new(dir.path().join("g.sock")).unwrap();
        let flags = SockFlag::SOCK_CLOEXEC;
        let busy = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None).unwrap();
        socket::bind(busy.as_raw_fd(), &UnixAddr::new(address.path()).unwrap()).unwrap();
        socket::listen(&busy, socket::Backlog::new(0).unwrap()).unwrap();
        let mut held = Vec::new();
        while held.len() < 3 {
            held.push(claim(&address, Duration::ZERO).unwrap());
        }
        assert!(held.iter().all(|claim| matches!(claim, Claim::Live(_))));
    }
}
