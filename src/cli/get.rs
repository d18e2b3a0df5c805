// SPDX-License-Identifier: Apache-2.0

//! `get`: asks a running daemon for a resource, as the clients do.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use offline_fs_kbc::proto::{api, getresource};
use offline_fs_kbc::resource::name::KBC_NAME;
use offline_fs_kbc::resource::name::Name;
use offline_fs_kbc::server::listener::Address;
use zeroize::Zeroizing;

use crate::cli::{client, private_file};
use crate::config::{Role, Root};

/// What `--help` and the manual show at the end.
const EXAMPLE: &str = "Example:
  offline-fs-kbc get Credential >/dev/null
  offline-fs-kbc get kbs:///default/credential/test --as cdh --output auth.json";

/// Ask a running daemon for a resource as the clients do
///
/// On a terminal it prints only the size, unless --show is given.
#[derive(Args)]
#[command(after_help = EXAMPLE)]
pub struct Get {
    /// For example default/credential/test, Credential, or a kbs:// URI
    name: String,

    /// Ask in the way of this client [default: chosen by the socket's file name]
    #[arg(long = "as", value_name = "CLIENT")]
    client: Option<ClientKind>,

    /// The daemon's socket [default: the one that the client uses]
    #[arg(long, value_name = "ADDR")]
    socket: Option<Address>,

    /// Write the resource to FILE, mode 0600
    #[arg(long, value_name = "FILE")]
    output: Option<PathBuf>,

    /// Print the resource even on a terminal
    #[arg(long)]
    show: bool,

    #[command(flatten)]
    root: Root,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ClientKind {
    /// kata-agent of early 2023, on getresource.sock
    G1,
    /// kata-agent of 2023, on getresource.sock
    G2,
    /// kata-agent 3.7 to 3.17, on cdh.sock
    Cdh,
}

impl Get {
    /// Prints the resource. If it goes to a file, or to a terminal without --show, prints its size.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        crate::process::harden()?;
        let resource = self.ask()?;
        let size = resource.len();
        if let Some(path) = &self.output {
            private_file::write(path, &resource)?;
            super::print(format!("{}: {size} bytes\n", path.display()))?;
        } else if io::stdout().is_terminal() && !self.show {
            super::print(format!("{size} bytes (--show prints them)\n"))?;
        } else {
            super::print(&*resource)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn ask(&self) -> anyhow::Result<Zeroizing<Vec<u8>>> {
        let address = match (&self.socket, self.client) {
            (Some(address), _) => address.clone(),
            (None, Some(ClientKind::Cdh)) => self.root.socket(Role::ConfidentialDataHub)?,
            (None, _) => self.root.socket(Role::GetResource)?,
        };
        let kind = self.client.unwrap_or_else(|| kind_of(&address));
        Ok(Zeroizing::new(ask(&address, kind, &self.name)?))
    }
}

/// The client that uses a socket of this file name.
fn kind_of(address: &Address) -> ClientKind {
    match address.path().file_name() {
        Some(name) if name == "cdh.sock" => ClientKind::Cdh,
        _ => ClientKind::G2,
    }
}

fn ask(address: &Address, client: ClientKind, name: &str) -> anyhow::Result<Vec<u8>> {
    // These clients use only paths; any other name is sent as it is.
    let path = match Name::parse(name) {
        Ok(Name::Path(path)) if !name.contains("://") => Some(path),
        _ => None,
    };
    let (first, second, third) = match (client, path) {
        (ClientKind::Cdh, path) => {
            let request = api::GetResourceRequest {
                ResourcePath: path.map_or_else(|| name.to_owned(), |path| format!("kbs:///{path}")),
                ..Default::default()
            };
            let method = ("api.GetResourceService", "GetResource");
            let answer: api::GetResourceResponse = client::call(address, method, &request)?;
            return Ok(answer.Resource);
        }
        (ClientKind::G1, _) => {
            let description = serde_json::json!({"name": name, "optional": {}});
            (
                KBC_NAME.to_owned(),
                "null".to_owned(),
                description.to_string(),
            )
        }
        (ClientKind::G2, path) => {
            let path = path.map_or_else(|| name.to_owned(), |path| format!("/{path}"));
            (path, KBC_NAME.to_owned(), "null".to_owned())
        }
    };
    let request = getresource::GetResourceRequest {
        ResourcePath: first,
        KbcName: second,
        KbsUri: third,
        ..Default::default()
    };
    let method = ("getresource.GetResourceService", "GetResource");
    let answer: getresource::GetResourceResponse = client::call(address, method, &request)?;
    Ok(answer.Resource)
}
