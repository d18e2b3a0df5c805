// SPDX-License-Identifier: Apache-2.0

//! The VM of a soak: a `/run` of its own, the daemon with guest-pull beside it, and a store whose room changes.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{Signal, kill};
use nix::sys::statvfs::statvfs;
use nix::unistd::Pid;
use offline_fs_kbc_bench::process::leave_service_manager;
use offline_fs_kbc_bench::running::Running;

use crate::figures::Counts;
use crate::registry::{Registry, lock};

/// Where kata-agent has its bundles.
pub const BUNDLES: &str = "/run/kata-containers";

/// The store of layers.
pub const STORE: &str = "/run/kata-containers/image";

/// The daemon's socket for kata-agent.
const SOCKET: &str = "/run/confidential-containers/cdh.sock";

/// Where the programs are, beside each other.
const PROGRAMS: &str = "/run/soak";

/// The store's room while there is enough.
const ENOUGH: u64 = 1 << 30;

/// What all threads share.
pub struct World {
    pub registry: Arc<Registry>,
    pub counts: Counts,
    running: AtomicBool,
    /// When processes were killed.
    kills: Mutex<Vec<Instant>>,
    /// When the store got another size, and whether it is a small one.
    sizes: Mutex<Vec<(Instant, bool)>>,
}

impl World {
    /// Makes the VM. It is gone with the process, and nobody else sees it.
    pub fn new(registry: Arc<Registry>) -> io::Result<Self> {
        unshare(CloneFlags::CLONE_NEWNS)?;
        let none = None::<&str>;
        mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(Some("soak"), "/run", Some("tmpfs"), flags, Some("mode=755"))?;
        fs::create_dir_all(STORE)?;
        let options = format!("mode=700,size={ENOUGH}");
        mount(Some("soak"), STORE, Some("tmpfs"), flags, Some(&*options))?;
        fs::create_dir_all("/run/confidential-containers/initdata")?;
        let config = format!(
            "[[image.registry_config.registry]]\nlocation = '{}'\ninsecure = true\n",
            registry.address
        );
        fs::write("/run/confidential-containers/initdata/cdh.toml", config)?;
        Ok(Self {
            registry,
            counts: Counts::default(),
            running: AtomicBool::new(true),
            kills: Mutex::default(),
            sizes: Mutex::default(),
        })
    }

    /// Whether the load goes on.
    pub fn goes_on(&self) -> bool {
        self.running.load(Ordering::SeqCst)
    }

    /// Ends the load.
    pub fn halt(&self) {
        self.running.store(false, Ordering::SeqCst);
    }

    /// Kills a process. That is noted before, since what it does may be seen at once.
    pub fn kill(&self, pid: u32) -> bool {
        lock(&self.kills).push(Instant::now());
        let pid = i32::try_from(pid).map(Pid::from_raw);
        pid.is_ok_and(|pid| kill(pid, Signal::SIGKILL).is_ok())
    }

    /// Whether a process was killed since then.
    pub fn has_killed_since(&self, begin: Instant) -> bool {
        lock(&self.kills).iter().any(|at| *at >= begin)
    }

    /// Gives the store so much more room than it takes now, or enough.
    ///
    /// # Errors
    ///
    /// If the kernel refuses.
    pub fn resize(&self, more: Option<u64>) -> io::Result<()> {
        let size = match more {
            None => ENOUGH,
            Some(more) => used()? + more,
        };
        let mut sizes = lock(&self.sizes);
        // Before: whoever has no room then has a reason.
        sizes.push((Instant::now(), more.is_some()));
        let options = format!("size={size}");
        let none = None::<&str>;
        let remounted = mount(none, STORE, none, MsFlags::MS_REMOUNT, Some(&*options));
        if more.is_none() {
            // A pull that began a moment before has a reason too.
            sizes.push((Instant::now(), false));
        }
        // It may have grown meanwhile.
        remounted.or_else(|error| {
            if more.is_some() {
                Ok(())
            } else {
                Err(error.into())
            }
        })
    }

    /// Whether the store was small at some time since then.
    pub fn was_small_since(&self, begin: Instant) -> bool {
        let sizes = lock(&self.sizes);
        let before = sizes.iter().rev().find(|(at, _)| *at < begin);
        let since = sizes.iter().filter(|(at, _)| *at >= begin);
        before
            .into_iter()
            .chain(since)
            .any(|(_, is_small)| *is_small)
    }
}

/// The bytes that are taken in the store.
fn used() -> io::Result<u64> {
    let status = statvfs(STORE)?;
    Ok((status.blocks() - status.blocks_free()) * status.fragment_size())
}

/// What the files of the store take, and what its file system says: they are the same unless a file is gone and still held.
pub fn taken() -> io::Result<(u64, u64)> {
    let mut files = 0;
    let mut directories = vec![PathBuf::from(STORE)];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory)? {
            let entry = entry?;
            let metadata = entry.metadata()?;
            match metadata.is_dir() {
                true => directories.push(entry.path()),
                false => files += metadata.blocks() * 512,
            }
        }
    }
    Ok((files, used()?))
}

/// The daemon, which ends with the soak.
pub struct Daemon(Running);

impl Daemon {
    /// Starts it, with guest-pull beside it.
    pub fn start(daemon: &Path, guest_pull: &Path) -> io::Result<Self> {
        fs::create_dir_all(PROGRAMS)?;
        let at = |name: &str| Path::new(PROGRAMS).join(name);
        fs::copy(daemon, at("offline-fs-kbc"))?;
        fs::copy(guest_pull, at("guest-pull"))?;
        let log = fs::File::create(log_file())?;
        let mut command = Command::new(at("offline-fs-kbc"));
        command
            .args(["serve", "--root", "/run/soak/root", "--cdh-sock", SOCKET])
            .stderr(log);
        leave_service_manager(&mut command);
        let running = Running::server(&mut command, || UnixStream::connect(SOCKET).is_ok());
        running.map(Self).map_err(io::Error::other)
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.0.pid()
    }
}

/// The log of the daemon, and of what it starts.
pub fn log_file() -> PathBuf {
    std::env::temp_dir().join(format!("soak-pull.{}.log", std::process::id()))
}

/// A new connection to the daemon.
pub fn connect() -> io::Result<UnixStream> {
    UnixStream::connect(SOCKET)
}
