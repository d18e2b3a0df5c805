// SPDX-License-Identifier: Apache-2.0

//! Requests whose answers take long: the connection goes on meanwhile, and each answer is sent when it is there.
//!
//! They belong to their connection. When that ends, so does the work on them, since nobody waits for the answers.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Instant;

use ttrpc::Response;

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
                if let Poll::Ready(response) = self.0[at].work.as_mut().poll(context) {
                    return Poll::Ready((self.0.swap_remove(at), response));
                }
            }
            Poll::Pending
        })
        .await
    }
}
