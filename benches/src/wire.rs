// SPDX-License-Identifier: Apache-2.0

//! The bytes of requests for a resource and of their answers.

use std::path::Path;
use std::time::Duration;

use offline_fs_kbc::proto::api::ImagePullRequest;
use offline_fs_kbc::proto::getresource::{GetResourceRequest, GetResourceResponse};
use protobuf::Message;
use ttrpc::{Code, Request, Response};

/// The length of a frame's header.
pub const HEADER: usize = 10;

/// The deadline of requests for resources, as kata-agent has it.
const DEADLINE: Duration = Duration::from_secs(50);

/// A frame that asks for a resource as kata-agent of late 2023 does.
pub fn request(path: &str) -> Vec<u8> {
    call("getresource.GetResourceService", path)
}

/// The same for any service, such as an unknown one.
pub fn call(service: &str, path: &str) -> Vec<u8> {
    let asked = GetResourceRequest {
        ResourcePath: path.to_owned(),
        KbcName: "offline_fs_kbc".to_owned(),
        KbsUri: "localhost".to_owned(),
        ..GetResourceRequest::default()
    };
    frame(service, "GetResource", &asked, DEADLINE)
}

/// A frame that asks for an image as kata-agent does.
pub fn pull_image(image: &str, bundle: &Path, deadline: Duration) -> Vec<u8> {
    let asked = ImagePullRequest {
        image_url: image.to_owned(),
        bundle_path: bundle.display().to_string(),
        ..ImagePullRequest::default()
    };
    frame("api.ImagePullService", "PullImage", &asked, deadline)
}

fn frame(service: &str, method: &str, asked: &impl Message, deadline: Duration) -> Vec<u8> {
    let request = Request {
        service: service.to_owned(),
        method: method.to_owned(),
        payload: asked.write_to_bytes().expect("a message encodes"),
        timeout_nano: i64::try_from(deadline.as_nanos()).expect("a short time"),
        ..Request::default()
    };
    let body = request.write_to_bytes().expect("a message encodes");
    let length = u32::try_from(body.len()).expect("a short message");
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend(1u32.to_be_bytes());
    frame.extend([1, 0]);
    frame.extend(body);
    frame
}

/// The length of a frame that answers with a resource of this number of bytes.
pub fn answer_bytes(bytes: usize) -> usize {
    let answer = GetResourceResponse {
        Resource: vec![0; bytes],
        ..GetResourceResponse::default()
    };
    let mut response = Response {
        payload: answer.write_to_bytes().expect("a message encodes"),
        ..Response::default()
    };
    // A successful answer has an empty status.
    response.mut_status();
    let body = response.compute_size();
    HEADER + usize::try_from(body).expect("a size")
}

/// The length of the body after this header.
pub fn body_length(header: &[u8; HEADER]) -> usize {
    let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
    length as usize
}

/// Whether an answer's body says that the call was done; otherwise its code and message.
///
/// # Errors
///
/// If the body is no answer.
pub fn status(body: &[u8]) -> protobuf::Result<Result<(), (Code, String)>> {
    let status = Response::parse_from_bytes(body)?.status.unwrap_or_default();
    Ok(match status.code() {
        Code::OK => Ok(()),
        code => Err((code, status.message)),
    })
}

/// The resource in an answer's body, or the code of the refusal.
pub fn resource(body: &[u8]) -> Result<Vec<u8>, Code> {
    let response = Response::parse_from_bytes(body).expect("a response");
    let code = response.status.as_ref().map_or(Code::OK, |s| s.code());
    if code != Code::OK {
        return Err(code);
    }
    let answer = GetResourceResponse::parse_from_bytes(&response.payload);
    Ok(answer.expect("an answer").Resource)
}
