// SPDX-License-Identifier: Apache-2.0

//! Random images: their layers as a registry has them, and the tree that they must become.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use ring::digest::{SHA256, digest};
use serde_json::json;
use tar::{Builder, EntryType, Header};

use crate::random::Random;
use crate::tree::{Attributes, Content, Kind, Node, Tree, remove, remove_below};

/// How many layers an image has at most.
const MAX_LAYERS: usize = 8;

/// How many entries a new layer has at most.
const MAX_ENTRIES: usize = 40;

/// How large most files are at most, and a few.
const SMALL: usize = 12_000;
const LARGE: usize = 3 << 20;

/// The bit of the numbers of files that are copies of lower layers' files.
const COPY: u64 = 1 << 63;

/// What files' modes are; some programs run as their owner.
const FILE_MODES: [u32; 5] = [0o644, 0o755, 0o600, 0o4755, 0o2711];
const DIRECTORY_MODES: [u32; 4] = [0o755, 0o700, 0o1777, 0o2775];

/// A layer as a registry has it.
#[derive(Debug)]
pub struct Layer {
    /// Its digest, of the blob.
    pub digest: String,
    pub blob: Arc<Vec<u8>>,
    pub media_type: String,
    pub diff_id: String,
}

/// An image.
#[derive(Clone, Debug)]
pub struct Image {
    pub name: String,
    pub layers: Vec<Arc<Layer>>,
    pub tree: Arc<Tree>,
    pub manifest: Arc<Vec<u8>>,
    pub config: Arc<Vec<u8>>,
    /// Whether a blob is not what its digest says.
    pub is_broken: bool,
}

/// A digest as manifests have it.
pub fn digest_of(bytes: &[u8]) -> String {
    let hex = digest(&SHA256, bytes);
    let hex = hex.as_ref().iter().map(|byte| format!("{byte:02x}"));
    format!("sha256:{}", hex.collect::<String>())
}

impl Image {
    /// A new image over the layers of another one.
    pub fn over(below: Option<&Self>, name: String, random: &mut Random) -> Self {
        let mut layers = below.map(|image| image.layers.clone()).unwrap_or_default();
        let mut tree = below.map(|image| (*image.tree).clone()).unwrap_or_default();
        // What is broken must not be in another image.
        if layers.len() >= MAX_LAYERS || below.is_some_and(|image| image.is_broken) {
            (layers, tree) = Default::default();
        }
        for _ in 0..1 + random.below(3) {
            layers.push(Arc::new(layer(&mut tree, random)));
        }
        let is_broken = random.percent(10);
        if is_broken {
            let mut other = layer(&mut tree, random);
            let mut blob = (*other.blob).clone();
            let at = random.below(blob.len());
            blob[at] ^= 1 << random.below(8);
            other.blob = Arc::new(blob);
            layers.push(Arc::new(other));
        }
        let diff_ids: Vec<_> = layers.iter().map(|layer| &*layer.diff_id).collect();
        let config = json!({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": diff_ids}});
        let config = config.to_string().into_bytes();
        let descriptors: Vec<_> = layers
            .iter()
            .map(|layer| json!({"mediaType": layer.media_type, "size": layer.blob.len(), "digest": layer.digest}))
            .collect();
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json", "layers": descriptors,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "size": config.len(), "digest": digest_of(&config)},
        });
        Self {
            name,
            layers,
            tree: Arc::new(tree),
            manifest: Arc::new(manifest.to_string().into_bytes()),
            config: Arc::new(config),
            is_broken,
        }
    }
}

/// A layer that changes the tree.
fn layer(tree: &mut Tree, random: &mut Random) -> Layer {
    let mut archive = Archive {
        builder: Builder::new(Vec::new()),
        lower: tree.clone(),
        touched: BTreeSet::new(),
        linked: BTreeSet::new(),
        copies: BTreeMap::new(),
    };
    for _ in 0..1 + random.below(MAX_ENTRIES) {
        archive.step(tree, random);
    }
    let archive = archive.builder.into_inner().expect("memory");
    let media_type = "application/vnd.oci.image.layer.v1.tar";
    let diff_id = digest_of(&archive);
    let (kind, blob) = match random.below(5) {
        0 => ("", archive),
        1 | 2 => ("+zstd", zstd::encode_all(&archive[..], 1).expect("memory")),
        _ => {
            let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
            encoder.write_all(&archive).expect("memory");
            ("+gzip", encoder.finish().expect("memory"))
        }
    };
    Layer {
        digest: digest_of(&blob),
        blob: Arc::new(blob),
        media_type: format!("{media_type}{kind}"),
        diff_id,
    }
}

/// A layer that is being made.
struct Archive {
    builder: Builder<Vec<u8>>,
    /// What is below it.
    lower: Tree,
    /// What it has something at, with all directories above; and what it takes away.
    touched: BTreeSet<String>,
    /// The files of lower layers that it links to, with all directories above: it must not change these any more, since what
    /// such a link means then depends on the order of entries.
    linked: BTreeSet<String>,
    /// The copies of these files.
    copies: BTreeMap<String, u64>,
}

impl Archive {
    /// Makes one more change.
    fn step(&mut self, tree: &mut Tree, random: &mut Random) {
        match random.below(20) {
            0..10 => {
                if let Some(path) = self.new_path(tree, random) {
                    self.file(tree, &path, random);
                }
            }
            10 | 11 => {
                if let Some(path) = self.new_path(tree, random) {
                    let attributes = Attributes::any(random, &[0o777]);
                    let target = format!("../f{}", random.below(30));
                    let mut header = header(EntryType::Symlink, &attributes);
                    self.builder
                        .append_link(&mut header, &path, &target)
                        .expect("memory");
                    self.put(tree, path, attributes, Kind::Link(target));
                }
            }
            12 | 13 => {
                if let Some(path) = self.new_path(tree, random) {
                    self.directory(tree, path, random);
                }
            }
            14 | 15 => self.hard_link(tree, random),
            16..19 => self.whiteout(tree, random),
            _ => self.opaque(tree, random),
        }
    }

    /// A path in a directory that is there or is made, at which this layer has nothing. A lower layer may have something.
    fn new_path(&mut self, tree: &mut Tree, random: &mut Random) -> Option<String> {
        let mut parent = String::new();
        for _ in 0..random.below(4) {
            let name = format!("d{}", random.below(6));
            let path = join(&parent, &name);
            match tree.get(&path).map(|node| &node.kind) {
                Some(Kind::Directory) => {}
                None if self.is_free(&path) => self.directory(tree, path.clone(), random),
                // A link or a file is in the way, or this layer takes it away.
                _ => break,
            }
            parent = path;
        }
        let kind = if random.percent(5) { "d" } else { "f" };
        let path = join(&parent, &format!("{kind}{}", random.below(30)));
        self.is_free(&path).then_some(path)
    }

    /// Whether this layer has nothing at a path or below it, and links to nothing there.
    fn is_free(&self, path: &str) -> bool {
        !self.touched.contains(path) && !self.linked.contains(path)
    }

    fn file(&mut self, tree: &mut Tree, path: &str, random: &mut Random) {
        let attributes = Attributes::any(random, &FILE_MODES);
        let length = if random.percent(3) { LARGE } else { SMALL };
        let content = Content {
            seed: random.next(),
            length: random.below(length),
            is_text: random.percent(60),
        };
        let mut header = header(EntryType::Regular, &attributes);
        header.set_size(content.length as u64);
        self.builder
            .append_data(&mut header, path, &content.bytes()[..])
            .expect("memory");
        let number = random.next() & !COPY;
        let kind = Kind::File { number, content };
        self.put(tree, path.to_owned(), attributes, kind);
    }

    fn directory(&mut self, tree: &mut Tree, path: String, random: &mut Random) {
        let attributes = Attributes::any(random, &DIRECTORY_MODES);
        let mut header = header(EntryType::Directory, &attributes);
        self.builder
            .append_data(&mut header, format!("{path}/"), &[][..])
            .expect("memory");
        self.put(tree, path, attributes, Kind::Directory);
    }

    /// Another name of a file: of one of this layer, or of a lower one, of which it is a copy then.
    fn hard_link(&mut self, tree: &mut Tree, random: &mut Random) {
        // The copy of a copy is one of the first file, and so one file with other copies of that.
        let fits = |path: &String, node: &Node| match node.kind {
            Kind::File { number, .. } => number & COPY == 0 || self.touched.contains(path),
            _ => false,
        };
        let files: Vec<_> = tree
            .iter()
            .filter(|(path, node)| fits(path, node))
            .map(|(path, node)| (path.clone(), node.clone()))
            .collect();
        let Some((target, node)) = random.one_of(&files).cloned() else {
            return;
        };
        let Some(path) = self.new_path(tree, random) else {
            return;
        };
        // The way to the target may have gone with the new path.
        if path == target || target.starts_with(&format!("{path}/")) {
            return;
        }
        let mut header = header(EntryType::Link, &node.attributes);
        self.builder
            .append_link(&mut header, &path, &target)
            .expect("memory");
        let kind = match node.kind {
            Kind::File { content, .. } if !self.touched.contains(&target) => {
                // All such links of one layer to one file are one file.
                let number = self.copies.entry(target.clone());
                let number = *number.or_insert_with(|| random.next() | COPY);
                add_with_parents(&mut self.linked, &target);
                Kind::File { number, content }
            }
            kind => kind,
        };
        self.put(tree, path, node.attributes, kind);
    }

    /// Takes away what a lower layer has.
    fn whiteout(&mut self, tree: &mut Tree, random: &mut Random) {
        let Some(path) = self.untouched(tree, random, |_| true) else {
            return;
        };
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", &path));
        self.marker(&join(parent, &format!(".wh.{name}")), random);
        self.touch(&path);
        remove(tree, &path);
    }

    /// Takes away all that lower layers have in a directory.
    fn opaque(&mut self, tree: &mut Tree, random: &mut Random) {
        let is_directory = |node: &Node| node.kind == Kind::Directory;
        let Some(path) = self.untouched(tree, random, is_directory) else {
            return;
        };
        self.marker(&join(&path, ".wh..wh..opq"), random);
        self.touch(&path);
        remove_below(tree, &path);
    }

    /// Something of the lower layers, at or below which this layer has nothing.
    fn untouched(
        &self,
        tree: &Tree,
        random: &mut Random,
        fits: impl Fn(&Node) -> bool,
    ) -> Option<String> {
        let all: Vec<_> = tree
            .iter()
            .filter(|(path, node)| {
                fits(node) && self.is_free(path) && self.lower.get(*path) == Some(*node)
            })
            .map(|(path, _)| path.clone())
            .collect();
        random.one_of(&all).cloned()
    }

    fn marker(&mut self, path: &str, random: &mut Random) {
        let attributes = Attributes::any(random, &FILE_MODES);
        let mut header = header(EntryType::Regular, &attributes);
        self.builder
            .append_data(&mut header, path, &[][..])
            .expect("memory");
    }

    fn put(&mut self, tree: &mut Tree, path: String, attributes: Attributes, kind: Kind) {
        self.touch(&path);
        let stays = kind == Kind::Directory
            && tree
                .get(&path)
                .is_some_and(|node| node.kind == Kind::Directory);
        if !stays {
            remove(tree, &path);
        }
        tree.insert(path, Node { attributes, kind });
    }

    fn touch(&mut self, path: &str) {
        add_with_parents(&mut self.touched, path);
    }
}

/// Adds a path, and all directories above it.
fn add_with_parents(paths: &mut BTreeSet<String>, path: &str) {
    for (at, _) in path.match_indices('/') {
        paths.insert(path[..at].to_owned());
    }
    paths.insert(path.to_owned());
}

fn join(parent: &str, name: &str) -> String {
    match parent.is_empty() {
        true => name.to_owned(),
        false => format!("{parent}/{name}"),
    }
}

fn header(kind: EntryType, attributes: &Attributes) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(attributes.mode);
    header.set_uid(attributes.owner.0.into());
    header.set_gid(attributes.owner.1.into());
    header.set_mtime(attributes.time as u64);
    header.set_size(0);
    header
}
