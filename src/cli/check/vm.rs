// SPDX-License-Identifier: Apache-2.0

//! This VM: the files that the daemon would load, how it is configured, and the daemon itself.

use std::path::Path;

use offline_fs_kbc::lint;
use offline_fs_kbc::resource::name::CREDENTIAL;
use offline_fs_kbc::resource::problem::{Problem, Severity};
use offline_fs_kbc::resource::snapshot::{FileState, FileStatus, Snapshot};
use offline_fs_kbc::resource::store::Store;
use offline_fs_kbc::server::listener::Address;
use offline_fs_kbc::text::count;

use crate::cli::check::image::Credential;
use crate::cli::check::puller::Hub;
use crate::cli::check::report::Report;
use crate::cli::check::units;
use crate::cli::{findings, status};
use crate::config::{self, Choice, Component, Files, Role, Root, Sockets, kbc};

/// Checks all of it; gives the credential that is served, by a daemon that repairs it or not, and who has cdh.sock.
pub fn check(
    files: &Files,
    sockets: &Sockets,
    root: &Root,
    repairs: bool,
    report: &mut Report,
) -> (Option<Credential>, Hub) {
    let credentials = config::credentials().or_else(|| root.credentials_of_unit());
    let store = Store::new(files.sources(root, credentials));
    store.refresh();
    let snapshot = store.snapshot();
    let (credential, served) = Credential::of(&snapshot, repairs);
    report.line(status::FILES.to_owned());
    for file in &snapshot.files {
        check_file(file, &served, report);
    }
    for share in findings::shares(&served) {
        report.line(format!("credential: {share}"));
    }
    for (file, problem) in lint::snapshot(&snapshot, repairs) {
        report.find(Some(file), problem);
    }
    for (file, note) in findings::notes(&snapshot) {
        report.find(file.as_deref(), note);
    }
    for mistake in kbc::mismatches(root) {
        report.find(
            None,
            Problem::of_file(
                Severity::Error,
                "kbc",
                mistake,
                "write aa_kbc_params = \"offline_fs_kbc::null\", or install that KBC's agent",
            ),
        );
    }
    if root.has_swap() {
        report.find(
            None,
            Problem::of_file(
                Severity::Warning,
                "swap",
                "swap is active, and secrets may be written to it",
                "`swapoff -a`",
            ),
        );
    }
    units::check(root, &snapshot, report);
    let hub = check_daemon(sockets, root, &snapshot, report);
    report.serve(&served);
    (credential, hub)
}

fn check_file(file: &FileStatus, snapshot: &Snapshot, report: &mut Report) {
    let path = &*file.source.path;
    let shown = path.display();
    match &file.state {
        FileState::Absent => report.line(format!("{shown}: absent")),
        FileState::Failed { problem, .. } => {
            report.find(Some(path), findings::of_whole_file(problem.clone()));
        }
        FileState::Loaded {
            entries,
            bytes,
            problems,
            exposures,
        } => {
            let entries = count(*entries, "entry", "entries");
            report.line(format!("{shown}: {entries}, {bytes} bytes"));
            for (name, resource) in snapshot.resources.iter().chain(&snapshot.keys) {
                // Each file's own credential, and not what was made of them.
                let own = match name.as_str() {
                    CREDENTIAL => &snapshot.credentials[..],
                    _ => std::slice::from_ref(resource),
                };
                for resource in own.iter().filter(|own| *own.file == *path) {
                    report.line(findings::line(name, resource));
                }
            }
            for exposure in exposures {
                report.find(Some(path), exposure.problem(path));
            }
            for problem in problems {
                report.find(Some(path), problem.clone());
            }
        }
    }
}

/// Looks whether the daemon runs, and whether it serves what was looked at here; gives who has cdh.sock.
fn check_daemon(sockets: &Sockets, root: &Root, snapshot: &Snapshot, report: &mut Report) -> Hub {
    let mut addresses = match sockets.clone().addresses(root, Component::AttestationAgent) {
        Ok(addresses) => addresses.into_iter().map(|(address, _)| address).collect(),
        Err(_) => Vec::new(),
    };
    // It is off by default, and may be on by the unit's flags.
    let hub = root.socket(Role::ConfidentialDataHub).ok();
    let at = match &sockets.cdh_sock {
        Some(Choice::At(address)) => Some(address.clone()),
        _ => hub.clone(),
    };
    let mut served_by = Hub::None;
    let hub = hub.filter(|hub| !addresses.contains(hub));
    addresses.extend(hub.clone());
    let existing: Vec<&Address> = addresses.iter().filter(|at| at.path().exists()).collect();
    if existing.is_empty() {
        report.find(
            None,
            Problem::of_file(
                Severity::Note,
                "daemon-absent",
                "no socket: the daemon does not run here",
                match root.root {
                    None => {
                        "`systemctl start offline-fs-kbc.service`, or attestation-agent.service if that runs it"
                    }
                    Some(_) => "nothing, in an image that is being built",
                },
            ),
        );
    }
    let mut told = false;
    for address in existing {
        let fetched = status::fetch(address);
        if Some(address) == at.as_ref() {
            served_by = match &fetched {
                Ok(_) => Hub::Own,
                Err(error) if format!("{error:#}").contains(status::OTHER) => Hub::Other,
                Err(_) => Hub::None,
            };
        }
        match fetched {
            Ok(status) if told => {
                report.line(format!("on {address} too, pid {}", status.pid));
            }
            Ok(status) => {
                told = true;
                let headline = status::headline(address, &status);
                report.line(headline.trim_end().to_owned());
                let differs = |file: &&FileStatus| {
                    let path = file.source.path.display().to_string();
                    file.state != FileState::Absent
                        && !status.files.iter().any(|has| has.path == path)
                };
                let here: Vec<&FileStatus> = snapshot.files.iter().filter(differs).collect();
                let there = status.files.iter().filter(|has| {
                    let at = Path::new(&has.path);
                    has.state != "absent"
                        && !snapshot.files.iter().any(|file| file.source.path == at)
                });
                let here = here
                    .iter()
                    .map(|file| format!("{} is not loaded by it", file.source.path.display()));
                let there =
                    there.map(|file| format!("{} is loaded by it and was not checked", file.path));
                for what in here.chain(there) {
                    report.find(
                        None,
                        Problem::of_file(
                            Severity::Warning,
                            "daemon-differs",
                            format!("the running daemon has other files: {what}"),
                            "give `check` the flags and the environment of the unit",
                        ),
                    );
                }
            }
            Err(error) => report.find(None, silent(address, hub.as_ref(), &error)),
        }
    }
    served_by
}

/// What it means that this program's daemon doesn't answer at an address. `hub` is the address of cdh.sock, if
/// nobody said that it is this program's: then a stock confidential-data-hub may well be there.
fn silent(address: &Address, hub: Option<&Address>, error: &anyhow::Error) -> Problem {
    let what = format!("{error:#}");
    if !what.contains(status::OTHER) {
        return Problem::of_file(
            Severity::Warning,
            "daemon-silent",
            what,
            "`systemctl status offline-fs-kbc.service`; as root, if it runs",
        );
    }
    let severity = match Some(address) == hub {
        true => Severity::Note,
        false => Severity::Warning,
    };
    Problem::of_file(
        severity,
        "daemon-other",
        what,
        "nothing, if it is meant to be there; otherwise end it, and this daemon takes the address over",
    )
}
