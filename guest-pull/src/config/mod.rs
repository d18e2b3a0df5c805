// SPDX-License-Identifier: Apache-2.0

//! The configuration that the stock puller reads too: `[image]` of `cdh.toml`; without a file, the kernel command line.
//!
//! What is configured and not supported is never passed over in silence. If ignoring it could give a pod another image
//! than its owner meant, or let it out another way, the pull is refused; else the log has a warning.

mod command_line;
mod registries;
mod table;

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use common::auth_json::image::ImageName;
use common::toml::{self, MAX_COMPONENT_BYTES};

use crate::credential::Source;
use crate::failure::{Failure, Kind};
use crate::policy::Configured;
use crate::pull::LAYERS_AT_ONCE;

pub use registries::Registry;

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

/// `[image]`: how images are pulled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    /// `work_dir`: where layers are kept.
    pub work_dir: PathBuf,
    /// `extra_root_certificates`: certificates of authorities in PEM, beside the system's.
    pub extra_root_certificates: Vec<String>,
    /// `max_concurrent_layer_downloads_per_image`.
    pub layers_at_once: usize,
    /// `authenticated_registry_credentials_uri`: where the credential is.
    pub credential: Source,
    /// `image_security_policy`, `sigstore_config`, and the same as URIs.
    pub signatures: Configured,
    /// `[[registry]]` of `[image.registry_config]`.
    pub registries: Vec<Registry>,
    /// Why no image is pulled.
    pub refusals: Vec<String>,
    /// What is ignored.
    pub warnings: Vec<String>,
}

impl Default for Image {
    fn default() -> Self {
        Self {
            work_dir: WORK_DIR.into(),
            extra_root_certificates: Vec::new(),
            layers_at_once: LAYERS_AT_ONCE,
            credential: Source::usual(),
            signatures: Configured::default(),
            registries: Vec::new(),
            refusals: Vec::new(),
            warnings: Vec::new(),
        }
    }
}

impl Image {
    /// Reads the configuration: the file at `path`, else the first that there is, else the kernel command line; and
    /// `variable`, the value of [`CREDENTIAL_VARIABLE`].
    ///
    /// # Errors
    ///
    /// If a file can't be read, or asks for something impossible. It may hold a policy, so nothing is pulled without it.
    pub fn read(path: Option<&Path>, variable: Option<&str>) -> Result<Self, Failure> {
        let mut image = Self::of_files(path)?;
        if let Some(uri) = variable.filter(|uri| !uri.is_empty()) {
            image.credential = Source::parse(uri).ok_or_else(|| {
                let text = format!(
                    "the environment variable {CREDENTIAL_VARIABLE} is not kbs:///REPOSITORY/TYPE/TAG or file:///PATH"
                );
                Failure::new(Kind::Configuration, text)
            })?;
        }
        Ok(image)
    }

    fn of_files(path: Option<&Path>) -> Result<Self, Failure> {
        if let Some(path) = path {
            let error = || io::ErrorKind::NotFound.into();
            return match read(path) {
                Ok(Some(text)) => Self::parse(&text, &path.display().to_string()),
                Ok(None) => Err(unread(path, &error())),
                Err(error) => Err(unread(path, &error)),
            };
        }
        for path in FILES.map(Path::new) {
            if let Some(text) = read(path).map_err(|error| unread(path, &error))? {
                return Self::parse(&text, &path.display().to_string());
            }
        }
        match read(Path::new(COMMAND_LINE)) {
            Ok(text) => {
                let text = text.unwrap_or_default();
                Ok(command_line::parse(&String::from_utf8_lossy(&text)))
            }
            Err(error) => Err(unread(Path::new(COMMAND_LINE), &error)),
        }
    }

    /// Parses the text of a file; `name` is for messages.
    ///
    /// # Errors
    ///
    /// If it is no TOML, or a known key has a value that it can't have. The reason holds no value.
    pub fn parse(text: &[u8], name: &str) -> Result<Self, Failure> {
        let failed = |what: &dyn std::fmt::Display| {
            Failure::new(Kind::Configuration, format!("{name}: {what}"))
        };
        let mut file = toml::table(text, MAX_COMPONENT_BYTES).map_err(|error| failed(&error))?;
        let mut image = Self::default();
        if let Some(value) = file.remove("image") {
            table::take(&mut image, value).map_err(|error| failed(&error))?;
        }
        for text in image.refusals.iter_mut().chain(&mut image.warnings) {
            *text = format!("{name}: {text}");
        }
        Ok(image)
    }

    /// Whether this image is asked for in plain HTTP.
    ///
    /// # Errors
    ///
    /// If the configuration does not let it be pulled.
    pub fn allow(&self, name: &ImageName) -> Result<bool, Failure> {
        if let Some(refusal) = self.refusals.first() {
            return Err(Failure::new(Kind::Configuration, refusal));
        }
        registries::allow(&self.registries, name)
            .map_err(|what| Failure::new(Kind::Configuration, what))
    }
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
    use crate::policy::Text;

    fn parse(text: &str) -> Result<Image, Failure> {
        Image::parse(text.as_bytes(), "cdh.toml")
    }

    fn name(text: &str) -> ImageName {
        ImageName::parse(text).unwrap()
    }

    /// The keys that are supported; the rest of the file belongs to others.
    #[test]
    fn supported_keys_are_read() {
        let text = "socket = \"x\"\n[kbc]\nname = \"offline_fs_kbc\"\n[image]\nwork_dir = \"/mnt/x\"\n\
            max_concurrent_layer_downloads_per_image = 5\nauthenticated_registry_credentials_uri = \"file:///run/a.json\"\n\
            extra_root_certificates = [\"one\", \"two\"]\n\
            [[image.registry_config.registry]]\nlocation = \"r.example:5000\"\ninsecure = true\n";
        let image = parse(text).unwrap();
        assert_eq!(image.work_dir, Path::new("/mnt/x"));
        assert_eq!(image.layers_at_once, 5);
        assert_eq!(image.extra_root_certificates, ["one", "two"]);
        assert_eq!(image.credential, Source::File("/run/a.json".into()));
        assert_eq!(
            (image.refusals.len(), image.warnings.len()),
            (0, 0),
            "{image:?}"
        );
        assert!(image.allow(&name("r.example:5000/a:1")).unwrap());
        for other in [
            "r.example/a",
            "r.example:50001/a",
            "alpine",
            "x.r.example:5000/a",
        ] {
            assert!(!image.allow(&name(other)).unwrap(), "{other}");
        }
        assert_eq!(parse("").unwrap(), Image::default());
    }

    /// What is not supported refuses the pull, or is warned about, and is named in either case.
    #[test]
    fn nothing_is_passed_over_in_silence() {
        for (key, value) in [
            ("registry_configuration_uri", "\"kbs:///a/b/c\""),
            (
                "image_pull_proxy",
                "{ https_proxy = \"http://u:hunter2@p\" }",
            ),
        ] {
            let image = parse(&format!("[image]\n{key} = {value}\n")).unwrap();
            let failure = image.allow(&name("a")).unwrap_err();
            assert_eq!(failure.kind, Kind::Configuration);
            assert!(failure.message.contains(key), "{failure}");
            assert!(!failure.message.contains("hunter"), "{failure}");
        }
        let text = "[image]\nimage_security_policy = \"{}\"\nimage_security_policy_uri = \"kbs:///a/b/c\"\n\
            sigstore_config = \"x\"\n";
        let signatures = parse(text).unwrap().signatures;
        let uri = Source::Resource("a/b/c".to_owned());
        assert_eq!(signatures.policy, Some(Text::At(uri)));
        assert_eq!(signatures.sigstore, Some(Text::Inline("x".to_owned())));
        let image = parse("[image]\nsurprise = 1\nimage_pull_proxy = {}\n").unwrap();
        assert!(image.allow(&name("a")).is_ok());
        assert!(image.warnings[0].contains("surprise"), "{image:?}");
        assert_eq!(image.warnings.len(), 1);
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

    /// The longest prefix counts, as a whole part of the name.
    #[test]
    fn the_longest_prefix_counts() {
        let text = "[[image.registry_config.registry]]\nlocation = \"r.example\"\ninsecure = true\n\
            [[image.registry_config.registry]]\nprefix = \"r.example/safe\"\nlocation = \"r.example/safe\"\n\
            [[image.registry_config.registry]]\nlocation = \"r.example/blocked\"\nblocked = true\n\
            [[image.registry_config.registry]]\nprefix = \"r.example/moved\"\nlocation = \"s.example/here\"\n\
            [[image.registry_config.registry]]\nprefix = \"*.corp.example\"\ninsecure = true\n\
            [[image.registry_config.registry]]\nlocation = \"m.example\"\n\
            [[image.registry_config.registry.mirror]]\nlocation = \"n.example\"\n";
        let image = parse(text).unwrap();
        for (image_name, plain) in [
            ("r.example/a", true),
            ("r.example/safer", true),
            ("r.example/safe", false),
            ("r.example/safe/a:1", false),
            ("r.example.org/a", false),
            ("x.corp.example/a", true),
            ("x.corp.example:5000/a", true),
            ("corp.example/a", false),
            ("evil.example/x.corp.example/a", false),
            ("m.example/a", false),
        ] {
            assert_eq!(image.allow(&name(image_name)), Ok(plain), "{image_name}");
        }
        for (image_name, key) in [
            ("r.example/blocked/x", "blocked"),
            ("r.example/moved/x", "location"),
        ] {
            let failure = image.allow(&name(image_name)).unwrap_err();
            assert!(failure.message.contains(key), "{failure}");
        }
        assert!(
            image.warnings.iter().any(|text| text.contains("mirror")),
            "{image:?}"
        );
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
