// SPDX-License-Identifier: Apache-2.0

//! Blobs of layers: what is compressed is read to its end or refused, in the same way however it is read; and what was
//! compressed comes back, but not after a change.
//!
//! The first byte selects the rest: a blob; or the place of a change, and a content that is compressed here.

#![no_main]

use std::io::{self, Read as _, Write as _};

use flate2::Compression;
use flate2::write::GzEncoder;
use guest_pull::compression::{Kind, decompressed};
use guest_pull::memory::Turns;
use libfuzzer_sys::fuzz_target;
use offline_fs_kbc_fuzz::assert_one_line;

/// How much of a blob is read: bombs have no end.
const MOST: usize = 4 << 20;

fuzz_target!(|input: &[u8]| {
    let Some((&first, rest)) = input.split_first() else {
        return;
    };
    match first % 4 {
        0 | 1 => any(rest),
        2 => comes_back(rest, gzip, 3),
        _ => comes_back(rest, zstd, 4),
    }
});

/// Reads a blob, in pieces of a length.
fn read(blob: &[u8], piece: usize) -> io::Result<(Kind, Vec<u8>)> {
    let turns = Turns::default();
    let turn = turns.alone();
    let mut archive = decompressed(blob, &turn)?;
    let kind = archive.kind();
    let mut all = Vec::new();
    let mut buffer = vec![0; piece];
    loop {
        match archive.read(&mut buffer)? {
            0 => return Ok((kind, all)),
            length => all.extend_from_slice(&buffer[..length]),
        }
        if all.len() >= MOST {
            all.truncate(MOST);
            return Ok((kind, all));
        }
    }
}

fn any(blob: &[u8]) {
    let (whole, pieces) = (read(blob, 64 << 10), read(blob, 1000));
    match (whole, pieces) {
        (Ok((kind, whole)), Ok((_, pieces))) => {
            assert!(whole == pieces, "another content in pieces");
            assert!(kind != Kind::None || whole == blob[..blob.len().min(MOST)]);
        }
        (Err(one), Err(other)) => {
            assert_one_line(&one.to_string());
            assert_eq!(one.to_string(), other.to_string());
        }
        // The end that is wrong is behind what is read.
        (Ok((_, whole)), Err(_)) | (Err(_), Ok((_, whole))) => assert_eq!(whole.len(), MOST),
    }
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(content).expect("memory");
    encoder.finish().expect("memory")
}

fn zstd(content: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 1).expect("memory");
    encoder.include_checksum(true).expect("an option of zstd");
    encoder.write_all(content).expect("memory");
    encoder.finish().expect("memory")
}

/// Compressed in two parts, a content is read whole; with a byte changed behind the `start` by which each part is known, it
/// is not read as another one.
fn comes_back(rest: &[u8], compress: fn(&[u8]) -> Vec<u8>, start: usize) {
    let Some((&[at, more, change], content)) = rest.split_first_chunk() else {
        return;
    };
    let (first, second) = content.split_at(content.len() / 2);
    let parts = [compress(first), compress(second)];
    let mut blob = parts.concat();
    let found = read(&blob, 1000).expect("what was compressed is read");
    assert!(found.1 == content, "another content");
    let at = usize::from(u16::from_le_bytes([at, more])) % blob.len();
    let second = parts[0].len();
    let is_start = at < start || (second..second + start).contains(&at);
    if change != 0 && !is_start {
        blob[at] ^= change;
        if let Ok((_, found)) = read(&blob, 1000) {
            assert!(found == content, "a change passes");
        }
    }
}
