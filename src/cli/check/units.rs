// SPDX-License-Identifier: Apache-2.0

//! cloud-api-adaptor's units, which start the program in today's peer pods, beside the program's own.

use std::fs;
use std::os::unix::fs::MetadataExt as _;

use offline_fs_kbc::resource::file::Kind;
use offline_fs_kbc::resource::name::{CREDENTIAL, Name};
use offline_fs_kbc::resource::problem::{Problem, Severity};
use offline_fs_kbc::resource::snapshot::Source;
use offline_fs_kbc::resource::store::Store;

use crate::cli::check::report::Report;
use crate::config::{AUTH_FILE, RESOURCES, Root, units};

/// The program's own units that make a socket when the VM boots.
const OWN: [&str; 5] = [
    "offline-fs-kbc.service",
    "offline-fs-kbc-attestation.socket",
    "offline-fs-kbc-getresource.socket",
    "offline-fs-kbc-keyprovider.socket",
    "offline-fs-kbc-cdh.socket",
];

/// The variable that names the stock confidential-data-hub's credential, over its configuration file.
const HUB_CREDENTIAL: &str = "CDH_DEFAULT_IMAGE_AUTHENTICATED_REGISTRY_CREDENTIALS";

/// What repairs the first two problems. The directory depends on how the program was installed.
const FIX: &str = "run use-peerpod-units, which is in /usr/share/offline-fs-kbc or /usr/local/share/offline-fs-kbc";

/// Looks for units that start at the wrong time, without the sandbox, or with another credential.
pub fn check(root: &Root, report: &mut Report) {
    let mut find = |severity, code, what: String, fix| {
        report.find(None, Problem::of_file(severity, code, what, fix));
    };
    if units::settings(root, "attestation-agent.path").is_some() {
        if let Some(unit) = OWN.iter().find(|unit| units::is_enabled(root, unit)) {
            find(
                Severity::Error,
                "units-too-early",
                format!(
                    "{unit} is enabled, and attestation-agent.path is there: so the VM's other units may start before the \
                     user data is there, and ignore the policies and mirrors in it"
                ),
                FIX,
            );
        }
        let agent = units::settings(root, "attestation-agent.service").unwrap_or_default();
        if agent.contains("=/usr/local/bin/attestation-agent")
            && !is_ours(&agent)
            && is_this_program(root)
        {
            find(
                Severity::Warning,
                "unit-settings",
                "attestation-agent.service runs this program without its drop-in: without the sandbox, and when it restarts, \
                 the confidential-data-hub loses its connection and can't pull any more"
                    .to_owned(),
                FIX,
            );
        }
    }
    let hub = units::settings(root, "confidential-data-hub.service").unwrap_or_default();
    let file = units::variable(&hub, HUB_CREDENTIAL).and_then(|uri| uri.strip_prefix("file://"));
    if file == Some(AUTH_FILE) && !is_ours(&hub) && has_credential(root) {
        find(
            Severity::Warning,
            "stock-hub-credential",
            format!(
                "confidential-data-hub.service has the stock confidential-data-hub read {AUTH_FILE} only, so it does not use the \
                 credential in {RESOURCES}"
            ),
            "put the drop-in stock-hub-credential into confidential-data-hub.service.d, and name the entry \
             default/credential/test; the hub then no longer uses the pod's pull secrets",
        );
    }
}

/// Whether a unit has this program's settings: the descriptor store's size is set by nobody else.
fn is_ours(settings: &str) -> bool {
    units::variable(settings, "FDSTORE").is_some()
}

/// Whether the attestation-agent is this program: a link to it, or the file that runs now.
fn is_this_program(root: &Root) -> bool {
    let agent = root.path("/usr/local/bin/attestation-agent");
    let inode = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let this = fs::metadata("/proc/self/exe").ok().map(inode);
    let linked = fs::read_link(&agent).is_ok_and(|target| target.ends_with("offline-fs-kbc"));
    linked || this.is_some() && fs::metadata(agent).ok().map(inode) == this
}

/// Whether the resources file, which the stock hub reads itself, has a credential.
fn has_credential(root: &Root) -> bool {
    let store = Store::new(vec![Source {
        path: root.path(RESOURCES),
        kind: Kind::Resources,
    }]);
    store.refresh();
    let name = Name::Path(CREDENTIAL.into());
    store.snapshot().resources.contains_key(&name)
}
