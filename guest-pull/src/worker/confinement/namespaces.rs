// SPDX-License-Identifier: Apache-2.0

//! Takes the worker out of the namespaces of the VM, but for the network's.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt as _;
use std::path::PathBuf;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{geteuid, getpid};

/// What is hidden by an empty directory: other processes and what the kernel tells of itself, and devices.
const HIDDEN: [&str; 3] = ["/proc", "/sys", "/dev"];

/// The number of the first process of a namespace.
const FIRST: i32 = 1;

/// Unmounts images here: a container that is removed would keep its memory as long as this process had it mounted. Where the
/// first process of the VM has shared mounts, as systemd does, that they are unmounted comes here by itself.
fn forget_images() {
    let text = fs::read("/proc/self/mountinfo").unwrap_or_default();
    for path in images(&text) {
        // One below another goes with it.
        let _ = umount2(&path, MntFlags::MNT_DETACH);
    }
}

/// Where overlays are mounted, but for the root: proc_pid_mountinfo(5).
fn images(text: &[u8]) -> Vec<PathBuf> {
    let lines = text.split(|byte| *byte == b'\n');
    let overlays = lines.filter(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        fields.any(|field| field == b"-") && fields.next() == Some(b"overlay")
    });
    let paths = overlays.filter_map(|line| line.split(|byte| *byte == b' ').nth(4));
    let paths = paths.filter(|path| *path != b"/").map(unescaped);
    paths.map(|path| OsString::from_vec(path).into()).collect()
}

/// A path, in which some bytes are three octal digits.
fn unescaped(path: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [byte, after @ ..] = rest {
        let digits = after.get(..3).filter(|_| *byte == b'\\');
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        plain.push(escaped.unwrap_or(*byte));
        rest = match escaped {
            Some(_) => after.get(3..).unwrap_or_default(),
            None => after,
        };
    }
    plain
}

/// Leaves them. The mounter has started this process as the first one of a namespace of processes.
pub(super) fn leave() -> Result<(), String> {
    // It takes capabilities, which a person's own pull doesn't have.
    if !geteuid().is_root() {
        return Err("that takes root".to_owned());
    }
    let namespaces = CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWIPC
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWCGROUP;
    unshare(namespaces).map_err(|error| format!("unshare: {error}"))?;
    let none = None::<&str>;
    // What is unmounted outside goes here too: otherwise this process would hold volumes and their devices. Nothing goes the
    // other way.
    let slave = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount(none, "/", none, slave, none).map_err(|error| format!("mounts of its own: {error}"))?;
    forget_images();
    let flags = MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
    for path in HIDDEN {
        let options = Some("size=4k,nr_inodes=1,mode=0");
        mount(Some("none"), path, Some("tmpfs"), flags, options)
            .map_err(|error| format!("an empty {path}: {error}"))?;
    }
    match getpid().as_raw() {
        FIRST => Ok(()),
        _ => Err("it has no namespace of processes".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mounts of images are found whatever their paths have, and no others.
    #[test]
    fn images_are_found() {
        let text = b"22 1 0:2 / / rw - overlay overlay rw,lowerdir=/overlay\n\
            30 22 0:9 / /run/a\\040b\\134/rootfs rw shared:1 - overlay overlay rw,upperdir=/x\n\
            31 22 0:9 / /overlay rw - ext4 /dev/vda rw\n";
        assert_eq!(images(text), [PathBuf::from("/run/a b\\/rootfs")]);
    }
}
