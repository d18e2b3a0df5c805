// SPDX-License-Identifier: Apache-2.0

//! Random archives, as layers for this program and for containerd.

use std::fs;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use crate::any_archive::{Allowed, Choices, any_archive};
use crate::both::{Both, How};
use crate::host::is_root;
use crate::image::{Repository, noise};

/// How many images are compared, unless `DIFFERENTIAL_IMAGES` says how many: about 25 s.
const IMAGES: usize = 150;

/// The number of the first image, unless `DIFFERENTIAL_SEED` has another.
const SEED: usize = 1;

/// What containerd refuses, and this program takes. The meaning is clear, and an overlay shows it.
const REFUSED_THERE: &[&str] = &[
    // A whiteout of a name that the layer has already taken away, or has.
    "failed to convert whiteout file",
    // A hard link to a file that the layer has later, or no more.
    "link /",
];

/// The same where a directory that has no entry in a layer is a file, or a link that leads nowhere, in a lower one:
/// containerd looks for its attributes there.
const REFUSED_THERE_IN_STACKS: &[&str] = &[
    "not a directory",
    "too many levels of symbolic links",
    "file name too long",
];

fn variable(name: &str, usual: usize) -> usize {
    match std::env::var(name) {
        Ok(text) => text.parse().unwrap(),
        Err(_) => usual,
    }
}

/// The layers of an image: one to three.
fn layers(seed: usize) -> Vec<Vec<u8>> {
    let topmost = seed % 3;
    let layer = |number: usize| {
        let bytes = noise((seed * 4 + number) as u64, 100 + seed * 37 % 300);
        let allowed = Allowed::AsContainerd {
            is_lowest: number == 0,
            is_topmost: number == topmost,
        };
        any_archive(&mut Choices::new(&bytes, allowed))
    };
    (0..=topmost).map(layer).collect()
}

/// Images of random archives are mounted as containerd mounts them, or refused by both.
#[test]
fn random_archives_are_as_containerd_extracts_them() {
    if !is_root() {
        return;
    }
    let first = variable("DIFFERENTIAL_SEED", SEED);
    let seeds = first..first + variable("DIFFERENTIAL_IMAGES", IMAGES);
    let mut repository = Repository::default();
    let mut images = Vec::new();
    for seed in seeds {
        let layers = layers(seed);
        // To look at them with other tools.
        if let Some(directory) = std::env::var_os("DIFFERENTIAL_KEEP") {
            for (number, layer) in layers.iter().enumerate() {
                let name = format!("{seed}-{number}.tar");
                fs::write(Path::new(&directory).join(name), layer).unwrap();
            }
        }
        images.push(repository.add(&layers));
    }
    let both = Both::new(repository, images.iter());
    let next = AtomicUsize::new(0);
    let found = Mutex::new(Vec::new());
    let taken = AtomicUsize::new(0);
    let entries = AtomicUsize::new(0);
    let work = || {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            let Some(image) = images.get(number) else {
                return;
            };
            let pulled = both.pull(number, image).without_new_times();
            if let (Ok(ours), Ok(_)) = (&pulled.ours, &pulled.theirs) {
                taken.fetch_add(1, Ordering::Relaxed);
                entries.fetch_add(ours.len(), Ordering::Relaxed);
            }
            let is_known = |how: How, what: &str| {
                let in_stacks = REFUSED_THERE_IN_STACKS.iter();
                let in_stacks = in_stacks.filter(|_| image.layers.len() > 1);
                let mut known = REFUSED_THERE.iter().chain(in_stacks);
                how == How::TheyRefuse && known.any(|known| what.contains(known))
            };
            match pulled.difference() {
                Some((how, what)) if !is_known(how, &what) => {
                    found.lock().unwrap().push((first + number, how, what));
                }
                _ => {}
            }
        }
    };
    thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    let mut found = found.into_inner().unwrap();
    found.sort_by_key(|(seed, ..)| *seed);
    let taken = taken.into_inner();
    eprintln!(
        "{taken} of {} images were taken by both, with {} entries",
        images.len(),
        entries.into_inner()
    );
    let shown: Vec<_> = found
        .iter()
        .map(|(seed, how, what)| {
            format!("DIFFERENTIAL_SEED={seed} DIFFERENTIAL_IMAGES=1: {how:?}: {what}")
        })
        .collect();
    assert!(
        shown.is_empty(),
        "{} images differ:\n{}",
        shown.len(),
        shown.join("\n")
    );
    // Else nothing was compared.
    assert!(
        taken * 2 > images.len(),
        "{taken} of {} were taken",
        images.len()
    );
}
