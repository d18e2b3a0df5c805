// SPDX-License-Identifier: Apache-2.0

//! What a soak of pulls counts, and which of it is a fault.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Mutex;
use std::time::Duration;

use crate::registry::lock;

/// The most memory that a worker may ever have, in KiB, whatever comes.
pub const MOST_OF_WORKER: f64 = 64.0 * 1024.0;

/// The same of the daemon: what its clients can make it buffer, and itself.
const MOST_OF_DAEMON: f64 = 80.0 * 1024.0;

/// How much larger the daemon's heap may be at the end than at the start, in KiB: what the C library's free lists keep.
const MOST_GROWTH: f64 = 2.0 * 1024.0;

/// How many faults are printed.
const SHOWN: usize = 20;

/// Adds up what happens in all threads.
#[derive(Default)]
pub struct Counts {
    /// Pulls and what became of them, by a few words.
    outcomes: Mutex<BTreeMap<String, u64>>,
    faults: Mutex<Vec<String>>,
}

impl Counts {
    /// Counts one of a kind.
    pub fn add(&self, outcome: &str) {
        *lock(&self.outcomes).entry(outcome.to_owned()).or_default() += 1;
    }

    /// What must not happen, and did.
    pub fn fault(&self, fault: String) {
        eprintln!("soak-pull: FAULT: {fault}");
        lock(&self.faults).push(fault);
    }
}

/// An idle daemon; memory in KiB.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rested {
    pub anonymous: f64,
    pub descriptors: Option<usize>,
}

/// The counts of a soak.
#[derive(Default)]
pub struct Figures {
    pub time: Duration,
    pub outcomes: BTreeMap<String, u64>,
    pub faults: Vec<String>,
    /// Faults of the registry, and bytes of blobs that it sent.
    pub failed: u64,
    pub sent: u64,
    /// Processes that were killed.
    pub workers_killed: u64,
    pub mounters_killed: u64,
    /// The most memory of the daemon, of a mounter, of a worker, in KiB.
    pub peaks: [f64; 3],
    pub start: Rested,
    pub end: Rested,
}

/// The outcome of a pull whose tree was looked at.
pub const RIGHT: &str = "right trees";

impl Figures {
    /// Takes what the threads counted.
    pub fn take(&mut self, counts: &Counts) {
        self.outcomes = lock(&counts.outcomes).clone();
        self.faults = lock(&counts.faults).clone();
    }

    /// All faults; empty if there are none.
    pub fn all_faults(&self) -> Vec<String> {
        let mut faults: Vec<_> = self.faults.iter().take(SHOWN).cloned().collect();
        if self.faults.len() > SHOWN {
            faults.push(format!("and {} more", self.faults.len() - SHOWN));
        }
        let right = self.outcomes.get(RIGHT).copied().unwrap_or_default();
        for (what, count) in [
            (RIGHT, right),
            ("faults of the registry", self.failed),
            ("workers killed", self.workers_killed),
            ("mounters killed", self.mounters_killed),
        ] {
            if count == 0 {
                faults.push(format!("no {what}: the soak did not do its work"));
            }
        }
        let [daemon, _, worker] = self.peaks;
        for (who, peak, most) in [
            ("daemon", daemon, MOST_OF_DAEMON),
            ("worker", worker, MOST_OF_WORKER),
        ] {
            if peak > most {
                faults.push(format!("a {who} had {peak:.0} KiB; {most:.0} are the most"));
            }
        }
        let grown = self.end.anonymous - self.start.anonymous;
        if grown > MOST_GROWTH {
            faults.push(format!(
                "the daemon has {grown:.0} KiB more heap at the end"
            ));
        }
        if let (Some(start), Some(end)) = (self.start.descriptors, self.end.descriptors) {
            if end > start {
                faults.push(format!(
                    "the daemon has {end} descriptors at the end, {start} at the start"
                ));
            }
        }
        faults
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "time           {:.0} s", self.time.as_secs_f64())?;
        for (outcome, count) in &self.outcomes {
            writeln!(f, "{count:>8}       {outcome}")?;
        }
        writeln!(
            f,
            "registry       {} faults, {} MB sent",
            self.failed,
            self.sent / 1_000_000
        )?;
        writeln!(
            f,
            "killed         {} workers, {} mounters",
            self.workers_killed, self.mounters_killed
        )?;
        let [daemon, mounter, worker] = self.peaks;
        writeln!(
            f,
            "peak memory    daemon {daemon:.0} KiB, mounter {mounter:.0}, worker {worker:.0}"
        )?;
        writeln!(
            f,
            "daemon         {:.0} KiB of heap at the start, {:.0} at the end; {:?} descriptors, {:?}",
            self.start.anonymous, self.end.anonymous, self.start.descriptors, self.end.descriptors
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Figures {
        Figures {
            outcomes: BTreeMap::from([(RIGHT.to_owned(), 1)]),
            failed: 1,
            workers_killed: 1,
            mounters_killed: 1,
            ..Figures::default()
        }
    }

    /// Everything that must not happen is a fault, and nothing else is.
    #[test]
    fn faults_are_found() {
        assert!(good().all_faults().is_empty());
        type Spoil = fn(&mut Figures);
        let spoilt: [(&str, Spoil); 6] = [
            ("wrong tree", |f| f.faults.push("a wrong tree".to_owned())),
            ("no right trees", |f| f.outcomes.clear()),
            ("a worker had", |f| f.peaks[2] = MOST_OF_WORKER + 1.0),
            ("more heap", |f| f.end.anonymous = MOST_GROWTH + 1.0),
            ("descriptors", |f| {
                (f.start.descriptors, f.end.descriptors) = (Some(3), Some(4));
            }),
            ("no mounters killed", |f| f.mounters_killed = 0),
        ];
        for (what, spoil) in spoilt {
            let mut figures = good();
            spoil(&mut figures);
            let faults = figures.all_faults();
            assert_eq!(faults.len(), 1, "{what}: {faults:?}");
            assert!(faults[0].contains(what), "{faults:?}");
        }
    }
}
