// SPDX-License-Identifier: Apache-2.0

//! `unseal`: verifies and shows a sealed secret, without a daemon.

use std::io::{self, Read as _};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use clap::Args;
use offline_fs_kbc::resource::file;
use offline_fs_kbc::resource::name::Name;
use offline_fs_kbc::sealedsecret::{PublicKey, Sealed};
use offline_fs_kbc::server::limits::MAX_MESSAGE_BYTES;
use offline_fs_kbc::text::Escaped;

/// What `--help` and the manual show at the end.
const EXAMPLE: &str = "Example:
  offline-fs-kbc unseal --show --key public.jwk - <secret";

/// Verify a sealed secret, and show the resource that it names
///
/// The plaintext is the resource; it is not part of the sealed secret.
#[derive(Args)]
#[command(after_help = EXAMPLE)]
pub struct Unseal {
    /// The sealed secret, or - for standard input
    secret: String,

    /// Print type, resource, provider and signer
    #[arg(long)]
    show: bool,

    /// The signer's public key, a JWK
    #[arg(long, value_name = "FILE", required_unless_present = "no_verify")]
    key: Option<PathBuf>,

    /// Do not verify the signature
    #[arg(long, conflicts_with = "key")]
    no_verify: bool,
}

impl Unseal {
    /// Verifies the secret.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        crate::process::harden()?;
        let text = match self.secret.as_str() {
            "-" => from_input()?,
            text => text.to_owned(),
        };
        let sealed = Sealed::parse(&text)?;
        let payload = sealed.payload()?;
        let signer = sealed.signer();
        let signature = match &self.key {
            Some(path) => {
                let shown = path.display();
                let content = file::read(path).with_context(|| format!("can't read {shown}"))?;
                let key = PublicKey::from_jwk(&content.text)
                    .ok_or_else(|| anyhow!("{shown} is not a JWK of an EC key on P-256"))?;
                let kid = signer.as_ref().map_err(Clone::clone)?;
                // The error names the key's file, and its cause names the id in the header.
                sealed.verify(kid, &key).with_context(|| {
                    format!("the signature is wrong: {shown} did not sign this secret")
                })?;
                format!("good, by {shown}")
            }
            None => {
                super::warn(
                    "the signature is NOT VERIFIED: anybody could have written this secret",
                );
                "NOT VERIFIED".to_owned()
            }
        };
        if self.show {
            let or_none = |text: &Option<String>| {
                let text = text.as_deref().unwrap_or("(none)");
                Escaped(text).to_string()
            };
            let mut lines = format!("type: {}\n", Escaped(&payload.kind));
            match payload.kind.as_str() {
                "envelope" => lines += &format!("key: {}\n", or_none(&payload.key_id)),
                _ => lines += &format!("name: {}\n", or_none(&payload.name)),
            }
            lines += &format!("provider: {}\n", or_none(&payload.provider));
            match &signer {
                Ok(kid) => lines += &format!("signer: {}\n", Escaped(kid)),
                Err(error) => lines += &format!("signer: unknown: {error}\n"),
            }
            lines += &format!("signature: {signature}\n");
            super::print(lines)?;
        }
        // Fail if the daemon would refuse the secret, whatever its signature.
        let name = sealed.resource_name()?;
        match Name::parse(&name)? {
            Name::Path(_) => Ok(ExitCode::SUCCESS),
            name @ Name::Other(_) => {
                bail!("{name} is not <repository>/<type>/<tag>, so no file can hold it")
            }
        }
    }
}

fn from_input() -> anyhow::Result<String> {
    // The most that a request can carry.
    let most = u64::from(u32::try_from(MAX_MESSAGE_BYTES)?);
    let mut text = String::new();
    let read = io::stdin().lock().take(most + 1).read_to_string(&mut text);
    read.context("can't read standard input")?;
    if text.len() as u64 > most {
        bail!("standard input has over {most} bytes, more than a request can carry");
    }
    Ok(text)
}
