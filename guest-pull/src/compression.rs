// SPDX-License-Identifier: Apache-2.0

//! How layers are compressed. Their content decides, since media types are wrong now and then.

use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;
use zstd::stream::read::Decoder;

/// The largest window of zstd, as an exponent of two: what the format's `--long` needs at most in images, and what is held
/// in memory for it. Without flags, zstd and containerd take up to 2^27.
const MAX_WINDOW: u32 = 27;

/// The archive in a blob: decompressed, if it is compressed.
///
/// # Errors
///
/// If the blob's beginning can't be read.
pub fn decompressed<'r, R: BufRead + Send + 'r>(
    mut blob: R,
) -> io::Result<Box<dyn Read + Send + 'r>> {
    // A reader gives at least one byte, but need not give four.
    let mut start = Vec::new();
    while start.len() < 4 {
        let mut byte = [0];
        match blob.read(&mut byte) {
            Ok(0) => break,
            Ok(_) => start.push(byte[0]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let kind = Kind::of(&start);
    let whole = io::Cursor::new(start).chain(blob);
    Ok(match kind {
        // Several members are one archive.
        Kind::Gzip => Box::new(MultiGzDecoder::new(whole)),
        // Several frames too, and skippable ones among them.
        Kind::Zstd => {
            let mut decoder = Decoder::with_buffer(whole)?;
            decoder.window_log_max(MAX_WINDOW)?;
            Box::new(decoder)
        }
        Kind::None => Box::new(whole),
    })
}

/// How something is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Gzip,
    Zstd,
    None,
}

impl Kind {
    /// By its first bytes.
    fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            _ => Self::None,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use flate2::Compression;
    use flate2::write::GzEncoder;
    use std::io::Write as _;

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn read(blob: &[u8]) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        decompressed(blob)?.read_to_end(&mut all)?;
        Ok(all)
    }

    /// Each form in which a layer comes gives the same archive; one that is cut off gives an error.
    #[test]
    fn a_layer_is_read_however_it_is_compressed() {
        let text: Vec<u8> = (0..300_000_u32).flat_map(u32::to_le_bytes).collect();
        let (first, second) = text.split_at(100_000);
        let zstd = |bytes| zstd::stream::encode_all(bytes, 3).unwrap();
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 3, 0, 0, 0][..], b"abc"].concat();
        for blob in [
            text.clone(),
            gzip(&text),
            [gzip(first), gzip(second)].concat(),
            zstd(&text[..]),
            [zstd(first), zstd(second)].concat(),
            [skippable.clone(), zstd(first), skippable, zstd(second)].concat(),
        ] {
            assert!(read(&blob).unwrap() == text);
        }
        for blob in [gzip(&text), zstd(&text[..])] {
            assert!(read(&blob[..blob.len() - 20]).is_err());
        }
        for short in [&b""[..], b"a", b"abc"] {
            assert_eq!(read(short).unwrap(), short);
        }
    }
}
