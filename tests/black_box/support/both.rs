// SPDX-License-Identifier: Apache-2.0

//! The daemon as confidential-data-hub with guest-pull beside it, as kata-agent starts it where no service manager does.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use offline_fs_kbc::proto::api::{ImagePullRequest, ImagePullResponse};
use protobuf::Message as _;
use ttrpc::{Code, Request};

use super::daemon::{Daemon, Root, called_from, program};
use super::puller::RECORDED_PULL;
use super::registry::Registry;
use super::wire::call;

/// The program guest-pull: what `GUEST_PULL_BIN` names, or the one beside the daemon under test.
pub fn guest_pull() -> PathBuf {
    let path = match std::env::var_os("GUEST_PULL_BIN") {
        Some(path) => PathBuf::from(path),
        None => program().with_file_name("guest-pull"),
    };
    assert!(
        path.exists(),
        "{} is missing; `cargo build --package guest-pull` builds it",
        path.display()
    );
    path
}

/// A copy of the daemon in `directory`, and a link to guest-pull beside it if that is wanted.
pub fn copy_to(directory: &Path, with_guest_pull: bool) -> PathBuf {
    fs::create_dir_all(directory).unwrap();
    let copy = directory.join("offline-fs-kbc");
    if !copy.exists() {
        fs::copy(program(), &copy).unwrap();
    }
    let beside = directory.join("guest-pull");
    let _ = fs::remove_file(&beside);
    if with_guest_pull {
        symlink(guest_pull(), beside).unwrap();
    }
    copy
}

/// The daemon with guest-pull, which trusts a registry's CA, and keeps its layers below the root.
pub struct Both {
    /// The daemon.
    pub daemon: Daemon,
    /// `cdh.sock`.
    pub socket: PathBuf,
    /// Where the layers are.
    pub store: PathBuf,
    root: PathBuf,
}

impl Both {
    /// Starts the daemon, as kata-agent does.
    pub fn start(root: &Root, registry: &Registry) -> Self {
        let ca = fs::read_to_string(registry.cert_dir().join("ca.crt")).unwrap();
        let more = format!("extra_root_certificates = [\"\"\"\n{ca}\"\"\"]\n");
        Self::start_with(root, &more)
    }

    /// The same with these lines of the configuration, of which the first are more keys of `[image]`.
    pub fn start_with(root: &Root, more: &str) -> Self {
        let socket = root.socket_called("cdh.sock");
        let config = configure(root, more);
        fs::create_dir_all(socket.parent().unwrap()).unwrap();
        let copy = copy_to(&root.path("bin"), true);
        let mut command: Command = called_from(&copy, "confidential-data-hub");
        command.arg("-c").arg(&config);
        command.env("OFFLINE_FS_KBC_EXTRA_FILE_PATH", root.resources());
        Self {
            daemon: Daemon::start(command, &socket),
            socket,
            store: root.path("store"),
            root: root.dir().to_owned(),
        }
    }

    /// Asks for an image in a bundle of this name as kata-agent did, by the client that it has; gives the bundle, and the digest of the
    /// answer.
    pub fn pull(&self, image: &str, name: &str) -> (PathBuf, Result<String, (Code, String)>) {
        let bundle = self.root.join(name);
        fs::create_dir_all(&bundle).unwrap();
        let recorded = Request::parse_from_bytes(&RECORDED_PULL[10..]).unwrap();
        let mut request = ImagePullRequest::parse_from_bytes(&recorded.payload).unwrap();
        request.image_url = image.to_owned();
        request.bundle_path = bundle.display().to_string();
        let answer: Result<ImagePullResponse, _> =
            call(&self.socket, "api.ImagePullService", "PullImage", &request);
        (bundle, answer.map(|answer| answer.manifest_digest))
    }
}

/// Writes the configuration, with these lines after the first keys of `[image]`; gives its path. The daemon reads its own
/// part when it starts, and guest-pull the rest at each pull.
pub fn configure(root: &Root, more: &str) -> PathBuf {
    let config = root.path("cdh.toml");
    let text = format!(
        "socket = \"unix://{}\"\n[image]\nwork_dir = \"{}\"\n{more}",
        root.socket_called("cdh.sock").display(),
        root.path("store").display()
    );
    fs::write(&config, text).unwrap();
    config
}

/// A private registry with TLS, and the name of the image of these layers there.
pub fn registry_with(layers: Vec<Vec<u8>>) -> (Registry, String) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let registry = Registry::start();
    let pushed = runtime.block_on(registry.push_layers(layers));
    let before = registry.host.clone();
    let registry = registry.with_tls();
    let image = pushed.replace(&before, &registry.host);
    (registry, image)
}

/// A mounted root file system, which is unmounted as kata-agent does it, at the latest when the value is dropped.
pub struct Mounted(pub PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

/// A layer with one program of this machine and the libraries that it needs, so that it runs in a root file system of its
/// own; a tar archive.
pub fn program_layer(program: &str) -> Vec<u8> {
    let said = Command::new("ldd").arg(program).output().unwrap();
    let said = String::from_utf8(said.stdout).unwrap();
    let words = said.split_whitespace().filter(|word| word.starts_with('/'));
    let paths = words
        .chain([program])
        .map(|path| path.trim_start_matches('/'));
    let output = Command::new("tar")
        .args(["--create", "--dereference", "--directory", "/"])
        .args(paths)
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout
}
