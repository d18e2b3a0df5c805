// SPDX-License-Identifier: Apache-2.0

//! The loading of a resources file, compared with only reading it and decoding its base64.

use std::fs;

use offline_fs_kbc_bench::median;
use offline_fs_kbc_bench::process::memory;
use offline_fs_kbc_bench::report::Report;
use offline_fs_kbc_bench::server::{Kind, Place, Programs, RESOURCE, Server, decode, resources};

use crate::Effort;
use crate::speed::ANSWER;

const LOAD: &str = "Loading";

/// The memory that a file may cost in addition to its own and its values' bytes, since malloc and the kernel
/// round up.
const MOST_PEAK: f64 = 1.2;

/// The target, as a part of a bare decoder's speed.
const LEAST_SPEED: f64 = 0.5;

/// The files: name, entries, bytes of a value.
const FILES: [(&str, usize, usize); 5] = [
    ("1 entry", 1, ANSWER),
    ("100 entries", 100, ANSWER),
    ("10,000 entries", 10_000, ANSWER),
    ("1 MiB", 4, (1 << 20) / 4 * 3 / 4 - 100),
    // Just below the limit for a file.
    ("64 MiB", 64, (1 << 20) / 4 * 3 - 100),
];

/// Below this size, the processes' own pages outweigh those of the file.
const LARGE: usize = 1 << 20;

/// Measures each file.
pub fn measure(report: &mut Report, programs: &Programs, effort: Effort) {
    let empty = Place::new(ANSWER);
    let without = Server::start(Kind::Daemon, programs, &empty);
    let without = memory(without.pid()).peak;
    for (name, entries, bytes) in FILES {
        let names = (0..entries).map(|at| match at {
            0 => (RESOURCE.to_owned(), bytes),
            _ => (format!("default/bench/{at}"), bytes),
        });
        let text = resources(names);
        let place = Place::with(&text, bytes);
        let lines = place.root().join("lines");
        let values = text.lines().filter_map(|line| line.split('"').nth(3));
        fs::write(&lines, values.collect::<Vec<_>>().join("\n")).expect("a file");

        let (mut times, mut floors, mut peaks) = (Vec::new(), Vec::new(), Vec::new());
        let mut floor_peaks = Vec::new();
        let rounds = if bytes * entries > 16 << 20 {
            effort.rounds / 2 + 1
        } else {
            effort.rounds
        };
        for _ in 0..rounds {
            let server = Server::start(Kind::Daemon, programs, &place);
            peaks.push(memory(server.pid()).peak - without);
            drop(server);
            times.push(loading(&fs::read_to_string(place.log()).expect("a log")));
            let (time, peak) = decode(programs, &lines).expect("a floor");
            floors.push(time);
            floor_peaks.push(peak);
        }
        let (time, floor) = (median(&mut times), median(&mut floors));
        // As a speed, so that a larger figure is better.
        let megabytes = text.len() as f64 / 1e6;
        let row = report.row(
            LOAD,
            format!("{name}: speed"),
            megabytes / time * 1e3,
            "MB/s",
        );
        row.against("bare decode", megabytes / floor * 1e3);
        if text.len() >= LARGE {
            row.at_least(LEAST_SPEED);
        }
        report.row(LOAD, format!("{name}: time"), time, "ms");
        if text.len() >= LARGE {
            let needed = (text.len() + entries * bytes) as f64 / 1024.0;
            let row = report.row(LOAD, format!("{name}: peak"), median(&mut peaks), "KiB");
            row.against("file + values", needed).at_most(MOST_PEAK);
            row.against("bare decode", median(&mut floor_peaks));
        }
    }
}

/// The time in ms between the log's lines about the keys file and the resources file: the time to read,
/// decode and keep the resources file.
fn loading(log: &str) -> f64 {
    let at = |file: &str| {
        let line = log.lines().find(|line| line.contains(file));
        let line = line.unwrap_or_else(|| panic!("no line about {file}: {log}"));
        // 2026-01-01T12:34:56.123456Z
        let time = line.get(14..26).unwrap_or_default();
        let (minutes, seconds) = time.split_once(':').unwrap_or_default();
        let minutes: f64 = minutes.parse().expect("minutes");
        let seconds: f64 = seconds.parse().expect("seconds");
        (minutes * 60.0 + seconds) * 1e3
    };
    let time = at("resources.json: ") - at("keys.json: ");
    if time < 0.0 { time + 3_600_000.0 } else { time }
}
