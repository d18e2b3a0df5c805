// SPDX-License-Identifier: Apache-2.0

//! The frame reader: whatever a peer sends and however it is cut into pieces, each whole frame is
//! answered once, in order, and nothing else.
//!
//! The first byte says how long the pieces are, and by its highest bit whether a frame that is cut off
//! at the end is completed, which is how frames over the cap are reached.

#![no_main]

use libfuzzer_sys::fuzz_target;
use offline_fs_kbc_fuzz::{Daemon, assert_harmless, frame, frames, unmarked};

/// The most bytes that a frame is completed by: just over the cap.
const MOST: usize = (4 << 20) + 64;

fuzz_target!(|input: &[u8]| {
    let Some((&first, bytes)) = input.split_first() else {
        return;
    };
    // A refusal may show the name that was asked for.
    let mut bytes = unmarked(bytes);
    let (_, missing) = frames(&bytes);
    if first & 0x80 != 0 && (1..=MOST).contains(&missing) {
        bytes.resize(bytes.len() + missing, 0);
        // In step after it.
        bytes.extend(frame(7, &[]));
    }
    let piece = match first & 0x7f {
        0 => bytes.len(),
        // A large frame in small pieces is slow, and no more than many pieces.
        piece => usize::from(piece).max(bytes.len() / 4096),
    };
    let answers = Daemon::get().talk(&bytes, piece);
    let ids: Vec<_> = answers.iter().map(|(id, _)| *id).collect();
    assert_eq!(ids, frames(&bytes).0);
    for (_, response) in &answers {
        assert_harmless(response);
    }
});
