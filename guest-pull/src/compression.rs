// SPDX-License-Identifier: Apache-2.0

//! How layers are compressed. Their content decides, since media types are wrong now and then.

use std::io::{self, BufRead, Read};

use flate2::bufread::MultiGzDecoder;
use zstd::stream::read::Decoder;

use crate::memory::{MAX_WINDOW, Turn};

/// How many bytes tell how a blob is compressed, and how large the window of its first zstd frame is.
const START: u64 = 18;

/// How something is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// With gzip.
    Gzip,
    /// With zstd.
    Zstd,
    /// Not at all.
    None,
}

impl Kind {
    /// By its first bytes; or the name of a compression that no layer has.
    fn of(start: &[u8]) -> Result<Self, &'static str> {
        match start {
            [0x1f, 0x8b, ..] => Ok(Self::Gzip),
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Ok(Self::Zstd),
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Err("xz"),
            // So long because the name of an archive's first entry is here too.
            [
                b'B',
                b'Z',
                b'h',
                b'1'..=b'9',
                0x31,
                0x41,
                0x59,
                0x26,
                0x53,
                0x59,
                ..,
            ] => Err("bzip2"),
            [0x04, 0x22, 0x4d, 0x18, ..] => Err("lz4"),
            _ => Ok(Self::None),
        }
    }

    /// What a layer's media type says; none if it doesn't. Docker's without an end says nothing, since its layers may be
    /// compressed all the same.
    pub fn of_media_type(media_type: &str) -> Option<Self> {
        let plain = media_type.strip_suffix("+encrypted").unwrap_or(media_type);
        match plain.rsplit(['+', '.']).next() {
            Some("gzip") => Some(Self::Gzip),
            Some("zstd") => Some(Self::Zstd),
            Some("tar") if plain.starts_with("application/vnd.oci.") => Some(Self::None),
            _ => None,
        }
    }

    /// What a blob is.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::None => "not compressed",
        }
    }
}

/// The archive in a blob: decompressed, if it is compressed.
pub struct Decompressed<'r> {
    kind: Kind,
    turn: &'r Turn<'r>,
    archive: Box<dyn Read + Send + 'r>,
}

impl Decompressed<'_> {
    /// How the blob is compressed.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl Read for Decompressed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.archive.read(buffer);
        read.map_err(|error| {
            if self.kind == Kind::Zstd && error.to_string() == WINDOW {
                self.turn.ask_for_all();
            }
            explained(self.kind, error)
        })
    }
}

/// Begins to decompress a blob. A window that is too large for this turn is an error, and the turn tells whether it would
/// not be too large for another one.
///
/// # Errors
///
/// If the blob's beginning can't be read, or it is compressed in another way, or no turn has the memory for it.
pub fn decompressed<'r, R: BufRead + Send + 'r>(
    mut blob: R,
    turn: &'r Turn<'r>,
) -> io::Result<Decompressed<'r>> {
    let mut start = Vec::new();
    blob.by_ref().take(START).read_to_end(&mut start)?;
    let kind = Kind::of(&start).map_err(|other| {
        io::Error::other(format!(
            "compressed with {other}; layers are compressed with gzip, zstd or not at all: push the image again as one of these"
        ))
    })?;
    // Before others are waited for.
    if kind == Kind::Zstd && window(&start).is_some_and(|window| window > 1 << MAX_WINDOW) {
        return Err(explained(kind, io::Error::other(WINDOW)));
    }
    let whole = io::Cursor::new(start).chain(blob);
    let archive: Box<dyn Read + Send + 'r> = match kind {
        // Several members are one archive.
        Kind::Gzip => Box::new(MultiGzDecoder::new(whole)),
        // Several frames too, and skippable ones among them.
        Kind::Zstd => {
            let mut decoder = Decoder::with_buffer(whole)?;
            decoder.window_log_max(turn.window())?;
            Box::new(decoder)
        }
        Kind::None => Box::new(whole),
    };
    Ok(Decompressed {
        kind,
        turn,
        archive,
    })
}

/// What libzstd says of a window that is too large.
const WINDOW: &str = "Frame requires too much memory for decoding";

/// The window that the header of a zstd frame says, in bytes; none if it is no such header.
fn window(start: &[u8]) -> Option<u64> {
    let header = start.strip_prefix(&[0x28, 0xb5, 0x2f, 0xfd])?;
    let (&flags, rest) = header.split_first()?;
    let is_single = flags & 0x20 != 0;
    if !is_single {
        let window = rest.first()?;
        let base = 1_u64 << (10 + (window >> 3));
        return Some(base + base / 8 * u64::from(window & 7));
    }
    // The whole content is the window then.
    let dictionary = [0, 1, 2, 4][usize::from(flags & 3)];
    let rest = rest.get(dictionary..)?;
    let length = 1 << (flags >> 6);
    let mut bytes = [0; 8];
    bytes
        .get_mut(..length)?
        .copy_from_slice(rest.get(..length)?);
    let added = if length == 2 { 256 } else { 0 };
    Some(u64::from_le_bytes(bytes).saturating_add(added))
}

/// The same error in words for who has the image, if it is a decoder's own.
fn explained(kind: Kind, error: io::Error) -> io::Error {
    let text = match (kind, error.to_string().as_str()) {
        (Kind::None, _) => return error,
        (_, "incomplete deflate stream" | "incomplete frame" | "unexpected end of file") => {
            format!("it ends within its {} data", kind.name())
        }
        (Kind::Gzip, "invalid gzip header") => {
            "something else follows its gzip data, or a broken header".to_owned()
        }
        (Kind::Zstd, "Unknown frame descriptor") => {
            "something else follows its zstd data".to_owned()
        }
        (Kind::Zstd, WINDOW) => format!(
            "its zstd data has a window over {} MiB; push the image again, compressed without a larger one (zstd: without \
             --long and --ultra)",
            (1 << MAX_WINDOW) >> 20
        ),
        (Kind::Zstd, "Allocation error : not enough memory") => {
            "there is not enough memory for the window of its zstd data; give the VM more memory"
                .to_owned()
        }
        (Kind::Zstd, "Dictionary mismatch") => {
            "its zstd data was compressed with a dictionary, which an image can't bring along"
                .to_owned()
        }
        (Kind::Zstd, "Restored data doesn't match checksum") => {
            "its zstd data doesn't match its checksum".to_owned()
        }
        _ => return error,
    };
    io::Error::new(error.kind(), text)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::memory::{SHARED_WINDOW, Turns};
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
        let turns = Turns::default();
        let turn = turns.shared();
        decompressed(blob, &turn)?.read_to_end(&mut all)?;
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

    /// What media types say, and when they say nothing.
    #[test]
    fn media_types_say_how_a_layer_is_compressed() {
        let oci = "application/vnd.oci.image.layer.v1.tar";
        let docker = "application/vnd.docker.image.rootfs.diff.tar";
        for (media_type, expected) in [
            (oci.to_owned(), Some(Kind::None)),
            (format!("{oci}+gzip"), Some(Kind::Gzip)),
            (format!("{oci}+zstd"), Some(Kind::Zstd)),
            (format!("{oci}+encrypted"), Some(Kind::None)),
            (format!("{oci}+zstd+encrypted"), Some(Kind::Zstd)),
            (format!("{docker}.gzip"), Some(Kind::Gzip)),
            (format!("{docker}.zstd"), Some(Kind::Zstd)),
            (docker.to_owned(), None),
            (String::new(), None),
        ] {
            assert_eq!(Kind::of_media_type(&media_type), expected, "{media_type}");
        }
    }

    /// What a layer of a large window says where there is no memory for it: libzstd's words for it are known.
    #[test]
    fn too_little_memory_is_explained() {
        // Error codes are the last numbers, and this one is 64.
        let name = zstd::zstd_safe::get_error_name(0_usize.wrapping_sub(64));
        let text = explained(Kind::Zstd, io::Error::other(name)).to_string();
        assert!(text.contains("give the VM more memory"), "{name}");
        let name = zstd::zstd_safe::get_error_name(0_usize.wrapping_sub(16));
        assert_eq!(name, WINDOW);
    }

    fn with_window(bytes: &[u8], log: u32) -> Vec<u8> {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(log).unwrap();
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    /// A window that is too large beside others, in the first frame or a later one, is asked for; one that is too large for
    /// all is refused before any other layer is waited for.
    #[test]
    fn large_windows_are_asked_for() {
        let text = vec![7; 100_000];
        let small = zstd::stream::encode_all(&text[..], 3).unwrap();
        for (log, asks, fits_alone) in [
            (SHARED_WINDOW, false, true),
            (SHARED_WINDOW + 1, true, true),
            (MAX_WINDOW, true, true),
            (MAX_WINDOW + 1, false, false),
        ] {
            let blob = with_window(&text, log);
            assert_eq!(window(&blob), Some(1 << log));
            let turns = Turns::default();
            let read = |blob: &[u8], turn: &Turn<'_>| {
                let mut all = Vec::new();
                decompressed(blob, turn)?.read_to_end(&mut all)
            };
            let turn = turns.shared();
            assert_eq!(read(&blob, &turn).is_ok(), !asks && fits_alone, "{log}");
            assert_eq!(turn.needs_all(), asks, "{log}");
            drop(turn);
            let turn = turns.shared();
            let later = [&small[..], &blob].concat();
            assert_eq!(read(&later, &turn).is_ok(), !asks && fits_alone, "{log}");
            assert_eq!(turn.needs_all(), asks || !fits_alone, "{log}");
            drop(turn);
            assert_eq!(read(&blob, &turns.alone()).is_ok(), fits_alone, "{log}");
            assert_eq!(read(&later, &turns.alone()).is_ok(), fits_alone, "{log}");
        }
    }

    /// The content of a frame of one segment is its window.
    #[test]
    fn windows_are_read() {
        for length in [1, 255, 256, 300, 65_535, 65_792, 1_000_000] {
            let blob = zstd::bulk::compress(&vec![7; length], 3).unwrap();
            assert_eq!(window(&blob[..18.min(blob.len())]), Some(length as u64));
        }
        for other in [
            &b""[..],
            b"\x28\xb5\x2f\xfd",
            b"\x28\xb5\x2f\xfd\xe0",
            b"abcdefgh",
        ] {
            assert_eq!(window(other), None);
        }
    }
}
