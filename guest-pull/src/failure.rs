// SPDX-License-Identifier: Apache-2.0

//! Why there is no image, as far as a caller tells the reasons apart.

use std::borrow::Cow;
use std::fmt;
use std::io;

use thiserror::Error;

/// Why a pull failed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub struct Failure {
    /// What kind of failure it is.
    pub kind: Kind,
    /// The reason.
    pub message: String,
    /// The number of the place that it is about, if there are several where the image may be.
    pub place: Option<usize>,
    /// Why places that were asked before have no image.
    pub before: Vec<Self>,
}

impl Failure {
    /// A failure of this kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            place: None,
            before: Vec::new(),
        }
    }

    /// That something failed with an error of the system: what, why, and what can be done about it. What can be done where
    /// the store has no room depends on the image, and is told elsewhere.
    pub fn of_io(what: impl fmt::Display, error: &io::Error) -> Self {
        let remedy = remedy(error).map_or_else(String::new, |remedy| format!("; {remedy}"));
        Self::new(Kind::of_io(error), format!("{what}: {error}{remedy}"))
    }

    /// That the kernel makes no thread or process.
    pub fn no_thread(error: &io::Error) -> Self {
        let text = format!(
            "no thread can be started: {error}; raise the limit of processes (TasksMax= and LimitNPROC= of the unit), or give \
             the VM more memory"
        );
        Self::new(Kind::Exhausted, text)
    }

    /// This, of the place with this number.
    pub fn at(mut self, place: usize) -> Self {
        self.place = Some(place);
        self
    }
}

/// What can be done about an error of the system, if more than its own text says.
fn remedy(error: &io::Error) -> Option<&'static str> {
    match (error.kind(), error.raw_os_error()) {
        (io::ErrorKind::QuotaExceeded, _) => {
            Some("the quota of the store's owner is used up, whatever the file system has")
        }
        (io::ErrorKind::FileTooLarge, _) => Some(
            "a file can't be that large in this file system, or by the limit of the process (LimitFSIZE= of the unit)",
        ),
        (io::ErrorKind::OutOfMemory, _) => Some("memory is short; give the VM more"),
        (io::ErrorKind::ReadOnlyFilesystem, _) => Some(
            "set work_dir in [image] of cdh.toml to a file system that can be written; a disk with errors becomes read-only",
        ),
        (_, Some(libc::EMFILE)) => {
            Some("this process has too many files open; raise LimitNOFILE= of the unit")
        }
        (_, Some(libc::ENFILE)) => {
            Some("all processes together have too many files open; raise the sysctl fs.file-max")
        }
        _ => None,
    }
}

/// A kind of failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The registry wants another login, or any.
    Refused,
    /// The registry knows the login, and does not let it have the image.
    Forbidden,
    /// The registry has no such image.
    Missing,
    /// The registry, or the daemon, can't be reached.
    Unreachable,
    /// The registry is there, and answers that it can't serve the image now.
    Busy,
    /// The store has no room.
    NoRoom,
    /// The machine, or a limit of the process, has no more of something else: memory, descriptors, threads, loop devices.
    Exhausted,
    /// The caller's time is over.
    Late,
    /// The caller went away.
    Gone,
    /// The configuration forbids it, or asks for what this program can't do.
    Configuration,
    /// The request can't be meant.
    Invalid,
    /// Anything else.
    Other,
}

impl Kind {
    /// Those that the worker can find, which it names on the wire.
    const NAMES: [(Self, &'static str); 9] = [
        (Self::Refused, "refused"),
        (Self::Forbidden, "forbidden"),
        (Self::Missing, "missing"),
        (Self::Unreachable, "unreachable"),
        (Self::Busy, "busy"),
        (Self::NoRoom, "no-room"),
        (Self::Exhausted, "exhausted"),
        (Self::Configuration, "configuration"),
        (Self::Other, "other"),
    ];

    /// Of an error of the store's file system.
    pub fn of_io(error: &io::Error) -> Self {
        match (error.kind(), error.raw_os_error()) {
            (io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded, _) => Self::NoRoom,
            (io::ErrorKind::OutOfMemory, _) | (_, Some(libc::EMFILE | libc::ENFILE)) => {
                Self::Exhausted
            }
            _ => Self::Other,
        }
    }

    /// Its name on the wire.
    pub fn name(self) -> &'static str {
        let found = Self::NAMES.iter().find(|(kind, _)| *kind == self);
        found.map_or("other", |(_, name)| name)
    }

    /// The kind of this name.
    pub fn parse(name: &str) -> Self {
        let found = Self::NAMES.iter().find(|(_, known)| *known == name);
        found.map_or(Self::Other, |(kind, _)| *kind)
    }
}

/// How much of each end of a text from outside a message has, in characters. A path has up to 4095 bytes, and a name in a
/// broken archive up to a MiB; the reason comes behind it, and the message has a limit too.
const SHOWN_OF_AN_END: usize = 200;

/// A text for a message: if it is long, its beginning and its end.
pub(crate) fn shortened(text: &str) -> Cow<'_, str> {
    let characters = text.chars().count();
    if characters <= 2 * SHOWN_OF_AN_END + 1 {
        return Cow::Borrowed(text);
    }
    let start: String = text.chars().take(SHOWN_OF_AN_END).collect();
    let end: String = text.chars().skip(characters - SHOWN_OF_AN_END).collect();
    Cow::Owned(format!("{start}\u{2026}{end}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both ends of a long text are shown, and all of a short one.
    #[test]
    fn long_texts_are_shortened() {
        let short = "\u{e9}".repeat(401);
        assert_eq!(shortened(&short), short);
        let long = format!("start{}end", "\u{e9}".repeat(1000));
        let shown = shortened(&long);
        assert_eq!(shown.chars().count(), 401);
        assert!(
            shown.starts_with("start") && shown.ends_with("end"),
            "{shown}"
        );
    }
}
