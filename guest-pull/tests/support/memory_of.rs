// SPDX-License-Identifier: Apache-2.0

//! How much memory a program takes at most.

// Each of the tests' files uses a part of it.
#![allow(dead_code)]

use std::fs;
use std::process::Command;

use crate::host::output;

/// What the worker may take, whatever a registry sends, in KiB.
pub const MOST_OF_THE_WORKER: u64 = 64 << 10;

/// Runs a program and tells the most memory that it, or a process that it waited for, had at a time. The kernel counts the
/// memory of who starts a program to the program's own, so this is not done by the test itself, which is large.
const MEASURE: &str = "\
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print('peak', resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(code if code >= 0 else 128 - code)
";

/// What became of a program.
pub struct Measured {
    /// What it printed.
    pub said: String,
    pub code: Option<i32>,
    /// The most resident memory of it, or of a process that it waited for, in KiB.
    pub peak: u64,
}

/// Runs a program.
pub fn measured(command: &Command) -> Measured {
    let mut measure = Command::new("/usr/bin/python3");
    measure.args(["-c", MEASURE]).arg(command.get_program());
    let (stdout, stderr, code) = output(measure.args(command.get_args()));
    let (said, peak) = stderr.rsplit_once("peak ").unwrap();
    Measured {
        said: format!("{stdout}{said}"),
        code,
        peak: peak.trim().parse().unwrap(),
    }
}

/// The most resident memory that a running process had so far, in KiB; none if it has ended.
pub fn peak_of(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
