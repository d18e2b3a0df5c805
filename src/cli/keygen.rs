// SPDX-License-Identifier: Apache-2.0

//! `keygen`: makes keys that wrap image layers' keys, and keys that sign sealed secrets.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use nix::fcntl::{Flock, FlockArg};
use offline_fs_kbc::json;
use offline_fs_kbc::keyprovider::KEY_BYTES;
use offline_fs_kbc::random;
use offline_fs_kbc::resource::file::is_absent;
use offline_fs_kbc::resource::file::{self, Kind};
use offline_fs_kbc::resource::name::Name;
use offline_fs_kbc::resource::parse::{MAX_ENTRIES, parse_object};
use offline_fs_kbc::sealedsecret::sign::PrivateKey;
use offline_fs_kbc::text::EntryName;
use zeroize::Zeroizing;

use crate::cli::private_file;

/// What `--help` and the manual show at the end.
const EXAMPLE: &str = "Example:
  offline-fs-kbc keygen default/key/k1 --keys keys.json
  offline-fs-kbc keygen --signing private.jwk >public.jwk";

/// Make a key that encrypts images, or a key that signs sealed secrets
///
/// A key for images is added to a keys file, which is created if it is missing. The other entries stay as
/// they are; an existing key is never replaced.
#[derive(Args)]
#[command(
    after_help = EXAMPLE,
    override_usage = "offline-fs-kbc keygen <NAME> --keys <FILE>\n       offline-fs-kbc keygen --signing <FILE>"
)]
pub struct Keygen {
    /// The key's id, for example default/key/k1; a kbs:// URI is written as its path
    #[arg(value_parser = key_id, requires = "keys", required_unless_present = "signing")]
    name: Option<Name>,

    /// The keys file
    #[arg(long, value_name = "FILE", requires = "name")]
    keys: Option<PathBuf>,

    /// Make a key that signs sealed secrets: write the private JWK to FILE, a new file of mode 0600, and the
    /// public JWK to standard output
    #[arg(long, value_name = "FILE", conflicts_with_all = ["name", "keys"])]
    signing: Option<PathBuf>,
}

fn key_id(text: &str) -> Result<Name, String> {
    if text.is_empty() || text.contains(char::is_control) || EntryName(text).is_hidden() {
        return Err("a key's id is a line of at most 100 bytes".to_owned());
    }
    Name::parse(text).map_err(|error| error.to_string())
}

impl Keygen {
    /// Makes the key, and prints what was made.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        crate::process::harden()?;
        match (self.signing, self.name, self.keys) {
            (Some(path), _, _) => {
                let key = PrivateKey::generate()?;
                private_file::create(&path, key.private_jwk().as_bytes())?;
                super::print(key.public_jwk())?;
            }
            (None, Some(name), Some(path)) => {
                add(&name, &path)?;
                super::print(format!("{}: key {} added\n", path.display(), name.as_str()))?;
            }
            _ => bail!("name a key and a keys file: NAME --keys FILE"),
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn add(name: &Name, path: &Path) -> anyhow::Result<()> {
    // Two runs at once must not lose a key. The lock is on the directory, since the file itself is replaced.
    let _lock = lock_directory_of(path)?;
    let shown = path.display();
    let text = match file::read(path) {
        Ok(content) => content.text,
        Err(error) if is_absent(&error) && fs::symlink_metadata(path).is_err() => {
            Zeroizing::new(b"{}\n".to_vec())
        }
        Err(error) => return Err(anyhow!(error).context(format!("can't read {shown}"))),
    };
    if let Err(problem) = parse_object(&text, &Kind::Keys) {
        bail!("{shown}: {problem}");
    }
    let members = json::members(&text, MAX_ENTRIES)?;
    let same = members
        .iter()
        .find(|member| Name::parse(&member.name).as_ref() == Ok(name));
    if let Some(member) = same {
        bail!(
            "{shown} already has the key {} at {}; keys are never replaced: choose another id",
            EntryName(&member.name),
            member.position
        );
    }
    if members.len() == MAX_ENTRIES {
        bail!("{shown} has {MAX_ENTRIES} entries, the limit for one file");
    }
    let key = random::bytes::<KEY_BYTES>()?;
    let value = Zeroizing::new(STANDARD.encode(*key));
    let text = std::str::from_utf8(&text)?;
    let text = insert(
        text,
        &serde_json::to_string(name.as_str())?,
        &value,
        members.is_empty(),
    );
    private_file::write(path, text.as_bytes())
}

fn lock_directory_of(path: &Path) -> anyhow::Result<Flock<File>> {
    // The file behind a symbolic link is the one that is replaced.
    let target = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let directory = target.parent().filter(|dir| !dir.as_os_str().is_empty());
    let directory = directory.unwrap_or(Path::new("."));
    let lock = File::open(directory).and_then(|file| {
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, error)| io::Error::from(error))
    });
    lock.with_context(|| format!("can't lock {}", directory.display()))
}

/// Adds a member at the end of an object's text, and keeps the rest byte for byte.
fn insert(text: &str, name: &str, value: &str, is_empty: bool) -> Zeroizing<String> {
    // Only white space follows the object's closing brace.
    let (object, rest) = text.split_at(text.rfind('}').unwrap_or(text.len()));
    let before = object.trim_end();
    let gap = &object[before.len()..];
    let (comma, gap) = match (is_empty, gap.contains('\n')) {
        (true, true) => ("\n  ", gap),
        (true, false) => ("\n  ", "\n"),
        (false, true) => (",\n  ", gap),
        (false, false) => (", ", gap),
    };
    let parts = [before, comma, name, ": \"", value, "\"", gap, rest];
    // Allocate all of it at once, since a string that grows leaves copies in memory.
    let room = parts.iter().map(|part| part.len()).sum();
    let mut text = Zeroizing::new(String::with_capacity(room));
    text.extend(parts);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn existing_members_stay_as_they_are() {
        for (text, expected) in [
            ("{}\n", "{\n  \"n\": \"v\"\n}\n"),
            ("{\n}", "{\n  \"n\": \"v\"\n}"),
            ("{\"a\":1}", "{\"a\":1, \"n\": \"v\"}"),
            ("{\n\t\"a\": {} }\n", "{\n\t\"a\": {}, \"n\": \"v\" }\n"),
            (
                "{\r\n\"a\": 1\r\n}\r\n",
                "{\r\n\"a\": 1,\n  \"n\": \"v\"\r\n}\r\n",
            ),
        ] {
            let is_empty = !text.contains('a');
            assert_eq!(*insert(text, "\"n\"", "v", is_empty), expected);
        }
    }
}
