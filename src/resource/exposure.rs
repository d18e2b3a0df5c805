// SPDX-License-Identifier: Apache-2.0

//! What exposes a file's secrets to others, or keeps the daemon from reading them: mode, owner and file
//! system. The daemon serves such a file nevertheless.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::sys::statfs::fstatfs;

use crate::resource::problem::{Problem, Severity};

/// Network file systems, whose server and network can see the file. The magic numbers are those of statfs(2).
const NETWORK: &[(u32, &str)] = &[
    (0x0102_1997, "9p"),
    (0x5346_414f, "AFS"),
    (0x00c3_6400, "Ceph"),
    (0xff53_4d42, "CIFS"),
    (0x6969, "NFS"),
    (0x517b, "SMB"),
    (0xfe53_4d42, "SMB 2"),
];

/// One such finding about a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exposure {
    /// The mode lets others read the file, or write to it.
    Mode(u32),
    /// The file is on a network file system.
    Network(&'static str),
    /// Its owner and mode keep out root without capabilities, as which the daemon's unit runs.
    NotForRoot {
        /// The owner.
        uid: u32,
        /// The mode.
        mode: u32,
    },
}

impl Exposure {
    /// The findings about an open file.
    pub fn of(file: &File, metadata: &Metadata) -> Vec<Self> {
        let mode = metadata.mode() & 0o7777;
        let mut found = Vec::new();
        if mode & 0o066 != 0 {
            found.push(Self::Mode(mode));
        }
        let by_owner = metadata.uid() == 0 && mode & 0o400 != 0;
        let by_group = metadata.gid() == 0 && mode & 0o040 != 0;
        if !by_owner && !by_group && mode & 0o004 == 0 {
            let uid = metadata.uid();
            found.push(Self::NotForRoot { uid, mode });
        }
        if let Ok(statfs) = fstatfs(file) {
            // The magic numbers have 32 bits; the type is wider on some architectures.
            let magic = statfs.filesystem_type().0 as u32;
            let network = NETWORK.iter().find(|(known, _)| *known == magic);
            found.extend(network.map(|(_, name)| Self::Network(name)));
        }
        found
    }

    /// Whether it keeps the daemon, as its unit runs it, from reading the file.
    fn is_error(&self) -> bool {
        matches!(self, Self::NotForRoot { .. })
    }

    /// The finding as a problem of the file at this path.
    pub fn problem(&self, path: &Path) -> Problem {
        let path = path.display();
        let (code, what, fix) = match self {
            Self::Mode(mode) => {
                let what = match (mode & 0o044, mode & 0o022) {
                    (_, 0) => "read it",
                    (0, _) => "write to it",
                    _ => "read it and write to it",
                };
                (
                    "file-mode",
                    format!("others can {what} (mode {mode:04o})"),
                    format!("`chmod 0600 {path}`"),
                )
            }
            Self::Network(name) => (
                "file-network",
                format!("on a network file system ({name}), whose server sees the secrets"),
                "copy it to a local file system".to_owned(),
            ),
            Self::NotForRoot { uid, mode } => (
                "file-owner",
                format!(
                    "the unit runs as root without capabilities and can't read it (owner {uid}, mode \
                     {mode:04o})"
                ),
                format!("`chown root:root {path}; chmod 0600 {path}`"),
            ),
        };
        let severity = match self.is_error() {
            true => Severity::Error,
            false => Severity::Warning,
        };
        Problem::of_file(severity, code, what, fix)
    }
}
