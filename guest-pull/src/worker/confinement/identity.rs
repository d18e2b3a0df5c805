// SPDX-License-Identifier: Apache-2.0

//! Who the worker is: a user that has nothing, without capabilities.

use nix::unistd::{Gid, Uid, geteuid, getgroups, setgroups, setresgid, setresuid};
use rustix::process::{
    DumpableBehavior, Signal, set_dumpable_behavior, set_parent_process_death_signal,
};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, set_capabilities,
    set_keep_capabilities,
};

use crate::privileges;

/// The worker's user and group. It is from a range that systemd's table of users leaves free, and that neither distributions
/// nor `DynamicUser=` use, so that no file, process or socket of the VM belongs to it: <https://systemd.io/UIDS-GIDS/>.
pub const USER: u32 = 61_180;

/// Gives up root, and all groups. Who isn't root stays who it is.
pub(super) fn become_user() -> Result<(), String> {
    if !geteuid().is_root() {
        return Ok(());
    }
    let (user, group) = (Uid::from_raw(USER), Gid::from_raw(USER));
    // The capabilities are another part, which needs one of them.
    set_keep_capabilities(true).map_err(|error| format!("prctl: {error}"))?;
    setgroups(&[]).map_err(|error| format!("setgroups: {error}"))?;
    setresgid(group, group, group).map_err(|error| format!("setresgid: {error}"))?;
    setresuid(user, user, user).map_err(|error| format!("setresuid: {error}"))?;
    if !getgroups().is_ok_and(|groups| groups.is_empty()) {
        return Err("it still has groups".to_owned());
    }
    // The kernel forgets these when the user changes.
    let again = set_keep_capabilities(false)
        .and_then(|()| set_dumpable_behavior(DumpableBehavior::NotDumpable))
        .and_then(|()| set_parent_process_death_signal(Some(Signal::KILL)));
    again.map_err(|error| format!("prctl: {error}"))
}

/// Gives up all capabilities for good: those that the process has, and those that a program could get.
pub(super) fn drop_capabilities() -> Result<(), String> {
    let failed = |error| format!("capset: {error}");
    let own = capabilities(None).map_err(failed)?;
    let all = CapabilitySets {
        effective: own.permitted,
        ..own
    };
    set_capabilities(None, all).map_err(failed)?;
    // Who has none of this needs no bound: without new privileges, no program gives it any.
    if own.permitted.contains(CapabilitySet::SETPCAP) {
        privileges::bound(CapabilitySet::empty())
            .map_err(|error| format!("the bounding set: {error}"))?;
    }
    clear_ambient_capability_set().map_err(|error| format!("the ambient set: {error}"))?;
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, none).map_err(failed)
}
