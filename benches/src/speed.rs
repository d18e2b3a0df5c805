// SPDX-License-Identifier: Apache-2.0

//! Start, latency and throughput.

use std::time::Duration;

use offline_fs_kbc_bench::client::throughput;
use offline_fs_kbc_bench::process::{Processors, run_on};
use offline_fs_kbc_bench::report::Report;
use offline_fs_kbc_bench::server::{KINDS, Place, Programs, Server};
use offline_fs_kbc_bench::{median, quantile};

use crate::Effort;

const SPEED: &str = "Speed";

/// The size of a credential with one registry, about.
pub const ANSWER: usize = 200;

/// The number of connections, and of requests in flight on each.
const CROWD: usize = 8;

/// Measures the time from before exec to the first answer.
pub fn starts(report: &mut Report, programs: &Programs, effort: Effort) {
    let place = Place::new(ANSWER);
    let mut times: [Vec<f64>; 3] = Default::default();
    for _ in 0..effort.starts {
        for (kind, times) in KINDS.into_iter().zip(&mut times) {
            let server = Server::start(kind, programs, &place);
            times.push(server.started.as_secs_f64() * 1e3);
        }
    }
    let [daemon, echo, ttrpc] = times.each_mut().map(|times| median(times));
    let row = report.row(SPEED, "start to first answer", daemon, "ms");
    row.against("echo", echo).at_most(1.3);
    row.against("ttrpc crate", ttrpc);
}

/// Measures one client that waits for each answer, and many that do not.
pub fn requests(report: &mut Report, programs: &Programs, effort: Effort) {
    let place = Place::new(ANSWER);
    let servers = KINDS.map(|kind| Server::start(kind, programs, &place));
    let mut clients = servers.each_ref().map(Server::connect);
    let mut p50: [Vec<f64>; 3] = Default::default();
    let mut p99: [Vec<f64>; 3] = Default::default();
    let mut apart: [Vec<f64>; 3] = Default::default();
    let mut rates: [Vec<f64>; 3] = Default::default();
    for _ in 0..effort.rounds {
        for at in 0..servers.len() {
            let server = &servers[at];
            run_on(server.pid(), Processors::One);
            let mut times = clients[at].latencies(effort.requests);
            p50[at].push(quantile(&mut times, 0.5));
            p99[at].push(quantile(&mut times, 0.99));
            run_on(server.pid(), Processors::Two);
            apart[at].push(median(&mut clients[at].latencies(effort.requests)));
            run_on(server.pid(), Processors::Any);
            let time = Duration::from_millis(effort.loaded);
            let rate = throughput(&server.socket, &server.exchange, CROWD, CROWD, time);
            rates[at].push(rate);
        }
    }
    let [daemon, echo, ttrpc] = p50.each_mut().map(|times| median(times));
    let row = report.row(SPEED, "latency p50, one processor", daemon, "us");
    row.against("echo", echo).at_most(1.8);
    row.against("ttrpc crate", ttrpc);
    let [daemon, echo, ttrpc] = p99.each_mut().map(|times| median(times));
    let row = report.row(SPEED, "latency p99, one processor", daemon, "us");
    row.against("echo", echo).against("ttrpc crate", ttrpc);
    let [daemon, echo, ttrpc] = apart.each_mut().map(|times| median(times));
    let row = report.row(SPEED, "latency p50, two processors", daemon, "us");
    row.against("echo", echo).against("ttrpc crate", ttrpc);
    let [daemon, echo, ttrpc] = rates.each_mut().map(|rates| median(rates));
    let row = report.row(SPEED, "answers, 8 connections x 8", daemon, "/s");
    row.against("echo", echo).at_least(0.25);
    row.against("ttrpc crate", ttrpc).at_least(1.8);
}
