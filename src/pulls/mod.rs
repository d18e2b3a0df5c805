// SPDX-License-Identifier: Apache-2.0

//! The pulls of images that are passed on to guest-pull: how many at once, how they go, and how the last ones ended.

pub mod puller;
pub mod run;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tracing::info;
use ttrpc::Code;

use crate::proto::guest_pull::Progress;
use crate::text::Escaped;

/// How many images are pulled at once: kata-agent starts four containers of a pod together. Each pull takes up to 30 MiB,
/// and more of them share the same network.
const MAX_AT_ONCE: usize = 4;

/// How many pulls there may be with those that wait for their turn: more than a pod has containers. A client that asks for
/// more has lost count.
const MAX_PULLS: usize = 64;

/// How many ended pulls are kept for the status, as many as requests.
const RECENT: usize = 10;

/// The longest name of an image that is kept whole: a repository has at most 255 characters.
const MAX_IMAGE_CHARS: usize = 512;

/// A pull.
#[derive(Clone, Debug)]
pub struct Pull {
    /// The image as the client named it, escaped.
    pub image: Arc<str>,
    /// When it was asked for.
    pub since: Instant,
    /// Whether its turn has come.
    pub is_running: bool,
    /// What guest-pull said last.
    pub progress: Progress,
    /// How it ended, and after what time.
    pub ended: Option<(Code, Duration)>,
}

/// All pulls.
#[derive(Debug, Default)]
pub struct Pulls {
    state: Mutex<State>,
    /// Notified when a pull has ended.
    turn: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Those that wait or run, in the order in which they were asked for, each with a number.
    current: Vec<(u64, Pull)>,
    /// Those that have ended, the latest first.
    recent: VecDeque<Pull>,
    /// The number of the next one.
    next: u64,
}

impl Pulls {
    /// Adds a pull; none if there are too many.
    pub fn begin(self: &Arc<Self>, image: &str) -> Option<Ticket> {
        let mut state = self.state();
        if state.current.len() >= MAX_PULLS {
            return None;
        }
        let image: String = image.chars().take(MAX_IMAGE_CHARS).collect();
        let number = state.next;
        state.next += 1;
        let pull = Pull {
            image: Escaped(&image).to_string().into(),
            since: Instant::now(),
            is_running: false,
            progress: Progress::default(),
            ended: None,
        };
        state.current.push((number, pull));
        Some(Ticket {
            pulls: Arc::clone(self),
            number,
        })
    }

    /// The pulls that wait or run, then the ended ones, the latest first.
    pub fn list(&self) -> Vec<Pull> {
        let state = self.state();
        let current = state.current.iter().map(|(_, pull)| pull);
        current.chain(&state.recent).cloned().collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pull's place among all. If it is dropped before the end, the pull was cancelled.
#[derive(Debug)]
pub struct Ticket {
    pulls: Arc<Pulls>,
    number: u64,
}

impl Ticket {
    /// Waits for its turn.
    pub async fn turn(&self) {
        loop {
            // Made before the look, so that no end is missed.
            let ended = self.pulls.turn.notified();
            if self.is_next() {
                return;
            }
            ended.await;
        }
    }

    /// Whether its turn has come.
    fn is_next(&self) -> bool {
        let mut state = self.pulls.state();
        let mut first = state.current.iter_mut().take(MAX_AT_ONCE);
        match first.find(|(number, _)| *number == self.number) {
            Some((_, pull)) => {
                pull.is_running = true;
                true
            }
            None => false,
        }
    }

    /// Notes how it goes.
    pub fn tell(&self, progress: Progress) {
        let mut state = self.pulls.state();
        let mut current = state.current.iter_mut();
        if let Some((_, pull)) = current.find(|(number, _)| *number == self.number) {
            pull.progress = progress;
        }
    }

    /// Notes how it ended, and returns the pull.
    pub fn end(self, outcome: Code) -> Option<Pull> {
        self.remove(outcome)
    }

    fn remove(&self, outcome: Code) -> Option<Pull> {
        let mut state = self.pulls.state();
        let mut numbers = state.current.iter().map(|(number, _)| *number);
        let at = numbers.position(|number| number == self.number)?;
        let (_, mut pull) = state.current.remove(at);
        pull.ended = Some((outcome, pull.since.elapsed()));
        if state.recent.len() == RECENT {
            state.recent.pop_back();
        }
        state.recent.push_front(pull.clone());
        drop(state);
        self.pulls.turn.notify_waiters();
        Some(pull)
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if let Some(pull) = self.remove(Code::CANCELLED) {
            info!(
                "the pull of {} is given up: nobody waits for it",
                pull.image
            );
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    async fn has_turn(ticket: &Ticket) -> bool {
        let mut turn = pin!(ticket.turn());
        poll_fn(|context| Poll::Ready(turn.as_mut().poll(context).is_ready())).await
    }

    /// A few run at once, the others in the order in which they came; beyond a limit none is taken. Whatever the end of
    /// one, the next has its turn.
    #[tokio::test]
    async fn pulls_wait_for_their_turn() {
        let pulls = Arc::new(Pulls::default());
        let begin = || pulls.begin("quay.io/a\n");
        let mut tickets: Vec<_> = (0..MAX_PULLS).map(|_| begin().unwrap()).collect();
        assert!(begin().is_none());
        for (at, ticket) in tickets.iter().enumerate() {
            assert_eq!(has_turn(ticket).await, at < MAX_AT_ONCE, "{at}");
        }
        // The last one gives up, and the first one ends.
        drop(tickets.pop());
        tickets.remove(0).end(Code::OK).unwrap();
        assert!(has_turn(&tickets[MAX_AT_ONCE - 1]).await);
        assert!(!has_turn(&tickets[MAX_AT_ONCE]).await);
        let list = pulls.list();
        assert_eq!(list.len(), MAX_PULLS);
        assert_eq!(&*list[0].image, "quay.io/a\\n");
        let outcomes: Vec<_> = list.iter().filter_map(|pull| pull.ended).collect();
        let outcomes: Vec<_> = outcomes.into_iter().map(|(outcome, _)| outcome).collect();
        assert_eq!(outcomes, [Code::OK, Code::CANCELLED]);
        for _ in 0..RECENT {
            drop(begin().unwrap());
        }
        let ended = pulls
            .list()
            .iter()
            .filter(|pull| pull.ended.is_some())
            .count();
        assert_eq!(ended, RECENT);
    }

    /// One that waits is woken when another ends.
    #[tokio::test]
    async fn an_end_wakes_the_next() {
        let pulls = Arc::new(Pulls::default());
        let mut tickets: Vec<_> = (0..=MAX_AT_ONCE)
            .map(|_| pulls.begin("a").unwrap())
            .collect();
        let last = tickets.pop().unwrap();
        let waiting = tokio::spawn(async move {
            last.turn().await;
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(tickets);
        waiting.await.unwrap();
    }
}
