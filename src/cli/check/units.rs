// SPDX-License-Identifier: Apache-2.0

//! cloud-api-adaptor's units, which start the program in today's peer pods, beside the program's own.
//!
//! The image's binary has this code, so it knows no more of systemd than what finds the mistakes of an image's builder: of
//! drop-ins it looks only for those of this program, by their names.

use std::path::PathBuf;

use offline_fs_kbc::resource::file::{self, Identity};
use offline_fs_kbc::resource::problem::{Problem, Severity};
use offline_fs_kbc::resource::snapshot::{Resource, Snapshot};

use crate::cli::check::report::Report;
use crate::config::{RESOURCES, Root};

/// The places of units, highest precedence first.
const PLACES: [&str; 5] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// What enables the program's own units that make a socket for which other units wait.
const OWN: [&str; 3] = [
    "multi-user.target.wants/offline-fs-kbc.service",
    "sockets.target.wants/offline-fs-kbc-attestation.socket",
    "sockets.target.wants/offline-fs-kbc-cdh.socket",
];

/// What can be the program, beside the name under which their unit starts it.
const PROGRAMS: [&str; 3] = [
    "/usr/bin/offline-fs-kbc",
    "/usr/local/bin/offline-fs-kbc",
    "/proc/self/exe",
];

/// The component that pulls images.
pub(super) const HUB: &str = "confidential-data-hub";

/// The setting by which the upstream's unit gives the stock confidential-data-hub its credential.
const HUB_CREDENTIAL: &[u8] =
    b"CDH_DEFAULT_IMAGE_AUTHENTICATED_REGISTRY_CREDENTIALS=file:///run/peerpod/auth.json";

/// Where a masked unit leads.
pub(super) const MASK: &str = "null";

/// What repairs the first two problems.
const FIX: &str =
    "run use-peerpod-units, which is in share/offline-fs-kbc below /usr or /usr/local";

/// Looks for units that start at the wrong time, without the sandbox, or with another credential than the files have.
pub fn check(root: &Root, snapshot: &Snapshot, report: &mut Report) {
    let mut find = |severity, code, what: &str, fix: &str| {
        report.find(None, Problem::of_file(severity, code, what, fix));
    };
    let exists = |name: &str| find_unit(root, name).is_some();
    let leads_to = |name: &str, end| leads_to(root, name, end);
    if exists("attestation-agent.path") && !leads_to("attestation-agent.path", MASK) {
        if OWN.into_iter().any(exists) {
            find(
                Severity::Error,
                "units-too-early",
                "units of offline-fs-kbc are enabled beside attestation-agent.path: the VM may start before the user data is \
                 there, and ignore the policies and mirrors in it",
                FIX,
            );
        }
        for name in ["attestation-agent", HUB] {
            let unit = format!("{name}.service");
            if is_this_program(root, name)
                && exists(&unit)
                && !exists(&format!("{unit}.d/10-offline-fs-kbc.conf"))
                // The alias of the program's own unit.
                && !leads_to(&unit, "offline-fs-kbc.service")
            {
                let what = format!(
                    "{unit} runs this program without its drop-in: no sandbox, and its restart breaks the connections of those \
                     who never connect again"
                );
                find(Severity::Warning, "unit-settings", &what, FIX);
            }
        }
    }
    if !reads_auth_file(root) || is_this_program(root, HUB) {
        return;
    }
    let has_drop_in = exists("confidential-data-hub.service.d/stock-hub-credential.conf");
    let baked = baked_credential(root, snapshot);
    if has_drop_in && !baked.is_some_and(|credential| !credential.old && credential.value.is_ok()) {
        find(
            Severity::Error,
            "stock-hub-credential",
            "the drop-in stock-hub-credential has the stock confidential-data-hub read default/credential/test in the \
             resources file, which has none that it can use: it pulls no image",
            "write one with `offline-fs-kbc pack --credential auth.json`, or remove the drop-in",
        );
    }
    if !has_drop_in && baked.is_some() {
        find(
            Severity::Warning,
            "stock-hub-credential",
            "confidential-data-hub.service has the stock confidential-data-hub read /run/peerpod/auth.json only, and no \
             credential of the resources file",
            "copy stock-hub-credential.conf from share/offline-fs-kbc/drop-ins (below /usr or /usr/local) into \
             /etc/systemd/system/confidential-data-hub.service.d, and name the entry default/credential/test; the hub then \
             no longer uses the pod's pull secrets",
        );
    }
}

/// Whether a unit is a link to a file of this name.
pub(super) fn leads_to(root: &Root, name: &str, end: &str) -> bool {
    let target = find_unit(root, name).and_then(|path| path.read_link().ok());
    target.is_some_and(|target| target.ends_with(end))
}

/// The path of a unit, of a drop-in, or of a link that enables a unit.
pub(super) fn find_unit(root: &Root, name: &str) -> Option<PathBuf> {
    let mut paths = PLACES.iter().map(|place| root.path(place).join(name));
    // A link that enables a unit is absolute, so it leads nowhere below another root.
    paths.find(|path| path.symlink_metadata().is_ok())
}

/// Whether the confidential-data-hub's unit has it read the pod's pull secrets.
fn reads_auth_file(root: &Root) -> bool {
    let unit = find_unit(root, "confidential-data-hub.service");
    let unit = unit.and_then(|path| file::read(&path).ok());
    unit.is_some_and(|unit| {
        let mut parts = unit.text.windows(HUB_CREDENTIAL.len());
        parts.any(|part| part == HUB_CREDENTIAL)
    })
}

/// Whether the component of this name is this program.
pub(super) fn is_this_program(root: &Root, name: &str) -> bool {
    let identity = |path: &str| Identity::of(&root.path(path)).ok();
    let path = format!("/usr/local/bin/{name}");
    // An absolute link leads nowhere below another root.
    let target = root.path(&path).read_link();
    if target.is_ok_and(|target| target.ends_with("offline-fs-kbc")) {
        return true;
    }
    let component = identity(&path);
    component.is_some() && PROGRAMS.into_iter().any(|path| identity(path) == component)
}

/// The credential of the resources file, which the stock hub can read itself.
fn baked_credential<'s>(root: &Root, snapshot: &'s Snapshot) -> Option<&'s Resource> {
    let resources = root.path(RESOURCES);
    let mut own = snapshot.credentials.iter();
    own.find(|credential| *credential.file == resources)
}
