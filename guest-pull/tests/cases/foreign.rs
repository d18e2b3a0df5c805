// SPDX-License-Identifier: Apache-2.0

//! Archives that nobody here wrote: those with which libarchive, Go, CPython, Commons Compress and the `tar` crate are
//! tested (`tests/fetch-archives` fetches them). Each is a layer, for this program and for containerd.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use guest_pull::compression::decompressed;
use guest_pull::digest::Digest;

use crate::containerd::Containerd;
use crate::host::{Mounted, TIME, guest_pull, is_root, listing, output, text};
use crate::image::{Image, LAYER, Layer, Repository};
use crate::stand_in::StandIn;

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
    (
        "golang-1.19/xattrs.tar",
        How::Trees,
        "an SELinux label, which is for the machine of the image's builder",
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

/// What differs until the reader of archives reads these as Go's does.
const UNTIL: &[(&str, How)] = &[
    // Containerd takes nothing from the root's entry.
    ("astral-tokio-tar/empty_filename.tar", How::Trees),
    ("libarchive/test_compat_mac-2.tar-Z", How::Trees),
    (
        "libarchive/test_read_format_tar_empty_filename.tar",
        How::Trees,
    ),
    // Go cuts a long name of GNU tar at its first NUL byte.
    ("golang-1.19/gnu-long-nul.tar", How::WeRefuse),
    // Of two long names, or two PAX headers, the last one counts.
    ("golang-1.19/gnu-multi-hdrs.tar", How::WeRefuse),
    ("golang-1.19/pax-multi-hdrs.tar", How::WeRefuse),
    // The prefix of ustar counts in archives without its version.
    ("golang-1.19/invalid-go17.tar", How::Trees),
    ("golang-1.19/pax-nil-sparse-data.tar", How::WeRefuse),
    ("golang-1.19/pax-nil-sparse-hole.tar", How::WeRefuse),
    // A NUL byte in the name of an attribute.
    ("golang-1.19/pax-nul-xattrs.tar", How::TheyRefuse),
    // A PAX header that no entry follows.
    ("golang-1.19/pax-path-hdr.tar", How::WeRefuse),
    (
        "libarchive/test_compat_plexus_archiver_tar.tar",
        How::TheyRefuse,
    ),
    // Directories and hard links have no content, whatever the size says.
    ("libarchive/test_compat_tar_directory_1.tar", How::Trees),
    ("libarchive/test_compat_tar_hardlink_1.tar", How::WeRefuse),
    (
        "libarchive/test_read_format_gtar_sparse_1_17_posix00.tar",
        How::WeRefuse,
    ),
    (
        "libarchive/test_read_format_gtar_sparse_1_17_posix01.tar",
        How::WeRefuse,
    ),
    (
        "libarchive/test_read_format_gtar_sparse_1_17_posix10.tar",
        How::WeRefuse,
    ),
    // A value with a line's end in it.
    ("libarchive/test_read_pax_xattr_schily.tar", How::WeRefuse),
    ("libcommons-compress-java/COMPRESS-417.tar", How::TheyRefuse),
    ("libcommons-compress-java/pax_gnu_sparse.tar", How::WeRefuse),
    ("libcommons-compress-java/posix00_sparse.tar", How::WeRefuse),
    ("libcommons-compress-java/posix01_sparse.tar", How::WeRefuse),
    ("libcommons-compress-java/posix10_sparse.tar", How::WeRefuse),
    (
        "libcommons-compress-java/simple-aix-native-tar.tar",
        How::WeRefuse,
    ),
    ("libcommons-compress-java/winXP_antgnu.tar", How::WeRefuse),
];

/// In what way this program and containerd differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    /// This program refuses the layer, and containerd takes it.
    WeRefuse,
    /// Containerd refuses it, and this program takes it.
    TheyRefuse,
    /// Both take it, and the trees are not the same.
    Trees,
}

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

/// The image of one archive.
fn image(repository: &mut Repository, blob: Vec<u8>) -> Image {
    let compression = match blob[..] {
        [0x1f, 0x8b, ..] => "+gzip",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "+zstd",
        _ => "",
    };
    let mut archive = Vec::new();
    // If it is broken, no digest is right.
    let _ = decompressed(&blob[..]).and_then(|mut blob| blob.read_to_end(&mut archive));
    repository.add_layers(vec![Layer {
        media_type: format!("{LAYER}{compression}"),
        blob,
        diff_id: Digest::of(&archive).to_string(),
    }])
}

type Tree = BTreeMap<String, Vec<String>>;

/// What this program makes of an image.
fn ours(registry: &str, image: &Image, dir: &Path, number: usize) -> Result<Tree, String> {
    let bundle = dir.join(number.to_string());
    let name = format!(
        "{registry}/a/b@{}",
        image.descriptor["digest"].as_str().unwrap()
    );
    let store = dir.join("store");
    let (_, stderr, code) = output(&mut guest_pull(&[
        "pull",
        "--plain-http",
        "--store",
        text(&store),
        "--bundle",
        text(&bundle),
        &name,
    ]));
    if code != Some(0) {
        return Err(stderr.lines().last().unwrap_or_default().to_owned());
    }
    let mounted = Mounted(bundle.join("rootfs"));
    Ok(listing(&mounted.0))
}

/// How the trees differ, if they do. The time of a directory without an entry is not containerd's to say, since it writes
/// into that directory while it extracts: since `start`. There it is 0.
fn compare(
    ours: &Result<Tree, String>,
    theirs: &Result<Tree, String>,
    start: u128,
) -> Option<(How, String)> {
    let (ours, theirs) = match (ours, theirs) {
        (Err(_), Err(_)) => return None,
        (Err(error), Ok(_)) => return Some((How::WeRefuse, error.clone())),
        (Ok(_), Err(error)) => return Some((How::TheyRefuse, error.clone())),
        (Ok(ours), Ok(theirs)) => (ours, theirs),
    };
    let mut theirs = theirs.clone();
    for entry in theirs.values_mut() {
        if entry[0].starts_with("'0o4") && entry[TIME].parse().is_ok_and(|time: u128| time >= start)
        {
            entry[TIME] = "0".to_owned();
        }
    }
    let names = ours.keys().chain(theirs.keys());
    let mut different: Vec<_> = names
        .filter(|name| ours.get(*name) != theirs.get(*name))
        .collect();
    different.dedup();
    let first = different.first()?;
    let what = format!(
        "{} entries, first {first}:\n    ours   {:?}\n    theirs {:?}",
        different.len(),
        ours.get(*first),
        theirs.get(*first)
    );
    Some((How::Trees, what))
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
    for (name, blob) in archives {
        images.push((name, image(&mut repository, blob)));
    }
    let dir = tempfile::tempdir().unwrap();
    let layout = dir.path().join("layout");
    let tags: Vec<_> = images
        .iter()
        .enumerate()
        .map(|(number, (_, image))| (number.to_string(), image))
        .collect();
    repository.write_layout(&layout, &tags);
    let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let containerd = Containerd::start();
    containerd.import(&layout, "foreign");
    let registry = StandIn::start(move |asked| repository.answer(&asked.path));

    let next = AtomicUsize::new(0);
    let found = Mutex::new(BTreeMap::new());
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some((name, image)) = images.get(number) else {
                return;
            };
            let ours = ours(&registry.address, image, dir.path(), number);
            let theirs = containerd
                .extract("foreign", &number.to_string())
                .map(|(path, _mounted)| listing(&path));
            if let Some(difference) = compare(&ours, &theirs, start.as_nanos()) {
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
    let known: BTreeMap<_, _> = known.chain(UNTIL.iter().copied()).collect();
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
