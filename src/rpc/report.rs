// SPDX-License-Identifier: Apache-2.0

//! `offline_fs_kbc.Status`: the daemon's status, with names and sizes and never a value.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use crate::proto::offline_fs_kbc::{self, Call, Count, Entry, File, GetRequest, GetResponse};
use crate::pulls::{Pull, Pulls};
use crate::resource::file::Kind;
use crate::resource::name::Name;
use crate::resource::snapshot::{FileState, FileStatus, Resource};
use crate::resource::store::Store;
use crate::server::admission::Admission;
use crate::server::method::{Method, Subject};
use crate::server::request_log::{Record, RequestLog};
use crate::text::{EntryName, Escaped};

/// How many resources, and how many keys, are listed: far more than anybody has, and few enough for one
/// message.
const LISTED_ENTRIES: usize = 1_000;

/// What the report is made from.
pub struct Report {
    /// The version of the program.
    pub version: &'static str,
    /// The resources and keys.
    pub store: Arc<Store>,
    /// The counts of connections.
    pub admission: Arc<Admission>,
    /// The answered requests.
    pub request_log: Arc<RequestLog>,
    /// The pulls of images.
    pub pulls: Arc<Pulls>,
    /// Returns the status in one line.
    pub summary: Box<dyn Fn() -> String + Send + Sync>,
}

/// The name of the service, and of its method.
pub const STATUS: (&str, &str) = ("offline_fs_kbc.Status", "Get");

/// The service.
pub fn service(report: Arc<Report>) -> Vec<Method> {
    let (service, get) = STATUS;
    vec![Method::new(service, get, move |_: GetRequest, notes| {
        notes.is_unlogged = true;
        Ok(report.get())
    })]
}

impl Report {
    fn get(&self) -> GetResponse {
        let snapshot = self.store.snapshot();
        let (connections, peers_refused) = self.admission.tally();
        let listed = |entries: &BTreeMap<Name, Resource>| -> Vec<Entry> {
            entries.iter().take(LISTED_ENTRIES).map(entry).collect()
        };
        let (resources, keys) = (listed(&snapshot.resources), listed(&snapshot.keys));
        let all = snapshot.resources.len() + snapshot.keys.len();
        let mut outcomes: Vec<_> = self.request_log.outcomes();
        outcomes.sort_unstable_by_key(|(outcome, _)| *outcome as i32);
        GetResponse {
            version: self.version.to_owned(),
            pid: std::process::id(),
            uptime_seconds: seconds_since(self.request_log.started()),
            summary: (self.summary)(),
            files: snapshot.files.iter().map(file).collect(),
            unlisted: (all - resources.len() - keys.len()) as u64,
            resources,
            keys,
            outcomes: outcomes
                .into_iter()
                .map(|(outcome, count)| Count {
                    outcome: format!("{outcome:?}"),
                    count,
                    ..Count::default()
                })
                .collect(),
            connections: connections as u64,
            peers_refused,
            recent: self.request_log.recent().into_iter().map(recent).collect(),
            pulls: self.pulls.list().into_iter().map(pull).collect(),
            ..GetResponse::default()
        }
    }
}

fn seconds_since(then: Instant) -> u64 {
    then.elapsed().as_secs()
}

fn file(status: &FileStatus) -> File {
    let (state, entries, bytes, problems) = match &status.state {
        FileState::Absent => ("absent", 0, 0, 0),
        FileState::Loaded {
            entries,
            bytes,
            problems,
            ..
        } => ("loaded", *entries, *bytes, problems.len()),
        FileState::Failed { kept: true, .. } => ("kept", 0, 0, 1),
        FileState::Failed { kept: false, .. } => ("failed", 0, 0, 1),
    };
    let kind = match status.source.kind {
        Kind::Resources => "resources",
        Kind::Keys => "keys",
        Kind::Whole(_) => "resource",
        Kind::Directory => "directory",
    };
    File {
        path: status.source.path.display().to_string(),
        kind: kind.to_owned(),
        state: state.to_owned(),
        entries: entries as u64,
        bytes,
        problems: problems as u64,
        loaded_seconds_ago: status.loaded_at.map(seconds_since),
        last_error: status
            .last_error
            .as_ref()
            .map(|(_, error)| error.clone())
            .unwrap_or_default(),
        last_error_seconds_ago: status.last_error.as_ref().map(|(at, _)| seconds_since(*at)),
        ..File::default()
    }
}

fn entry((name, resource): (&Name, &Resource)) -> Entry {
    let name = match name {
        Name::Path(path) if !EntryName(path).is_hidden() => name.to_string(),
        name => EntryName(name.as_str()).to_string(),
    };
    Entry {
        name,
        bytes: resource
            .value
            .as_ref()
            .map_or(0, |value| value.len() as u64),
        file: resource.file.display().to_string(),
        problem: resource
            .value
            .as_ref()
            .err()
            .map(|reason| reason.to_string())
            .unwrap_or_default(),
        changes: resource.changes().to_vec(),
        shares: resource.shares().to_vec(),
        ..Entry::default()
    }
}

fn pull(pull: Pull) -> offline_fs_kbc::Pull {
    let passed = pull.since.elapsed();
    let (state, took, ended) = match pull.ended {
        Some((outcome, took)) => (
            format!("{outcome:?}"),
            took,
            Some(passed.saturating_sub(took)),
        ),
        None => {
            let state = if pull.is_running {
                "running"
            } else {
                "waiting"
            };
            (state.to_owned(), passed, None)
        }
    };
    offline_fs_kbc::Pull {
        image: (*pull.image).to_owned(),
        state,
        milliseconds: u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        ended_seconds_ago: ended.map(|ago| ago.as_secs()),
        progress: Some(pull.progress).into(),
        ..Default::default()
    }
}

fn recent(record: Record) -> Call {
    Call {
        peer: record.peer.describe(),
        method: Escaped(&record.method).to_string(),
        name: match record.subject {
            Subject::None => String::new(),
            subject => subject.to_string(),
        },
        outcome: format!("{:?}", record.outcome),
        milliseconds_ago: u64::try_from(record.at.elapsed().as_millis()).unwrap_or(u64::MAX),
        ..Call::default()
    }
}
