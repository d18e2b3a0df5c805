// SPDX-License-Identifier: Apache-2.0

//! How the daemon stands: what it logs of the files, and what it tells the service manager and who asks.

use std::collections::BTreeSet;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use offline_fs_kbc::rate::{self, Rate};
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

/// How the daemon stands, for its log and for the service manager.
pub struct ServiceStatus {
    store: Arc<Store>,
    /// Whether a credential is repaired before it is served.
    repairs: bool,
    /// The addresses that another process answers on.
    waiting: Mutex<BTreeSet<String>>,
    /// What is wrong with the content and was logged.
    logged: Mutex<BTreeSet<(Severity, String)>>,
    /// What the service manager was told last.
    said: Mutex<String>,
    /// How often either is said.
    rate: Rate,
    /// Whether there is news that was not said, since there is too much of it.
    behind: AtomicBool,
}

impl ServiceStatus {
    pub fn new(store: Arc<Store>, repairs: bool) -> Self {
        Self {
            store,
            repairs,
            waiting: Mutex::default(),
            logged: Mutex::default(),
            said: Mutex::default(),
            rate: Rate::new(rate::CHANGES),
            behind: AtomicBool::new(false),
        }
    }

    /// Brings the store up to date before requests are answered.
    pub fn refresh(&self) {
        if self.store.refresh() || self.behind.load(Ordering::Relaxed) {
            self.say();
        }
    }

    fn is_behind(&self) -> bool {
        self.store.is_behind() || self.behind.load(Ordering::Relaxed)
    }

    pub fn reload(&self) {
        notify::reloading();
        info!("reloading every file");
        self.store.reload();
        notify::ready(&self.look());
    }

    /// Looks at the files when something happens to them, for the log and the service manager. Never
    /// ends.
    pub async fn follow(&self, watch: impl FnOnce() -> io::Result<Watch>) {
        // Who is waiting for the daemon comes first.
        yield_now().await;
        let watch = watch();
        // What changed between the load and the watch.
        self.refresh();
        let lost = match watch {
            Ok(mut watch) => loop {
                // A while after the last change there is room to say what there was no room for.
                let looked = match self.is_behind() {
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
        info!("changes of the files are logged when somebody asks, not before: no watch: {lost}");
        std::future::pending().await
    }

    pub fn waiting(&self, address: &Address, waits: bool) {
        let changed = if waits {
            lock(&self.waiting).insert(address.to_string())
        } else {
            lock(&self.waiting).remove(&address.to_string())
        };
        if changed {
            self.say();
        }
    }

    /// Logs and tells the service manager how it stands, if that is news.
    fn say(&self) {
        let (line, found) = self.state();
        let news = *lock(&self.said) != line || !found.is_subset(&lock(&self.logged));
        let left_out = news && self.rate.now().is_none();
        self.behind.store(left_out, Ordering::Relaxed);
        if news && !left_out {
            notify::status(&line);
            self.log(line, found);
        }
    }

    /// How it stands, for the service manager at a start or a reload; it is logged.
    pub fn look(&self) -> String {
        let (line, found) = self.state();
        self.log(line.clone(), found);
        line
    }

    /// How it stands, in a line.
    pub fn line(&self) -> String {
        self.state().0
    }

    /// A line for the service manager, and what is wrong with the content of what was loaded.
    fn state(&self) -> (String, BTreeSet<(Severity, String)>) {
        let snapshot = self.store.snapshot();
        let found = findings::of_content(&snapshot, self.repairs);
        let mut line = findings::summary(&snapshot, found.len());
        for address in lock(&self.waiting).iter() {
            line.push_str(&format!(
                "; waiting for {address}, where another process answers"
            ));
        }
        (line, found.into_iter().collect())
    }

    /// Logs what is newly wrong with the content; the store logs the rest.
    fn log(&self, line: String, found: BTreeSet<(Severity, String)>) {
        let mut logged = lock(&self.logged);
        for (severity, finding) in found.difference(&logged).take(LOGGED_PROBLEMS) {
            match severity {
                Severity::Error => error!("{finding}"),
                _ => warn!("{finding}"),
            }
        }
        *logged = found;
        *lock(&self.said) = line;
    }
}

/// The lock; a thread that panicked in it, which none does, leaves nothing half done.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
