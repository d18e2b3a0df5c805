// SPDX-License-Identifier: Apache-2.0

//! The worker's memory: what takes how much of it, and which layers are made at the same time.
//!
//! Nothing that a registry sends takes the worker past 64 MiB of resident memory. In MiB, at most:
//!
//! | | each | three layers | one alone |
//! |---|---|---|---|
//! | the program, the C library, roots of TLS, stacks as far as they are used | | 10 | 10 |
//! | manifest, index and configuration of the image, parsed | | 6 | 6 |
//! | a layer's pages of names and inodes in memory, and where the others are | 2.6 | 8 | 3 |
//! | the entry that is being read: a PAX header, its attributes, the map of a sparse file | 3 | 9 | 3 |
//! | bytes on their way between threads, and those that are written next | 1.5 | 4.5 | 2 |
//! | the window of zstd with its buffers: of 8 MiB, or alone, of 32 MiB | 8.7 | 26 | 33 |
//! | together | | 63.5 | 57 |
//!
//! Builders write windows of at most 8 MiB, and older versions of one library up to 32 MiB.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// How many layers of one image are fetched and made at once: unless configured, as the stock puller does, and at most. More
/// would not be faster on two processors, and each takes its memory.
pub const LAYERS_AT_ONCE: usize = 3;

/// The largest window of zstd of a layer that is made beside others, as an exponent of two: 8 MiB.
pub const SHARED_WINDOW: u32 = 23;

/// And of one that is made alone: 32 MiB.
pub const MAX_WINDOW: u32 = 25;

/// The stack of each thread. Only what is used of it takes memory: 30 to 60 KiB for a TLS handshake, or for a JSON document
/// of 128 levels. A debug build needs four times as much.
pub const STACK: usize = 512 * 1024;

/// Lets layers be made at the same time, or one alone.
#[derive(Debug, Default)]
pub struct Turns(RwLock<()>);

impl Turns {
    /// Waits until no layer is made alone, or waits to be. The turn ends when it is dropped.
    pub fn shared(&self) -> Turn<'_> {
        let guard = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Turn::new(Guard::Shared(guard))
    }

    /// Waits until no other layer is made. None begins before the turn ends.
    pub fn alone(&self) -> Turn<'_> {
        let guard = self.0.write().unwrap_or_else(PoisonError::into_inner);
        Turn::new(Guard::Alone(guard))
    }
}

/// The time in which a layer is made.
#[derive(Debug)]
pub struct Turn<'t> {
    guard: Guard<'t>,
    needs_all: AtomicBool,
}

#[derive(Debug)]
enum Guard<'t> {
    Shared(#[expect(dead_code, reason = "it is there to be dropped")] RwLockReadGuard<'t, ()>),
    Alone(#[expect(dead_code, reason = "it is there to be dropped")] RwLockWriteGuard<'t, ()>),
}

impl<'t> Turn<'t> {
    fn new(guard: Guard<'t>) -> Self {
        Self {
            guard,
            needs_all: AtomicBool::new(false),
        }
    }

    /// The largest window of zstd that the layer can have now, as an exponent of two.
    pub fn window(&self) -> u32 {
        match self.guard {
            Guard::Shared(_) => SHARED_WINDOW,
            Guard::Alone(_) => MAX_WINDOW,
        }
    }

    /// Says that the layer needs a larger window, so that it can only be made alone.
    pub fn ask_for_all(&self) {
        self.needs_all.store(true, Ordering::Relaxed);
    }

    /// Whether the layer can be made alone, but not in this turn.
    pub fn needs_all(&self) -> bool {
        matches!(self.guard, Guard::Shared(_)) && self.needs_all.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::thread;

    /// A turn alone begins when the shared ones have ended, and no other begins meanwhile.
    #[test]
    fn one_is_made_alone() {
        let turns = Turns::default();
        let (one, other) = (turns.shared(), turns.shared());
        other.ask_for_all();
        assert!(other.needs_all() && !one.needs_all());
        let running = AtomicBool::new(true);
        thread::scope(|scope| {
            scope.spawn(|| {
                let turn = turns.alone();
                assert!(!running.load(Ordering::SeqCst));
                assert_eq!(turn.window(), MAX_WINDOW);
                turn.ask_for_all();
                assert!(!turn.needs_all());
            });
            drop(other);
            running.store(false, Ordering::SeqCst);
            drop(one);
        });
        assert_eq!(turns.shared().window(), SHARED_WINDOW);
    }

    /// The deepest JSON document that is parsed fits the stack of a thread twice.
    #[test]
    fn deep_documents_fit_the_stack() {
        let text = "[".repeat(127) + &"]".repeat(127);
        let parse = move || {
            assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok());
            let deeper = format!("[{text}]");
            assert!(serde_json::from_str::<serde_json::Value>(&deeper).is_err());
        };
        let thread = thread::Builder::new().stack_size(STACK / 2);
        thread.spawn(parse).unwrap().join().unwrap();
    }
}
