// SPDX-License-Identifier: Apache-2.0

//! How layers are compressed, and what is wrong with that: each as containerd takes or refuses it, but where the test says
//! why not.

use std::io::Write as _;
use std::path::Path;
use std::process::Command;

use flate2::write::GzEncoder;
use flate2::{Compression, Crc, GzBuilder};
use guest_pull::digest::Digest;
use serde_json::json;

use crate::both::{Both, How, Pulled};
use crate::host::{TIME, assert_equal, implied, is_root, output, run, support, text, tool};
use crate::image::{Image, LAYER, Layer, Repository, archive, noise};

/// A skippable frame of zstd.
const SKIPPABLE: &[u8] = &[0x5a, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, b'a', b'b', b'c'];

/// The archive of most layers here: large enough for several blocks of each compression. Each row has its own, since nobody
/// extracts the same one twice.
fn content(name: &str) -> Vec<u8> {
    archive(&[
        ("etc/name".to_owned(), name.into()),
        ("usr/large".to_owned(), noise(7, 300_000)),
        ("usr/zeros".to_owned(), vec![0; 300_000]),
    ])
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::stream::encode_all(bytes, 3).unwrap()
}

/// A frame of zstd that says it needs a window, of blocks that are not compressed.
fn zstd_with_window(bytes: &[u8], exponent: u8) -> Vec<u8> {
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0, (exponent - 10) << 3];
    let blocks: Vec<_> = bytes.chunks(100_000).collect();
    for (at, block) in blocks.iter().enumerate() {
        let is_last = at + 1 == blocks.len();
        let header = u32::from(is_last) | (block.len() as u32) << 3;
        frame.extend(&header.to_le_bytes()[..3]);
        frame.extend(*block);
    }
    frame
}

/// One layer, and what is expected of it.
struct Row {
    name: &'static str,
    /// The end of the media type.
    label: &'static str,
    blob: Vec<u8>,
    /// The archive in it.
    archive: Vec<u8>,
    expected: Expected,
}

enum Expected {
    /// Both read it, and give the same tree.
    Same,
    /// Both refuse it, and this program's error says this.
    Refused(&'static str),
    /// Only this program refuses it, and its error says this.
    WeRefuse(&'static str),
    /// Only containerd refuses it.
    TheyRefuse,
}

fn row(
    name: &'static str,
    label: &'static str,
    compress: impl Fn(&[u8]) -> Vec<u8>,
    expected: Expected,
) -> Row {
    let archive = content(name);
    Row {
        name,
        label,
        blob: compress(&archive),
        archive,
        expected,
    }
}

/// Has both pull an image for each row, checks what became of it, and gives what this program wrote.
fn check(rows: Vec<Row>) -> Vec<String> {
    let mut repository = Repository::default();
    let mut images = Vec::new();
    for row in &rows {
        images.push(repository.add_layers(vec![Layer {
            media_type: format!("{LAYER}{}", row.label),
            blob: row.blob.clone(),
            diff_id: Digest::of(&row.archive).to_string(),
        }]));
    }
    let both = Both::new(repository, images.iter());
    let mut logs = Vec::new();
    for (number, (row, image)) in rows.iter().zip(&images).enumerate() {
        let pulled = both.pull(number, image);
        check_one(row, &pulled);
        logs.push(pulled.log);
    }
    logs
}

fn check_one(row: &Row, pulled: &Pulled) {
    let name = row.name;
    let difference = pulled.difference();
    let how = difference.as_ref().map(|(how, _)| *how);
    match row.expected {
        Expected::Same => {
            assert!(difference.is_none(), "{name}: {difference:?}");
            assert!(pulled.ours.is_ok(), "{name}: {:?}", pulled.ours);
        }
        Expected::TheyRefuse => assert_eq!(how, Some(How::TheyRefuse), "{name}: {difference:?}"),
        Expected::Refused(text) | Expected::WeRefuse(text) => {
            let expected = match row.expected {
                Expected::Refused(_) => None,
                _ => Some(How::WeRefuse),
            };
            assert_eq!(how, expected, "{name}: {difference:?}");
            let error = pulled.ours.as_ref().err();
            let error = error.unwrap_or_else(|| panic!("{name} is read"));
            assert!(error.contains(text), "{name}: {error}");
        }
    }
}

/// Gzip with all that a header may have.
fn gzip_with_header(bytes: &[u8]) -> Vec<u8> {
    let builder = GzBuilder::new().extra(&b"ab\x02\x00xy"[..]).comment("c");
    let mut encoder = builder
        .filename("layer.tar")
        .mtime(1)
        .write(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    let mut blob = encoder.finish().unwrap();
    // The header ends with the comment's NUL byte.
    let end = 10 + 2 + 6 + "layer.tar\0c\0".len();
    blob[3] |= 2;
    let mut crc = Crc::new();
    crc.update(&blob[..end]);
    blob.splice(end..end, (crc.sum() as u16).to_le_bytes());
    blob
}

/// A layer whose gzip has several members, empty ones among them, and all that a header may have.
#[test]
fn gzip_of_several_members_is_read_whole() {
    if !is_root() {
        return;
    }
    let members = |all: &[u8]| {
        let (first, second) = all.split_at(200_000);
        [gzip(first), gzip(b""), gzip(second), gzip(b"")].concat()
    };
    let wrong = |all: &[u8]| {
        let mut blob = gzip_with_header(all);
        blob[4] ^= 1;
        blob
    };
    check(vec![
        row("members", "+gzip", members, Expected::Same),
        row("header", "+gzip", gzip_with_header, Expected::Same),
        row(
            "wrong header",
            "+gzip",
            wrong,
            Expected::Refused("checksum"),
        ),
    ]);
}

/// An empty layer, which builders push for a step that changes nothing; and a blob of no bytes, or of none in it.
#[test]
fn an_empty_layer_is_one() {
    if !is_root() {
        return;
    }
    let empty = vec![0; 1024];
    for (label, blob, archive) in [
        ("+gzip", gzip(&empty), empty.clone()),
        ("", empty.clone(), empty),
        ("", Vec::new(), Vec::new()),
        ("+gzip", gzip(b""), Vec::new()),
        ("+zstd", zstd(b""), Vec::new()),
    ] {
        check(vec![Row {
            name: "empty",
            label,
            blob,
            archive,
            expected: Expected::Same,
        }]);
    }
}

/// A row for what is made of good data by a change of it.
fn changed(
    name: &'static str,
    label: &'static str,
    change: impl Fn(&mut Vec<u8>),
    text: &'static str,
) -> Row {
    let compress = |all: &[u8]| {
        let mut blob = match label {
            "+gzip" => gzip(all),
            _ => zstd_with_checksum(all),
        };
        change(&mut blob);
        blob
    };
    row(name, label, compress, Expected::Refused(text))
}

/// Gzip that is cut off or changed, or that something follows, zeros too, is refused.
#[test]
fn garbage_after_gzip_and_broken_gzip_are_refused() {
    if !is_root() {
        return;
    }
    let follows = "something else follows its gzip data";
    let within = "ends within its gzip data";
    let changed = |name, change: &dyn Fn(&mut Vec<u8>), text| changed(name, "+gzip", change, text);
    check(vec![
        row("good", "+gzip", gzip, Expected::Same),
        changed("garbage", &|blob| blob.extend(b"garbage after it"), follows),
        changed("zeros", &|blob| blob.extend([0; 512]), follows),
        changed("one byte", &|blob| blob.push(0x1f), within),
        changed("half", &|blob| blob.truncate(blob.len() / 2), within),
        changed("no end", &|blob| blob.truncate(blob.len() - 5), within),
        changed("checksum", &|blob| change(blob, 8), "checksum"),
        changed("length", &|blob| change(blob, 4), "checksum"),
    ]);
}

/// Changes a byte, counted from the end.
fn change(blob: &mut [u8], before_end: usize) {
    let at = blob.len() - before_end;
    blob[at] ^= 1;
}

fn zstd_with_checksum(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::stream::Encoder::new(Vec::new(), 3).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// A layer of several frames of zstd, with skippable frames anywhere, with and without checksums, and of the largest window.
#[test]
fn zstd_of_several_frames_and_skippable_frames_is_read_whole() {
    if !is_root() {
        return;
    }
    let frames = |all: &[u8]| {
        let (first, second) = all.split_at(200_000);
        [zstd(first), zstd(b""), zstd(second)].concat()
    };
    let skippable = |all: &[u8]| {
        let (first, second) = all.split_at(200_000);
        let (first, second) = (zstd(first), zstd(second));
        [SKIPPABLE, SKIPPABLE, &first, SKIPPABLE, &second, SKIPPABLE].concat()
    };
    let window = |exponent| move |all: &[u8]| zstd_with_window(all, exponent);
    check(vec![
        row("frames", "+zstd", frames, Expected::Same),
        row("skippable", "+zstd", skippable, Expected::Same),
        row("checksum", "+zstd", zstd_with_checksum, Expected::Same),
        row("8 MiB", "+zstd", window(23), Expected::Same),
        row("32 MiB", "+zstd", window(25), Expected::Same),
    ]);
}

/// Zstd that is cut off or changed, that something follows, or that needs a dictionary, is refused.
#[test]
fn garbage_after_zstd_and_broken_zstd_are_refused() {
    if !is_root() {
        return;
    }
    let follows = "something else follows its zstd data";
    let within = "ends within its zstd data";
    let dictionary = |all: &[u8]| {
        let mut blob = zstd_with_window(all, 23);
        // An identifier of one byte, after the window.
        blob[4] = 1;
        blob.insert(6, 77);
        blob
    };
    let changed = |name, change: &dyn Fn(&mut Vec<u8>), text| changed(name, "+zstd", change, text);
    check(vec![
        row("good", "+zstd", zstd_with_checksum, Expected::Same),
        changed("garbage", &|blob| blob.extend(b"garbage after it"), follows),
        changed("zeros", &|blob| blob.extend([0; 512]), follows),
        changed("half", &|blob| blob.truncate(blob.len() / 2), within),
        changed("no end", &|blob| blob.truncate(blob.len() - 2), within),
        changed("skippable", &|blob| blob.extend(&SKIPPABLE[..9]), within),
        changed("checksum", &|blob| change(blob, 1), "match its checksum"),
        row(
            "dictionary",
            "+zstd",
            dictionary,
            Expected::Refused("with a dictionary"),
        ),
    ]);
}

/// A window of zstd over 32 MiB is refused, and the error says what to do. Containerd takes up to 512 MiB; here the worker
/// has 64 MiB for all.
#[test]
fn a_zstd_window_over_32_mib_is_refused() {
    if !is_root() {
        return;
    }
    let text = "a window over 32 MiB; push the image again";
    let row = |name, exponent, expected| {
        let compress = |all: &[u8]| zstd_with_window(all, exponent);
        row(name, "+zstd", compress, expected)
    };
    check(vec![
        row("64 MiB", 26, Expected::WeRefuse(text)),
        row("512 MiB", 29, Expected::WeRefuse(text)),
        row("1 GiB", 30, Expected::Refused(text)),
        row("2 TiB", 41, Expected::Refused(text)),
    ]);
}

/// What a layer is compressed with, its content tells; that its media type is wrong is said. Containerd takes what is labelled
/// as not compressed at its word, and refuses it then.
#[test]
fn a_mislabelled_layer_is_read_by_its_content_and_that_is_said() {
    if !is_root() {
        return;
    }
    let nothing = |all: &[u8]| all.to_vec();
    let logs = check(vec![
        row("gzip as zstd", "+zstd", gzip, Expected::Same),
        row("zstd as gzip", "+gzip", zstd, Expected::Same),
        row("nothing as gzip", "+gzip", nothing, Expected::Same),
        row("nothing as zstd", "+zstd", nothing, Expected::Same),
        row("gzip as nothing", "", gzip, Expected::TheyRefuse),
        row("zstd as nothing", "", zstd, Expected::TheyRefuse),
        row("gzip", "+gzip", gzip, Expected::Same),
        row("zstd", "+zstd", zstd, Expected::Same),
        row("nothing", "", nothing, Expected::Same),
    ]);
    for (log, said) in logs.iter().zip([
        Some(("+zstd", "gzip")),
        Some(("+gzip", "zstd")),
        Some(("+gzip", "not compressed")),
        Some(("+zstd", "not compressed")),
        Some(("", "gzip")),
        Some(("", "zstd")),
        None,
        None,
        None,
    ]) {
        match said {
            Some((label, kind)) => {
                let text =
                    format!(" is labelled \"{LAYER}{label}\" and is {kind}; its content counts");
                assert!(log.contains(&text), "{log}");
            }
            None => assert!(!log.contains("labelled"), "{log}"),
        }
    }
}

/// A layer that is compressed in a way that layers aren't is refused with the name of that way.
#[test]
fn another_compression_is_refused_by_its_name() {
    if !is_root() {
        return;
    }
    let rows = [
        ("xz", &b"\xfd7zXZ\0\0\x04\xe6\xd6\xb4\x46"[..]),
        ("bzip2", b"BZh91AY&SY\x01\x02\x03\x04"),
        ("lz4", b"\x04\x22\x4d\x18\x64\x40\xa7"),
    ];
    let mut all: Vec<_> = rows
        .map(|(name, start)| {
            let blob = [start, &noise(3, 2000)].concat();
            row(name, "", |_| blob.clone(), Expected::Refused(name))
        })
        .into_iter()
        .collect();
    // An archive whose first name begins as bzip2 does.
    let named = archive(&[("BZh9".to_owned(), b"x".to_vec())]);
    all.push(Row {
        name: "a name",
        label: "",
        blob: named.clone(),
        archive: named,
        expected: Expected::Same,
    });
    check(all);
}

/// An eStargz layer is gzip, a member for each file: its table of contents is a file of the image, as for containerd without
/// a snapshotter that knows it.
#[test]
fn an_estargz_layer_is_read_with_its_table_of_contents() {
    if !is_root() {
        return;
    }
    let landmark = (".no.prefetch.landmark".to_owned(), vec![0xf]);
    let files = [landmark, ("etc/name".to_owned(), b"value".to_vec())];
    // Without the archive's end.
    let part = |files: &[(String, Vec<u8>)]| {
        let mut part = archive(files);
        part.truncate(part.len() - 1024);
        part
    };
    let mut parts = Vec::new();
    let mut entries = Vec::new();
    let mut blob = Vec::new();
    for file in files {
        entries.push(json!({
            "name": file.0, "type": "reg", "size": file.1.len(), "offset": blob.len(),
            "digest": Digest::of(&file.1).to_string(),
        }));
        let part = part(&[file]);
        blob.extend(gzip(&part));
        parts.extend(part);
    }
    let table = json!({"version": 1, "entries": entries}).to_string();
    let table = archive(&[("stargz.index.json".to_owned(), table.into_bytes())]);
    let offset = blob.len();
    blob.extend(gzip(&table));
    parts.extend(table);
    // The footer: an empty member whose header says where the table is.
    let place = format!("SG\x16\x00{offset:016x}STARGZ");
    let footer = GzBuilder::new().extra(place.into_bytes());
    blob.extend(
        footer
            .write(Vec::new(), Compression::none())
            .finish()
            .unwrap(),
    );
    let estargz = Row {
        name: "eStargz",
        label: "+gzip",
        blob,
        archive: parts,
        expected: Expected::Same,
    };
    let mut repository = Repository::default();
    let image = repository.add_layers(vec![Layer {
        media_type: format!("{LAYER}+gzip"),
        blob: estargz.blob.clone(),
        diff_id: Digest::of(&estargz.archive).to_string(),
    }]);
    let pulled = Both::new(repository, [&image].into_iter()).pull(0, &image);
    check_one(&estargz, &pulled);
    let names: Vec<_> = pulled.ours.unwrap().into_keys().collect();
    let expected = [
        "b'.'",
        "b'.no.prefetch.landmark'",
        "b'etc'",
        "b'etc/name'",
        "b'stargz.index.json'",
    ];
    assert_eq!(names, expected);
}

/// An image whose layers skopeo compressed as zstd:chunked, with a frame for each file and skippable frames after them.
#[test]
fn a_zstd_chunked_image_of_skopeo_is_read_whole() {
    if !is_root() || !has_chunking_skopeo() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let [plain, chunked] = ["plain", "chunked"].map(|name| dir.path().join(name));
    run(support("make-image").arg(&plain));
    let at = |layout: &Path| format!("oci:{}:test", text(layout));
    run(tool("SKOPEO", "skopeo")
        .args([
            "--insecure-policy",
            "copy",
            "-q",
            "--dest-compress-format",
            "zstd:chunked",
        ])
        .args([at(&plain), at(&chunked)]));
    let repository = Repository::of_layout(&chunked);
    let manifest: serde_json::Value =
        serde_json::from_slice(&repository.blobs[&repository.tag]).unwrap();
    let mark = "io.github.containers.zstd-chunked.manifest-position";
    let layers = manifest["layers"].as_array().unwrap();
    assert!(
        layers
            .iter()
            .all(|layer| layer["annotations"][mark].is_string())
    );
    let descriptor = json!({
        "mediaType": manifest["mediaType"], "digest": repository.tag,
        "size": repository.blobs[&repository.tag].len(),
    });
    let image = Image {
        descriptor,
        layers: Vec::new(),
        diff_ids: Vec::new(),
    };
    let pulled = Both::new(repository, [&image].into_iter()).pull(0, &image);
    let [ours, mut theirs] = [pulled.ours, pulled.theirs].map(Result::unwrap);
    // The times that are not containerd's to say, as the layers are skopeo's to compress.
    for (name, time) in implied(&plain) {
        if let (Some(ours), Some(theirs)) = (ours.get(&name), theirs.get_mut(&name)) {
            assert_eq!(ours[TIME], time, "the time of {name}");
            theirs[TIME] = time;
        }
    }
    assert_equal(&ours, &theirs);
}

/// Whether there is a skopeo that knows zstd:chunked. Where it must be (CI is set), the test fails if there is none.
fn has_chunking_skopeo() -> bool {
    let has = std::env::var_os("SKOPEO").is_some_and(|path| {
        let (help, _, code) = output(Command::new(path).args(["copy", "--help"]));
        code == Some(0) && help.contains("compress-format")
    });
    let must = std::env::var_os("CI").is_some();
    assert!(
        has || !must,
        "this test needs SKOPEO, a skopeo of 2024 or newer"
    );
    has
}
