// SPDX-License-Identifier: Apache-2.0

//! cloud-api-adaptor's units, which start the program in today's peer pods, beside the program's own.
//!
//! The image's binary has this code, so it knows no more of systemd than what finds the mistakes of an image's builder: of
//! drop-ins it looks only for those of this program, by their names.

use std::path::PathBuf;

use offline_fs_kbc::resource::file::{self, Identity};
use offline_fs_kbc::resource::problem::{Problem, Severity};
use offline_fs_kbc::resource::snapshot::Snapshot;

use crate::cli::check::report::Report;
use crate::config::{RESOURCES, Root};

/// The places of units, highest precedence first.
const PLACES: [&str; 4] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
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

/// The setting by which the upstream's unit gives the stock confidential-data-hub its credential.
const HUB_CREDENTIAL: &[u8] =
    b"CDH_DEFAULT_IMAGE_AUTHENTICATED_REGISTRY_CREDENTIALS=file:///run/peerpod/auth.json";

/// Where a masked unit leads.
const MASK: &str = "null";

/// What repairs the first two problems.
const FIX: &str =
    "run use-peerpod-units, which is in share/offline-fs-kbc below /usr or /usr/local";

/// Looks for units that start at the wrong time, without the sandbox, or with another credential than the files have.
pub fn check(root: &Root, snapshot: &Snapshot, report: &mut Report) {
    let mut find = |severity, code, what: &str, fix: &str| {
        report.find(None, Problem::of_file(severity, code, what, fix));
    };
    let exists = |name| find_unit(root, name).is_some();
    let leads_to = |name, end| {
        let target = find_unit(root, name).and_then(|path| path.read_link().ok());
        target.is_some_and(|target| target.ends_with(end))
    };
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
        if is_this_program(root)
            && !exists("attestation-agent.service.d/10-offline-fs-kbc.conf")
            // The alias of the program's own unit.
            && !leads_to("attestation-agent.service", "offline-fs-kbc.service")
        {
            find(
                Severity::Warning,
                "unit-settings",
                "attestation-agent.service runs this program without its drop-in: no sandbox, and after its restart the \
                 confidential-data-hub can't pull any more",
                FIX,
            );
        }
    }
    if reads_auth_file(root)
        && !exists("confidential-data-hub.service.d/stock-hub-credential.conf")
        && !exists("confidential-data-hub.service.d/10-offline-fs-kbc.conf")
        && has_baked_credential(root, snapshot)
    {
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

/// The path of a unit, of a drop-in, or of a link that enables a unit.
fn find_unit(root: &Root, name: &str) -> Option<PathBuf> {
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

/// Whether the attestation-agent is this program.
fn is_this_program(root: &Root) -> bool {
    let identity = |path| Identity::of(&root.path(path)).ok();
    let agent = identity("/usr/local/bin/attestation-agent");
    agent.is_some() && PROGRAMS.into_iter().any(|path| identity(path) == agent)
}

/// Whether the resources file, which the stock hub reads itself, has a credential.
fn has_baked_credential(root: &Root, snapshot: &Snapshot) -> bool {
    let resources = root.path(RESOURCES);
    let mut files = snapshot.credentials.iter().map(|own| &*own.file);
    files.any(|file| file == resources)
}
