// SPDX-License-Identifier: Apache-2.0

//! The charts of `make bench`: the daemon beside simpler servers.

use crate::chart::{Bar, Chart, Kind, Panel};
use crate::figures::{Figures, Row};

const OURS: &str = "offline-fs-kbc";

/// The simpler servers, as the benchmark and as people name them.
const FLOORS: [(&str, &str, Kind); 2] = [
    ("echo", "echo server", Kind::Floor),
    ("ttrpc crate", "ttrpc crate's server", Kind::First),
];

/// What these servers are.
const ABOUT: &str =
    "The echo server only sends bytes back; the ttrpc crate's server returns a fixed value.";

/// The charts of the daemon.
pub fn charts(figures: &Figures) -> Vec<Chart> {
    let speed = |name: &str| panel(figures, "Speed", name);
    let mut latency = Chart::of(
        figures,
        "daemon-latency.svg",
        "Time until the daemon has answered a request (shorter is better)",
        "µs",
    );
    latency.about.push(ABOUT.to_owned());
    latency
        .about
        .push("One client waits for each answer of 200 bytes; median of the rounds.".to_owned());
    latency.panels = [
        (
            "latency p50, one processor",
            "Median; server and client share one processor",
        ),
        (
            "latency p99, one processor",
            "99th percentile; server and client share one processor",
        ),
        (
            "latency p50, two processors",
            "Median; server and client each have a processor, so one must wake the other",
        ),
    ]
    .map(|(name, heading)| speed(name).under(heading))
    .into();

    let mut throughput = Chart::of(
        figures,
        "daemon-throughput.svg",
        "Requests that the daemon answers in a second (longer is better)",
        "/s",
    );
    throughput.about.push(ABOUT.to_owned());
    throughput.panels = vec![
        speed("answers, 8 connections x 8").under("8 connections with 8 requests on the way each"),
    ];

    let mut memory = Chart::of(
        figures,
        "daemon-memory.svg",
        "Memory of the daemon (shorter is better)",
        "KiB",
    );
    memory.about.push(ABOUT.to_owned());
    memory
        .about
        .push("Proportional set size (PSS), as the kernel counts it.".to_owned());
    let section = "Memory (PSS, and private)";
    let rows = figures.rows(section);
    let rows = rows.filter(|row| !row.name.ends_with(", private") && !row.floors.is_empty());
    memory.panels = rows
        .map(|row| panel(figures, section, &row.name).under(&capital(&row.name)))
        .collect();
    vec![latency, throughput, memory]
}

/// The bars of one figure.
fn panel(figures: &Figures, section: &str, name: &str) -> Panel {
    let bar = |label: &str, kind, value: Result<f64, String>| Bar {
        label: label.to_owned(),
        kind,
        value,
        note: String::new(),
    };
    let row = figures.row(section, name);
    let mut bars = vec![bar(OURS, Kind::Ours, figures.value(section, name, OURS))];
    bars.extend(FLOORS.map(|(floor, label, kind)| {
        let value = row.and_then(|row| of_floor(row, floor));
        bar(label, kind, value.ok_or_else(|| "not measured".to_owned()))
    }));
    let panel = Panel {
        heading: String::new(),
        bars,
    };
    panel.compare(OURS)
}

fn of_floor(row: &Row, name: &str) -> Option<f64> {
    row.floors.iter().find(|(floor, _)| floor == name)?.1
}

impl Panel {
    fn under(mut self, heading: &str) -> Self {
        self.heading = heading.to_owned();
        self
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    let first = chars.next().map(|first| first.to_uppercase().to_string());
    first.unwrap_or_default() + chars.as_str()
}
