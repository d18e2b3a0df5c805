// SPDX-License-Identifier: Apache-2.0

//! Requests to every method, with any payload: each gets one answer, and no refusal contains a value.
//!
//! The first byte selects the method; the rest is the payload.

#![no_main]

use libfuzzer_sys::fuzz_target;
use offline_fs_kbc_fuzz::{Daemon, MARK, assert_harmless, frame, unmarked};
use protobuf::Message as _;
use ttrpc::{Code, Request};

const METHODS: &[(&str, &str)] = &[
    ("getresource.GetResourceService", "GetResource"),
    ("api.GetResourceService", "GetResource"),
    ("keyprovider.KeyProviderService", "UnWrapKey"),
    ("keyprovider.KeyProviderService", "WrapKey"),
    ("api.SealedSecretService", "UnsealSecret"),
    ("api.SecureMountService", "SecureMount"),
    ("api.ImagePullService", "PullImage"),
    ("attestation_agent.AttestationAgentService", "GetEvidence"),
    ("attestation_agent.AttestationAgentService", "GetToken"),
    (
        "attestation_agent.AttestationAgentService",
        "ExtendRuntimeMeasurement",
    ),
    ("attestation_agent.AttestationAgentService", "BindInitData"),
    ("attestation_agent.AttestationAgentService", "GetTeeType"),
];

fuzz_target!(|input: &[u8]| {
    let Some((&first, payload)) = input.split_first() else {
        return;
    };
    let (service, method) = METHODS[usize::from(first) % METHODS.len()];
    let request = Request {
        service: service.to_owned(),
        method: method.to_owned(),
        // A refusal may show the requested name.
        payload: unmarked(payload),
        ..Request::default()
    };
    let body = request.write_to_bytes().expect("a request");
    let answers = Daemon::get().talk(&frame(1, &body), body.len() + 10);
    let [(1, response)] = &answers[..] else {
        panic!("{} answers", answers.len());
    };
    assert_harmless(response);
    // Only these methods return resources, and none returns a key of the keys file.
    let gives = ["GetResource", "UnsealSecret"].contains(&method);
    if response.status().code() == Code::OK && !gives {
        let said = response
            .payload
            .windows(MARK.len())
            .any(|part| part == MARK.as_bytes());
        assert!(!said, "a key is handed out");
    }
});
