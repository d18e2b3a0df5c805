// SPDX-License-Identifier: Apache-2.0

//! A registry that lies about digests and sizes. Each lie is refused within a bounded time and memory, with the document or
//! layer that it is about; nothing of it stays in the store; and the next pull is right.

use std::fs;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::host::{guest_pull, text};
use crate::image::{Image, Layer, Repository, archive, noise};
use crate::memory_of::{MOST_OF_THE_WORKER, measured};
use crate::repositories::{entry_for, platform, serve};
use crate::stand_in::{Answer, Asked, StandIn};

/// How long a pull of what a registry makes up may take, on a machine that is busy with other tests: the most costly of them
/// takes half a minute of processor time in a debug build. Nothing here is waited for: what fails does so at once.
const LONGEST: Duration = Duration::from_secs(300);

/// A store, into which hostile and good images are pulled.
pub struct Victim {
    dir: TempDir,
}

impl Victim {
    pub fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    /// Pulls `a/b:1` for amd64 within the bounds; gives what the program prints, and its exit status.
    fn pull(&self, registry: &StandIn) -> (String, Option<i32>) {
        let image = format!("{}/a/b:1", registry.address);
        let args = ["pull", "--plain-http", "--platform", "linux/amd64"];
        let mut command = guest_pull(&args);
        command.args(["--store", text(self.dir.path()), &image]);
        let start = Instant::now();
        let found = measured(&command);
        println!("the worker had {} KiB", found.peak);
        let shown = found.said.chars().take(3000).collect::<String>();
        assert!(start.elapsed() < LONGEST, "{shown}");
        assert!(
            found.peak <= MOST_OF_THE_WORKER,
            "{} KiB: {shown}",
            found.peak
        );
        assert!(found.code == Some(0) || found.said.len() < 3000, "{shown}");
        (found.said, found.code)
    }

    /// Fails unless the image is refused with these texts, and nothing of it is left.
    pub fn assert_refused_by(&self, registry: &StandIn, parts: &[&str]) -> String {
        let before = self.stored();
        let (said, code) = self.pull(registry);
        assert_eq!(code, Some(1), "{parts:?}: {said}");
        for part in parts {
            assert!(said.contains(part), "{part:?} is not in {said}");
        }
        // Another try would bring the same.
        assert!(!said.contains("tried"), "{said}");
        assert_eq!(self.stored(), before, "{parts:?}");
        said
    }

    pub fn assert_refused(&self, repository: &Repository, parts: &[&str]) -> String {
        self.assert_refused_by(&serve(repository.clone()), parts)
    }

    /// Fails unless the image is pulled.
    pub fn assert_pulled(&self, repository: &Repository) {
        let (said, code) = self.pull(&serve(repository.clone()));
        assert_eq!(code, Some(0), "{said}");
    }

    /// What is in the store, sorted.
    pub fn stored(&self) -> Vec<String> {
        let entries = fs::read_dir(self.dir.path().join("layers"));
        let entries = entries.into_iter().flatten();
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// An image of three layers with content that doesn't shrink.
pub fn three_layers() -> (Repository, Image) {
    let layer = |seed: u64| archive(&[(format!("file-{seed}"), noise(seed, 200_000))]);
    Repository::of(&[layer(1), layer(2), layer(3)])
}

/// The digest that a descriptor of an image's manifest has.
fn named(repository: &Repository, image: &Image, find: impl Fn(&Value) -> &Value) -> String {
    let digest = image.descriptor["digest"].as_str().unwrap();
    let manifest: Value = serde_json::from_slice(&repository.blobs[digest]).unwrap();
    find(&manifest)["digest"].as_str().unwrap().to_owned()
}

/// The registry sends something else than each digest names, in turn: for the index's manifest, the configuration and each
/// layer's blob, and for each archive what the configuration doesn't say.
#[test]
fn every_digest_wrong_in_turn() {
    let victim = Victim::new();
    let (mut repository, image) = three_layers();
    let mut entry = image.descriptor.clone();
    entry["platform"] = platform("linux/amd64");
    let manifest = entry["digest"].as_str().unwrap().to_owned();
    let config = named(&repository, &image, |manifest| &manifest["config"]);
    let index = repository.add_index(&[entry]);
    repository.tag(&index);
    // As long as before, so that the digest alone is wrong.
    let changed = |digest: &str| {
        let mut repository = repository.clone();
        let blob = repository.blobs.get_mut(digest).unwrap();
        let at = blob.len() / 2;
        blob[at] ^= 1;
        repository
    };
    let said = victim.assert_refused(
        &changed(&manifest),
        &["entry for linux/amd64", "the manifest that came", &manifest],
    );
    assert!(said.contains("was asked for"), "{said}");
    victim.assert_refused(
        &changed(&config),
        &["the configuration that came has the digest", &config],
    );
    for (at, layer) in image.layers.iter().enumerate() {
        let number = format!("layer {} of 3 ({layer})", at + 1);
        let mut repository = repository.clone();
        let blob = repository.blobs.get_mut(layer).unwrap();
        // The operating system in a gzip header, which no check of gzip's is over.
        blob[9] ^= 1;
        victim.assert_refused_whole(&repository, &[&number, "its blob has the digest"]);
    }
    // By its digest, the image itself.
    let registry = serve(changed(&manifest));
    let name = format!("{}/a/b@{manifest}", registry.address);
    let command = guest_pull(&["inspect", "--plain-http", &name]);
    let said = measured(&command).said;
    assert!(
        said.contains("the manifest that came has the digest"),
        "{said}"
    );
    for at in 0..3 {
        let mut repository = repository.clone();
        let wrong = repository.add_changed("other", |_| {}).diff_ids[0].clone();
        let mut value: Value = serde_json::from_slice(&repository.blobs[&config]).unwrap();
        value["rootfs"]["diff_ids"][at] = json!(wrong);
        let media_type = "application/vnd.oci.image.config.v1+json";
        let descriptor = repository.put_document(media_type, &value);
        let manifest = repository.add_manifest(&image, |it| it["config"] = descriptor.clone());
        repository.tag(&manifest);
        let number = format!("layer {} of 3", at + 1);
        victim.assert_refused_whole(
            &repository,
            &[&number, "its archive has the digest", &wrong],
        );
    }
    let (good, _) = three_layers();
    victim.assert_pulled(&good);
    assert_eq!(victim.stored().len(), 6);
}

impl Victim {
    /// As [`Victim::assert_refused`]; whole layers of the image, which are what their digests say, may stay. They are removed.
    fn assert_refused_whole(&self, repository: &Repository, parts: &[&str]) {
        let (said, code) = self.pull(&serve(repository.clone()));
        assert_eq!(code, Some(1), "{parts:?}: {said}");
        for part in parts {
            assert!(said.contains(part), "{part:?} is not in {said}");
        }
        let all = self.stored();
        let is_whole = |name: &String| name.ends_with(".erofs") || name.ends_with(".notes");
        assert!(all.iter().all(is_whole) && all.len() <= 4, "{all:?}");
        for name in all {
            fs::remove_file(self.dir.path().join("layers").join(name)).unwrap();
        }
    }
}

/// A size is said that is not what comes: smaller, larger, none, one that no file has, below zero, no whole number, a text; of
/// the manifest in an index, of the configuration and of each layer.
#[test]
fn every_size_wrong_in_turn() {
    let victim = Victim::new();
    let size = |size: &Value, by: i64| json!(size.as_i64().unwrap() + by);
    type Lie<'l> = (&'l str, &'l dyn Fn(&Value) -> Value, bool);
    let lies: [Lie; 9] = [
        ("smaller", &|it| size(it, -1), false),
        ("larger", &|it| size(it, 1), false),
        ("zero", &|_| json!(0), false),
        ("2^63", &|_| json!(1_u64 << 63), false),
        ("2^64 - 1", &|_| json!(u64::MAX), false),
        ("negative", &|_| json!(-1), true),
        ("fraction", &|_| json!(100.5), true),
        ("text", &|_| json!("100"), true),
        ("nothing", &|_| Value::Null, true),
    ];
    for (name, lie, is_no_size) in lies {
        let (mut repository, image) = three_layers();
        let mut entry = image.descriptor.clone();
        entry["platform"] = platform("linux/amd64");
        entry["size"] = lie(&entry["size"]);
        let index = repository.add_index(&[entry]);
        repository.tag(&index);
        let no_size = ["has no size for sha256:"];
        let expected = match is_no_size {
            true => &no_size[..],
            false => &["entry for linux/amd64", "and what leads to it says"],
        };
        victim.assert_refused(&repository, expected);
        let descriptor = repository.add_manifest(&image, |manifest| {
            manifest["config"]["size"] = lie(&manifest["config"]["size"]);
        });
        repository.tag(&descriptor);
        let expected = match (is_no_size, name) {
            (true, _) => &no_size[..],
            (_, "2^63" | "2^64 - 1") => &["configuration", "at most 4194304 are read"],
            _ => &["the configuration sha256:", "and what leads to it says"],
        };
        victim.assert_refused(&repository, expected);
        for at in 0..3 {
            let descriptor = repository.add_manifest(&image, |manifest| {
                manifest["layers"][at]["size"] = lie(&manifest["layers"][at]["size"]);
            });
            repository.tag(&descriptor);
            match is_no_size {
                true => {
                    victim.assert_refused(&repository, &no_size);
                }
                false => {
                    let number = format!("layer {} of 3 ({})", at + 1, image.layers[at]);
                    victim.assert_refused_whole(&repository, &[&number]);
                }
            }
        }
    }
    let (good, _) = three_layers();
    victim.assert_pulled(&good);
}

/// A registry that doesn't say how long a blob is can send more than the manifest says, without end: no more is read.
#[test]
fn blobs_without_end() {
    let victim = Victim::new();
    let content = archive(&[("file".to_owned(), b"x".to_vec())]);
    let layer = Layer {
        media_type: crate::image::LAYER.to_owned(),
        diff_id: guest_pull::digest::Digest::of(&content).to_string(),
        blob: content,
    };
    let mut repository = Repository::default();
    let image = repository.add_layers(vec![layer]);
    repository.tag(&image.descriptor);
    let blob = image.layers[0].clone();
    let registry = {
        let (repository, blob) = (repository.clone(), blob.clone());
        StandIn::start(move |asked: &Asked| {
            if !asked.path.ends_with(&blob) {
                return repository.answer(&asked.path);
            }
            let endless = [repository.blobs[&blob].clone(), vec![0; 64 << 20]].concat();
            Answer {
                is_open: true,
                ..Answer::new(200, endless)
            }
        })
    };
    victim.assert_refused_by(&registry, &["layer 1 of 1", &blob]);
    victim.assert_pulled(&repository);
}

/// One layer may be listed hundreds of times, since its blob is the same each time: it is fetched once. One more than can be
/// stacked is refused.
#[test]
fn one_layer_again_and_again() {
    let victim = Victim::new();
    let mut repository = Repository::default();
    let entry = entry_for(&mut repository, 1, "linux/amd64");
    let digest = entry["digest"].as_str().unwrap();
    let manifest: Value = serde_json::from_slice(&repository.blobs[digest]).unwrap();
    let config = manifest["config"]["digest"].as_str().unwrap();
    let config: Value = serde_json::from_slice(&repository.blobs[config]).unwrap();
    let again = |repository: &mut Repository, times: usize| {
        let (mut manifest, mut config) = (manifest.clone(), config.clone());
        let layer = manifest["layers"][0].clone();
        manifest["layers"] = vec![layer; times].into();
        let id = config["rootfs"]["diff_ids"][0].clone();
        config["rootfs"]["diff_ids"] = vec![id; times].into();
        let media_type = "application/vnd.oci.image.config.v1+json";
        manifest["config"] = repository.put_document(media_type, &config);
        let descriptor = repository.put_document("", &manifest);
        repository.tag(&descriptor);
    };
    again(&mut repository, 501);
    victim.assert_refused(&repository, &["has 501 layers", "at most 500"]);
    again(&mut repository, 500);
    let registry = serve(repository);
    let (said, code) = victim.pull(&registry);
    assert_eq!(code, Some(0), "{said}");
    // Manifest, configuration, and the layer.
    assert_eq!(registry.asked().len(), 3);
    assert_eq!(victim.stored().len(), 2);
}
