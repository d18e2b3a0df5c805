// SPDX-License-Identifier: Apache-2.0

//! The same images for this program and for containerd.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

use crate::containerd::Containerd;
use crate::host::{Mounted, TIME, guest_pull, listing, output, text};
use crate::image::{Image, Repository};
use crate::stand_in::StandIn;

/// In what way this program and containerd differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// This program refuses the layer, and containerd takes it.
    WeRefuse,
    /// Containerd refuses it, and this program takes it.
    TheyRefuse,
    /// Both take it, and the trees are not the same.
    Trees,
}

type Tree = BTreeMap<String, Vec<String>>;

/// A containerd and a registry that have the same images, which are known by their numbers.
pub struct Both {
    containerd: Containerd,
    registry: StandIn,
    dir: TempDir,
    /// When it was made, in nanoseconds.
    start: u128,
}

/// What became of an image.
pub struct Pulled {
    pub ours: Result<Tree, String>,
    pub theirs: Result<Tree, String>,
    /// What this program wrote to its standard error.
    pub log: String,
    start: u128,
}

impl Both {
    /// All of it in memory, which is faster.
    pub fn new<'i>(repository: Repository, images: impl Iterator<Item = &'i Image>) -> Self {
        let memory = Path::new("/dev/shm");
        let dir = tempfile::tempdir_in(memory).unwrap();
        let tags: Vec<_> = images
            .enumerate()
            .map(|(number, image)| (number.to_string(), image))
            .collect();
        let layout = dir.path().join("layout");
        repository.write_layout_of(&layout, &tags);
        let start = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        let containerd = Containerd::start_in(memory);
        containerd.import(&layout, "both");
        Self {
            containerd,
            registry: StandIn::start(move |asked| repository.answer(&asked.path)),
            dir,
            start: start.as_nanos(),
        }
    }

    /// What both make of an image.
    pub fn pull(&self, number: usize, image: &Image) -> Pulled {
        let digest = image.descriptor["digest"].as_str().unwrap();
        let name = format!("{}/a/b@{digest}", self.registry.address);
        let [store, bundle] =
            ["store", "bundle"].map(|kind| self.dir.path().join(format!("{kind}-{number}")));
        let (_, log, code) = output(&mut guest_pull(&[
            "pull",
            "--plain-http",
            "--store",
            text(&store),
            "--bundle",
            text(&bundle),
            &name,
        ]));
        let ours = match code {
            Some(0) => {
                let mounted = Mounted(bundle.join("rootfs"));
                Ok(listing(&mounted.0))
            }
            _ => Err(log.lines().last().unwrap_or_default().to_owned()),
        };
        let theirs = self.containerd.extract("both", &number.to_string());
        Pulled {
            ours,
            theirs: theirs.map(|(path, _mounted)| listing(&path)),
            log,
            start: self.start,
        }
    }
}

impl Pulled {
    /// Without the times of directories that containerd made for what is below them: those of its extraction.
    pub fn without_new_times(mut self) -> Self {
        let (Ok(ours), Ok(theirs)) = (&mut self.ours, &mut self.theirs) else {
            return self;
        };
        for (name, entry) in theirs {
            let time = entry[TIME].parse();
            let is_new = time.is_ok_and(|time: u128| time >= self.start);
            if let Some(ours) = ours
                .get_mut(name)
                .filter(|_| is_new && entry[0].starts_with("'0o4"))
            {
                (ours[TIME], entry[TIME]) = (String::new(), String::new());
            }
        }
        self
    }

    /// How the two differ, if they do. The time of a directory without an entry is not containerd's to say, since it writes
    /// into that directory while it extracts: there it is 0. Nor is the root's, even with an entry.
    pub fn difference(&self) -> Option<(How, String)> {
        let (ours, theirs) = match (&self.ours, &self.theirs) {
            // The layer was read to its end there, and is not what its digest says: nothing was compared.
            (Err(error), Err(theirs)) if theirs.contains("wrong diff id") => {
                return Some((How::WeRefuse, format!("{error}; containerd: {theirs}")));
            }
            (Err(_), Err(_)) => return None,
            (Err(error), Ok(_)) => return Some((How::WeRefuse, error.clone())),
            (Ok(_), Err(error)) => return Some((How::TheyRefuse, error.clone())),
            (Ok(ours), Ok(theirs)) => (ours, theirs),
        };
        let mut theirs = theirs.clone();
        for (name, entry) in &mut theirs {
            let is_new = entry[TIME]
                .parse()
                .is_ok_and(|time: u128| time >= self.start);
            if entry[0].starts_with("'0o4") && is_new {
                entry[TIME] = match (name.as_str(), ours.get(name)) {
                    ("b'.'", Some(ours)) => ours[TIME].clone(),
                    _ => "0".to_owned(),
                };
            }
        }
        let names = ours.keys().chain(theirs.keys());
        let mut different: Vec<_> = names
            .filter(|name| ours.get(*name) != theirs.get(*name))
            .collect();
        different.sort();
        different.dedup();
        let first = different.first()?;
        let what = format!(
            "{} entries, first {first}:\n    ours   {:?}\n    theirs {:?}",
            different.len(),
            ours.get(*first),
            theirs.get(*first)
        );
        Some((How::Trees, what))
    }
}
