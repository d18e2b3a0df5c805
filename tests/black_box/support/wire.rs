// SPDX-License-Identifier: Apache-2.0

//! Frames made by hand, and the ttrpc crate's client.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;

use offline_fs_kbc::proto::api::{UnsealSecretInput, UnsealSecretOutput};
use offline_fs_kbc::proto::getresource::{GetResourceRequest, GetResourceResponse};
use protobuf::Message;
use ttrpc::{Code, Request, Response};

use super::PATIENCE;

/// kata-agent's image-rs 0.5.1 asking for the credential.
pub const RECORDED_G2: &[u8] =
    include_bytes!("../../vectors/g2-image-rs-0.5.1-getresource.request.bin");

/// image-rs 0.10.0 asking for the credential.
pub const RECORDED_G3: &[u8] =
    include_bytes!("../../vectors/g3-image-rs-0.10.0-getresource.request.bin");

/// The kata-agent of CC-0.8.0 asking for the plaintext of a sealed secret, without `sealed.`.
pub const RECORDED_SEALED: &[u8] =
    include_bytes!("../../vectors/g3-kata-cc-0.8.0-unsealsecret.request.bin");

pub const SERVICE: &str = "getresource.GetResourceService";

/// A frame of a type with any body.
pub fn frame(kind: u8, stream_id: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap();
    let mut frame = length.to_be_bytes().to_vec();
    frame.extend(stream_id.to_be_bytes());
    frame.extend([kind, 0]);
    frame.extend(body);
    frame
}

/// A request of any service and method.
pub fn request_frame(stream_id: u32, service: &str, method: &str, payload: Vec<u8>) -> Vec<u8> {
    let request = Request {
        service: service.to_owned(),
        method: method.to_owned(),
        payload,
        timeout_nano: 50_000_000_000,
        ..Request::default()
    };
    frame(1, stream_id, &request.write_to_bytes().unwrap())
}

/// The three fields that both generations fill.
pub fn fields(first: &str, second: &str, third: &str) -> GetResourceRequest {
    GetResourceRequest {
        ResourcePath: first.to_owned(),
        KbcName: second.to_owned(),
        KbsUri: third.to_owned(),
        ..GetResourceRequest::default()
    }
}

/// A request as image-rs 0.3 and 0.4 make it.
pub fn g1(name: &str) -> GetResourceRequest {
    let description = format!("{{\"name\":{name:?},\"optional\":{{}}}}");
    fields("offline_fs_kbc", "null", &description)
}

/// A request as image-rs 0.5 to 0.7 make it.
pub fn g2(path: &str) -> GetResourceRequest {
    fields(path, "offline_fs_kbc", "localhost")
}

/// A frame that asks for a resource.
pub fn get_frame(stream_id: u32, request: &GetResourceRequest) -> Vec<u8> {
    request_frame(
        stream_id,
        SERVICE,
        "GetResource",
        request.write_to_bytes().unwrap(),
    )
}

/// A connection on which bytes are written and frames read.
pub struct Wire(pub UnixStream);

impl Wire {
    pub fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).unwrap();
    }

    /// The next frame's header and body.
    pub fn receive_raw(&mut self) -> ([u8; 10], Vec<u8>) {
        let mut header = [0; 10];
        self.0.read_exact(&mut header).unwrap();
        let length = u32::from_be_bytes(header[..4].try_into().unwrap());
        let mut body = vec![0; length as usize];
        self.0.read_exact(&mut body).unwrap();
        (header, body)
    }

    /// The next response, with its stream id.
    pub fn receive(&mut self) -> (u32, Response) {
        let (header, body) = self.receive_raw();
        assert_eq!(header[8..], [2, 0], "not a response without flags");
        let stream_id = u32::from_be_bytes(header[4..8].try_into().unwrap());
        (stream_id, Response::parse_from_bytes(&body).unwrap())
    }

    /// The answer to one frame: the resource, or the status.
    pub fn ask(&mut self, frame: &[u8]) -> Result<Vec<u8>, (Code, String)> {
        self.send(frame);
        outcome(&self.receive().1)
    }

    /// Whether the daemon closed the connection.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.0.read(&mut [0]), Ok(0) | Err(_))
    }
}

/// The resource of a response, or its status.
pub fn outcome(response: &Response) -> Result<Vec<u8>, (Code, String)> {
    let status = response.status.as_ref().expect("a response has a status");
    if status.code() != Code::OK {
        return Err((status.code(), status.message.clone()));
    }
    let resource = GetResourceResponse::parse_from_bytes(&response.payload).unwrap();
    Ok(resource.Resource)
}

/// Asks on a connection of its own, by hand-made frames.
pub fn get(socket: &Path, request: &GetResourceRequest) -> Result<Vec<u8>, (Code, String)> {
    Wire::connect(socket).ask(&get_frame(1, request))
}

/// Asks by the ttrpc crate's client, which kata-agent uses.
pub fn get_by_client(
    socket: &Path,
    request: &GetResourceRequest,
) -> Result<Vec<u8>, (Code, String)> {
    let response: GetResourceResponse = call(socket, SERVICE, "GetResource", request)?;
    Ok(response.Resource)
}

/// Opens a sealed secret on cdh.sock.
pub fn unseal(socket: &Path, secret: &str) -> Result<Vec<u8>, (Code, String)> {
    let request = UnsealSecretInput {
        secret: secret.as_bytes().to_vec(),
        ..UnsealSecretInput::default()
    };
    let answer: UnsealSecretOutput =
        call(socket, "api.SealedSecretService", "UnsealSecret", &request)?;
    Ok(answer.plaintext)
}

/// Calls any method by the ttrpc crate's client.
pub fn call<A: Message>(
    socket: &Path,
    service: &str,
    method: &str,
    request: &impl Message,
) -> Result<A, (Code, String)> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let address = format!("unix://{}", socket.display());
    let request = Request {
        service: service.to_owned(),
        method: method.to_owned(),
        timeout_nano: 50_000_000_000,
        payload: request.write_to_bytes().unwrap(),
        ..Request::default()
    };
    runtime.block_on(async {
        let client = ttrpc::asynchronous::Client::connect(&address)
            .await
            .unwrap();
        match client.request(request).await {
            Ok(response) => Ok(A::parse_from_bytes(&response.payload).unwrap()),
            Err(ttrpc::Error::RpcStatus(status)) => Err((status.code(), status.message)),
            Err(error) => panic!("{error}"),
        }
    })
}
