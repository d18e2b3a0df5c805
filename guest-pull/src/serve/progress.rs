// SPDX-License-Identifier: Apache-2.0

//! How the pull goes, for the caller.

use std::cell::RefCell;
use std::time::{Duration, Instant};

use common::proto::guest_pull::Progress as Message;

use crate::pull::Event;
use crate::worker::confinement::Confinement;

/// The least time between two messages about bytes: a person looks at them.
const PAUSE: Duration = Duration::from_millis(300);

/// Adds up what happens, and tells the caller now and then.
pub struct Progress<F> {
    tell: Option<F>,
    state: RefCell<(Message, Option<Instant>)>,
}

impl<F: Fn(&Message)> Progress<F> {
    /// Tells by `tell`, if it is wanted.
    pub fn new(is_wanted: bool, tell: F) -> Self {
        Self {
            tell: is_wanted.then_some(tell),
            state: RefCell::default(),
        }
    }

    /// Takes what confines the worker.
    pub fn confined(&self, confinement: &Confinement) {
        if let Some(tell) = &self.tell {
            let (holding, lacking) = confinement.names();
            let mut state = self.state.borrow_mut();
            state.0.confined_by = holding.join(" ");
            state.0.not_confined_by = lacking.join(" ");
            tell(&state.0);
        }
    }

    /// Takes the next event.
    pub fn take(&self, event: Event) {
        let Some(tell) = &self.tell else {
            return;
        };
        let mut state = self.state.borrow_mut();
        let (message, last) = &mut *state;
        let mut is_due = true;
        match event {
            Event::Started { layers, bytes } => {
                message.layers = layers as u64;
                message.bytes = bytes;
            }
            Event::Read(bytes) => {
                message.bytes_fetched = message.bytes_fetched.saturating_add(bytes);
                is_due = last.is_none_or(|last| last.elapsed() >= PAUSE);
            }
            Event::Layer { bytes, stored } => {
                message.layers_done += 1;
                if stored {
                    message.bytes_stored = message.bytes_stored.saturating_add(bytes);
                }
            }
        }
        if is_due {
            *last = Some(Instant::now());
            tell(message);
        }
    }
}
