// SPDX-License-Identifier: Apache-2.0

//! The small answers of servers: everything but blobs.

use std::io::{self, Read as _};
use std::time::Duration;

use ureq::Body;
use zeroize::Zeroizing;

use crate::registry::connection::{LATE, is_over, said, within};
use crate::registry::times::STALL;

/// How long it may take until a small answer is whole, with all that is asked for its sake: a server that sends a byte now
/// and then would hold up the pull for days.
pub(super) const SMALL: Duration = Duration::from_secs(60);

/// How much is read at once.
const PART: usize = 16 << 10;

/// Reads so many bytes at most, and leaves the rest.
///
/// # Errors
///
/// If the connection breaks, or it takes too long: why, in words.
pub(super) fn read_small(
    body: Body,
    most: u64,
    time: Duration,
    bytes: &mut Vec<u8>,
) -> Result<(), String> {
    let read = || {
        let mut reader = body.into_reader().take(most);
        // It may be a token.
        let mut part = Zeroizing::new(vec![0; PART]);
        loop {
            match within(STALL, || reader.read(&mut part)) {
                Ok(0) => return Ok(()),
                Ok(length) => bytes.extend_from_slice(&part[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(said(&error)),
            }
            if is_over() {
                return Err(LATE.to_owned());
            }
        }
    };
    within(time, read)
}
