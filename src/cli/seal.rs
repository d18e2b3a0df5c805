// SPDX-License-Identifier: Apache-2.0

//! `seal`: makes sealed secrets.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use offline_fs_kbc::resource::exposure::Exposure;
use offline_fs_kbc::resource::file;
use offline_fs_kbc::resource::name::Name;
use offline_fs_kbc::sealedsecret::sign::PrivateKey;
use offline_fs_kbc::text::Quoted;

/// What `--help` and the manual show at the end.
const EXAMPLE: &str = r"Example:
  offline-fs-kbc seal default/secret/db-password --key private.jwk \
      --kid kbs:///default/signing-key/1";

/// Make a sealed secret, a signed name of a resource
///
/// It prints the sealed secret, with a line break only on a terminal. The resource itself goes into the resources file,
/// and so does the public key, under the name that --kid gives.
#[derive(Args)]
#[command(after_help = EXAMPLE)]
pub struct Seal {
    /// The resource that the secret names, for example default/secret/db-password
    #[arg(value_parser = resource)]
    name: Name,

    /// The private key, a JWK as `keygen --signing` makes it, in a file that others can't read
    #[arg(long, value_name = "FILE")]
    key: PathBuf,

    /// The public key's id in the VM: a resource such as kbs:///default/signing-key/1, or the name of a file
    /// in /run/confidential-containers/cdh/sealed-secret
    #[arg(long, value_name = "ID", value_parser = key_id)]
    kid: String,
}

fn resource(text: &str) -> Result<Name, String> {
    match Name::parse(text).map_err(|error| error.to_string())? {
        name @ Name::Path(_) => Ok(name),
        Name::Other(_) => Err(format!("{} is not <repository>/<type>/<tag>", Quoted(text))),
    }
}

fn key_id(text: &str) -> Result<String, String> {
    if text.contains("://") {
        return match Name::parse(text).map_err(|error| error.to_string())? {
            Name::Path(path) => Ok(format!("kbs:///{path}")),
            Name::Other(_) => Err("write kbs:///<repository>/<type>/<tag>".to_owned()),
        };
    }
    if let Ok(Name::Path(path)) = Name::parse(text) {
        return Err(format!("write kbs:///{path}, if it is a resource"));
    }
    if text.is_empty() || text.contains(['/', '\0']) || [".", ".."].contains(&text) {
        return Err("it is neither a kbs:// URI nor a file name".to_owned());
    }
    Ok(text.to_owned())
}

impl Seal {
    /// Prints the sealed secret.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        crate::process::harden()?;
        let shown = self.key.display();
        let content = file::read(&self.key).with_context(|| format!("can't read {shown}"))?;
        let exposure = content
            .exposures
            .iter()
            .find(|exposure| matches!(exposure, Exposure::Mode(_)));
        // Anybody who can read the private key can sign secrets that the VMs trust.
        if let Some(exposure) = exposure {
            bail!(
                "{shown}: {}, and make a new key if somebody has read it",
                exposure.problem(&self.key)
            );
        }
        let key = PrivateKey::from_jwk(&content.text).map_err(|error| {
            anyhow!("{shown}: {error}; `offline-fs-kbc keygen --signing FILE` makes one")
        })?;
        let mut secret = key.seal(self.name.as_str(), &self.kid);
        // What goes into a file or a variable is the secret itself: confidential-data-hub refuses a line break after it.
        if io::stdout().is_terminal() {
            secret.push('\n');
        }
        super::print(secret)?;
        Ok(ExitCode::SUCCESS)
    }
}
