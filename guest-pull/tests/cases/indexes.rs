// SPDX-License-Identifier: Apache-2.0

//! Indexes: which of their images is taken, and when none is.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::containerd::Containerd;
use crate::host::is_root;
use crate::image::Repository;
use crate::repositories::{
    assert_pulled, assert_refused, entry_for, image_for, platform, pull_for, serve,
};

/// Of each index the entry that containerd takes, for each machine; and none where it takes none. It alone takes images of 32
/// bits for machines of 64.
#[test]
fn variants() {
    if !is_root() {
        return;
    }
    let containerd = Containerd::start();
    let indexes: [&[&str]; 7] = [
        &[
            "linux/amd64/v3",
            "linux/amd64/v2",
            "linux/amd64",
            "linux/arm64/v8",
            "linux/s390x",
        ],
        &["linux/amd64/v1", "linux/arm64", "linux/arm"],
        &[
            "linux/arm/v5",
            "linux/arm/v7",
            "linux/arm/v6",
            "windows/amd64",
        ],
        &["linux/arm/v6", "linux/arm/v5", "linux/arm/v6"],
        &["linux/amd64/v2", "linux/amd64/v3", "linux/arm/v7"],
        &[
            "unknown/unknown",
            "linux/amd64",
            "linux/amd64",
            "darwin/arm64",
        ],
        &["linux/386", "linux/arm/v7"],
    ];
    let machines = [
        "linux/amd64",
        "linux/arm64",
        "linux/arm/v7",
        "linux/arm/v6",
        "linux/s390x",
        "linux/386",
    ];
    let mut differences = Vec::new();
    for (number, index) in indexes.iter().enumerate() {
        let mut repository = Repository::default();
        let entries: Vec<_> = index
            .iter()
            .enumerate()
            .map(|(at, platform)| entry_for(&mut repository, at, platform))
            .collect();
        repository.tag_index(&entries);
        let dir = tempfile::tempdir().unwrap();
        repository.write_layout(dir.path());
        let registry = serve(repository);
        for machine in machines {
            let (said, code) = pull_for(&registry, machine);
            let ours = entries
                .iter()
                .position(|entry| said.contains(entry["digest"].as_str().unwrap()));
            let ours = ours.filter(|_| code == Some(0));
            assert_eq!(ours.is_some(), code == Some(0), "{said}");
            let name = format!("index-{number}-{}", machine.replace('/', "-"));
            let theirs = containerd.mount_for(dir.path(), &name, machine);
            let theirs = theirs.ok().map(|(at, _mounted)| entry_in(&at));
            if ours != theirs {
                differences.push((number, machine, ours, theirs));
            }
        }
    }
    let of_32_bits = [
        (2, "linux/arm64", None, Some(1)),
        (3, "linux/arm64", None, Some(0)),
        (4, "linux/arm64", None, Some(2)),
        (6, "linux/amd64", None, Some(0)),
        (6, "linux/arm64", None, Some(1)),
    ];
    assert_eq!(differences, of_32_bits);
}

/// The number of the entry whose image is mounted.
fn entry_in(root: &Path) -> usize {
    let name = fs::read_dir(root).unwrap().next().unwrap().unwrap();
    let name = name.file_name().into_string().unwrap();
    name.trim_start_matches("entry-").parse().unwrap()
}

/// Where nothing fits, the error has the platform that was wanted, and those that there are, also in indexes within.
#[test]
fn no_platform_fits() {
    let mut repository = Repository::default();
    let nested = [entry_for(&mut repository, 0, "linux/riscv64")];
    let nested = repository.add_index(&nested);
    let entries = [
        nested,
        entry_for(&mut repository, 1, "linux/arm/v7"),
        entry_for(&mut repository, 2, "unknown/unknown"),
        image_for(&mut repository, "without", "linux/ppc64le").descriptor,
    ];
    repository.tag_index(&entries);
    let parts = [
        "nothing for linux/amd64",
        "linux/riscv64",
        "linux/arm/v7",
        "linux/ppc64le",
    ];
    let said = assert_refused(&repository, &parts);
    assert!(!said.contains("unknown/unknown"), "{said}");
    repository.tag_index(&[]);
    assert_refused(
        &repository,
        &["nothing for linux/amd64", "nothing with a platform"],
    );
}

/// What builders add to images is passed over: attestations by their platform or by their annotation, artifacts, and what
/// needs features of the system that no machine has.
#[test]
fn attestations_and_other_entries() {
    let mut repository = Repository::default();
    let unknown = entry_for(&mut repository, 0, "unknown/unknown");
    let mut attestation = entry_for(&mut repository, 1, "linux/amd64");
    attestation["annotations"] = json!({"vnd.docker.reference.type": "attestation-manifest"});
    let mut artifact = entry_for(&mut repository, 2, "linux/amd64");
    artifact["artifactType"] = json!("application/vnd.example.sbom");
    let mut features = entry_for(&mut repository, 3, "linux/amd64");
    features["platform"]["os.features"] = json!(["erofs"]);
    let mut document = entry_for(&mut repository, 4, "linux/amd64");
    document["mediaType"] = json!("application/vnd.in-toto+json");
    let right = entry_for(&mut repository, 5, "linux/amd64");
    let entries = [
        unknown,
        attestation,
        artifact,
        features,
        document,
        right.clone(),
    ];
    repository.tag_index(&entries);
    assert_pulled(&repository, &right);
    repository.tag_index(&entries[..5]);
    assert_refused(&repository, &["nothing for linux/amd64"]);
}

/// Entries without a platform are as for containerd: after those with one, and by the image's configuration. It gives up where
/// the first of them does not fit.
#[test]
fn entries_without_a_platform_as_containerd() {
    if !is_root() {
        return;
    }
    let containerd = Containerd::start();
    let mut repository = Repository::default();
    let other = image_for(&mut repository, "entry-0", "linux/arm64").descriptor;
    let right = image_for(&mut repository, "entry-1", "linux/amd64").descriptor;
    let named = entry_for(&mut repository, 2, "linux/amd64");
    let nested = repository.add_index(&[right.clone(), other.clone()]);
    let indexes: [(&[&Value], usize, bool); 4] = [
        (&[&right, &other], 1, true),
        (&[&other, &right, &named], 2, true),
        (&[&nested], 1, true),
        (&[&other, &right], 1, false),
    ];
    for (number, (entries, expected, is_same)) in indexes.into_iter().enumerate() {
        let entries: Vec<_> = entries.iter().copied().cloned().collect();
        repository.tag_index(&entries);
        assert_pulled(&repository, [&other, &right, &named][expected]);
        let dir = tempfile::tempdir().unwrap();
        repository.write_layout(dir.path());
        let theirs = containerd.mount_for(dir.path(), &format!("without-{number}"), "linux/amd64");
        let theirs = theirs.ok().map(|(root, _mounted)| entry_in(&root));
        assert_eq!(theirs, Some(expected).filter(|_| is_same), "{number}");
    }
}

/// Entries without a platform come after those with one, and the image's configuration decides. An index of one such entry
/// is no exception.
#[test]
fn entries_without_a_platform() {
    let mut repository = Repository::default();
    let other = image_for(&mut repository, "other", "linux/arm64").descriptor;
    let right = image_for(&mut repository, "right", "linux/amd64").descriptor;
    let named = entry_for(&mut repository, 0, "linux/amd64");
    // An artifact, which is no image for anybody.
    let image = image_for(&mut repository, "chart", "linux/amd64");
    let chart = repository.add_manifest(&image, |manifest| {
        manifest["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json");
    });
    repository.tag_index(&[other.clone(), chart.clone(), right.clone()]);
    assert_pulled(&repository, &right);
    repository.tag_index(&[other.clone(), right.clone(), named.clone()]);
    assert_pulled(&repository, &named);
    repository.tag_index(std::slice::from_ref(&right));
    assert_pulled(&repository, &right);
    repository.tag_index(&[other]);
    assert_refused(&repository, &["nothing for linux/amd64", "linux/arm64"]);
    repository.tag_index(&[chart]);
    assert_refused(&repository, &["nothing for linux/amd64"]);
    // Not without end.
    let many: Vec<_> = (0..40)
        .map(|number| image_for(&mut repository, &format!("{number}"), "linux/arm64").descriptor)
        .collect();
    repository.tag_index(&many);
    assert_refused(&repository, &["more than 32 manifests"]);
}

/// An index within others is looked into, with or without a platform of its own; four deep, and not without end.
#[test]
fn nested_indexes() {
    let mut repository = Repository::default();
    let right = entry_for(&mut repository, 0, "linux/amd64");
    let other = entry_for(&mut repository, 1, "linux/arm64");
    let mut index = repository.add_index(&[other.clone(), right.clone()]);
    repository.tag_index(&[other.clone(), index.clone()]);
    assert_pulled(&repository, &right);
    index["platform"] = platform("linux/amd64");
    repository.tag_index(&[index.clone()]);
    assert_pulled(&repository, &right);
    // The first has nothing, and the second has.
    let empty = repository.add_index(&[other]);
    repository.tag_index(&[empty, index.clone()]);
    assert_pulled(&repository, &right);
    for _ in 0..3 {
        index = repository.add_index(&[index]);
    }
    repository.tag(&index);
    assert_pulled(&repository, &right);
    index = repository.add_index(&[index]);
    repository.tag(&index);
    assert_refused(&repository, &["within more than 4 others"]);
}

/// If the entry that fits can't be used, the error names it, and no other is taken in its place.
#[test]
fn the_entry_that_fits_is_refused() {
    let mut repository = Repository::default();
    let mut missing = entry_for(&mut repository, 0, "linux/amd64");
    let second = entry_for(&mut repository, 1, "linux/amd64");
    let digest = format!("sha256:{}", "7".repeat(64));
    missing["digest"] = json!(digest);
    repository.tag_index(&[missing, second]);
    let registry = serve(repository);
    let (said, code) = pull_for(&registry, "linux/amd64");
    assert_ne!(code, Some(0));
    assert!(
        said.contains("entry for linux/amd64") && said.contains(&digest),
        "{said}"
    );
}
