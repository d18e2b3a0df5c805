// SPDX-License-Identifier: Apache-2.0

//! Images of noise in a registry, pulls of them, and what a store has of them.

// Each of the tests' programs uses a part of it.
#![allow(dead_code)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use crate::host::{guest_pull, output, text};
use crate::image::{Image, Repository, archive, noise};
use crate::stand_in::StandIn;

/// Images by their numbers, at a registry.
pub struct Images {
    pub registry: StandIn,
    pub images: Vec<Image>,
}

impl Images {
    /// Each of the images has layers of so many bytes. No two layers are the same.
    pub fn of_sizes(all: &[&[usize]]) -> Self {
        let mut seed = 0;
        let mut archives = Vec::new();
        for layers in all {
            let layers = layers.iter().map(|bytes| {
                seed += 1;
                archive(&[(format!("file-{seed}"), noise(seed, *bytes))])
            });
            archives.push(layers.collect());
        }
        Self::of(&archives)
    }

    pub fn of(all: &[Vec<Vec<u8>>]) -> Self {
        let mut repository = Repository::default();
        let images = all.iter().map(|layers| repository.add(layers)).collect();
        Self {
            registry: StandIn::start(move |asked| repository.answer(&asked.path)),
            images,
        }
    }

    /// The name of an image.
    pub fn name(&self, number: usize) -> String {
        let digest = self.images[number].descriptor["digest"].as_str().unwrap();
        format!("{}/a/b@{digest}", self.registry.address)
    }

    /// The command that pulls an image into a store.
    pub fn command(&self, number: usize, store: &Path) -> Command {
        let name = self.name(number);
        guest_pull(&["pull", "--plain-http", "--store", text(store), &name])
    }

    /// Pulls an image into a store; gives what it says if it fails.
    pub fn pull(&self, number: usize, store: &Path) -> Result<(), String> {
        let (_, said, code) = output(&mut self.command(number, store));
        match code {
            Some(0) => Ok(()),
            _ => Err(said),
        }
    }

    /// How often the blob of an image's layer was asked for.
    pub fn asked(&self, number: usize, layer: usize) -> usize {
        let digest = &self.images[number].layers[layer];
        let asked = self.registry.asked();
        let of_layer = asked.iter().filter(|asked| asked.path.ends_with(digest));
        of_layer.count()
    }

    /// The numbers of the images, all of whose layers a store has.
    pub fn stored(&self, store: &Path) -> Vec<usize> {
        let names = names(store);
        let is_stored = |image: &Image| {
            let mut files = image.diff_ids.iter().flat_map(|id| files_of(id));
            files.all(|file| names.contains(&file))
        };
        let images = self.images.iter().enumerate();
        let stored = images.filter(|(_, image)| is_stored(image));
        stored.map(|(number, _)| number).collect()
    }
}

/// The names of a stored layer's files.
pub fn files_of(diff_id: &str) -> [String; 2] {
    let hex = diff_id.trim_start_matches("sha256:");
    ["erofs", "notes"].map(|kind| format!("{hex}.{kind}"))
}

/// The names of all that a store has of layers.
pub fn names(store: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(store.join("layers")).into_iter().flatten();
    entries
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect()
}

/// That a store has whole layers and nothing else: of each layer both files.
pub fn assert_whole(store: &Path, when: &str) {
    let names = names(store);
    for name in &names {
        let (hex, kind) = name.split_once('.').unwrap();
        let other = match kind {
            "erofs" => "notes",
            "notes" => "erofs",
            _ => panic!("{when}: {names:?}"),
        };
        let is_whole = hex.len() == 64 && names.contains(&format!("{hex}.{other}"));
        assert!(is_whole, "{when}: {names:?}");
    }
}
