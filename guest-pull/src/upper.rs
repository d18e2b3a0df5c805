// SPDX-License-Identifier: Apache-2.0

//! What is put into a writable layer before an image is mounted.
//!
//! Everything is reached by descriptors below the layer's own directory, and no link on the way is followed: what the stored
//! layers say of names and links can't lead anywhere else.

use std::cell::Cell;
use std::ffi::OsStr;
use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags, chownat,
    linkat, mkdirat, openat2, symlinkat, utimensat,
};
use rustix::io::Errno;

use crate::layer::is_kept;

/// How many bytes of extended attributes are copied for one image, names and values: the kernel keeps them outside of the
/// file system's own room where that is in memory. A file can have 256 KiB of them, and directories with any are rare.
const MAX_XATTR_BYTES: usize = 16 << 20;

/// The kernel's limit for the names of an inode's attributes, and for one value: `XATTR_LIST_MAX`, `XATTR_SIZE_MAX`.
const XATTR_MAX: usize = 65_536;

/// No link on the way is followed, and nothing above is reached.
pub fn beneath() -> ResolveFlags {
    ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS
}

/// For a directory itself, and no link to one.
pub fn directory_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// For what is at a path, be it a link. A device or a pipe is not opened by it.
pub fn path_flags() -> OFlags {
    OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// What is at a path.
pub struct Opened(OwnedFd);

impl Opened {
    /// What is at a path below a directory, be it a link.
    pub fn at(directory: OwnedFd, path: &[u8]) -> io::Result<Self> {
        let relative = path.strip_prefix(b"/").unwrap_or(path);
        if relative.is_empty() {
            return Ok(Self(directory));
        }
        let opened = openat2(directory, relative, path_flags(), Mode::empty(), beneath())?;
        Ok(Self(opened))
    }

    /// A name that leads to it alone. Functions that follow links give what is open, even if that is a link itself.
    pub fn name(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.0.as_raw_fd()))
    }

    /// What it says of itself.
    pub fn metadata(&self) -> io::Result<Metadata> {
        fs::metadata(self.name())
    }

    /// What it leads to, if it is a link.
    pub fn target(&self) -> io::Result<PathBuf> {
        let target = rustix::fs::readlinkat(&self.0, "", Vec::new())?;
        Ok(PathBuf::from(OsStr::from_bytes(target.as_bytes())))
    }

    /// Gives it an owner. The kernel takes capabilities away then.
    pub fn set_owner(&self, like: &Metadata) -> io::Result<()> {
        let (user, group) = (Uid::from_raw(like.uid()), Gid::from_raw(like.gid()));
        chownat(&self.0, "", Some(user), Some(group), AtFlags::EMPTY_PATH)?;
        Ok(())
    }

    /// Gives it a mode. A symbolic link has none.
    pub fn set_mode(&self, mode: u32) -> io::Result<()> {
        fs::set_permissions(self.name(), Permissions::from_mode(mode & 0o7777))
    }

    /// Gives it a time.
    pub fn set_time(&self, seconds: i64, nanoseconds: i64) -> io::Result<()> {
        let time = Timespec {
            tv_sec: seconds,
            // It is less than 10^9, which fits whatever type the C library has for it.
            tv_nsec: nanoseconds as _,
        };
        let times = Timestamps {
            last_access: time,
            last_modification: time,
        };
        utimensat(&self.0, "", &times, AtFlags::EMPTY_PATH)?;
        Ok(())
    }

    /// Removes the ACLs that something new has from the directory that it is in.
    pub fn remove_acls(&self) -> io::Result<()> {
        for name in ["system.posix_acl_access", "system.posix_acl_default"] {
            match rustix::fs::removexattr(self.name(), name) {
                Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// The directory that becomes the writable layer. Paths are from its root.
pub struct Upper {
    root: OwnedFd,
    /// How many bytes of extended attributes may still be copied.
    xattrs: Cell<usize>,
}

impl Upper {
    /// Opens the directory.
    pub fn open(path: &Path) -> io::Result<Self> {
        let root = openat2(
            CWD,
            path,
            directory_flags(),
            Mode::empty(),
            ResolveFlags::NO_MAGICLINKS,
        )?;
        Ok(Self {
            root,
            xattrs: Cell::new(MAX_XATTR_BYTES),
        })
    }

    /// How many bytes there is room for.
    pub fn room(&self) -> io::Result<u64> {
        let status = rustix::fs::fstatvfs(&self.root)?;
        Ok(status.f_bavail.saturating_mul(status.f_frsize))
    }

    /// What is at a path.
    pub fn at(&self, path: &[u8]) -> io::Result<Opened> {
        Opened::at(self.root.try_clone()?, path)
    }

    /// The directory that a path is in, and its last part.
    fn parent<'p>(&self, path: &'p [u8]) -> io::Result<(OwnedFd, &'p [u8])> {
        let end = path.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
        let name = path.get(end + 1..).unwrap_or_default();
        let above = path[..end].strip_prefix(b"/").unwrap_or_default();
        let root = self.root.try_clone()?;
        let directory = match above.is_empty() {
            true => root,
            false => openat2(root, above, directory_flags(), Mode::empty(), beneath())?,
        };
        Ok((directory, name))
    }

    /// Makes a directory, which must not be there.
    pub fn make_directory(&self, path: &[u8]) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        mkdirat(parent, name, Mode::from_raw_mode(0o755))?;
        Ok(())
    }

    /// Makes a file, which must not be there.
    pub fn make_file(&self, path: &[u8]) -> io::Result<File> {
        let (parent, name) = self.parent(path)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat2(parent, name, flags, Mode::from_raw_mode(0o600), beneath())?;
        Ok(file.into())
    }

    /// Makes a symbolic link.
    pub fn make_symlink(&self, path: &[u8], target: &Path) -> io::Result<()> {
        let (parent, name) = self.parent(path)?;
        symlinkat(target, parent, name)?;
        Ok(())
    }

    /// Makes another name of what is at a path of the layer.
    pub fn make_link(&self, path: &[u8], of: &[u8]) -> io::Result<()> {
        let (from, old) = self.parent(of)?;
        let (to, new) = self.parent(path)?;
        linkat(from, old, to, new, AtFlags::empty())?;
        Ok(())
    }

    /// Copies extended attributes, but for those that no layer has.
    pub fn copy_xattrs(&self, from: &Opened, to: &Opened) -> io::Result<()> {
        let (from, to) = (from.name(), to.name());
        let mut names = vec![0; XATTR_MAX];
        let length = rustix::fs::listxattr(&from, &mut names)?;
        let mut value = vec![0; XATTR_MAX];
        for name in names[..length].split(|byte| *byte == 0) {
            if name.is_empty() || !is_kept(name) {
                continue;
            }
            let length = rustix::fs::getxattr(&from, name, &mut value)?;
            let left = self.xattrs.get().checked_sub(name.len() + length);
            self.xattrs.set(left.ok_or_else(too_many_xattrs)?);
            let set = rustix::fs::setxattr(&to, name, &value[..length], XattrFlags::empty());
            match set {
                // The kernel leaves these out too where it copies a directory up: before Linux 6.6 tmpfs has none of users.
                Err(Errno::OPNOTSUPP) if !name.starts_with(b"security.") && !is_acl(name) => {}
                set => set?,
            }
        }
        Ok(())
    }
}

fn too_many_xattrs() -> io::Error {
    io::Error::other(format!(
        "the extended attributes of directories without entries, and of files that hard links lead to, have more than {} \
         MiB together; build the image with entries for its directories",
        MAX_XATTR_BYTES >> 20
    ))
}

/// Whether an attribute says who may do what.
fn is_acl(name: &[u8]) -> bool {
    name.starts_with(b"system.posix_acl_")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Names below a link are refused, whatever the link leads to, and nothing is written through one.
    #[test]
    fn links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let [upper, outside] = ["upper", "outside"].map(|name| dir.path().join(name));
        fs::create_dir(&upper).unwrap();
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("file"), "kept").unwrap();
        std::os::unix::fs::symlink(&outside, upper.join("way")).unwrap();
        std::os::unix::fs::symlink(outside.join("file"), upper.join("link")).unwrap();
        let layer = Upper::open(&upper).unwrap();
        assert!(layer.make_directory(b"/way/d").is_err());
        assert!(layer.make_file(b"/way/f").is_err());
        assert!(layer.make_file(b"/link").is_err());
        assert!(layer.make_symlink(b"/way/s", Path::new("x")).is_err());
        assert!(layer.make_link(b"/way/l", b"/link").is_err());
        assert!(layer.make_link(b"/l", b"/way/file").is_err());
        assert!(layer.at(b"/way/file").is_err());
        assert!(layer.make_file(b"/../f").is_err());
        // The link itself is what a path leads to.
        let link = layer.at(b"/link").unwrap();
        assert_eq!(link.target().unwrap(), outside.join("file"));
        link.set_time(7, 8).unwrap();
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
        let file = fs::metadata(outside.join("file")).unwrap();
        assert_ne!(file.mtime(), 7);
        assert_eq!(fs::symlink_metadata(upper.join("link")).unwrap().mtime(), 7);
    }
}
