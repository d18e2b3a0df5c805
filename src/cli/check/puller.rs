// SPDX-License-Identifier: Apache-2.0

//! Whether requests for images come to guest-pull: the program, its socket unit, and who has cdh.sock.

use std::path::Path;

use offline_fs_kbc::resource::file;
use offline_fs_kbc::resource::problem::{Problem, Severity};

use crate::cli::check::guest_pull;
use crate::cli::check::report::Report;
use crate::cli::check::units::{HUB, MASK, find_unit, is_this_program, leads_to};
use crate::config::{Choice, Root, Sockets};

/// Where packages and `make install` put the program.
const PROGRAMS: [&str; 2] = ["/usr/bin/guest-pull", "/usr/local/bin/guest-pull"];

/// Its socket unit, and what enables it.
const UNIT: &str = "guest-pull.socket";
const ENABLED: &str = "sockets.target.wants/guest-pull.socket";

/// The unit of the stock confidential-data-hub.
const HUB_UNIT: &str = "confidential-data-hub.service";

/// The unix sockets of the VM, and the flag of those that listen: `__SO_ACCEPTCON` of the kernel's `include/linux/net.h`.
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
    /// Whether it is installed.
    pub is_installed: bool,
    /// Why no request of kata-agent for an image comes to it.
    pub reason: Option<&'static str>,
}

/// Looks for what keeps requests for images from guest-pull.
///
/// That it is not installed is a mistake for certain only where it is asked whether it would pull, as `try_it` says:
/// kata-agents of 3.3 to 3.17 use cdh.sock too, and pull by themselves.
pub fn check(
    root: &Root,
    sockets: &Sockets,
    hub: Hub,
    try_it: bool,
    report: &mut Report,
) -> Puller {
    let exists = |name| find_unit(root, name).is_some();
    let beside = root.root.is_none() && Path::new(&guest_pull::program()).is_absolute();
    let has = |path: &&str| root.path(path).symlink_metadata().is_ok();
    let is_installed = beside || PROGRAMS.iter().any(has);
    let is_enabled = exists(ENABLED) && !leads_to(root, UNIT, MASK);
    let takes_place = hub == Hub::Own
        || is_this_program(root, HUB)
        || exists("sockets.target.wants/offline-fs-kbc-cdh.socket");
    let has_stock_hub = hub == Hub::Other || exists(HUB_UNIT);
    let (severity, code, what, fix) = if !takes_place {
        if !(is_installed && is_enabled && has_stock_hub) {
            return Puller {
                is_installed,
                reason: None,
            };
        }
        (
            Severity::Warning,
            "hub-stock",
            "guest-pull is enabled, and the stock confidential-data-hub has cdh.sock: that one pulls the images",
            "put this program in its place (docs/guest-pull.md), or `systemctl disable --now guest-pull.socket`",
        )
    } else if !is_installed {
        let severity = match try_it {
            true => Severity::Error,
            false => Severity::Warning,
        };
        (
            severity,
            "guest-pull-missing",
            "guest-pull is not installed, to which this program passes requests for images on: kata-agents since 3.18 pull no \
             image; older ones pull by themselves",
            "install the package offline-fs-kbc-guest-pull, or `make install GUEST_PULL=1`",
        )
    } else if let Some((what, fix)) = disabled(root, sockets, is_enabled) {
        (Severity::Error, "guest-pull-disabled", what, fix)
    } else {
        return Puller {
            is_installed,
            reason: None,
        };
    };
    report.find(None, Problem::of_file(severity, code, what, fix));
    Puller {
        is_installed,
        reason: takes_place.then_some(what),
    }
}

/// Why nobody listens for the daemon, which doesn't start guest-pull by itself where a service manager has started it;
/// and what to do.
fn disabled(
    root: &Root,
    sockets: &Sockets,
    is_enabled: bool,
) -> Option<(&'static str, &'static str)> {
    let exists = |name| find_unit(root, name).is_some();
    if !is_enabled {
        let has_units = exists(UNIT) || exists("offline-fs-kbc.service") || exists(HUB_UNIT);
        return has_units.then_some((
            "guest-pull.socket is not enabled, or masked: no image is pulled",
            "`systemctl unmask guest-pull.socket; systemctl enable --now guest-pull.socket`, which the package \
             offline-fs-kbc-guest-pull has",
        ));
    }
    let path = match &sockets.guest_pull_sock {
        Some(Choice::At(address)) => address.path().to_owned(),
        Some(Choice::Off) => return None,
        None => root.guest_pull_socket().ok()?.path().to_owned(),
    };
    let list = file::read(&root.path(SOCKETS)).ok()?;
    let path = path.as_os_str().as_encoded_bytes();
    let mut lines = list.text.split(|byte| *byte == b'\n');
    let listens = LISTENS.as_bytes();
    let is_listened_at = lines.any(|line| {
        line.ends_with(path) && line.windows(listens.len()).any(|part| part == listens)
    });
    (!is_listened_at).then_some((
        "guest-pull.socket is enabled, and nobody listens there: no image is pulled",
        "`systemctl start guest-pull.socket`, and its status if that fails",
    ))
}
