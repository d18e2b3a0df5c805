// SPDX-License-Identifier: Apache-2.0

//! Answers one frame: finds the method, calls it, or refuses the request.

use std::collections::BTreeSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use protobuf::Message as _;
use tracing::{debug, error, info, warn};
use ttrpc::proto::MESSAGE_TYPE_REQUEST;
use ttrpc::{Code, MessageHeader, Request, Response, Status, get_status};

use crate::rate::{CHANGES_PER_PERIOD, RateLimit};
use crate::server::later::Pending;
use crate::server::limits::MAX_MESSAGE_BYTES;
use crate::server::method::{Consequence, Later, Method, Notes, Result};
use crate::server::output::Output;
use crate::server::peer::Peer;
use crate::server::request_log::{Record, RequestLog};
use crate::text::Escaped;

/// The services of one socket.
pub struct Router {
    /// There are few enough for a linear search.
    methods: Vec<Method>,
    request_log: Arc<RequestLog>,
    refresh: Box<dyn Fn() + Send + Sync>,
    /// The number of reads.
    reads: AtomicU64,
    /// How many of these reads came before the last refresh.
    refreshed: AtomicU64,
}

impl Router {
    /// Serves `methods`, and records the requests in `request_log`. `refresh` is called after requests were
    /// read and before they are answered; it reloads files that changed.
    pub fn new(
        methods: Vec<Method>,
        request_log: Arc<RequestLog>,
        refresh: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Self {
            methods,
            request_log,
            refresh: Box::new(refresh),
            reads: AtomicU64::new(0),
            refreshed: AtomicU64::new(0),
        }
    }

    /// To be called after requests were read. Returns the number to pass to [`Router::refresh_after`] before
    /// they are answered.
    pub fn note_read(&self) -> u64 {
        self.reads.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Calls `refresh` unless it was called after this read: one check of the files serves all connections
    /// that had read by then.
    pub fn refresh_after(&self, read: u64) {
        if self.refreshed.load(Ordering::Relaxed) < read {
            let reads = self.reads.load(Ordering::Relaxed);
            (self.refresh)();
            self.refreshed.store(reads, Ordering::Relaxed);
        }
    }

    /// Answers the frame with this header and body, or gives the request if its answer comes later.
    ///
    /// # Errors
    ///
    /// If there is no memory even for a refusal.
    pub fn answer(
        &self,
        header: MessageHeader,
        body: &[u8],
        peer: Peer,
        output: &mut Output,
    ) -> io::Result<Option<Pending>> {
        let since = Instant::now();
        let mut notes = Notes::default();
        let (method, result) = match check(header).and_then(|()| decode(body)) {
            Ok(request) => match self.find(&request) {
                Ok(method) => {
                    let before = output.len();
                    let result = call(method, header, &request, &mut notes, output);
                    if result.is_err() {
                        output.cut(before);
                    }
                    (Arc::clone(&method.path), result)
                }
                Err(status) => {
                    let path = format!("/{}/{}", request.service, request.method);
                    (path.into(), Err(status))
                }
            },
            Err(status) => (Arc::default(), Err(status)),
        };
        let mut record = Record {
            peer,
            method,
            subject: notes.subject,
            outcome: Code::OK,
            at: since,
        };
        let (pending, refused) = match result {
            Ok(Some(work)) => (Some(work), None),
            Ok(None) => (None, None),
            Err(status) => (None, Some(status)),
        };
        if let Some(work) = pending {
            debug!(
                "request from {peer}: {} {}",
                Escaped(&record.method),
                record.subject
            );
            return Ok(Some(Pending {
                stream_id: header.stream_id,
                since,
                record,
                work,
            }));
        }
        record.outcome = refused.as_ref().map_or(Code::OK, Status::code);
        log(&record, since, refused.as_ref());
        if let Some(consequence) = notes.consequence {
            log_consequence(peer, &consequence);
        }
        if !notes.is_unlogged {
            self.request_log.record(record);
        }
        if let Some(status) = refused {
            output.refuse(header.stream_id, status)?;
        }
        Ok(None)
    }

    /// Answers a request that was worked on.
    ///
    /// # Errors
    ///
    /// If there is no memory for the answer.
    pub fn finish(
        &self,
        mut pending: Pending,
        response: &Response,
        output: &mut Output,
    ) -> io::Result<()> {
        pending.record.at = Instant::now();
        pending.record.outcome = response.status.code();
        log(&pending.record, pending.since, response.status.as_ref());
        self.request_log.record(pending.record);
        output.respond(pending.stream_id, response)
    }

    /// Refuses a frame whose body was too large to be read.
    ///
    /// # Errors
    ///
    /// If there is no memory for the refusal.
    pub fn oversized(
        &self,
        header: MessageHeader,
        peer: Peer,
        output: &mut Output,
    ) -> io::Result<()> {
        let length = header.length;
        debug!("request from {peer}: refused a frame of {length} bytes");
        self.request_log.record(Record {
            peer,
            method: Arc::default(),
            subject: Default::default(),
            outcome: Code::RESOURCE_EXHAUSTED,
            at: Instant::now(),
        });
        let text = format!("the request has {length} bytes; ttrpc's limit is {MAX_MESSAGE_BYTES}");
        output.refuse(header.stream_id, get_status(Code::RESOURCE_EXHAUSTED, text))
    }

    fn find(&self, request: &Request) -> Result<&Method> {
        let mut methods = self.methods.iter();
        let asked = methods
            .find(|method| method.name == request.method && method.service == request.service);
        asked.ok_or_else(|| {
            let known: BTreeSet<_> = self.methods.iter().map(|method| method.service).collect();
            let text = if known.contains(&*request.service) {
                format!(
                    "no method {} in {}",
                    Escaped(&request.method),
                    request.service
                )
            } else {
                let known: Vec<_> = known.into_iter().collect();
                format!(
                    "no service {} on this socket; it has {}",
                    Escaped(&request.service),
                    known.join(", ")
                )
            };
            get_status(Code::UNIMPLEMENTED, text)
        })
    }
}

/// Calls the method. If it panics, only this request fails.
fn call(
    method: &Method,
    header: MessageHeader,
    request: &Request,
    notes: &mut Notes,
    output: &mut Output,
) -> Result<Option<Later>> {
    let reply = output.reply(header.stream_id);
    let called = AssertUnwindSafe(|| method.call(request, notes, reply));
    catch_unwind(called).unwrap_or_else(|_| {
        static PANICS: RateLimit = RateLimit::new(1);
        if let Some(suppressed) = PANICS.allow() {
            error!("a bug: the handler of a request panicked; the daemon goes on{suppressed}");
        }
        Err(get_status(
            Code::INTERNAL,
            "a bug in offline-fs-kbc; its log says where",
        ))
    })
}

/// Logs a request with its outcome. The text of a refusal has no secret in it.
fn log(record: &Record, since: Instant, status: Option<&Status>) {
    let reason = status.map_or("", |status| &*status.message);
    debug!(
        "request from {}: {} {} {:?} in {} µs{}{reason}",
        record.peer,
        Escaped(&record.method),
        record.subject,
        record.outcome,
        since.elapsed().as_micros(),
        if reason.is_empty() { "" } else { ": " },
    );
}

/// Logs what an answer makes the client do, since clients do not log it themselves.
fn log_consequence(peer: Peer, consequence: &Consequence) {
    static LIMIT: RateLimit = RateLimit::new(CHANGES_PER_PERIOD);
    let Some(suppressed) = LIMIT.allow() else {
        return;
    };
    let (peer, text) = (peer.describe(), &consequence.text);
    if consequence.is_warning {
        warn!("{peer} {text}{suppressed}");
    } else {
        info!("{peer} {text}{suppressed}");
    }
}

fn check(header: MessageHeader) -> Result<()> {
    let what = if header.type_ != MESSAGE_TYPE_REQUEST {
        format!(
            "a frame of type {}; only requests are accepted",
            header.type_
        )
    } else if header.stream_id % 2 == 0 {
        format!("stream id {} is even; a client's are odd", header.stream_id)
    } else {
        return Ok(());
    };
    Err(get_status(Code::INVALID_ARGUMENT, what))
}

fn decode(body: &[u8]) -> std::result::Result<Request, Status> {
    Request::parse_from_bytes(body).map_err(|_| {
        get_status(
            Code::INVALID_ARGUMENT,
            "the frame does not decode as a ttrpc request",
        )
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic, clippy::unwrap_used)]
    use super::*;
    use crate::proto::getresource::{GetResourceRequest, GetResourceResponse};
    use ttrpc::proto::MESSAGE_HEADER_LENGTH;

    /// One check of the files serves the requests read before it, and none that are read after it.
    #[test]
    fn one_refresh_serves_all_reads_before_it() {
        let refreshes = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&refreshes);
        let router = Router::new(Vec::new(), Arc::default(), move || {
            counted.fetch_add(1, Ordering::Relaxed);
        });
        let (one, two) = (router.note_read(), router.note_read());
        router.refresh_after(two);
        router.refresh_after(one);
        assert_eq!(refreshes.load(Ordering::Relaxed), 1);
        let three = router.note_read();
        router.refresh_after(two);
        assert_eq!(refreshes.load(Ordering::Relaxed), 1);
        router.refresh_after(three);
        assert_eq!(refreshes.load(Ordering::Relaxed), 2);
    }

    /// A panic fails only the request that caused it.
    #[test]
    fn a_panic_is_answered() {
        let panics = |_: GetResourceRequest, _: &mut Notes| -> Result<GetResourceResponse> {
            panic!("for the test")
        };
        let router = Router::new(vec![Method::new("s", "M", panics)], Arc::default(), || {});
        let request = Request {
            service: "s".to_owned(),
            method: "M".to_owned(),
            ..Request::default()
        };
        let body = request.write_to_bytes().unwrap();
        let header = MessageHeader::new_request(1, body.len() as u32);
        let mut output = Output::default();
        router
            .answer(header, &body, Peer::default(), &mut output)
            .unwrap();
        let body = &output.bytes()[MESSAGE_HEADER_LENGTH..];
        let response = Response::parse_from_bytes(body).unwrap();
        assert_eq!(response.status.code(), Code::INTERNAL);
    }
}
