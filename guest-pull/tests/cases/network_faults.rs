// SPDX-License-Identifier: Apache-2.0

//! Many pulls over networks whose faults are chosen at random.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use guest_pull::digest::Digest;

use crate::faulty::{Faulty, random};
use crate::image::{LAYER, Layer, Repository, archive, noise};
use crate::network::{assert_pulled, pull};
use crate::stand_in::StandIn;

/// How many networks there are, and how many at once: most of the time they wait.
const NETWORKS: u64 = 300;
const AT_ONCE: usize = 12;

/// How an error of a registry goes on after the registry's name.
const CAUSES: [&str; 2] = ["can't be reached: ", "answers "];

/// An image of several layers, compressed in both ways.
fn repository() -> Repository {
    let layer = |seed: u64| {
        let length = [300, 5_000, 30_000, 60_000][seed as usize % 4];
        let archive = archive(&[(format!("file-{seed}"), noise(seed, length))]);
        let diff_id = Digest::of(&archive).to_string();
        let media_type = format!("{LAYER}+zstd");
        let blob = zstd::stream::encode_all(&archive[..], 1).unwrap();
        Layer {
            media_type,
            blob,
            diff_id,
        }
    };
    let mut repository = Repository::default();
    let gzip = repository.add(&[archive(&[("first".to_owned(), noise(9, 40_000))])]);
    let mut layers: Vec<_> = (0..4).map(layer).collect();
    layers.push(Layer {
        media_type: format!("{LAYER}+gzip"),
        blob: repository.blobs[&gzip.layers[0]].clone(),
        diff_id: gzip.diff_ids[0].clone(),
    });
    let image = repository.add_layers(layers);
    repository.tag(&image.descriptor);
    repository
}

/// What a store has, by the names.
fn stored(store: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(store.join("layers")).into_iter().flatten();
    let file = |entry: fs::DirEntry| {
        let name = entry.file_name().into_string().unwrap();
        (name, fs::read(entry.path()).unwrap())
    };
    entries.map(|entry| file(entry.unwrap())).collect()
}

/// Each pull over such a network ends with the image as it is, or with an error that names the registry and the cause; and
/// leaves nothing behind but whole layers.
#[test]
fn faults_at_random() {
    let repository = repository();
    let registry = StandIn::start(move |asked| repository.answer(&asked.path));
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let clean = dir.path().join("clean");
    assert_pulled(pull(&registry.address, &clean, &["--plain-http"]));
    let clean = stored(&clean);
    assert_eq!(clean.len(), 10);
    let next = AtomicU64::new(0);
    let (pulled, faults) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let one = |seed: u64| {
        let network = Faulty::start(&registry.address, random(seed));
        let store = dir.path().join(seed.to_string());
        let (said, code) = pull(&network.address, &store, &["--plain-http"]);
        let found = stored(&store);
        for (name, content) in &found {
            assert!(
                clean.get(name) == Some(content),
                "{seed}: {name} is left: {said}"
            );
        }
        if code == Some(0) {
            assert_eq!(found.len(), clean.len(), "{seed}: {said}");
            pulled.fetch_add(1, Ordering::SeqCst);
        } else {
            let named = CAUSES.map(|cause| format!("{} {cause}", network.address));
            let last = said.lines().last().unwrap_or_default();
            assert!(
                named.iter().any(|named| last.contains(named)),
                "{seed}: {said}"
            );
        }
        faults.fetch_add(network.faults(), Ordering::SeqCst);
        fs::remove_dir_all(&store).unwrap();
    };
    thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    match next.fetch_add(1, Ordering::SeqCst) {
                        seed if seed < NETWORKS => one(seed),
                        _ => break,
                    }
                }
            });
        }
    });
    let (pulled, faults) = (pulled.into_inner(), faults.into_inner());
    eprintln!("{pulled} of {NETWORKS} pulls succeeded, with {faults} faults");
    // Otherwise the networks are too good or too bad to tell anything. How many pulls succeed depends on the time that
    // others leave them, too.
    assert!(faults > 500, "{faults}");
    let networks = usize::try_from(NETWORKS).unwrap();
    assert!(pulled > networks / 4 && pulled < networks, "{pulled}");
}
