// SPDX-License-Identifier: Apache-2.0

//! The memory of the worker: whatever a registry sends, it takes at most 64 MiB.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use flate2::Compression;
use flate2::write::GzEncoder;
use guest_pull::digest::Hash;
use zstd::stream::write::Encoder;

use crate::host::{guest_pull, is_root, mount_layer, run, text};
use crate::image::{LAYER, Layer, Repository};
use crate::memory_of::{MOST_OF_THE_WORKER, measured};
use crate::raw_tar::{Entry, SYMLINK};
use crate::repositories::serve;

/// How a layer is compressed.
#[derive(Clone, Copy)]
enum How {
    Gzip,
    /// With a window of two to the power of this.
    Zstd(u32),
}

/// What compresses a layer as it comes.
enum Blob {
    Gzip(GzEncoder<Vec<u8>>),
    Zstd(Encoder<'static, Vec<u8>>),
}

/// A layer that is written without its archive ever being in memory.
struct Writing {
    blob: Blob,
    hash: Hash,
}

impl Write for Writing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.hash.update(bytes);
        match &mut self.blob {
            Blob::Gzip(blob) => blob.write_all(bytes)?,
            Blob::Zstd(blob) => blob.write_all(bytes)?,
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn layer(how: How, write: impl FnOnce(&mut Writing)) -> Layer {
    let blob = match how {
        How::Gzip => Blob::Gzip(GzEncoder::new(Vec::new(), Compression::fast())),
        How::Zstd(window) => {
            let mut encoder = Encoder::new(Vec::new(), 1).unwrap();
            encoder.window_log(window).unwrap();
            Blob::Zstd(encoder)
        }
    };
    let hash = Hash::new();
    let mut writing = Writing { blob, hash };
    write(&mut writing);
    writing.write_all(&[0; 1024]).unwrap();
    let (blob, kind) = match writing.blob {
        Blob::Gzip(blob) => (blob.finish().unwrap(), "gzip"),
        Blob::Zstd(blob) => (blob.finish().unwrap(), "zstd"),
    };
    Layer {
        media_type: format!("{LAYER}+{kind}"),
        blob,
        diff_id: writing.hash.finish().to_string(),
    }
}

fn put(writing: &mut Writing, entry: Entry) {
    writing.write_all(&entry.bytes()).unwrap();
}

/// Names that fill their field.
fn empty_files(writing: &mut Writing, count: usize) {
    for number in 0..count {
        let name = format!("d/a file of nothing but its name {number:060}");
        put(writing, Entry::file(name, ""));
    }
}

/// Ends of files, which go behind their inodes.
fn small_files(writing: &mut Writing, count: usize) {
    for number in 0..count {
        let content = format!("{number:08}").repeat(250);
        put(writing, Entry::file(format!("small/{number}"), content));
    }
}

fn attributes(writing: &mut Writing, count: usize) {
    for number in 0..count {
        let value = vec![b'v'; 2048];
        let entry = Entry::file(format!("attributes/{number}"), "");
        put(writing, entry.pax(&[("SCHILY.xattr.user.note", &value)]));
    }
}

fn links(writing: &mut Writing, count: usize) {
    for number in 0..count {
        let target = "t".repeat(500);
        let entry = Entry::new(SYMLINK, format!("links/{number}"));
        put(writing, entry.pax(&[("linkpath", target.as_bytes())]));
    }
}

/// A file of nothing but zeros, of so many MiB, whose clusters are listed behind its inode.
fn zeros(writing: &mut Writing, name: &str, mib: usize) {
    let size = (mib << 20).to_string();
    put(
        writing,
        Entry::file(name, "").pax(&[("size", size.as_bytes())]),
    );
    for _ in 0..mib {
        writing.write_all(&[0; 1 << 20]).unwrap();
    }
}

/// What a pull came to.
struct Pulled {
    /// The most that the worker had in memory, in KiB.
    most: u64,
    said: String,
    succeeded: bool,
    store: tempfile::TempDir,
}

impl Pulled {
    /// The files of the layers.
    fn layers(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(self.store.path().join("layers")).unwrap();
        let paths = entries.map(|entry| entry.unwrap().path());
        paths
            .filter(|path| path.extension().is_some_and(|kind| kind == "erofs"))
            .collect()
    }
}

/// Pulls an image of these layers.
fn pull(layers: Vec<Layer>) -> Pulled {
    let mut repository = Repository::default();
    let image = repository.add_layers(layers);
    repository.tag = image.descriptor["digest"].as_str().unwrap().to_owned();
    let server = serve(repository);
    let store = tempfile::tempdir().unwrap();
    let mut pull = guest_pull(&["pull", "--plain-http", "--store", text(store.path())]);
    pull.args(["--platform", "linux/amd64"]);
    pull.arg(format!("{}/a/b:1", server.address));
    let measured = measured(&pull);
    println!("{} KiB", measured.peak);
    Pulled {
        most: measured.peak,
        said: measured.said,
        succeeded: measured.code == Some(0),
        store,
    }
}

/// Fails unless the image was pulled in little memory, and each layer has so many entries.
fn assert_pulled(pulled: &Pulled, layers: usize, entries: usize) {
    assert!(pulled.succeeded, "{}", pulled.said);
    assert!(
        pulled.most > 0 && pulled.most <= MOST_OF_THE_WORKER,
        "{} KiB",
        pulled.most
    );
    let files = pulled.layers();
    assert_eq!(files.len(), layers);
    for (number, file) in files.iter().enumerate() {
        let at = pulled.store.path().join(number.to_string());
        let _mounted = mount_layer(file, &at);
        assert_eq!(count(&at), entries);
    }
}

/// How many entries there are below a directory.
fn count(at: &Path) -> usize {
    let found = run(Command::new("find")
        .arg(at)
        .args(["-mindepth", "1", "-printf", "x"]));
    found.len()
}

/// Names, ends of files, attributes, targets and clusters of three layers at once, each with windows of zstd as large as
/// builders write them. They would take more than 100 MiB.
#[test]
fn what_is_known_of_three_layers() {
    if !is_root() {
        return;
    }
    let layers = (1..=3).map(|number| {
        layer(How::Zstd(23), |writing| {
            zeros(writing, "zeros", 10 + number);
            empty_files(writing, 10_000);
            small_files(writing, 8_000);
            attributes(writing, 6_000);
            links(writing, 6_000);
        })
    });
    let pulled = pull(layers.collect());
    // Each kind has a directory.
    assert_pulled(&pulled, 3, 30_000 + 4 + 1);
}

/// A layer of many more names than fit memory.
#[test]
fn a_layer_of_many_names() {
    if !is_root() {
        return;
    }
    let pulled = pull(vec![layer(How::Gzip, |writing| {
        empty_files(writing, 50_000)
    })]);
    assert_pulled(&pulled, 1, 50_001);
}

/// A large file of zeros, whose index has a 512th of it.
#[test]
fn a_large_file_of_zeros() {
    if !is_root() {
        return;
    }
    let pulled = pull(vec![layer(How::Gzip, |writing| {
        zeros(writing, "zeros", 200)
    })]);
    assert_pulled(&pulled, 1, 1);
}

/// Windows of zstd that three layers can't have at once: each is made alone, and the log says so.
#[test]
fn large_windows_are_held_one_at_a_time() {
    if !is_root() {
        return;
    }
    let layers = (1..=3).map(|number| {
        layer(How::Zstd(25), |writing| {
            zeros(writing, "zeros", 40 + number)
        })
    });
    let pulled = pull(layers.collect());
    assert_pulled(&pulled, 3, 1);
    let text = "needs a window of zstd that has no room in memory beside other layers";
    assert_eq!(pulled.said.matches(text).count(), 3, "{}", pulled.said);
}

/// One layer with a large window waits for those that need no such, and all are there in the end; if one of the others
/// fails, that is the error.
#[test]
fn a_large_window_beside_small_ones() {
    if !is_root() {
        return;
    }
    let all = |broken: bool| {
        let mut layers: Vec<_> = [23, 25, 23, 23]
            .into_iter()
            .enumerate()
            .map(|(number, window)| {
                layer(How::Zstd(window), |writing| {
                    zeros(
                        writing,
                        "zeros",
                        if window == 25 { 40 } else { 10 + number },
                    );
                })
            })
            .collect();
        if broken {
            layers[2].blob.truncate(100);
        }
        layers
    };
    let pulled = pull(all(false));
    assert_pulled(&pulled, 4, 1);
    let pulled = pull(all(true));
    assert!(
        !pulled.succeeded && pulled.said.contains("layer 3 of 4"),
        "{}",
        pulled.said
    );
    assert!(pulled.most <= MOST_OF_THE_WORKER, "{} KiB", pulled.most);
    assert!(pulled.layers().len() < 4);
}

/// Entries with the longest headers, whose attributes and parts are as many as can be, in three layers at once.
#[test]
fn the_longest_headers() {
    let layers = (1..=3).map(|number| {
        layer(How::Zstd(23), |writing| {
            zeros(writing, "zeros", 10 + number);
            let names: Vec<_> = (0..9000)
                .map(|number| format!("SCHILY.xattr.user.{number}"))
                .collect();
            let value = [b'v'; 80];
            let records: Vec<_> = names.iter().map(|name| (&**name, &value[..])).collect();
            let map = "1,0,".repeat(60_000) + "1,0";
            for again in 0..10 {
                // Nearly as many as fit an inode.
                let entry = Entry::file(format!("file{again}"), "");
                put(writing, entry.pax(&records[..2500]));
                let sparse = Entry::file(format!("sparse{again}"), "").pax(&[
                    ("GNU.sparse.major", b"0"),
                    ("GNU.sparse.minor", b"1"),
                    ("GNU.sparse.size", b"1"),
                    ("GNU.sparse.numblocks", b"60001"),
                    ("GNU.sparse.map", map.as_bytes()),
                ]);
                put(writing, sparse);
            }
            put(writing, Entry::file("file", "").pax(&records));
        })
    });
    let pulled = pull(layers.collect());
    assert!(
        pulled
            .said
            .contains("the names of its extended attributes take"),
        "{}",
        pulled.said
    );
    assert!(
        pulled.most > 0 && pulled.most <= MOST_OF_THE_WORKER,
        "{} KiB",
        pulled.most
    );
}
