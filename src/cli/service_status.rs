// SPDX-License-Identifier: Apache-2.0

//! The service status: one line for the service manager and `offline-fs-kbc status`, and the log of what is
//! wrong with the content of the files.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use offline_fs_kbc::rate::{self, RateLimit};
use offline_fs_kbc::resource::problem::Severity;
use offline_fs_kbc::resource::snapshot::LOGGED_PROBLEMS;
use offline_fs_kbc::resource::store::Store;
use offline_fs_kbc::server::listener::Address;
use offline_fs_kbc::server::notify;
use offline_fs_kbc::watch::Watch;
use tokio::task::yield_now;
use tokio::time::timeout;
use tracing::{error, info, warn};

use crate::cli::findings;

/// The daemon's status, for its log and for the service manager.
pub struct ServiceStatus {
    store: Arc<Store>,
    /// Whether a credential is repaired before it is served.
    repairs: bool,
    /// The addresses that another process answers on.
    waiting: Mutex<BTreeSet<String>>,
    /// The findings about the content that were logged.
    logged: Mutex<BTreeSet<(Severity, String)>>,
    /// The line that the service manager was sent last.
    reported: Mutex<String>,
    /// Limits how often either is reported.
    rate: RateLimit,
    /// Whether the rate limit held back a change of the status.
    report_pending: AtomicBool,
}

impl ServiceStatus {
    pub fn new(store: Arc<Store>, repairs: bool) -> Self {
        Self {
            store,
            repairs,
            waiting: Mutex::default(),
            logged: Mutex::default(),
            reported: Mutex::default(),
            rate: RateLimit::new(rate::CHANGES_PER_PERIOD),
            report_pending: AtomicBool::new(false),
        }
    }

    /// Brings the store up to date before requests are answered.
    pub fn refresh(&self) {
        if self.store.refresh() || self.report_pending.load(Ordering::Relaxed) {
            self.report_changes();
        }
    }

    fn has_pending_report(&self) -> bool {
        self.store.has_unlogged_changes() || self.report_pending.load(Ordering::Relaxed)
    }

    pub fn reload(&self) {
        notify::reloading();
        info!("reloading every file");
        self.store.reload();
        notify::ready(&self.report());
    }

    /// Checks the files when they change, for the log and the service manager. Never returns.
    pub async fn watch_files(&self, watch: impl FnOnce() -> io::Result<Watch>) {
        // Clients that already wait for the daemon come first.
        yield_now().await;
        let watch = watch();
        // Catches changes between the load and the start of the watch.
        self.refresh();
        let lost = match watch {
            Ok(mut watch) => loop {
                // After a period without changes, the rate limit allows what it held back.
                let looked = match self.has_pending_report() {
                    true => timeout(rate::PERIOD, watch.changed())
                        .await
                        .unwrap_or(Ok(())),
                    false => watch.changed().await,
                };
                match looked {
                    Ok(()) => self.refresh(),
                    Err(error) => break error,
                }
            },
            Err(error) => error,
        };
        info!("can't watch the files, so changes are logged at the next request: {lost}");
        std::future::pending().await
    }

    pub fn set_waiting(&self, address: &Address, waits: bool) {
        let changed = if waits {
            lock(&self.waiting).insert(address.to_string())
        } else {
            lock(&self.waiting).remove(&address.to_string())
        };
        if changed {
            self.report_changes();
        }
    }

    /// Logs the status and sends it to the service manager, if it has changed.
    fn report_changes(&self) {
        let (line, found) = self.summary_and_findings();
        let news = *lock(&self.reported) != line || !found.is_subset(&lock(&self.logged));
        let left_out = news && self.rate.allow().is_none();
        self.report_pending.store(left_out, Ordering::Relaxed);
        if news && !left_out {
            notify::status(&line);
            self.log(line, found);
        }
    }

    /// Logs the findings, and returns the status line for the service manager at a start or a reload.
    pub fn report(&self) -> String {
        let (line, found) = self.summary_and_findings();
        self.log(line.clone(), found);
        line
    }

    /// The status line.
    pub fn summary(&self) -> String {
        self.summary_and_findings().0
    }

    /// The status line, and the findings about the content of the loaded files.
    fn summary_and_findings(&self) -> (String, BTreeSet<(Severity, String)>) {
        let snapshot = self.store.snapshot();
        let found = findings::of_content(&snapshot, self.repairs);
        let problems = found
            .iter()
            .filter(|(severity, _)| *severity > Severity::Note);
        let mut line = findings::summary(&snapshot, problems.count());
        for address in lock(&self.waiting).iter() {
            line.push_str(&format!(
                "; waiting for {address}, where another process answers"
            ));
        }
        (line, found.into_iter().collect())
    }

    /// Logs the new findings about the content; the store logs the state of the files.
    fn log(&self, line: String, found: BTreeSet<(Severity, String)>) {
        let mut logged = lock(&self.logged);
        for (severity, finding) in found.difference(&logged).take(LOGGED_PROBLEMS) {
            match severity {
                Severity::Error => error!("{finding}"),
                Severity::Warning => warn!("{finding}"),
                Severity::Note => info!("{finding}"),
            }
        }
        *logged = found;
        *lock(&self.reported) = line;
    }
}

/// Locks the mutex. No code panics while it holds one of these, and no update is left half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
