// SPDX-License-Identifier: Apache-2.0

//! What the service manager is told, and what it says to the process. Without one nothing is sent.

use std::ffi::OsString;
use std::os::fd::BorrowedFd;
use std::time::Duration;
use std::{env, io, process};

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

use crate::rate::Rate;

/// Whether a service manager started this process and waits for its word: it is the unit's instance
/// and not a copy started by hand or by kata-agent.
pub fn is_unit() -> bool {
    let meant = |pid: OsString| pid == process::id().to_string().as_str();
    // Since version 248 systemd says which process it started, so that one which inherited the
    // environment doesn't take itself for the unit's.
    env::var_os("NOTIFY_SOCKET").is_some() && env::var_os("SYSTEMD_EXEC_PID").is_none_or(meant)
}

/// How many descriptors the service manager keeps for this process.
///
/// Since version 254 systemd says it in `FDSTORE`; for older ones the unit does.
pub fn store_size() -> usize {
    let size = || env::var("FDSTORE").ok()?.parse().ok();
    if is_unit() {
        size().unwrap_or_default()
    } else {
        0
    }
}

/// Keeps a descriptor under `name` for the next process; tells whether that was said.
pub fn store(name: &str, descriptor: BorrowedFd<'_>) -> bool {
    let state = [NotifyState::FdStore, NotifyState::FdName(name)];
    let sent = sd_notify::notify_with_fds(&state, &[descriptor]);
    sent.map_err(complain).is_ok()
}

/// Keeps it no longer.
pub fn remove(name: &str) {
    send(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
}

/// The sockets answer.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// A reload begins; [`ready`] ends it.
pub fn reloading() {
    // systemd tells by the time which reload it is that ends.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(_) => send(&[NotifyState::Reloading]),
    }
}

/// What `systemctl status` shows.
pub fn status(status: &str) {
    send(&[NotifyState::Status(status)]);
}

/// The end has begun.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// Tells the watchdog, if there is one, that the thread that serves still turns. Never ends.
pub async fn keep_alive() {
    match sd_notify::watchdog_enabled() {
        Some(limit) if limit > Duration::ZERO => {
            // Half the limit, as sd_watchdog_enabled(3) advises.
            let mut ticks = interval(limit / 2);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                send(&[NotifyState::Watchdog]);
            }
        }
        _ => std::future::pending().await,
    }
}

fn send(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(state) {
        complain(error);
    }
}

fn complain(error: io::Error) {
    static FAILURES: Rate = Rate::new(1);
    if let Some(before) = FAILURES.now() {
        warn!("can't tell the service manager: {error}{before}");
    }
}
