// SPDX-License-Identifier: Apache-2.0

//! Archives of any bytes: each becomes a layer that a reader of its own and fsck.erofs find right, or is refused.
//!
//! The lowest bit of the first byte says whether headers get the right checksum, without which most changes of them would
//! not be looked at.

#![no_main]

use libfuzzer_sys::fuzz_target;
use offline_fs_kbc_fuzz::layers::{check, with_checksums};

fuzz_target!(|input: &[u8]| {
    let Some((&first, archive)) = input.split_first() else {
        return;
    };
    match first & 1 {
        0 => check(archive),
        _ => check(&with_checksums(archive)),
    }
});
