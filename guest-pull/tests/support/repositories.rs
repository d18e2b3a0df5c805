// SPDX-License-Identifier: Apache-2.0

//! Pulls from a repository in memory.

// Each of the tests' files uses a part of it.
#![allow(dead_code)]

use std::fs;

use serde_json::{Value, json};

use crate::host::{guest_pull, output, text};
use crate::image::{Image, Repository};
use crate::stand_in::StandIn;

/// Pulls `a/b:1` for a platform; gives what the program prints, and its exit status.
pub fn pull_for(registry: &StandIn, platform: &str) -> (String, Option<i32>) {
    let dir = tempfile::tempdir().unwrap();
    let image = format!("{}/a/b:1", registry.address);
    let store = text(dir.path());
    let mut pull = guest_pull(&[
        "pull",
        "--plain-http",
        "--store",
        store,
        "--platform",
        platform,
    ]);
    let (stdout, stderr, code) = output(pull.arg(&image));
    let stored = fs::read_dir(dir.path().join("layers"))
        .into_iter()
        .flatten();
    assert!(code == Some(0) || stored.count() == 0, "{stderr}");
    (format!("{stdout}{stderr}"), code)
}

pub fn serve(repository: Repository) -> StandIn {
    StandIn::start(move |asked| repository.answer(&asked.path))
}

/// Pulls the tag for amd64, which must give the image of this descriptor.
pub fn assert_pulled(repository: &Repository, descriptor: &Value) -> String {
    let (said, code) = pull_for(&serve(repository.clone()), "linux/amd64");
    let digest = descriptor["digest"].as_str().unwrap();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(digest), "not {digest}: {said}");
    said
}

/// Pulls the tag for amd64, which must fail with each of these texts.
pub fn assert_refused(repository: &Repository, parts: &[&str]) -> String {
    assert_refused_by(&serve(repository.clone()), parts)
}

pub fn assert_refused_by(registry: &StandIn, parts: &[&str]) -> String {
    let (said, code) = pull_for(registry, "linux/amd64");
    assert_eq!(code, Some(1), "{parts:?}: {said}");
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    assert!(!said.contains("tried"), "{said}");
    said
}

/// A platform, with or without a variant.
pub fn platform(text: &str) -> Value {
    let parts: Vec<_> = text.split('/').collect();
    let mut platform = json!({"os": parts[0], "architecture": parts[1]});
    if let Some(variant) = parts.get(2) {
        platform["variant"] = json!(variant);
    }
    platform
}

/// An image whose one layer has a file of this name, and whose configuration is for the platform.
pub fn image_for(repository: &mut Repository, name: &str, for_platform: &str) -> Image {
    let parts = platform(for_platform);
    repository.add_changed(name, |config| {
        config["os"] = parts["os"].clone();
        config["architecture"] = parts["architecture"].clone();
        config["variant"] = parts["variant"].clone();
    })
}

/// The entry of an index.
pub fn entry_for(repository: &mut Repository, number: usize, for_platform: &str) -> Value {
    let mut descriptor = image_for(repository, &format!("entry-{number}"), for_platform).descriptor;
    descriptor["platform"] = platform(for_platform);
    descriptor
}
