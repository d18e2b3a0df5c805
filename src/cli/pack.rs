// SPDX-License-Identifier: Apache-2.0

//! `pack`: writes a resources file from what goes into it, or the user data that writes one in the VM.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, ValueEnum};
use offline_fs_kbc::credential::repair::{Served, repair};
use offline_fs_kbc::lint;
use offline_fs_kbc::resource::file;
use offline_fs_kbc::resource::form::Form;
use offline_fs_kbc::resource::name::{CREDENTIAL, Name};
use offline_fs_kbc::resource::parse::MAX_ENTRIES;
use offline_fs_kbc::resource::problem::{Problem, Severity};
use offline_fs_kbc::rpc::getresource::answer_bytes;
use offline_fs_kbc::server::limits::MAX_MESSAGE_BYTES;
use offline_fs_kbc::text::Quoted;
use offline_fs_kbc::{json, kubernetes, userdata};
use zeroize::Zeroizing;

use crate::cli::document::{Document, Entry};
use crate::cli::private_file;

/// What `--help` and the manual show at the end.
const EXAMPLE: &str = "Example:
  offline-fs-kbc pack --credential auth.json -o aa-offline_fs_kbc-resources.json
  offline-fs-kbc pack --format cloud-config --credential auth.json >user-data";

/// Write a resources file from the files that go into it
///
/// Checks what it packs. A credential that clients could not use is refused; one that only needs repair is packed
/// repaired, with a warning.
#[derive(Args)]
#[command(after_help = EXAMPLE)]
pub struct Pack {
    /// The registry credential (default/credential/test): an auth.json, a .dockercfg, or a Kubernetes Secret that
    /// holds one
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

    /// Start from the entries of FILE, which may be the output; entries given here replace those of the same name
    #[arg(long, value_name = "FILE")]
    merge: Option<PathBuf>,

    /// What to write
    #[arg(long, value_name = "FORMAT", default_value = "json")]
    format: Format,

    /// Have the user data write the daemon.json of cloud-api-adaptor too
    #[arg(long, value_name = "FILE")]
    daemon_json: Option<PathBuf>,

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

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// The resources file
    Json,
    /// Cloud-config user data that writes the resources file in the VM
    CloudConfig,
}

fn named_file(text: &str) -> Result<(Name, PathBuf), String> {
    let Some((name, file)) = text.split_once('=').filter(|(_, file)| !file.is_empty()) else {
        return Err("write NAME=FILE".to_owned());
    };
    match Name::parse(name).map_err(|error| error.to_string())? {
        name @ Name::Path(_) => Ok((name, file.into())),
        Name::Other(_) => Err(format!(
            "{} is neither <repository>/<type>/<tag> nor an old name",
            Quoted(name)
        )),
    }
}

impl Pack {
    /// Writes the file.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        crate::process::harden()?;
        let (output, merge) = (self.output.clone(), self.merge.clone());
        let (names, format, daemon_json) = (self.names, self.format, self.daemon_json.clone());
        if daemon_json.is_some() && format == Format::Json {
            bail!("--daemon-json is for user data; add --format cloud-config");
        }
        let entries = self
            .entries()?
            .into_iter()
            .map(|(name, file)| {
                let old = name.old().filter(|_| names == Names::Old);
                let entry = Entry::new(old.unwrap_or(name.as_str()), &encode(&name, &file)?)?;
                Ok((name, entry))
            })
            .collect::<anyhow::Result<Vec<_>>>()?;
        let document = match merge {
            Some(path) => Document::merge(&path, entries)?,
            None => Document::new(entries),
        };
        let text = match format {
            Format::Json => document.lines(),
            Format::CloudConfig => cloud_config(&document, daemon_json.as_deref())?,
        };
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
        if entries.is_empty() && self.merge.is_none() {
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

/// The user data that writes these files in the VM; warns where a platform takes no such amount.
fn cloud_config(
    document: &Document,
    daemon_json: Option<&Path>,
) -> anyhow::Result<Zeroizing<String>> {
    document.check_delivery()?;
    let resources = document.dense();
    let daemon = daemon_json.map(read_daemon_json).transpose()?;
    let mut files = Vec::new();
    if let Some(daemon) = &daemon {
        files.push((userdata::DAEMON_PATH, daemon.as_str()));
    }
    files.push((userdata::RESOURCES_PATH, resources.as_str()));
    let data = userdata::write(&files).context("the resources can't be written as user data")?;
    for platform in userdata::PLATFORMS {
        if !platform.takes(data.len()) {
            let size = platform.measure(data.len());
            let encoded = match platform.form {
                userdata::Form::Raw => "",
                userdata::Form::Base64 => " in base64",
            };
            super::warn(format!(
                "{} takes no more than {} bytes of user data{encoded}, and these are {size}",
                platform.name, platform.most
            ));
        }
    }
    Ok(data)
}

/// The text of a daemon.json, which is not looked at beyond that it can be one.
fn read_daemon_json(path: &Path) -> anyhow::Result<Zeroizing<String>> {
    let shown = path.display();
    let content = file::read(path).with_context(|| format!("can't read {shown}"))?;
    json::members(&content.text, MAX_ENTRIES).with_context(|| format!("{shown}"))?;
    let text = std::str::from_utf8(content.text.trim_ascii())?;
    userdata::write(&[(userdata::DAEMON_PATH, text)])
        .with_context(|| format!("{shown} can't be written as user data"))?;
    Ok(Zeroizing::new(text.to_owned()))
}

fn encode(name: &Name, file: &Path) -> anyhow::Result<Zeroizing<String>> {
    let content = fs::read(file).map(Zeroizing::new);
    let content = content.with_context(|| format!("can't read {}", file.display()))?;
    let shown = file.display();
    if content.is_empty() {
        bail!("{shown} is empty");
    }
    let size = answer_bytes(content.len());
    if size > MAX_MESSAGE_BYTES as u64 {
        bail!(
            "{shown}: an answer of {size} bytes, over ttrpc's cap of {MAX_MESSAGE_BYTES}, could not be sent"
        );
    }
    let content = match name.as_str() {
        CREDENTIAL => credential(content, file)?,
        _ => {
            // The keys that a policy names may be packed later.
            for problem in lint::resource(name, &content, &|_| Some(&[]), true) {
                super::warn(format!("{shown}: {problem}"));
            }
            content
        }
    };
    Ok(Zeroizing::new(STANDARD.encode(&*content)))
}

/// The credential as every client reads it, whatever form the file has it in.
fn credential(content: Zeroizing<Vec<u8>>, path: &Path) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let file = path.display();
    let content = match Form::of(&content) {
        Some(Form::Kubernetes) => of_secret(&content, path)?,
        None | Some(Form::AuthJson | Form::DockerCfg | Form::EncodedAuthJson) => content,
        Some(form) => bail!("{file}: {}", form.instead_of("an auth.json")),
    };
    let mut found = lint::credential::lint(&content, true).into_iter();
    if let Some(error) = found.find(|problem| problem.severity == Severity::Error) {
        bail!("{file}: {error}");
    }
    let content = match repair(&content) {
        Served::Untouched => content,
        Served::Repaired { text, changes } => {
            for change in changes {
                super::warn(format!("{file}: packed with a repair: {change}"));
            }
            text
        }
        Served::Refused(reason) => bail!("{file}: {reason}"),
    };
    // Of what is packed: what was repaired needs no warning any more.
    for problem in lint::credential::lint(&content, true) {
        super::warn(format!("{file}: {problem}"));
    }
    Ok(content)
}

/// The credential of the one Secret in a Kubernetes manifest that holds one.
fn of_secret(text: &[u8], path: &Path) -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let file = path.display();
    let manifest = kubernetes::read(text).with_context(|| format!("{file}"))?;
    // Why an item is none says more than that there is none.
    let error = |problem: &&Problem| problem.severity == Severity::Error;
    if let (Err(kubernetes::Choice::None), Some(problem)) =
        (manifest.credential(), manifest.problems.iter().find(error))
    {
        bail!("{file}: {problem}");
    }
    let (secret, item) = manifest.credential().with_context(|| format!("{file}"))?;
    if item.form == kubernetes::Form::Resources {
        bail!(
            "{file}: the Secret holds a resources file and not an auth.json; get it out, and give it to --merge: `{}`",
            secret.command()
        );
    }
    Ok(item.value.clone())
}
