// SPDX-License-Identifier: Apache-2.0

//! `attestation_agent.AttestationAgentService`: systemd units and confidential-data-hub wait for this
//! service, and api-server-rest asks it which TEE the VM runs in. This daemon attests and measures nothing, and fakes
//! nothing.

use protobuf::Message;

use crate::proto::attestation_agent::{
    BindInitDataRequest, ExtendRuntimeMeasurementRequest, ExtendRuntimeMeasurementResponse,
    GetAdditionalEvidenceRequest, GetEvidenceRequest, GetTeeTypeRequest, GetTeeTypeResponse,
    GetTokenRequest, RuntimeMeasurementResult,
};
use crate::rpc::status;
use crate::server::method::{Method, Notes, Result};

const SERVICE: &str = "attestation_agent.AttestationAgentService";

/// The service. `tee` gives the name of the TEE that the kernel shows.
///
/// The answers about TEEs are no attestation: they prove nothing to anybody, and nobody may rely on them. api-server-rest
/// drops its caller's connection if it gets no answer.
pub fn service<F>(tee: F) -> Vec<Method>
where
    F: Fn() -> &'static str + Send + Sync + 'static,
{
    let evidence = "no evidence";
    vec![
        refused::<GetEvidenceRequest>("GetEvidence", evidence),
        refused::<GetAdditionalEvidenceRequest>("GetAdditionalEvidence", evidence),
        refused::<GetTokenRequest>("GetToken", "no token"),
        Method::new(SERVICE, "ExtendRuntimeMeasurement", extend),
        refused::<BindInitDataRequest>("BindInitData", "no binding of initdata"),
        // It is asked for at each request, because the kernel's module may come after the daemon.
        tees("GetTeeType", Some(tee)),
        // There are none. Both empty answers, like both requests, are the same on the wire.
        tees::<F>("GetAdditionalTees", None),
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

/// A method that tells the name of a TEE, or none.
fn tees<F>(name: &'static str, tee: Option<F>) -> Method
where
    F: Fn() -> &'static str + Send + Sync + 'static,
{
    Method::new(SERVICE, name, move |_: GetTeeTypeRequest, _| {
        Ok(GetTeeTypeResponse {
            tee: tee.as_ref().map_or("", |tee| tee()).to_owned(),
            ..GetTeeTypeResponse::default()
        })
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
