// SPDX-License-Identifier: Apache-2.0

//! The program: reads the command line, does what it says, and prints what went wrong, one cause a
//! line.

mod cli;
mod config;
mod logging;
mod process;

use std::env;
use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run(env::args_os().collect()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("offline-fs-kbc: {error}");
            for cause in error.chain().skip(1) {
                eprintln!("  because: {cause}");
            }
            ExitCode::FAILURE
        }
    }
}
