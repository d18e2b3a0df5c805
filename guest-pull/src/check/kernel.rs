// SPDX-License-Identifier: Apache-2.0

//! The kernel: EROFS, overlays and loop devices. Where it can be, an image is mounted in earnest, by what mounts those
//! that are pulled; else the lists of the kernel and its modules are looked at.

use std::fs;
use std::path::Path;

use nix::unistd::geteuid;
use rustix::fs::statfs;

use crate::check::store::nearest;
use crate::check::{Finding, Root, trial};
use crate::mount::{Error, OF_EROFS, OF_OVERLAY};
use crate::store::is_in_memory;
use crate::sys::OF_LOOP;

/// What the kernel has built in or loaded: proc_filesystems(5), proc_devices(5).
const FILE_SYSTEMS: &str = "/proc/filesystems";
const DEVICES: &str = "/proc/devices";

/// Its version.
const RELEASE: &str = "/proc/sys/kernel/osrelease";

/// Its modules, by version.
const MODULES: &str = "/lib/modules";

/// The first kernel that reads what layers are: LZ4 in clusters of several blocks.
const WITH_CLUSTERS: (u32, u32) = (5, 13);

/// The first kernel that mounts EROFS from a file. In memory, files can't be mounted from by any.
const WITHOUT_LOOP: (u32, u32) = (6, 12);

/// A part of the kernel that pulls need.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Erofs,
    Overlay,
    Loop,
}

impl Part {
    const ALL: [Self; 3] = [Self::Erofs, Self::Overlay, Self::Loop];

    /// The name of its module.
    fn module(self) -> &'static str {
        match self {
            Self::Erofs => "erofs",
            Self::Overlay => "overlay",
            Self::Loop => "loop",
        }
    }

    fn finding(self, what: impl Into<String>) -> Finding {
        let (code, fix) = match self {
            Self::Erofs => ("kernel-erofs", OF_EROFS),
            Self::Overlay => ("kernel-overlay", OF_OVERLAY),
            Self::Loop => ("kernel-loop", OF_LOOP),
        };
        Finding::error(code, what, fix)
    }

    fn missing(self, release: &str) -> Finding {
        let what = match self {
            Self::Erofs => "can't mount EROFS, the format of stored layers",
            Self::Overlay => "can't mount overlays, by which layers are stacked",
            Self::Loop => "has no loop devices, by which the layers of this store are mounted",
        };
        self.finding(format!(
            "the kernel {release} {what}: it is not built in, and there is no module of it"
        ))
    }
}

/// A kernel, as far as its lists tell.
struct Kernel {
    release: String,
    /// What it has now, if it runs.
    now: Option<[String; 2]>,
    /// Its lists of modules, if it has any.
    modules: Option<[String; 2]>,
}

impl Kernel {
    fn of(root: Root<'_>, release: &str, now: Option<[String; 2]>) -> Self {
        // A release comes from the kernel, or is the name of a directory.
        let list = |name: &str| root.text(&format!("{MODULES}/{release}/{name}"));
        let (builtin, dependencies) = (list("modules.builtin"), list("modules.dep"));
        let is_there = builtin.is_some() || dependencies.is_some();
        Self {
            release: release.to_owned(),
            now,
            modules: is_there.then(|| {
                [
                    builtin.unwrap_or_default(),
                    dependencies.unwrap_or_default(),
                ]
            }),
        }
    }

    /// Whether it has the part loaded or built in.
    fn has_now(&self, part: Part) -> bool {
        let Some([file_systems, devices]) = &self.now else {
            return false;
        };
        let list = if part == Part::Loop {
            devices
        } else {
            file_systems
        };
        list.lines()
            .any(|line| line.split_whitespace().next_back() == Some(part.module()))
    }

    /// Whether it can load the part, or has it built in.
    fn can_load(&self, part: Part) -> bool {
        let Some(lists) = &self.modules else {
            return false;
        };
        let file = format!("/{}.ko", part.module());
        // In the list of dependencies, the file of the module itself comes first, whose name may go on (.xz, .zst).
        let lines = lists.iter().flat_map(|list| list.lines());
        lines.filter_map(|line| line.split(':').next()).any(|path| {
            let end = path.rsplit_once(&file).map(|(_, end)| end);
            end.is_some_and(|end| end.is_empty() || end.starts_with('.'))
        })
    }

    /// Whether it has the part, or can load it; none if nothing tells.
    fn has(&self, part: Part) -> Option<bool> {
        let is_known = self.now.is_some() || self.modules.is_some();
        is_known.then(|| self.has_now(part) || self.can_load(part))
    }

    /// Its version, if that can be read.
    fn version(&self) -> Option<(u32, u32)> {
        let mut numbers = self.release.split(|c: char| !c.is_ascii_digit());
        Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
    }
}

/// What the kernel lacks for a store in this directory; for another root, each kernel whose modules are there.
pub(super) fn look(root: Root<'_>, work_dir: &Path, has_store: bool) -> Vec<Finding> {
    let kernels = kernels(root);
    let place = nearest(&root.path(work_dir)).ok();
    if let (None, Some((place, _))) = (
        root.other,
        place.as_ref().filter(|_| has_store && geteuid().is_root()),
    ) {
        return trial::mount(place)
            .err()
            .and_then(|error| of_trial(&error, &kernels))
            .into_iter()
            .collect();
    }
    // In an image that is being built, nothing is mounted yet: a VM's /run is in memory.
    let is_in_memory = root.other.is_some() && work_dir.starts_with("/run")
        || place.is_some_and(|(place, _)| statfs(&place).is_ok_and(|status| is_in_memory(&status)));
    kernels
        .iter()
        .flat_map(|kernel| by_lists(kernel, is_in_memory))
        .collect()
}

/// What a mount that failed says.
fn of_trial(error: &trial::Error, kernels: &[Kernel]) -> Option<Finding> {
    let text = format!("an image of one file can't be mounted: {error}");
    let error = match error {
        trial::Error::Mount(error) => error,
        trial::Error::Content(_) => return Some(Part::Erofs.finding(text)),
        trial::Error::Store(_) => {
            let fix = "repair what it names, or set work_dir in [image] of cdh.toml to another file system";
            return Some(Finding::error("store-unusable", text, fix));
        }
    };
    Some(match error {
        Error::NoErofs | Error::Layer(..) => Part::Erofs.finding(text),
        Error::NoOverlay => Part::Overlay.finding(text),
        // guest-pull@.service has systemd load it, and nothing else does.
        Error::NoDevice(..)
            if kernels
                .iter()
                .any(|it| !it.has_now(Part::Loop) && it.can_load(Part::Loop)) =>
        {
            return None;
        }
        Error::NoDevice(..) => Part::Loop.finding(text),
        _ => Finding::error(
            "kernel-mount",
            text,
            "repair what it names; in a container, it takes CAP_SYS_ADMIN and a system-call filter that lets mounts through",
        ),
    })
}

fn by_lists(kernel: &Kernel, is_in_memory: bool) -> Vec<Finding> {
    let release = &kernel.release;
    let version = kernel.version();
    let is_before = |first| version.is_some_and(|version| version < first);
    let mut found = Vec::new();
    for part in Part::ALL {
        if part == Part::Loop && !is_in_memory && version.is_some() && !is_before(WITHOUT_LOOP) {
            continue;
        }
        match kernel.has(part) {
            Some(false) => found.push(part.missing(release)),
            _ if part == Part::Erofs && is_before(WITH_CLUSTERS) => {
                let (major, minor) = WITH_CLUSTERS;
                found.push(part.finding(format!(
                    "the kernel {release} can't read the EROFS of layers, which are compressed in clusters of several blocks: \
                     Linux {major}.{minor} is the first that can"
                )));
            }
            _ => {}
        }
    }
    found
}

/// The kernel that runs; for another root without one, those whose modules it has.
fn kernels(root: Root<'_>) -> Vec<Kernel> {
    let now = root.text(FILE_SYSTEMS);
    let now = now.map(|file_systems| [file_systems, root.text(DEVICES).unwrap_or_default()]);
    if let Some(release) = root.text(RELEASE) {
        return vec![Kernel::of(root, release.trim(), now)];
    }
    if now.is_some() {
        return vec![Kernel::of(root, "", now)];
    }
    let entries = fs::read_dir(root.path(Path::new(MODULES)))
        .into_iter()
        .flatten();
    let mut names: Vec<_> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    let kernels = names.iter().map(|name| Kernel::of(root, name, None));
    // Headers leave directories without lists.
    kernels.filter(|kernel| kernel.modules.is_some()).collect()
}
