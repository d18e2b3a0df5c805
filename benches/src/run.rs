// SPDX-License-Identifier: Apache-2.0

//! What a run of a benchmark measured, where and when.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::process::Machine;

/// A run of a benchmark.
pub struct Run {
    /// `bench` or `bench-pull`, by which readers of the JSON tell what figures it has.
    benchmark: &'static str,
    /// The name and version that the measured program gives.
    version: String,
    commit: String,
    /// The day in UTC.
    date: String,
    /// Whether it was a short one.
    is_quick: bool,
    machine: Machine,
}

impl Run {
    /// The run that starts now, of this program.
    pub fn of(benchmark: &'static str, program: &Path, is_quick: bool) -> Self {
        Self {
            benchmark,
            version: text(Command::new(program).arg("--version"))
                .unwrap_or_else(|| "unknown".to_owned()),
            commit: commit(),
            date: text(Command::new("date").args(["-u", "+%F"]))
                .unwrap_or_else(|| "unknown".to_owned()),
            is_quick,
            // Now: a measurement keeps to some of the processors.
            machine: Machine::here(),
        }
    }

    /// The line above the table.
    pub fn headline(&self) -> String {
        let Self { version, date, .. } = self;
        let quick = if self.is_quick { ", QUICK=1" } else { "" };
        let (commit, machine) = (&self.commit, &self.machine);
        format!("{version} at {commit}, {date}, on {machine}{quick}")
    }

    /// What all the figures of this run have in common.
    pub fn json(&self) -> Value {
        let machine = &self.machine;
        json!({
            "benchmark": self.benchmark, "version": self.version, "commit": self.commit,
            "date": self.date, "quick": self.is_quick,
            "machine": {"cpu": machine.cpu, "cores": machine.cores, "kernel": machine.kernel},
        })
    }
}

/// The measured commit, from git.
fn commit() -> String {
    // Without the names of tags.
    let git = [
        "describe",
        "--always",
        "--dirty",
        "--abbrev=12",
        "--exclude=*",
    ];
    text(Command::new("git").args(git)).unwrap_or_else(|| "an unknown commit".to_owned())
}

/// The output of a command; none if it failed.
fn text(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
