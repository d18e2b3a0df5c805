// SPDX-License-Identifier: Apache-2.0

//! `pack`: writes a resources file from what goes into it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, ValueEnum};
use offline_fs_kbc::lint;
use offline_fs_kbc::resource::name::{CREDENTIAL, Name};
use offline_fs_kbc::resource::problem::Problem;
use offline_fs_kbc::rpc::getresource::answer_bytes;
use offline_fs_kbc::server::limits::MAX_MESSAGE_BYTES;
use offline_fs_kbc::text::Shown;
use zeroize::Zeroizing;

use crate::cli::private_file;

/// Write a resources file from the files that go into it
///
/// Checks what it packs: a credential must be an auth.json that clients can use.
#[derive(Args)]
pub struct Pack {
    /// The registry credential, an auth.json (default/credential/test)
    #[arg(long, value_name = "FILE")]
    credential: Option<PathBuf>,

    /// The image policy, a policy.json (default/security-policy/test)
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,

    /// Where signatures are, a sigstore config (default/sigstore-config/test)
    #[arg(long, value_name = "FILE")]
    sigstore_config: Option<PathBuf>,

    /// A GPG keyring (default/gpg-public-config/test)
    #[arg(long, value_name = "FILE")]
    gpg_keyring: Option<PathBuf>,

    /// A cosign public key (default/cosign-public-key/test)
    #[arg(long, value_name = "FILE")]
    cosign_key: Option<PathBuf>,

    /// Any other resource, NAME being <repository>/<type>/<tag>; may be repeated
    #[arg(long, value_name = "NAME=FILE", value_parser = named_file)]
    resource: Vec<(Name, PathBuf)>,

    /// How to write the names that have an old form (as Credential)
    #[arg(long, value_name = "FORM", default_value = "path")]
    names: Names,

    /// Write to FILE, mode 0600, at once as a whole [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Names {
    /// default/credential/test, which all clients since March 2023 use
    Path,
    /// Credential, where the file must also serve an upstream attestation-agent of early 2023
    Old,
}

fn named_file(text: &str) -> Result<(Name, PathBuf), String> {
    let Some((name, file)) = text.split_once('=').filter(|(_, file)| !file.is_empty()) else {
        return Err("write NAME=FILE".to_owned());
    };
    match Name::parse(name).map_err(|error| error.to_string())? {
        name @ Name::Path(_) => Ok((name, file.into())),
        Name::Other(_) => Err(format!(
            "{} is neither <repository>/<type>/<tag> nor an old name",
            Shown(name)
        )),
    }
}

impl Pack {
    /// Writes the file.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        crate::process::seclude()?;
        let output = self.output.clone();
        let names = self.names;
        let entries = self.entries()?;
        let text = write(&entries, names)?;
        match output {
            Some(path) => private_file::write(&path, text.as_bytes())?,
            None => super::print(text.as_bytes())?,
        }
        Ok(ExitCode::SUCCESS)
    }

    fn entries(self) -> anyhow::Result<Vec<(Name, PathBuf)>> {
        let known = [
            (CREDENTIAL, self.credential),
            ("Policy", self.policy),
            ("Sigstore Config", self.sigstore_config),
            ("GPG Keyring", self.gpg_keyring),
            ("Cosign Key", self.cosign_key),
        ];
        let mut entries = Vec::new();
        for (name, file) in known {
            entries.extend(file.map(|file| Ok((Name::parse(name)?, file))));
        }
        let mut entries = entries.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
        entries.extend(self.resource);
        if entries.is_empty() {
            bail!("nothing to pack; name a file, for example with --credential auth.json");
        }
        for (index, (name, _)) in entries.iter().enumerate() {
            if entries[..index].iter().any(|(earlier, _)| earlier == name) {
                bail!("{name} is given twice");
            }
        }
        Ok(entries)
    }
}

/// The text of the resources file, an entry a line.
fn write(entries: &[(Name, PathBuf)], names: Names) -> anyhow::Result<Zeroizing<String>> {
    let values = entries
        .iter()
        .map(|(name, file)| encode(name, file))
        .collect::<anyhow::Result<Vec<_>>>()?;
    // Room for all of it, since a text that grows leaves copies behind.
    let names = entries.iter().map(|(name, _)| {
        let old = name.old().filter(|_| names == Names::Old);
        serde_json::to_string(old.unwrap_or(name.as_str()))
    });
    let names = names.collect::<Result<Vec<_>, _>>()?;
    let room = names.iter().map(String::len).sum::<usize>()
        + values.iter().map(|value| value.len() + 10).sum::<usize>();
    let mut text = Zeroizing::new(String::with_capacity(room + 10));
    for (index, (name, value)) in names.iter().zip(&values).enumerate() {
        let before = if index == 0 { "{\n  " } else { ",\n  " };
        for part in [before, name, ": \"", value, "\""] {
            text.push_str(part);
        }
    }
    text.push_str("\n}\n");
    Ok(text)
}

fn encode(name: &Name, file: &Path) -> anyhow::Result<Zeroizing<String>> {
    let content = fs::read(file).map(Zeroizing::new);
    let content = content.with_context(|| format!("can't read {}", file.display()))?;
    let file = file.display();
    if content.is_empty() {
        bail!("{file} is empty");
    }
    let size = answer_bytes(content.len());
    if size > MAX_MESSAGE_BYTES as u64 {
        bail!(
            "{file}: an answer of {size} bytes, over ttrpc's cap of {MAX_MESSAGE_BYTES}, could not be sent"
        );
    }
    if name.as_str() == CREDENTIAL {
        // What the daemon would mend an upstream agent would not.
        let rejected = |problem: &Problem| {
            let harmless = ["credential-store", "identity-token", "login-empty"];
            let about_registry = problem.code.starts_with("registry-");
            !about_registry && !harmless.contains(&problem.code)
        };
        if let Some(problem) = lint::credential::lint(&content).into_iter().find(rejected) {
            bail!("{file}: {problem}");
        }
    }
    Ok(Zeroizing::new(STANDARD.encode(&*content)))
}
