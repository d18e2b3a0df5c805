// SPDX-License-Identifier: Apache-2.0

//! The floor of loading: reads a file, decodes each line from base64, and keeps the results. Prints the time
//! in ms, and its peak memory in KiB.
//!
//! `decode FILE`

use std::env;
use std::fs;
use std::io;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use offline_fs_kbc_bench::process;

fn main() -> io::Result<()> {
    let file = env::args_os().nth(1).ok_or(io::ErrorKind::InvalidInput)?;
    let start = Instant::now();
    let text = fs::read(file)?;
    let lines = text.split(|&byte| byte == b'\n');
    let values: Result<Vec<_>, _> = lines.map(|line| STANDARD.decode(line)).collect();
    let values = values.map_err(io::Error::other)?;
    let time = start.elapsed().as_secs_f64() * 1e3;
    let peak = process::memory(std::process::id()).peak;
    assert!(!values.is_empty());
    println!("{time} {peak}");
    Ok(())
}
