// SPDX-License-Identifier: Apache-2.0

//! Which files and sockets: flags over the environment over defaults.

use std::env;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Args;
use offline_fs_kbc::resource::file::Kind;
use offline_fs_kbc::resource::store::Source;
use offline_fs_kbc::server::listener::Address;

/// The resources file that image builds and cloud-init write.
const RESOURCES: &str = "/etc/aa-offline_fs_kbc-resources.json";

/// The keys file beside it.
const KEYS: &str = "/etc/aa-offline_fs_kbc-keys.json";

/// Where kata-agent of 2023 asks for resources.
const GETRESOURCE_SOCK: &str = "/run/confidential-containers/attestation-agent/getresource.sock";

/// The environment variable that names more resources files, separated by commas.
const EXTRA_FILES: &str = "OFFLINE_FS_KBC_EXTRA_FILE_PATH";

/// Puts the default paths elsewhere.
#[derive(Args, Clone, Debug, Default)]
pub struct Root {
    /// Put every default path below DIR
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
}

impl Root {
    fn path(&self, default: &str) -> PathBuf {
        match &self.root {
            Some(root) => {
                let path = root.join(default.trim_start_matches('/'));
                // A socket's address is absolute. It fails only where the root is empty.
                std::path::absolute(&path).unwrap_or(path)
            }
            None => PathBuf::from(default),
        }
    }

    /// The default address of getresource.sock.
    ///
    /// # Errors
    ///
    /// Where the root is too long for a socket's path.
    pub fn getresource_sock(&self) -> anyhow::Result<Address> {
        let path = self.path(GETRESOURCE_SOCK);
        let shown = path.display().to_string();
        Address::new(path)
            .with_context(|| format!("{shown} can't be a socket; choose another --root"))
    }
}

/// The files that are served.
#[derive(Args, Clone, Debug, Default)]
pub struct Files {
    /// Resources file [default: /etc/aa-offline_fs_kbc-resources.json]
    #[arg(long, value_name = "FILE")]
    pub resources: Option<PathBuf>,

    /// Keys file [default: /etc/aa-offline_fs_kbc-keys.json]
    #[arg(long, value_name = "FILE")]
    pub keys: Option<PathBuf>,

    /// Another resources file, which wins over those before it; may be repeated
    #[arg(long, value_name = "FILE")]
    pub extra_file: Vec<PathBuf>,
}

impl Files {
    /// The files, lowest precedence first.
    pub fn sources(&self, root: &Root) -> Vec<Source> {
        let path =
            |flag: &Option<PathBuf>, default| flag.clone().unwrap_or_else(|| root.path(default));
        let resources = |path| Source {
            path,
            kind: Kind::Resources,
        };
        let mut sources = vec![
            Source {
                path: path(&self.keys, KEYS),
                kind: Kind::Keys,
            },
            resources(path(&self.resources, RESOURCES)),
        ];
        sources.extend(extra_files_of_environment().into_iter().map(resources));
        sources.extend(self.extra_file.iter().cloned().map(resources));
        sources
    }
}

fn extra_files_of_environment() -> Vec<PathBuf> {
    let value = env::var_os(EXTRA_FILES).unwrap_or_default();
    let paths = value.as_bytes().split(|&byte| byte == b',');
    paths
        .map(|path| path.trim_ascii())
        .filter(|path| !path.is_empty())
        .map(|path| PathBuf::from(OsStr::from_bytes(path)))
        .collect()
}

/// What a file on the command line holds: keys if it is called as the keys file, else resources.
pub fn kind_of(path: &Path) -> Kind {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if name.ends_with("keys.json") {
        Kind::Keys
    } else {
        Kind::Resources
    }
}
