// SPDX-License-Identifier: Apache-2.0

//! Whether requests for images come to guest-pull: the program, its units, and who has cdh.sock.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use offline_fs_kbc::resource::problem::{Problem, Severity};

use crate::cli::check::asking;
use crate::cli::check::report::Report;
use crate::cli::check::units::{HUB, MASK, find_unit, is_this_program, leads_to};
use crate::config::{Choice, Root, Sockets};

/// Where an image has the program.
const PROGRAMS: [&str; 2] = ["/usr/bin/guest-pull", "/usr/local/bin/guest-pull"];

/// Its socket unit.
const UNIT: &str = "guest-pull.socket";

/// How much of a program is looked at for the name of its loader, which stands right after the headers.
const BEGINNING: usize = 4096;

/// The directories of the loaders of C libraries, as they begin names in programs.
const LOADERS: [&[u8]; 2] = [b"/lib64/ld", b"/lib/ld"];

/// The sockets of the VM, and the flag of those that listen: `__SO_ACCEPTCON` of the kernel's `include/linux/net.h`.
const SOCKETS: &str = "/proc/net/unix";
const LISTENS: &str = " 00010000 ";

/// Who has cdh.sock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hub {
    /// This program, which runs.
    Own,
    /// Another one.
    Other,
    /// Nobody that answers.
    None,
}

/// What there is of guest-pull.
pub struct Puller {
    /// Whether it can be asked.
    pub can_be_asked: bool,
    /// Why no request of kata-agent for an image comes to it.
    pub reason: Option<String>,
}

/// Looks for what keeps requests for images from guest-pull.
///
/// That it is not installed is a mistake for certain only where it is asked whether it would pull, as `try_it` says: kata-agents of 3.3 to 3.17
/// use cdh.sock too, and pull by themselves.
pub fn check(
    root: &Root,
    sockets: &Sockets,
    hub: Hub,
    try_it: bool,
    report: &mut Report,
) -> Puller {
    let exists = |name: &str| find_unit(root, name).is_some();
    let program = program(root);
    let takes_place = hub == Hub::Own
        || is_this_program(root, HUB)
        || exists("sockets.target.wants/offline-fs-kbc-cdh.socket");
    let is_enabled = exists(&format!("sockets.target.wants/{UNIT}")) && !leads_to(root, UNIT, MASK);
    let mut puller = Puller {
        can_be_asked: program.is_some(),
        reason: None,
    };
    if !takes_place {
        if program.is_some()
            && is_enabled
            && (hub == Hub::Other || exists(&format!("{HUB}.service")))
        {
            report.find(
                None,
                Problem::of_file(
                    Severity::Warning,
                    "hub-stock",
                    "guest-pull is enabled, and the stock confidential-data-hub has cdh.sock: that one pulls the images",
                    "put this program in its place (docs/guest-pull.md), or `systemctl disable --now guest-pull.socket`",
                ),
            );
        }
        return puller;
    }
    let problem = match &program {
        None => Some((
            "guest-pull-missing",
            "guest-pull is not installed, to which this program passes requests for images on: kata-agents since 3.18 pull no \
             image; older ones pull by themselves"
                .to_owned(),
            "install the package offline-fs-kbc-guest-pull, or `make install GUEST_PULL=1`",
        )),
        Some(path) => unusable(root, path).map(|(what, fix)| ("guest-pull-missing", what, fix)),
    };
    puller.can_be_asked &= problem.is_none();
    let problem = problem.or_else(|| {
        let (what, fix) = disabled(root, sockets, is_enabled)?;
        Some((
            "guest-pull-disabled",
            format!("{what}: no image is pulled"),
            fix,
        ))
    });
    if let Some((code, what, fix)) = problem {
        puller.reason = Some(what.clone());
        let severity = match program.is_some() || try_it {
            true => Severity::Error,
            false => Severity::Warning,
        };
        report.find(None, Problem::of_file(severity, code, what, fix));
    }
    puller
}

/// The program: that of an image, or the one that the daemon would start, or that is in PATH.
fn program(root: &Root) -> Option<PathBuf> {
    let is_there = |path: &PathBuf| path.symlink_metadata().is_ok();
    if root.root.is_some() {
        return PROGRAMS.iter().map(|path| root.path(path)).find(is_there);
    }
    let name = PathBuf::from(asking::guest_pull());
    // A relative name is looked for in PATH.
    let paths = match name.is_absolute() {
        true => OsString::from("/"),
        false => env::var_os("PATH").unwrap_or_default(),
    };
    let places = paths.as_bytes().split(|byte| *byte == b':');
    let mut places = places.map(|place| Path::new(OsStr::from_bytes(place)).join(&name));
    places.find(is_there)
}

/// Why the program can't be started, and what to do.
fn unusable(root: &Root, path: &Path) -> Option<(String, &'static str)> {
    let shown = path.display();
    let metadata = match path.metadata() {
        Ok(metadata) => metadata,
        // An absolute link leads nowhere below another root.
        Err(_) if root.root.is_some() => return None,
        Err(error) => {
            let fix = "install the package offline-fs-kbc-guest-pull again";
            return Some((format!("{shown}: {error}: no image is pulled"), fix));
        }
    };
    if metadata.permissions().mode() & 0o111 == 0 {
        let fix = "`chmod 0755` it";
        return Some((
            format!("{shown} is not executable: no image is pulled"),
            fix,
        ));
    }
    let loader = loader(path)?;
    let is_there = root.path(&loader).symlink_metadata().is_ok();
    (!is_there).then(|| {
        let what = format!("{shown} needs {loader}, which is not there: it is built for another C library or machine");
        (what, "take an image with glibc 2.34 or later, or build guest-pull for this one")
    })
}

/// The loader that a program names.
fn loader(path: &Path) -> Option<String> {
    let mut beginning = [0; BEGINNING];
    let mut file = File::open(path).ok()?;
    // Of a file, one read gives all that there is.
    let length = file.read(&mut beginning).ok()?;
    let beginning = beginning.get(..length)?;
    let is_start = |at: &usize| {
        let rest = beginning.get(*at..).unwrap_or_default();
        LOADERS.iter().any(|loader| rest.starts_with(loader))
    };
    let start = (0..beginning.len()).find(is_start)?;
    let name = beginning.get(start..)?.split(|byte| *byte == 0).next()?;
    Some(String::from_utf8_lossy(name).into_owned())
}

/// Why nobody listens for the daemon, which doesn't start guest-pull itself where a service manager started it; and what to do.
fn disabled(root: &Root, sockets: &Sockets, is_enabled: bool) -> Option<(String, &'static str)> {
    let exists = |name: &str| find_unit(root, name).is_some();
    let has_units = exists("offline-fs-kbc.service") || exists(&format!("{HUB}.service"));
    if !has_units && !exists(UNIT) {
        return None;
    }
    if leads_to(root, UNIT, MASK) {
        let fix = "`systemctl unmask guest-pull.socket; systemctl enable --now guest-pull.socket`";
        return Some(("guest-pull.socket is masked".to_owned(), fix));
    }
    if !is_enabled {
        let what = match exists(UNIT) {
            true => "guest-pull.socket is not enabled",
            false => "guest-pull has no socket unit",
        };
        let fix = "`systemctl enable --now guest-pull.socket`, which the package offline-fs-kbc-guest-pull has";
        return Some((what.to_owned(), fix));
    }
    let path = match &sockets.guest_pull_sock {
        Some(Choice::At(address)) => address.path().to_owned(),
        Some(Choice::Off) => return None,
        None => root.guest_pull_socket().ok()?.path().to_owned(),
    };
    let list = offline_fs_kbc::resource::file::read(&root.path(SOCKETS)).ok()?;
    let list = String::from_utf8_lossy(&list.text);
    let shown = path.display().to_string();
    let mut lines = list.lines();
    let listens = lines.any(|line| line.ends_with(&shown) && line.contains(LISTENS));
    (!listens).then(|| {
        let what = format!("guest-pull.socket is enabled, and nobody listens at {shown}");
        (
            what,
            "`systemctl start guest-pull.socket`, and its status if that fails",
        )
    })
}
