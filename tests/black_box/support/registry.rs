// SPDX-License-Identifier: Apache-2.0

//! Debian's docker-registry on loopback, with password authentication and one small image.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use oci_client::Reference;
use oci_client::client::{Client, ClientConfig, ClientProtocol, Config, ImageLayer};
use oci_client::secrets::RegistryAuth;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tempfile::TempDir;

use super::wait_for;

/// The user that the registry knows.
pub const USER: &str = "pod-vm";

/// The repository of the pushed image.
const REPOSITORY: &str = "private/app";

/// A file of the pushed image.
pub const MOTD: &str = "hello from a private image\n";

/// A running registry, which is killed when the value is dropped.
pub struct Registry {
    process: Child,
    /// `127.0.0.1:<port>`.
    pub host: String,
    /// The password of [`USER`], made for this run.
    pub password: String,
    dir: TempDir,
}

/// Where the Makefile unpacks the registry.
fn program() -> PathBuf {
    match std::env::var_os("DOCKER_REGISTRY") {
        Some(path) => PathBuf::from(path),
        None => {
            Path::new(env!("CARGO_MANIFEST_DIR")).join("target/registry/usr/bin/docker-registry")
        }
    }
}

impl Registry {
    /// Starts a registry that accepts only [`USER`], with a fresh password.
    pub fn start() -> Self {
        let program = program();
        assert!(
            program.exists(),
            "{} is missing; `make registry` fetches it",
            program.display()
        );
        let dir = tempfile::tempdir().unwrap();
        let password = fresh_password();
        let hash = bcrypt::hash(&password, 4).unwrap();
        let htpasswd = dir.path().join("htpasswd");
        fs::write(&htpasswd, format!("{USER}:{hash}\n")).unwrap();
        Self::run(dir, password, "")
    }

    /// A private registry with TLS that has an image of two layers, and the image's name. Its certificate is valid from this
    /// year on.
    pub fn with_image(year: i32) -> (Self, String) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let registry = Self::start();
        let pushed = runtime.block_on(registry.push());
        let before = registry.host.clone();
        let registry = registry.with_tls_from(year);
        let image = pushed.replace(&before, &registry.host);
        (registry, image)
    }

    /// The same registry with TLS, by a certificate of a CA of its own, which is in [`Registry::cert_dir`].
    pub fn with_tls(self) -> Self {
        self.with_tls_from(2000)
    }

    /// The same, with a certificate that is valid from this year on.
    pub fn with_tls_from(mut self, year: i32) -> Self {
        self.end();
        let mut name = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        name.not_before = rcgen::date_time_ymd(year, 1, 1);
        name.distinguished_name = rcgen::DistinguishedName::new();
        let key = rcgen::KeyPair::generate().unwrap();
        let mut ca = rcgen::CertificateParams::new(Vec::new()).unwrap();
        ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca_key = rcgen::KeyPair::generate().unwrap();
        let certificate = ca.self_signed(&ca_key).unwrap();
        let issuer = rcgen::Issuer::new(ca, ca_key);
        let signed = name.signed_by(&key, &issuer).unwrap();
        let dir = std::mem::replace(&mut self.dir, tempfile::tempdir().unwrap());
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("ca")).unwrap();
        fs::write(at("ca/ca.crt"), certificate.pem()).unwrap();
        fs::write(at("cert.pem"), signed.pem()).unwrap();
        fs::write(at("key.pem"), key.serialize_pem()).unwrap();
        let tls = format!(
            ", tls: {{certificate: \"{0}/cert.pem\", key: \"{0}/key.pem\"}}",
            dir.path().display()
        );
        Self::run(dir, self.password.clone(), &tls)
    }

    /// Where clients find the CA of [`Registry::with_tls`].
    pub fn cert_dir(&self) -> PathBuf {
        self.dir.path().join("ca")
    }

    fn run(dir: TempDir, password: String, tls: &str) -> Self {
        let program = program();
        let config = format!(
            "version: 0.1\n\
             storage: {{filesystem: {{rootdirectory: \"{0}/storage\"}}}}\n\
             http: {{addr: \"127.0.0.1:0\"{tls}}}\n\
             auth: {{htpasswd: {{realm: test, path: \"{0}/htpasswd\"}}}}\n",
            dir.path().display()
        );
        fs::write(dir.path().join("config.yml"), config).unwrap();
        let log = dir.path().join("log");
        let process = Command::new(&program)
            .arg("serve")
            .arg(dir.path().join("config.yml"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("can't start {}: {error}", program.display()));
        let mut registry = Self {
            process,
            host: String::new(),
            password,
            dir,
        };
        // The kernel chooses the port, so that parallel runs do not collide.
        registry.host = wait_for("the registry", || {
            let text = fs::read_to_string(&log).unwrap();
            if let Some(status) = registry.process.try_wait().unwrap() {
                panic!("the registry ended with {status}: {text}");
            }
            let (_, rest) = text.split_once("listening on ")?;
            let (host, _) = rest.split_once(['"', ',', '\n'])?;
            Some(host.to_owned())
        });
        registry
    }

    /// Pushes a small image and gives its name.
    pub async fn push(&self) -> String {
        let files = [("etc/motd", MOTD), ("app", "#!/bin/sh\n")];
        let layers = files.map(|(path, text)| tar(path, text.as_bytes()));
        self.push_layers(layers.into()).await
    }

    /// The same with these layers, tar archives.
    pub async fn push_layers(&self, layers: Vec<Vec<u8>>) -> String {
        let name = format!("{}/{REPOSITORY}:1", self.host);
        let image: Reference = name.parse().unwrap();
        let diff_ids: Vec<_> = layers
            .iter()
            .map(|layer| format!("sha256:{:x}", Sha256::digest(layer)))
            .collect();
        let layers = layers.into_iter();
        let layers: Vec<_> = layers
            .map(|layer| ImageLayer::oci_v1(layer, None))
            .collect();
        let config = json!({
            "architecture": architecture(), "os": "linux", "config": {},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = Config::oci_v1(config.to_string().into_bytes(), None);
        let login = RegistryAuth::Basic(USER.to_owned(), self.password.clone());
        client()
            .push(&image, &layers, config, &login, None)
            .await
            .unwrap();
        name
    }

    /// An auth.json with the right password.
    pub fn auth_json(&self) -> String {
        self.auth_json_with(&self.password)
    }

    /// The same with any password.
    pub fn auth_json_with(&self, password: &str) -> String {
        use base64::Engine as _;
        let login = format!("{USER}:{password}");
        let login = base64::engine::general_purpose::STANDARD.encode(login);
        format!(r#"{{"auths":{{"{}":{{"auth":"{login}"}}}}}}"#, self.host)
    }
}

impl Registry {
    fn end(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.end();
    }
}

/// This machine's architecture, as images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// A client for registries on loopback, without TLS.
pub fn client() -> Client {
    // The client needs a TLS provider even if it does not use TLS. It can be set only once.
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::new(ClientConfig {
        protocol: ClientProtocol::Http,
        ..ClientConfig::default()
    })
}

fn fresh_password() -> String {
    let bytes = fs::read("/proc/sys/kernel/random/uuid").unwrap();
    String::from_utf8(bytes).unwrap().trim().to_owned()
}

/// A tar archive of one file.
pub fn tar(path: &str, content: &[u8]) -> Vec<u8> {
    let mut header = [0; 512];
    let mut field = |at: usize, text: &str| {
        (&mut header[at..]).write_all(text.as_bytes()).unwrap();
    };
    field(0, path);
    field(100, "0000644\0");
    field(108, "0000000\0");
    field(116, "0000000\0");
    field(124, &format!("{:011o}\0", content.len()));
    field(136, "00000000000\0");
    field(148, "        ");
    field(156, "0");
    field(257, "ustar\x0000");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    (&mut header[148..])
        .write_all(format!("{sum:06o}\0 ").as_bytes())
        .unwrap();
    let mut archive = header.to_vec();
    archive.extend(content);
    archive.resize(archive.len().next_multiple_of(512) + 1024, 0);
    archive
}
