// SPDX-License-Identifier: Apache-2.0

//! A file that takes what memory should not: pages, of which the ones used last stay in memory.
//!
//! What a layer is made of is known only at its end, and an archive can say any amount of it. So the tree is kept in pages
//! of a file. Those of an ordinary layer never leave memory, and no layer has more pages there than any other.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

use crate::erofs::Error;

/// The size of a page: that of the kernel, whose cache takes what is written.
pub const PAGE: usize = 4096;

/// A page's content.
pub type Page = [u8; PAGE];

/// How many pages are in memory at most: 2 MiB. A layer of 13,000 files has 1.5 MiB of names and inodes.
pub const FRAMES: usize = 512;

/// How many pages there are at most: 1 GiB of names, inodes, attributes and the ends of files, which is far above any layer
/// and within the room of a store. Where each of so many is takes half a MiB, and 0.75 MiB while the list grows.
const MAX_PAGES: usize = (1 << 30) / PAGE;

/// Where a page is that was never written, and has nothing but zeros.
const FRESH: u16 = u16::MAX;
/// Where a page is that is in the file alone.
const WRITTEN: u16 = u16::MAX - 1;

/// Pages in a file and in memory.
#[derive(Debug)]
pub struct Scratch {
    file: File,
    memory: Vec<u8>,
    frames: Vec<Frame>,
    /// The frame of each page, or [`FRESH`] or [`WRITTEN`].
    places: Vec<u16>,
    /// The frame that is looked at next when one is needed.
    hand: usize,
}

/// The page that is at one place in memory.
#[derive(Debug)]
struct Frame {
    page: u32,
    /// Whether it was changed since it was read.
    changed: bool,
    /// Whether it was used since the hand came by.
    used: bool,
}

/// Nobody but this process writes the file. If it has something else, that is an error and never a panic.
fn broken() -> Error {
    Error::Scratch(io::Error::other("it has something else than was written"))
}

impl Scratch {
    /// Uses the file, which is empty.
    pub fn new(file: File) -> Self {
        Self {
            file,
            // The kernel gives no memory for what is never touched.
            memory: vec![0; FRAMES * PAGE],
            frames: Vec::new(),
            places: Vec::new(),
            hand: 0,
        }
    }

    /// Adds pages of zeros; gives the number of the first.
    ///
    /// # Errors
    ///
    /// If there are too many.
    pub fn add(&mut self, count: usize) -> Result<u32, Error> {
        let first = self.places.len();
        if first + count > MAX_PAGES {
            return Err(Error::TooMuch(MAX_PAGES * PAGE));
        }
        self.places.resize(first + count, FRESH);
        u32::try_from(first).map_err(|_| broken())
    }

    /// A page.
    ///
    /// # Errors
    ///
    /// If the file can't be read or written.
    pub fn get(&mut self, page: u32) -> Result<&Page, Error> {
        let frame = self.frame(page)?;
        let memory = self.memory.get(frame * PAGE..);
        memory.and_then(<[u8]>::first_chunk).ok_or_else(broken)
    }

    /// A page, to be changed.
    ///
    /// # Errors
    ///
    /// If the file can't be read or written.
    pub fn get_mut(&mut self, page: u32) -> Result<&mut Page, Error> {
        let frame = self.frame(page)?;
        if let Some(frame) = self.frames.get_mut(frame) {
            frame.changed = true;
        }
        let memory = self.memory.get_mut(frame * PAGE..);
        let chunk = memory.and_then(<[u8]>::first_chunk_mut);
        chunk.ok_or_else(broken)
    }

    /// The frame that has a page.
    fn frame(&mut self, page: u32) -> Result<usize, Error> {
        let place = self.places.get(page as usize).copied();
        let place = place.ok_or_else(broken)?;
        let is_fresh = place == FRESH;
        if !is_fresh && place != WRITTEN {
            let frame = self.frames.get_mut(usize::from(place));
            frame.ok_or_else(broken)?.used = true;
            return Ok(usize::from(place));
        }
        let at = self.free()?;
        let memory = self.memory.get_mut(at * PAGE..).unwrap_or_default();
        let memory = memory.get_mut(..PAGE).ok_or_else(broken)?;
        match is_fresh {
            true => memory.fill(0),
            false => self
                .file
                .read_exact_at(memory, u64::from(page) * PAGE as u64)
                .map_err(Error::Scratch)?,
        }
        if let (Some(frame), Some(place)) =
            (self.frames.get_mut(at), self.places.get_mut(page as usize))
        {
            *frame = Frame {
                page,
                changed: is_fresh,
                used: true,
            };
            *place = at as u16;
        }
        Ok(at)
    }

    /// A frame for another page: one that was never used, or the next that was not used since the hand came by.
    fn free(&mut self) -> Result<usize, Error> {
        if self.frames.len() < FRAMES {
            // No page is at this place yet.
            self.frames.push(Frame {
                page: u32::MAX,
                changed: false,
                used: false,
            });
            return Ok(self.frames.len() - 1);
        }
        loop {
            let at = self.hand;
            self.hand = (at + 1) % FRAMES;
            let frame = self.frames.get_mut(at).ok_or_else(broken)?;
            if std::mem::take(&mut frame.used) {
                continue;
            }
            if std::mem::take(&mut frame.changed) {
                let memory = self.memory.get(at * PAGE..(at + 1) * PAGE);
                let offset = u64::from(frame.page) * PAGE as u64;
                let written = self.file.write_all_at(memory.ok_or_else(broken)?, offset);
                written.map_err(Error::Scratch)?;
            }
            if let Some(place) = self.places.get_mut(frame.page as usize) {
                *place = WRITTEN;
            }
            return Ok(at);
        }
    }
}

/// Pages that are numbered from 0 on, wherever in the scratch file they are.
#[derive(Debug, Default)]
pub struct Pages {
    /// The first page of each extent.
    extents: Vec<u32>,
}

impl Pages {
    /// How many pages are added at once, so that few numbers are kept.
    const EXTENT: usize = 8;

    /// The page with this number, which is added if it is the next.
    ///
    /// # Errors
    ///
    /// If there are too many pages.
    pub fn page(&mut self, scratch: &mut Scratch, number: usize) -> Result<u32, Error> {
        let (extent, rest) = (number / Self::EXTENT, number % Self::EXTENT);
        if extent == self.extents.len() {
            self.extents.push(scratch.add(Self::EXTENT)?);
        }
        let first = self.extents.get(extent).ok_or_else(broken)?;
        Ok(first + rest as u32)
    }
}

/// Bytes in a heap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Blob {
    /// Where they start.
    pub(super) at: u32,
    /// How many there are.
    pub(super) length: u32,
}

impl Blob {
    /// How many bytes there are.
    pub fn len(self) -> usize {
        self.length as usize
    }

    /// Whether there are none.
    pub fn is_empty(self) -> bool {
        self.length == 0
    }
}

/// Bytes of any length, one after another in pages of their own.
#[derive(Debug, Default)]
pub struct Heap {
    pages: Pages,
    length: usize,
}

impl Heap {
    /// Adds bytes.
    ///
    /// # Errors
    ///
    /// If the scratch file can't be read or written, or there are too many bytes.
    pub fn add(&mut self, scratch: &mut Scratch, mut bytes: &[u8]) -> Result<Blob, Error> {
        // Both fit, since there is no gigabyte of pages.
        let (at, length) = (self.length as u32, bytes.len() as u32);
        while !bytes.is_empty() {
            let start = self.length % PAGE;
            let (now, later) = bytes.split_at(bytes.len().min(PAGE - start));
            let page = self.pages.page(scratch, self.length / PAGE)?;
            let page = scratch.get_mut(page)?;
            if let Some(to) = page.get_mut(start..start + now.len()) {
                to.copy_from_slice(now);
            }
            self.length += now.len();
            bytes = later;
        }
        Ok(Blob { at, length })
    }

    /// Takes the bytes from `at` on away again.
    pub fn truncate(&mut self, at: u32) {
        self.length = self.length.min(at as usize);
    }

    /// Puts the bytes after those in `to`.
    ///
    /// # Errors
    ///
    /// If the scratch file can't be read.
    pub fn read(
        &mut self,
        scratch: &mut Scratch,
        blob: Blob,
        to: &mut Vec<u8>,
    ) -> Result<(), Error> {
        let (mut at, mut left) = (blob.at as usize, blob.len());
        if at + left > self.length {
            return Err(broken());
        }
        while left > 0 {
            let start = at % PAGE;
            let length = left.min(PAGE - start);
            let page = self.pages.page(scratch, at / PAGE)?;
            let page = scratch.get(page)?;
            to.extend(page.get(start..start + length).unwrap_or_default());
            at += length;
            left -= length;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn scratch() -> Scratch {
        Scratch::new(tempfile::tempfile().unwrap())
    }

    /// Pages come back as they were left, also when there are many more than fit memory, in any order; and those that fit
    /// are never written.
    #[test]
    fn pages_come_back() {
        let mut pages = scratch();
        let count = 5 * FRAMES as u32;
        for number in 0..count {
            assert_eq!(pages.add(1).unwrap(), number);
            pages.get_mut(number).unwrap()[..4].copy_from_slice(&number.to_le_bytes());
            if number == FRAMES as u32 - 1 {
                assert_eq!(pages.file.metadata().unwrap().len(), 0);
            }
        }
        for step in 0..3 * count {
            // With a prime step, they come in any order.
            let number = step * 1009 % count;
            let page = pages.get_mut(number).unwrap();
            assert_eq!(page[..4], number.to_le_bytes());
            assert_eq!(u32::from(page[PAGE - 1]), step / count);
            page[PAGE - 1] += 1;
        }
        assert_eq!(pages.frames.len(), FRAMES);
        assert!(pages.get(count).is_err());
    }

    /// Bytes of any length come back, after others were added and taken away.
    #[test]
    fn bytes_come_back() {
        let (mut heap, mut pages) = (Heap::default(), scratch());
        let bytes = |length: usize| vec![length as u8; length * 37];
        let mut blobs = Vec::new();
        for length in 0..500 {
            blobs.push(heap.add(&mut pages, &bytes(length)).unwrap());
            let gone = heap.add(&mut pages, &bytes(300)).unwrap();
            heap.truncate(gone.at);
        }
        for (length, blob) in blobs.into_iter().enumerate() {
            let mut read = Vec::new();
            heap.read(&mut pages, blob, &mut read).unwrap();
            assert!(read == bytes(length), "{length}");
        }
    }

    /// More than a layer may have is an error.
    #[test]
    fn pages_are_bounded() {
        let mut pages = scratch();
        pages.add(MAX_PAGES).unwrap();
        let said = pages.add(1).unwrap_err().to_string();
        assert!(said.contains("more than 1024 MiB"), "{said}");
    }
}
