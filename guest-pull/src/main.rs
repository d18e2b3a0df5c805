// SPDX-License-Identifier: Apache-2.0

//! The program: hardens the process, runs the command, and prints its error.

mod cli;

use std::process::ExitCode;

use clap::Parser as _;
use common::heap::WipingAllocator;
use guest_pull::privileges;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Wipes what it frees, but for large blocks: the tables and windows of layers, whose growth and wiping would cost memory and
/// time. The largest blocks with secrets of which nobody else takes care are the HTTP library's buffers, of 128 KiB each.
#[global_allocator]
static HEAP: WipingAllocator<{ 256 << 10 }> = WipingAllocator;

fn main() -> ExitCode {
    if let Err(error) = harden() {
        eprintln!("guest-pull: can't switch core dumps off: {error}");
        return ExitCode::FAILURE;
    }
    // Where that can't be done, a pod must start all the same.
    if let Err(error) = privileges::reduce() {
        eprintln!("guest-pull: it keeps privileges that it does not need: {error}");
    }
    match cli::Command::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("guest-pull: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// No process of the program leaves a core file, or lets others of the same user look into it: it has logins.
fn harden() -> rustix::io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    let none = Some(0);
    setrlimit(
        Resource::Core,
        Rlimit {
            current: none,
            maximum: none,
        },
    )
}
