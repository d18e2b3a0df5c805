// SPDX-License-Identifier: Apache-2.0

//! The connection of one peer: one task reads frames and writes the answers in order.
//!
//! Requests that were read together are answered together. While the peer does not read its answers, nothing
//! more is read from it, which bounds the memory that it can use.

use std::future::pending;
use std::io;
use std::os::fd::AsRawFd as _;
use std::pin::pin;
use std::sync::Arc;

use bytes::BufMut as _;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, Shutdown, recv, shutdown};
use tokio::io::AsyncReadExt as _;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};
use ttrpc::proto::MESSAGE_HEADER_LENGTH;
use ttrpc::{Code, MessageHeader, Response, get_status};
use zeroize::Zeroize as _;

use crate::server::admission::Permit;
use crate::server::fdstore::Slot;
use crate::server::later::Unanswered;
use crate::server::limits::{
    ANSWERED_BYTES, BATCH_BYTES, FRAME_TIME, IDLE_BUFFER_BYTES, MAX_MESSAGE_BYTES, STORE_AFTER,
};
use crate::server::output::Output;
use crate::server::router::Router;

/// Serves one peer until it closes the connection or `stop` becomes true. After `stop`, requests that have
/// arrived are still answered; then the connection is closed, or left in the service manager's descriptor
/// store.
///
/// If there is a `slot` in that store, the connection is in it while it is idle between two requests.
///
/// # Errors
///
/// If reading from or writing to the socket fails.
pub async fn run(
    mut stream: UnixStream,
    mut permit: Permit,
    mut slot: Option<Slot>,
    router: Arc<Router>,
    mut stop: watch::Receiver<bool>,
) -> io::Result<()> {
    let peer = permit.peer();
    let mut input = Input::default();
    let mut output = Output::default();
    let mut unanswered = Unanswered::default();
    let (mut last, mut stopped) = (false, false);
    // An error means that the sender was dropped, which ends the connection too.
    let mut stopping = pin!(async move { drop(stop.wait_for(|stop| *stop).await) });
    // When the connection is put into the store, if it is still idle then.
    let mut store_at = Some(Instant::now() + STORE_AFTER);
    while !last {
        if stopped {
            // A client whose connection is kept can ask again, and is better served by an answer than by the end of the
            // connection.
            while let Some(pending) = unanswered.give_up() {
                router.finish(pending, &given_up(), &mut output)?;
            }
            output.flush(&mut stream).await?;
        }
        if stopped && input.is_between_frames() {
            if let Some(mut kept) = slot.take() {
                if has_unread(&stream)? {
                    // The request was sent before the end, so it is answered.
                    slot = Some(kept);
                } else if kept.store(&stream) {
                    kept.leave_in_store();
                    return Ok(());
                } else {
                    end_input(&stream)?;
                }
            }
        }
        let deadline = input.deadline();
        let rest = match &slot {
            // The next process could not answer what this one works on.
            Some(slot)
                if !slot.is_stored() && input.is_between_frames() && unanswered.is_empty() =>
            {
                store_at
            }
            _ => None,
        };
        tokio::select! {
            // `stop` is checked first: a peer that is never idle must not delay the end.
            biased;
            () = &mut stopping, if !stopped => {
                stopped = true;
                if slot.is_none() {
                    end_input(&stream)?;
                }
                continue;
            }
            (pending, response) = unanswered.next() => {
                router.finish(pending, &response, &mut output)?;
                output.flush(&mut stream).await?;
                continue;
            }
            ended = input.wait_and_read(&mut stream, &mut slot) => last = ended?,
            () = at(deadline) => return Err(io::Error::other("a frame took too long")),
            () = at(rest) => {
                if let Some(slot) = &mut slot {
                    // If the store is full, the connection stays out of it.
                    slot.store(&stream);
                    store_at = None;
                }
                continue;
            }
        }
        if slot.is_some() {
            store_at = Some(Instant::now() + STORE_AFTER);
        }
        let mut read = router.note_read();
        if input.has_several() {
            // A busy peer is seldom alone. The other connections that are ready read first, so that one check
            // of the files serves all of them. A single request does not wait for that. The memory that they
            // all hold meanwhile is limited.
            if !permit.set_buffered(input.size() + output.size()) {
                return Err(no_room());
            }
            yield_now().await;
        }
        while let Some((header, body)) = input.next_frame() {
            router.refresh_after(read);
            match body {
                Some(body) => {
                    if let Some(pending) = router.answer(header, body, peer, &mut output)? {
                        unanswered.push(pending);
                    }
                }
                None => router.oversized(header, peer, &mut output)?,
            }
            if output.len() >= ANSWERED_BYTES {
                if !permit.set_buffered(input.size() + output.size()) {
                    return Err(no_room());
                }
                output.flush(&mut stream).await?;
                // The files may have changed while the peer read its answers.
                read = router.note_read();
            }
        }
        if !permit.set_buffered(input.size() + output.size()) {
            return Err(no_room());
        }
        output.flush(&mut stream).await?;
        input.compact();
        // This always succeeds, since it is less than before.
        let _ = permit.set_buffered(input.size());
    }
    Ok(())
}

/// The answer to what is still worked on when the daemon stops.
fn given_up() -> Response {
    let mut response = Response::new();
    let text = "offline-fs-kbc is being stopped or restarted; ask again";
    response.set_status(get_status(Code::UNAVAILABLE, text));
    response
}

/// Waits until `time`, or for ever if there is none.
async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => pending().await,
    }
}

/// Shuts down the receiving side: data that has arrived can still be read, and nothing more arrives.
fn end_input(stream: &UnixStream) -> io::Result<()> {
    Ok(shutdown(stream.as_raw_fd(), Shutdown::Read)?)
}

/// Whether unread data, or the end of the stream, has arrived.
fn has_unread(stream: &UnixStream) -> io::Result<bool> {
    let flags = MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT;
    loop {
        match recv(stream.as_raw_fd(), &mut [0], flags) {
            Ok(_) => return Ok(true),
            Err(Errno::EAGAIN) => return Ok(false),
            Err(Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn no_memory() -> io::Error {
    io::Error::from(io::ErrorKind::OutOfMemory)
}

fn no_room() -> io::Error {
    io::Error::other("the limit on what all connections together may buffer is reached")
}

/// Bytes that were read and not yet answered.
///
/// The buffer grows with the bytes that arrive, never by the length that a header announces.
#[derive(Default)]
struct Input {
    buffer: Vec<u8>,
    /// How many bytes at the beginning of the buffer were answered.
    answered: usize,
    /// The header of an oversized frame, and how many bytes of its body are still to be discarded.
    oversized: Option<(MessageHeader, usize)>,
    /// When the incomplete frame at the end of the buffer began to arrive.
    frame_start: Option<Instant>,
    /// Whether a frame was taken since `frame_start` was set.
    took_frame: bool,
}

impl Input {
    /// How much memory the buffer takes.
    fn size(&self) -> usize {
        self.buffer.capacity()
    }

    /// When the incomplete frame must be complete. There is no deadline between two frames.
    fn deadline(&self) -> Option<Instant> {
        self.frame_start.map(|frame_start| frame_start + FRAME_TIME)
    }

    /// Whether no part of an unanswered frame has been read.
    fn is_between_frames(&self) -> bool {
        self.buffer.is_empty() && self.oversized.is_none()
    }

    /// Waits for data and reads what has arrived. Returns whether the peer has closed its side.
    ///
    /// It is safe to cancel this: no data is lost.
    async fn wait_and_read(
        &mut self,
        stream: &mut UnixStream,
        slot: &mut Option<Slot>,
    ) -> io::Result<bool> {
        let enough = self.buffer.len() + BATCH_BYTES;
        let mut more = match slot {
            Some(slot) if slot.is_stored() => {
                stream.readable().await?;
                // A byte is about to be read, so from here on a crash must end the connection.
                slot.remove();
                true
            }
            _ => {
                self.make_room()?;
                let space = &mut (&mut self.buffer).limit(BATCH_BYTES);
                match stream.read_buf(space).await {
                    Ok(0) => return Ok(true),
                    Ok(_) => self.is_full(),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => true,
                    Err(error) => return Err(error),
                }
            }
        };
        // If a read filled the buffer, there may be more.
        while more && self.buffer.len() < enough {
            self.make_room()?;
            let space = enough - self.buffer.len();
            match stream.try_read_buf(&mut (&mut self.buffer).limit(space)) {
                Ok(0) => return Ok(true),
                Ok(_) => more = self.is_full(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Makes room for another read. If there is no memory, only this peer's connection ends, and the process
    /// goes on.
    fn make_room(&mut self) -> io::Result<()> {
        let made = self.buffer.try_reserve(IDLE_BUFFER_BYTES);
        made.map_err(|_| no_memory())
    }

    fn is_full(&self) -> bool {
        self.buffer.len() == self.buffer.capacity()
    }

    /// Whether anything follows the first frame.
    fn has_several(&self) -> bool {
        let first = self.buffer.get(..MESSAGE_HEADER_LENGTH);
        let first = first.map(|header| MessageHeader::from(header).length as usize);
        first.is_some_and(|length| self.buffer.len() > MESSAGE_HEADER_LENGTH + length)
    }

    /// The next complete frame, with its body unless that is oversized.
    fn next_frame(&mut self) -> Option<(MessageHeader, Option<&[u8]>)> {
        if let Some((header, missing)) = &mut self.oversized {
            let thrown = (*missing).min(self.buffer.len() - self.answered);
            self.answered += thrown;
            *missing -= thrown;
            if *missing > 0 {
                return None;
            }
            let header = *header;
            self.oversized = None;
            self.took_frame = true;
            return Some((header, None));
        }
        let body = self.answered + MESSAGE_HEADER_LENGTH;
        let header = MessageHeader::from(self.buffer.get(self.answered..body)?);
        let length = header.length as usize;
        if length > MAX_MESSAGE_BYTES {
            self.answered = body;
            self.oversized = Some((header, length));
            return self.next_frame();
        }
        let bytes = self.buffer.get(body..body + length)?;
        self.answered = body + length;
        self.took_frame = true;
        Some((header, Some(bytes)))
    }

    /// Wipes the answered bytes, and moves the beginning of the next frame to the front.
    fn compact(&mut self) {
        let rest = self.buffer.len() - self.answered;
        if self.answered > 0 {
            self.buffer.copy_within(self.answered.., 0);
            self.buffer[rest..].zeroize();
            self.buffer.truncate(rest);
        }
        self.answered = 0;
        self.frame_start = match self.frame_start {
            _ if self.is_between_frames() => None,
            Some(frame_start) if !self.took_frame => Some(frame_start),
            _ => Some(Instant::now()),
        };
        self.took_frame = false;
        // The memory that a large frame or a batch needed is not kept.
        let much = if rest == 0 {
            IDLE_BUFFER_BYTES
        } else {
            2 * BATCH_BYTES
        };
        if self.buffer.capacity() > much && rest <= BATCH_BYTES {
            // The allocator wipes the memory that is freed.
            self.buffer.shrink_to(IDLE_BUFFER_BYTES);
        }
    }
}
