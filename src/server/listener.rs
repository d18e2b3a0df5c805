// SPDX-License-Identifier: Apache-2.0

//! Binding an address, but never one on which another process answers.
//!
//! Each address is decided on its own, under a lock on a file in the socket's directory. A socket file on
//! which nobody listens was left by a process that was killed, and is replaced. Anything that is not a socket
//! is left alone.

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

/// The lock file in a socket's directory: whoever holds the lock may bind an address there. The file is never
/// removed, since two processes could then hold two locks.
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
    #[error("{0} bytes long; the path of a unix socket has at most {MAX_PATH_BYTES} bytes")]
    TooLong(usize),
}

/// The longest path that fits `sockaddr_un` with its NUL byte: unix(7).
const MAX_PATH_BYTES: usize = 107;

impl Address {
    /// The address of the socket at `path`.
    ///
    /// # Errors
    ///
    /// If the path is relative or too long.
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
    /// Something that is not a socket is at the path; it is left alone.
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

/// The result of an attempt to bind an address.
pub enum BindOutcome {
    /// The address is bound by this process.
    Bound(BoundSocket),
    /// Another process answers there.
    InUse(Holder),
}

/// A process that answers on an address.
pub struct Holder {
    /// A connection to it, which ends when the process does.
    pub connection: UnixStream,
    /// Its socket, as it was before the connection was made.
    pub socket_file: SocketFile,
}

impl BindOutcome {
    /// The process id of the other process, if the kernel knows it.
    pub fn peer_pid(&self) -> Option<i32> {
        match self {
            Self::Bound(_) => None,
            Self::InUse(holder) => {
                let peer = socket::getsockopt(&holder.connection, PeerCredentials).ok()?;
                Some(peer.pid()).filter(|pid| *pid > 0)
            }
        }
    }
}

/// A listening socket and its path.
pub struct BoundSocket {
    /// The socket.
    pub listener: UnixListener,
    /// Tells whether the path still leads to the socket.
    pub socket_file: SocketFile,
    /// Removes the path at the end; none if the socket came from the service manager, which keeps it for the
    /// next process.
    pub path: Option<BoundPath>,
}

impl BoundSocket {
    /// A listening socket that the service manager passed to this process, with its address.
    ///
    /// # Errors
    ///
    /// If it is not a listening unix socket with a path.
    pub fn from_activation(listener: UnixListener) -> io::Result<(Address, Self)> {
        if !socket::getsockopt(&listener, AcceptConn)? {
            return Err(io::Error::other("not a listening socket"));
        }
        let address = listener.local_addr()?;
        let path = address.as_pathname().unwrap_or(Path::new(""));
        let address = Address::new(path.to_owned()).map_err(io::Error::other)?;
        listener.set_nonblocking(true)?;
        let socket_file = SocketFile::of(path);
        let path = None;
        Ok((
            address,
            Self {
                listener,
                socket_file,
                path,
            },
        ))
    }
}

/// The path of a socket that this process bound.
pub struct BoundPath {
    socket_file: SocketFile,
    /// While this descriptor is open, the kernel gives the inode to no other file, so inodes can be compared.
    _socket: UnixListener,
}

/// Identifies the socket file at a path, to tell whether the path still leads to it.
#[derive(Clone)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode of the socket file, which tell it from another; none if it was gone already.
    identity: Option<(u64, u64)>,
}

impl SocketFile {
    /// Identifies what is at `path` now.
    fn of(path: &Path) -> Self {
        let path = path.to_owned();
        let identity = identity_of(&path);
        Self { path, identity }
    }

    /// The path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether the path still leads to the socket. This is reliable only while the socket is open.
    pub fn is_in_place(&self) -> bool {
        self.identity.is_some() && identity_of(&self.path) == self.identity
    }
}

/// Device and inode of what is at `path`.
fn identity_of(path: &Path) -> Option<(u64, u64)> {
    Some(identity(&fs::symlink_metadata(path).ok()?))
}

fn identity(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

impl BoundPath {
    /// Removes the path if it still leads to the socket that this process bound.
    ///
    /// To be called while the listener still accepts, so that nobody connects to a socket that nobody serves.
    ///
    /// # Errors
    ///
    /// If the path can't be removed.
    pub fn remove(self) -> Result<(), Error> {
        // Without the lock this is nearly as safe: another copy that finds this socket answering leaves it
        // alone.
        let path = self.socket_file.path.clone();
        let _lock = lock_directory_of(&path, Duration::ZERO);
        if self.socket_file.is_in_place() {
            fs::remove_file(&path).map_err(|error| Error::Remove { path, error })?;
        }
        Ok(())
    }
}

/// Binds the address unless another process answers there, and creates missing directories. Waits at most
/// `lock_timeout` for another copy that holds the lock on the directory.
///
/// # Errors
///
/// If the address can't be bound and no other process answers there.
pub fn bind(address: &Address, lock_timeout: Duration) -> Result<BindOutcome, Error> {
    let path = address.path();
    let failed = |error: io::Error| Error::Bind {
        path: path.to_owned(),
        error,
    };
    prepare_directory_of(path)?;
    let _lock = lock_directory_of(path, lock_timeout)?;
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
            if let Some(connection) = probe(path).map_err(|error| failed(error.into()))? {
                let socket_file = SocketFile {
                    path: path.to_owned(),
                    identity: Some(identity(&metadata)),
                };
                return Ok(BindOutcome::InUse(Holder {
                    connection,
                    socket_file,
                }));
            }
            fs::remove_file(path).map_err(failed)?;
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    // The socket has mode 0600 from the start; only the process's umask can do that.
    let before = umask(Mode::from_bits_truncate(0o177));
    let listener = UnixListener::bind(path);
    umask(before);
    let listener = listener.map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let socket_file = SocketFile::of(path);
    let path = BoundPath {
        socket_file: socket_file.clone(),
        _socket: listener.try_clone().map_err(failed)?,
    };
    Ok(BindOutcome::Bound(BoundSocket {
        listener,
        socket_file,
        path: Some(path),
    }))
}

/// Connects to the socket at `path` without blocking. Returns none if nobody listens.
fn probe(path: &Path) -> nix::Result<Option<UnixStream>> {
    // The standard library's connect would block for ever if the backlog is full.
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let stream = socket::socket(AddressFamily::Unix, SockType::Stream, flags, None)?;
    match socket::connect(stream.as_raw_fd(), &UnixAddr::new(path)?) {
        // EAGAIN means that the backlog is full: a process listens and is busy.
        Ok(()) | Err(Errno::EAGAIN) => Ok(Some(stream.into())),
        Err(Errno::ECONNREFUSED | Errno::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Creates the missing directories above `socket`, and warns if another user could replace the socket.
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

/// Creates one directory with exactly this mode, unless another process has just created it.
fn make_directory(directory: &Path, mode: u32) -> io::Result<()> {
    match DirBuilder::new().mode(0o700).create(directory) {
        // Set the mode explicitly, since the process's umask removes bits.
        Ok(()) => fs::set_permissions(directory, Permissions::from_mode(mode)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

fn warn_if_writable(directory: &Path, metadata: &Metadata, is_parent: bool) {
    const OTHERS_WRITE: u32 = 0o022;
    const STICKY: u32 = 0o1000;
    // A sticky directory such as /tmp is safe above the socket's own directory: nobody can rename another
    // user's entries.
    let safe = metadata.mode() & OTHERS_WRITE == 0 || !is_parent && metadata.mode() & STICKY != 0;
    let path = directory.display();
    if !safe {
        warn!("others can write to {path} and replace the socket; `chmod go-w {path}`");
    }
    let owner = metadata.uid();
    if owner != 0 && owner != geteuid().as_raw() {
        warn!("uid {owner} owns {path} and can replace the socket; `chown root:root {path}`");
    }
}

/// Locks the directory of `socket` until the returned value is dropped.
fn lock_directory_of(socket: &Path, lock_timeout: Duration) -> Result<Flock<File>, Error> {
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
            Err((back, Errno::EAGAIN | Errno::EINTR)) if start.elapsed() < lock_timeout => {
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

    fn bound(address: &Address) -> BoundSocket {
        match bind(address, Duration::ZERO).unwrap() {
            BindOutcome::Bound(bound) => bound,
            BindOutcome::InUse(_) => panic!("{address} is in use"),
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

    /// Only the owner can access the socket, whatever the umask of the process is.
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

    /// An address on which a process answers stays that process's; a dead socket is replaced; another file is
    /// left alone.
    #[test]
    fn an_address_is_taken_only_when_nobody_answers() {
        let dir = tempfile::tempdir().unwrap();
        let address = Address::new(dir.path().join("g.sock")).unwrap();
        drop(UnixListener::bind(address.path()).unwrap());
        let first = bound(&address);
        assert!(matches!(
            bind(&address, Duration::ZERO).unwrap(),
            BindOutcome::InUse(_)
        ));
        // The first one's end must not remove the second one's socket.
        fs::remove_file(address.path()).unwrap();
        let second = bound(&address);
        first.path.unwrap().remove().unwrap();
        assert!(address.path().exists());
        second.path.unwrap().remove().unwrap();
        fs::write(address.path(), "mine").unwrap();
        assert!(matches!(
            bind(&address, Duration::ZERO),
            Err(Error::NotASocket { .. })
        ));
        assert_eq!(fs::read_to_string(address.path()).unwrap(), "mine");
    }

    /// A socket whose backlog is full is in use: its owner is busy.
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
            held.push(bind(&address, Duration::ZERO).unwrap());
        }
        assert!(
            held.iter()
                .all(|outcome| matches!(outcome, BindOutcome::InUse(_)))
        );
    }
}
