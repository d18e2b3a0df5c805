// SPDX-License-Identifier: Apache-2.0

//! What the worker logs. Its standard error is a connection to the mounter, which writes the lines to its own: escaped,
//! shortened, and not without end. With the mounter's standard error itself, a worker that was taken over could write any line
//! there, and change or shorten the file behind it.

use std::io;
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

/// How much of a line is shown, in characters: a message of an archive has two paths, or two shortened ends of them.
const MAX_CHARACTERS: usize = 2_000;

/// How much of a line is kept until its end comes, in bytes: the characters above, of four bytes each.
const MAX_KEPT: usize = 4 * MAX_CHARACTERS;

/// How many lines of a pull are shown: two for each of 500 layers.
const MAX_LINES: usize = 1_000;

/// How much of a pull is shown, in bytes.
const MAX_BYTES: usize = 256 << 10;

/// What each line begins with.
const START: &str = "guest-pull: ";

/// The stack of the thread, which formats one line.
const STACK: usize = 128 << 10;

/// How long the rest of the lines is waited for when the worker has ended. It has no descendants that could have the
/// connection open still, unless its confinement lacks parts.
const ENDING_TIME: Duration = Duration::from_secs(2);

/// The thread that passes the lines on. It ends when nobody has the other end open any more.
pub(super) struct Log {
    /// Nothing comes; it is closed when the thread has ended.
    ended: Receiver<()>,
}

impl Log {
    /// Starts the thread; gives what is to be the worker's standard error.
    pub(super) fn start() -> io::Result<(Self, OwnedFd)> {
        // A pipe would take a system call that the unit's list does not have otherwise.
        let (source, theirs) = UnixStream::pair()?;
        source.shutdown(Shutdown::Write)?;
        let (ending, ended) = channel::<()>();
        let pass_on = move || {
            pass_on(source, &mut io::stderr());
            drop(ending);
        };
        thread::Builder::new().stack_size(STACK).spawn(pass_on)?;
        Ok((Self { ended }, theirs.into()))
    }

    /// Waits until what the worker has written is passed on. It has ended.
    pub(super) fn end(&self) {
        let _ = self.ended.recv_timeout(ENDING_TIME);
    }
}

/// Passes lines on until there are no more. Afterwards they are still read, so that a worker that logs much goes on.
fn pass_on(mut source: impl io::Read, target: &mut dyn io::Write) {
    let mut lines = Lines::new(target);
    let mut part = [0; 4096];
    loop {
        match source.read(&mut part) {
            Ok(0) => break,
            Ok(length) => lines.take(part.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => break,
        }
    }
    if !lines.line.is_empty() {
        lines.end_line();
    }
}

/// Lines that are written while they come.
struct Lines<'t> {
    target: &'t mut dyn io::Write,
    /// What came of the next line, up to some.
    line: Vec<u8>,
    lines_left: usize,
    bytes_left: usize,
}

impl<'t> Lines<'t> {
    fn new(target: &'t mut dyn io::Write) -> Self {
        Self {
            target,
            line: Vec::new(),
            lines_left: MAX_LINES,
            bytes_left: MAX_BYTES,
        }
    }

    fn take(&mut self, mut bytes: &[u8]) {
        while self.lines_left > 0 && !bytes.is_empty() {
            let end = bytes.iter().position(|byte| *byte == b'\n');
            let (part, rest) = match end {
                Some(end) => (bytes.get(..end), bytes.get(end + 1..)),
                None => (Some(bytes), None),
            };
            let part = part.unwrap_or_default();
            // One byte more shows that there was more.
            let room = (MAX_KEPT + 1).saturating_sub(self.line.len());
            self.line.extend(part.iter().take(room));
            if end.is_some() {
                self.end_line();
            }
            bytes = rest.unwrap_or_default();
        }
    }

    /// Writes the line. That it can't be written is no reason to end the pull.
    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        if self.lines_left == 0 {
            return;
        }
        let text = shown(&String::from_utf8_lossy(&line));
        self.lines_left -= 1;
        let left = self.bytes_left.checked_sub(text.len());
        self.bytes_left = left.unwrap_or_default();
        if left.is_some() {
            let _ = self.target.write_all(text.as_bytes());
        } else {
            self.lines_left = 0;
        }
        if self.lines_left == 0 {
            let text = format!("{START}the worker logs too much: the rest is left out\n");
            let _ = self.target.write_all(text.as_bytes());
        }
    }
}

/// A line as it is shown: what would be no line of its own, or would move a terminal's cursor, is escaped. Quotes and
/// backslashes stay: the worker's own messages have escaped what came from outside.
fn shown(line: &str) -> String {
    let (start, text) = match line.strip_prefix(START) {
        Some(text) => (START, text),
        // Of a library, or of a panic.
        None => ("guest-pull: the worker: ", line),
    };
    let mut shown = start.to_owned();
    let mut characters = text.chars();
    for c in characters.by_ref().take(MAX_CHARACTERS) {
        match c {
            '"' | '\'' | '\\' => shown.push(c),
            c => shown.extend(c.escape_debug()),
        }
    }
    if characters.next().is_some() {
        shown.push('\u{2026}');
    }
    shown.push('\n');
    shown
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::io::Write as _;

    use super::*;

    /// What is passed on of what is written.
    fn passed(written: Vec<u8>) -> String {
        let (source, mut theirs) = UnixStream::pair().unwrap();
        let writing = thread::spawn(move || theirs.write_all(&written));
        let mut target = Vec::new();
        pass_on(source, &mut target);
        writing.join().unwrap().unwrap();
        String::from_utf8(target).unwrap()
    }

    /// The worker's messages come as they are, and nothing looks like a line that it is not.
    #[test]
    fn lines_are_escaped() {
        let own = "guest-pull: /a/b: \"x\\n\": \u{e9}\n";
        assert_eq!(passed(own.into()), own);
        let odd = b"\x1b[2J\rguest-pull: x\0\xff\xe2\x80\xae\nend".to_vec();
        let expected = "guest-pull: the worker: \\u{1b}[2J\\rguest-pull: x\\0\u{fffd}\\u{202e}\n\
            guest-pull: the worker: end\n";
        assert_eq!(passed(odd), expected);
        assert_eq!(passed(Vec::new()), "");
    }

    /// Neither a line nor many of them can fill the log, and the worker is not held up.
    #[test]
    fn lines_are_bounded() {
        let long = passed(vec![b'x'; 1 << 20]);
        assert!(long.ends_with("x\u{2026}\n"));
        assert!(long.len() < MAX_CHARACTERS + 100, "{}", long.len());
        let many = passed(vec![b'\n'; 1 << 20]);
        assert_eq!(many.lines().count(), MAX_LINES + 1);
        let line = [&[b'\x1b'; MAX_CHARACTERS][..], b"\n"].concat();
        let large = passed(line.repeat(500));
        assert!(large.len() < MAX_BYTES + 100, "{}", large.len());
        for all in [many, large] {
            assert!(all.ends_with("the rest is left out\n"));
        }
    }
}
