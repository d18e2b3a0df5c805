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
