// SPDX-License-Identifier: Apache-2.0

//! Command lines, the program's own and the legacy ones, with the configuration files that they name.
//!
//! The input has one argument a line, the program's name first; after a line with a single dot comes the file
//! that replaces the argument FILE.

#![no_main]
// The program's modules are compiled in, and most of their code is not called.
#![allow(dead_code)]

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt as _;

use libfuzzer_sys::fuzz_target;
use offline_fs_kbc_fuzz::{assert_no_secret, assert_one_line, marked, unmarked};

#[path = "../../src/cli/mod.rs"]
mod cli;
#[path = "../../src/config/mod.rs"]
mod config;
#[path = "../../src/logging.rs"]
mod logging;
#[path = "../../src/process.rs"]
mod process;
#[path = "../../src/sys.rs"]
mod sys;

use cli::Command;

fuzz_target!(|input: &[u8]| {
    let (args, file) = match input.windows(3).position(|part| part == b"\n.\n") {
        Some(at) => (&input[..at], Some(marked(&input[at + 3..]))),
        None => (input, None),
    };
    // It is dropped, and so removed, at the end of a run.
    let args = unmarked(args);
    let file = file.map(|text| {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), text).expect("it can be written");
        file
    });
    let args: Vec<OsString> = args
        .split(|&byte| byte == b'\n')
        .map(|arg| match (arg, &file) {
            (b"FILE", Some(file)) => file.path().as_os_str().to_owned(),
            _ => OsString::from_vec(arg.to_vec()),
        })
        .collect();
    let is_component = ["attestation-agent", "confidential-data-hub"]
        .map(OsString::from)
        .contains(&args[0]);
    let is_ours = args.get(1).is_some_and(|arg| {
        let arg = arg.to_string_lossy();
        !arg.starts_with('-') || ["--help", "-h", "--version", "-V"].contains(&&*arg)
    });
    match cli::parse(args) {
        Ok(Command::Serve(serve)) => {
            for text in serve.warnings.iter().chain(&serve.mistakes) {
                assert_one_line(text);
                if file.is_some() {
                    assert_no_secret(text);
                }
            }
        }
        Ok(_) => assert!(
            is_ours,
            "a component's command line asks for something else"
        ),
        Err(error) => {
            assert!([0, 2].contains(&error.exit_code()));
            assert!(
                is_ours || !is_component,
                "a component's command line stops the daemon"
            );
        }
    }
});
