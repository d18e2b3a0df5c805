// SPDX-License-Identifier: Apache-2.0

//! `attestation-agent.sock`: the socket answers, and nothing on it is faked.

use offline_fs_kbc::proto::attestation_agent::{
    BindInitDataRequest, BindInitDataResponse, ExtendRuntimeMeasurementRequest,
    ExtendRuntimeMeasurementResponse, GetAdditionalTeesRequest, GetAdditionalTeesResponse,
    GetEvidenceRequest, GetEvidenceResponse, GetTeeTypeRequest, GetTeeTypeResponse,
    RuntimeMeasurementResult,
};
use std::fs;

use ttrpc::Code;

use crate::support::daemon::{Daemon, Root};
use crate::support::wire::call;

const SERVICE: &str = "attestation_agent.AttestationAgentService";

/// The stock confidential-data-hub calls this after each pull: an error would fail the pull, and this answer
/// does not.
#[test]
fn a_measurement_is_not_supported_as_a_result() {
    let root = Root::new();
    let _daemon = Daemon::start(root.serve(), &root.socket_called("attestation-agent.sock"));
    for index in [None, Some(17)] {
        let answer: ExtendRuntimeMeasurementResponse = call(
            &root.socket_called("attestation-agent.sock"),
            SERVICE,
            "ExtendRuntimeMeasurement",
            &ExtendRuntimeMeasurementRequest {
                Domain: "github.com/confidential-containers".to_owned(),
                Operation: "PullImage".to_owned(),
                Content: "{}".to_owned(),
                RegisterIndex: index,
                ..ExtendRuntimeMeasurementRequest::default()
            },
        )
        .unwrap();
        assert_eq!(
            answer.Result.enum_value(),
            Ok(RuntimeMeasurementResult::NOT_SUPPORTED)
        );
    }
}

/// Every other method is refused with the reason.
#[test]
fn everything_else_is_refused_with_the_reason() {
    let root = Root::new();
    let _daemon = Daemon::start(root.serve(), &root.socket_called("attestation-agent.sock"));
    let socket = root.socket_called("attestation-agent.sock");
    for method in ["GetEvidence", "GetAdditionalEvidence", "GetToken"] {
        let answer: Result<GetEvidenceResponse, _> =
            call(&socket, SERVICE, method, &GetEvidenceRequest::default());
        let (code, text) = answer.expect_err(method);
        assert_eq!(code, Code::UNIMPLEMENTED, "{method}");
        assert!(text.contains("attests nothing"), "{method}: {text}");
    }
    let bound: Result<BindInitDataResponse, _> = call(
        &socket,
        SERVICE,
        "BindInitData",
        &BindInitDataRequest::default(),
    );
    let (code, text) = bound.expect_err("bound");
    assert_eq!(code, Code::UNIMPLEMENTED);
    assert!(text.contains("no binding of initdata"), "{text}");
}

/// api-server-rest asks both for /info, and drops its caller's connection if either fails. The answer is what the kernel
/// shows at that moment, in the upstream agent's words; the unit's sandbox hides /dev, so it is not looked for there.
#[test]
fn the_tee_is_what_the_kernel_shows() {
    let root = Root::new();
    let _daemon = Daemon::start(root.serve(), &root.socket_called("attestation-agent.sock"));
    let socket = root.socket_called("attestation-agent.sock");
    let tee = || {
        let request = GetTeeTypeRequest::default();
        let answer: GetTeeTypeResponse = call(&socket, SERVICE, "GetTeeType", &request).unwrap();
        answer.tee
    };
    fs::create_dir_all(root.path("dev/tdx_guest")).unwrap();
    assert_eq!(tee(), "sample");
    for (path, name) in [
        ("sys/class/misc/tdx_guest", "tdx"),
        ("sys/devices/platform/sev-guest", "snp"),
        ("sys/class/misc/csv-guest", "csv"),
        ("sys/devices/platform/arm-cca-dev", "cca"),
    ] {
        fs::create_dir_all(root.path(path)).unwrap();
        assert_eq!(tee(), name, "{path}");
        fs::remove_dir(root.path(path)).unwrap();
    }
    fs::create_dir_all(root.path("sys/firmware/uv")).unwrap();
    for (text, name) in [("0\n", "sample"), ("1\n", "se"), ("", "sample")] {
        fs::write(root.path("sys/firmware/uv/prot_virt_guest"), text).unwrap();
        assert_eq!(tee(), name, "{text:?}");
    }
    let request = GetAdditionalTeesRequest::default();
    let answer: GetAdditionalTeesResponse =
        call(&socket, SERVICE, "GetAdditionalTees", &request).unwrap();
    assert!(answer.additional_tees.is_empty());
}
