// SPDX-License-Identifier: Apache-2.0

//! Where a page is walked: a machine that is at the same time the build host and the VM, with servers under names.
//!
//! | Name | What it is |
//! |---|---|
//! | `registry.example` | a private registry (the user is `robot`); its CA is one of the system's |
//! | `mirror.example` | a registry for everybody, with the same images |
//! | `internal.example` | the same, by a CA that the system does not know: `ca.crt` in the page's directory |
//! | `stuck.example` | the same as the mirror, but whatever comes stops after 2 MiB |
//! | `proxy.example:3128` | tinyproxy with a login (`pod-vm`), which makes tunnels to port 443 |

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use offline_fs_kbc::proto::api::{ImagePullRequest, ImagePullResponse};
use protobuf::Message as _;
use tempfile::TempDir;
use ttrpc::Request;

use crate::support::both::copy_to;
use crate::support::daemon::{Daemon, called_from};
use crate::support::puller::RECORDED_PULL;
use crate::support::registry::tar;
use crate::support::skopeo::{skopeo, write_layers};
use crate::support::wire::call;
use crate::support::{wait_for, wait_within};

/// How long a command of a page may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// After how many bytes the server of `stuck.example` says nothing more.
const STUCK_AFTER: usize = 2 << 20;

/// Switches loopback on (SIOCSIFFLAGS, IFF_UP), where the command `ip` may be missing.
const LOOPBACK_UP: &str = "import fcntl, socket, struct\n\
    fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sH22x', b'lo', 1))";

const CDH_SOCK: &str = "/run/confidential-containers/cdh.sock";

/// The servers, and where the page's commands are run.
pub struct World {
    /// The directory of the page's commands.
    home: TempDir,
    /// What belongs to the test alone.
    own: TempDir,
    servers: Vec<Server>,
    daemon: Option<Daemon>,
}

/// A server that ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl World {
    /// Takes the thread into namespaces of its own, and starts what is there. Each page has a directory of its own, with
    /// an image in the layout `app`, and passwords for the registry and the proxy.
    pub fn enter() -> Self {
        let mut world = Self {
            home: tempfile::tempdir().unwrap(),
            own: tempfile::tempdir().unwrap(),
            servers: Vec::new(),
            daemon: None,
        };
        // The status shows who asked.
        fs::write("/proc/self/comm", "kata-agent").unwrap();
        world.leave();
        world.start_servers();
        world.fill_home();
        world.push();
        world
    }

    /// Leaves the namespaces of the other threads: `/run` is empty, `/etc` is a copy, and there is no network.
    fn leave(&self) {
        unshare(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).unwrap();
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none).unwrap();
        let size = Some("mode=755,size=256m");
        mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), size).unwrap();
        must("python3", &["-c", LOOPBACK_UP]);
        must("cp", &["-a", "/etc", "/run/.etc"]);
        mount(Some("/run/.etc"), "/etc", none, MsFlags::MS_BIND, none).unwrap();
        let names = [
            "registry", "mirror", "internal", "stuck", "proxy", "stopped",
        ];
        let lines = (1..).zip(names);
        let lines = lines.map(|(number, name)| format!("127.0.1.{number} {name}.example\n"));
        let hosts = format!("127.0.0.1 localhost\n{}", lines.collect::<String>());
        // It may be a file that is mounted: what is written to another one is seen.
        fs::write("/run/.hosts", hosts).unwrap();
        let _ = fs::remove_file("/etc/hosts");
        File::create("/etc/hosts").unwrap();
        mount(
            Some("/run/.hosts"),
            "/etc/hosts",
            none,
            MsFlags::MS_BIND,
            none,
        )
        .unwrap();
        for path in ["containers", "kata-oci"] {
            let _ = fs::remove_dir_all(Path::new("/etc").join(path));
        }
        fs::create_dir_all("/run/confidential-containers").unwrap();
        fs::create_dir_all("/run/peerpod").unwrap();
    }

    fn start_servers(&mut self) {
        let own = self.own.path().to_owned();
        let (known, unknown) = (
            Authority::new("Known CA"),
            Authority::new("CA of internal.example"),
        );
        let mut roots = File::options()
            .append(true)
            .open("/etc/ssl/certs/ca-certificates.crt")
            .unwrap();
        roots.write_all(known.pem.as_bytes()).unwrap();
        fs::write(self.home.path().join("ca.crt"), unknown.pem.as_bytes()).unwrap();
        let password = random();
        fs::write(self.home.path().join("password"), &password).unwrap();
        let hash = bcrypt::hash(&password, 4).unwrap();
        fs::write(own.join("htpasswd"), format!("robot:{hash}\n")).unwrap();
        let login = format!(
            "auth: {{htpasswd: {{realm: registry, path: \"{}/htpasswd\"}}}}\n",
            own.display()
        );
        for (number, names, authority, more) in [
            (1, &["registry.example"][..], &known, &*login),
            (2, &["mirror.example", "stuck.example"], &known, ""),
            (3, &["internal.example"], &unknown, ""),
        ] {
            let at = |end: &str| own.join(format!("{number}.{end}"));
            let (certificate, key) = authority.certificate(names);
            fs::write(at("pem"), certificate).unwrap();
            fs::write(at("key"), key).unwrap();
            let config = format!(
                "version: 0.1\n\
                 storage: {{filesystem: {{rootdirectory: \"{0}/storage\"}}}}\n\
                 http: {{addr: \"127.0.1.{number}:443\", tls: {{certificate: \"{1}\", key: \"{2}\"}}}}\n{more}",
                own.display(),
                at("pem").display(),
                at("key").display()
            );
            fs::write(at("yml"), config).unwrap();
            let mut registry = tool("DOCKER_REGISTRY", "docker-registry");
            self.start(
                registry.arg("serve").arg(at("yml")),
                &format!("127.0.1.{number}:443"),
            );
        }
        let stuck = TcpListener::bind("127.0.1.4:443").unwrap();
        thread::spawn(move || {
            for client in stuck.incoming() {
                // Clients end connections as they like.
                thread::spawn(move || stop_after(client?, "127.0.1.2:443"));
            }
        });
        let password = random();
        fs::write(self.home.path().join("proxy-password"), &password).unwrap();
        let config = format!(
            "Port 3128\nListen 127.0.1.5\nTimeout 60\nBasicAuth pod-vm {password}\nConnectPort 443\n"
        );
        fs::write(own.join("tinyproxy.conf"), config).unwrap();
        let mut proxy = tool("TINYPROXY", "tinyproxy");
        proxy.arg("-d").arg("-c").arg(own.join("tinyproxy.conf"));
        self.start(&mut proxy, "127.0.1.5:3128");
    }

    fn start(&mut self, command: &mut Command, address: &str) {
        let log = self.own.path().join(format!("{address}.log"));
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        wait_for(address, || {
            if let Some(status) = child.try_wait().unwrap() {
                let log = fs::read_to_string(&log).unwrap();
                panic!("{command:?} ended with {status}: {log}");
            }
            TcpStream::connect(address).ok()
        });
        self.servers.push(Server(child));
    }

    fn fill_home(&self) {
        let bin = self.own.path().join("bin");
        copy_to(&bin, true);
        // skopeo's wrapper looks for files next to itself, so it can't be a link.
        let mut programs = vec![("skopeo", skopeo())];
        if let Some(cosign) = std::env::var_os("COSIGN") {
            programs.push(("cosign", PathBuf::from(cosign)));
        }
        for (name, path) in programs {
            script(
                &bin.join(name),
                &format!("exec '{}' \"$@\"", path.display()),
            );
        }
        // The units' logs are the daemon's, which starts guest-pull itself here. `-n` is the only option that counts.
        let log = self.own.path().join("log");
        let text = format!(
            "lines=1000\nwhile [ $# -gt 0 ]; do\n[ \"$1\" = -n ] && lines=$2\nshift\ndone\n\
             sed 's/^<[0-9]>//' '{}' | tail -n $lines",
            log.display()
        );
        script(&bin.join("journalctl"), &text);
        let policy = self.home.path().join(".config/containers");
        fs::create_dir_all(&policy).unwrap();
        let text = r#"{"default": [{"type": "insecureAcceptAnything"}]}"#;
        fs::write(policy.join("policy.json"), text).unwrap();
        fs::create_dir(self.own.path().join("tmp")).unwrap();
    }

    /// The images that are there, of one layer each: which of several fails first, nobody can tell. `team/app:1` is small, and
    /// `team/large:1` has 24 MiB.
    fn push(&self) {
        let layer = tar("etc/motd", b"hello from a private image\n");
        write_layers(&self.home.path().join("app"), &[layer]);
        let large = self.own.path().join("large");
        write_layers(&large, &[tar("data", &words(24 << 20))]);
        let login = self.own.path().join("auth.json");
        let password = fs::read_to_string(self.home.path().join("password")).unwrap();
        let auth = STANDARD.encode(format!("robot:{password}"));
        let text = format!(r#"{{"auths":{{"registry.example":{{"auth":"{auth}"}}}}}}"#);
        fs::write(&login, text).unwrap();
        for (from, name) in [(Path::new("app"), "app"), (&large, "large")] {
            self.must_run(&format!(
                "skopeo copy --quiet --authfile {} oci:{}:1 docker://registry.example/team/{name}:1",
                login.display(),
                from.display()
            ));
        }
    }

    /// Writes a file by its path, which may be in the page's directory.
    pub fn write(&self, path: &str, text: &str) {
        let path = self.home.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Runs commands of the page, which must succeed.
    pub fn must_run(&self, commands: &str) {
        let (output, code) = self.run(&format!("set -eu\n{commands}"));
        assert_eq!(code, 0, "{commands}\n{output}");
    }

    /// Runs commands of the page; gives what they print, and the exit status. The directory and the environment are those
    /// in which the commands before them ended.
    pub fn run(&self, commands: &str) -> (String, i32) {
        let own = self.own.path();
        let state = own.join("state").display().to_string();
        let script = format!(
            "if [ -e '{state}' ]; then . '{state}'; cd \"$PWD\"; fi\n\
             trap \"export -p >'{state}'\" EXIT\n{commands}\n"
        );
        let printed = own.join("printed");
        let output = File::create(&printed).unwrap();
        let path = std::env::var("PATH").unwrap_or_default();
        let mut command = Command::new("bash");
        command
            .arg("-c")
            .arg(&script)
            .env_clear()
            .env("PATH", format!("{}:{path}", own.join("bin").display()))
            .env("HOME", self.home.path())
            .env("TMPDIR", own.join("tmp"))
            .current_dir(self.home.path())
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        let mut child = Server(command.spawn().unwrap());
        let status = wait_within(LIMIT, commands, || child.0.try_wait().unwrap());
        let printed = String::from_utf8_lossy(&fs::read(printed).unwrap()).into_owned();
        (self.shown(&printed), status.code().unwrap_or(-1))
    }

    /// The text with the page's directory as root's. No page shows a password.
    fn shown(&self, text: &str) -> String {
        for name in ["password", "proxy-password"] {
            let password = fs::read_to_string(self.home.path().join(name)).unwrap();
            assert!(!text.contains(&password), "{text}");
        }
        text.replace(&self.home.path().display().to_string(), "/root")
    }

    /// Starts the daemon as kata-agent does, with more arguments.
    pub fn start_daemon(&mut self, arguments: &str) {
        self.daemon = None;
        let socket = Path::new(CDH_SOCK);
        let _ = fs::remove_file(socket);
        let program = self.own.path().join("bin/offline-fs-kbc");
        let mut command = called_from(&program, "offline-fs-kbc");
        let address = format!("unix://{CDH_SOCK}");
        command.args(["serve", "--cdh-sock", &address]);
        command.args(arguments.split_whitespace());
        command
            .env_remove("SSL_CERT_FILE")
            .env_remove("SSL_CERT_DIR");
        let daemon = Daemon::spawn_under_journal(command);
        wait_for("the daemon", || UnixStream::connect(socket).ok());
        let log = self.own.path().join("log");
        let _ = fs::remove_file(&log);
        symlink(daemon.log_file(), &log).unwrap();
        self.daemon = Some(daemon);
    }

    /// Asks for an image as kata-agent does; gives the answer.
    pub fn pull(&self, what: &str) -> String {
        let (image, name) = what.split_once(' ').unwrap_or((what, "app"));
        self.shown(&pull(image, name))
    }

    /// Asks for an image, which must come.
    pub fn must_pull(&self, image: &str) {
        let answer = pull(image, "app");
        assert!(answer.starts_with("sha256:"), "{answer}");
    }

    /// Asks for an image, and waits until the status has the pull and something of it came.
    pub fn pull_in_the_background(&self, image: &str) {
        let wanted = image.to_owned();
        thread::spawn(move || pull(&wanted, "background"));
        wait_for("the pull", || {
            let (status, _) = self.run("offline-fs-kbc status");
            let came = status.split_once("0 of 1 layer, ")?.1;
            (came.contains(" MB of ") && !came.starts_with('0')).then_some(())
        });
    }
}

/// Asks for an image in a bundle of this name.
fn pull(image: &str, name: &str) -> String {
    let bundle = Path::new("/run/kata-containers").join(name);
    fs::create_dir_all(&bundle).unwrap();
    let recorded = Request::parse_from_bytes(&RECORDED_PULL[10..]).unwrap();
    let mut request = ImagePullRequest::parse_from_bytes(&recorded.payload).unwrap();
    request.image_url = image.to_owned();
    request.bundle_path = bundle.display().to_string();
    let socket = Path::new(CDH_SOCK);
    let answer: Result<ImagePullResponse, _> =
        call(socket, "api.ImagePullService", "PullImage", &request);
    // As kata-agent does when the container ends.
    let _ = Command::new("umount").arg(bundle.join("rootfs")).output();
    fs::remove_dir_all(&bundle).unwrap();
    match answer {
        Ok(answer) => answer.manifest_digest,
        Err((code, text)) => format!("{code:?}: {text}"),
    }
}

/// A CA, which signs certificates of servers.
struct Authority {
    pem: String,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new(Vec::new()).unwrap();
        // Of two with one name, clients take one for the other.
        parameters
            .distinguished_name
            .push(rcgen::DnType::CommonName, name);
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = parameters.self_signed(&key).unwrap().pem();
        let issuer = rcgen::Issuer::new(parameters, key);
        Self { pem, issuer }
    }

    /// A certificate for these names, and its key.
    fn certificate(&self, names: &[&str]) -> (String, String) {
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut parameters = rcgen::CertificateParams::new(names).unwrap();
        parameters.distinguished_name = rcgen::DistinguishedName::new();
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = parameters.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), key.serialize_pem())
    }
}

/// Passes on what comes, from the server up to a limit and then nothing more, until the client ends the connection.
fn stop_after(mut client: TcpStream, server: &str) -> io::Result<()> {
    let mut server = TcpStream::connect(server)?;
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    let asking = thread::spawn(move || io::copy(&mut from, &mut to));
    let mut left = STUCK_AFTER;
    let mut bytes = [0; 16 << 10];
    while left > 0 {
        let wanted = left.min(bytes.len());
        let came = server.read(&mut bytes[..wanted])?;
        if came == 0 {
            return Ok(());
        }
        client.write_all(&bytes[..came])?;
        left -= came;
    }
    let _ = asking.join();
    Ok(())
}

/// Text of words, about as compressible as the files of images are; the same in each run.
fn words(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let mut text = Vec::with_capacity(length + 16);
    while text.len() < length {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        // Three of four words are among 256 that come often.
        let word = match state >> 30 {
            0 => state.rotate_left(7),
            _ => (state >> 16 & 0xff).wrapping_mul(2_654_435_761),
        };
        text.extend(format!("{word:08x} ").bytes());
    }
    text.truncate(length);
    text
}

/// A password of this run.
fn random() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/uuid").unwrap();
    text.trim().to_owned()
}

/// A program that a variable of the environment may name.
fn tool(name: &str, default: &str) -> Command {
    Command::new(std::env::var_os(name).unwrap_or_else(|| default.into()))
}

fn must(program: &str, args: &[&str]) {
    let output = Command::new(program).args(args).output().expect(program);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {said}");
}

fn script(path: &Path, text: &str) {
    fs::write(path, format!("#!/bin/sh\n{text}\n")).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}
