// SPDX-License-Identifier: Apache-2.0

//! Messages to the service manager, and the settings that it passes to this process. Without a service
//! manager nothing is sent.

use std::ffi::{OsStr, OsString};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::parent_id;
use std::time::Duration;
use std::{env, fs, io, process};

use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};
use tracing::warn;

use crate::rate::RateLimit;

/// The variable by which systemd, since version 248, passes the id of the process that it started. A child that
/// inherited the environment finds another process's id there.
const STARTED_PROCESS: &str = "SYSTEMD_EXEC_PID";

/// Whether a service manager waits for this process's notifications, and may keep descriptors for it.
fn is_notified() -> bool {
    let meant = |pid: OsString| is_pid(&pid, process::id());
    env::var_os("NOTIFY_SOCKET").is_some() && env::var_os(STARTED_PROCESS).is_none_or(meant)
}

/// Whether a service manager started this process as a service, whatever its unit is: it would take an early end
/// for a failure and start the process again. A copy started by hand or by kata-agent is none, although
/// kata-agent passes on the environment that systemd gave it.
pub fn is_service() -> bool {
    let parent = parent_id();
    match env::var_os(STARTED_PROCESS) {
        Some(pid) if is_pid(&pid, process::id()) => true,
        // The command of the unit is a shell that waits for this process. The variable alone can't tell that from
        // kata-agent's copy, whose parent is the process that systemd started too.
        Some(pid) => is_pid(&pid, parent) && is_shell(parent),
        // systemd before version 248: kata-agent's copy has INVOCATION_ID too, but not this parent.
        None => is_notified() || parent == 1 && env::var_os("INVOCATION_ID").is_some(),
    }
}

fn is_pid(text: &OsStr, pid: u32) -> bool {
    text == pid.to_string().as_str()
}

/// Whether the process runs a shell.
fn is_shell(pid: u32) -> bool {
    let program = fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let program = program.as_os_str().as_bytes();
    SHELLS.iter().any(|shell| program.ends_with(shell))
}

/// What `/bin/sh` and `/bin/bash` are in images.
const SHELLS: [&[u8]; 3] = [b"/bash", b"/busybox", b"/dash"];

/// How many descriptors the service manager's store keeps for this process.
///
/// Since version 254, systemd sets `FDSTORE`; for older versions, the unit sets it.
pub fn store_size() -> usize {
    let size = || env::var("FDSTORE").ok()?.parse().ok();
    if is_notified() {
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
