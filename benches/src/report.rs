// SPDX-License-Identifier: Apache-2.0

//! The report, as a table and as JSON.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::run::Run;

/// A target.
#[derive(Clone, Copy)]
enum Target {
    AtMost(f64),
    AtLeast(f64),
}

/// One figure.
pub struct Row {
    section: &'static str,
    name: String,
    value: f64,
    unit: &'static str,
    floors: Vec<(&'static str, f64, Option<Target>)>,
    target: Option<Target>,
}

impl Row {
    /// Adds a floor, measured in the same run.
    pub fn against(&mut self, floor: &'static str, value: f64) -> &mut Self {
        self.floors.push((floor, value, None));
        self
    }

    /// Sets an upper limit for the ratio to the last floor, or for the figure itself if there is no floor.
    pub fn at_most(&mut self, bound: f64) -> &mut Self {
        self.bound(Target::AtMost(bound))
    }

    /// Sets a lower limit in the same way.
    pub fn at_least(&mut self, bound: f64) -> &mut Self {
        self.bound(Target::AtLeast(bound))
    }

    fn bound(&mut self, target: Target) -> &mut Self {
        match self.floors.last_mut() {
            Some((_, _, bound)) => *bound = Some(target),
            None => self.target = Some(target),
        }
        self
    }

    /// Each ratio, and the figure itself, with its target.
    fn verdicts(&self) -> impl Iterator<Item = (f64, Target)> + '_ {
        let own = self.target.map(|target| (self.value, target));
        let ratios = self.floors.iter();
        let ratios = ratios.filter_map(|(_, floor, target)| Some((self.value / floor, (*target)?)));
        own.into_iter().chain(ratios)
    }

    fn json(&self) -> Value {
        let bound = |target: Option<Target>| match target {
            Some(Target::AtMost(bound)) => json!({"at_most": bound}),
            Some(Target::AtLeast(bound)) => json!({"at_least": bound}),
            None => Value::Null,
        };
        let floors = self.floors.iter().map(|(name, value, target)| {
            json!({
                "floor": name, "value": value, "ratio": self.value / value, "target": bound(*target),
            })
        });
        json!({
            "section": self.section, "name": self.name, "value": self.value, "unit": self.unit,
            "target": bound(self.target), "floors": floors.collect::<Vec<_>>(),
            "reached": self.verdicts().all(|(value, target)| reached(value, target)),
        })
    }
}

fn reached(value: f64, target: Target) -> bool {
    match target {
        Target::AtMost(bound) => value <= bound,
        Target::AtLeast(bound) => value >= bound,
    }
}

/// All figures of a run.
#[derive(Default)]
pub struct Report {
    rows: Vec<Row>,
    missing: Vec<Missing>,
    notes: Vec<String>,
}

/// What a peer has no figures for, and why.
struct Missing {
    section: Option<String>,
    peer: &'static str,
    reason: String,
}

impl Report {
    /// Adds a figure.
    pub fn row(
        &mut self,
        section: &'static str,
        name: impl Into<String>,
        value: f64,
        unit: &'static str,
    ) -> &mut Row {
        let at = self.rows.len();
        self.rows.push(Row {
            section,
            name: name.into(),
            value,
            unit,
            floors: Vec::new(),
            target: None,
        });
        &mut self.rows[at]
    }

    /// Says that a peer has no figures in a section, or in any, and why in a few words.
    pub fn missing(&mut self, section: Option<&str>, peer: &'static str, reason: &str) {
        self.missing.push(Missing {
            section: section.map(str::to_owned),
            peer,
            reason: reason.to_owned(),
        });
    }

    /// Adds a note below the table.
    pub fn note(&mut self, note: impl Into<String>) {
        self.notes.push(note.into());
    }

    /// The table, with one figure a line; missed targets are marked.
    pub fn table(&self) -> String {
        let mut text = String::new();
        let mut section = "";
        for row in &self.rows {
            if row.section != section {
                section = row.section;
                let _ = writeln!(text, "\n{section}");
            }
            let value = format!("{} {}", number(row.value), row.unit);
            let mut line = format!("  {:<42} {value:>14}", row.name);
            for (floor, value, _) in &row.floors {
                let against = format!("{} {floor}", number(*value));
                let _ = write!(line, "  {:>5}x of {against:<16}", number(row.value / value));
            }
            for (value, target) in row.verdicts() {
                let mark = if reached(value, target) {
                    "ok"
                } else {
                    "MISSED"
                };
                let _ = match target {
                    Target::AtMost(bound) => write!(line, "  {mark} (<= {bound})"),
                    Target::AtLeast(bound) => write!(line, "  {mark} (>= {bound})"),
                };
            }
            let _ = writeln!(text, "{}", line.trim_end());
        }
        for note in &self.notes {
            let _ = writeln!(text, "\n{note}");
        }
        text
    }

    /// The report as JSON.
    pub fn json(&self, run: &Run) -> Value {
        let rows: Vec<_> = self.rows.iter().map(Row::json).collect();
        let missing = self.missing.iter().map(|missing| {
            json!({"section": missing.section, "peer": missing.peer, "reason": missing.reason})
        });
        json!({
            "run": run.json(), "figures": rows, "missing": missing.collect::<Vec<_>>(),
            "notes": self.notes,
        })
    }
}

/// Formats a number with three significant digits, and large ones with commas.
pub fn number(value: f64) -> String {
    match value.abs() {
        v if v >= 1e4 => {
            let digits = format!("{value:.0}");
            let mut text = String::new();
            for (at, digit) in digits.chars().enumerate() {
                if at > 0 && (digits.len() - at) % 3 == 0 {
                    text.push(',');
                }
                text.push(digit);
            }
            text
        }
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// A missed target is marked, and nothing else is.
    #[test]
    fn a_missed_target_shows() {
        let mut report = Report::default();
        report
            .row("s", "slow", 3.0, "ms")
            .against("echo", 2.0)
            .at_most(1.3);
        report
            .row("s", "fast", 2.0, "ms")
            .against("echo", 2.0)
            .at_most(1.3);
        report
            .row("s", "many", 90.0, "/s")
            .against("a", 100.0)
            .at_least(0.25);
        report.row("s", "large", 9.0, "MB").at_most(8.0);
        let table = report.table();
        let line = |name: &str| table.lines().find(|line| line.contains(name)).unwrap_or("");
        assert!(line("slow").contains("1.50x of 2.00 echo") && line("slow").contains("MISSED"));
        assert!(line("fast").contains("ok (<= 1.3)"));
        assert!(line("many").contains("ok (>= 0.25)"));
        assert!(line("large").contains("MISSED"));
        let run = Run::of("bench", Path::new("/nonexistent"), true);
        let json = report.json(&run);
        assert_eq!(json["figures"][0]["reached"], false);
        assert_eq!(json["run"]["quick"], true);
    }

    #[test]
    fn large_numbers_have_commas() {
        assert_eq!(number(1_234_567.0), "1,234,567");
        assert_eq!(number(123_456.0), "123,456");
    }
}
