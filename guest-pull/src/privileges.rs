// SPDX-License-Identifier: Apache-2.0

//! What the program needs of root's privileges, and gives up the rest of them.
//!
//! `guest-pull@.service` has the same list. But the daemon or a person may start the program too.

use rustix::io::Result;
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    clear_ambient_capability_set, remove_capability_from_bounding_set, set_capabilities,
    set_no_new_privs,
};

/// The capabilities that the mounter keeps.
///
/// An overlay does with the rights of whoever mounted it what a container asks of it in its writable layer. So some of these
/// are here because a container may have them, and would miss them in its own files. The kernel looks at the container's own
/// as well.
pub const KEPT: [(&str, CapabilitySet); 13] = [
    // Copies of files have the owners of the layer; and containers change owners.
    ("CAP_CHOWN", CapabilitySet::CHOWN),
    // They are made in directories of these owners, from files that these alone may read.
    ("CAP_DAC_OVERRIDE", CapabilitySet::DAC_OVERRIDE),
    // And get their modes and times after that.
    ("CAP_FOWNER", CapabilitySet::FOWNER),
    // Among their modes those that run a program as its group.
    ("CAP_FSETID", CapabilitySet::FSETID),
    // The worker has another user, and is ended when nobody waits for it.
    ("CAP_KILL", CapabilitySet::KILL),
    // Containers that may make files immutable (chattr).
    ("CAP_LINUX_IMMUTABLE", CapabilitySet::LINUX_IMMUTABLE),
    // Containers make devices.
    ("CAP_MKNOD", CapabilitySet::MKNOD),
    // Copies have the capabilities of their files; and containers set some.
    ("CAP_SETFCAP", CapabilitySet::SETFCAP),
    // The worker becomes another user, in another group.
    ("CAP_SETGID", CapabilitySet::SETGID),
    ("CAP_SETUID", CapabilitySet::SETUID),
    // And gives up all of these for good.
    ("CAP_SETPCAP", CapabilitySet::SETPCAP),
    // Mounts, namespaces, loop devices, and the overlay's own attributes.
    ("CAP_SYS_ADMIN", CapabilitySet::SYS_ADMIN),
    // To go back to the mount namespace outside.
    ("CAP_SYS_CHROOT", CapabilitySet::SYS_CHROOT),
];

/// Gives up what this process does not need, for good. Who isn't root has nothing to give up.
///
/// # Errors
///
/// If the kernel refuses.
pub fn reduce() -> Result<()> {
    // No program that this one starts can get more.
    set_no_new_privs(true)?;
    let kept = KEPT
        .iter()
        .fold(CapabilitySet::empty(), |kept, (_, one)| kept | *one);
    let own = capabilities(None)?;
    // Who has none of this needs no bound: without new privileges, no program gives it any.
    if own.effective.contains(CapabilitySet::SETPCAP) {
        bound(kept)?;
    }
    clear_ambient_capability_set()?;
    let reduced = CapabilitySets {
        effective: own.effective & kept,
        permitted: own.permitted & kept,
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, reduced)
}

/// Leaves these alone in the bounding set, which holds what a program could ever get.
///
/// # Errors
///
/// If this process has not the capability for that.
pub fn bound(kept: CapabilitySet) -> Result<()> {
    for number in 0..u64::BITS {
        let one = CapabilitySet::from_bits_retain(1 << number);
        match capability_is_in_bounding_set(one) {
            Ok(true) if !kept.contains(one) => remove_capability_from_bounding_set(one)?,
            Ok(_) => {}
            // There are no more.
            Err(_) => break,
        }
    }
    Ok(())
}
