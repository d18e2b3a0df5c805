// SPDX-License-Identifier: Apache-2.0

//! `attestation_agent.AttestationAgentService`: systemd units and confidential-data-hub wait for this
//! service. This daemon attests and measures nothing, and fakes nothing.

use protobuf::Message;

use crate::proto::attestation_agent::{
    BindInitDataRequest, ExtendRuntimeMeasurementRequest, ExtendRuntimeMeasurementResponse,
    GetAdditionalEvidenceRequest, GetAdditionalTeesRequest, GetEvidenceRequest, GetTeeTypeRequest,
    GetTokenRequest, RuntimeMeasurementResult,
};
use crate::rpc::status;
use crate::server::method::{Method, Notes, Result};

const SERVICE: &str = "attestation_agent.AttestationAgentService";

/// The service.
pub fn service() -> Vec<Method> {
    let evidence = "no evidence";
    vec![
        refused::<GetEvidenceRequest>("GetEvidence", evidence),
        refused::<GetAdditionalEvidenceRequest>("GetAdditionalEvidence", evidence),
        refused::<GetTokenRequest>("GetToken", "no token"),
        Method::new(SERVICE, "ExtendRuntimeMeasurement", extend),
        refused::<BindInitDataRequest>("BindInitData", "no binding of initdata"),
        refused::<GetTeeTypeRequest>("GetTeeType", "no TEE type"),
        refused::<GetAdditionalTeesRequest>("GetAdditionalTees", "no TEEs"),
    ]
}

/// The stock confidential-data-hub calls this after each pull. An error would fail the pull, so the answer is
/// the truth, "not supported", which it accepts.
fn extend(
    _request: ExtendRuntimeMeasurementRequest,
    _notes: &mut Notes,
) -> Result<ExtendRuntimeMeasurementResponse> {
    Ok(ExtendRuntimeMeasurementResponse {
        Result: RuntimeMeasurementResult::NOT_SUPPORTED.into(),
        ..ExtendRuntimeMeasurementResponse::default()
    })
}

/// A method that refuses each request that decodes.
fn refused<Q: Message>(name: &'static str, what: &'static str) -> Method {
    Method::refused(SERVICE, name, move |_: Q, _| {
        status::unimplemented(format_args!(
            "{what}: offline-fs-kbc serves secrets from files and attests nothing; run the upstream \
             attestation-agent where attestation is needed"
        ))
    })
}
