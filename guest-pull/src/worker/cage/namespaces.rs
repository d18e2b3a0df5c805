// SPDX-License-Identifier: Apache-2.0

//! Takes the worker out of the namespaces of the VM, but for the network's.

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{geteuid, getpid};

/// What is hidden by an empty directory: other processes and what the kernel tells of itself, and devices.
const HIDDEN: [&str; 3] = ["/proc", "/sys", "/dev"];

/// The number of the first process of a namespace.
const FIRST: i32 = 1;

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
    let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
    mount(none, "/", none, private, none).map_err(|error| format!("private mounts: {error}"))?;
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
