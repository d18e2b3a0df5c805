// SPDX-License-Identifier: Apache-2.0

//! Requests whose answers take long: the connection goes on meanwhile, and each answer is sent when it is there.
//!
//! They belong to their connection. When that ends, so does the work on them, since nobody waits for the answers.

use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::task::Poll;
use std::time::Instant;

use ttrpc::{Code, Response, get_status};

use crate::server::method::Later;
use crate::server::request_log::Record;

/// A request that is being worked on.
pub struct Pending {
    /// The stream of its answer.
    pub stream_id: u32,
    /// When it was read.
    pub since: Instant,
    /// What goes into the request log with the outcome.
    pub record: Record,
    /// The work on it.
    pub work: Later,
}

/// The answer to a request whose work panicked.
fn bug() -> Response {
    let mut response = Response::new();
    let text = "a bug in offline-fs-kbc; its log says where";
    response.set_status(get_status(Code::INTERNAL, text));
    response
}

/// The requests of one connection that are being worked on.
#[derive(Default)]
pub struct Unanswered(Vec<Pending>);

impl Unanswered {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds one.
    pub fn push(&mut self, pending: Pending) {
        self.0.push(pending);
    }

    /// Takes one away whose answer is not there yet. The work on it ends.
    pub fn give_up(&mut self) -> Option<Pending> {
        self.0.pop()
    }

    /// Works on all of them until the answer to one is there. It waits for ever if there are none. It is safe to cancel
    /// this.
    pub async fn next(&mut self) -> (Pending, Response) {
        poll_fn(|context| {
            for at in 0..self.0.len() {
                let work = &mut self.0[at].work;
                // As in a method's call, a bug fails the request and not the connection.
                let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context)));
                match polled {
                    Ok(Poll::Pending) => {}
                    Ok(Poll::Ready(response)) => {
                        return Poll::Ready((self.0.swap_remove(at), response));
                    }
                    Err(_) => return Poll::Ready((self.0.swap_remove(at), bug())),
                }
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]
    use super::*;
    use crate::server::peer::Peer;
    use std::future::{pending, ready};

    fn pending_on(stream_id: u32, work: Later) -> Pending {
        Pending {
            stream_id,
            since: Instant::now(),
            record: Record {
                peer: Peer::default(),
                method: "/s/M".into(),
                subject: Default::default(),
                outcome: Code::OK,
                at: Instant::now(),
            },
            work,
        }
    }

    /// The answer that is there first comes first; a panic fails only its own request; what is not there is left, and can
    /// be given up.
    #[tokio::test]
    async fn answers_come_when_they_are_there() {
        let mut unanswered = Unanswered::default();
        unanswered.push(pending_on(1, Box::pin(pending())));
        unanswered.push(pending_on(3, Box::pin(async { panic!("for the test") })));
        unanswered.push(pending_on(5, Box::pin(ready(Response::new()))));
        for (stream_id, code) in [(3, Code::INTERNAL), (5, Code::OK)] {
            let (pending, response) = unanswered.next().await;
            assert_eq!(
                (pending.stream_id, response.status.code()),
                (stream_id, code)
            );
        }
        assert_eq!(
            unanswered.give_up().map(|pending| pending.stream_id),
            Some(1)
        );
        assert!(unanswered.is_empty());
    }
}
