// SPDX-License-Identifier: Apache-2.0

//! The program pulls from a real registry (Debian's docker-registry, `DOCKER_REGISTRY`), and what it mounts is compared,
//! entry by entry, with what umoci unpacks of the same image (`UMOCI`).

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

use std::fs;
use std::io::Read as _;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tempfile::TempDir;

/// For anything that a busy machine does in a moment.
const PATIENCE: Duration = Duration::from_secs(60);

fn output(command: &mut Command) -> (String, String, Option<i32>) {
    let output = command
        .output()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (
        text(output.stdout),
        text(output.stderr),
        output.status.code(),
    )
}

fn run(command: &mut Command) -> String {
    let (stdout, stderr, code) = output(command);
    assert_eq!(code, Some(0), "{command:?}: {stdout}{stderr}");
    stdout
}

fn tool(name: &str, default: &str) -> Command {
    Command::new(std::env::var_os(name).unwrap_or_else(|| default.into()))
}

fn support(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/support")
        .join(name)
}

/// The login of a private registry, and a wrong one.
const PASSWORD: &str = "hunter2";

/// A registry on loopback, which ends with the test.
struct Registry {
    child: Child,
    address: String,
    dir: TempDir,
    is_private: bool,
}

impl Registry {
    /// One without TLS, for everybody.
    fn start() -> Self {
        Self::start_with("", false)
    }

    /// One with TLS, whose CA nobody knows, and a login.
    fn start_private() -> Self {
        let text = "  tls: {certificate: DIR/registry.pem, key: DIR/key.pem}\n\
                    auth: {htpasswd: {realm: tests, path: DIR/htpasswd}}\n";
        Self::start_with(text, true)
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
        }
    }

    /// The path of an auth.json with this password for the registry.
    fn auth_file(&self, password: &str) -> PathBuf {
        let path = self.dir.path().join(format!("auth-{password}.json"));
        let login = STANDARD.encode(format!("robot:{password}"));
        let text = format!(r#"{{"auths":{{"{}":{{"auth":"{login}"}}}}}}"#, self.address);
        fs::write(&path, text).unwrap();
        path
    }

    fn ca_file(&self) -> PathBuf {
        self.dir.path().join("certificates/ca.crt")
    }

    /// Pushes an image layout under the name `a/b:1`.
    fn push(&self, layout: &Path) -> String {
        let image = format!("{}/a/b:1", self.address);
        let mut command = tool("SKOPEO", "skopeo");
        command.args(["--insecure-policy", "copy", "-q"]);
        if self.is_private {
            command
                .arg("--dest-cert-dir")
                .arg(self.dir.path().join("certificates"));
            command.arg("--authfile").arg(self.auth_file(PASSWORD));
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

fn guest_pull(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_guest-pull"));
    command.args(args);
    command
}

/// A mount that goes with the test.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

fn mounts() -> String {
    let mut text = String::new();
    fs::File::open("/proc/self/mountinfo")
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    text
}

/// Times of directories that no archive has an entry for: umoci has made them a moment ago.
fn without_implied(listing: &str) -> Vec<String> {
    let implied = [
        "dev",
        "etc",
        "opt",
        "opt/old",
        "opt/old/b",
        "run",
        "srv",
        "srv/only",
    ];
    let mut lines: Vec<_> = listing.lines().map(str::to_owned).collect();
    for line in &mut lines {
        let is_implied = implied
            .iter()
            .any(|name| line.starts_with(&format!("[b'{name}', '0o40755'")));
        if is_implied || line.starts_with("[b'name nn") && line.contains("0o40755") {
            line.truncate(line.find(", 0, 0, ").unwrap());
        }
        // umoci gives the root the time of the unpacking.
        if line.starts_with("[b'.', ") {
            line.truncate(line.find(", 0, 0, ").unwrap());
        }
    }
    lines
}

/// What is mounted is what an independent tool unpacks: types, modes, owners, times, links, devices, attributes and
/// contents; names that a layer takes away are gone, and what it says nothing about stays as it was. One mount is there
/// after the pull, and none of the layers'. Each layer's file is right for fsck.erofs.
#[test]
fn an_image_is_mounted_as_it_was_made() {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "this test needs root");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let [layout, store, bundle, unpacked] =
        ["layout", "store", "bundle", "unpacked"].map(|name| dir.path().join(name));
    run(Command::new(support("make-image")).arg(&layout));
    let registry = Registry::start();
    let image = registry.push(&layout);
    let before = mounts().lines().count();
    let as_str = |path: &Path| path.to_str().unwrap().to_owned();
    let args = [
        "pull",
        "--plain-http",
        "--store",
        &as_str(&store),
        "--bundle",
        &as_str(&bundle),
        &image,
    ];
    let (stdout, stderr, code) = output(&mut guest_pull(&args));
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    let rootfs = bundle.join("rootfs");
    let _mounted = Mounted(rootfs.clone());
    assert_eq!(mounts().lines().count(), before + 1);
    assert_eq!(stderr.matches("fetched").count(), 3, "{stderr}");
    let files: Vec<_> = stdout
        .lines()
        .filter(|line| line.ends_with(".erofs"))
        .collect();
    assert_eq!(files.len(), 3, "{stdout}");
    for file in files {
        run(tool("FSCK_EROFS", "fsck.erofs").arg(file));
    }
    run(tool("UMOCI", "umoci")
        .args([
            "raw",
            "unpack",
            "--image",
            &format!("{}:test", layout.display()),
        ])
        .arg(&unpacked));
    let [ours, theirs] = [&rootfs, &unpacked]
        .map(|root| without_implied(&run(Command::new(support("listing")).arg(root))));
    assert_eq!(ours, theirs);
    // Programs of the image run, and what they write stays in the bundle.
    fs::write(rootfs.join("etc/written"), "x").unwrap();
    assert!(bundle.join("upper/etc/written").exists());

    // What is stored is not fetched again.
    let second = dir.path().join("second");
    let args = [
        "pull",
        "--plain-http",
        "--store",
        &as_str(&store),
        "--bundle",
        &as_str(&second),
        &image,
    ];
    let (_, stderr, code) = output(&mut guest_pull(&args));
    let _second = Mounted(second.join("rootfs"));
    assert_eq!(
        (code, stderr.matches("stored already").count()),
        (Some(0), 3),
        "{stderr}"
    );
    assert!(!second.join("rootfs/etc/written").exists());
}

/// A registry's answers are told apart, by words and by exit status.
#[test]
fn inspect_tells_answers_apart() {
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    run(Command::new(support("make-image")).arg(&layout));
    let registry = Registry::start();
    let image = registry.push(&layout);
    let missing = image.replace(":1", ":2");
    for (image, answer, status) in [
        (image.as_str(), "accepted", 0),
        (missing.as_str(), "missing", 4),
        ("127.0.0.1:1/a/b", "unreachable", 5),
    ] {
        let (stdout, stderr, code) = output(&mut guest_pull(&["inspect", "--plain-http", image]));
        assert!(
            stdout.contains(&format!(": {answer}: ")),
            "{stdout}{stderr}"
        );
        assert_eq!(code, Some(status), "{stdout}{stderr}");
    }
    let (stdout, _, code) = output(&mut guest_pull(&[
        "inspect",
        "--plain-http",
        "--format",
        "json",
        "--platform",
        "linux/s390x",
        &image,
    ]));
    assert!(
        stdout.contains("\"accepted\"") && code == Some(0),
        "{stdout}"
    );
}

/// A private registry with TLS gives the image for the right login and the right CA alone. A refusal names the registry
/// and the user, and no password. Without root the layers are made, and the command says that mounting needs root.
#[test]
fn a_private_registry_wants_login_and_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let [layout, store] = ["layout", "store"].map(|name| dir.path().join(name));
    run(Command::new(support("make-image")).arg(&layout));
    let registry = Registry::start_private();
    let image = registry.push(&layout);
    let as_str = |path: PathBuf| path.to_str().unwrap().to_owned();
    let (ca, right, wrong) = (
        as_str(registry.ca_file()),
        as_str(registry.auth_file(PASSWORD)),
        as_str(registry.auth_file("hunter3")),
    );
    let with_ca = ["--ca-file", ca.as_str()];
    for (args, answer, status) in [
        (
            [&with_ca[..], &["--auth-file", &right]].concat(),
            "accepted",
            0,
        ),
        (
            [&with_ca[..], &["--auth-file", &wrong]].concat(),
            "refused",
            3,
        ),
        (with_ca.to_vec(), "refused", 3),
        (vec!["--auth-file", right.as_str()], "unreachable", 5),
        (vec!["--plain-http"], "other", 1),
    ] {
        let (stdout, stderr, code) = output(&mut guest_pull(
            &[&["inspect", image.as_str()], &args[..]].concat(),
        ));
        assert_eq!(code, Some(status), "{args:?}: {stdout}{stderr}");
        assert!(stdout.contains(&format!(": {answer}: ")), "{stdout}");
        assert!(!stdout.contains("hunter"), "{stdout}");
        if answer == "refused" {
            assert!(stdout.contains(&registry.address), "{stdout}");
        }
    }
    let store = as_str(store);
    let args = [
        "pull",
        "--auth-file",
        &right,
        "--ca-file",
        &ca,
        "--store",
        &store,
        "--format",
        "json",
        &image,
    ];
    let (stdout, stderr, code) = output(&mut guest_pull(&args));
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    let last = stdout.lines().last().unwrap();
    assert!(
        last.contains("\"digest\":\"sha256:") && last.contains("\"rootfs\":null"),
        "{last}"
    );
}
