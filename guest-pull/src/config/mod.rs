// SPDX-License-Identifier: Apache-2.0

//! The configuration that the stock puller reads too: `[image]` of `cdh.toml`; without one, the kernel command line.
//!
//! What is configured and not supported is never passed over in silence. If ignoring it could give a pod another image
//! than its owner meant, or let it out another way, the pull is refused; else the log has a warning.
//!
//! Proxies in environment variables (`HTTPS_PROXY`) do not count: a unit's environment is not the pod owner's to read.

pub mod command_line;
mod registries;
mod table;

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use common::toml::{self, MAX_COMPONENT_BYTES};

use crate::credential;
use crate::failure::{Failure, Kind};
use crate::memory::LAYERS_AT_ONCE;
use crate::proxy::Proxies;
use crate::resource::{Source, Text};

pub use registries::{Location, Registries};

/// Where `cdh.toml` is, unless a path is given: from the pod's initdata, or from peer pods'.
const FILES: [&str; 2] = [
    "/run/confidential-containers/initdata/cdh.toml",
    "/run/peerpod/cdh.toml",
];

/// The kernel command line.
const COMMAND_LINE: &str = "/proc/cmdline";

/// The environment variable that names the credential, and wins over the file.
pub const CREDENTIAL_VARIABLE: &str = "CDH_DEFAULT_IMAGE_AUTHENTICATED_REGISTRY_CREDENTIALS";

/// Where layers are kept unless configured.
pub const WORK_DIR: &str = "/run/kata-containers/image";

/// The attestation-agent's socket, which measures what is pulled, unless configured.
pub const AGENT_SOCKET: &str =
    "/run/confidential-containers/attestation-agent/attestation-agent.sock";

/// `[image]`: how images are pulled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// What the configuration is of, for messages.
    pub source: String,
    /// `work_dir`: where layers are kept.
    pub work_dir: PathBuf,
    /// `extra_root_certificates`: certificates of authorities in PEM, beside the system's.
    pub extra_root_certificates: Vec<String>,
    /// `max_concurrent_layer_downloads_per_image`.
    pub layers_at_once: usize,
    /// `authenticated_registry_credentials_uri`: where the credential is.
    pub credential: Source,
    /// `[image.registry_config]`. It counts before the next one, as with the stock puller.
    pub registries: Option<Registries>,
    /// `registry_configuration_uri`: where the same is in a file of its own.
    pub registries_at: Option<Source>,
    /// `[image.image_pull_proxy]`.
    pub proxies: Proxies,
    /// `image_security_policy_uri`, else `image_security_policy`.
    pub policy: Option<Text>,
    /// `sigstore_config_uri`, else `sigstore_config`.
    pub sigstore: Option<Text>,
    /// `[aa] aa_socket`: the attestation-agent's socket.
    pub agent_socket: PathBuf,
    /// What is ignored.
    pub warnings: Vec<String>,
}

impl Default for Image {
    fn default() -> Self {
        Self {
            source: String::new(),
            work_dir: WORK_DIR.into(),
            extra_root_certificates: Vec::new(),
            layers_at_once: LAYERS_AT_ONCE,
            credential: credential::usual(),
            registries: None,
            registries_at: None,
            proxies: Proxies::default(),
            policy: None,
            sigstore: None,
            agent_socket: AGENT_SOCKET.into(),
            warnings: Vec::new(),
        }
    }
}

impl Image {
    /// As [`Self::read`], with the variable of this process.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn of_environment(path: Option<&Path>) -> Result<Self, Failure> {
        let variable = std::env::var_os(CREDENTIAL_VARIABLE);
        let variable = variable.as_ref().map(|value| value.to_string_lossy());
        Self::read(path, variable.as_deref())
    }

    /// Reads the configuration: the file at `path`, else the first that there is; if that has no `[image]`, or there is
    /// none, the kernel command line. And `variable`, the value of [`CREDENTIAL_VARIABLE`], which wins.
    ///
    /// # Errors
    ///
    /// If a file can't be read, or asks for something impossible. It may hold a policy, so nothing is pulled without it.
    pub fn read(path: Option<&Path>, variable: Option<&str>) -> Result<Self, Failure> {
        let mut image = Self::of_files(path)?;
        if let Some(uri) = variable.filter(|uri| !uri.is_empty()) {
            image.credential = Source::parse(uri).ok_or_else(|| {
                let text = format!(
                    "the environment variable {CREDENTIAL_VARIABLE} must be {}",
                    Source::FORM
                );
                Failure::new(Kind::Configuration, text)
            })?;
        }
        Ok(image)
    }

    fn of_files(path: Option<&Path>) -> Result<Self, Failure> {
        let found = match path {
            Some(path) => match read(path).map_err(|error| unread(path, &error))? {
                Some(text) => Some((path, text)),
                None => return Err(unread(path, &io::ErrorKind::NotFound.into())),
            },
            None => first_of(&FILES)?,
        };
        let Some((path, text)) = found else {
            return Self::of_command_line(Path::new(COMMAND_LINE));
        };
        let name = path.display().to_string();
        let image = match Self::parse(&text, &name)? {
            Some(image) => image,
            None => {
                let image = Self::of_command_line(Path::new(COMMAND_LINE))?;
                let source = format!("{}, since {name} has no [image]", image.source);
                Self { source, ..image }
            }
        };
        let agent_socket = agent_socket(&text, &name)?;
        Ok(Self {
            agent_socket,
            ..image
        })
    }

    fn of_command_line(path: &Path) -> Result<Self, Failure> {
        let text = read(path).map_err(|error| unread(path, &error))?;
        // The kernel always has one, so it is only out of sight.
        let text = text.ok_or_else(|| unread(path, &io::ErrorKind::NotFound.into()))?;
        command_line::parse(&String::from_utf8_lossy(&text))
    }

    /// Parses the text of a file; `name` is for messages. None if it has no `[image]`.
    ///
    /// # Errors
    ///
    /// If it is no TOML, or a known key has a value that it can't have. The reason holds no value.
    pub fn parse(text: &[u8], name: &str) -> Result<Option<Self>, Failure> {
        let failed =
            |what: &dyn fmt::Display| Failure::new(Kind::Configuration, format!("{name}: {what}"));
        let mut file = toml::table(text, MAX_COMPONENT_BYTES).map_err(|error| failed(&error))?;
        let Some(value) = file.remove("image") else {
            return Ok(None);
        };
        let mut image = Self {
            source: name.to_owned(),
            ..Self::default()
        };
        table::take(&mut image, value).map_err(|error| failed(&error))?;
        for text in &mut image.warnings {
            *text = format!("{name}: {text}");
        }
        Ok(Some(image))
    }
}

/// The configuration that a root file system has, where `path` gives the place of a path in it. Without any, it comes with
/// a pod.
///
/// # Errors
///
/// As [`Image::read`].
pub fn of_root(path: &dyn Fn(&Path) -> PathBuf) -> Result<Image, Failure> {
    let files = FILES.map(|file| path(Path::new(file)));
    if let Some(file) = files.iter().find(|file| file.exists()) {
        return Image::read(Some(file), None);
    }
    let command_line = path(Path::new(COMMAND_LINE));
    match command_line.exists() {
        true => Image::of_command_line(&command_line),
        false => Ok(Image::default()),
    }
}

/// `[aa] aa_socket` of a file, which need not have an `[image]` for it.
fn agent_socket(text: &[u8], name: &str) -> Result<PathBuf, Failure> {
    let failed =
        |what: &dyn fmt::Display| Failure::new(Kind::Configuration, format!("{name}: {what}"));
    let file = toml::table(text, MAX_COMPONENT_BYTES).map_err(|error| failed(&error))?;
    let Some(value) = file.get("aa").and_then(|aa| aa.get("aa_socket")) else {
        return Ok(AGENT_SOCKET.into());
    };
    let address = value.as_str();
    let path = address.map(|text| text.strip_prefix("unix://").unwrap_or(text));
    let path = path.filter(|path| path.starts_with('/'));
    let path = path.ok_or_else(|| failed(&"[aa] aa_socket must be unix:///PATH"))?;
    Ok(path.into())
}

/// The first file that there is.
fn first_of<'p>(paths: &[&'p str]) -> Result<Option<(&'p Path, Vec<u8>)>, Failure> {
    for path in paths.iter().copied().map(Path::new) {
        if let Some(text) = read(path).map_err(|error| unread(path, &error))? {
            return Ok(Some((path, text)));
        }
    }
    Ok(None)
}

/// Reads a file, if it is there. What is too much of it is refused by its parser.
fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut text = Vec::new();
    file.take(MAX_COMPONENT_BYTES as u64 + 1)
        .read_to_end(&mut text)?;
    Ok(Some(text))
}

fn unread(path: &Path, error: &io::Error) -> Failure {
    let path = path.display();
    Failure::new(
        Kind::Configuration,
        format!(
            "{path} can't be read: {error}; it may hold a policy, so nothing is pulled without it"
        ),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn parse(text: &str) -> Result<Image, Failure> {
        Image::parse(text.as_bytes(), "cdh.toml").map(Option::unwrap)
    }

    fn certificate() -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        parameters.self_signed(&key).unwrap().pem()
    }

    /// Each key is read; the rest of the file belongs to others.
    #[test]
    fn keys_are_read() {
        let certificate = certificate();
        let text = format!(
            "socket = 'x'\n[kbc]\nname = 'offline_fs_kbc'\n[image]\nwork_dir = '/mnt/x'\n\
             max_concurrent_layer_downloads_per_image = 2\nauthenticated_registry_credentials_uri = 'file:///run/a.json'\n\
             image_security_policy_uri = 'kbs:///a/policy/c'\nsigstore_config = 'x'\n\
             registry_configuration_uri = 'file:///run/registries.conf'\n\
             extra_root_certificates = [\"\"\"{certificate}\"\"\", \"\"\"{certificate}{certificate}\"\"\"]\n\
             [image.image_pull_proxy]\nhttps_proxy = 'http://p.example:1'\nhttp_proxy = ''\nno_proxy = 'a.example'\n"
        );
        let image = parse(&text).unwrap();
        assert_eq!(image.work_dir, Path::new("/mnt/x"));
        assert_eq!(image.layers_at_once, 2);
        assert_eq!(image.extra_root_certificates.len(), 2);
        assert_eq!(image.credential, Source::File("/run/a.json".into()));
        assert_eq!(
            parse("[image]").unwrap(),
            Image {
                source: "cdh.toml".to_owned(),
                ..Image::default()
            }
        );
        assert_eq!(Image::parse(b"[kbc]\n", "cdh.toml"), Ok(None));
    }

    /// A command line that can't be seen may name a policy.
    #[test]
    fn no_command_line_is_an_error() {
        let failure = Image::of_command_line(Path::new("/nowhere/cmdline")).unwrap_err();
        assert!(failure.message.contains("/nowhere/cmdline"), "{failure}");
        assert_eq!(failure.kind, Kind::Configuration);
    }

    /// Of what can be given in two ways, that counts which counts with the stock puller, and a warning names the other.
    #[test]
    fn of_two_ways_one_counts() {
        let image = parse(
            "[image]\nimage_security_policy = 'x'\nimage_security_policy_uri = 'kbs:///a/b/c'\n\
             sigstore_config = 'x'\nsigstore_config_uri = 'kbs:///a/b/d'\n\
             registry_configuration_uri = 'kbs:///a/b/e'\n[image.registry_config]\n",
        )
        .unwrap();
        assert_eq!(image.policy.unwrap().to_string(), "kbs:///a/b/c");
        assert_eq!(image.sigstore.unwrap().to_string(), "kbs:///a/b/d");
        assert!(image.registries.is_some() && image.registries_at.is_none());
        for key in [
            "image_security_policy:",
            "sigstore_config:",
            "registry_configuration_uri:",
        ] {
            assert!(
                image.warnings.iter().any(|text| text.contains(key)),
                "{key}: {:?}",
                image.warnings
            );
        }
    }

    /// What is not known is warned about, and named.
    #[test]
    fn nothing_is_passed_over_in_silence() {
        let image = parse(
            "[image]\nsurprise = 1\nmax_concurrent_layer_downloads_per_image = 99\n\
             image_pull_proxy = { ftp_proxy = \"x\", no_proxy = \"a,http://b\" }\n\
             [image.registry_config]\nshort-name-mode = \"disabled\"\n",
        )
        .unwrap();
        for part in [
            "surprise",
            "3 are fetched at once at most",
            "ftp_proxy",
            "no_proxy: number 2",
            "short-name-mode",
        ] {
            assert!(
                image.warnings.iter().any(|text| text.contains(part)),
                "{part}: {image:?}"
            );
        }
        assert_eq!(image.warnings.len(), 5, "{image:?}");
    }

    /// A value of the wrong kind is an error that names the key, and not the value.
    #[test]
    fn wrong_values_are_errors() {
        for text in [
            "image = \"hunter2\"",
            "[image]\nwork_dir = \"hunter2\"",
            "[image]\nwork_dir = 1",
            "[image]\nextra_root_certificates = \"hunter2\"",
            "[image]\nextra_root_certificates = [1]",
            "[image]\nextra_root_certificates = [\"hunter2\"]",
            "[image]\nimage_security_policy_uri = \"hunter2\"",
            "[image]\nimage_security_policy = 1",
            "[image]\nregistry_configuration_uri = \"https://hunter2.example\"",
            "[image]\nimage_pull_proxy = \"hunter2\"",
            "[image.image_pull_proxy]\nhttps_proxy = \"socks5://hunter2\"",
            "[image.image_pull_proxy]\nhttp_proxy = \"http://u:hunter2/x@p\"",
            "[image.image_pull_proxy]\nno_proxy = [\"hunter2\"]",
            "[image]\nmax_concurrent_layer_downloads_per_image = 0",
            "[image]\nmax_concurrent_layer_downloads_per_image = \"hunter2\"",
            "[image]\nauthenticated_registry_credentials_uri = \"hunter2\"",
            "[image]\nregistry_config = \"hunter2\"",
            "[image]\nimage_security_policy = 1",
            "[image]\nimage_security_policy_uri = \"hunter2\"",
            "[image]\nsigstore_config = [\"hunter2\"]",
            "[image]\nsigstore_config_uri = \"hunter2\"",
            "[[image.registry_config.registry]]\nlocation = \"a\"\ninsecure = \"hunter2\"",
            "[[image.registry_config.registry]]\ninsecure = true",
            "[image\nhunter2",
        ] {
            let failure = parse(text).unwrap_err();
            assert!(failure.message.starts_with("cdh.toml: "), "{failure}");
            assert!(!failure.message.contains("hunter"), "{failure}");
        }
    }

    /// The attestation-agent's socket is not about images, so a file without `[image]` may name it too.
    #[test]
    fn the_agent_is_configured_apart() {
        let of = |text: &str| agent_socket(text.as_bytes(), "cdh.toml");
        let named = "[aa]\naa_socket = 'unix:///run/aa.sock'\n";
        assert_eq!(of(named), Ok("/run/aa.sock".into()));
        assert_eq!(of("[image]\n"), Ok(AGENT_SOCKET.into()));
        for text in ["[aa]\naa_socket = 'hunter2'", "[aa]\naa_socket = 1"] {
            let failure = of(text).unwrap_err();
            assert!(failure.message.contains("aa_socket"), "{failure}");
            assert!(!failure.message.contains("hunter"), "{failure}");
        }
    }

    /// The environment names the credential, whatever the file says.
    #[test]
    fn the_environment_wins() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cdh.toml");
        std::fs::write(
            &path,
            "[image]\nauthenticated_registry_credentials_uri = \"kbs:///a/b/c\"\n",
        )
        .unwrap();
        let credential =
            |variable| Image::read(Some(&path), variable).map(|image| image.credential);
        let resource = Source::Resource("a/b/c".to_owned());
        assert_eq!(credential(None), Ok(resource.clone()));
        assert_eq!(credential(Some("")), Ok(resource));
        assert_eq!(credential(Some("file:///x")), Ok(Source::File("/x".into())));
        assert!(
            credential(Some("hunter2")).is_err_and(|failure| !failure.message.contains("hunter"))
        );
        assert!(Image::read(Some(&dir.path().join("other")), None).is_err());
    }
}
