// SPDX-License-Identifier: Apache-2.0

//! Archives as containerd extracts them, beside what guest-pull makes of them.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::{Value, json};

use crate::containerd::Containerd;
use crate::host::{Mounted, TIME, assert_equal, guest_pull, listing, run, text, tool};
use crate::image::Repository;
use crate::stand_in::StandIn;

/// What `listing` says of the entries of a tree.
pub type Listing = BTreeMap<String, Vec<String>>;

/// An image in both ways.
pub struct Both {
    pub ours: Listing,
    pub theirs: Listing,
}

/// Writes an image of these layers as the layout `layout` in a directory.
fn write_layout(archives: &[Vec<u8>], directory: &Path) -> Repository {
    let (repository, image) = Repository::of(archives);
    let blobs = directory.join("layout/blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    for (digest, blob) in &repository.blobs {
        let name = digest.strip_prefix("sha256:").unwrap();
        fs::write(blobs.join(name), blob).unwrap();
    }
    let mut manifest: Value = image.descriptor;
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "test"});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    let write = |name: &str, value: Value| {
        fs::write(directory.join("layout").join(name), value.to_string()).unwrap();
    };
    write("index.json", index);
    write("oci-layout", json!({"imageLayoutVersion": "1.0.0"}));
    repository
}

/// What guest-pull says of an image that it must pull, and what it mounts.
fn ours(repository: Repository, directory: &Path) -> Result<Listing, String> {
    let registry = StandIn::start(move |asked| repository.answer(&asked.path));
    let [store, bundle] = ["store", "bundle"].map(|name| directory.join(name));
    let image = format!("{}/a/b:1", registry.address);
    let args = ["pull", "--plain-http", "--store", text(&store)];
    let mut command = guest_pull(&args);
    command.args(["--bundle", text(&bundle), &image]);
    let output = command.output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    if !output.status.success() {
        return Err(said + &String::from_utf8(output.stderr).unwrap());
    }
    for file in said.lines().filter(|line| line.ends_with(".erofs")) {
        run(tool("FSCK_EROFS", "fsck.erofs").arg(file));
    }
    let root = bundle.join("rootfs");
    let _mounted = Mounted(root.clone());
    Ok(listing(&root))
}

/// An image that both take.
pub fn both(containerd: &Containerd, name: &str, archives: &[Vec<u8>]) -> Both {
    let directory = tempfile::tempdir().unwrap();
    let repository = write_layout(archives, directory.path());
    let ours = ours(repository, directory.path()).unwrap_or_else(|said| panic!("{name}: {said}"));
    let (at, _mounted) = containerd.mount(&directory.path().join("layout"), name);
    Both {
        ours,
        theirs: listing(&at),
    }
}

/// What each says of an image; none of one that takes it.
pub fn refusals(
    containerd: &Containerd,
    name: &str,
    archives: &[Vec<u8>],
) -> (Option<String>, Option<String>) {
    let directory = tempfile::tempdir().unwrap();
    let repository = write_layout(archives, directory.path());
    let ours = ours(repository, directory.path()).err();
    let layout = directory.path().join("layout");
    (ours, containerd.try_mount(&layout, name).err())
}

/// What guest-pull makes of an image of one layer that containerd refuses.
pub fn refused_by_containerd(archive: Vec<u8>) -> Listing {
    let directory = tempfile::tempdir().unwrap();
    let repository = write_layout(&[archive], directory.path());
    let ours = ours(repository, directory.path()).unwrap();
    let layout = directory.path().join("layout");
    let theirs = Containerd::start().try_mount(&layout, "refused");
    assert!(theirs.is_err(), "containerd takes it");
    ours
}

/// An image that containerd refuses, and what umoci makes of it, which extracts all layers into one directory.
pub fn taken_by_umoci(archives: &[Vec<u8>]) -> Both {
    let directory = tempfile::tempdir().unwrap();
    let repository = write_layout(archives, directory.path());
    let ours = ours(repository, directory.path()).unwrap();
    let layout = directory.path().join("layout");
    let refused = Containerd::start().try_mount(&layout, "refused");
    assert!(refused.is_err(), "containerd takes it");
    let at = directory.path().join("umoci");
    let image = format!("{}:test", layout.display());
    run(tool("UMOCI", "umoci")
        .args(["raw", "unpack", "--image", &image])
        .arg(&at));
    let theirs = listing(&at);
    Both { ours, theirs }
}

impl Both {
    /// Fails unless the entries below a name of the root are the same, and these are among them. The times of the
    /// directories in `untimed` don't count: they have no entries, so that containerd's are those of its extraction.
    pub fn assert_same(&self, top: &str, expected: &[&str], untimed: &[&str]) {
        let start = format!("b'{top}/");
        let below = |listing: &Listing| -> Listing {
            let all = listing.iter();
            let mut these: Listing = all
                .filter(|(name, _)| name.starts_with(&start) || **name == format!("b'{top}'"))
                .map(|(name, what)| (name.clone(), what.clone()))
                .collect();
            for name in untimed {
                if let Some(entry) = these.get_mut(&format!("b'{top}{name}'")) {
                    entry[TIME] = String::new();
                }
            }
            these
        };
        let (ours, theirs) = (below(&self.ours), below(&self.theirs));
        for name in expected {
            let name = format!("b'{top}/{name}'");
            assert!(theirs.contains_key(&name), "{name} is not in {theirs:#?}");
        }
        assert_equal(&ours, &theirs);
    }
}
