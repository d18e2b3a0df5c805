// SPDX-License-Identifier: Apache-2.0

//! What confines the worker. It is set before the worker reads its request, so before the first byte from outside.
//!
//! Each bar holds by itself, so that one that a kernel lacks leaves the others. A bar that is lacking is logged, and the pull
//! goes on: a VM whose kernel has no Landlock must still start its pod.

mod files;
mod identity;
mod limits;
mod namespaces;
mod system_calls;

use std::collections::BTreeMap;

use rustix::thread::set_no_new_privs;

pub use identity::USER;
pub use limits::be_ended_first;

/// A part of what confines the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Bar {
    /// It sees no other process, no device, no shared memory, and neither `/proc` nor `/sys`.
    Namespaces,
    /// Limits of its memory, descriptors, threads, and the size of files.
    Limits,
    /// It has a user of its own, and no group.
    User,
    /// It has no capability, and can't get one.
    Capabilities,
    /// It can read what name resolution needs, write no file by its name, and listen on no port.
    Landlock,
    /// It can make the system calls alone that it needs.
    SystemCalls,
}

impl Bar {
    /// All of them, in the order in which they are set: each needs what the later ones take away.
    pub const ALL: [Self; 6] = [
        Self::Namespaces,
        Self::Limits,
        Self::User,
        Self::Capabilities,
        Self::Landlock,
        Self::SystemCalls,
    ];

    /// Its name, as the log and the daemon's status have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Namespaces => "namespaces",
            Self::Limits => "limits",
            Self::User => "user",
            Self::Capabilities => "capabilities",
            Self::Landlock => "landlock",
            Self::SystemCalls => "system-calls",
        }
    }

    /// The bar of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bar| bar.name() == name)
    }
}

/// What confines a worker: for each bar nothing if it holds, or else why it doesn't.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cage {
    /// The bars that were to be set.
    pub bars: BTreeMap<Bar, Option<String>>,
    /// The version of Landlock's rules, if the kernel has not the newest that are asked for.
    pub older_landlock: Option<u64>,
}

impl Cage {
    /// Confines this process, which has one thread.
    pub fn enter(bars: &[Bar]) -> Self {
        let mut cage = Self::default();
        // Two bars need this, and none works against it.
        let no_new_privs = set_no_new_privs(true).map_err(|error| error.to_string());
        for bar in Bar::ALL.iter().filter(|bar| bars.contains(bar)) {
            let set = match bar {
                Bar::Namespaces => namespaces::leave(),
                Bar::Limits => limits::set(),
                Bar::User => identity::become_user(),
                Bar::Capabilities => identity::drop_capabilities(),
                Bar::Landlock => files::restrict().map(|version| cage.older_landlock = version),
                Bar::SystemCalls => system_calls::restrict(),
            };
            cage.bars.insert(*bar, set.and(no_new_privs.clone()).err());
        }
        cage
    }

    /// The names of the bars that hold, and of those that don't. Where Landlock holds in part, its version goes along.
    pub fn names(&self) -> (Vec<String>, Vec<String>) {
        let (lacking, holding): (Vec<_>, Vec<_>) =
            self.bars.iter().partition(|(_, why)| why.is_some());
        let names = |bars: Vec<(&Bar, &Option<String>)>| {
            let name = |(bar, why): (&Bar, &Option<String>)| match self.older_landlock {
                Some(version) if *bar == Bar::Landlock && why.is_none() => {
                    format!("{}-abi-{version}", bar.name())
                }
                _ => bar.name().to_owned(),
            };
            bars.into_iter().map(name).collect()
        };
        (names(holding), names(lacking))
    }
}
