// SPDX-License-Identifier: Apache-2.0

//! `keyprovider`: ocicrypt's key-provider command, which uses the keys of a keys file.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use offline_fs_kbc::keyprovider;
use offline_fs_kbc::keyprovider::KEY_BYTES;
use offline_fs_kbc::keyprovider::annotation::Packet;
use offline_fs_kbc::keyprovider::command::{self, MAX_REQUEST_BYTES, Request};
use offline_fs_kbc::keyprovider::parameters::{PROVIDER, Parameters};
use offline_fs_kbc::resource::file::{self, Kind};
use offline_fs_kbc::resource::name::Name;
use offline_fs_kbc::resource::parse::parse_object;
use offline_fs_kbc::resource::secret::Secret;
use offline_fs_kbc::text::{Escaped, Quoted};
use zeroize::Zeroizing;

use crate::config::KEYS;

/// What `--help` and the manual show at the end.
const EXAMPLE: &str = r#"Example, in the file that OCICRYPT_KEYPROVIDER_CONFIG names:
  {"key-providers": {"attestation-agent": {"cmd": {"path": "offline-fs-kbc",
   "args": ["keyprovider", "--keys", "/path/to/keys.json"]}}}}"#;

/// Wrap and unwrap image layers' keys, as the command that ocicrypt runs
///
/// skopeo, buildah, podman and nerdctl run it, if the file that OCICRYPT_KEYPROVIDER_CONFIG names says so; it
/// reads a request from standard input and writes the answer to standard output. Parameters follow
/// provider:attestation-agent: and are joined by :: - keyid=ID, a key in the keys file; keypath=FILE, a file
/// of 32 bytes; algorithm=A256GCM (the default) or A256CTR.
#[derive(Args)]
#[command(after_help = EXAMPLE)]
pub struct Keyprovider {
    /// The keys file; a resources file with keys works too
    #[arg(long, value_name = "FILE", default_value = KEYS)]
    keys: PathBuf,
}

impl Keyprovider {
    /// Answers one request.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        crate::process::harden()?;
        match Request::parse(&from_input()?)? {
            Request::Wrap { parameters, data } => {
                let packet = self.wrap(&parameters, &data)?;
                super::print(command::write_wrapped(&packet))?;
            }
            Request::Unwrap { parameters, packet } => {
                let data = self.unwrap(&parameters, &packet)?;
                super::print(command::write_unwrapped(&data).as_bytes())?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }

    fn wrap(&self, parameters: &Parameters, data: &[u8]) -> anyhow::Result<Packet> {
        let (kid, key) = match (&parameters.key_id, &parameters.key_path) {
            (Some(id), None) => (kid(id), self.key(id)?),
            (Some(id), Some(path)) => (kid(id), key_in(path)?),
            (None, Some(path)) => (kid_of_file(path)?, key_in(path)?),
            (None, None) => bail!(
                "no key is given; write provider:{PROVIDER}:keyid=kbs:///default/key/k1, an id in \
                 {}, or keypath=FILE",
                self.keys.display()
            ),
        };
        let key = key.expose().try_into()?;
        let algorithm = parameters.algorithm.unwrap_or_default();
        Ok(command::wrap(&kid, key, algorithm, data)?)
    }

    fn unwrap(
        &self,
        parameters: &Parameters,
        packet: &Packet,
    ) -> anyhow::Result<Zeroizing<Vec<u8>>> {
        let key = match (&parameters.key_path, &parameters.key_id) {
            (Some(path), _) => key_in(path)?,
            (None, Some(id)) => self.key(id)?,
            (None, None) => self.key(&packet.kid)?,
        };
        let unwrapped = keyprovider::unwrap(packet, key.expose());
        unwrapped
            .with_context(|| format!("can't unwrap the layer's key with {}", Quoted(&packet.kid)))
    }

    /// The key of this id in the keys file.
    fn key(&self, id: &str) -> anyhow::Result<Secret> {
        let shown = self.keys.display();
        let content = file::read(&self.keys).with_context(|| {
            format!("can't read the keys file {shown}; choose another with keyprovider --keys FILE")
        })?;
        let entries = match parse_object(&content.text, &Kind::Keys) {
            Ok(entries) => entries,
            Err(problem) => bail!("{shown}: {problem}"),
        };
        let name = Name::parse(id).unwrap_or_else(|_| Name::Other(id.into()));
        match entries.get(&name).map(|entry| &entry.value) {
            Some(Ok(key)) => Ok(key.clone()),
            Some(Err(reason)) => bail!("{shown}: the key {name} {reason}"),
            None => bail!(
                "{shown} has no key {name}; `offline-fs-kbc keygen {} --keys {shown}` makes one",
                Escaped(id)
            ),
        }
    }
}

/// The id in the form for packets: today's clients require a `kbs://` URI, so a path is made one.
fn kid(id: &str) -> String {
    match Name::parse(id) {
        Ok(Name::Path(path)) => format!("kbs:///{path}"),
        _ => id.to_owned(),
    }
}

/// Makes an id, for a key that was given only by a file, from the file's name, and warns that the VM's keys
/// file needs this id.
fn kid_of_file(path: &Path) -> anyhow::Result<String> {
    let name = path.file_name().and_then(|name| name.to_str());
    let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    let name = name.filter(|name| name.chars().all(plain)).ok_or_else(|| {
        anyhow!(
            "the file name of {} can't be a key's id; add keyid=kbs:///default/key/ID to the parameters",
            path.display()
        )
    })?;
    let kid = format!("kbs:///default/key/{name}");
    super::warn(format!(
        "the image names its key {kid}, so the VM's keys file needs that id; keyid=ID chooses another"
    ));
    Ok(kid)
}

/// Reads a key from a file of its raw bytes.
fn key_in(path: &Path) -> anyhow::Result<Secret> {
    let shown = path.display();
    let content = file::read(path).with_context(|| format!("can't read {shown}"))?;
    let size = content.text.len();
    if size != KEY_BYTES {
        bail!("{shown} has {size} bytes; a key file has {KEY_BYTES}, raw and not base64");
    }
    Ok(Secret::new(content.text))
}

fn from_input() -> anyhow::Result<Zeroizing<Vec<u8>>> {
    let mut text = Zeroizing::new(Vec::new());
    let read = io::stdin()
        .lock()
        .take(MAX_REQUEST_BYTES + 1)
        .read_to_end(&mut text);
    read.context("can't read standard input")?;
    if text.len() as u64 > MAX_REQUEST_BYTES {
        bail!("the request has over {MAX_REQUEST_BYTES} bytes, more than ocicrypt sends");
    }
    Ok(text)
}
