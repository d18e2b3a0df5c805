// SPDX-License-Identifier: Apache-2.0

//! Documents that are there to take memory or time, and JSON that readers understand in different ways. Whatever comes, the
//! worker has less than 64 MiB, and what can't be used is refused with the document and the reason.

use serde_json::{Value, json};

use crate::hostile::Victim;
use crate::image::{Image, Repository};
use crate::repositories::{entry_for, image_for, platform};

/// The largest document that is read.
const MOST: usize = 4 << 20;

const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// An image for amd64 of one small layer.
fn image() -> (Repository, Image) {
    let mut repository = Repository::default();
    let image = image_for(&mut repository, "file", "linux/amd64");
    repository.tag(&image.descriptor);
    (repository, image)
}

/// The text of the image's manifest.
fn manifest(repository: &Repository, image: &Image) -> Value {
    let digest = image.descriptor["digest"].as_str().unwrap();
    serde_json::from_slice(&repository.blobs[digest]).unwrap()
}

/// As many pieces between two texts as a document of the largest size holds.
fn filled(start: &str, piece: &str, end: &str) -> Vec<u8> {
    let room = MOST - start.len() - end.len() - piece.len();
    let pieces = vec![piece; room / (piece.len() + 1) + 1].join(",");
    let mut text = [start, &pieces, end].concat().into_bytes();
    text.resize(MOST, b' ');
    text
}

/// The values that take the most memory as a tree, for their text.
pub const PIECES: [&str; 5] = ["[]", "{\"a\":0}", "0", "\"\"", "[{\"\":[]}]"];

/// 4 MiB of small values in a manifest, where layers are wanted and where nothing is.
#[test]
fn manifests_of_4_mib() {
    let victim = Victim::new();
    let (mut repository, image) = image();
    let good = manifest(&repository, &image);
    let (config, layers) = (&good["config"], &good["layers"]);
    for piece in PIECES {
        let start = format!("{{\"schemaVersion\":2,\"config\":{config},\"layers\":[");
        repository.tag = repository.put(filled(&start, piece, "]}"));
        victim.assert_refused(&repository, &["layers, and at most 500 can be stacked"]);
        // What nobody asks for is passed over.
        let start =
            format!("{{\"schemaVersion\":2,\"config\":{config},\"layers\":{layers},\"more\":[");
        repository.tag = repository.put(filled(&start, piece, "]}"));
        victim.assert_pulled(&repository);
    }
    let layer = layers[0].to_string();
    let start = format!("{{\"schemaVersion\":2,\"config\":{config},\"layers\":[");
    repository.tag = repository.put(filled(&start, &layer, "]}"));
    victim.assert_refused(&repository, &["layers, and at most 500 can be stacked"]);
    // Members instead of values, of one name and of an escaped one.
    for piece in ["\"a\":0", "\"\\u0061\":[]", "\"layers\":[]"] {
        let start = format!("{{\"schemaVersion\":2,\"config\":{config},");
        let end = format!(",\"layers\":{layers}}}");
        repository.tag = repository.put(filled(&start, piece, &end));
        victim.assert_pulled(&repository);
    }
    // A byte more is not read.
    let mut larger = filled("{\"schemaVersion\":2,\"layers\":[", "[]", "]}");
    larger.push(b' ');
    repository.tag = repository.put(larger);
    victim.assert_refused(&repository, &["manifest", "more than 4194304 bytes"]);
}

/// Texts of 4 MiB where short ones are meant: none is repeated in a message, or kept.
#[test]
fn texts_of_4_mib() {
    let victim = Victim::new();
    let (mut repository, image) = image();
    let long = |length: usize| "\u{7f}".repeat(length - 4096);
    type Change<'c> = (&'c dyn Fn(&mut Value), &'c str);
    let changes: [Change; 7] = [
        (
            &|it| it["layers"][0]["digest"] = json!(long(MOST)),
            "which is no sha256:<64 digits>",
        ),
        (
            &|it| it["layers"][0]["mediaType"] = json!(long(MOST)),
            "no layer of an image",
        ),
        (
            &|it| it["config"]["mediaType"] = json!(long(MOST)),
            "no image that can be run",
        ),
        (
            &|it| {
                it["config"]["mediaType"] = json!("application/x");
                it["artifactType"] = json!(long(MOST));
            },
            "no image that can be run",
        ),
        (&|it| it["mediaType"] = json!(long(MOST)), "no image"),
        (
            &|it| it["layers"][0]["size"] = json!(long(MOST)),
            "has no size",
        ),
        (
            &|it| {
                it["layers"][0]["annotations"] =
                    json!({"org.opencontainers.image.enc.x": long(MOST)})
            },
            "layer 1 of 1",
        ),
    ];
    for (change, expected) in changes {
        let descriptor = repository.add_manifest(&image, change);
        repository.tag(&descriptor);
        victim.assert_refused(&repository, &[expected]);
    }
    // In an index: a platform's name, which no machine has.
    let mut entry = entry_for(&mut repository, 1, "linux/amd64");
    entry["platform"] = json!({"os": long(MOST / 2), "architecture": long(MOST / 2)});
    repository.tag_index(&[entry]);
    victim.assert_refused(&repository, &["has nothing for linux/amd64"]);
    let config = repository.add_changed("file", |config| config["os"] = json!(long(MOST)));
    repository.tag(&config.descriptor);
    victim.assert_pulled(&repository);
}

/// Annotations about encryption are the only ones that are kept, and counted.
#[test]
fn annotations_without_end() {
    let victim = Victim::new();
    let (mut repository, image) = image();
    let many = |name: &str| {
        let all = (0..60_000).map(|number| (format!("{name}{number}"), json!("")));
        Value::Object(all.collect())
    };
    let descriptor = repository.add_manifest(&image, |it| {
        it["layers"][0]["annotations"] = many("org.example.");
        it["annotations"] = many("org.example.");
    });
    repository.tag(&descriptor);
    victim.assert_pulled(&repository);
    let descriptor = repository.add_manifest(&image, |it| {
        it["layers"][0]["annotations"] = many("org.opencontainers.image.enc.keys.provider.");
    });
    repository.tag(&descriptor);
    victim.assert_refused(
        &repository,
        &["manifest", "more than 64 annotations about encryption for"],
    );
}

/// Indexes of as many entries as fit: more than 10,000 are refused; as many platforms as there are, and none.
#[test]
fn indexes_of_4_mib() {
    let victim = Victim::new();
    let (mut repository, image) = image();
    let start = "{\"schemaVersion\":2,\"manifests\":[";
    for piece in &PIECES[..2] {
        repository.tag = repository.put(filled(start, piece, "]}"));
        victim.assert_refused(&repository, &["manifests, and at most 10000 are read"]);
    }
    let mut entry = image.descriptor.clone();
    entry["platform"] = platform("linux/amd64");
    let index = |entries: &[Value]| {
        let text = json!({"schemaVersion": 2, "manifests": entries}).to_string();
        assert!(text.len() <= MOST);
        text.into_bytes()
    };
    // The entry that fits is the last of as many as are read, each for another platform.
    let other = |number: usize| {
        let digest = image.descriptor["digest"].clone();
        json!({"digest": digest, "size": 1, "platform": {"os": "linux", "architecture": format!("{number}x{}", "y".repeat(190))}})
    };
    let mut entries: Vec<_> = (0..9_999).map(other).collect();
    entries.push(entry.clone());
    repository.tag = repository.put(index(&entries));
    victim.assert_pulled(&repository);
    entries.pop();
    repository.tag = repository.put(index(&entries));
    let said = victim.assert_refused(&repository, &["has nothing for linux/amd64", "and others"]);
    assert!(said.len() < 3000, "{said}");
    entries.extend([entry.clone(), entry]);
    repository.tag = repository.put(index(&entries));
    victim.assert_refused(&repository, &["has 10001 manifests, and at most 10000"]);
}

/// Indexes in indexes, each of 4 MiB with as many entries as are read, lead to a manifest and a configuration of 4 MiB: the
/// most that a registry can have a pull hold.
#[test]
fn indexes_of_4_mib_within_each_other() {
    let victim = Victim::new();
    let mut repository = Repository::default();
    let pad = |value: &mut Value| {
        let room = MOST - value.to_string().len() - 30;
        value["padding"] = json!("x".repeat(room));
    };
    let image = repository.add_changed("file", |config| {
        config["history"] = vec![json!({}); 900_000].into();
        pad(config);
    });
    let mut entry = repository.add_manifest(&image, |manifest| {
        manifest["more"] = vec![json!([]); 900_000].into();
        pad(manifest);
    });
    for _ in 0..4 {
        entry["platform"] = platform("linux/amd64");
        let other = |number: usize| {
            json!({
                "digest": entry["digest"], "size": 1,
                "platform": {"os": "linux", "architecture": format!("{number:064}"), "variant": "x".repeat(64)},
            })
        };
        let mut entries: Vec<_> = (0..9_999).map(other).collect();
        entries.push(entry.clone());
        let mut index = json!({"schemaVersion": 2, "manifests": entries});
        pad(&mut index);
        let media_type = "application/vnd.oci.image.index.v1+json";
        entry = repository.put_document(media_type, &index);
    }
    repository.tag(&entry);
    victim.assert_pulled(&repository);
}

/// 4 MiB of small values in a configuration, in the place of the layers' digests and beside them.
#[test]
fn configurations_of_4_mib() {
    let victim = Victim::new();
    let (mut repository, image) = image();
    let good = manifest(&repository, &image);
    let config: Value = {
        let digest = good["config"]["digest"].as_str().unwrap();
        serde_json::from_slice(&repository.blobs[digest]).unwrap()
    };
    let mut serve_with = |config: Vec<u8>| {
        let size = config.len();
        let digest = repository.put(config);
        let descriptor = repository.add_manifest(&image, |it| {
            it["config"] = json!({"mediaType": CONFIG, "digest": digest, "size": size});
        });
        repository.tag(&descriptor);
        repository.clone()
    };
    for piece in &PIECES[..2] {
        let text = filled("{\"rootfs\":{\"diff_ids\":[", piece, "]}}");
        let expected = ["configuration", "rootfs.diff_ids, and the manifest 1 layer"];
        victim.assert_refused(&serve_with(text), &expected);
        let start = format!("{{\"rootfs\":{},\"history\":[", config["rootfs"]);
        victim.assert_pulled(&serve_with(filled(&start, piece, "]}")));
    }
}

/// What is not JSON, or is JSON that readers take for different things, is refused in each of the documents, with its name
/// and the reason.
#[test]
fn json_that_is_none() {
    let victim = Victim::new();
    let (mut repository, image) = image();
    let good = manifest(&repository, &image).to_string();
    let digest = image.descriptor["digest"].as_str().unwrap().to_owned();
    let mut entry = image.descriptor.clone();
    entry["platform"] = platform("linux/amd64");
    let index = json!({"schemaVersion": 2, "manifests": [entry]}).to_string();
    let manifest: Value = serde_json::from_str(&good).unwrap();
    let config_digest = manifest["config"]["digest"].as_str().unwrap().to_owned();
    let config = String::from_utf8(repository.blobs[&config_digest].clone()).unwrap();
    let with = |text: &str, more: &str| [&text[..text.len() - 1], ",", more, "}"].concat();
    let deep = |levels: usize| format!("\"x\":{}{}", "[".repeat(levels), "]".repeat(levels));
    type Breaking<'b> = &'b dyn Fn(&str) -> Vec<u8>;
    let breakings: [(Breaking, &str); 13] = [
        (
            &|text| [b"\xef\xbb\xbf", text.as_bytes()].concat(),
            "byte order mark",
        ),
        (
            &|text| [text.as_bytes(), b"\0"].concat(),
            "trailing characters",
        ),
        (&|text| [text, text].concat().into(), "trailing characters"),
        (&|text| [text, "x"].concat().into(), "trailing characters"),
        (
            &|text| with(text, "\"x\":\"\0\"").into(),
            "raw control character",
        ),
        (
            &|text| {
                let bytes = with(text, "\"x\":\"?\"").into_bytes();
                bytes
                    .into_iter()
                    .map(|byte| if byte == b'?' { 0xff } else { byte })
                    .collect()
            },
            "not UTF-8",
        ),
        (
            &|text| text.as_bytes()[..text.len() - 1].to_vec(),
            "ends too early",
        ),
        (&|text| with(text, "\"x\":01").into(), "invalid number"),
        (&|text| with(text, "\"x\":NaN").into(), "not JSON"),
        (&|text| with(text, "'x':1").into(), "not JSON"),
        (
            &|text| with(text, &deep(128)).into(),
            "nested more than 128 levels deep",
        ),
        (
            &|text| with(text, &deep(1 << 20)).into(),
            "nested more than 128 levels deep",
        ),
        (
            &|text| format!("[{text}]").into(),
            "an array instead of an object",
        ),
    ];
    let mut serve_config = |config: Vec<u8>| {
        let size = config.len();
        let digest = repository.put(config);
        let descriptor = repository.add_manifest(&image, |it| {
            it["config"] = json!({"mediaType": CONFIG, "digest": digest, "size": size});
        });
        repository.tag(&descriptor);
        repository.clone()
    };
    for (breaking, expected) in breakings {
        victim.assert_refused(
            &serve_config(breaking(&config)),
            &["configuration", expected],
        );
        for text in [&good, &index] {
            let mut served = serve_config(config.clone().into());
            served.tag = served.put(breaking(text));
            victim.assert_refused(&served, &["manifest", expected]);
        }
    }
    // What is as deep as is read, a number that fits no machine, and a name in escapes, are passed over.
    let mut served = serve_config(with(&config, &deep(127)).into());
    victim.assert_pulled(&served);
    served.tag = served.put(with(&good, "\"x\":1e999,\"\\u0079\":-0,\"z\":\"\\ud800\"").into());
    victim.assert_pulled(&served);
    // A name or text that is half of a character could be what is wanted.
    served.tag = served.put(with(&good, "\"\\ud800\":1").into());
    victim.assert_refused(&served, &["manifest", "not JSON"]);
    served.tag = served.put(with(&good, "\"mediaType\":\"\\ud800\"").into());
    victim.assert_refused(&served, &["manifest", "an escape that means nothing"]);
    served.tag = digest;
    victim.assert_pulled(&served);
}
