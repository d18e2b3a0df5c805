// SPDX-License-Identifier: Apache-2.0

//! Debian's docker-registry on loopback, and what is pushed to it.

use std::cell::OnceCell;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::subject::{OWN, wait_until};
use crate::tree::{Layer, Packing, write};

/// A registry, which ends with the program.
pub struct Registry {
    pub address: String,
    child: Child,
    with_tls: OnceCell<(String, Child)>,
}

/// Runs a program to its end, which must be a success; gives its output.
pub fn run(command: &mut Command) -> Vec<u8> {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {text}");
    output.stdout
}

/// A program that a variable names, or that is found by its own name.
pub fn tool(variable: &str, name: &str) -> Command {
    Command::new(std::env::var_os(variable).unwrap_or_else(|| name.into()))
}

/// An image that was pushed.
pub struct Pushed {
    /// Its name without the registry, with a tag.
    pub name: String,
    /// The digests of its layers' blobs, the lowest first.
    pub blobs: Vec<String>,
}

impl Registry {
    pub fn start() -> Self {
        let (address, child) = start("registry", "");
        Self {
            address,
            child,
            with_tls: OnceCell::new(),
        }
    }

    /// Where the same images are with TLS, and the certificate of its authority: the stock hub looks for signatures with TLS
    /// alone.
    pub fn with_tls(&self) -> (&str, String) {
        let directory = Path::new(OWN).join("tls");
        let (address, _) = self.with_tls.get_or_init(|| {
            fs::create_dir_all(&directory).expect("a directory");
            make_certificate(&directory);
            let at = |name: &str| directory.join(name).display().to_string();
            let tls = format!(
                ", tls: {{certificate: {}, key: {}}}",
                at("tls.pem"),
                at("tls.key")
            );
            start("registry-tls", &tls)
        });
        let authority = fs::read_to_string(directory.join("ca.pem")).expect("a certificate");
        (address, authority)
    }

    /// Pushes an image of these layers.
    pub fn push(&self, name: &str, layers: Vec<Layer>, packing: Packing) -> Pushed {
        let layout = layout(name);
        let blobs = write(&layout, layers, packing);
        self.copy(&layout, name, &mut copy_command());
        Pushed {
            name: format!("{name}:1"),
            blobs,
        }
    }

    /// Pushes the image of a layout by a command that knows more about it.
    pub fn copy(&self, layout: &Path, name: &str, command: &mut Command) {
        command.arg(format!("oci:{}:it", layout.display()));
        run(command.arg(format!("docker://{}/{name}:1", self.address)));
    }
}

/// Starts a registry over the images that all have; `more` is more of its part `http`.
fn start(name: &str, more: &str) -> (String, Child) {
    let directory = Path::new(OWN).join(name);
    fs::create_dir_all(&directory).expect("a directory");
    let free = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = free.local_addr().expect("an address").to_string();
    drop(free);
    let config = directory.join("config.yml");
    let text = format!(
        "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {OWN}/images}}}}\nhttp: {{addr: \"{address}\"{more}}}\n"
    );
    fs::write(&config, text).expect("a file");
    let mut command = tool("DOCKER_REGISTRY", "docker-registry");
    command.arg("serve").arg(&config).stdin(Stdio::null());
    let child = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("docker-registry");
    let is_there = wait_until(|| TcpStream::connect(&address).is_ok());
    assert!(is_there, "the registry does not start");
    (address, child)
}

/// Makes an authority, and a certificate of it for loopback.
fn make_certificate(directory: &Path) {
    fs::write(directory.join("names"), "subjectAltName=IP:127.0.0.1\n").expect("a file");
    for arguments in [
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout ca.key -out ca.pem -subj /CN=authority -days 2",
        "req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout tls.key -out tls.csr -subj /CN=registry",
        "x509 -req -in tls.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out tls.pem -days 2 -extfile names",
    ] {
        let mut command = tool("OPENSSL", "openssl");
        command.current_dir(directory);
        run(command.args(arguments.split(' ')));
    }
}

/// Where the layout of an image is.
pub fn layout(name: &str) -> PathBuf {
    Path::new(OWN).join("layouts").join(name)
}

/// `skopeo copy` to a registry without TLS.
pub fn copy_command() -> Command {
    let mut command = tool("SKOPEO", "skopeo");
    command.args(["--insecure-policy", "copy", "-q", "--dest-tls-verify=false"]);
    command
}

impl Drop for Registry {
    fn drop(&mut self) {
        let tls = self.with_tls.get_mut().map(|(_, child)| child);
        for child in [Some(&mut self.child), tls].into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
