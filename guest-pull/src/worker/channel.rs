// SPDX-License-Identifier: Apache-2.0

//! The connection between mounter and worker: lines in both directions, and files from the mounter.

use std::io::{self, IoSlice, IoSliceMut, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
};

/// How many files come with a line at most.
pub(super) const MAX_FILES: usize = 3;

/// Writes a line, and gives files along with it.
pub(super) fn send(stream: &UnixStream, line: &str, files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut text = line.as_bytes();
    if !files.is_empty() {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(files)) {
            return Err(io::Error::other("too many files for a line"));
        }
        // They come with the first byte of what is sent with them.
        let sent = sendmsg(
            stream,
            &[IoSlice::new(text)],
            &mut ancillary,
            SendFlags::NOSIGNAL,
        )?;
        text = text.get(sent..).unwrap_or_default();
    }
    let mut stream = stream;
    stream.write_all(text)?;
    stream.write_all(b"\n")
}

/// Reads some bytes, and adds the files that come with them to `files`.
pub(super) fn receive(
    stream: &UnixStream,
    buffer: &mut [u8],
    files: &mut Vec<OwnedFd>,
) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FILES))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC;
    let received = recvmsg(
        stream,
        &mut [IoSliceMut::new(buffer)],
        &mut ancillary,
        flags,
    )?;
    for message in ancillary.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            files.extend(more);
        }
    }
    Ok(received.bytes)
}
