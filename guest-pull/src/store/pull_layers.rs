// SPDX-License-Identifier: Apache-2.0

//! The layers of one pull, as the mounter has them: the ones that it holds, and the ones that its worker makes.
//!
//! The worker names layers by their digests and gets descriptors. It has no path, and no directory to write into.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::digest::Digest;
use crate::failure::{Failure, Kind};
use crate::memory::LAYERS_AT_ONCE;
use crate::question::{Answer, Question};
use crate::registry::manifest::MAX_LAYERS;
use crate::store::notes::MAX_NOTED_PATHS;
use crate::store::room::{FILES_OF_A_LAYER, LEAST_ROOM, expected};
use crate::store::{Claim, Error, Held, Making, Need, Publishing, Store};

/// How many layers a worker can make at once: one more than it does, since it may ask before it has given one back.
const MAX_MAKING: usize = LAYERS_AT_ONCE + 1;

/// How much more room a layer gets that had too little: who knows how large it becomes?
const MORE: u64 = 2;

/// The most paths of the notes about all layers of an image, which stay in the mounter's memory at some hundred bytes each:
/// ordinary images have a few hundred.
const MAX_NOTED_PATHS_OF_IMAGE: usize = 5 * MAX_NOTED_PATHS;

/// How long a pull waits for a layer that another one is making. That one's registry may be slow, or never get to the end on
/// purpose, and any registry can name layers of other images. After that, this pull makes the layer for itself.
const BUSY_PATIENCE: Duration = Duration::from_secs(20);

/// How many claims are answered by anything but that another pull is making the layer, which is asked again and again. That
/// is four tries for each of the most layers, at each of a few mirrors.
const MAX_CLAIMS: usize = 10_000;

/// That another pull is making a layer that this one needs.
struct Busy {
    since: Instant,
    /// Whether the log has it that this pull makes the layer for itself.
    is_logged: bool,
}

/// What is known of a layer that the worker could not make.
#[derive(Clone, Copy, Default)]
struct Failed {
    /// How much room it took by then.
    had: u64,
    /// How many bytes its blob has.
    bytes: u64,
}

/// The layers of one pull.
pub struct PullLayers<'s> {
    store: &'s Store,
    /// Those that the worker makes, with the bytes of their blobs.
    making: BTreeMap<Digest, (Making, u64)>,
    /// Those that the worker could not make.
    failed: BTreeMap<Digest, Failed>,
    /// Those that are made, and can be published only when the worker has ended.
    made: BTreeMap<Digest, Making>,
    held: BTreeMap<Digest, Held>,
    /// Those that other pulls are making.
    busy: BTreeMap<Digest, Busy>,
    /// How many claims were answered.
    claims: usize,
}

fn failure(error: &Error) -> Failure {
    Failure::of_io(
        format_args!("the store of layers: {}", error.path().display()),
        error.io(),
    )
}

fn refused(what: &str) -> Failure {
    Failure::new(Kind::Other, what)
}

impl<'s> PullLayers<'s> {
    /// Without layers yet.
    pub fn new(store: &'s Store) -> Self {
        Self {
            store,
            making: BTreeMap::new(),
            failed: BTreeMap::new(),
            made: BTreeMap::new(),
            held: BTreeMap::new(),
            busy: BTreeMap::new(),
            claims: 0,
        }
    }

    /// Answers what the worker asks about layers.
    ///
    /// # Errors
    ///
    /// As for what it asks; and if that is not about layers.
    pub fn answer(&mut self, question: &Question) -> Result<Answer, Failure> {
        match question {
            Question::Claim { layer, bytes } => self.claim(layer, *bytes),
            Question::Finish(layer) => self.finish(layer).map(|()| Answer::Done(true)),
            Question::Release(layer) => {
                if let Some((making, bytes)) = self.making.remove(layer) {
                    let is_new = !self.failed.contains_key(layer);
                    if !is_new || self.failed.len() < MAX_LAYERS {
                        let had = making.size();
                        self.failed.insert(*layer, Failed { had, bytes });
                    }
                }
                Ok(Answer::Done(true))
            }
            Question::Hold(layer) => self.hold_stored(layer).map(Answer::Done),
            Question::Room(layer) => self.more_room(layer),
            Question::Login(_) | Question::Key { .. } | Question::Signature(_) => {
                Err(refused("the store has no such thing"))
            }
        }
    }

    /// Looks for a layer, whose blob has so many bytes; if it is to be made, makes room for it.
    fn claim(&mut self, id: &Digest, bytes: u64) -> Result<Answer, Failure> {
        if self.held.contains_key(id) || self.made.contains_key(id) {
            return Ok(Answer::Stored);
        }
        if self.making.contains_key(id) {
            return Ok(Answer::Busy);
        }
        if self.making.len() >= MAX_MAKING || self.held.len() + self.made.len() >= MAX_LAYERS {
            return Err(refused("the worker asks for more layers than an image has"));
        }
        if self.claims >= MAX_CLAIMS {
            return Err(refused(
                "the worker asks for layers more often than an image can need",
            ));
        }
        self.claims += 1;
        let found = match self.store.claim(id) {
            // There are too few files, or not even a block for a directory.
            Err(error) if Kind::of_io(error.io()) == Kind::NoRoom => {
                match self.make_room(expected(bytes), bytes, FILES_OF_A_LAYER)? {
                    true => self.store.claim(id),
                    false => Err(error),
                }
            }
            found => found,
        };
        match found.map_err(|error| failure(&error))? {
            Claim::Stored(held) => {
                self.hold(*id, held)?;
                Ok(Answer::Stored)
            }
            Claim::Busy => self.busy(id, bytes),
            Claim::ToMake(making) => self.make(id, making, bytes),
        }
    }

    /// Another pull is making the layer: says so, for a while.
    fn busy(&mut self, id: &Digest, bytes: u64) -> Result<Answer, Failure> {
        if self.busy.len() >= MAX_LAYERS && !self.busy.contains_key(id) {
            return Err(refused("the worker asks for more layers than an image has"));
        }
        let busy = self.busy.entry(*id).or_insert_with(|| Busy {
            since: Instant::now(),
            is_logged: false,
        });
        let beside = match busy.since.elapsed() < BUSY_PATIENCE {
            true => None,
            false => self
                .store
                .make_beside(id)
                .map_err(|error| failure(&error))?,
        };
        let Some(making) = beside else {
            // It is asked for again, as long as it takes.
            self.claims = self.claims.saturating_sub(1);
            return Ok(Answer::Busy);
        };
        if !std::mem::replace(&mut busy.is_logged, true) {
            eprintln!(
                "guest-pull: another pull has been making the layer {id} for {} s; this one makes it for itself",
                BUSY_PATIENCE.as_secs()
            );
        }
        self.make(id, making, bytes)
    }

    /// Hands out the files of a layer, and makes room for it.
    fn make(&mut self, id: &Digest, making: Making, bytes: u64) -> Result<Answer, Failure> {
        self.make_room(expected(bytes), bytes, 0)?;
        let files = making.files();
        let files = files.map_err(|error| Failure::of_io("the files of a layer", &error))?;
        self.making.insert(*id, (making, bytes));
        Ok(Answer::Make(files))
    }

    /// Holds a layer if it is stored.
    fn hold_stored(&mut self, id: &Digest) -> Result<bool, Failure> {
        if self.held.contains_key(id) {
            return Ok(true);
        }
        if self.held.len() >= MAX_LAYERS {
            return Err(refused("the worker asks for more layers than an image has"));
        }
        match self.store.held(id).map_err(|error| failure(&error))? {
            Some(held) => self.hold(*id, held).map(|()| true),
            None => Ok(false),
        }
    }

    /// Looks for more room, for a layer that had too little: what stored layers take that nobody uses, and what others have
    /// given back since. While layers are made, there may be more later.
    fn more_room(&self, id: &Digest) -> Result<Answer, Failure> {
        let Failed { had, bytes } = self.failed.get(id).copied().unwrap_or_default();
        let wanted = had.saturating_mul(MORE).saturating_add(LEAST_ROOM);
        // With hardly more than it had, it would take the room of others once more, for nothing.
        let least = had.saturating_add(had / 4).saturating_add(LEAST_ROOM);
        self.make_room(wanted, least.max(bytes), FILES_OF_A_LAYER)?;
        let room = self.store.room().map_err(|error| failure(&error))?;
        let is_more = room.has(least, FILES_OF_A_LAYER);
        let is_making = !self.making.is_empty() || self.store.is_making();
        Ok(match is_more || !is_making {
            true => Answer::Done(is_more),
            false => Answer::Busy,
        })
    }

    /// Gives back what was not made to its end. The worker has ended.
    pub fn give_back(&mut self) {
        self.making.clear();
        self.made.clear();
    }

    /// Publishes a layer that the worker has made. It has closed the layer's files.
    fn finish(&mut self, id: &Digest) -> Result<(), Failure> {
        let making = self.making.remove(id);
        let (making, _) = making.ok_or_else(|| refused("the worker is not making this layer"))?;
        match making.publish(false).map_err(|error| failure(&error))? {
            Publishing::Done(held) => self.hold(*id, held),
            Publishing::Later(making) => {
                self.made.insert(*id, making);
                Ok(())
            }
        }
    }

    /// Evicts stored layers that nobody uses, until the store has room for so many bytes and files beside what the layers
    /// still take that are being made; none if it can't have room for the least. Says whether any is gone.
    fn make_room(&self, bytes: u64, least: u64, files: u64) -> Result<bool, Failure> {
        let others = self.making.values();
        let others = others.map(|(making, bytes)| expected(*bytes).saturating_sub(making.size()));
        let bytes = others.fold(bytes, u64::saturating_add);
        let need = Need {
            bytes,
            least,
            files,
        };
        let evicted = self.store.make_room(need);
        let evicted = evicted.map_err(|error| failure(&error))?;
        if evicted > 0 {
            eprintln!(
                "guest-pull: the store was short of room: {evicted} stored layers that nothing uses are evicted"
            );
        }
        Ok(evicted > 0)
    }

    /// The layers of the image, the lowest first. The worker has ended.
    ///
    /// # Errors
    ///
    /// If one is not among those that the worker has claimed, or can't be stored.
    pub fn take(&mut self, ids: &[Digest]) -> Result<Vec<(Digest, &Held)>, Failure> {
        self.making.clear();
        for (id, making) in std::mem::take(&mut self.made) {
            match making.publish(true).map_err(|error| failure(&error))? {
                Publishing::Done(held) => self.hold(id, held)?,
                Publishing::Later(_) => return Err(refused("a layer can't be stored")),
            }
        }
        let find = |id: &Digest| {
            let held = self.held.get(id);
            let held = held.ok_or_else(|| refused("the worker names a layer that it never had"));
            held.map(|held| (*id, held))
        };
        ids.iter().map(find).collect()
    }

    /// Holds a layer, unless the notes about all of them would take too much memory. The worker may ignore that, and go on.
    fn hold(&mut self, id: Digest, held: Held) -> Result<(), Failure> {
        let others = self.held.iter().filter(|(other, _)| **other != id);
        let others: usize = others.map(|(_, held)| held.stored.noted_paths()).sum();
        match others + held.stored.noted_paths() > MAX_NOTED_PATHS_OF_IMAGE {
            true => Err(refused(&format!(
                "the image's layers have more than {MAX_NOTED_PATHS_OF_IMAGE} directories without entries and links to lower \
                 layers; build it with entries for its directories"
            ))),
            false => {
                self.held.insert(id, held);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic, clippy::unwrap_used)]
    use std::fs;

    use super::*;
    use crate::store::Stored;

    fn claim(number: usize, bytes: u64) -> (Digest, Question) {
        let layer = Digest::of(&number.to_le_bytes());
        (layer, Question::Claim { layer, bytes })
    }

    /// A worker that ignores that the notes are too much, and goes on, has the mounter keep no more of them.
    #[test]
    fn notes_that_are_too_much_are_not_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        let stored = Stored {
            implied: vec![b"/a".to_vec(); MAX_NOTED_PATHS],
            ..Stored::default()
        };
        for number in 0..20 {
            let path = store.path(&claim(number, 0).0);
            fs::write(&path, "layer").unwrap();
            fs::write(path.with_extension("notes"), stored.encode()).unwrap();
        }
        let mut pull_layers = PullLayers::new(&store);
        let most = MAX_NOTED_PATHS_OF_IMAGE / MAX_NOTED_PATHS;
        for number in 0..20 {
            let (id, question) = claim(number, 0);
            for question in [question, Question::Hold(id)] {
                let answer = pull_layers.answer(&question);
                assert_eq!(answer.is_ok(), number < most, "{number}");
            }
        }
        assert_eq!(pull_layers.held.len(), most);
        assert!(pull_layers.take(&[claim(most, 0).0]).is_err());
        assert!(pull_layers.take(&[claim(0, 0).0]).is_ok());
    }

    /// A worker can't have layers begun without end, and waits for other pulls as long as it takes.
    #[test]
    fn claims_are_counted() {
        let dir = tempfile::tempdir_in("/dev/shm").unwrap();
        let store = Store::open(dir.path()).unwrap();
        let mut pull_layers = PullLayers::new(&store);
        let other = match store.claim(&claim(0, 0).0).unwrap() {
            Claim::ToMake(making) => making,
            Claim::Busy | Claim::Stored(_) => panic!("it is not to be made"),
        };
        for _ in 0..=MAX_CLAIMS {
            assert!(matches!(
                pull_layers.answer(&claim(0, 0).1),
                Ok(Answer::Busy)
            ));
        }
        let (id, question) = claim(1, 0);
        for _ in 0..MAX_CLAIMS {
            assert!(matches!(pull_layers.answer(&question), Ok(Answer::Make(_))));
            pull_layers.answer(&Question::Release(id)).unwrap();
        }
        assert!(pull_layers.answer(&question).is_err());
        drop(other);
    }
}
