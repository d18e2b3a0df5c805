// SPDX-License-Identifier: Apache-2.0

//! Memory, idle and under use, and how often an idle daemon wakes.

use std::thread;
use std::time::Duration;

use offline_fs_kbc_bench::client::throughput;
use offline_fs_kbc_bench::process::{Memory, memory, wakes};
use offline_fs_kbc_bench::report::{Report, number};
use offline_fs_kbc_bench::server::{KINDS, Kind, Place, Programs, Server};

use crate::Effort;
use crate::speed::ANSWER;

const MEMORY: &str = "Memory (PSS, and private)";
const IDLE: &str = "Idle";

/// The target of the image build, in KiB.
const MOST_IDLE: f64 = 2.0 * 1024.0;

/// How much more malloc may keep than before, in KiB: nothing that grows with requests.
const NO_GROWTH: f64 = 16.0;

/// How long a server is left alone before it counts as idle. The daemon releases the memory that only the
/// start needed one second after it.
pub const SETTLED: Duration = Duration::from_millis(1_500);

/// One connection, and many connections.
const CONNECTIONS: [usize; 2] = [1, 256];

/// Measures the memory of all three servers at the same points of the same load.
pub fn measure(report: &mut Report, programs: &Programs, effort: Effort) {
    let place = Place::new(ANSWER);
    let [daemon, echo, ttrpc] = KINDS.map(|kind| life(kind, programs, &place, effort));
    let after = format!("after {} requests", number(effort.many as f64));
    let points = ["idle", "1 connection", "256 connections", &after];
    for (at, name) in points.into_iter().enumerate() {
        let row = report.row(MEMORY, name, daemon[at].pss, "KiB");
        if at == 0 {
            row.at_most(MOST_IDLE);
        }
        row.against("echo", echo[at].pss);
        row.against("ttrpc crate", ttrpc[at].pss);
        let row = report.row(
            MEMORY,
            format!("{name}, private"),
            daemon[at].private,
            "KiB",
        );
        row.against("echo", echo[at].private);
        row.against("ttrpc crate", ttrpc[at].private);
    }
    let grown = daemon[4].anonymous - daemon[3].anonymous;
    let row = report.row(MEMORY, "growth by as many requests again", grown, "KiB");
    row.at_most(NO_GROWTH);

    let server = Server::start(Kind::Daemon, programs, &place);
    thread::sleep(SETTLED);
    let before = wakes(server.pid());
    thread::sleep(Duration::from_millis(effort.idle));
    let woken = wakes(server.pid()) - before;
    let seconds = effort.idle as f64 / 1e3;
    let row = report.row(IDLE, format!("wake-ups in {seconds} s"), woken, "");
    row.at_most(0.0);
}

fn life(kind: Kind, programs: &Programs, place: &Place, effort: Effort) -> [Memory; 5] {
    let server = Server::start(kind, programs, place);
    let look = || {
        // The memory of closed connections is released by then.
        thread::sleep(Duration::from_millis(150));
        memory(server.pid())
    };
    thread::sleep(SETTLED);
    let idle = look();
    let [one, crowd] = CONNECTIONS.map(|connections| {
        let mut clients: Vec<_> = (0..connections).map(|_| server.connect()).collect();
        for client in &mut clients {
            client.ask().expect("an answer");
        }
        look()
    });
    let many = || {
        let mut client = server.connect();
        client.latencies(effort.many / 2);
        drop(client);
        let mut asked = effort.many / 2;
        while asked < effort.many {
            let time = Duration::from_millis(200);
            let rate = throughput(&server.socket, &server.exchange, 8, 8, time);
            asked += (rate * time.as_secs_f64()) as usize;
        }
        look()
    };
    [idle, one, crowd, many(), many()]
}
