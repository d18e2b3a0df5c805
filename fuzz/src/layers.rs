// SPDX-License-Identifier: Apache-2.0

//! Layers made of any archive, and read again.

use std::fs::File;
use std::hash::{DefaultHasher, Hasher as _};
use std::io::{self, ErrorKind, Read, Write as _};
use std::os::unix::fs::FileExt as _;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use guest_pull::erofs;
use guest_pull::layer::{self, Error, Summary};
use guest_pull::store::Stored;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

use crate::assert_one_line;
use crate::erofs_reader::{Kind, Tree, hash, read};
use crate::raw_tar::CHECKSUM;

/// The largest layer: a file of holes has sixteen times as many bytes, which all are compressed and read again.
const MOST: usize = 2 << 20;

/// One of so many layers is given to fsck.erofs, if it is there: it is a process of its own.
const FSCK_SHARE: u64 = 500;

/// The most bytes that each read of an archive gives in the second run.
const PIECE: usize = 700;

/// The archive with right checksums, so that the fuzzer's changes of headers are looked at.
pub fn with_checksums(archive: &[u8]) -> Vec<u8> {
    let mut archive = archive.to_vec();
    for block in archive.chunks_exact_mut(512) {
        if block[257..262] == *b"ustar" {
            let (at, length) = CHECKSUM;
            block[at..at + length].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[at..at + length].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    archive
}

/// Makes a layer of an archive in two ways, compressed or not, of large and small reads. Panics unless both give the same
/// tree, or the same error, and the file systems are right.
pub fn check(archive: &[u8]) {
    let compressed = convert(archive, true);
    let plain = convert(Pieces(archive), false);
    for failed in [&compressed, &plain]
        .into_iter()
        .filter_map(|result| result.as_ref().err())
    {
        assert_one_line(&failed.to_string());
    }
    let (made, plain) = match (compressed, plain) {
        (Ok(made), Ok(plain)) => (made, Some(plain)),
        (Ok(made), Err(error)) if is_too_large(&error) => (made, None),
        (Err(error), _) if is_too_large(&error) => return,
        (Err(_), Err(error)) if is_too_large(&error) => return,
        (Err(one), Err(other)) => {
            assert_eq!(one.to_string(), other.to_string());
            return;
        }
        (Ok(_), Err(error)) | (Err(error), Ok(_)) => panic!("once alone: {error}"),
    };
    let (summary, image) = made;
    let tree = read(&image).unwrap_or_else(|what| panic!("{what}"));
    if let Some((plain_summary, plain)) = plain {
        let plain = read(&plain).unwrap_or_else(|what| panic!("not compressed: {what}"));
        assert!(tree == plain, "another tree without compression");
        assert_eq!(
            (
                summary.entries,
                &summary.implied,
                &summary.links,
                summary.hides_all
            ),
            (
                plain_summary.entries,
                &plain_summary.implied,
                &plain_summary.links,
                plain_summary.hides_all
            )
        );
    }
    check_notes(summary, &tree);
    let mut hasher = DefaultHasher::new();
    hasher.write(archive);
    if hasher.finish() % FSCK_SHARE == 0 {
        fsck(&image);
    }
}

/// What is said beside the layer must be true of it.
fn check_notes(summary: Summary, tree: &Tree) {
    assert!(summary.implied.is_sorted());
    for path in &summary.implied {
        let entry = &tree[path];
        assert_eq!(entry.kind, Kind::Directory);
        assert_eq!((entry.mode, entry.uid, entry.gid), (0o755, 0, 0));
    }
    for (path, target) in &summary.links {
        assert_eq!(tree[path].kind, Kind::File(0, hash(b"")));
        assert!(target.starts_with(b"/") && path != target);
    }
    let opaque = &b"trusted.overlay.opaque"[..];
    assert_eq!(
        summary.hides_all,
        tree[&b"/"[..]].xattrs.contains_key(opaque)
    );
    // Nothing that overlayfs obeys comes from the archive.
    for (path, entry) in tree {
        for (name, value) in &entry.xattrs {
            let is_overlays = name.starts_with(b"trusted.overlay.");
            assert!(
                !is_overlays || name == opaque && value == b"y",
                "{}",
                path.escape_ascii()
            );
        }
    }
    let stored = Stored::from(summary);
    let again = Stored::parse(&stored.encode());
    assert_eq!(again, Some(stored), "the notes don't come back");
}

/// A layer of an archive: what became of it, and the file.
fn convert(archive: impl Read, compress: bool) -> Result<(Summary, Vec<u8>), Error> {
    let file = bounded_file().expect("memory for a file");
    let kept = file.try_clone().expect("a second descriptor");
    let scratch = memfd_create("scratch", MFdFlags::empty()).expect("memory for a file");
    let summary = layer::convert(archive, file, scratch.into(), compress, [1; 16])?;
    let mut image = vec![0; summary.bytes as usize];
    kept.read_exact_at(&mut image, 0)
        .expect("the layer is written");
    Ok((summary, image))
}

/// A file in memory that can't grow: writing more to it is refused.
fn bounded_file() -> io::Result<File> {
    let file = File::from(memfd_create("layer", MFdFlags::MFD_ALLOW_SEALING)?);
    file.set_len(MOST as u64)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_GROW))?;
    Ok(file)
}

fn is_too_large(error: &Error) -> bool {
    let kind = match error {
        Error::Write(erofs::Error::Write(error)) => error.kind(),
        _ => return false,
    };
    kind == ErrorKind::PermissionDenied
}

/// Gives the bytes in small pieces.
struct Pieces<'b>(&'b [u8]);

impl Read for Pieces<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(PIECE);
        self.0.read(&mut buffer[..most])
    }
}

fn fsck(image: &[u8]) {
    static PROGRAM: OnceLock<bool> = OnceLock::new();
    let run = |arg: &std::ffi::OsStr| {
        let mut command = Command::new("fsck.erofs");
        command
            .arg(arg)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
    };
    if !*PROGRAM.get_or_init(|| run("--help".as_ref()).is_ok()) {
        return;
    }
    let mut file = tempfile::NamedTempFile::new().expect("a file");
    file.write_all(image).expect("room for a file");
    let status = run(file.path().as_os_str()).expect("fsck.erofs runs");
    assert!(status.success(), "fsck.erofs: {status}");
}
