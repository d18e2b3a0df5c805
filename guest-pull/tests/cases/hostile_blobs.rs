// SPDX-License-Identifier: Apache-2.0

//! Blobs of any bytes, as gzip and as zstd, through the worker: each ends in a layer or in an error that names it, within the
//! memory that the worker may have, and leaves nothing.

use std::io::Write as _;

use flate2::Compression;
use flate2::write::GzEncoder;
use guest_pull::digest::Digest;

use crate::host::{guest_pull, run, text, tool};
use crate::hostile::Victim;
use crate::image::{LAYER, Layer, Repository, archive, noise};
use crate::memory_of::{MOST_OF_THE_WORKER, measured};
use crate::repositories::serve;

/// How many changed blobs are tried of each kind.
const BLOBS: u64 = 80;

/// An archive with content that shrinks and content that doesn't.
fn content() -> Vec<u8> {
    archive(&[
        ("text".to_owned(), b"a line of text\n".repeat(3000)),
        ("noise".to_owned(), noise(7, 20_000)),
        ("last".to_owned(), b"x".to_vec()),
    ])
}

fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

fn zstd(content: &[u8]) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let [from, to] = ["from", "to"].map(|name| dir.path().join(name));
    std::fs::write(&from, content).unwrap();
    run(tool("ZSTD", "zstd").args(["-q", text(&from), "-o", text(&to)]));
    std::fs::read(to).unwrap()
}

/// The blob with changes that follow from a number: bytes, whole ranges, an end that is missing, something behind it.
fn changed(blob: &[u8], number: u64) -> Vec<u8> {
    let mut blob = blob.to_vec();
    let random = noise(number + 1, 64);
    let mut random = random.chunks_exact(4).map(|bytes| {
        let bytes: [u8; 4] = bytes.try_into().unwrap();
        u32::from_le_bytes(bytes) as usize
    });
    let mut next = || random.next().unwrap();
    for _ in 0..1 + next() % 3 {
        // The beginning says most of what follows.
        let range = if next() % 2 == 0 {
            blob.len().min(40)
        } else {
            blob.len()
        };
        let at = next() % range;
        match number % 4 {
            0 | 1 => blob[at] = next() as u8,
            2 => {
                let end = (at + next() % 50).min(blob.len());
                blob[at..end].fill(0xff);
            }
            _ => blob.truncate(at.max(1)),
        }
    }
    if number % 7 == 0 {
        blob.extend(noise(number, 100));
    }
    blob
}

/// Pulls each of the blobs as the one layer of an image, whose configuration has the digest of the unchanged content.
fn assert_read_or_refused(blobs: Vec<Vec<u8>>, kind: &str) {
    let diff_id = Digest::of(&content()).to_string();
    let mut repository = Repository::default();
    let images: Vec<_> = blobs
        .into_iter()
        .map(|blob| {
            repository.add_layers(vec![Layer {
                media_type: format!("{LAYER}+{kind}"),
                blob,
                diff_id: diff_id.clone(),
            }])
        })
        .collect();
    let registry = serve(repository.clone());
    let dir = tempfile::tempdir().unwrap();
    let mut refused = 0;
    for (number, image) in images.iter().enumerate() {
        let digest = image.descriptor["digest"].as_str().unwrap();
        let name = format!("{}/a/b@{digest}", registry.address);
        let store = dir.path().join(number.to_string());
        let found = measured(&guest_pull(&[
            "pull",
            "--plain-http",
            "--store",
            text(&store),
            &name,
        ]));
        let layers = std::fs::read_dir(store.join("layers")).unwrap().count();
        assert!(
            found.peak <= MOST_OF_THE_WORKER,
            "{number}: {} KiB",
            found.peak
        );
        match found.code {
            Some(0) => assert_eq!(layers, 2, "{number}"),
            Some(1) => {
                let named = format!("layer 1 of 1 ({})", image.layers[0]);
                assert!(found.said.contains(&named), "{number}: {}", found.said);
                assert!(!found.said.contains("a bug"), "{number}: {}", found.said);
                assert_eq!(layers, 0, "{number}");
                refused += 1;
            }
            code => panic!("{number}: {code:?}: {}", found.said),
        }
    }
    assert!(refused > images.len() / 2, "{refused}");
}

#[test]
fn any_gzip() {
    let blob = gzip(&content());
    let blobs = (0..BLOBS).map(|number| changed(&blob, number));
    assert_read_or_refused(blobs.collect(), "gzip");
}

#[test]
fn any_zstd() {
    let blob = zstd(&content());
    let blobs = (0..BLOBS).map(|number| changed(&blob, number));
    assert_read_or_refused(blobs.collect(), "zstd");
}

/// Small blobs of much content: gzip by a thousand, zstd by more. They end with the room, or are read in bounded memory; here
/// the archive is one file of zeros, which the layer holds in a few blocks.
#[test]
fn bombs_by_ratio() {
    let victim = Victim::new();
    let zeros = archive(&[("zeros".to_owned(), vec![0; 64 << 20])]);
    for (kind, blob) in [("gzip", gzip(&zeros)), ("zstd", zstd(&zeros))] {
        assert!(blob.len() < 100_000, "{}", blob.len());
        let mut repository = Repository::default();
        let image = repository.add_layers(vec![Layer {
            media_type: format!("{LAYER}+{kind}"),
            blob,
            diff_id: Digest::of(&zeros).to_string(),
        }]);
        repository.tag(&image.descriptor);
        victim.assert_pulled(&repository);
    }
    // A bomb in a bomb is a file of the image, and not read.
    let inner = gzip(&zeros);
    let (repository, _) = Repository::of(&[archive(&[("bomb.gz".to_owned(), inner)])]);
    victim.assert_pulled(&repository);
}
