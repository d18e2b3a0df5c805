// SPDX-License-Identifier: Apache-2.0

//! What the HTTP library does not bound or tell of a connection.
//!
//! It waits for the network within its own calls, and some of what a server can send ends none of them: the trailers of a
//! chunked body, a TLS record in small parts, the answer of a proxy to the request for a tunnel. Each such wait is on the
//! thread of the caller, so that thread has a time by which its call has to be over. And a connection that was kept for
//! another request may have been closed by the server at the moment when the request was sent. That says nothing about the
//! server, so the request is sent again on another one.

use std::cell::Cell;
use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, NextTimeout, Transport, time,
};
use ureq::{Error, Timeout};

use crate::registry::times::{CONNECT, STALL};

/// What is said when the time is over.
pub(super) const LATE: &str = "the answer takes too long";

thread_local! {
    /// When the calls of this thread have to be over.
    static END: Cell<Option<Instant>> = const { Cell::new(None) };
    /// How long a server may take until its answer begins.
    static ANSWER: Cell<Duration> = const { Cell::new(STALL) };
}

/// Lets servers take so long in a call until their answers begin.
pub(super) fn answered_within<T>(time: Duration, call: impl FnOnce() -> T) -> T {
    /// So that a call that panics leaves nothing behind.
    struct Before(Duration);
    impl Drop for Before {
        fn drop(&mut self) {
            ANSWER.set(self.0);
        }
    }
    let _before = Before(ANSWER.replace(time));
    call()
}

/// How long a server may take until its answer begins.
pub(super) fn answer_time() -> Duration {
    ANSWER.get()
}

/// Lets a call take so long at most, or as long as the call around it, if that is shorter.
pub(super) fn within<T>(time: Duration, call: impl FnOnce() -> T) -> T {
    /// So that a call that panics leaves nothing behind.
    struct Before(Option<Instant>);
    impl Drop for Before {
        fn drop(&mut self) {
            END.set(self.0);
        }
    }
    let before = Before(END.get());
    let end = Instant::now().checked_add(time);
    END.set(match (before.0, end) {
        (Some(before), Some(end)) => Some(before.min(end)),
        (before, end) => before.or(end),
    });
    call()
}

/// Lets the call that runs take so long from now on at most.
fn shorten(time: Duration) {
    let end = Instant::now().checked_add(time);
    END.set(match (END.get(), end) {
        (Some(before), Some(end)) => Some(before.min(end)),
        (before, _) => before,
    });
}

/// Whether that time is over.
pub(super) fn is_over() -> bool {
    left().is_some_and(|left| left.is_zero())
}

/// How much of that time is left; none if it has no end.
fn left() -> Option<Duration> {
    let end = END.get()?;
    Some(end.saturating_duration_since(Instant::now()))
}

/// Why the body of an answer does not go on, in words.
pub(super) fn said(error: &io::Error) -> String {
    let inner = error.get_ref();
    match inner.and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::Timeout(_)) if is_over() => LATE.to_owned(),
        Some(Error::Timeout(_)) => format!("nothing of it came for {} s", STALL.as_secs()),
        _ if error.kind() == io::ErrorKind::UnexpectedEof => "the connection ended".to_owned(),
        _ => error.to_string(),
    }
}

/// Whether a request had no answer because the connection was closed while nobody used it.
pub(super) fn is_stale(error: &Error) -> bool {
    matches!(error, Error::Io(error) if error.get_ref().is_some_and(|inner| inner.is::<Stale>()))
}

/// The connection was closed before the request.
#[derive(Debug)]
struct Stale;

impl fmt::Display for Stale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the connection was closed since the request before")
    }
}

impl std::error::Error for Stale {}

/// Bounds the connections that another connector makes.
#[derive(Debug)]
pub(super) struct Bounding<C>(pub C);

impl<C: Connector<()>> Connector<()> for Bounding<C> {
    type Out = Bounded<C::Out>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<()>,
    ) -> Result<Option<Self::Out>, Error> {
        if is_over() {
            return Err(Error::Timeout(Timeout::Connect));
        }
        // The name is resolved by now, which may have taken no time. Without a call around it there is nothing to end it.
        shorten(CONNECT + answer_time());
        let inner = self.0.connect(details, chained)?;
        Ok(inner.map(|inner| Bounded {
            inner,
            is_reused: false,
            is_answered: false,
        }))
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Bounded<T> {
    inner: T,
    /// Whether it was kept after a request, for the next.
    is_reused: bool,
    /// Whether something came since then.
    is_answered: bool,
}

impl<T> Bounded<T> {
    /// What a failure means.
    fn told<V>(&self, result: Result<V, Error>) -> Result<V, Error> {
        let is_closed = |error: &Error| {
            let Error::Io(error) = error else {
                return false;
            };
            matches!(
                error.kind(),
                io::ErrorKind::BrokenPipe
                    | io::ErrorKind::ConnectionAborted
                    | io::ErrorKind::ConnectionReset
                    | io::ErrorKind::UnexpectedEof
            )
        };
        match result {
            Err(error) if self.is_reused && !self.is_answered && is_closed(&error) => {
                Err(io::Error::new(io::ErrorKind::ConnectionReset, Stale).into())
            }
            other => other,
        }
    }
}

impl<T: Transport> Transport for Bounded<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let sent = self.inner.transmit_output(amount, timeout);
        self.told(sent)
    }

    fn await_input(&mut self, mut timeout: NextTimeout) -> Result<bool, Error> {
        if let Some(left) = left() {
            if left.is_zero() {
                return Err(Error::Timeout(Timeout::PerRead));
            }
            if left < *timeout.after {
                timeout.after = time::Duration::Exact(left);
                timeout.reason = Timeout::PerRead;
            }
        }
        let came = self.inner.await_input(timeout);
        let came = match came {
            Ok(false) => self
                .told(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()))
                // An end that means something is the library's matter.
                .or_else(|error| match is_stale(&error) {
                    true => Err(error),
                    false => Ok(false),
                }),
            other => self.told(other),
        };
        self.is_answered |= matches!(came, Ok(true));
        came
    }

    fn is_open(&mut self) -> bool {
        // It is asked when the connection is kept, and when it is used again.
        self.is_reused = true;
        self.is_answered = false;
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A call can't take longer than the one around it, and leaves nothing behind.
    #[test]
    fn times_are_nested() {
        let (short, long) = (Duration::from_secs(1), Duration::from_secs(100));
        assert_eq!(left(), None);
        within(short, || {
            within(long, || assert!(left() <= Some(short)));
            within(Duration::ZERO, || assert_eq!(left(), Some(Duration::ZERO)));
            within(Duration::MAX, || assert!(left() <= Some(short)));
            assert!(left() > Some(Duration::ZERO));
        });
        within(Duration::MAX, || assert_eq!(left(), None));
        within(long, || {
            shorten(short);
            assert!(left() <= Some(short));
            shorten(long);
            assert!(left() <= Some(short));
        });
        shorten(short);
        assert_eq!(left(), None);
    }
}
