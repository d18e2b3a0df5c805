// SPDX-License-Identifier: Apache-2.0

//! When a request is sent again: after failures that pass, a bounded number of times.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::thread;
use std::time::{Duration, Instant};

use crate::registry::error::Error;
use crate::registry::times::STALL;

/// The wait before the second try; it doubles with each.
const FIRST_WAIT: Duration = Duration::from_millis(200);

/// The longest wait between two tries, unless the registry asks for a longer one.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// How many tries in a row may bring nothing: about 11 s of waiting, so that a registry that isn't there is reported while
/// kata-agent still listens (60 s by default).
const MAX_TRIES: u32 = 7;

/// How many tries there are for one blob, even if each brings some of it.
const MAX_TRIES_OF_ALL: u32 = 100;

/// No try begins that would end, unheard, when the registry has sent nothing for this long. A try that is heard can have
/// several requests, for a token and after redirects, so that it may end half a minute after that.
pub(super) const SILENCE: Duration = Duration::from_secs(60);

/// How long a server that was asked before may take until its answer begins. A cache that fetches what it is asked for, or a
/// store that keeps it on tape, may need that long; and 15 s, these and the waits between them are over before kata-agent
/// gives up.
const LATER_ANSWER: Duration = Duration::from_secs(35);

/// No try begins so long after the registry last sent something new, although it answers each time that it has no time.
const LONGEST_BUSY: Duration = Duration::from_secs(120);

/// How often a wait looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(50);

/// What is left of the patience with one request.
pub(super) struct Patience {
    /// Tries that failed since something new came.
    failed: u32,
    /// All that failed.
    failed_of_all: u32,
    /// When the registry last sent something.
    heard: Instant,
    /// When it last sent something new.
    since: Instant,
    /// How many tries may bring nothing.
    most: u32,
}

impl Patience {
    pub(super) fn new() -> Self {
        Self {
            failed: 0,
            failed_of_all: 0,
            heard: Instant::now(),
            since: Instant::now(),
            most: MAX_TRIES,
        }
    }

    /// For one try.
    pub(super) fn none() -> Self {
        Self {
            most: 1,
            ..Self::new()
        }
    }

    /// The registry is about to be listened to. Before that nobody did, so that its silence says nothing.
    pub(super) fn listening(&mut self) {
        if self.failed == 0 {
            self.advanced();
        }
    }

    /// The registry sent something, even if it was known already.
    pub(super) fn heard(&mut self) {
        self.heard = Instant::now();
    }

    /// The registry sent something new, or is to.
    pub(super) fn advanced(&mut self) {
        self.failed = 0;
        self.heard();
        self.since = self.heard;
    }

    /// How long the next try may wait until an answer begins. At first it is not long, since a connection may be lost.
    pub(super) fn answer_time(&self) -> Duration {
        match self.failed {
            0 => STALL,
            _ => {
                let left = SILENCE.saturating_sub(self.heard.elapsed());
                left.clamp(STALL, LATER_ANSWER)
            }
        }
    }

    /// How many tries failed, all in all.
    pub(super) fn tries(&self) -> u32 {
        self.failed_of_all
    }

    /// How long to wait after a failed try before the next; none if there is to be none.
    pub(super) fn wait_after(&mut self, error: &Error) -> Option<Duration> {
        self.failed += 1;
        self.failed_of_all += 1;
        if !error.passes() || self.failed >= self.most || self.failed_of_all >= MAX_TRIES_OF_ALL {
            return None;
        }
        let doubled = FIRST_WAIT.saturating_mul(1 << (self.failed - 1).min(16));
        let own = doubled.min(LONGEST_WAIT);
        // Many VMs start at once, and should not come back at once.
        let asked = error.retry_after().unwrap_or_default();
        let spread = own.max(asked.min(SILENCE) / 4) / 2;
        let jitter = spread * u32::from(random()) / 0x100;
        let wait = asked.max(own * 3 / 4).saturating_add(jitter);
        if let Error::Busy { .. } = error {
            // It answers, so that the wait alone is silence.
            self.heard();
            let is_soon = wait < SILENCE && self.since.elapsed() + wait < LONGEST_BUSY;
            return is_soon.then_some(wait);
        }
        // A try that hears nothing takes so long too.
        let until = self.heard.elapsed().saturating_add(wait);
        let until = until.saturating_add(STALL);
        (until < SILENCE).then_some(wait)
    }
}

/// Waits; false if nobody wants to wait any more.
pub(super) fn wait(time: Duration, is_over: &dyn Fn() -> bool) -> bool {
    let end = Instant::now() + time;
    loop {
        if is_over() {
            return false;
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return true;
        }
        thread::sleep(left.min(LOOK));
    }
}

/// Any number.
fn random() -> u8 {
    RandomState::new().build_hasher().finish().to_le_bytes()[0]
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A registry can ask for any wait; one of centuries ends the pull, and nothing else.
    #[test]
    fn waits_have_an_end() {
        for seconds in [61, u64::MAX] {
            let mut patience = Patience::new();
            // As after a while, since a sum that begins with nothing has room.
            patience.heard = Instant::now().checked_sub(Duration::from_secs(2)).unwrap();
            let error = Error::Busy {
                host: "r.example".to_owned(),
                what: "503".to_owned(),
                after: Some(Duration::from_secs(seconds)),
            };
            assert_eq!(patience.wait_after(&error), None);
        }
    }

    fn busy(after: Option<u64>) -> Error {
        Error::Busy {
            host: String::new(),
            what: String::new(),
            after: after.map(Duration::from_secs),
        }
    }

    /// Tries come to an end, and what the registry asks for is waited for only if that is soon.
    #[test]
    fn patience_ends() {
        let mut patience = Patience::new();
        let mut waits = Vec::new();
        while let Some(wait) = patience.wait_after(&busy(None)) {
            waits.push(wait);
        }
        assert_eq!(waits.len() as u32, MAX_TRIES - 1);
        assert!(waits[0] < Duration::from_millis(300), "{waits:?}");
        let all: Duration = waits.iter().sum();
        assert!(all > Duration::from_secs(7) && all < Duration::from_secs(16));

        // What was waited for does not count as silence, but comes to an end.
        let mut patience = Patience::new();
        assert!(patience.wait_after(&busy(Some(50))).is_some());
        assert!(patience.wait_after(&busy(Some(50))).is_some());
        let some = LONGEST_BUSY - Duration::from_secs(30);
        patience.since = patience.since.checked_sub(some).unwrap();
        assert!(patience.wait_after(&busy(Some(20))).is_some());
        assert!(patience.wait_after(&busy(Some(40))).is_none());

        let mut patience = Patience::new();
        let wait = patience.wait_after(&busy(Some(20))).unwrap();
        assert!(wait >= Duration::from_secs(20) && wait < Duration::from_secs(23));
        assert!(patience.wait_after(&busy(Some(3600))).is_none());
        assert!(Patience::none().wait_after(&busy(None)).is_none());

        let mut patience = Patience::new();
        let mut tries = 1;
        while patience.wait_after(&busy(None)).is_some() {
            patience.advanced();
            tries += 1;
        }
        assert_eq!(tries, MAX_TRIES_OF_ALL);
    }

    /// Many that were refused together don't come back together; neither do those that were told when.
    #[test]
    fn waits_differ() {
        for (after, least, most) in [(None, 0.15, 0.25), (Some(8), 8.0, 9.0)] {
            let wait = |_| Patience::new().wait_after(&busy(after)).unwrap();
            let mut waits: Vec<_> = (0..50).map(wait).collect();
            waits.sort();
            waits.dedup();
            assert!(waits.len() > 20, "{waits:?}");
            let is_within = |wait: &Duration| (least..=most).contains(&wait.as_secs_f64());
            assert!(waits.iter().all(is_within), "{waits:?}");
        }
    }

    /// No try begins after a minute of silence; but only while somebody listens, and nothing new came.
    #[test]
    fn silence_ends() {
        let Some(long_ago) = Instant::now().checked_sub(SILENCE) else {
            return;
        };
        let mut patience = Patience::new();
        let silent = Error::Unreachable {
            host: String::new(),
            what: String::new(),
        };
        patience.heard = long_ago;
        assert!(patience.wait_after(&silent).is_none());
        patience.listening();
        assert!(patience.wait_after(&silent).is_none());
        patience.heard();
        assert!(patience.wait_after(&silent).is_some());
        patience.advanced();
        patience.heard = long_ago;
        patience.listening();
        assert!(patience.wait_after(&silent).is_some());
    }

    /// Whoever did not answer at first gets more time, but all tries together end before kata-agent does.
    #[test]
    fn later_answers_may_take_longer() {
        let mut patience = Patience::new();
        assert_eq!(patience.answer_time(), STALL);
        let silent = Error::Unreachable {
            host: String::new(),
            what: String::new(),
        };
        patience.heard = Instant::now().checked_sub(STALL).unwrap();
        assert!(patience.wait_after(&silent).is_some());
        assert_eq!(patience.answer_time(), LATER_ANSWER);
        patience.heard = patience.heard.checked_sub(LATER_ANSWER).unwrap();
        assert_eq!(patience.answer_time(), STALL);
        assert!(patience.wait_after(&silent).is_none());
    }
}
