// SPDX-License-Identifier: Apache-2.0

//! The layers of one pull, as the mounter has them: the ones that it holds, and the ones that its worker makes.
//!
//! The worker names layers by their digests and gets descriptors. It has no path, and no directory to write into.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::digest::Digest;
use crate::failure::{Failure, Kind};
use crate::memory::MAX_LAYERS as MAX_AT_ONCE;
use crate::question::{Answer, Question};
use crate::registry::manifest::MAX_LAYERS;
use crate::store::notes::MAX_NOTED_PATHS;
use crate::store::room::{FILES_OF_A_LAYER, GROWTH};
use crate::store::{Claim, Error, Held, Making, Publishing, Store};

/// How many layers a worker can make at once: one more than it does, since it may ask before it has given one back.
const MAX_MAKING: usize = MAX_AT_ONCE + 1;

/// What a layer needs beside: blocks for what is small.
const LEAST_ROOM: u64 = 1 << 20;

/// How much more room a layer gets that had too little: who knows how large it becomes?
const MORE: u64 = 2;

/// The most paths of the notes about all layers of an image, which stay in the mounter's memory at some hundred bytes each:
/// ordinary images have a few hundred.
const MAX_NOTED_PATHS_OF_IMAGE: usize = 5 * MAX_NOTED_PATHS;

/// How long a pull waits for a layer that another one is making. That one's registry may be slow, or never get to the end on
/// purpose, and any registry can name layers of other images. After that, this pull makes the layer for itself.
const BUSY_PATIENCE: Duration = Duration::from_secs(20);

/// The layers of one pull.
pub struct Shelf<'s> {
    store: &'s Store,
    /// Those that the worker makes, with the room that each is expected to take.
    making: BTreeMap<Digest, (Making, u64)>,
    /// How much room those took that the worker could not make.
    failed: BTreeMap<Digest, u64>,
    /// Those that are made, and can be published only when the worker has ended.
    made: BTreeMap<Digest, Making>,
    held: BTreeMap<Digest, Held>,
    /// Since when other pulls have been making layers that this one needs.
    busy: BTreeMap<Digest, Instant>,
}

fn failure(error: &Error) -> Failure {
    Failure::of_io(
        format_args!("the store of layers: {}", error.path().display()),
        error.io(),
    )
}

/// How much room a layer is expected to take, whose blob has so many bytes.
fn expected(bytes: u64) -> u64 {
    bytes.saturating_mul(GROWTH).saturating_add(LEAST_ROOM)
}

fn refused(what: &str) -> Failure {
    Failure::new(Kind::Other, what)
}

impl<'s> Shelf<'s> {
    /// Without layers yet.
    pub fn new(store: &'s Store) -> Self {
        Self {
            store,
            making: BTreeMap::new(),
            failed: BTreeMap::new(),
            made: BTreeMap::new(),
            held: BTreeMap::new(),
            busy: BTreeMap::new(),
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
                if let Some((making, _)) = self.making.remove(layer) {
                    let is_new = !self.failed.contains_key(layer);
                    if !is_new || self.failed.len() < MAX_LAYERS {
                        self.failed.insert(*layer, making.size());
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
        let room = expected(bytes);
        let found = match self.store.claim(id) {
            // There are too few files, or not even a block for a directory.
            Err(error) if Kind::of_io(error.io()) == Kind::NoRoom => {
                match self.make_room(room, FILES_OF_A_LAYER)? {
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
            Claim::Busy => self.busy(id, room),
            Claim::ToMake(making) => self.make(id, making, room),
        }
    }

    /// Another pull is making the layer: says so, for a while.
    fn busy(&mut self, id: &Digest, room: u64) -> Result<Answer, Failure> {
        if self.busy.len() >= MAX_LAYERS {
            return Err(refused("the worker asks for more layers than an image has"));
        }
        let since = self.busy.entry(*id).or_insert_with(Instant::now);
        if since.elapsed() < BUSY_PATIENCE {
            return Ok(Answer::Busy);
        }
        let beside = self.store.make_beside(id);
        match beside.map_err(|error| failure(&error))? {
            Some(making) => {
                eprintln!(
                    "guest-pull: another pull has been making the layer {id} for {} s; this one makes it for itself",
                    BUSY_PATIENCE.as_secs()
                );
                self.make(id, making, room)
            }
            None => Ok(Answer::Busy),
        }
    }

    /// Hands out the files of a layer, and makes room for it.
    fn make(&mut self, id: &Digest, making: Making, room: u64) -> Result<Answer, Failure> {
        self.make_room(room, 0)?;
        let files = making.files();
        let files = files.map_err(|error| Failure::of_io("the files of a layer", &error))?;
        self.making.insert(*id, (making, room));
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
        let had = self.failed.get(id).copied().unwrap_or_default();
        let wanted = had.saturating_mul(MORE).saturating_add(LEAST_ROOM);
        self.make_room(wanted, FILES_OF_A_LAYER)?;
        // With hardly more than it had, it would take the room of others once more, for nothing.
        let least = had.saturating_add(had / 4).saturating_add(LEAST_ROOM);
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

    /// Gives up stored layers that nobody uses, until the store has room for so many bytes and files beside what the layers
    /// still take that are being made, if that helps. Says whether any is gone.
    fn make_room(&self, bytes: u64, files: u64) -> Result<bool, Failure> {
        let others = self.making.values();
        let others = others.map(|(making, room)| room.saturating_sub(making.size()));
        let bytes = others.fold(bytes, u64::saturating_add);
        let given_up = self.store.make_room(bytes, files);
        let given_up = given_up.map_err(|error| failure(&error))?;
        if given_up > 0 {
            eprintln!(
                "guest-pull: the store was short of room: {given_up} stored layers that nothing uses are given up"
            );
        }
        Ok(given_up > 0)
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

    fn hold(&mut self, id: Digest, held: Held) -> Result<(), Failure> {
        self.held.insert(id, held);
        let noted = self.held.values().map(|held| held.stored.noted_paths());
        match noted.sum::<usize>() > MAX_NOTED_PATHS_OF_IMAGE {
            true => Err(refused(&format!(
                "the image's layers have more than {MAX_NOTED_PATHS_OF_IMAGE} directories without entries and links to lower \
                 layers; build it with entries for its directories"
            ))),
            false => Ok(()),
        }
    }
}
