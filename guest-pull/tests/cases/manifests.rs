// SPDX-License-Identifier: Apache-2.0

//! Manifests and configurations: which are images, and what is refused with the reason.

use serde_json::{Value, json};

use crate::containerd::Containerd;
use crate::host::is_root;
use crate::image::Repository;
use crate::repositories::{
    assert_pulled, assert_refused, assert_refused_by, entry_for, image_for, platform, pull_for,
    serve,
};
use crate::stand_in::{Answer, Asked, StandIn};

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
        (json!([]), "has 0 rootfs.diff_ids, and the manifest 1 layer"),
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
    assert_refused_by(&registry, &["manifest", "is empty"]);
}
