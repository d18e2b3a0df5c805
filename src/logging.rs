// SPDX-License-Identifier: Apache-2.0

//! The log: lines on standard error, as a terminal, a file or the journal wants them.
//!
//! `RUST_LOG` is not read: the level is one of four, and `trace`, at which the RPC crate logs whole
//! frames, does not exist here.

use std::env;
use std::fmt;
use std::io;

use clap::ValueEnum;
use nix::sys::stat::fstat;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::{FormatEvent, FormatFields, Writer};
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};
use tracing_subscriber::fmt::{FmtContext, fmt};
use tracing_subscriber::registry::LookupSpan;

/// How much is logged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogLevel {
    /// What must be mended.
    Error,
    /// And what may have to be.
    Warn,
    /// And what was loaded and is served.
    #[default]
    Info,
    /// And each request.
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
    let format = if is_journal() {
        Format::Journal
    } else {
        Format::Plain
    };
    let log = fmt()
        .with_max_level(Level::from(level))
        .with_writer(io::stderr)
        // A log that can't be written is lost; said on standard error, it would be a panic.
        .log_internal_errors(false)
        .event_format(format)
        .finish();
    // It fails only where a log was started before.
    let _ = tracing::subscriber::set_global_default(log);
}

/// Whether standard error is the journal, as systemd.exec(5) tells to find out.
fn is_journal() -> bool {
    let Ok(stat) = fstat(io::stderr()) else {
        return false;
    };
    env::var("JOURNAL_STREAM").is_ok_and(|v| v == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// How a line begins.
enum Format {
    /// With the priority that the journal reads; it has the time itself.
    Journal,
    /// With time and level.
    Plain,
}

impl<S, N> FormatEvent<S, N> for Format
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let level = *event.metadata().level();
        match self {
            // sd-daemon(3).
            Self::Journal => writer.write_str(match level {
                Level::ERROR => "<3>",
                Level::WARN => "<4>",
                Level::INFO => "<6>",
                _ => "<7>",
            })?,
            Self::Plain => {
                SystemTime.format_time(&mut writer)?;
                write!(writer, " {level:>5} ")?;
            }
        }
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}
