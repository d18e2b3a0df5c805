// SPDX-License-Identifier: Apache-2.0

//! A real registry on loopback.

// Each of the tests' programs uses a part of it.
#![allow(dead_code)]

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;

use crate::host::{PATIENCE, run, tool};

/// The login of a private registry, and a wrong one.
pub const PASSWORD: &str = "hunter2";

/// A registry on loopback, which ends with the test.
pub struct Registry {
    child: Child,
    pub address: String,
    dir: TempDir,
    is_private: bool,
    has_tls: bool,
}

impl Registry {
    /// One without TLS, for everybody.
    pub fn start() -> Self {
        Self::start_with("", false)
    }

    /// One with TLS, whose CA nobody knows, and a login.
    pub fn start_private() -> Self {
        let text = "  tls: {certificate: DIR/registry.pem, key: DIR/key.pem}\n\
                    auth: {htpasswd: {realm: tests, path: DIR/htpasswd}}\n";
        Self::start_with(text, true)
    }

    /// One without TLS, and a login.
    pub fn start_with_login() -> Self {
        let text = "auth: {htpasswd: {realm: tests, path: DIR/htpasswd}}\n";
        Self::start_with(text, true)
    }

    /// Lets only this password be right from now on.
    pub fn change_password(&self, password: &str) {
        let hash = bcrypt::hash(password, 4).unwrap();
        // The registry reads it anew when its time is another one.
        let path = self.dir.path().join("htpasswd");
        let before = fs::metadata(&path).unwrap().modified().unwrap();
        fs::write(&path, format!("robot:{hash}\n")).unwrap();
        let file = fs::File::options().append(true).open(&path).unwrap();
        file.set_modified(before + Duration::from_secs(1)).unwrap();
    }

    fn start_with(more: &str, is_private: bool) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let authority_key = rcgen::KeyPair::generate().unwrap();
        let mut authority = rcgen::CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let root = authority.self_signed(&authority_key).unwrap();
        let issuer = rcgen::Issuer::new(authority, authority_key);
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        let certificate = parameters.signed_by(&key, &issuer).unwrap();
        fs::create_dir(at("certificates")).unwrap();
        fs::write(at("certificates/ca.crt"), root.pem()).unwrap();
        fs::write(at("registry.pem"), certificate.pem()).unwrap();
        fs::write(at("key.pem"), key.serialize_pem()).unwrap();
        let hash = bcrypt::hash(PASSWORD, 4).unwrap();
        fs::write(at("htpasswd"), format!("robot:{hash}\n")).unwrap();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let address = format!("127.0.0.1:{port}");
        let text = format!(
            "version: 0.1\nstorage: {{filesystem: {{rootdirectory: DIR/data}}}}\nhttp:\n  addr: \"{address}\"\n{more}"
        );
        let text = text.replace("DIR", &dir.path().display().to_string());
        fs::write(at("config.yml"), text).unwrap();
        let mut command = tool("DOCKER_REGISTRY", "docker-registry");
        command.arg("serve").arg(at("config.yml"));
        let child = command
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect(&address).is_err() {
            assert!(Instant::now() < end, "the registry does not start");
            sleep(Duration::from_millis(20));
        }
        Self {
            child,
            address,
            dir,
            is_private,
            has_tls: more.contains("tls:"),
        }
    }

    /// The path of an auth.json with this password for the registry.
    pub fn auth_file(&self, password: &str) -> PathBuf {
        let path = self.dir.path().join(format!("auth-{password}.json"));
        let login = STANDARD.encode(format!("robot:{password}"));
        let text = format!(r#"{{"auths":{{"{}":{{"auth":"{login}"}}}}}}"#, self.address);
        fs::write(&path, text).unwrap();
        path
    }

    pub fn ca_file(&self) -> PathBuf {
        self.dir.path().join("certificates/ca.crt")
    }

    /// Pushes an image layout under the name `a/b:1`.
    pub fn push(&self, layout: &Path) -> String {
        let image = format!("{}/a/b:1", self.address);
        let mut command = tool("SKOPEO", "skopeo");
        command.args(["--insecure-policy", "copy", "-q"]);
        if self.is_private {
            command.arg("--authfile").arg(self.auth_file(PASSWORD));
        }
        if self.has_tls {
            command
                .arg("--dest-cert-dir")
                .arg(self.dir.path().join("certificates"));
        } else {
            command.arg("--dest-tls-verify=false");
        }
        command
            .arg(format!("oci:{}:test", layout.display()))
            .arg(format!("docker://{image}"));
        run(&mut command);
        image
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
