// SPDX-License-Identifier: Apache-2.0

//! Manifests, indexes and configurations: what is taken, and what is refused with the reason.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::containerd::Containerd;
use crate::host::{guest_pull, is_root, output, text};
use crate::image::{Image, Repository};
use crate::stand_in::{Answer, Asked, StandIn};

/// Pulls `a/b:1` for a platform; gives what the program prints, and its exit status.
fn pull_for(registry: &StandIn, platform: &str) -> (String, Option<i32>) {
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

fn serve(repository: Repository) -> StandIn {
    StandIn::start(move |asked| repository.answer(&asked.path))
}

/// Pulls the tag for amd64, which must give the image of this descriptor.
fn assert_pulled(repository: &Repository, descriptor: &Value) -> String {
    let (said, code) = pull_for(&serve(repository.clone()), "linux/amd64");
    let digest = descriptor["digest"].as_str().unwrap();
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains(digest), "not {digest}: {said}");
    said
}

/// Pulls the tag for amd64, which must fail with each of these texts.
fn assert_refused(repository: &Repository, parts: &[&str]) -> String {
    assert_refused_by(&serve(repository.clone()), parts)
}

fn assert_refused_by(registry: &StandIn, parts: &[&str]) -> String {
    let (said, code) = pull_for(registry, "linux/amd64");
    assert_eq!(code, Some(1), "{parts:?}: {said}");
    for part in parts {
        assert!(said.contains(part), "{part:?} is not in {said}");
    }
    assert!(!said.contains("tried"), "{said}");
    said
}

/// A platform, with or without a variant.
fn platform(text: &str) -> Value {
    let parts: Vec<_> = text.split('/').collect();
    let mut platform = json!({"os": parts[0], "architecture": parts[1]});
    if let Some(variant) = parts.get(2) {
        platform["variant"] = json!(variant);
    }
    platform
}

/// An image whose one layer has a file of this name, and whose configuration is for the platform.
fn image_for(repository: &mut Repository, name: &str, for_platform: &str) -> Image {
    let parts = platform(for_platform);
    repository.add_changed(name, |config| {
        config["os"] = parts["os"].clone();
        config["architecture"] = parts["architecture"].clone();
        config["variant"] = parts["variant"].clone();
    })
}

/// The entry of an index.
fn entry_for(repository: &mut Repository, number: usize, for_platform: &str) -> Value {
    let mut descriptor = image_for(repository, &format!("entry-{number}"), for_platform).descriptor;
    descriptor["platform"] = platform(for_platform);
    descriptor
}

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
    repository.tag_index(&[right.clone()]);
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

/// What is no image is refused with what it is: artifacts of OCI 1.1 by their type, charts, modules, signatures.
#[test]
fn artifacts() {
    let mut repository = Repository::default();
    let image = image_for(&mut repository, "file", "linux/amd64");
    type Change = fn(&mut Value);
    let cases: [(Change, &str); 6] = [
        (
            |manifest| {
                manifest["artifactType"] = json!("application/vnd.example.sbom");
                manifest["config"]["mediaType"] = json!("application/vnd.oci.empty.v1+json");
            },
            "application/vnd.example.sbom",
        ),
        (
            |manifest| {
                manifest["config"]["mediaType"] = json!("application/vnd.cncf.helm.config.v1+json")
            },
            "application/vnd.cncf.helm.config.v1+json",
        ),
        (
            |manifest| {
                manifest["config"]["mediaType"] = json!("application/vnd.wasm.config.v0+json")
            },
            "application/vnd.wasm.config.v0+json",
        ),
        (
            |manifest| {
                manifest["layers"][0]["mediaType"] =
                    json!("application/vnd.dev.cosign.simplesigning.v1+json")
            },
            "application/vnd.dev.cosign.simplesigning.v1+json",
        ),
        (
            |manifest| {
                manifest["mediaType"] = json!("application/vnd.oci.artifact.manifest.v1+json")
            },
            "application/vnd.oci.artifact.manifest.v1+json",
        ),
        (
            |manifest| {
                let long = format!("application/vnd.{}\u{1b}[31m", "x".repeat(1000));
                manifest["config"]["mediaType"] = json!(long);
            },
            "xxx",
        ),
    ];
    for (change, expected) in cases {
        let descriptor = repository.add_manifest(&image, change);
        repository.tag(&descriptor);
        let said = assert_refused(&repository, &["no image", expected]);
        assert!(!said.contains('\u{1b}') && said.len() < 700, "{said}");
    }
    // What belongs to another image, or says what kind of image it is, is one.
    let descriptor = repository.add_manifest(&image, |manifest| {
        manifest["subject"] = image.descriptor.clone();
        manifest["artifactType"] = json!("application/vnd.example.image");
        manifest["annotations"] = json!({"a": "b"});
    });
    repository.tag(&descriptor);
    assert_pulled(&repository, &descriptor);
}

/// Docker's own manifests and lists of them; those of schema 1 are refused.
#[test]
fn docker_schema_2_and_1() {
    let docker = |name: &str| json!(format!("application/vnd.docker.{name}"));
    let mut repository = Repository::default();
    let image = image_for(&mut repository, "file", "linux/amd64");
    let mut descriptor = repository.add_manifest(&image, |manifest| {
        manifest["mediaType"] = docker("distribution.manifest.v2+json");
        manifest["config"]["mediaType"] = docker("container.image.v1+json");
        manifest["layers"][0]["mediaType"] = docker("image.rootfs.diff.tar.gzip");
    });
    repository.tag(&descriptor);
    assert_pulled(&repository, &descriptor);
    descriptor["platform"] = platform("linux/amd64");
    let media_type = "application/vnd.docker.distribution.manifest.list.v2+json";
    let list =
        json!({"schemaVersion": 2, "mediaType": media_type, "manifests": [descriptor.clone()]});
    let list = repository.put_document(media_type, &list);
    repository.tag(&list);
    assert_pulled(&repository, &descriptor);
    // What old versions of Docker pushed.
    let descriptor = repository.add_manifest(&image, |manifest| {
        manifest["mediaType"] = docker("distribution.manifest.v2+json");
        manifest["config"]["mediaType"] = json!("application/octet-stream");
    });
    repository.tag(&descriptor);
    assert_pulled(&repository, &descriptor);

    for document in [
        json!({"schemaVersion": 1, "name": "a/b", "tag": "1", "fsLayers": [], "history": []}),
        json!({"schemaVersion": 1, "mediaType": "application/vnd.docker.distribution.manifest.v1+prettyjws", "fsLayers": []}),
    ] {
        let descriptor = repository.put_document("", &document);
        repository.tag(&descriptor);
        assert_refused(&repository, &["schema 1", "push the image again"]);
    }
}

/// A document that could be one image for this program, and another for who checked it, is refused: what has layers and
/// manifests; what is an index, and said to be a manifest, by itself, by the registry or by the index above; and so the other
/// way round.
#[test]
fn ambiguous_documents() {
    const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    let mut repository = Repository::default();
    let image = image_for(&mut repository, "file", "linux/amd64");
    let entry = entry_for(&mut repository, 1, "linux/amd64");
    for own in [MANIFEST, INDEX] {
        let both = repository.add_manifest(&image, |manifest| {
            manifest["mediaType"] = json!(own);
            manifest["manifests"] = json!([entry]);
        });
        repository.tag(&both);
        assert_refused(&repository, &["two images"]);
    }
    let lying = repository.add_manifest(&image, |manifest| manifest["mediaType"] = json!(INDEX));
    repository.tag(&lying);
    assert_refused(&repository, &["manifest", "said to be an index"]);
    // Without a type of its own.
    let manifest = repository.add_manifest(&image, |manifest| manifest["mediaType"] = Value::Null);
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    let index = repository.put_document(INDEX, &index);
    let mut nested = manifest.clone();
    nested["mediaType"] = json!(INDEX);
    repository.tag_index(&[nested]);
    assert_refused(&repository, &["said to be an index"]);
    for (descriptor, said_type, is_fine) in [
        (&manifest, INDEX, false),
        (&manifest, MANIFEST, true),
        (
            &manifest,
            "application/vnd.oci.image.manifest.v1+json; charset=utf-8",
            true,
        ),
        (&manifest, "text/plain", true),
        (&index, MANIFEST, false),
        (&index, INDEX, true),
        (&index, "application/json", true),
    ] {
        repository.tag(descriptor);
        let repository = repository.clone();
        let registry = StandIn::start(move |asked: &Asked| {
            let answer = repository.answer(&asked.path);
            match asked.path.ends_with("/1") {
                true => answer.with("Content-Type", said_type),
                false => answer,
            }
        });
        match is_fine {
            true => {
                let (said, code) = pull_for(&registry, "linux/amd64");
                assert_eq!(code, Some(0), "{said_type}: {said}");
            }
            false => {
                assert_refused_by(&registry, &["said to be"]);
            }
        }
    }
}

/// Documents of more than 4 MiB are refused, whether the registry announces their length or not, and nothing is read beyond.
#[test]
fn larger_than_4_mib() {
    let mut repository = Repository::default();
    let mut large = image_for(&mut repository, "file", "linux/amd64");
    large.descriptor = repository.add_manifest(&large, |manifest| {
        manifest["annotations"] = json!({"a": "x".repeat(4 << 20)});
    });
    repository.tag(&large.descriptor);
    for is_open in [false, true] {
        let repository = repository.clone();
        let registry = StandIn::start(move |asked: &Asked| {
            let mut answer = repository.answer(&asked.path);
            answer.is_open = is_open;
            answer
        });
        assert_refused_by(&registry, &["manifest", "more than 4194304 bytes"]);
    }
    let annotations = json!({"a": "x".repeat(4 << 20)});
    let index = json!({"schemaVersion": 2, "manifests": [], "annotations": annotations});
    let index = repository.put_document("", &index);
    repository.tag(&index);
    assert_refused(&repository, &["more than 4194304 bytes"]);
    let config = repository.add_changed("file", |config| {
        config["history"] = json!("x".repeat(4 << 20))
    });
    repository.tag(&config.descriptor);
    let registry = serve(repository);
    assert_refused_by(&registry, &["configuration", "at most 4194304"]);
    // It is not even asked for.
    assert_eq!(registry.asked().len(), 1);
}

/// A manifest with more or fewer layers than the configuration says is refused, and so is one that says none.
#[test]
fn layers_unlike_diff_ids() {
    for (diff_ids, expected) in [
        (
            json!([]),
            "has 0 rootfs.diff_ids, and the manifest 1 layers",
        ),
        (
            json!([
                format!("sha256:{}", "7".repeat(64)),
                format!("sha256:{}", "8".repeat(64))
            ]),
            "has 2 rootfs.diff_ids",
        ),
        (json!(["sha512:00"]), "no sha256:<64 digits>"),
        (json!(null), "has no rootfs.diff_ids"),
    ] {
        let mut repository = Repository::default();
        let image =
            repository.add_changed("file", |config| config["rootfs"]["diff_ids"] = diff_ids);
        repository.tag(&image.descriptor);
        assert_refused(&repository, &["configuration", expected]);
    }
}

/// Sizes that are not those of what comes, and digests of other algorithms, are refused; what a descriptor has in it is not
/// taken for what it names.
#[test]
fn descriptors_that_lie() {
    let mut repository = Repository::default();
    let image = image_for(&mut repository, "file", "linux/amd64");
    for (change, expected) in [
        (
            (|manifest| manifest["config"]["size"] = json!(7)) as fn(&mut Value),
            "says 7",
        ),
        (
            |manifest| manifest["layers"][0]["size"] = json!(7),
            "says 7",
        ),
        (
            |manifest| manifest["layers"][0]["size"] = json!(-7),
            "no size",
        ),
        (
            |manifest| manifest["layers"][0]["size"] = json!(1.5),
            "no size",
        ),
        (
            |manifest| manifest["layers"][0]["size"] = Value::Null,
            "no size",
        ),
        (
            |manifest| {
                manifest["layers"][0]["digest"] = json!(format!("sha512:{}", "7".repeat(128)))
            },
            "sha512",
        ),
        (
            |manifest| manifest["layers"][0]["digest"] = json!("md5:00"),
            "md5:00",
        ),
        (|manifest| manifest["config"] = Value::Null, "no sha256"),
        (
            |manifest| manifest["layers"] = json!("none"),
            "neither layers",
        ),
        (
            |manifest| manifest["schemaVersion"] = json!(3),
            "schemaVersion",
        ),
    ] {
        let descriptor = repository.add_manifest(&image, change);
        repository.tag(&descriptor);
        assert_refused(&repository, &[expected]);
    }
    let mut entry = entry_for(&mut repository, 1, "linux/amd64");
    entry["size"] = json!(7);
    repository.tag_index(&[entry]);
    assert_refused(&repository, &["entry for linux/amd64", "says 7"]);
    // A configuration and a layer of nothing but text.
    let descriptor = repository.add_manifest(&image, |manifest| {
        manifest["config"]["data"] = json!("bm90aGluZw==");
        manifest["layers"][0]["data"] = json!("bm90aGluZw==");
    });
    repository.tag(&descriptor);
    assert_pulled(&repository, &descriptor);
    let not_json = repository.put(b"<html></html>".to_vec());
    repository.tag = not_json;
    assert_refused(&repository, &["is not JSON"]);
}

/// Layers that are not in the registry, and those of unknown types, are refused with their number and type.
#[test]
fn foreign_layers_and_unknown_media_types() {
    let mut repository = Repository::default();
    let image = image_for(&mut repository, "file", "linux/amd64");
    for (media_type, expected) in [
        (
            "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
            "foreign layer",
        ),
        (
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
            "foreign layer",
        ),
        ("application/vnd.example.layer", "no layer of an image"),
        (
            "application/vnd.oci.image.layer.v1.squashfs",
            "no layer of an image",
        ),
        (
            "application/vnd.oci.image.layer.v1.tar+lzma",
            "does not know",
        ),
        ("", "no layer of an image"),
    ] {
        let descriptor = repository.add_manifest(&image, |manifest| {
            manifest["layers"][0]["mediaType"] = json!(media_type);
            manifest["layers"][0]["urls"] = json!(["https://elsewhere.example/layer"]);
        });
        repository.tag(&descriptor);
        assert_refused(&repository, &["layer 1", expected, media_type]);
    }
}

/// An image that a tag names without an index is pulled whatever its configuration says of the platform, as containerd does;
/// the log has both.
#[test]
fn another_platform_without_an_index() {
    let mut repository = Repository::default();
    let image = image_for(&mut repository, "file", "linux/arm64");
    repository.tag(&image.descriptor);
    let said = assert_pulled(&repository, &image.descriptor);
    assert!(
        said.contains("is for linux/arm64, and this is linux/amd64"),
        "{said}"
    );
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    repository.write_layout(dir.path());
    let containerd = Containerd::start();
    let theirs = containerd.mount_for(dir.path(), "other", "linux/amd64");
    let (root, _mounted) = theirs.unwrap();
    assert!(root.join("file").exists());
}

/// A registry's text is no part of an image: an answer without content is an error.
#[test]
fn an_empty_answer() {
    let registry = StandIn::start(|_| Answer::new(200, ""));
    assert_refused_by(&registry, &["manifest", "is not JSON"]);
}
