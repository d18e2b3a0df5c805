// SPDX-License-Identifier: Apache-2.0

//! The frame reader: whatever a peer sends, and however it is split into pieces, each complete frame is
//! answered once, in order, and nothing else is.
//!
//! The first byte gives the length of the pieces; its highest bit says whether a cut-off frame at the end is
//! completed, which is how frames over the limit are reached.

#![no_main]

use libfuzzer_sys::fuzz_target;
use offline_fs_kbc_fuzz::{Daemon, assert_harmless, frame, frames, unmarked};

/// The most bytes that are added to complete a frame: just over the limit.
const MOST: usize = (4 << 20) + 64;

fuzz_target!(|input: &[u8]| {
    let Some((&first, bytes)) = input.split_first() else {
        return;
    };
    // A refusal may show the requested name.
    let mut bytes = unmarked(bytes);
    let (_, missing) = frames(&bytes);
    if first & 0x80 != 0 && (1..=MOST).contains(&missing) {
        bytes.resize(bytes.len() + missing, 0);
        // After it, the stream must be in step.
        bytes.extend(frame(7, &[]));
    }
    let piece = match first & 0x7f {
        0 => bytes.len(),
        // A large frame in small pieces is slow, and tests no more than many pieces do.
        piece => usize::from(piece).max(bytes.len() / 4096),
    };
    let answers = Daemon::get().talk(&bytes, piece);
    let ids: Vec<_> = answers.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, frames(&bytes).0);
    for (_, response) in &answers {
        assert_harmless(response);
    }
});
