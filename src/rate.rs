// SPDX-License-Identifier: Apache-2.0

//! Limits how often messages are logged whose cause a peer or a file can repeat without limit.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The period of a rate limit: long enough that one message a period makes a small log (8,640 lines a day),
/// and short enough that a person who reads the log sees that the cause goes on.
pub const PERIOD: Duration = Duration::from_secs(10);

/// How many changes of one thing are logged in a period: more than a person makes. The last change is always
/// logged, if late.
pub const CHANGES_PER_PERIOD: u32 = 10;

/// Allows at most `times` messages in each [`PERIOD`].
#[derive(Debug)]
pub struct RateLimit {
    times: u32,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// When the period began.
    start: Option<Instant>,
    /// How many messages were logged in this period.
    logged: u32,
    /// How many messages were left out since the last one that was logged.
    suppressed: u64,
}

impl RateLimit {
    /// At most `times` in each period.
    pub const fn new(times: u32) -> Self {
        let state = State {
            start: None,
            logged: 0,
            suppressed: 0,
        };
        Self {
            times,
            state: Mutex::new(state),
        }
    }

    /// To be called for each message. If it may be logged, returns how many were left out before it.
    pub fn allow(&self) -> Option<Suppressed> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.start.is_none_or(|start| start.elapsed() >= PERIOD) {
            state.start = Some(Instant::now());
            state.logged = 0;
        }
        if state.logged >= self.times {
            state.suppressed += 1;
            return None;
        }
        state.logged += 1;
        Some(Suppressed(std::mem::take(&mut state.suppressed)))
    }
}

/// How many messages were left out, for the end of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Suppressed(u64);

impl fmt::Display for Suppressed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            times => write!(f, " (and {times} times more since it was logged last)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frequent_messages_are_limited_and_counted() {
        let rate = RateLimit::new(2);
        assert_eq!(rate.allow(), Some(Suppressed(0)));
        assert_eq!(rate.allow(), Some(Suppressed(0)));
        for _ in 0..5 {
            assert_eq!(rate.allow(), None);
        }
        // The period ends.
        if let Ok(mut state) = rate.state.lock() {
            state.start = Instant::now().checked_sub(PERIOD);
        }
        let before = rate.allow();
        assert_eq!(before, Some(Suppressed(5)));
        assert!(before.is_some_and(|before| before.to_string().contains("and 5 times more")));
    }
}
