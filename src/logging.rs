// SPDX-License-Identifier: Apache-2.0

//! The log: lines on standard error, in the form that a terminal, a file or the journal expects.
//!
//! `RUST_LOG` is not read. There are four levels. `trace` is not among them, because the RPC crate logs whole
//! frames at that level.

use std::env;
use std::fmt::{self, Write as _};
use std::io::{self, Write as _};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::ValueEnum;
use nix::sys::stat::fstat;
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Level, Metadata, Subscriber};

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// Errors, which somebody must fix.
    Error,
    /// Also warnings.
    Warn,
    /// Also what was loaded and is served.
    #[default]
    Info,
    /// Also each request.
    Debug,
}

impl From<LogLevel> for Level {
    fn from(level: LogLevel) -> Self {
        match level {
            LogLevel::Error => Self::ERROR,
            LogLevel::Warn => Self::WARN,
            LogLevel::Info => Self::INFO,
            LogLevel::Debug => Self::DEBUG,
        }
    }
}

/// Sends the log to standard error from now on.
pub fn start(level: LogLevel) {
    let log = Log {
        level: LevelFilter::from_level(Level::from(level)),
        form: if is_journal() {
            Form::Journal
        } else {
            Form::Plain
        },
    };
    // This fails only if a logger was already installed.
    let _ = tracing::subscriber::set_global_default(log);
}

/// Whether standard error is connected to the journal: the check that systemd.exec(5) describes.
fn is_journal() -> bool {
    let Ok(stat) = fstat(io::stderr()) else {
        return false;
    };
    env::var("JOURNAL_STREAM").is_ok_and(|v| v == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// How a line begins.
enum Form {
    /// With the priority prefix that the journal parses; the journal adds the time.
    Journal,
    /// With time and level.
    Plain,
}

/// Writes each event as a line. This program opens no spans, so a registry that stores them is not needed: it
/// is most of tracing-subscriber, and would add four crates to the daemon's tree.
struct Log {
    level: LevelFilter,
    form: Form,
}

impl Log {
    fn line(&self, level: Level, now: SystemTime, fields: impl FnOnce(&mut String)) -> String {
        let mut line = String::new();
        match self.form {
            // sd-daemon(3).
            Form::Journal => line.push_str(match level {
                Level::ERROR => "<3>",
                Level::WARN => "<4>",
                Level::INFO => "<6>",
                _ => "<7>",
            }),
            Form::Plain => {
                let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
                // Writing to a string can't fail.
                let _ = write!(line, "{} {level:>5} ", Utc(since));
            }
        }
        fields(&mut line);
        line.push('\n');
        line
    }
}

impl Subscriber for Log {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= self.level
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn event(&self, event: &Event<'_>) {
        let level = *event.metadata().level();
        let line = self.line(level, SystemTime::now(), |line| {
            event.record(&mut Message(line));
        });
        // If the line cannot be written, it is lost; `eprintln!` would panic here.
        let _ = io::stderr().lock().write_all(line.as_bytes());
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// An event's message, followed by its other fields as `name=value`.
struct Message<'a>(&'a mut String);

impl Visit for Message<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        // Writing to a string can't fail.
        let _ = match field.name() {
            "message" => write!(self.0, "{value:?}"),
            name => write!(self.0, " {name}={value:?}"),
        };
    }
}

/// A time since 1970, formatted as in RFC 3339.
struct Utc(Duration);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs();
        let (year, month, day) = date(seconds / 86_400);
        let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
        let micros = self.0.subsec_micros();
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}Z"
        )
    }
}

/// The Gregorian date that is `days` days after 1970-01-01.
///
/// Years are counted from March, so that a leap day is the last day of its year and 400 years always have
/// 146,097 days.
fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    // March to July, and August to December, have 153 days.
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, next) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    (era * 400 + year + next, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Leap days of each kind, and the ends of months and years. The expected values are from `date -u -d
    /// @N`.
    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.000000Z"),
            (951_782_399, "2000-02-28T23:59:59.000000Z"),
            (951_782_400, "2000-02-29T00:00:00.000000Z"),
            (951_868_800, "2000-03-01T00:00:00.000000Z"),
            (1_709_164_800, "2024-02-29T00:00:00.000000Z"),
            (1_735_689_599, "2024-12-31T23:59:59.000000Z"),
            (1_735_689_600, "2025-01-01T00:00:00.000000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000000Z"),
            (4_107_542_399, "2100-02-28T23:59:59.000000Z"),
        ] {
            assert_eq!(Utc(Duration::from_secs(seconds)).to_string(), expected);
        }
        let micros = Utc(Duration::new(0, 1_234_567));
        assert_eq!(micros.to_string(), "1970-01-01T00:00:00.001234Z");
    }

    #[test]
    fn a_line_begins_as_its_reader_wants() {
        let line = |form| {
            let log = Log {
                level: LevelFilter::INFO,
                form,
            };
            log.line(Level::WARN, UNIX_EPOCH, |line| line.push_str("text"))
        };
        assert_eq!(line(Form::Journal), "<4>text\n");
        assert_eq!(
            line(Form::Plain),
            "1970-01-01T00:00:00.000000Z  WARN text\n"
        );
    }
}
