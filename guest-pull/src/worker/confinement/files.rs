// SPDX-License-Identifier: Apache-2.0

//! What of the file system the worker can reach, by Landlock: landlock(7).

use landlock::{
    ABI, Access as _, AccessFs, AccessNet, BitFlags, LandlockStatus, Ruleset, RulesetAttr as _,
    RulesetCreatedAttr as _, RulesetError, RulesetStatus, Scope, path_beneath_rules,
};

/// What the C library reads to find the address of a name: nsswitch.conf(5), resolv.conf(5), hosts(5), gai.conf(5). Some are
/// links; where these lead is looked up now.
const RESOLVER: [&str; 7] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/services",
    "/etc/protocols",
];

/// systemd-resolved and others replace the file that `/etc/resolv.conf` leads to, and a rule for a file holds for that file
/// alone.
const REPLACED: [&str; 4] = [
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/run/connman",
];

/// Where the C library looks for what reads them, if it brings that as modules: ld.so(8).
const LIBRARIES: [&str; 5] = [
    "/etc/ld.so.cache",
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
];

/// The newest rules that are asked for. Kernels that know fewer keep those.
const NEWEST: ABI = ABI::V6;

/// Restricts this process; gives the version of the rules, if the kernel has not the newest.
pub(super) fn restrict() -> Result<Option<u64>, String> {
    let status = rules().map_err(|error| error.to_string())?;
    match (status.ruleset, status.landlock) {
        (RulesetStatus::NotEnforced, LandlockStatus::NotEnabled) => {
            Err("it is switched off; add landlock to lsm= on the kernel command line".to_owned())
        }
        (RulesetStatus::NotEnforced, _) => {
            Err("the kernel has none; build it with CONFIG_SECURITY_LANDLOCK".to_owned())
        }
        (RulesetStatus::PartiallyEnforced, LandlockStatus::Available { effective_abi, .. }) => {
            Ok(Some(effective_abi as u64))
        }
        _ => Ok(None),
    }
}

fn rules() -> Result<landlock::RestrictionStatus, RulesetError> {
    let read: BitFlags<AccessFs> = AccessFs::ReadFile.into();
    let paths = RESOLVER.iter().chain(&REPLACED).chain(&LIBRARIES);
    Ruleset::default()
        .handle_access(AccessFs::from_all(NEWEST))?
        // It asks servers, and is none.
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::AbstractUnixSocket | Scope::Signal)?
        .create()?
        .add_rules(path_beneath_rules(paths, read))?
        .restrict_self()
}
