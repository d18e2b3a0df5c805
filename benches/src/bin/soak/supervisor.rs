// SPDX-License-Identifier: Apache-2.0

//! Starts the daemon under the unit's limits, reloads, stops and restarts it.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use offline_fs_kbc_bench::process::{descriptors, leave_service_manager, memory};

use crate::figures::Rested;
use crate::load::{World, settled};

/// How long an orderly end may take: requests that have arrived are answered, for at most 5 s.
const END: Duration = Duration::from_secs(15);

/// The daemon of a soak.
pub struct Supervisor {
    daemon: PathBuf,
    /// prlimit's arguments for the unit's limits.
    limits: Vec<String>,
    world: Arc<World>,
    child: Option<Child>,
}

impl Supervisor {
    /// A supervisor that has not started the daemon yet.
    pub fn new(daemon: PathBuf, unit: &str, world: &Arc<World>) -> io::Result<Self> {
        let unit = fs::read_to_string(unit)?;
        // Only a process that may raise the limit can lock memory without limit; root in a container may not.
        let all = limits(&unit, true);
        let settable = Command::new("prlimit")
            .args(&all)
            .arg("true")
            .stderr(Stdio::null())
            .status()?;
        let limits = if settable.success() {
            all
        } else {
            limits(&unit, false)
        };
        println!("limits of the unit: {}", limits.join(" "));
        Ok(Self {
            daemon,
            limits,
            world: Arc::clone(world),
            child: None,
        })
    }

    /// Starts the daemon.
    pub fn start(&mut self) -> io::Result<()> {
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.log())?;
        let mut command = Command::new("prlimit");
        command
            .args(&self.limits)
            .arg(&self.daemon)
            .args(["serve", "--root"])
            .arg(self.world.root())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        leave_service_manager(&mut command);
        self.child = Some(command.spawn()?);
        Ok(())
    }

    fn log(&self) -> PathBuf {
        self.world.root().join("log")
    }

    /// Moves the log to a place where it is kept after the soak.
    pub fn keep_log(&self) -> PathBuf {
        let kept = Path::new("target/soak.log");
        let _ = fs::copy(self.log(), kept);
        kept.to_owned()
    }

    /// The peak memory of the process, in KiB.
    pub fn peak(&self) -> f64 {
        let child = self.child.as_ref();
        child.map_or(0.0, |child| memory(child.id()).peak)
    }

    /// The figures of the idle process.
    pub fn rested(&self) -> Rested {
        let Some(child) = &self.child else {
            return Rested::default();
        };
        Rested {
            anonymous: memory(child.id()).anonymous,
            descriptors: descriptors(child.id()),
        }
    }

    /// The exit status, if the process has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.as_mut()?.try_wait().ok()?
    }

    /// Makes the daemon reload every file.
    pub fn reload(&self) {
        self.send(Signal::SIGHUP);
    }

    fn send(&self, signal: Signal) {
        let pid = self
            .child
            .as_ref()
            .and_then(|child| i32::try_from(child.id()).ok());
        if let Some(pid) = pid {
            // A process that has ended is noticed elsewhere.
            let _ = kill(Pid::from_raw(pid), signal);
        }
    }

    /// Stops the process, by SIGTERM or SIGKILL, starts the next one, and waits until it serves.
    pub fn restart(&mut self, in_order: bool) {
        let world = Arc::clone(&self.world);
        let _guard = world.whole();
        self.stop(in_order);
        if let Err(error) = self.start() {
            self.world.errors.add(format!("no start: {error}"));
            return;
        }
        settled(&world);
    }

    /// Stops the process; after SIGTERM its exit status must be 0.
    pub fn stop(&mut self, in_order: bool) {
        let signal = if in_order {
            Signal::SIGTERM
        } else {
            Signal::SIGKILL
        };
        self.send(signal);
        let Some(mut child) = self.child.take() else {
            return;
        };
        let begin = Instant::now();
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                _ if begin.elapsed() > END => {
                    self.world.errors.add("no end within 15 s".to_owned());
                    let _ = child.kill();
                    let _ = child.wait();
                    return;
                }
                _ => thread::sleep(Duration::from_millis(5)),
            }
        };
        if in_order && !status.success() {
            self.world.errors.add(format!("ended with {status}"));
        }
        if !in_order && status.signal().is_none() {
            self.world
                .errors
                .add(format!("had ended before, with {status}"));
        }
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The unit's process limits as prlimit's arguments, with or without the one of locked memory.
fn limits(unit: &str, locked: bool) -> Vec<String> {
    let names = [
        ("NOFILE", "nofile"),
        ("CORE", "core"),
        ("MEMLOCK", "memlock"),
    ];
    unit.lines()
        .filter_map(|line| line.strip_prefix("Limit")?.split_once('='))
        .filter_map(|(name, value)| {
            let (_, option) = names.iter().find(|(known, _)| *known == name)?;
            let value = value.replace("infinity", "unlimited");
            (locked || *option != "memlock").then(|| format!("--{option}={value}"))
        })
        .collect()
}

/// Opens a file of the soak, and creates it if it is missing.
pub fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .create(true)
        .truncate(true)
        .write(true)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::limits;

    #[test]
    fn the_units_limits_are_taken() {
        let unit = "[Service]\nLimitNOFILE=4096\nLimitCORE=0\nLimitMEMLOCK=infinity\nTasksMax=16\n";
        let all = ["--nofile=4096", "--core=0", "--memlock=unlimited"];
        assert_eq!(limits(unit, true), all);
        assert_eq!(limits(unit, false), all[..2]);
    }
}
