// SPDX-License-Identifier: Apache-2.0

//! Helpers that the tests share.

pub mod both;
pub mod daemon;
pub mod image;
pub mod kata_agent;
pub mod puller;
pub mod registry;
pub mod service_manager;
pub mod skopeo;
pub mod wire;

use std::thread;
use std::time::{Duration, Instant};

/// The deadline for anything that takes milliseconds on an idle machine.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// Waits until `condition` returns a value; fails the test with `what` if it never does.
pub fn wait_for<T>(what: &str, condition: impl FnMut() -> Option<T>) -> T {
    wait_within(PATIENCE, what, condition)
}

/// The same with another deadline.
pub fn wait_within<T>(limit: Duration, what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let start = Instant::now();
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(start.elapsed() < limit, "waited too long for {what}");
        thread::sleep(Duration::from_millis(2));
    }
}
