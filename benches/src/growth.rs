// SPDX-License-Identifier: Apache-2.0

//! The cost of more connections, entries and bytes of an answer, and of one peer that never reads.

use std::io::Write as _;
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Duration;

use offline_fs_kbc::text::count;
use offline_fs_kbc_bench::median;
use offline_fs_kbc_bench::process::{Processors, memory, run_on};
use offline_fs_kbc_bench::report::Report;
use offline_fs_kbc_bench::server::{Kind, Place, Programs, RESOURCE, Server, resources};
use offline_fs_kbc_bench::wire;

use crate::Effort;
use crate::memory::SETTLED;
use crate::speed::ANSWER;

const CONNECTIONS: &str = "With connections that rest (latency p50; PSS)";
const ENTRIES: &str = "With entries in the file (latency p50; PSS)";
const SIZES: &str = "With the size of the answer (latency p50)";
const NEVER: &str = "Beside a peer that sends and never reads";

/// Measures each, compared with the echo server where that makes sense.
pub fn measure(report: &mut Report, programs: &Programs, effort: Effort) {
    let place = Place::new(ANSWER);
    let pair = [Kind::Daemon, Kind::Echo].map(|kind| Server::start(kind, programs, &place));
    let mut resting = Vec::new();
    for connections in [1, 16, 256, 1_024] {
        while resting.len() < 2 * connections {
            for server in &pair {
                let mut client = server.connect();
                client.ask().expect("an answer");
                resting.push(client);
            }
        }
        let [daemon, echo] = p50(&pair, effort, effort.requests / 2);
        let name = count(connections, "connection", "connections");
        let row = report.row(CONNECTIONS, name.clone(), daemon, "us");
        row.against("echo", echo);
        let [daemon, echo] = pair.each_ref().map(|server| memory(server.pid()).pss);
        let row = report.row(CONNECTIONS, format!("{name}, PSS"), daemon, "KiB");
        row.against("echo", echo);
    }
    drop((resting, pair));

    for entries in [1, 100, 10_000, 100_000] {
        let names = (1..entries).map(|at| (format!("default/bench/{at}"), 20));
        let text = resources(names.chain([(RESOURCE.to_owned(), ANSWER)]));
        let place = Place::with(&text, ANSWER);
        let pair = [Kind::Daemon, Kind::Echo].map(|kind| Server::start(kind, programs, &place));
        let [daemon, echo] = p50(&pair, effort, effort.requests / 2);
        let name = count(entries, "entry", "entries");
        let row = report.row(ENTRIES, name.clone(), daemon, "us");
        row.against("echo", echo);
        let pss = memory(pair[0].pid()).pss;
        report.row(ENTRIES, format!("{name}, PSS"), pss, "KiB");
    }

    // The last size just fits into ttrpc's largest message.
    for bytes in [100, 1 << 10, 10 << 10, 100 << 10, 1 << 20, (4 << 20) - 64] {
        let place = Place::new(bytes);
        let pair = [Kind::Daemon, Kind::Echo].map(|kind| Server::start(kind, programs, &place));
        let requests = (effort.requests / 2).min((20 << 20) / bytes).max(5);
        let [daemon, echo] = p50(&pair, effort, requests);
        let row = report.row(SIZES, format!("{bytes} bytes"), daemon, "us");
        row.against("echo", echo);
    }
}

/// The median latency of one client, with the servers in turn.
fn p50(pair: &[Server; 2], effort: Effort, requests: usize) -> [f64; 2] {
    let mut clients = pair.each_ref().map(Server::connect);
    let mut times: [Vec<f64>; 2] = Default::default();
    for _ in 0..effort.rounds {
        for ((client, server), times) in clients.iter_mut().zip(pair).zip(&mut times) {
            run_on(server.pid(), Processors::One);
            times.push(median(&mut client.latencies(requests)));
            run_on(server.pid(), Processors::Any);
        }
    }
    times.each_mut().map(|times| median(times))
}

/// Measures what such a peer costs the daemon and the other clients.
pub fn a_peer_that_never_reads(report: &mut Report, programs: &Programs, effort: Effort) {
    const LARGE: &str = "default/bench/large";
    let text = resources([(RESOURCE.to_owned(), ANSWER), (LARGE.to_owned(), 1 << 20)]);
    let place = Place::with(&text, ANSWER);
    let server = Server::start(Kind::Daemon, programs, &place);
    let mut client = server.connect();
    let (mut idle, mut beside) = (Vec::new(), Vec::new());
    // Measured once: memory that the heap keeps after one peer is reused for the next.
    thread::sleep(SETTLED);
    client.latencies(effort.requests);
    let before = memory(server.pid()).pss;
    let mut held = Vec::new();
    for _ in 0..effort.rounds {
        idle.push(median(&mut client.latencies(effort.requests)));
        let peer = never_read(&server, &wire::request(LARGE));
        thread::sleep(Duration::from_millis(50));
        beside.push(median(&mut client.latencies(effort.requests)));
        held.push(memory(server.pid()).pss);
        drop(peer);
        thread::sleep(Duration::from_millis(50));
    }
    let held = median(&mut held) - before;
    report.row(NEVER, "memory it holds", held, "KiB");
    let row = report.row(
        NEVER,
        "latency p50 of another client",
        median(&mut beside),
        "us",
    );
    row.against("idle", median(&mut idle));
}

/// Asks for large answers until the server stops reading, and reads none.
fn never_read(server: &Server, request: &[u8]) -> UnixStream {
    let mut stream = UnixStream::connect(&server.socket).expect("a connection");
    let wait = Some(Duration::from_millis(200));
    stream.set_write_timeout(wait).expect("a timeout");
    while stream.write_all(request).is_ok() {}
    stream
}
