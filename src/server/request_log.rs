// SPDX-License-Identifier: Apache-2.0

//! The request log: how often each outcome was, and the last requests, for `offline-fs-kbc status`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use ttrpc::Code;

use crate::server::method::Subject;
use crate::server::peer::Peer;
use crate::text::Escaped;

/// How many requests are kept: as many as fit a screen, in a few KiB of memory.
const RECENT: usize = 10;

/// The longest text from a peer that is kept unshortened, in bytes: longer than the name of any real method
/// or resource. A peer can send a text as long as a frame.
const MAX_TEXT_BYTES: usize = 200;

/// One answered request.
#[derive(Clone, Debug)]
pub struct Record {
    /// The peer.
    pub peer: Peer,
    /// The method as the peer sent it, `/service/method`.
    pub method: Arc<str>,
    /// What it was about, never a value.
    pub subject: Subject,
    /// The status code.
    pub outcome: Code,
    /// When it was answered.
    pub at: Instant,
}

/// The requests that were answered since the start.
#[derive(Debug)]
pub struct RequestLog {
    started: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// One element for each outcome that has occurred.
    outcomes: Vec<(Code, u64)>,
    recent: VecDeque<Record>,
}

impl Default for RequestLog {
    fn default() -> Self {
        Self {
            started: Instant::now(),
            state: Mutex::default(),
        }
    }
}

impl RequestLog {
    /// Adds a request.
    pub fn record(&self, mut record: Record) {
        if record.method.len() > MAX_TEXT_BYTES {
            record.method = Escaped(&record.method).to_string().into();
        }
        if record.subject.size() > MAX_TEXT_BYTES {
            record.subject = Subject::Text(record.subject.to_string().into());
        }
        let mut state = self.state();
        let mut outcomes = state.outcomes.iter_mut();
        match outcomes.find(|(outcome, _)| *outcome == record.outcome) {
            Some((_, count)) => *count += 1,
            None => state.outcomes.push((record.outcome, 1)),
        }
        if state.recent.len() == RECENT {
            state.recent.pop_back();
        }
        state.recent.push_front(record);
    }

    /// When the log was created.
    pub fn started(&self) -> Instant {
        self.started
    }

    /// How often each outcome occurred.
    pub fn outcomes(&self) -> Vec<(Code, u64)> {
        self.state().outcomes.clone()
    }

    /// The last requests, the latest first.
    pub fn recent(&self) -> Vec<Record> {
        self.state().recent.iter().cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All requests are counted, and only the last ones are kept.
    #[test]
    fn only_the_last_requests_are_kept() {
        let request_log = RequestLog::default();
        for n in 0..25 {
            request_log.record(Record {
                peer: Peer::default(),
                method: format!("/s/{n}").into(),
                subject: Subject::None,
                outcome: Code::OK,
                at: Instant::now(),
            });
        }
        let recent = request_log.recent();
        assert_eq!(recent.len(), RECENT);
        assert_eq!((&*recent[0].method, &*recent[9].method), ("/s/24", "/s/15"));
        assert_eq!(request_log.outcomes(), [(Code::OK, 25)]);
    }
}
