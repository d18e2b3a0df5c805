// SPDX-License-Identifier: Apache-2.0

//! `make bench`: the daemon's memory and speed, compared with floors that are measured in the same run.
//!
//! `offline-fs-kbc-bench DAEMON FLOORS JSON [--quick] [DYNAMIC]`

mod growth;
mod load;
mod memory;
mod size;
mod speed;

use std::env;
use std::error::Error;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use offline_fs_kbc_bench::report::Report;
use offline_fs_kbc_bench::run::Run;
use offline_fs_kbc_bench::server::Programs;

/// How often measurements are repeated.
#[derive(Clone, Copy)]
pub struct Effort {
    /// Starts of each program.
    starts: usize,
    /// Rounds over all servers; the median is reported.
    rounds: usize,
    /// Requests of one client in a round.
    requests: usize,
    /// The duration of the load on each server in a round, in ms.
    loaded: u64,
    /// The number of requests after which memory must not have grown.
    many: usize,
    /// The idle time, in ms.
    idle: u64,
}

const FULL: Effort = Effort {
    starts: 25,
    rounds: 7,
    requests: 3_000,
    loaded: 700,
    many: 100_000,
    idle: 5_000,
};

const QUICK: Effort = Effort {
    starts: 7,
    rounds: 3,
    requests: 1_000,
    loaded: 300,
    many: 20_000,
    idle: 1_000,
};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let (flags, paths): (Vec<_>, Vec<_>) = env::args().skip(1).partition(|a| a.starts_with("--"));
    let is_quick = !flags.is_empty();
    let effort = if is_quick { QUICK } else { FULL };
    let [daemon, floors, json, rest @ ..] = paths.as_slice() else {
        return Err("offline-fs-kbc-bench DAEMON FLOORS JSON [--quick] [DYNAMIC]".into());
    };
    let programs = Programs {
        daemon: PathBuf::from(daemon),
        floors: PathBuf::from(floors),
    };
    raise_descriptor_limit()?;
    let run = Run::of("bench", &programs.daemon, is_quick);

    let mut report = Report::default();
    size::measure(&mut report, &programs, rest.first().map(PathBuf::from));
    for (what, measure) in SECTIONS {
        eprintln!("measuring {what}");
        measure(&mut report, &programs, effort);
    }
    println!("{}", run.headline());
    println!("{}", report.table());
    fs::write(json, format!("{:#}\n", report.json(&run)))?;
    println!("The same as JSON: {json}");
    Ok(ExitCode::SUCCESS)
}

type Measure = fn(&mut Report, &Programs, Effort);

const SECTIONS: [(&str, Measure); 6] = [
    ("starts", speed::starts),
    ("memory", memory::measure),
    ("latency and throughput", speed::requests),
    ("loading", load::measure),
    ("growth", growth::measure),
    ("one that never reads", growth::a_peer_that_never_reads),
];

/// A thousand connections need as many descriptors.
fn raise_descriptor_limit() -> nix::Result<()> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
}
