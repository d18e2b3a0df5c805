// SPDX-License-Identifier: Apache-2.0

//! Those who pull: guest-pull, and what else can.

use std::fs;
use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use offline_fs_kbc_bench::client::receive;
use offline_fs_kbc_bench::process::shared_memory;
use offline_fs_kbc_bench::running::{PATIENCE, Running};
use offline_fs_kbc_bench::wire;

use crate::tools::{InMemory, attempt, exists, peak, processor_time, room, timed, tool, unmount};

/// How long confidential-data-hub may take for an image.
const LONGEST: Duration = Duration::from_secs(300);

/// One who pulls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Puller {
    /// The program in this file.
    GuestPull(PathBuf),
    /// `skopeo copy` and `umoci unpack`.
    Skopeo,
    /// containerd, with `ctr image pull`.
    Containerd,
    /// A stock confidential-data-hub in this file.
    Hub(PathBuf),
}

/// What one pull took.
pub struct Pull {
    pub seconds: f64,
    /// The processor time of the processes that ended with it.
    pub processor: f64,
    /// Peak memory in bytes, if that was asked for.
    pub peak: f64,
    /// What files in memory take more than before, as long as the image is there.
    pub held: f64,
    /// What its files take.
    pub stored: f64,
    /// The seconds of the same again, for who keeps anything.
    pub again: Option<f64>,
}

impl Puller {
    /// The name of a stock confidential-data-hub.
    pub const HUB: &'static str = "confidential-data-hub";

    pub fn name(&self) -> &'static str {
        match self {
            Self::GuestPull(_) => "guest-pull",
            Self::Skopeo => "skopeo + umoci",
            Self::Containerd => "containerd",
            Self::Hub(_) => Self::HUB,
        }
    }

    /// Whether this machine has it.
    pub fn is_there(&self) -> bool {
        match self {
            Self::GuestPull(path) | Self::Hub(path) => path.is_file(),
            Self::Skopeo => exists("umoci"),
            Self::Containerd => exists("containerd") && exists("ctr"),
        }
    }

    /// Pulls an image into a fresh directory in memory, and removes it. With `look`, its memory is looked at, which takes
    /// time.
    pub fn pull(&self, image: &str, memory: &InMemory, look: bool) -> Result<Pull, String> {
        let dir = memory.fresh("pull");
        let before = shared_memory() * 1024.0;
        let measured = |server: Option<u32>, work: &mut Work| {
            let (time, kib) = match look {
                true => peak(server, || timed(work)),
                false => (timed(work), 0.0),
            };
            Ok((time?, kib * 1024.0))
        };
        let pulled = match self {
            Self::GuestPull(program) => {
                let mut pull = || attempt(&mut guest_pull(program, image, &dir));
                let spent = processor_time();
                let (time, peak) = measured(None, &mut pull)?;
                let spent = processor_time() - spent;
                let mut pulled = Pull::after(time, peak, before, &dir.join("store"));
                pulled.processor = spent;
                unmount(&dir.join("bundle/rootfs"));
                fs::remove_dir_all(dir.join("bundle")).expect("a directory");
                pulled.again = Some(timed(pull)?);
                unmount(&dir.join("bundle/rootfs"));
                pulled
            }
            Self::Skopeo => {
                let layout = format!("{}:bench", dir.join("layout").display());
                let bundle = dir.join("bundle");
                let (time, peak) = measured(None, &mut || {
                    let mut copy = tool("SKOPEO", "skopeo");
                    copy.args(["--insecure-policy", "copy", "-q", "--src-tls-verify=false"]);
                    copy.arg(format!("docker://{image}"));
                    attempt(copy.arg(format!("oci:{layout}")))?;
                    let mut unpack = Command::new("umoci");
                    unpack.args(["--log=error", "unpack", "--image", &layout]);
                    attempt(unpack.arg(&bundle))
                })?;
                fs::remove_dir_all(dir.join("layout")).expect("a directory");
                Pull::after(time, peak, before, &bundle)
            }
            Self::Containerd => containerd(image, &dir, before, &measured)?,
            Self::Hub(program) => hub(program, image, &dir, before, &measured)?,
        };
        fs::remove_dir_all(&dir).map_err(|error| error.to_string())?;
        Ok(pulled)
    }
}

/// What is measured.
type Work<'w> = dyn FnMut() -> Result<(), String> + 'w;

/// Does something; gives its seconds and peak memory, that of a server that runs already among it.
type Measured<'m> = dyn Fn(Option<u32>, &mut Work) -> Result<(f64, f64), String> + 'm;

impl Pull {
    fn after(seconds: f64, peak: f64, before: f64, files: &Path) -> Self {
        Self {
            seconds,
            processor: 0.0,
            peak,
            held: shared_memory() * 1024.0 - before,
            stored: room(files),
            again: None,
        }
    }
}

fn guest_pull(program: &Path, image: &str, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command.args(["pull", image, "--plain-http", "--format", "json", "--store"]);
    command
        .arg(dir.join("store"))
        .arg("--bundle")
        .arg(dir.join("bundle"));
    command.stdout(Stdio::null());
    command
}

/// The seconds until guest-pull has the manifest, and no more.
pub fn inspect(program: &Path, image: &str) -> f64 {
    let mut command = Command::new(program);
    command
        .args(["inspect", image, "--plain-http"])
        .stdout(Stdio::null());
    timed(|| attempt(&mut command)).unwrap_or_else(|error| panic!("{error}"))
}

fn containerd(image: &str, dir: &Path, before: f64, measured: &Measured) -> Result<Pull, String> {
    let (config, socket) = (dir.join("config.toml"), dir.join("containerd.sock"));
    let text = format!(
        "version = 2\nroot = \"{0}/root\"\nstate = \"{0}/state\"\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = \"{0}/containerd.sock\"\n",
        dir.display()
    );
    fs::write(&config, text).expect("a file");
    let mut command = Command::new("containerd");
    command.arg("-c").arg(&config).stderr(Stdio::null());
    let server = Running::server(&mut command, || UnixStream::connect(&socket).is_ok())?;
    let (time, peak) = measured(Some(server.pid()), &mut || {
        let mut pull = Command::new("ctr");
        pull.arg("-a")
            .arg(&socket)
            .args(["image", "pull", "--plain-http", image]);
        attempt(pull.stdout(Stdio::null()))
    })?;
    Ok(Pull::after(time, peak, before, &dir.join("root")))
}

/// Starts the stock component with nothing but a directory for images and this registry, and asks it as kata-agent does.
fn hub(
    program: &Path,
    image: &str,
    dir: &Path,
    before: f64,
    measured: &Measured,
) -> Result<Pull, String> {
    let (config, socket) = (dir.join("cdh.toml"), dir.join("cdh.sock"));
    let bundle = dir.join("bundle");
    fs::create_dir(&bundle).expect("a directory");
    let registry = image.split('/').next().unwrap_or(image);
    let text = format!(
        "socket = \"unix://{0}/cdh.sock\"\n[kbc]\nname = \"offline_fs_kbc\"\nurl = \"\"\n[image]\nwork_dir = \"{0}/images\"\n[[image.registry_config.registry]]\nlocation = \"{registry}\"\ninsecure = true\n",
        dir.display()
    );
    fs::write(&config, text).expect("a file");
    let mut command = Command::new(program);
    command.arg("-c").arg(&config).stderr(Stdio::null());
    let server = Running::server(&mut command, || UnixStream::connect(&socket).is_ok())?;
    let (time, peak) = measured(Some(server.pid()), &mut || ask(&socket, image, &bundle))?;
    let pulled = Pull::after(time, peak, before, &dir.join("images"));
    unmount(&bundle.join("rootfs"));
    Ok(pulled)
}

fn ask(socket: &Path, image: &str, bundle: &Path) -> Result<(), String> {
    let exchange = || -> std::io::Result<Vec<u8>> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_read_timeout(Some(LONGEST))?;
        stream.write_all(&wire::pull_image(image, bundle, LONGEST))?;
        receive(&mut stream)
    };
    let body = exchange().map_err(|error| format!("no answer: {error}"))?;
    let status = wire::status(&body).map_err(|error| error.to_string())?;
    status.map_err(|(_, message)| message)
}
