// SPDX-License-Identifier: Apache-2.0

//! Which of the attributes that an archive says a layer has, and in which form: as containerd would set them.

use crate::erofs::{self, Attributes, Kind, Xattr};
use crate::layer::acl;
use crate::layer::header::Header;
use crate::layer::path::shown;

/// The longest name of an extended attribute: `XATTR_NAME_MAX` of the kernel.
const MAX_XATTR_NAME: usize = 255;

/// The most bytes that the names of a file's extended attributes take, each with a NUL byte at its end: `XATTR_LIST_MAX`
/// of the kernel.
const MAX_XATTR_NAMES: usize = 65_536;

/// Mode, owner, time, and these extended attributes of the header.
pub fn attributes(header: &Header, all: Vec<Xattr>) -> Result<Attributes, String> {
    let owner = |what: &str, number: i64| match u32::try_from(number) {
        // The last one means none to the kernel.
        Ok(number) if number < u32::MAX => Ok(number),
        _ => Err(format!("its {what} is {number}, which no file can have")),
    };
    let mut xattrs: Vec<Xattr> = Vec::new();
    for (name, value) in all {
        if !is_kept(&name) {
            continue;
        }
        match check_xattr(&name, &value) {
            // containerd leaves these out.
            Err(_) if name.starts_with(b"trusted.") => {}
            checked => {
                checked?;
                xattrs.push((name, value));
            }
        }
    }
    check_names(&xattrs)?;
    let (seconds, nanoseconds) = bounded(header.seconds, header.nanoseconds);
    Ok(Attributes {
        mode: (header.mode & 0o7777) as u16,
        uid: owner("owner", header.uid)?,
        gid: owner("group", header.gid)?,
        seconds,
        nanoseconds,
        xattrs: sorted(xattrs),
    })
}

/// Attributes with names that nobody could list: the kernel gives no longer list.
fn check_names(xattrs: &[Xattr]) -> Result<(), String> {
    let bytes: usize = xattrs.iter().map(|(name, _)| name.len() + 1).sum();
    match bytes <= MAX_XATTR_NAMES {
        true => Ok(()),
        false => Err(format!(
            "the names of its extended attributes take {bytes} bytes, and a file can have {MAX_XATTR_NAMES}"
        )),
    }
}

/// What the kernel would refuse to set.
fn check_xattr(name: &[u8], value: &[u8]) -> Result<(), String> {
    let what = match name {
        b"security.capability" if !is_capability(value) => "has no value that the kernel knows",
        b"user." | b"trusted." | b"security." => "has no name after its prefix",
        _ if name.contains(&0) => "has a NUL byte in its name",
        _ if name.len() > MAX_XATTR_NAME => "has a name over 255 bytes",
        _ => return Ok(()),
    };
    Err(format!("the extended attribute {} {what}", shown(name)))
}

/// Whether it is of the second or third version of file capabilities, which are those that can be set.
fn is_capability(value: &[u8]) -> bool {
    matches!((value.len(), value.get(3)), (20, Some(2)) | (24, Some(3)))
}

/// The first second of 1970 for a time that 63 bits of nanoseconds since then don't hold, as containerd has it: before it, or
/// after April 2262.
fn bounded(seconds: i64, nanoseconds: u32) -> (i64, u32) {
    let whole = seconds.checked_mul(1_000_000_000);
    let time = whole.and_then(|whole| whole.checked_add(i64::from(nanoseconds)));
    match time {
        Some(0..) => (seconds, nanoseconds),
        _ => (0, 0),
    }
}

/// The attributes as such an inode can have them, and as containerd sets them: Linux knows one mode of symbolic links, only
/// files and directories have extended attributes of users, and an ACL says no other permissions than the mode.
pub fn fitting(mut attributes: Attributes, kind: &Kind) -> Result<Attributes, String> {
    let is_directory = matches!(kind, Kind::Directory(_));
    let has_users = is_directory || matches!(kind, Kind::File(_));
    let is_link = matches!(kind, Kind::Symlink(_));
    if is_link {
        attributes.mode = 0o777;
    }
    let mode = attributes.mode;
    let mut xattrs = Vec::with_capacity(attributes.xattrs.len());
    for (name, value) in attributes.xattrs {
        let value = match &*name {
            acl::ACCESS | acl::DEFAULT if is_link => None,
            acl::ACCESS => acl::with_mode(&value, mode)?,
            acl::DEFAULT if !is_directory => {
                return Err("it has a default ACL, and is no directory".to_owned());
            }
            acl::DEFAULT => acl::checked(&value)?,
            name if name.starts_with(b"user.") && !has_users => None,
            _ => Some(value),
        };
        xattrs.extend(value.map(|value| (name, value)));
    }
    check_names(&xattrs)?;
    // Those of many entries for one inode come together, and would grow beyond any bound until the end.
    erofs::check(kind, &xattrs).map_err(|error| error.to_string())?;
    Ok(Attributes {
        xattrs,
        ..attributes
    })
}

/// The attributes of an archive's entry that a layer keeps: overlayfs' own would be obeyed, and SELinux labels are those of
/// the machine that made the image. containerd drops the same.
pub fn is_kept(name: &[u8]) -> bool {
    !name.starts_with(b"trusted.overlay.") && name != b"security.selinux"
}

/// Sorts attributes, and of those that come twice keeps the last.
pub fn sorted(mut xattrs: Vec<Xattr>) -> Vec<Xattr> {
    xattrs.reverse();
    xattrs.sort_by(|a, b| a.0.cmp(&b.0));
    xattrs.dedup_by(|later, earlier| later.0 == earlier.0);
    xattrs
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times that containerd can't set become the first one that it can.
    #[test]
    fn times_are_bounded() {
        for (time, expected) in [
            ((0, 5), (0, 5)),
            ((-1, 999_999_999), (0, 0)),
            ((9_223_372_036, 854_775_807), (9_223_372_036, 854_775_807)),
            ((9_223_372_036, 854_775_808), (0, 0)),
            ((i64::MAX, 0), (0, 0)),
        ] {
            assert_eq!(bounded(time.0, time.1), expected, "{time:?}");
        }
    }
}
