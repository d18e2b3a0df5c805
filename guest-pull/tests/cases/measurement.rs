// SPDX-License-Identifier: Apache-2.0

//! Measurement: what an attestation-agent is told of a pull, and what its answers do to the pull.

use std::os::unix::net::UnixListener;

use common::proto::attestation_agent::RuntimeMeasurementResult;
use ttrpc::Code;

use crate::agent::{Agent, agent};
use crate::caller::{Answer, Place, daemon, recorded};
use crate::host::{Mounted, is_root, run, support};
use crate::registry::Registry;

/// A pull of a public image, with the agent at its socket.
struct Pull {
    place: Place,
    image: String,
    _registry: Registry,
}

impl Pull {
    fn new() -> Self {
        let place = Place::new(false);
        let registry = Registry::start();
        let layout = place.at("layout");
        run(support("make-image").arg(&layout));
        let image = registry.push(&layout);
        let address = &registry.address;
        place.configure(&format!(
            "[image]\n[[image.registry_config.registry]]\nlocation = \"{address}\"\ninsecure = true\n"
        ));
        daemon(&place, Err(Code::NOT_FOUND));
        Self {
            place,
            image,
            _registry: registry,
        }
    }

    fn ask(&self) -> Answer {
        self.place.ask(&recorded(&self.image, &self.place.bundle()))
    }

    /// That the pull fails for this reason, and nothing of it is mounted.
    fn fails(&self, expected: &str) {
        let answer = self.ask();
        assert_eq!(
            answer.code(),
            Code::FAILED_PRECONDITION,
            "{}",
            answer.text()
        );
        assert!(answer.text().contains(expected), "{}", answer.text());
        self.place.assert_nothing_left();
    }
}

/// The agent gets the event of the stock confidential-data-hub, with its deadline; the pull goes on, whatever the agent can
/// do, and the log says what it did.
#[test]
fn an_agent_is_told_of_the_image() {
    if !is_root() {
        return;
    }
    for (result, said) in [
        (RuntimeMeasurementResult::OK, "; measured\n"),
        (RuntimeMeasurementResult::NOT_SUPPORTED, "NOT_SUPPORTED"),
        (RuntimeMeasurementResult::NOT_ENABLED, "NOT_ENABLED"),
    ] {
        let pull = Pull::new();
        let events = agent(&pull.place.at("agent.sock"), Agent::Answers(result as i32));
        let digest = pull.ask().digest();
        let _mounted = Mounted(pull.place.rootfs());
        let content = format!("{{\"image\":\"{}\", \"digest\":\"{digest}\"}}", pull.image);
        let domain = "github.com/confidential-containers".to_owned();
        let event = (domain, "PullImage".to_owned(), content, 10);
        assert_eq!(events.try_iter().collect::<Vec<_>>(), [event]);
        let log = pull.place.log();
        assert!(log.contains(said), "{log}");
    }
}

/// Without an agent, images are pulled, and the log says that they are not measured.
#[test]
fn no_agent_is_no_reason_to_fail() {
    if !is_root() {
        return;
    }
    let pull = Pull::new();
    pull.ask().digest();
    let _mounted = Mounted(pull.place.rootfs());
    assert!(pull.place.log().contains("there is no attestation-agent"));
}

/// An image that should be measured and isn't must not run: the agent refuses, answers what nobody knows, or is dead.
#[test]
fn an_agent_that_refuses_fails_the_pull() {
    let pull = Pull::new();
    let socket = pull.place.at("agent.sock");
    for (does, expected) in [
        (Agent::Refuses, "INTERNAL: no quote today"),
        (Agent::Answers(7), "unknown result 7"),
    ] {
        let _events = agent(&socket, does);
        pull.fails(expected);
        std::fs::remove_file(&socket).unwrap();
    }
    drop(UnixListener::bind(&socket).unwrap());
    pull.fails("remove the socket's file");
}

/// A slow agent is waited for as long as the stock component waits, and not longer.
#[test]
fn an_agent_that_is_slow_fails_the_pull() {
    let pull = Pull::new();
    let _events = agent(&pull.place.at("agent.sock"), Agent::Silent);
    pull.fails("no answer within 10 s");
}
