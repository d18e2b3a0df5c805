// SPDX-License-Identifier: Apache-2.0

//! Debian's containerd (`CONTAINERD`, `CTR`) as the oracle: what it makes of an image is what the image was tested with.

// Each of the tests' programs uses a part of it.
#![allow(dead_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::host::{Mounted, PATIENCE, output, run, text, tool};

/// A private instance, which ends with the test.
pub struct Containerd {
    child: Child,
    dir: TempDir,
}

impl Containerd {
    /// Starts it. All that it writes is below a directory of its own.
    pub fn start() -> Self {
        Self::start_in(&std::env::temp_dir())
    }

    /// Starts it, with its directory in another one. It waits for the disk at each step; in memory it is twice as fast.
    pub fn start_in(directory: &Path) -> Self {
        let dir = tempfile::tempdir_in(directory).unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        // The one plugin would make /opt/containerd, and the other looks for a network.
        let config = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\n\
             disabled_plugins = [\"io.containerd.internal.v1.opt\", \"io.containerd.grpc.v1.cri\"]\n\
             [grpc]\naddress = {:?}\n[ttrpc]\naddress = {:?}\n",
            at("root"),
            at("state"),
            at("socket"),
            at("socket.ttrpc"),
        );
        fs::write(at("config.toml"), config).unwrap();
        let log = fs::File::create(at("log")).unwrap();
        let child = tool("CONTAINERD", "containerd")
            .args(["--config", &at("config.toml")])
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("containerd");
        let started = Self { child, dir };
        let end = Instant::now() + PATIENCE;
        while !started.ctr(&["version"]).output().unwrap().status.success() {
            let log = fs::read_to_string(started.dir.path().join("log")).unwrap();
            assert!(Instant::now() < end, "containerd does not start: {log}");
            sleep(Duration::from_millis(20));
        }
        started
    }

    fn ctr(&self, args: &[&str]) -> Command {
        let mut command = tool("CTR", "ctr");
        command.arg("--address").arg(self.dir.path().join("socket"));
        command.args(args);
        command
    }

    /// Extracts the image `test` of a layout, and mounts what came of it.
    pub fn mount(&self, layout: &Path, name: &str) -> (PathBuf, Mounted) {
        let mounted = self.try_mount(layout, name);
        mounted.unwrap_or_else(|said| panic!("containerd refuses {name}: {said}"))
    }

    /// The same for an image that may be refused: what is said then.
    pub fn try_mount(&self, layout: &Path, name: &str) -> Result<(PathBuf, Mounted), String> {
        self.mount_for(layout, name, "linux/amd64")
    }

    /// The same for a platform.
    pub fn mount_for(
        &self,
        layout: &Path,
        name: &str,
        platform: &str,
    ) -> Result<(PathBuf, Mounted), String> {
        self.import(layout, name);
        self.extract_for(name, "test", platform)
    }

    /// Takes the images of a layout, and doesn't extract them yet.
    pub fn import(&self, layout: &Path, name: &str) {
        let archive = self.dir.path().join(format!("{name}.tar"));
        run(Command::new("tar")
            .arg("-C")
            .arg(layout)
            .arg("-cf")
            .arg(&archive)
            .arg("."));
        // Without the last, what is for other platforms than this machine's is soon gone.
        let import = [
            "images",
            "import",
            "--no-unpack",
            "--base-name",
            name,
            "--all-platforms",
        ];
        run(self.ctr(&import).arg(&archive));
    }

    /// Extracts an image that was taken, and mounts what came of it; or why it can't.
    ///
    /// It keeps layers apart (its overlayfs snapshotter, which most machines use): where it copies each layer with those
    /// below it (its native one), the times of all directories are lost.
    pub fn extract(&self, name: &str, tag: &str) -> Result<(PathBuf, Mounted), String> {
        self.extract_for(name, tag, "linux/amd64")
    }

    /// The same for a platform.
    fn extract_for(
        &self,
        name: &str,
        tag: &str,
        platform: &str,
    ) -> Result<(PathBuf, Mounted), String> {
        let at = self.dir.path().join(format!("{name}-{tag}"));
        fs::create_dir(&at).unwrap();
        let mount = [
            "images",
            "mount",
            "--snapshotter",
            "overlayfs",
            "--platform",
            platform,
        ];
        let image = format!("{name}:{tag}");
        let (stdout, stderr, code) = output(self.ctr(&mount).args([&image, text(&at)]));
        match code {
            Some(0) => Ok((at.clone(), Mounted(at))),
            _ => Err(format!("{image}: {stdout}{stderr}")),
        }
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
