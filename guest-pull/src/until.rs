// SPDX-License-Identifier: Apache-2.0

//! When a pull is given up: the caller goes away, or its time is over.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::failure::{Failure, Kind};

/// What ends a pull early.
#[derive(Clone, Copy, Debug, Default)]
pub struct Until<'u> {
    /// The connection of the caller, who goes away by closing it.
    pub caller: Option<&'u UnixStream>,
    /// When the caller's time is over.
    pub deadline: Option<Instant>,
}

impl Until<'_> {
    /// Waits until there is something to read from `source`, or its other end is closed.
    ///
    /// # Errors
    ///
    /// If the caller went away before that, or its time is over.
    pub fn wait_for(&self, source: BorrowedFd<'_>) -> Result<(), Failure> {
        loop {
            self.check()?;
            // What the caller sends meanwhile is of no interest, and would wake this again and again.
            let mut polled = vec![PollFd::from_borrowed_fd(source, PollFlags::IN)];
            let caller = self.caller.map(|caller| {
                PollFd::from_borrowed_fd(caller.as_fd(), PollFlags::RDHUP | PollFlags::HUP)
            });
            polled.extend(caller);
            wait(&mut polled, self.left()).map_err(|error| {
                Failure::new(Kind::Other, format!("can't wait for the worker: {error}"))
            })?;
            if polled
                .first()
                .is_some_and(|source| !source.revents().is_empty())
            {
                return Ok(());
            }
        }
    }

    /// Whether the pull is to go on.
    ///
    /// # Errors
    ///
    /// If the caller went away, or its time is over.
    pub fn check(&self) -> Result<(), Failure> {
        if self.caller.is_some_and(is_closed) {
            return Err(Failure::new(Kind::Gone, "the caller went away"));
        }
        match self.left() {
            Some(left) if left.is_zero() => {
                Err(Failure::new(Kind::Late, "the caller's time is over"))
            }
            _ => Ok(()),
        }
    }

    fn left(&self) -> Option<Duration> {
        let deadline = self.deadline?;
        Some(deadline.saturating_duration_since(Instant::now()))
    }
}

/// Whether the other end has closed its side. What it sent before need not have been read.
fn is_closed(stream: &UnixStream) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(
        stream.as_fd(),
        PollFlags::RDHUP | PollFlags::HUP,
    )];
    wait(&mut polled, Some(Duration::ZERO)).is_ok() && !polled[0].revents().is_empty()
}

/// Whether a small message can be written without waiting for the other end to read.
pub fn has_room(stream: &UnixStream) -> bool {
    let mut polled = [PollFd::from_borrowed_fd(stream.as_fd(), PollFlags::OUT)];
    wait(&mut polled, Some(Duration::ZERO)).is_ok() && polled[0].revents() == PollFlags::OUT
}

/// poll(2), again after signals; a long wait is cut, which its callers don't mind.
fn wait(polled: &mut [PollFd<'_>], left: Option<Duration>) -> io::Result<()> {
    let most = Duration::from_secs(3600);
    let left = left.unwrap_or(most).min(most);
    let time = Timespec {
        tv_sec: left.as_secs() as i64,
        tv_nsec: left.subsec_nanos().into(),
    };
    match poll(polled, Some(&time)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
