// SPDX-License-Identifier: Apache-2.0

//! The process that fetches and parses, apart from the one that mounts.
//!
//! The mounter needs privileges, and the worker reads what came from outside; so they are two processes of the same
//! program. The mounter writes one request to the socket that is the worker's standard input, and the worker writes there
//! what happens: a JSON object a line. The mounter takes digests, numbers, and the text of a failure from them; it checks the
//! first two, and escapes and shortens the third. What the worker needs of the daemon and of the store, it asks the mounter for
//! in the same way: [`crate::question`]. What the worker logs comes by another socket, and is escaped, shortened and bounded too.

mod channel;
pub mod confinement;
mod log;
pub mod message;
mod mounter;
mod quota;
mod start;

use std::io;
use std::sync::Arc;

use rustix::process::{Signal, set_parent_process_death_signal};
use ureq::tls::Certificate;

pub use crate::failure::{Failure, Kind};
use crate::pull::{self, Found, Means};
use crate::registry::{self, Client, Options};
use crate::sys;
use crate::verify;
use confinement::{Confinement, Part};
use message::{confinement_to_json, failure_to_json};

pub use message::{Outcome, Place, Request};
pub use mounter::Mounter;
pub use start::{Service, log_confinement, start};

/// Runs as the worker: confines itself, reads the request, and ends when the pull has.
///
/// # Errors
///
/// If the mounter is gone, or sends no request.
pub fn run() -> io::Result<()> {
    // The system's, which are not from outside. Nothing else of it can be read later.
    let roots = registry::system_roots();
    run_as(&Part::ALL, &|request, mounter| {
        pull(request, mounter, roots.clone())
    })
}

/// What a worker does.
pub type Work<'w> = dyn Fn(&Request, &Arc<Mounter>) -> Result<Outcome, Failure> + 'w;

/// Runs as a worker that does `work`, within these parts. No file may be open yet but the standard streams.
///
/// # Errors
///
/// If the mounter is gone, or sends no request.
pub fn run_as(parts: &[Part], work: &Work<'_>) -> io::Result<()> {
    // The mounter may be killed, and then nobody wants the layers. The kernel tells by a signal, but not if that happened
    // before this call; the end of standard input tells at any time.
    set_parent_process_death_signal(Some(Signal::KILL))?;
    sys::close_inherited();
    confinement::be_ended_first();
    let confinement = Confinement::enter(parts);
    let (line, mounter) = Mounter::of_standard_input()?;
    mounter.send(&confinement_to_json(&confinement))?;
    let mounter = Arc::new(mounter);
    let Some(request) = Request::parse(&line) else {
        return Err(io::Error::other(
            "no request; this command is for guest-pull itself",
        ));
    };
    let last = match work(&request, &mounter) {
        Ok(outcome) => outcome.to_json(),
        Err(failure) => failure_to_json(&failure),
    };
    mounter.send(&last)
}

/// Pulls from the first place that has the image.
fn pull(
    request: &Request,
    mounter: &Arc<Mounter>,
    system_roots: Vec<Certificate<'static>>,
) -> Result<Outcome, Failure> {
    // Without TLS too: tokens and blobs may be elsewhere, where there is TLS.
    let roots = registry::with_additional(system_roots, &request.certificates);
    let roots = roots.map_err(|number| {
        let text = format!("the additional certificate {number} is none in PEM");
        Failure::new(Kind::Other, text)
    })?;
    let mut options = Options {
        roots,
        plain_http: false,
        proxies: request.proxies.clone(),
    };
    let (place, client, found) = find(request, &mut options, mounter)?;
    let rules = request.places.get(place).map(|place| &place.rules);
    let means = Means {
        client: &client,
        rules: rules.and_then(Option::as_ref),
        at_once: request.layers_at_once,
        events: &|event| mounter.tell(event),
        ask: &|question| mounter.ask(question),
    };
    let pulled = match request.only_verify {
        true => verify::verify(&means, found, &request.platform),
        false => pull::pull(&means, found, &request.platform),
    };
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
