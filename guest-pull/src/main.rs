// SPDX-License-Identifier: Apache-2.0

//! The command line: `pull` and `inspect`, for a person.

mod cli;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    match cli::Command::parse().run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("guest-pull: {error:#}");
            ExitCode::FAILURE
        }
    }
}
