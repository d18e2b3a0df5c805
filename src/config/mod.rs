// SPDX-License-Identifier: Apache-2.0

//! Which files and sockets are used: flags override configuration files, these the environment, and that the
//! defaults.

pub mod component;
pub mod kbc;
pub mod tee;

use std::env;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, bail};
use clap::Args;
use offline_fs_kbc::resource::file::{self, Kind};
use offline_fs_kbc::resource::name::{CREDENTIAL, Name};
use offline_fs_kbc::resource::snapshot::Source;
use offline_fs_kbc::server::listener::{Address, AddressError};

/// The resources file that image builds and cloud-init write.
pub const RESOURCES: &str = "/etc/aa-offline_fs_kbc-resources.json";

/// The keys file, next to the resources file.
pub const KEYS: &str = "/etc/aa-offline_fs_kbc-keys.json";

/// Where cloud-api-adaptor delivers the credential today, a plain `auth.json`.
pub const AUTH_FILE: &str = "/run/peerpod/auth.json";

/// The environment variable that systemd sets for `LoadCredential=` and the like.
const CREDENTIALS: &str = "CREDENTIALS_DIRECTORY";

/// The value that systemd sets for the unit, and for cloud-api-adaptor's unit that runs the program in its place.
const CREDENTIALS_OF_UNIT: [&str; 2] = [
    "/run/credentials/offline-fs-kbc.service",
    "/run/credentials/attestation-agent.service",
];

/// The directory of the attestation components' sockets.
const RUN: &str = "/run/confidential-containers";

/// The kernel's list of swap devices.
const SWAPS: &str = "/proc/swaps";

/// The directory in which the stock confidential-data-hub looks for public keys.
const SEALED_SECRET_KEYS: &str = "/run/confidential-containers/cdh/sealed-secret";

/// The environment variable that names more resources files, separated by commas.
const EXTRA_FILES: &str = "OFFLINE_FS_KBC_EXTRA_FILE_PATH";

/// The prefix of the default paths.
#[derive(Args, Clone, Debug, Default)]
pub struct Root {
    /// Put every default path below DIR
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
}

impl Root {
    /// The place of a default path.
    pub fn path(&self, default: &str) -> PathBuf {
        match &self.root {
            Some(root) => {
                let path = root.join(default.trim_start_matches('/'));
                match path.is_absolute() {
                    true => path,
                    // A socket's address must be absolute. This fails only if the root is empty.
                    false => std::path::absolute(&path).unwrap_or(path),
                }
            }
            None => PathBuf::from(default),
        }
    }

    /// The directory of public keys of sealed secrets; they may be resources too.
    pub fn sealed_secret_keys(&self) -> PathBuf {
        self.path(SEALED_SECRET_KEYS)
    }

    /// The directory of the unit's systemd credentials, if it exists.
    pub fn credentials_of_unit(&self) -> Option<PathBuf> {
        let mut paths = CREDENTIALS_OF_UNIT.iter().map(|path| self.path(path));
        paths.find(|path| path.is_dir())
    }

    /// Whether a swap device is active.
    pub fn has_swap(&self) -> bool {
        let swaps = file::read(&self.path(SWAPS));
        // The file has a heading, and a line for each device.
        swaps.is_ok_and(|swaps| swaps.text.iter().filter(|&&byte| byte == b'\n').count() > 1)
    }

    /// The default address of a socket.
    ///
    /// # Errors
    ///
    /// If the root is too long for a socket's path.
    pub fn socket(&self, role: Role) -> anyhow::Result<Address> {
        self.socket_at(role.relative_path())
    }

    /// The default address of guest-pull.
    ///
    /// # Errors
    ///
    /// If the root is too long for a socket's path.
    pub fn guest_pull_socket(&self) -> anyhow::Result<Address> {
        self.socket_at("guest-pull.sock")
    }

    fn socket_at(&self, relative_path: &str) -> anyhow::Result<Address> {
        let path = self.path(&format!("{RUN}/{relative_path}"));
        let shown = path.display().to_string();
        Address::new(path)
            .with_context(|| format!("{shown} can't be a socket's path; choose another --root"))
    }
}

/// The sockets of the attestation components, by their services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Resources, for the kata-agents of 2023.
    GetResource,
    /// Unwrapped keys of image layers, for the kata-agents of 2023.
    KeyProvider,
    /// Attestation, which this daemon refuses.
    Attestation,
    /// The services of confidential-data-hub, for later kata-agents.
    ConfidentialDataHub,
}

impl Role {
    /// All roles.
    pub const ALL: [Self; 4] = [
        Self::GetResource,
        Self::KeyProvider,
        Self::Attestation,
        Self::ConfidentialDataHub,
    ];

    /// The role of a socket that the service manager passes under this name (`FileDescriptorName=`).
    pub fn of_descriptor(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    fn name(self) -> &'static str {
        match self {
            Self::GetResource => "getresource",
            Self::KeyProvider => "keyprovider",
            Self::Attestation => "attestation",
            Self::ConfidentialDataHub => "cdh",
        }
    }

    /// The socket's path below the directory of the attestation components.
    fn relative_path(self) -> &'static str {
        match self {
            Self::GetResource => "attestation-agent/getresource.sock",
            Self::KeyProvider => "attestation-agent/keyprovider.sock",
            Self::Attestation => "attestation-agent/attestation-agent.sock",
            Self::ConfidentialDataHub => "cdh.sock",
        }
    }
}

/// The upstream component that the program replaces.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Component {
    /// The attestation-agent; also the default of `serve`.
    #[default]
    AttestationAgent,
    /// The confidential-data-hub.
    ConfidentialDataHub,
}

/// The value of a socket's flag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Choice {
    /// The socket has this address.
    At(Address),
    /// `none`: the socket is not served.
    Off,
}

impl FromStr for Choice {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text {
            "none" => Ok(Self::Off),
            address => address.parse().map(Self::At),
        }
    }
}

/// The sockets that are served.
#[derive(Args, Clone, Debug, Default)]
pub struct Sockets {
    /// Address of getresource.sock, or none [default: attestation-agent/getresource.sock below /run/confidential-containers]
    #[arg(long, value_name = "ADDR")]
    pub getresource_sock: Option<Choice>,

    /// Address of keyprovider.sock, or none [default: in the same directory]
    #[arg(long, value_name = "ADDR")]
    pub keyprovider_sock: Option<Choice>,

    /// Address of attestation-agent.sock, or none [default: in the same directory]
    #[arg(long, value_name = "ADDR")]
    pub attestation_sock: Option<Choice>,

    /// Address of cdh.sock [default: none, since a stock confidential-data-hub may serve it]
    #[arg(long, value_name = "ADDR")]
    pub cdh_sock: Option<Choice>,

    /// Address of guest-pull, to which requests for images are passed on, or none [default: guest-pull.sock below
    /// /run/confidential-containers]
    #[arg(long, value_name = "ADDR")]
    pub guest_pull_sock: Option<Choice>,
}

impl Sockets {
    /// The flag for the socket of this role.
    pub fn choice(&mut self, role: Role) -> &mut Option<Choice> {
        match role {
            Role::GetResource => &mut self.getresource_sock,
            Role::KeyProvider => &mut self.keyprovider_sock,
            Role::Attestation => &mut self.attestation_sock,
            Role::ConfidentialDataHub => &mut self.cdh_sock,
        }
    }

    /// The addresses to serve, each with its roles: by default those of the component that the program
    /// replaces.
    ///
    /// # Errors
    ///
    /// If a default address is too long, or every socket is switched off.
    pub fn addresses(
        mut self,
        root: &Root,
        component: Component,
    ) -> anyhow::Result<Vec<(Address, Vec<Role>)>> {
        let mut addresses: Vec<(Address, Vec<Role>)> = Vec::new();
        for role in Role::ALL {
            let is_hub = role == Role::ConfidentialDataHub;
            let by_default = is_hub == (component == Component::ConfidentialDataHub);
            let address = match self.choice(role).take() {
                Some(Choice::Off) => continue,
                Some(Choice::At(address)) => address,
                None if by_default => root.socket(role)?,
                None => continue,
            };
            match addresses
                .iter_mut()
                .find(|(earlier, _)| *earlier == address)
            {
                Some((_, roles)) => roles.push(role),
                None => addresses.push((address, vec![role])),
            }
        }
        if addresses.is_empty() {
            bail!("all sockets are switched off; give at least one an address");
        }
        Ok(addresses)
    }
}

/// The files to serve.
#[derive(Args, Clone, Debug, Default)]
pub struct Files {
    /// Resources file [default: /etc/aa-offline_fs_kbc-resources.json]
    #[arg(long, value_name = "FILE")]
    pub resources: Option<PathBuf>,

    /// Keys file [default: /etc/aa-offline_fs_kbc-keys.json]
    #[arg(long, value_name = "FILE")]
    pub keys: Option<PathBuf>,

    /// Another resources file; its entries override those before it, and credentials are merged; may be repeated
    #[arg(long, value_name = "FILE")]
    pub extra_file: Vec<PathBuf>,

    /// Directory with one file per resource, <repository>/<type>/<tag>; may be repeated
    #[arg(long, value_name = "DIR")]
    pub resource_dir: Vec<PathBuf>,

    /// The registry credential as a plain auth.json [default: /run/peerpod/auth.json]
    #[arg(long, value_name = "FILE")]
    pub auth_file: Option<PathBuf>,
}

impl Files {
    /// The files, lowest precedence first, where `credentials` is the directory of systemd's credentials.
    pub fn sources(&self, root: &Root, credentials: Option<PathBuf>) -> Vec<Source> {
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
        sources.extend(self.resource_dir.iter().map(|path| Source {
            path: path.clone(),
            kind: Kind::Directory,
        }));
        let auth_file = |path| Source {
            path,
            kind: Kind::Whole(Name::Path(CREDENTIAL.into())),
        };
        if let Some(directory) = credentials {
            let named = |path: &str| {
                let name = Path::new(path).file_name().unwrap_or_default();
                directory.join(name)
            };
            sources.push(Source {
                path: named(KEYS),
                kind: Kind::Keys,
            });
            sources.push(resources(named(RESOURCES)));
            sources.push(auth_file(named(AUTH_FILE)));
        }
        sources.push(auth_file(path(&self.auth_file, AUTH_FILE)));
        sources
    }
}

/// The directory of systemd's credentials, from the environment.
pub fn credentials() -> Option<PathBuf> {
    env::var_os(CREDENTIALS).map(PathBuf::from)
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

/// What the daemon takes a file for by its name: it has one of the names under which the daemon finds its files. A
/// resources or keys file may have something before its name, as copies on a build host do.
pub fn kind_by_name(path: &Path) -> Option<Kind> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    if name.ends_with("aa-offline_fs_kbc-keys.json") {
        Some(Kind::Keys)
    } else if name.ends_with("aa-offline_fs_kbc-resources.json") {
        Some(Kind::Resources)
    } else if name == "auth.json" {
        Some(Kind::Whole(Name::Path(CREDENTIAL.into())))
    } else {
        None
    }
}

/// What the daemon takes the file at one of its default paths for.
#[cfg(feature = "tools")]
pub fn kind_at(path: &str) -> Option<Kind> {
    let is_default = [RESOURCES, KEYS, AUTH_FILE].contains(&path);
    kind_by_name(Path::new(path)).filter(|_| is_default)
}

/// Which of the two kinds of files with entries it is, by its name.
pub fn kind_of_entries(path: &Path) -> Kind {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    match name.ends_with("keys.json") {
        true => Kind::Keys,
        false => Kind::Resources,
    }
}
