// SPDX-License-Identifier: Apache-2.0

//! The counts of a soak, and which of them are faults.

use std::fmt;
use std::sync::atomic::Ordering;
use std::time::Duration;

use crate::load::World;

/// An idle daemon; memory is in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rested {
    /// Heap and stack.
    pub anonymous: f64,
    /// Open descriptors; none if they can't be read.
    pub descriptors: Option<usize>,
}

/// The most memory that a daemon may ever use, in KiB: what peers can make it buffer (56 MiB,
/// `src/server/limits.rs`), the file and its values twice, and the daemon itself.
const MOST: f64 = 80.0 * 1024.0;

/// How much larger the heap may be after hours than after a moment: what the C library's free lists may keep
/// after many connections.
const MOST_GROWTH: f64 = 2.0 * 1024.0;

/// How many faults are printed.
const SHOWN: usize = 20;

/// The counts of a soak.
#[derive(Default)]
pub struct Figures {
    /// The first process after a short time of mixed load.
    pub first: Rested,
    /// The last process, from the last restart, after some idle time.
    pub start: Rested,
    /// The same process at the end.
    pub end: Rested,
    /// The most memory that any process used.
    pub peak: f64,
    /// Restarts by the soak.
    pub restarts: u32,
    /// SIGHUPs that the soak sent.
    pub reloads: u32,
    /// Correct answers.
    pub answers: u64,
    /// Connections of hostile peers.
    pub hostile: u64,
    /// Versions of the resources file.
    pub contents: u64,
    /// How often a client had to reconnect, as at restarts.
    pub reconnects: u64,
    /// The duration.
    pub time: Duration,
    /// Faults: what happened and must not.
    pub errors: Vec<String>,
}

impl Figures {
    /// Adds the counts of the clients.
    pub fn finish(&mut self, world: &World, time: Duration) {
        self.answers = world.answers.load(Ordering::Relaxed);
        self.hostile = world.attacks.load(Ordering::Relaxed);
        self.contents = world.committed.load(Ordering::Relaxed);
        self.reconnects = world.reconnects.load(Ordering::Relaxed);
        self.errors = world.errors.all();
        self.time = time;
    }

    /// The faults; empty if there are none.
    pub fn faults(&self) -> Vec<String> {
        let mut faults: Vec<_> = self.errors.iter().take(SHOWN).cloned().collect();
        if self.errors.len() > SHOWN {
            faults.push(format!("and {} more", self.errors.len() - SHOWN));
        }
        for (what, count) in [
            ("answers", self.answers),
            ("hostile connections", self.hostile),
            ("contents", self.contents),
            ("reloads", u64::from(self.reloads)),
            ("restarts", u64::from(self.restarts)),
        ] {
            if count == 0 {
                faults.push(format!("no {what}: the soak did not do its work"));
            }
        }
        if self.peak > MOST {
            faults.push(format!(
                "{:.0} KiB at the peak; {MOST:.0} are the most",
                self.peak
            ));
        }
        let grown = self.end.anonymous - self.start.anonymous.max(self.first.anonymous);
        if grown > MOST_GROWTH {
            faults.push(format!(
                "{grown:.0} KiB more heap at the end than at the start"
            ));
        }
        if let (Some(start), Some(end)) = (self.start.descriptors, self.end.descriptors) {
            if end > start {
                faults.push(format!(
                    "{end} descriptors at the end, {start} at the start"
                ));
            }
        }
        faults
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let descriptors = |rested: &Rested| match rested.descriptors {
            Some(count) => count.to_string(),
            None => "unknown (only root sees them)".to_owned(),
        };
        writeln!(f, "time           {:.0} s", self.time.as_secs_f64())?;
        writeln!(f, "answers        {}", self.answers)?;
        writeln!(f, "errors         {}", self.errors.len())?;
        writeln!(
            f,
            "contents       {} of the file, {} SIGHUPs",
            self.contents, self.reloads
        )?;
        writeln!(
            f,
            "restarts       {}, {} reconnects",
            self.restarts, self.reconnects
        )?;
        writeln!(f, "hostile        {} connections", self.hostile)?;
        writeln!(f, "peak memory    {:.0} KiB", self.peak)?;
        let (start, end) = (&self.start, &self.end);
        writeln!(
            f,
            "heap, stack    {:.0} KiB at the start, {:.0} at the end",
            start.anonymous, end.anonymous
        )?;
        let (start, end) = (descriptors(start), descriptors(end));
        writeln!(f, "descriptors    {start} at the start, {end} at the end")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Figures {
        let rested = Rested {
            anonymous: 300.0,
            descriptors: Some(12),
        };
        Figures {
            first: rested,
            start: rested,
            end: rested,
            peak: 9_000.0,
            restarts: 8,
            reloads: 1,
            answers: 1,
            hostile: 1,
            contents: 1,
            ..Figures::default()
        }
    }

    /// Everything that must not happen is a fault, and nothing else is.
    #[test]
    fn faults_are_found() {
        assert!(good().faults().is_empty());
        type Spoil = fn(&mut Figures);
        let spoilt: [(&str, Spoil); 6] = [
            ("stale", |f| f.errors.push("a stale answer".to_owned())),
            ("at the peak", |f| f.peak = 100_000.0),
            ("more heap", |f| f.end.anonymous += 2_049.0),
            ("descriptors", |f| f.end.descriptors = Some(13)),
            ("no answers", |f| f.answers = 0),
            ("no restarts", |f| f.restarts = 0),
        ];
        for (what, spoil) in spoilt {
            let mut figures = good();
            spoil(&mut figures);
            let faults = figures.faults();
            assert_eq!(faults.len(), 1, "{what}: {faults:?}");
            assert!(faults[0].contains(what), "{faults:?}");
        }
    }
}
