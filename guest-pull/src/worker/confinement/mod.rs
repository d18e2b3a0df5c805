// SPDX-License-Identifier: Apache-2.0

//! What confines the worker. It is set before the worker reads its request, so before the first byte from outside.
//!
//! Each part holds by itself, so that one that a kernel lacks leaves the others. A part that is lacking is logged, and the pull
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
pub enum Part {
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

impl Part {
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

    /// The part of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.name() == name)
    }
}

/// What confines a worker: for each part nothing if it holds, or else why it doesn't.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Confinement {
    /// The parts that were to be set.
    pub parts: BTreeMap<Part, Option<String>>,
    /// The version of Landlock's rules, if the kernel has not the newest that are asked for.
    pub older_landlock: Option<u64>,
}

impl Confinement {
    /// Confines this process, which has one thread.
    pub fn enter(parts: &[Part]) -> Self {
        let mut confinement = Self::default();
        // Two parts need this, and none works against it.
        let no_new_privs = set_no_new_privs(true).map_err(|error| error.to_string());
        for part in Part::ALL.iter().filter(|part| parts.contains(part)) {
            let set = match part {
                Part::Namespaces => namespaces::leave(),
                Part::Limits => limits::set(),
                Part::User => identity::become_user(),
                Part::Capabilities => identity::drop_capabilities(),
                Part::Landlock => {
                    files::restrict().map(|version| confinement.older_landlock = version)
                }
                Part::SystemCalls => system_calls::restrict(),
            };
            confinement
                .parts
                .insert(*part, set.and(no_new_privs.clone()).err());
        }
        confinement
    }

    /// The names of the parts that hold, and of those that don't. Where Landlock holds in part, its version goes along.
    pub fn names(&self) -> (Vec<String>, Vec<String>) {
        let (lacking, holding): (Vec<_>, Vec<_>) =
            self.parts.iter().partition(|(_, why)| why.is_some());
        let names = |parts: Vec<(&Part, &Option<String>)>| {
            let name = |(part, why): (&Part, &Option<String>)| match self.older_landlock {
                Some(version) if *part == Part::Landlock && why.is_none() => {
                    format!("{}-abi-{version}", part.name())
                }
                _ => part.name().to_owned(),
            };
            parts.into_iter().map(name).collect()
        };
        (names(holding), names(lacking))
    }
}
