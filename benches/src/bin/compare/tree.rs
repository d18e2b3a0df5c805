// SPDX-License-Identifier: Apache-2.0

//! Layers, written entry by entry, and images of them in OCI layouts.

use std::ffi::OsStr;
use std::fs;
use std::io::Write as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use ring::digest::{SHA256, digest};
use serde_json::{Value, json};
use tar::{Builder, EntryType, Header};

/// The time of all entries that say no other.
pub const TIME: u64 = 1_500_000_000;

/// The length of a block of an archive.
const BLOCK: usize = 512;

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    /// As most builders do.
    Gzip,
    /// With a window of this many bits.
    Zstd(u32),
}

/// An archive that grows by entries.
pub struct Layer(Builder<Vec<u8>>);

/// A header of root's.
pub fn header(kind: EntryType, mode: u32) -> Header {
    let mut header = Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(TIME);
    header.set_size(0);
    header
}

impl Layer {
    /// One without entries.
    pub fn new() -> Self {
        Self(Builder::new(Vec::new()))
    }

    /// Adds an entry of any kind; `name` may have any bytes.
    pub fn entry(mut self, mut header: Header, name: &[u8], content: &[u8]) -> Self {
        header.set_size(content.len() as u64);
        header
            .set_path(Path::new(OsStr::from_bytes(name)))
            .expect("a short name");
        header.set_cksum();
        self.0.append(&header, content).expect("in memory");
        self
    }

    /// Adds what a PAX header says of the next entry.
    pub fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        let records = records.iter().copied();
        self.0.append_pax_extensions(records).expect("in memory");
        self
    }

    /// Adds a file.
    pub fn file(self, name: &str, mode: u32, content: &[u8]) -> Self {
        self.entry(header(EntryType::Regular, mode), name.as_bytes(), content)
    }

    /// Adds a directory.
    pub fn directory(self, name: &str, mode: u32) -> Self {
        self.entry(header(EntryType::Directory, mode), name.as_bytes(), b"")
    }

    /// Adds a hard link.
    pub fn hard_link(self, name: &str, target: &str) -> Self {
        let mut header = header(EntryType::Link, 0o644);
        header.set_link_name(target).expect("a short name");
        self.entry(header, name.as_bytes(), b"")
    }

    /// Adds a file with a hole at its beginning, in the form of PAX 1.0.
    pub fn sparse_pax(self, name: &str, hole: usize, data: &[u8]) -> Self {
        let mut content = format!("1\n{hole}\n{}\n", data.len()).into_bytes();
        content.resize(BLOCK, 0);
        content.extend(data);
        let size = (hole + data.len()).to_string();
        let layer = self.pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", name.as_bytes()),
            ("GNU.sparse.realsize", size.as_bytes()),
        ]);
        layer.file("GNUSparseFile.0/sparse", 0o644, &content)
    }

    /// The same in the form that GNU tar writes by itself.
    pub fn sparse_gnu(self, name: &str, hole: usize, data: &[u8]) -> Self {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNUSparse);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(TIME);
        let octal = |number: usize| format!("{number:011o}\0").into_bytes();
        if let Some(gnu) = header.as_gnu_mut() {
            gnu.sparse[0].offset.copy_from_slice(&octal(hole));
            gnu.sparse[0].numbytes.copy_from_slice(&octal(data.len()));
            gnu.realsize.copy_from_slice(&octal(hole + data.len()));
        }
        self.entry(header, name.as_bytes(), data)
    }

    /// The whole archive.
    fn archive(self) -> Vec<u8> {
        self.0.into_inner().expect("in memory")
    }
}

/// Bytes that do not compress, and are the same in each run.
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    };
    std::iter::repeat_with(next).take(length).collect()
}

/// A digest as manifests have it.
fn digest_of(bytes: &[u8]) -> String {
    let hex = digest(&SHA256, bytes);
    let hex = hex.as_ref().iter().map(|byte| format!("{byte:02x}"));
    format!("sha256:{}", hex.collect::<String>())
}

fn pack(archive: &[u8], packing: Packing) -> (Vec<u8>, &'static str) {
    match packing {
        Packing::Gzip => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(archive).expect("in memory");
            (encoder.finish().expect("in memory"), "gzip")
        }
        Packing::Zstd(bits) => {
            let mut encoder = zstd::Encoder::new(Vec::new(), 3).expect("zstd");
            encoder.window_log(bits).expect("a window");
            encoder.write_all(archive).expect("in memory");
            (encoder.finish().expect("in memory"), "zstd")
        }
    }
}

/// Writes an image of these layers as an OCI layout under the name `it`; gives the digests of the layers' blobs.
pub fn write(directory: &Path, layers: Vec<Layer>, packing: Packing) -> Vec<String> {
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("a directory");
    let put = |media_type: &str, bytes: &[u8]| -> Value {
        let digest = digest_of(bytes);
        fs::write(blobs.join(digest.trim_start_matches("sha256:")), bytes).expect("a blob");
        json!({"mediaType": format!("application/vnd.oci.image.{media_type}"), "digest": digest, "size": bytes.len()})
    };
    let (mut descriptors, mut diff_ids) = (Vec::new(), Vec::new());
    for layer in layers {
        let archive = layer.archive();
        let (blob, suffix) = pack(&archive, packing);
        diff_ids.push(digest_of(&archive));
        descriptors.push(put(&format!("layer.v1.tar+{suffix}"), &blob));
    }
    let architecture = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = json!({"architecture": architecture, "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let config = put("config.v1+json", config.to_string().as_bytes());
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config, "layers": descriptors});
    let mut manifest = put("manifest.v1+json", manifest.to_string().as_bytes());
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "it"});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(directory.join("index.json"), index.to_string()).expect("a file");
    let layout = json!({"imageLayoutVersion": "1.0.0"});
    fs::write(directory.join("oci-layout"), layout.to_string()).expect("a file");
    let digests = descriptors.iter().map(|layer| layer["digest"].as_str());
    digests
        .map(|digest| digest.unwrap_or_default().to_owned())
        .collect()
}
