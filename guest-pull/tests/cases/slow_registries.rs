// SPDX-License-Identifier: Apache-2.0

//! Registries that take their time, and are no silent ones: their images are pulled.

use std::io::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use guest_pull::digest::Digest;
use zstd::stream::write::Encoder;

use crate::image::{Layer, Repository, archive, noise};
use crate::network::{assert_pulled, pull, pull_once, repository};
use crate::raw_server::{Part, RawServer, whole, with_head};
use crate::stand_in::StandIn;

/// A cache that first fetches what it is asked for, or a store that keeps blobs on tape: the first byte comes later than
/// the first try waits for it, each time that it is asked.
#[test]
fn a_first_byte_that_comes_late() {
    thread::scope(|scope| {
        for slow in ["/blobs/", "/manifests/"] {
            scope.spawn(move || {
                let (repository, image) = repository();
                let registry = StandIn::start(move |asked| {
                    let is_layer = image.layers.iter().any(|layer| asked.path.ends_with(layer));
                    if asked.path.contains(slow) && (is_layer || slow == "/manifests/") {
                        thread::sleep(Duration::from_secs(20));
                    }
                    repository.answer(&asked.path)
                });
                let said = assert_pulled(pull_once(&registry));
                let late = "no whole answer came within 15 s";
                assert_eq!(said.matches(late).count(), 1, "{slow}: {said}");
            });
        }
    });
}

/// A layer that can only be made alone is fetched again at once, even if the registry drips the rest of it, which nobody
/// reads.
#[test]
fn a_dripping_layer_with_a_large_window() {
    let tar = archive(&[("file".to_owned(), noise(7, 1_000_000))]);
    let mut encoder = Encoder::new(Vec::new(), 1).unwrap();
    encoder.window_log(25).unwrap();
    encoder.write_all(&tar).unwrap();
    let blob = encoder.finish().unwrap();
    let mut repository = Repository::default();
    let image = repository.add_layers(vec![Layer {
        media_type: "application/vnd.oci.image.layer.v1.tar+zstd".to_owned(),
        blob: blob.clone(),
        diff_id: Digest::of(&tar).to_string(),
    }]);
    repository.tag(&image.descriptor);
    let layer = image.layers[0].clone();
    let registry = RawServer::start(move |asked| {
        let head = format!("HTTP/1.1 200 -\r\nContent-Length: {}\r\n", blob.len());
        if asked.path.ends_with(&layer) && asked.before == 0 {
            let begin = with_head(&head, &blob[..100_000]);
            return vec![begin, Part::Endless(vec![0], Duration::from_millis(100))];
        }
        let answer = repository.answer(&asked.path);
        vec![whole(&answer.status.to_string(), "", &answer.body)]
    });
    let dir = tempfile::tempdir().unwrap();
    let store = dir.path();
    let begin = Instant::now();
    let pulled = pull(&registry.address, store, &["--plain-http"]);
    let took = begin.elapsed();
    let said = assert_pulled(pulled);
    assert!(said.contains("needs a window of zstd"), "{said}");
    assert!(took < Duration::from_secs(60), "{took:?}: {said}");
}
