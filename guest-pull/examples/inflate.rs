// SPDX-License-Identifier: Apache-2.0

//! The floor of a pull: decompresses a blob, and does nothing with the result.

use std::fs::File;
use std::io;

use guest_pull::compression::decompressed;

fn main() -> io::Result<()> {
    let path = std::env::args_os().nth(1).unwrap_or_default();
    let bytes = io::copy(&mut decompressed(File::open(path)?)?, &mut io::sink())?;
    println!("{bytes} bytes");
    Ok(())
}
