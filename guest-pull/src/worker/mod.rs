// SPDX-License-Identifier: Apache-2.0

//! The process that fetches and parses, apart from the one that mounts.
//!
//! The mounter needs privileges, and the worker reads what came from outside; so they are two processes of the same
//! program. The mounter writes one request to the worker's standard input, and the worker writes what happens to its
//! standard output: a JSON object a line. The mounter takes digests and numbers from them, and checks both. What the
//! worker needs of the daemon, it asks the mounter for in the same way, which answers two questions alone.

mod message;
mod mounter;
mod start;

use std::io;
use std::sync::Arc;

use rustix::process::{Resource, Rlimit, Signal, set_parent_process_death_signal, setrlimit};

pub use crate::failure::{Failure, Kind};
use crate::pull::{self, Found, Means};
use crate::registry::{self, Client, Options};
use crate::store::Store;
use message::failure_to_json;
use mounter::Mounter;

pub use message::{Outcome, Place, Request};
pub use start::start;

/// How much memory the worker can have, beside its code and the stack of its first thread: twice what it ever uses, as
/// [`memory`](crate::memory) adds it up, since what is never touched counts too (8 MiB of stacks, 6 MiB of pages). An image
/// that takes more, by a bug, ends the worker, and not what else runs in the VM.
const MAX_MEMORY_BYTES: u64 = 128 << 20;

/// Runs as the worker: reads the request from standard input, and ends when the pull has.
///
/// # Errors
///
/// If the mounter is gone, or sends no request.
pub fn run() -> io::Result<()> {
    // The mounter may be killed, and then nobody wants the layers. The kernel tells by a signal, but not if that happened
    // before this call; the end of standard input tells at any time.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let most = Some(MAX_MEMORY_BYTES);
    setrlimit(
        Resource::Data,
        Rlimit {
            current: most,
            maximum: most,
        },
    )?;
    let (line, mounter) = Mounter::of_standard_streams()?;
    let mounter = Arc::new(mounter);
    let Some(request) = Request::parse(&line) else {
        return Err(io::Error::other(
            "no request; this command is for guest-pull itself",
        ));
    };
    let last = match pull(&request, &mounter) {
        Ok(outcome) => outcome.to_json(),
        Err(failure) => failure_to_json(&failure),
    };
    mounter.send(&last)
}

/// Pulls from the first place that has the image.
fn pull(request: &Request, mounter: &Arc<Mounter>) -> Result<Outcome, Failure> {
    let other = |message: &str| Failure::new(Kind::Other, message);
    // Without TLS too: tokens and blobs may be elsewhere, where there is TLS.
    let roots = registry::roots(&request.certificates).map_err(|number| {
        other(&format!(
            "the additional certificate {number} is none in PEM"
        ))
    })?;
    let store = Store::open(&request.store)
        .map_err(|error| Failure::new(Kind::of_io(error.io()), error.to_string()))?;
    let mut options = Options {
        roots,
        plain_http: false,
        proxies: request.proxies.clone(),
    };
    let (place, client, found) = find(request, &mut options, mounter)?;
    let rules = request.places.get(place).map(|place| &place.rules);
    let means = Means {
        client: &client,
        store: &store,
        rules: rules.and_then(Option::as_ref),
        at_once: request.layers_at_once,
        events: &|event| mounter.tell(event),
        ask: &|question| mounter.ask(question),
    };
    let pulled = pull::pull(&means, &found, &request.platform);
    let pulled = pulled.map_err(|error| Failure::new(error.kind(), error.to_string()).at(place))?;
    Ok(Outcome {
        place,
        manifest: pulled.manifest,
        layers: pulled.layers,
    })
}

/// The first place that has a manifest for the platform. Everything else of the image comes from there too, as with
/// containers/image: a registry may have changed the tag since.
fn find(
    request: &Request,
    options: &mut Options,
    mounter: &Arc<Mounter>,
) -> Result<(usize, Client, Found), Failure> {
    let mut failures: Vec<Failure> = Vec::new();
    for (number, place) in request.places.iter().enumerate() {
        options.plain_http = place.plain_http;
        let (registry, repository) = (&place.registry, &place.repository);
        let asked = Arc::clone(mounter);
        let client = Client::new(registry, repository, place.login.clone(), options)
            .renewing(move || asked.login(number).map_err(|failure| failure.message));
        // Where there is another place, this one is not waited for.
        let is_last = number + 1 == request.places.len();
        let client = if is_last { client } else { client.once() };
        match pull::find(&client, &place.reference, &request.platform) {
            Ok(found) => return Ok((number, client.patient(), found)),
            // Whatever it is, another place may have the image, and its own login. That this one refuses ours is told.
            Err(error) => {
                if !is_last {
                    eprintln!("guest-pull: {place}: {error}; the next place is asked");
                }
                failures.push(Failure::new(error.kind(), error.to_string()).at(number));
            }
        }
    }
    // The last is what the image's name means, or stands for; it says best what is wrong.
    let Some(last) = failures.pop() else {
        return Err(Failure::new(Kind::Other, "no place has the image"));
    };
    Err(Failure {
        before: failures,
        ..last
    })
}
