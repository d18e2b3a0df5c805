// SPDX-License-Identifier: Apache-2.0

//! The program: parses the command line, runs the command, and prints an error with its causes, one a line.

mod cli;
mod config;
mod logging;
mod process;
mod sys;

use std::env;
use std::io::{self, Write as _};
use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run(env::args_os().collect()) {
        Ok(code) => code,
        Err(error) => {
            let mut text = format!("offline-fs-kbc: {error}\n");
            for cause in error.chain().skip(1) {
                text.push_str(&format!("  because: {cause}\n"));
            }
            // If standard error cannot be written to, the exit status still reports the failure.
            let _ = io::stderr().write_all(text.as_bytes());
            ExitCode::FAILURE
        }
    }
}
