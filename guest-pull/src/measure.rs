// SPDX-License-Identifier: Apache-2.0

//! Tells the attestation-agent which image was pulled, so that attestation of the VM can show it.
//!
//! The event is that of the stock confidential-data-hub, byte for byte: verifiers compare its digest. Who does not want
//! it measured has no attestation-agent that serves the socket, or one that says NOT_SUPPORTED or NOT_ENABLED.

use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

use common::client::{self, Error};
use common::proto::attestation_agent::{
    ExtendRuntimeMeasurementRequest, ExtendRuntimeMeasurementResponse, RuntimeMeasurementResult,
};
use serde_json::Value;

use crate::digest::Digest;
use crate::failure::{Failure, Kind};

/// How long the agent may take: what the stock confidential-data-hub gives it.
const ANSWER_TIME: Duration = Duration::from_secs(10);

const DOMAIN: &str = "github.com/confidential-containers";

/// What became of the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measured {
    /// A register of the TEE was extended with it.
    Yes,
    /// Nobody serves the agent's socket.
    NoAgent,
    /// The agent can't do it on this machine.
    NotSupported,
    /// The agent is configured not to do it.
    NotEnabled,
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Yes => "measured",
            Self::NoAgent => "not measured: there is no attestation-agent",
            Self::NotSupported => "not measured: the attestation-agent says NOT_SUPPORTED",
            Self::NotEnabled => "not measured: the attestation-agent says NOT_ENABLED",
        })
    }
}

/// Sends the event for an image, named as the caller did, to the agent at the socket `agent`.
///
/// # Errors
///
/// If the socket is there and the agent doesn't answer, or refuses: an image that should have been measured must not run.
pub fn measure(agent: &Path, image: &str, manifest: &Digest) -> Result<Measured, Failure> {
    let failed = |what: &dyn fmt::Display, fix: &str| {
        let text = format!(
            "the image can't be measured by the attestation-agent at {}: {what}; {fix}",
            agent.display()
        );
        Failure::new(Kind::Configuration, text)
    };
    match agent.symlink_metadata() {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Measured::NoAgent),
        // There may be one.
        Err(error) => return Err(failed(&error, "check the path of its socket")),
    }
    let request = ExtendRuntimeMeasurementRequest {
        Domain: DOMAIN.to_owned(),
        Operation: "PullImage".to_owned(),
        Content: content(image, manifest),
        ..Default::default()
    };
    let method = (
        "attestation_agent.AttestationAgentService",
        "ExtendRuntimeMeasurement",
    );
    let answer =
        client::call::<ExtendRuntimeMeasurementResponse>(agent, method, &request, ANSWER_TIME);
    let answer = answer.map_err(|error| {
        let fix = match &error {
            Error::Connect(_) => "start it, or remove the socket's file",
            _ => "see its log",
        };
        match &error {
            Error::Late => failed(
                &format!("no answer within {} s", ANSWER_TIME.as_secs()),
                fix,
            ),
            _ => failed(&error, fix),
        }
    })?;
    match answer.Result.enum_value() {
        Ok(RuntimeMeasurementResult::OK) => Ok(Measured::Yes),
        Ok(RuntimeMeasurementResult::NOT_SUPPORTED) => Ok(Measured::NotSupported),
        Ok(RuntimeMeasurementResult::NOT_ENABLED) => Ok(Measured::NotEnabled),
        Err(number) => Err(failed(
            &format!("its answer is the unknown result {number}"),
            "see its log",
        )),
    }
}

/// What is measured: with the space that the stock confidential-data-hub writes.
fn content(image: &str, manifest: &Digest) -> String {
    let image = Value::String(image.to_owned());
    format!("{{\"image\":{image}, \"digest\":\"{manifest}\"}}")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Only where there is no socket is there no agent: if it can't be seen, the pull fails.
    #[test]
    fn an_agent_that_cannot_be_seen_fails_the_pull() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "").unwrap();
        let measure = |path: &str| measure(&dir.path().join(path), "a", &Digest::of(b""));
        assert_eq!(measure("none"), Ok(Measured::NoAgent));
        assert_eq!(measure("none/sock"), Ok(Measured::NoAgent));
        let failure = measure("file/sock").unwrap_err();
        assert!(failure.message.contains("file/sock"), "{failure}");
    }

    /// A verifier that knows the stock component's event finds this one.
    #[test]
    fn the_event_is_the_stock_one() {
        let digest = Digest::of(b"");
        let expected = format!("{{\"image\":\"r.example/a:1\", \"digest\":\"{digest}\"}}");
        assert_eq!(content("r.example/a:1", &digest), expected);
        assert_eq!(
            content("a\"", &digest),
            format!("{{\"image\":\"a\\\"\", \"digest\":\"{digest}\"}}")
        );
    }
}
