// SPDX-License-Identifier: Apache-2.0

//! The floor of a pull: decompresses a blob, and does nothing with the result.

use std::fs::File;
use std::io::{self, BufReader};

use guest_pull::compression::decompressed;

fn main() -> io::Result<()> {
    let path = std::env::args_os().nth(1).unwrap_or_default();
    let blob = BufReader::with_capacity(128 * 1024, File::open(path)?);
    let mut archive = BufReader::with_capacity(128 * 1024, decompressed(blob)?);
    let bytes = io::copy(&mut archive, &mut io::sink())?;
    println!("{bytes} bytes");
    Ok(())
}
