// SPDX-License-Identifier: Apache-2.0

//! The program: reads the command line, does what it says, and prints what went wrong, one cause a
//! line.

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
            // Where nobody can read it, the exit status has to do.
            let _ = io::stderr().write_all(text.as_bytes());
            ExitCode::FAILURE
        }
    }
}
