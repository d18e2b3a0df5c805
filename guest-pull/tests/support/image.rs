// SPDX-License-Identifier: Apache-2.0

//! Images for the stand-in of a registry, in memory.

// Each of the tests' programs uses a part of it.
#![allow(dead_code)]

use std::collections::HashMap;
use std::io::Write as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use guest_pull::digest::Digest;
use serde_json::{Value, json};

use crate::stand_in::Answer;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// The media type of a layer that is not compressed.
pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// A layer, as a manifest and a configuration say it.
#[derive(Clone, Debug)]
pub struct Layer {
    pub media_type: String,
    pub blob: Vec<u8>,
    pub diff_id: String,
}

/// What a repository has: documents and layers by their digests, and the digest of the tag `1`.
#[derive(Clone, Debug, Default)]
pub struct Repository {
    pub blobs: HashMap<String, Vec<u8>>,
    pub tag: String,
}

/// Where an image is.
#[derive(Clone, Debug)]
pub struct Image {
    /// The descriptor of its manifest.
    pub descriptor: Value,
    /// The digests of the layers' blobs.
    pub layers: Vec<String>,
    /// The digests of the layers' archives.
    pub diff_ids: Vec<String>,
}

impl Repository {
    /// A repository of one image with these layers.
    pub fn of(archives: &[Vec<u8>]) -> (Self, Image) {
        let mut repository = Self::default();
        let image = repository.add(archives);
        repository.tag = image.descriptor["digest"].as_str().unwrap().to_owned();
        (repository, image)
    }

    /// The image `test` of a layout on disk.
    pub fn of_layout(layout: &Path) -> Self {
        let mut repository = Self::default();
        for entry in std::fs::read_dir(layout.join("blobs/sha256")).unwrap() {
            repository.put(std::fs::read(entry.unwrap().path()).unwrap());
        }
        let index = std::fs::read(layout.join("index.json")).unwrap();
        let index: Value = serde_json::from_slice(&index).unwrap();
        let name = "org.opencontainers.image.ref.name";
        let manifests = index["manifests"].as_array().unwrap().iter();
        let mut named = manifests.filter(|entry| entry["annotations"][name] == "test");
        repository.tag = named.next().unwrap()["digest"].as_str().unwrap().to_owned();
        repository
    }

    pub fn put(&mut self, blob: Vec<u8>) -> String {
        let digest = Digest::of(&blob).to_string();
        self.blobs.insert(digest.clone(), blob);
        digest
    }

    pub fn put_document(&mut self, media_type: &str, document: &Value) -> Value {
        let text = document.to_string();
        json!({"mediaType": media_type, "size": text.len(), "digest": self.put(text.into())})
    }

    /// Adds an image with these layers, the lowest first.
    pub fn add(&mut self, archives: &[Vec<u8>]) -> Image {
        let diff_ids: Vec<_> = archives
            .iter()
            .map(|archive| Digest::of(archive).to_string())
            .collect();
        self.add_with_diff_ids(archives, diff_ids)
    }

    /// Adds an image whose configuration says these diff ids.
    pub fn add_with_diff_ids(&mut self, archives: &[Vec<u8>], diff_ids: Vec<String>) -> Image {
        let mut layers = Vec::new();
        for (archive, diff_id) in archives.iter().zip(diff_ids) {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(archive).unwrap();
            layers.push(Layer {
                media_type: format!("{LAYER}+gzip"),
                blob: encoder.finish().unwrap(),
                diff_id,
            });
        }
        self.add_layers(layers)
    }

    /// Adds an image of these layers, the lowest first.
    pub fn add_layers(&mut self, all: Vec<Layer>) -> Image {
        let mut layers = Vec::new();
        let mut diff_ids = Vec::new();
        for layer in all {
            let size = layer.blob.len();
            layers.push(
                json!({"mediaType": layer.media_type, "size": size, "digest": self.put(layer.blob)}),
            );
            diff_ids.push(layer.diff_id);
        }
        let config = json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = self.put_document("application/vnd.oci.image.config.v1+json", &config);
        let manifest =
            json!({"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers});
        Image {
            descriptor: self.put_document(MANIFEST, &manifest),
            layers: layers
                .iter()
                .map(|layer| layer["digest"].as_str().unwrap().to_owned())
                .collect(),
            diff_ids,
        }
    }

    /// Writes all of it as an image layout, with these images by their names.
    pub fn write_layout_of(&self, layout: &Path, images: &[(String, &Image)]) {
        let named = images.iter().map(|(name, image)| (name, &image.descriptor));
        self.write(layout, named);
    }

    /// Writes an image layout, in which the tag is `test`.
    pub fn write_layout(&self, layout: &Path) {
        let tagged: Value = serde_json::from_slice(&self.blobs[&self.tag]).unwrap();
        let size = self.blobs[&self.tag].len();
        let entry = json!({"mediaType": tagged["mediaType"], "size": size, "digest": self.tag});
        self.write(layout, [(&"test".to_owned(), &entry)].into_iter());
    }

    fn write<'a>(&self, layout: &Path, images: impl Iterator<Item = (&'a String, &'a Value)>) {
        let blobs = layout.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        for (digest, blob) in &self.blobs {
            std::fs::write(blobs.join(digest.trim_start_matches("sha256:")), blob).unwrap();
        }
        let named = images.map(|(name, descriptor)| {
            let mut descriptor = descriptor.clone();
            descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
            descriptor
        });
        let index = json!({"schemaVersion": 2, "manifests": named.collect::<Vec<_>>()});
        std::fs::write(layout.join("index.json"), index.to_string()).unwrap();
        let version = r#"{"imageLayoutVersion": "1.0.0"}"#;
        std::fs::write(layout.join("oci-layout"), version).unwrap();
    }

    /// Gives the tag to an index of these descriptors.
    pub fn tag_index(&mut self, descriptors: &[Value]) {
        let descriptor = self.add_index(descriptors);
        self.tag(&descriptor);
    }

    /// Adds an image of one layer with the file `name`, whose configuration is changed.
    pub fn add_changed(&mut self, name: &str, change: impl FnOnce(&mut Value)) -> Image {
        let mut image = self.add(&[archive(&[(name.to_owned(), name.into())])]);
        let digest = image.descriptor["digest"].as_str().unwrap();
        let mut manifest: Value = serde_json::from_slice(&self.blobs[digest]).unwrap();
        let config = manifest["config"]["digest"].as_str().unwrap();
        let mut config: Value = serde_json::from_slice(&self.blobs[config]).unwrap();
        change(&mut config);
        let media_type = "application/vnd.oci.image.config.v1+json";
        manifest["config"] = self.put_document(media_type, &config);
        image.descriptor = self.put_document(MANIFEST, &manifest);
        image
    }

    /// Adds the manifest of the image, changed.
    pub fn add_manifest(&mut self, image: &Image, change: impl FnOnce(&mut Value)) -> Value {
        let digest = image.descriptor["digest"].as_str().unwrap();
        let mut manifest: Value = serde_json::from_slice(&self.blobs[digest]).unwrap();
        change(&mut manifest);
        let media_type = manifest["mediaType"]
            .as_str()
            .unwrap_or(MANIFEST)
            .to_owned();
        self.put_document(&media_type, &manifest)
    }

    /// Adds an index of these descriptors.
    pub fn add_index(&mut self, descriptors: &[Value]) -> Value {
        let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": descriptors});
        self.put_document(INDEX, &index)
    }

    /// Gives the tag to what a descriptor names.
    pub fn tag(&mut self, descriptor: &Value) {
        self.tag = descriptor["digest"].as_str().unwrap().to_owned();
    }

    /// What a registry answers to the path of a request.
    pub fn answer(&self, path: &str) -> Answer {
        let reference = path.rsplit('/').next().unwrap();
        let digest = if reference == "1" {
            &self.tag
        } else {
            reference
        };
        match self.blobs.get(digest) {
            Some(blob) => Answer::new(200, blob.clone()),
            None => Answer::new(
                404,
                r#"{"errors":[{"code":"UNKNOWN","message":"not here"}]}"#,
            ),
        }
    }
}

/// An archive of regular files.
pub fn archive(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(content.len() as u64);
        archive
            .append_data(&mut header, name, &content[..])
            .unwrap();
    }
    archive.into_inner().unwrap()
}

/// Bytes that don't shrink; each `seed` gives others.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}
