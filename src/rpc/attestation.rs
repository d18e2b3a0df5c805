// SPDX-License-Identifier: Apache-2.0

//! `attestation_agent.AttestationAgentService`: what units and confidential-data-hub wait for. Nothing
//! is attested or measured here, and nothing is faked.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;
use ttrpc::asynchronous::{Service, TtrpcContext};

use crate::proto::attestation_agent::{
    BindInitDataRequest, BindInitDataResponse, ExtendRuntimeMeasurementRequest,
    ExtendRuntimeMeasurementResponse, GetAdditionalEvidenceRequest, GetAdditionalTeesRequest,
    GetAdditionalTeesResponse, GetEvidenceRequest, GetEvidenceResponse, GetTeeTypeRequest,
    GetTeeTypeResponse, GetTokenRequest, GetTokenResponse, RuntimeMeasurementResult,
};
use crate::proto::attestation_agent_ttrpc::{
    AttestationAgentService, create_attestation_agent_service,
};
use crate::rpc::status;

/// The service.
pub fn service() -> HashMap<String, Service> {
    create_attestation_agent_service(Arc::new(Attestation))
}

struct Attestation;

fn refuse<T>(what: &str) -> ttrpc::Result<T> {
    Err(status::unimplemented(format_args!(
        "{what}: offline-fs-kbc serves secrets from files and attests nothing; run the upstream \
         attestation-agent where attestation is needed"
    )))
}

#[async_trait]
impl AttestationAgentService for Attestation {
    async fn get_evidence(
        &self,
        _context: &TtrpcContext,
        _request: GetEvidenceRequest,
    ) -> ttrpc::Result<GetEvidenceResponse> {
        refuse("no evidence")
    }

    async fn get_additional_evidence(
        &self,
        _context: &TtrpcContext,
        _request: GetAdditionalEvidenceRequest,
    ) -> ttrpc::Result<GetEvidenceResponse> {
        refuse("no evidence")
    }

    async fn get_token(
        &self,
        _context: &TtrpcContext,
        _request: GetTokenRequest,
    ) -> ttrpc::Result<GetTokenResponse> {
        refuse("no token")
    }

    /// The stock confidential-data-hub asks this after each pull. An error would fail the pull; that it
    /// is not supported is the truth, and is accepted.
    async fn extend_runtime_measurement(
        &self,
        _context: &TtrpcContext,
        _request: ExtendRuntimeMeasurementRequest,
    ) -> ttrpc::Result<ExtendRuntimeMeasurementResponse> {
        Ok(ExtendRuntimeMeasurementResponse {
            Result: RuntimeMeasurementResult::NOT_SUPPORTED.into(),
            ..ExtendRuntimeMeasurementResponse::default()
        })
    }

    async fn bind_init_data(
        &self,
        _context: &TtrpcContext,
        _request: BindInitDataRequest,
    ) -> ttrpc::Result<BindInitDataResponse> {
        refuse("initdata is bound to nothing")
    }

    async fn get_tee_type(
        &self,
        _context: &TtrpcContext,
        _request: GetTeeTypeRequest,
    ) -> ttrpc::Result<GetTeeTypeResponse> {
        refuse("no TEE type")
    }

    async fn get_additional_tees(
        &self,
        _context: &TtrpcContext,
        _request: GetAdditionalTeesRequest,
    ) -> ttrpc::Result<GetAdditionalTeesResponse> {
        refuse("no TEEs")
    }
}
