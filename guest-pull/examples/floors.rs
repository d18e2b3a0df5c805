// SPDX-License-Identifier: Apache-2.0

//! What a pull can't do without, alone: `floors inflate|digests|lz4 BLOB…` prints the seconds that it takes.
//!
//! `inflate` (of zstd too) uses all processors, a thread a blob, and does nothing with the result. The others use one; they
//! decompress too, but that doesn't count.

use std::fs::File;
use std::hint::black_box;
use std::io::{self, BufRead, BufReader, Error, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use guest_pull::compression::decompressed;
use guest_pull::digest::Hash;
use guest_pull::memory::{Turn, Turns};
use lz4_flex::block::{compress_into, get_maximum_output_size};

/// How much is read at once.
const PART: usize = 128 * 1024;

/// What is compressed at once, as in a layer.
const CLUSTER: usize = 64 * 1024;

fn main() -> io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let what = arguments.next().unwrap_or_default();
    let blobs: Vec<_> = arguments.collect();
    let time = match what.as_str() {
        "inflate" => inflate(&blobs)?,
        "digests" => digests(&blobs)?,
        "lz4" => lz4(&blobs)?,
        _ => return Err(Error::other("floors inflate|digests|lz4 BLOB…")),
    };
    println!("{}", time.as_secs_f64());
    Ok(())
}

fn open(blob: &str) -> io::Result<BufReader<File>> {
    Ok(BufReader::with_capacity(PART, File::open(blob)?))
}

fn archive(blob: &str) -> io::Result<BufReader<impl Read>> {
    // As a layer that is made alone, until the program ends.
    let turns: &'static Turns = Box::leak(Box::default());
    let turn: &'static Turn<'_> = Box::leak(Box::new(turns.alone()));
    let archive = decompressed(open(blob)?, turn)?;
    Ok(BufReader::with_capacity(PART, archive))
}

fn inflate(blobs: &[String]) -> io::Result<Duration> {
    let start = Instant::now();
    let next = AtomicUsize::new(0);
    let work = || -> io::Result<()> {
        while let Some(blob) = blobs.get(next.fetch_add(1, Ordering::Relaxed)) {
            each_part(archive(blob)?, |part| {
                black_box(part);
            })?;
        }
        Ok(())
    };
    thread::scope(|scope| {
        let threads = thread::available_parallelism().map_or(1, usize::from);
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut ended = threads.into_iter().map(|thread| thread.join());
        ended.try_for_each(|result| {
            result.unwrap_or_else(|_| Err(Error::other("a thread panicked")))
        })
    })?;
    Ok(start.elapsed())
}

fn digests(blobs: &[String]) -> io::Result<Duration> {
    let mut time = Duration::ZERO;
    for blob in blobs {
        let mut hash = Hash::new();
        let mut add = |part: &[u8]| {
            let start = Instant::now();
            hash.update(part);
            time += start.elapsed();
        };
        each_part(open(blob)?, &mut add)?;
        each_part(archive(blob)?, &mut add)?;
    }
    Ok(time)
}

fn lz4(blobs: &[String]) -> io::Result<Duration> {
    let mut time = Duration::ZERO;
    let mut to = vec![0; get_maximum_output_size(CLUSTER)];
    for blob in blobs {
        each_part(archive(blob)?, |part| {
            let start = Instant::now();
            for cluster in part.chunks(CLUSTER) {
                black_box(compress_into(cluster, &mut to).ok());
            }
            time += start.elapsed();
        })?;
    }
    Ok(time)
}

fn each_part(mut reader: impl BufRead, mut look: impl FnMut(&[u8])) -> io::Result<()> {
    loop {
        let part = reader.fill_buf()?;
        if part.is_empty() {
            return Ok(());
        }
        look(part);
        let length = part.len();
        reader.consume(length);
    }
}
