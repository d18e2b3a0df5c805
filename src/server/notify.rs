// SPDX-License-Identifier: Apache-2.0

//! Messages to the service manager, and the settings that it passes to this process. Without a service
//! manager nothing is sent.

use std::ffi::OsString;
use std::os::fd::BorrowedFd;
use std::time::Duration;
use std::{env, io, process};

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

use crate::rate::RateLimit;

/// Whether a service manager started this process and waits for its notifications: this is the unit's
/// instance, and not a copy started by hand or by kata-agent.
pub fn is_unit() -> bool {
    let meant = |pid: OsString| pid == process::id().to_string().as_str();
    // Since version 248, systemd passes the id of the process that it started, so that a child that inherited
    // the environment does not take itself for the unit's process.
    env::var_os("NOTIFY_SOCKET").is_some() && env::var_os("SYSTEMD_EXEC_PID").is_none_or(meant)
}

/// How many descriptors the service manager's store keeps for this process.
///
/// Since version 254, systemd sets `FDSTORE`; for older versions, the unit sets it.
pub fn store_size() -> usize {
    let size = || env::var("FDSTORE").ok()?.parse().ok();
    if is_unit() {
        size().unwrap_or_default()
    } else {
        0
    }
}

/// Puts a descriptor under `name` into the store, for the next process. Returns whether the message was sent.
pub fn store(name: &str, descriptor: BorrowedFd<'_>) -> bool {
    let state = [NotifyState::FdStore, NotifyState::FdName(name)];
    let sent = sd_notify::notify_with_fds(&state, &[descriptor]);
    sent.map_err(complain).is_ok()
}

/// Removes the descriptor of this name from the store.
pub fn remove(name: &str) {
    send(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]);
}

/// Reports that the sockets answer.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Reports that a reload begins; [`ready`] ends it.
pub fn reloading() {
    // systemd matches the end of a reload to its beginning by this time.
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(_) => send(&[NotifyState::Reloading]),
    }
}

/// Sets the status line that `systemctl status` shows.
pub fn status(status: &str) {
    send(&[NotifyState::Status(status)]);
}

/// Reports that the daemon is stopping.
pub fn stopping() {
    send(&[NotifyState::Stopping]);
}

/// Feeds the watchdog, if there is one, from the thread that serves. Never returns.
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
    static FAILURES: RateLimit = RateLimit::new(1);
    if let Some(suppressed) = FAILURES.allow() {
        warn!("can't notify the service manager: {error}{suppressed}");
    }
}
