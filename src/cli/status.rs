// SPDX-License-Identifier: Apache-2.0

//! `status`: the status of the running daemon.

use std::fmt::{self, Write as _};
use std::process::ExitCode;

use anyhow::bail;
use clap::Args;
use offline_fs_kbc::proto::offline_fs_kbc::{Entry, File, GetRequest, GetResponse, Pull};
use offline_fs_kbc::rpc::report::STATUS;
use offline_fs_kbc::server::listener::Address;
use offline_fs_kbc::text::{Age, Escaped, count};
use serde_json::{Value, json};

use crate::cli::check::report::Format;
use crate::cli::client;
use crate::config::{Role, Root};

/// What `--help` and the manual show at the end.
const EXAMPLE: &str = "Example:
  offline-fs-kbc status
  offline-fs-kbc status --format json";

/// Show the status of the running daemon: files, resources, requests
///
/// It shows names and sizes, never a value.
#[derive(Args)]
#[command(after_help = EXAMPLE)]
pub struct Status {
    /// The daemon's socket [default: all default sockets; each process that answers there is shown once]
    #[arg(long, value_name = "ADDR")]
    socket: Option<Address>,

    /// How to print it
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,

    #[command(flatten)]
    root: Root,
}

impl Status {
    /// Prints the status.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        crate::process::harden()?;
        let addresses = match &self.socket {
            Some(address) => vec![address.clone()],
            None => default_addresses(&self.root)?,
        };
        let answers = answers(&addresses)?;
        super::print(match self.format {
            Format::Text => {
                let texts = answers
                    .iter()
                    .map(|(address, status)| text(address, status));
                texts.collect::<Vec<_>>().join("\n")
            }
            Format::Json => {
                let mut values = answers.iter().map(|(at, status)| to_json(at, status));
                let mut value = values.next().unwrap_or_default();
                let others: Vec<_> = values.collect();
                if !others.is_empty() {
                    value["others"] = others.into();
                }
                format!("{value:#}\n")
            }
        })?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The daemon's default addresses.
fn default_addresses(root: &Root) -> anyhow::Result<Vec<Address>> {
    Role::ALL
        .into_iter()
        .map(|role| root.socket(role))
        .collect()
}

/// The status of each process that has one at these addresses, from the first address at which it answers. In a peer pod of
/// today, the attestation-agent's unit and the confidential-data-hub's each run one, and the second has the pulls.
fn answers(addresses: &[Address]) -> anyhow::Result<Vec<(Address, GetResponse)>> {
    let mut errors = Vec::new();
    let mut answers: Vec<(Address, GetResponse)> = Vec::new();
    for address in addresses {
        match fetch(address) {
            Ok(status) if answers.iter().any(|(_, other)| other.pid == status.pid) => {}
            Ok(status) => answers.push((address.clone(), status)),
            Err(error) => errors.push(error),
        }
    }
    if !answers.is_empty() {
        return Ok(answers);
    }
    // A refusal says more than a missing socket.
    let telling = errors.iter().position(|error| {
        error
            .root_cause()
            .downcast_ref::<std::io::Error>()
            .is_none()
    });
    match errors.into_iter().nth(telling.unwrap_or_default()) {
        Some(error) => Err(error),
        None => bail!("there is no socket to ask"),
    }
}

/// The message with which the ttrpc crate's server refuses an unknown service.
const UNKNOWN_SERVICE: &str = "service does not exist";

/// The message about a socket on which another program answers.
pub const OTHER: &str = "another program answers there, and it has no status";

/// The status of the daemon at `address`.
///
/// # Errors
///
/// If nobody answers, or another program does.
pub fn fetch(address: &Address) -> anyhow::Result<GetResponse> {
    match client::call(address, STATUS, &GetRequest::default()) {
        // The ttrpc crate's server, which upstream agents use, answers INVALID_ARGUMENT for an unknown
        // service.
        Err(error)
            if [UNKNOWN_SERVICE, "UNIMPLEMENTED"]
                .iter()
                .any(|text| error.to_string().contains(text)) =>
        {
            bail!("{address}: {OTHER}: an upstream agent?")
        }
        other => other,
    }
}

/// The heading of the list of files.
pub const FILES: &str =
    "files (if several have a name, the last one is served; credentials are merged):";

/// The first two lines: the program that answers, and the status line that systemd shows.
pub fn headline(address: &Address, status: &GetResponse) -> String {
    format!(
        "offline-fs-kbc {}, pid {}, up {}, on {address}\n{}\n",
        status.version,
        status.pid,
        Age(status.uptime_seconds),
        status.summary
    )
}

fn text(address: &Address, status: &GetResponse) -> String {
    let mut text = headline(address, status);
    let _ = writeln!(text, "{FILES}");
    for file in &status.files {
        let _ = writeln!(text, "  {}: {}", file.path, describe(file));
        if !file.last_error.is_empty() {
            let age = Age(file.last_error_seconds_ago.unwrap_or_default());
            let _ = writeln!(text, "    last error {age} ago: {}", file.last_error);
        }
    }
    list(&mut text, "resources", &status.resources);
    list(&mut text, "keys", &status.keys);
    if status.unlisted > 0 {
        let _ = writeln!(text, "  and {} more", status.unlisted);
    }
    let outcomes: Vec<_> = status
        .outcomes
        .iter()
        .map(|outcome| format!("{} {}", outcome.count, outcome.outcome))
        .collect();
    let outcomes = match outcomes.is_empty() {
        true => "none".to_owned(),
        false => outcomes.join(", "),
    };
    let _ = writeln!(text, "requests: {outcomes}");
    let _ = writeln!(
        text,
        "connections: {}; refused: {}",
        status.connections, status.peers_refused
    );
    if !status.pulls.is_empty() {
        text.push_str("images:\n");
    }
    // Mostly it is the same for all, and said once.
    let mut confined = None;
    for pull in &status.pulls {
        let _ = writeln!(text, "  {}: {}", pull.image, describe_pull(pull));
        let confinement = confinement(pull);
        if confinement.is_some() && confinement != confined {
            let _ = writeln!(text, "    {}", confinement.as_deref().unwrap_or_default());
            confined = confinement;
        }
    }
    if !status.recent.is_empty() {
        text.push_str("last requests:\n");
    }
    for call in &status.recent {
        let name = if call.name.is_empty() {
            "-"
        } else {
            &call.name
        };
        let _ = writeln!(
            text,
            "  {} ago: {}: {} {name}: {}",
            Age(call.milliseconds_ago / 1000),
            call.peer,
            call.method,
            call.outcome
        );
    }
    text
}

fn describe(file: &File) -> String {
    let what = match file.kind.as_str() {
        "resource" => "one resource".to_owned(),
        "directory" => count(file.entries as usize, "file", "files"),
        "keys" => count(file.entries as usize, "key", "keys"),
        _ => count(file.entries as usize, "entry", "entries"),
    };
    let age = Age(file.loaded_seconds_ago.unwrap_or_default());
    match file.state.as_str() {
        "loaded" => {
            let problems = match file.problems {
                0 => String::new(),
                n => format!(", {}", count(n as usize, "problem", "problems")),
            };
            format!("{what}, {} bytes, read {age} ago{problems}", file.bytes)
        }
        "kept" => format!("can't be used; the content of {age} ago is served"),
        "failed" => "can't be used".to_owned(),
        state => state.to_owned(),
    }
}

fn describe_pull(pull: &Pull) -> String {
    let progress = &pull.progress;
    let seconds = Seconds(pull.milliseconds);
    let layers = count(progress.layers as usize, "layer", "layers");
    let fetched = Megabytes(progress.bytes_fetched);
    let Some(ago) = pull.ended_seconds_ago else {
        if pull.state != "running" || progress.layers == 0 {
            return format!("{} for {seconds}", pull.state);
        }
        let rate = progress.bytes_fetched.saturating_mul(1000) / pull.milliseconds.max(1);
        return format!(
            "running for {seconds}: {} of {layers}, {} of {}, {}/s",
            progress.layers_done,
            Megabytes(progress.bytes_fetched.saturating_add(progress.bytes_stored)),
            Megabytes(progress.bytes),
            Megabytes(rate)
        );
    };
    let ago = Age(ago);
    match pull.state.as_str() {
        "OK" if progress.bytes_fetched == 0 => {
            format!("pulled {ago} ago in {seconds}: {layers}, all stored before")
        }
        "OK" => {
            let stored = Megabytes(progress.bytes_stored);
            format!(
                "pulled {ago} ago in {seconds}: {layers}, {fetched} fetched, {stored} stored before"
            )
        }
        state => format!("{state} {ago} ago after {seconds}: {fetched} fetched"),
    }
}

/// What confines the worker of a pull, and what should and does not; none if guest-pull has not said it.
fn confinement(pull: &Pull) -> Option<String> {
    let progress = &pull.progress;
    let [holding, lacking] = [&progress.confined_by, &progress.not_confined_by].map(|names| {
        let names: Vec<_> = names.split_whitespace().collect();
        Escaped(&names.join(", ")).to_string()
    });
    match (holding.is_empty(), lacking.is_empty()) {
        (true, true) => None,
        (true, false) => Some(format!("worker not confined: without {lacking}")),
        (false, true) => Some(format!("worker confined by {holding}")),
        (false, false) => Some(format!("worker confined by {holding}; without {lacking}")),
    }
}

/// A time in milliseconds, shown in seconds.
struct Seconds(u64);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{} s", self.0 / 1000, self.0 % 1000 / 100)
    }
}

/// A number of bytes, shown in megabytes.
struct Megabytes(u64);

impl fmt::Display for Megabytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}.{} MB",
            self.0 / 1_000_000,
            self.0 % 1_000_000 / 100_000
        )
    }
}

fn list(text: &mut String, heading: &str, entries: &[Entry]) {
    if !entries.is_empty() {
        let _ = writeln!(text, "{heading}:");
    }
    for entry in entries {
        if entry.problem.is_empty() {
            let _ = writeln!(
                text,
                "  {}: {} bytes, from {}",
                entry.name, entry.bytes, entry.file
            );
        } else {
            let _ = writeln!(
                text,
                "  {}: refused: {}, in {}",
                entry.name, entry.problem, entry.file
            );
        }
        for share in &entry.shares {
            let _ = writeln!(text, "    {share}");
        }
        for change in &entry.changes {
            let _ = writeln!(text, "    repaired: {change}");
        }
    }
}

fn to_json(address: &Address, status: &GetResponse) -> Value {
    let files = status.files.iter().map(|file| {
        let mut value = json!({
            "path": file.path, "kind": file.kind, "state": file.state, "entries": file.entries,
            "bytes": file.bytes, "problems": file.problems,
            "loaded_seconds_ago": file.loaded_seconds_ago,
        });
        if !file.last_error.is_empty() {
            value["last_error"] = json!(file.last_error);
            value["last_error_seconds_ago"] = json!(file.last_error_seconds_ago);
        }
        value
    });
    let entries = |entries: &[Entry]| -> Vec<Value> {
        let entry = |entry: &Entry| {
            let mut value = json!({"name": entry.name, "bytes": entry.bytes, "file": entry.file});
            if !entry.problem.is_empty() {
                value["problem"] = json!(entry.problem);
            }
            if !entry.changes.is_empty() {
                value["changes"] = json!(entry.changes);
            }
            if !entry.shares.is_empty() {
                value["shares"] = json!(entry.shares);
            }
            value
        };
        entries.iter().map(entry).collect()
    };
    let outcomes = status.outcomes.iter();
    let outcomes: serde_json::Map<String, Value> = outcomes
        .map(|outcome| (outcome.outcome.clone(), json!(outcome.count)))
        .collect();
    let recent = status.recent.iter().map(|call| {
        json!({
            "peer": call.peer, "method": call.method, "name": call.name, "outcome": call.outcome,
            "milliseconds_ago": call.milliseconds_ago,
        })
    });
    let names = |names: &str| -> Vec<String> {
        let names = names.split_whitespace();
        names.map(str::to_owned).collect()
    };
    let pulls = status.pulls.iter().map(|pull| {
        let progress = &pull.progress;
        json!({
            "image": pull.image, "state": pull.state, "milliseconds": pull.milliseconds,
            "ended_seconds_ago": pull.ended_seconds_ago, "layers": progress.layers,
            "layers_done": progress.layers_done, "bytes": progress.bytes,
            "bytes_fetched": progress.bytes_fetched, "bytes_stored": progress.bytes_stored,
            "confined_by": names(&progress.confined_by),
            "not_confined_by": names(&progress.not_confined_by),
        })
    });
    json!({
        "version": 1,
        "program_version": status.version,
        "socket": address.to_string(),
        "pid": status.pid,
        "uptime_seconds": status.uptime_seconds,
        "summary": status.summary,
        "files": files.collect::<Vec<_>>(),
        "resources": entries(&status.resources),
        "keys": entries(&status.keys),
        "unlisted": status.unlisted,
        "outcomes": outcomes,
        "connections": status.connections,
        "peers_refused": status.peers_refused,
        "images": pulls.collect::<Vec<_>>(),
        "recent": recent.collect::<Vec<_>>(),
    })
}
