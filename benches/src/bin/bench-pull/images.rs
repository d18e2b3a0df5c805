// SPDX-License-Identifier: Apache-2.0

//! Makes the images: layers of files that Debian's packages have put onto this machine, in OCI layouts.

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::tools::{output, run};

/// A larger file would make one layer unlike the others.
const MAX_FILE: u64 = 16 << 20;

/// How a layer is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Gzip,
    Zstd,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// What an image is to have.
pub struct Recipe {
    /// The name of its repository.
    pub name: &'static str,
    pub kind: Kind,
    pub layers: usize,
    /// At most, in one layer.
    pub files: usize,
    /// At most, uncompressed, in one layer.
    pub bytes: u64,
}

/// An image in an OCI layout.
pub struct Image {
    pub name: &'static str,
    pub kind: Kind,
    pub layout: PathBuf,
    /// The blobs of its layers.
    pub blobs: Vec<PathBuf>,
    /// Their length together.
    pub compressed: f64,
    /// The length of the archives.
    pub uncompressed: f64,
    pub files: u64,
}

/// A file of a package.
struct Found {
    path: String,
    bytes: u64,
}

/// Files and links of Debian's packages, in an order that mixes all packages and is always the same.
pub struct Files(Vec<Found>);

impl Files {
    /// Those of this machine.
    pub fn find() -> Self {
        let mut paths = HashSet::new();
        for entry in fs::read_dir("/var/lib/dpkg/info").expect("a Debian machine") {
            let path = entry.expect("an entry").path();
            if path
                .extension()
                .is_some_and(|extension| extension == "list")
            {
                let text = fs::read_to_string(path).expect("a list of files");
                paths.extend(text.lines().map(str::to_owned));
            }
        }
        let found = paths.into_iter().filter_map(|path| {
            // Only below /usr: other files differ from hour to hour.
            let metadata = fs::symlink_metadata(&path).ok()?;
            let (kind, bytes) = (metadata.file_type(), metadata.len());
            let fits = (kind.is_file() || kind.is_symlink()) && bytes <= MAX_FILE;
            let path = path.strip_prefix('/')?.to_owned();
            (fits && path.starts_with("usr/")).then_some(Found { path, bytes })
        });
        let mut found: Vec<_> = found.collect();
        found.sort_by_cached_key(|found| (mixed(&found.path), found.path.clone()));
        Self(found)
    }
}

/// FNV-1a.
fn mixed(text: &str) -> u64 {
    text.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    })
}

/// Makes an image below `dir`, unless it is there from an earlier run.
pub fn make(recipe: &Recipe, files: &Files, dir: &Path) -> Image {
    let layout = dir.join(format!(
        "{}-{}-{}-{}",
        recipe.name, recipe.layers, recipe.files, recipe.bytes
    ));
    let notes = layout.join("notes.json");
    if !notes.exists() {
        eprintln!("making the image {}", recipe.name);
        let _ = fs::remove_dir_all(&layout);
        write(recipe, files, &layout);
    }
    let text = fs::read_to_string(&notes).expect("the notes of an image");
    let notes: Value = serde_json::from_str(&text).expect("JSON");
    let blobs = notes["layers"].as_array().expect("layers").iter();
    let blobs: Vec<_> = blobs
        .map(|digest| {
            layout
                .join("blobs/sha256")
                .join(digest.as_str().expect("hex"))
        })
        .collect();
    let sizes = blobs
        .iter()
        .map(|blob| fs::metadata(blob).expect("a blob").len());
    Image {
        name: recipe.name,
        kind: recipe.kind,
        compressed: sizes.sum::<u64>() as f64,
        uncompressed: notes["uncompressed"].as_f64().expect("a number"),
        files: notes["files"].as_u64().expect("a number"),
        layout,
        blobs,
    }
}

fn write(recipe: &Recipe, files: &Files, layout: &Path) {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs).expect("a directory");
    let mut rest = files.0.iter();
    let (mut layers, mut hexes, mut diff_ids) = (Vec::new(), Vec::new(), Vec::new());
    let (mut uncompressed, mut count) = (0, 0);
    for _ in 0..recipe.layers {
        let mut bytes = 0;
        let taken = rest.by_ref().take(recipe.files).take_while(|file| {
            bytes += file.bytes;
            bytes <= recipe.bytes
        });
        let taken: Vec<_> = taken.map(|file| file.path.as_str()).collect();
        count += taken.len();
        // A directory before what is in it, as in ordinary layers.
        let mut names = BTreeSet::new();
        for path in taken {
            names.insert(path);
            names.extend(path.match_indices('/').map(|(end, _)| &path[..end]));
        }
        let list: Vec<_> = names.iter().map(|name| format!("{name}\0")).collect();
        let archive = layout.join("archive");
        let mut tar = Command::new("tar")
            .args([
                "--create",
                "--null",
                "--no-recursion",
                "--ignore-failed-read",
            ])
            .args([
                "--numeric-owner",
                "--format=pax",
                "-C",
                "/",
                "-T",
                "-",
                "-f",
            ])
            .arg(&archive)
            .stdin(Stdio::piped())
            .spawn()
            .expect("tar");
        let mut input = tar.stdin.take().expect("its input");
        input.write_all(list.concat().as_bytes()).expect("a list");
        drop(input);
        assert!(tar.wait().expect("tar").success(), "tar failed");
        uncompressed += fs::metadata(&archive).expect("an archive").len();
        diff_ids.push(format!("sha256:{}", digest(&archive)));
        let program = recipe.kind.name();
        let arguments = match recipe.kind {
            Kind::Gzip => "-6nc",
            Kind::Zstd => "-3qc",
        };
        let blob = layout.join("blob");
        run(Command::new(program)
            .arg(arguments)
            .arg(&archive)
            .stdout(File::create(&blob).expect("a file")));
        let media_type = format!("application/vnd.oci.image.layer.v1.tar+{program}");
        let (hex, descriptor) = store(&blobs, &blob, &media_type);
        hexes.push(hex);
        layers.push(descriptor);
        fs::remove_file(&archive).expect("an archive");
    }
    let document = |value: &Value, media_type: &str| {
        let path = layout.join("document");
        fs::write(&path, value.to_string()).expect("a file");
        store(&blobs, &path, media_type).1
    };
    let architecture = output(Command::new("dpkg").arg("--print-architecture"));
    let config = json!({
        "architecture": architecture.trim(), "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    });
    let config = document(&config, "application/vnd.oci.image.config.v1+json");
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": layers,
    });
    let mut manifest = document(&manifest, media_type);
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "bench"});
    for (name, value) in [
        (
            "index.json",
            json!({"schemaVersion": 2, "manifests": [manifest]}),
        ),
        ("oci-layout", json!({"imageLayoutVersion": "1.0.0"})),
        // Last, so that what was interrupted is made again.
        (
            "notes.json",
            json!({"layers": hexes, "uncompressed": uncompressed, "files": count}),
        ),
    ] {
        fs::write(layout.join(name), value.to_string()).expect("a file");
    }
}

/// Moves a file to the blobs; gives its digest, and what refers to it.
fn store(blobs: &Path, file: &Path, media_type: &str) -> (String, Value) {
    let hex = digest(file);
    let size = fs::metadata(file).expect("a blob").size();
    fs::rename(file, blobs.join(&hex)).expect("a blob");
    let descriptor =
        json!({"mediaType": media_type, "digest": format!("sha256:{hex}"), "size": size});
    (hex, descriptor)
}

fn digest(file: &Path) -> String {
    let text = output(Command::new("sha256sum").arg(file));
    text.split_whitespace().next().expect("a digest").to_owned()
}
