// SPDX-License-Identifier: Apache-2.0

//! Whether an image would be pulled, by the same worker as confined as a pull: its manifest, signatures and keys,
//! whether the registry gives its layers, and whether the store has room for them. No layer is fetched, and nothing is
//! stored, measured or mounted.

use std::cell::{Cell, RefCell};
use std::path::Path;

use common::auth_json::image::ImageName;
use common::text::Escaped;

use crate::check::Finding;
use crate::config::Image;
use crate::digest::Digest;
use crate::failure::{Failure, Kind};
use crate::plan::Plan;
use crate::pull::Event;
use crate::question::{Answer, Question};
use crate::registry::manifest::MAX_LAYERS;
use crate::serve::{answer_worker, explained, request_of};
use crate::store::{Need, PullLayers, Room, Store, need_of};
use crate::until::Until;
use crate::worker::{self, Service};

/// An image that would be pulled.
#[derive(Debug)]
pub struct Verified {
    /// The digest of its manifest.
    pub digest: Digest,
    /// How many layers it has.
    pub layers: usize,
    /// How many bytes their blobs have together.
    pub bytes: u64,
    /// How many of the layers are stored.
    pub stored: usize,
}

/// Whether the image of this plan would be pulled. `program` is started as the worker, `daemon` is the daemon's socket.
/// What could be otherwise at the pull, and is no failure, is told to `find`.
///
/// # Errors
///
/// As for the pull.
pub fn verify(
    program: &Path,
    plan: &mut Plan,
    image: &mut Image,
    daemon: &Path,
    find: &dyn Fn(Finding),
) -> Result<Verified, Failure> {
    let name = ImageName::parse(&plan.image);
    let name = name.map_err(|error| Failure::new(Kind::Invalid, error.to_string()))?;
    let request = request_of(plan, image, true);
    let asked: Vec<_> = plan.asked().collect();
    let store = Store::existing(&image.work_dir);
    let pull_layers = store
        .as_ref()
        .map(|store| RefCell::new(PullLayers::new(store)));
    let bytes = Cell::new(0);
    let stored = Cell::new(0);
    let missing = RefCell::new(Vec::new());
    let service = Service {
        answer: &|question| match (question, &pull_layers) {
            (Question::Hold(_), None) => Ok(Answer::Done(false)),
            (Question::Hold(_), Some(pull_layers)) => pull_layers.borrow_mut().answer(question),
            // It makes none.
            _ => answer_worker(question, None, image, daemon, &asked),
        },
        tell: &|event| match event {
            Event::Started { bytes: all, .. } => bytes.set(all),
            Event::Layer { stored: true, .. } => stored.set(stored.get() + 1),
            Event::Layer { bytes, .. } => {
                let mut missing = missing.borrow_mut();
                if missing.len() < MAX_LAYERS {
                    missing.push(bytes);
                }
            }
            Event::Read(_) => {}
        },
        confined: &|confinement| {
            for (part, why) in &confinement.parts {
                if let Some(why) = why {
                    find(Finding::note(
                        "worker-confinement",
                        format!(
                            "the worker runs without a part of its confinement: {}: {}",
                            part.name(),
                            Escaped(why)
                        ),
                        "nothing, for pulls: they work without it; docs/guest-pull.md says what it is for",
                    ));
                }
            }
        },
    };
    let verified = worker::start(program, request, &Until::default(), &service);
    let verified = verified.map_err(|failure| {
        let message = explained(&failure, &name, plan, image, &String::new);
        Failure::new(failure.kind, message)
    })?;
    let missing = missing.into_inner();
    room_for(need_of(&missing), store.as_ref(), &image.work_dir, find)?;
    Ok(Verified {
        digest: verified.manifest,
        layers: verified.layers.len(),
        bytes: bytes.get(),
        stored: stored.get(),
    })
}

/// Whether there is room for layers that are not stored.
fn room_for(
    need: Need,
    store: Option<&Store>,
    work_dir: &Path,
    find: &dyn Fn(Finding),
) -> Result<(), Failure> {
    let place = crate::check::nearest(work_dir);
    // What is wrong with the place has been told.
    let Some(room) = place.ok().and_then(|(place, _)| Room::of(&place).ok()) else {
        return Ok(());
    };
    let fits = |bytes| {
        let need = Need {
            bytes,
            least: bytes,
            ..need
        };
        room.has(bytes, need.files) || store.is_some_and(|store| store.could_have(need))
    };
    if fits(need.bytes) {
        return Ok(());
    }
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let what = format!(
        "the layers have {} MiB as the registry has them, and are expected to take about {} MiB; in the store {}, {}",
        mib(need.least),
        mib(need.bytes),
        work_dir.display(),
        room.shown(need.files),
    );
    let fix = "give the VM more memory, or set work_dir in [image] of cdh.toml to a larger disk";
    match fits(need.least) {
        true => {
            find(Finding::warning(
                "store-room",
                format!("there may be too little room: {what}"),
                fix,
            ));
            Ok(())
        }
        false => Err(Failure::new(
            Kind::NoRoom,
            format!("no room: {what}; {fix}"),
        )),
    }
}
