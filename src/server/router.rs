// SPDX-License-Identifier: Apache-2.0

//! From one frame to its answer: which method is meant, and what is said if there is none.

use std::collections::HashMap;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use protobuf::Message as _;
use tracing::{debug, error, info, warn};
use ttrpc::asynchronous::{Service, TtrpcContext};
use ttrpc::proto::MESSAGE_TYPE_REQUEST;
use ttrpc::{Code, MessageHeader, Request, Response, Status, get_status};
use zeroize::Zeroize as _;

use crate::rate::{CHANGES, Rate};
use crate::server::call::{self, Consequence};
use crate::server::ledger::{Ledger, Record};
use crate::server::limits::MAX_MESSAGE_BYTES;
use crate::server::peer::Peer;
use crate::text::Clean;

/// The services of one socket.
pub struct Router {
    services: HashMap<String, Service>,
    ledger: Arc<Ledger>,
    before_batch: Box<dyn Fn() + Send + Sync>,
}

impl Router {
    /// Serves `services`, and notes in `ledger` what was answered. `before_batch` is called after requests were read and before they are
    /// answered: there the answers are brought up to date.
    pub fn new(
        services: HashMap<String, Service>,
        ledger: Arc<Ledger>,
        before_batch: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Self {
            services,
            ledger,
            before_batch: Box::new(before_batch),
        }
    }

    /// To be called when requests were read and none of them is answered.
    pub fn before_batch(&self) {
        (self.before_batch)();
    }

    /// The answer to the frame of this header and body.
    pub async fn answer(&self, header: MessageHeader, body: &[u8], peer: Peer) -> Response {
        let start = Instant::now();
        let (request, result) = match check(header).and_then(|()| decode(body)) {
            Ok(request) => {
                let method = format!("/{}/{}", request.service, request.method);
                let (result, notes) = call::run(self.call(header, request)).await;
                (Some((method, notes)), result)
            }
            Err(status) => (None, Err(status)),
        };
        let response = within_cap(result.unwrap_or_else(refusal));
        let (method, notes) = request.unwrap_or_default();
        // The text of a refusal names no value.
        let status = response.status();
        let reason = if status.message.is_empty() { "" } else { ": " };
        debug!(
            "request from {peer}: {} {} {:?} in {} µs{reason}{}",
            Clean(&method),
            notes.subject.as_deref().unwrap_or("-"),
            status.code(),
            start.elapsed().as_micros(),
            status.message,
        );
        if let Some(consequence) = notes.consequence {
            explain(peer, &consequence);
        }
        if !notes.is_private {
            self.ledger.record(Record {
                peer,
                method,
                subject: notes.subject.unwrap_or_default(),
                outcome: status.code(),
                at: Instant::now(),
            });
        }
        response
    }

    /// The answer to a frame whose body was too large to be read.
    pub fn oversized(&self, length: u32, peer: Peer) -> Response {
        debug!("request from {peer}: a frame of {length} bytes is refused");
        self.ledger.record(Record {
            peer,
            method: String::new(),
            subject: String::new(),
            outcome: Code::RESOURCE_EXHAUSTED,
            at: Instant::now(),
        });
        refusal(get_status(
            Code::RESOURCE_EXHAUSTED,
            format!("the request has {length} bytes; ttrpc's cap is {MAX_MESSAGE_BYTES}"),
        ))
    }

    async fn call(&self, header: MessageHeader, request: Request) -> Result<Response, Status> {
        let Some(service) = self.services.get(&request.service) else {
            let mut known: Vec<_> = self.services.keys().map(String::as_str).collect();
            known.sort_unstable();
            return Err(get_status(
                Code::UNIMPLEMENTED,
                format!(
                    "no service {} on this socket; it has {}",
                    Clean(&request.service),
                    known.join(", ")
                ),
            ));
        };
        let Some(method) = service.methods.get(&request.method) else {
            return Err(get_status(
                Code::UNIMPLEMENTED,
                format!(
                    "no method {} in {}",
                    Clean(&request.method),
                    request.service
                ),
            ));
        };
        let context = TtrpcContext {
            mh: header,
            timeout_nano: request.timeout_nano,
            ..TtrpcContext::default()
        };
        match catch(method.handler(context, request)).await {
            Some(Ok(response)) => Ok(response),
            Some(Err(ttrpc::Error::RpcStatus(status))) => Err(status),
            // All that the generated code itself finds wrong is a payload that does not decode.
            Some(Err(_)) => Err(get_status(
                Code::INVALID_ARGUMENT,
                "the request's payload does not decode",
            )),
            None => {
                static PANICS: Rate = Rate::new(1);
                if let Some(before) = PANICS.now() {
                    error!("a bug: a request made its handler panic; the daemon goes on{before}");
                }
                Err(get_status(
                    Code::INTERNAL,
                    "a bug in offline-fs-kbc; its log has the place",
                ))
            }
        }
    }
}

/// Logs what an answer makes the client do: clients themselves don't say it.
fn explain(peer: Peer, consequence: &Consequence) {
    static EXPLAINED: Rate = Rate::new(CHANGES);
    let Some(before) = EXPLAINED.now() else {
        return;
    };
    let (peer, text) = (peer.describe(), &consequence.text);
    if consequence.is_warning {
        warn!("{peer} {text}{before}");
    } else {
        info!("{peer} {text}{before}");
    }
}

fn check(header: MessageHeader) -> Result<(), Status> {
    let what = if header.type_ != MESSAGE_TYPE_REQUEST {
        format!("a frame of type {}; only requests are served", header.type_)
    } else if header.stream_id % 2 == 0 {
        format!("stream id {} is even; a client's are odd", header.stream_id)
    } else {
        return Ok(());
    };
    Err(get_status(Code::INVALID_ARGUMENT, what))
}

fn decode(body: &[u8]) -> Result<Request, Status> {
    Request::parse_from_bytes(body).map_err(|_| {
        get_status(
            Code::INVALID_ARGUMENT,
            "the frame does not decode as a ttrpc request",
        )
    })
}

fn refusal(status: Status) -> Response {
    let mut response = Response::new();
    response.set_status(status);
    response
}

/// The response, or a refusal where it is larger than what a client takes.
fn within_cap(mut response: Response) -> Response {
    let size = response.compute_size();
    if size <= MAX_MESSAGE_BYTES as u64 {
        return response;
    }
    response.payload.zeroize();
    refusal(get_status(
        Code::RESOURCE_EXHAUSTED,
        format!("the answer has {size} bytes; ttrpc's cap is {MAX_MESSAGE_BYTES}"),
    ))
}

/// The output of `future`, or none if it panics.
async fn catch<F: Future>(future: F) -> Option<F::Output> {
    let mut future = pin!(future);
    poll_fn(
        |context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
            Ok(poll) => poll.map(Some),
            Err(_) => Poll::Ready(None),
        },
    )
    .await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic, clippy::unwrap_used)]
    use super::*;
    use async_trait::async_trait;
    use ttrpc::asynchronous::MethodHandler;

    struct Panics;

    #[async_trait]
    impl MethodHandler for Panics {
        async fn handler(&self, _: TtrpcContext, _: Request) -> ttrpc::Result<Response> {
            panic!("for the test");
        }
    }

    /// A bug in one request is that request's alone.
    #[tokio::test]
    async fn a_panic_is_answered() {
        let methods = HashMap::from([("M".to_owned(), Box::new(Panics) as _)]);
        let streams = HashMap::new();
        let services = HashMap::from([("s".to_owned(), Service { methods, streams })]);
        let router = Router::new(services, Arc::default(), || {});
        let request = Request {
            service: "s".to_owned(),
            method: "M".to_owned(),
            ..Request::default()
        };
        let body = request.write_to_bytes().unwrap();
        let header = MessageHeader::new_request(1, body.len() as u32);
        let response = router.answer(header, &body, Peer::default()).await;
        assert_eq!(response.status.code(), Code::INTERNAL);
    }
}
