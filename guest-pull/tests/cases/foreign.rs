// SPDX-License-Identifier: Apache-2.0

//! Archives that nobody here wrote: those with which libarchive, Go, CPython, Commons Compress and the `tar` crate are
//! tested (`tests/fetch-archives` fetches them). Each is a layer, for this program and for containerd.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use guest_pull::digest::Digest;

use crate::both::{Both, How};
use crate::host::{is_root, text};
use crate::image::{Image, LAYER, Layer, Repository};

/// How many archives `tests/fetch-archives` finds, less those that are not compared. If it finds other ones, this test has
/// to be looked at.
const ARCHIVES: usize = 199;

/// Archives that are not compared: containerd would write files of 8 to 60 GB, most of them holes.
const TOO_LARGE: &[&str] = &[
    "astral-tokio-tar/sparse-large.tar",
    "golang-1.19/gnu-sparse-big.tar",
    "golang-1.19/pax-sparse-big.tar",
    "libarchive/test_read_format_gtar_sparse_skip_entry.tar-Z",
    "libcommons-compress-java/8.posix.tar.gz",
    "libcommons-compress-java/8.star.tar.gz",
];

const SPARSE: &str = "GNU tar's own type for files with holes, which containerd doesn't know, though it knows their PAX forms. \
                      Docker and podman know it, and such a file can't be mistaken for anything else";
const PARENT: &str =
    "a name with `..`, which no image needs; containerd takes it for one within the root";

const LABEL: &str = "an SELinux label, which is for the machine of the image's builder";

/// What differs, and why.
const DIFFERENT: &[(&str, How, &str)] = &[
    ("astral-tokio-tar/sparse-1.tar", How::TheyRefuse, SPARSE),
    ("astral-tokio-tar/sparse.tar", How::TheyRefuse, SPARSE),
    (
        "golang-1.19/gnu-nil-sparse-data.tar",
        How::TheyRefuse,
        SPARSE,
    ),
    (
        "golang-1.19/gnu-nil-sparse-hole.tar",
        How::TheyRefuse,
        SPARSE,
    ),
    ("golang-1.19/sparse-formats.tar", How::TheyRefuse, SPARSE),
    ("golang-1.19/xattrs.tar", How::Trees, LABEL),
    (
        "libarchive/test_compat_zstd_2.tar.zst",
        How::TheyRefuse,
        "what pzstd made, which zstd's own tool reads whole; containerd's reader of zstd says that it ends too early",
    ),
    ("libarchive/test_patterns_4.tar", How::WeRefuse, PARENT),
    (
        "libarchive/test_read_format_gtar_sparse_1_13.tar",
        How::TheyRefuse,
        SPARSE,
    ),
    (
        "libarchive/test_read_format_gtar_sparse_1_17.tar",
        How::TheyRefuse,
        SPARSE,
    ),
    (
        "libarchive/test_read_pax_xattr_schily.tar",
        How::Trees,
        LABEL,
    ),
    (
        "libcommons-compress-java/oldgnu_extended_sparse.tar",
        How::TheyRefuse,
        SPARSE,
    ),
    (
        "libcommons-compress-java/oldgnu_sparse.tar",
        How::TheyRefuse,
        SPARSE,
    ),
];

/// The archives by their names, if this machine has them. Where it must (CI is set), the test fails if it hasn't.
fn archives() -> Option<Vec<(String, Vec<u8>)>> {
    let Some(directory) = std::env::var_os("FOREIGN_ARCHIVES") else {
        let must = std::env::var_os("CI").is_some();
        assert!(!must, "this test needs FOREIGN_ARCHIVES");
        return None;
    };
    let sources = fs::read_dir(directory).unwrap();
    let sources = sources.map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = sources
        .filter(|path| path.is_dir())
        .flat_map(|source| fs::read_dir(source).unwrap())
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    let named = paths.into_iter().map(|path| {
        let source = path.parent().unwrap().file_name().unwrap();
        let name = Path::new(source).join(path.file_name().unwrap());
        (text(&name).to_owned(), path)
    });
    let compared = named.filter(|(name, _)| !TOO_LARGE.contains(&&**name));
    let archives: Vec<_> = compared
        .map(|(name, path)| (name, fs::read(path).unwrap()))
        .collect();
    assert_eq!(archives.len(), ARCHIVES);
    Some(archives)
}

/// What a tool makes of a blob. If the blob is broken, no digest is right.
fn decompressed(tool: &str, blob: &[u8]) -> Vec<u8> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(blob).unwrap();
    let mut command = Command::new(tool);
    command.arg("-dcq").stderr(Stdio::null());
    let input = fs::File::open(file.path()).unwrap();
    command.stdin(input).output().expect(tool).stdout
}

/// The image of one archive. `seen` has those of the images before: the same one again comes with a layer below it, since
/// containerd would not extract it once more, and then nothing would be compared of how it is compressed.
fn image(repository: &mut Repository, blob: Vec<u8>, seen: &mut BTreeSet<String>) -> Image {
    let compression = match blob[..] {
        [0x1f, 0x8b, ..] => "+gzip",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "+zstd",
        _ => "",
    };
    // Not by this program's own decoders, whose failures would make the digest wrong for containerd too.
    let archive = match blob[..] {
        [0x1f, 0x8b, ..] => decompressed("gzip", &blob),
        // Or with a frame before it that is skipped, as pzstd writes.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => {
            decompressed("zstd", &blob)
        }
        _ => blob.clone(),
    };
    let diff_id = Digest::of(&archive).to_string();
    let mut layers = Vec::new();
    if !seen.insert(diff_id.clone()) {
        let name = format!("below-{}", repository.blobs.len());
        let below = crate::image::archive(&[(name, Vec::new())]);
        layers.push(Layer {
            media_type: LAYER.to_owned(),
            diff_id: Digest::of(&below).to_string(),
            blob: below,
        });
    }
    layers.push(Layer {
        media_type: format!("{LAYER}{compression}"),
        blob,
        diff_id,
    });
    repository.add_layers(layers)
}

/// Each archive gives what containerd extracts of it, or is refused as containerd refuses it; or the reason to differ is in
/// the list above, and still holds.
#[test]
fn archives_that_nobody_here_wrote_are_as_containerd_extracts_them() {
    if !is_root() {
        return;
    }
    let Some(archives) = archives() else { return };
    let mut repository = Repository::default();
    let mut images = Vec::new();
    let mut seen = BTreeSet::new();
    for (name, blob) in archives {
        images.push((name, image(&mut repository, blob, &mut seen)));
    }
    let both = Both::new(repository, images.iter().map(|(_, image)| image));

    let next = AtomicUsize::new(0);
    let found = Mutex::new(BTreeMap::new());
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some((name, image)) = images.get(number) else {
                return;
            };
            if let Some(difference) = both.pull(number, image).difference() {
                found.lock().unwrap().insert(name.clone(), difference);
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let found = found.into_inner().unwrap();
    let known = DIFFERENT.iter().map(|(name, how, _)| (*name, *how));
    let known: BTreeMap<_, _> = known.collect();
    let mut wrong = Vec::new();
    for (name, (how, what)) in &found {
        if known.get(&**name) != Some(how) {
            wrong.push(format!("{name}: {how:?}: {what}"));
        }
    }
    for (name, how) in known {
        if !found.contains_key(name) {
            wrong.push(format!("{name}: no longer {how:?}"));
        }
    }
    assert!(
        wrong.is_empty(),
        "{} archives are not as they are listed:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}
