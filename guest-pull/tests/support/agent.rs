// SPDX-License-Identifier: Apache-2.0

//! A stand-in for an attestation-agent, which tells what it was asked to measure.

use std::io::Write as _;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::{Duration, Instant};

use common::client::read_frame;
use common::proto::attestation_agent::{
    ExtendRuntimeMeasurementRequest, ExtendRuntimeMeasurementResponse,
};
use protobuf::{EnumOrUnknown, Message as _};
use ttrpc::proto::MESSAGE_TYPE_RESPONSE;
use ttrpc::{Code, MessageHeader, Request, Response, get_status};

/// For anything that a busy machine does in a moment.
const PATIENCE: Duration = Duration::from_secs(60);

/// What the agent does.
#[derive(Clone, Copy)]
pub enum Agent {
    Answers(i32),
    Refuses,
    /// Accepts the request, and never answers.
    #[allow(dead_code)]
    Silent,
}

/// An event, and how long its caller would wait for the answer, in seconds.
pub type Event = (String, String, String, i64);

/// Starts an agent at this socket.
pub fn agent(socket: &Path, does: Agent) -> Receiver<Event> {
    let listener = UnixListener::bind(socket).unwrap();
    let (send, events) = channel();
    thread::spawn(move || {
        let mut open = Vec::new();
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let frame = read_frame(&mut stream, Instant::now() + PATIENCE).unwrap();
            let (header, body) = frame.unwrap();
            let request = Request::parse_from_bytes(&body).unwrap();
            let event =
                ExtendRuntimeMeasurementRequest::parse_from_bytes(&request.payload).unwrap();
            let method = format!("{}/{}", request.service, request.method);
            let expected = "attestation_agent.AttestationAgentService/ExtendRuntimeMeasurement";
            assert_eq!(method, expected);
            assert_eq!(event.RegisterIndex, None);
            let seconds = request.timeout_nano / 1_000_000_000;
            let _ = send.send((event.Domain, event.Operation, event.Content, seconds));
            let mut response = Response::new();
            match does {
                Agent::Silent => {
                    open.push(stream);
                    continue;
                }
                Agent::Refuses => response.set_status(get_status(Code::INTERNAL, "no quote today")),
                Agent::Answers(number) => {
                    let answer = ExtendRuntimeMeasurementResponse {
                        Result: EnumOrUnknown::from_i32(number),
                        ..Default::default()
                    };
                    response.set_status(get_status(Code::OK, ""));
                    response.payload = answer.write_to_bytes().unwrap();
                }
            }
            let body = response.write_to_bytes().unwrap();
            let header = MessageHeader {
                length: body.len().try_into().unwrap(),
                stream_id: header.stream_id,
                type_: MESSAGE_TYPE_RESPONSE,
                flags: 0,
            };
            let frame = [Vec::from(header), body].concat();
            stream.write_all(&frame).unwrap();
        }
    });
    events
}
