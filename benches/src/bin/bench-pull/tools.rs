// SPDX-License-Identifier: Apache-2.0

//! Starting programs, and what they take: time, memory, room.

use std::collections::BTreeMap;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;
use offline_fs_kbc_bench::process::{self, children};
use offline_fs_kbc_bench::running::Running;

/// How often the memory of processes is looked at. Its peak is counted by the kernel; only processes that are shorter than
/// this are missed.
const LOOK: Duration = Duration::from_millis(5);

/// Runs a command to its end, which must be a success.
pub fn run(command: &mut Command) {
    attempt(command).unwrap_or_else(|error| panic!("{error}"));
}

/// Runs a command to its end, and gives its error.
pub fn attempt(command: &mut Command) -> Result<(), String> {
    let output = command.stderr(Stdio::piped()).output();
    // Where the program is says something about this machine alone.
    let program = Path::new(command.get_program()).file_name();
    let program = program.unwrap_or_default().to_string_lossy();
    let output = output.map_err(|error| format!("{program}: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let text = String::from_utf8_lossy(&output.stderr);
            Err(format!("{program}: {}", text.trim()))
        }
    }
}

/// Its output.
pub fn output(command: &mut Command) -> String {
    let output = command.stderr(Stdio::inherit()).output();
    let output = output.unwrap_or_else(|error| panic!("{:?}: {error}", command.get_program()));
    assert!(output.status.success(), "{command:?}: {}", output.status);
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// A program that a variable names, or that is found by its own name.
pub fn tool(variable: &str, name: &str) -> Command {
    Command::new(std::env::var_os(variable).unwrap_or_else(|| name.into()))
}

/// Whether a program can be started.
pub fn exists(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(name).is_file())
}

/// The seconds that something takes.
pub fn timed(work: impl FnOnce() -> Result<(), String>) -> Result<f64, String> {
    let start = Instant::now();
    work()?;
    Ok(start.elapsed().as_secs_f64())
}

/// The processor time of all processes that this one has started and that have ended, in seconds.
pub fn processor_time() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("Linux");
    let seconds = |time: TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    seconds(usage.user_time()) + seconds(usage.system_time())
}

/// Does something, and gives the peak memory in KiB of the processes that this one starts meanwhile and of `server`, which
/// runs already, each with all that it starts: the sum of their own peaks.
pub fn peak<T>(server: Option<u32>, work: impl FnOnce() -> T) -> (T, f64) {
    let done = AtomicBool::new(false);
    let own = std::process::id();
    // Such as the registry.
    let mut others = children(own);
    others.retain(|pid| Some(*pid) != server);
    thread::scope(|scope| {
        let looking = scope.spawn(|| {
            let mut peaks = BTreeMap::new();
            while !done.load(Ordering::Relaxed) {
                let mut next = children(own);
                while let Some(pid) = next.pop() {
                    if others.contains(&pid) {
                        continue;
                    }
                    next.extend(children(pid));
                    if let Some(kib) = process::peak(pid) {
                        peaks.insert(pid, kib);
                    }
                }
                thread::sleep(LOOK);
            }
            peaks.into_values().sum()
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        (result, looking.join().expect("the thread that looks"))
    })
}

/// The time of the processors since the machine started, and how much of it the hypervisor gave to others.
pub fn stolen() -> (f64, f64) {
    let text = fs::read_to_string("/proc/stat").expect("Linux");
    let line = text.lines().next().unwrap_or_default();
    let figures = line.split_whitespace().skip(1).take(8);
    let figures: Vec<f64> = figures.filter_map(|figure| figure.parse().ok()).collect();
    (
        figures.iter().sum(),
        figures.get(7).copied().unwrap_or_default(),
    )
}

/// The bytes that the files below a directory take.
pub fn room(directory: &Path) -> f64 {
    let mut seen = BTreeMap::new();
    let mut next = vec![directory.to_owned()];
    while let Some(path) = next.pop() {
        for entry in fs::read_dir(path).into_iter().flatten().flatten() {
            let Ok(metadata) = entry.path().symlink_metadata() else {
                continue;
            };
            if metadata.is_dir() {
                next.push(entry.path());
            }
            seen.insert((metadata.dev(), metadata.ino()), metadata.blocks() * 512);
        }
    }
    seen.into_values().sum::<u64>() as f64
}

/// Debian's docker-registry on loopback, without TLS.
pub struct Registry {
    pub address: String,
    _process: Running,
}

impl Registry {
    /// Keeps what it gets in the directory.
    pub fn start(dir: &Path) -> Self {
        fs::create_dir_all(dir).expect("a directory");
        let free = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = free.local_addr().expect("an address").to_string();
        drop(free);
        let config = dir.join("config.yml");
        let text = format!(
            "version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\nhttp: {{addr: \"{address}\"}}\n",
            dir.join("data").display()
        );
        fs::write(&config, text).expect("a file");
        let mut command = tool("DOCKER_REGISTRY", "docker-registry");
        command.arg("serve").arg(&config).stderr(Stdio::null());
        let process = Running::server(&mut command, || TcpStream::connect(&address).is_ok());
        let process = process.unwrap_or_else(|error| panic!("{error}"));
        Self {
            address,
            _process: process,
        }
    }
}

/// A file system in memory, as `/run` is in a pod VM.
pub struct InMemory(pub PathBuf);

impl InMemory {
    /// Mounts one at this directory.
    pub fn mount(path: &Path) -> Self {
        fs::create_dir_all(path).expect("a directory");
        // A run that was ended leaves its own.
        let _ = Command::new("umount").args(["-q", "-l"]).arg(path).status();
        let options = ["-t", "tmpfs", "-o", "mode=0700,size=90%", "bench-pull"];
        run(Command::new("mount").args(options).arg(path));
        Self(path.to_owned())
    }

    /// An empty directory in it; one that was there is removed.
    pub fn fresh(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        if path.exists() {
            fs::remove_dir_all(&path).expect("a directory");
        }
        fs::create_dir(&path).expect("a directory");
        path
    }
}

impl Drop for InMemory {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// Unmounts what a pull has mounted.
pub fn unmount(path: &Path) {
    run(Command::new("umount").arg(path));
}
