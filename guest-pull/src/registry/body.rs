// SPDX-License-Identifier: Apache-2.0

//! The small answers of servers: everything but blobs.

use std::io::{self, Read as _};
use std::time::{Duration, Instant};

use ureq::Body;
use zeroize::Zeroizing;

/// How long a small answer may take to come as a whole: a server that sends a byte now and then would hold up the pull for
/// days.
const MOST_TIME: Duration = Duration::from_secs(60);

/// How much is read at once.
const PART: usize = 16 << 10;

/// Reads so many bytes at most, and leaves the rest.
///
/// # Errors
///
/// If the connection breaks, or it takes too long.
pub(super) fn read_small(body: Body, most: u64, bytes: &mut Vec<u8>) -> io::Result<()> {
    let end = Instant::now() + MOST_TIME;
    let mut reader = body.into_reader().take(most);
    // It may be a token.
    let mut part = Zeroizing::new(vec![0; PART]);
    loop {
        match reader.read(&mut part) {
            Ok(0) => return Ok(()),
            Ok(length) => bytes.extend_from_slice(&part[..length]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
        if Instant::now() > end {
            let text = format!("it takes longer than {} s", MOST_TIME.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
    }
}
