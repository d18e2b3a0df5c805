// SPDX-License-Identifier: Apache-2.0

//! The entries of a tar archive, one after another.
//!
//! What is right is what Go's `archive/tar` makes of an archive, since containerd reads layers with it: what it refuses is
//! refused, and of what can be taken in two ways, its way is taken.

use std::io::{self, ErrorKind, Read};

use crate::layer::header::{self, BLOCK, Block, Format, Header};
use crate::layer::path::shown;
use crate::layer::pax::Records;
use crate::layer::sparse::{self, Form, Next, Parts, Sparse};

/// The longest PAX header: as Go and libarchive have it. A map at the start of a sparse file may have as many bytes.
const MAX_SPECIAL: usize = 1 << 20;

/// The longest name or target in an entry of its own. None that is right has more than a 16th of it.
const MAX_LONG: usize = 1 << 16;

/// How many headers an archive has at most: each name may come twice in an archive, and hard links take no inode. Headers that
/// say more of the next entry count, since an archive could have those alone.
const MAX_HEADERS: usize = 4_000_000;

/// How many zeros the sparse files of an archive have that are not in it. They are stored compressed, at a 16th, and cost
/// time; images hardly have such files, since containerd writes the zeros out.
const MAX_HOLES: u64 = 16 << 30;

/// Reads an archive's entries.
pub struct Reader<R> {
    archive: R,
    block: Block,
    /// How much of the present entry's content is still in the archive,
    left: u64,
    /// and how many bytes after it are padding.
    padding: usize,
    /// What the present entry is made of if it is a sparse file.
    sparse: Option<Sparse>,
    /// The holes of all sparse files so far.
    holes: u64,
    /// The headers so far.
    headers: usize,
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, what.into())
}

fn cut_off(place: &str) -> io::Error {
    let what = format!("it is cut off in {place}");
    io::Error::new(ErrorKind::UnexpectedEof, what)
}

/// The error, with the name of the entry that it is about.
pub fn named(name: &[u8], error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", shown(name)))
}

/// Whether entries of a kind have no content, whatever they say of its length: links, devices, directories and pipes.
fn has_no_content(kind: u8) -> bool {
    matches!(kind, b'1'..=b'6')
}

impl<R: Read> Reader<R> {
    /// Begins at the start of an archive.
    pub fn new(archive: R) -> Self {
        Self {
            archive,
            block: [0; BLOCK],
            left: 0,
            padding: 0,
            sparse: None,
            holes: 0,
            headers: 0,
        }
    }

    /// The next entry; what is left of the one before is passed over. None at the archive's end.
    ///
    /// # Errors
    ///
    /// If the archive can't be read, is cut off, or something in it is not as it should be.
    pub fn next(&mut self) -> io::Result<Option<Header>> {
        let mut records = Records::default();
        let (mut long_name, mut long_link) = (Vec::new(), Vec::new());
        loop {
            self.pass_over()?;
            // Nothing is lost where padding alone is missing.
            let padding = self.padding;
            if self.fill_block(padding)? < padding {
                return Ok(None);
            }
            let Some(mut header) = self.header()? else {
                return Ok(None);
            };
            self.headers += 1;
            if self.headers > MAX_HEADERS {
                return Err(invalid(format!("it has more than {MAX_HEADERS} headers")));
            }
            self.begin(&header)?;
            match header.kind {
                b'x' => records = Records::parse(self.special(MAX_SPECIAL)?).map_err(invalid)?,
                // What was read for the next entry is lost, as for Go.
                b'g' => {
                    let records = Records::parse(self.special(MAX_SPECIAL)?).map_err(invalid)?;
                    if let Some(name) = records.get("path") {
                        header.name = name.to_vec();
                    }
                    return Ok(Some(header));
                }
                b'L' => long_name = header::text(&self.special(MAX_LONG)?).to_vec(),
                b'K' => long_link = header::text(&self.special(MAX_LONG)?).to_vec(),
                _ => {
                    let applied = records.apply(&mut header).map_err(invalid);
                    applied.map_err(|error| named(&header.name, &error))?;
                    if !long_name.is_empty() {
                        header.name = long_name;
                    }
                    if !long_link.is_empty() {
                        header.link = long_link;
                    }
                    if header.kind == 0 {
                        // Archives from before 1988 have no type for directories.
                        let is_directory = header.name.ends_with(b"/");
                        header.kind = if is_directory { b'5' } else { b'0' };
                    }
                    self.begin(&header)?;
                    let begun = self.begin_sparse(&mut header, &records);
                    begun.map_err(|error| named(&header.name, &error))?;
                    return Ok(Some(header));
                }
            }
        }
    }

    /// Reads some of the present entry's content; nothing at its end.
    ///
    /// # Errors
    ///
    /// If the archive can't be read, or is cut off.
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(sparse) = &mut self.sparse else {
            return self.read_stored(buffer);
        };
        let bounded = |most: u64| {
            buffer
                .len()
                .min(usize::try_from(most).unwrap_or(usize::MAX))
        };
        match sparse.next() {
            Next::Data(_) if self.left == 0 => {
                Err(invalid("a sparse file has less data than its map says"))
            }
            Next::Data(length) => {
                let length = bounded(length);
                let read = self.read_stored(&mut buffer[..length])?;
                if let Some(sparse) = &mut self.sparse {
                    sparse.advance(read);
                }
                Ok(read)
            }
            Next::Hole(length) => {
                let length = bounded(length);
                buffer[..length].fill(0);
                sparse.advance(length);
                Ok(length)
            }
            Next::End if self.left > 0 => {
                Err(invalid("a sparse file has more data than its map says"))
            }
            Next::End => Ok(0),
        }
    }

    /// What follows the last entry.
    pub fn into_inner(self) -> R {
        self.archive
    }

    /// Reads a header. None at the archive's end: two blocks of zeros, or one and nothing else, or nothing.
    fn header(&mut self) -> io::Result<Option<Header>> {
        match self.fill_block(BLOCK)? {
            0 => return Ok(None),
            BLOCK => {}
            _ => return Err(cut_off("a header")),
        }
        if self.block != [0; BLOCK] {
            return header::parse(&self.block).map(Some).map_err(invalid);
        }
        match self.fill_block(BLOCK)? {
            BLOCK if self.block != [0; BLOCK] => {
                Err(invalid("a header follows a single block of zeros"))
            }
            0 | BLOCK => Ok(None),
            _ => Err(cut_off("the blocks of zeros at its end")),
        }
    }

    /// Begins an entry's content.
    fn begin(&mut self, header: &Header) -> io::Result<()> {
        let size = match has_no_content(header.kind) {
            true => 0,
            false => header.size,
        };
        let length = u64::try_from(size);
        self.left = length.map_err(|_| {
            let error = invalid(format!("its size is {size}"));
            named(&header.name, &error)
        })?;
        self.padding = (self.left.wrapping_neg() % BLOCK as u64) as usize;
        self.sparse = None;
        Ok(())
    }

    /// Reads the map of a sparse file, if it is one.
    fn begin_sparse(&mut self, header: &mut Header, records: &Records) -> io::Result<()> {
        let parts = if header.kind == b'S' {
            self.own_map(header)?
        } else {
            let Some(form) = sparse::form(records) else {
                return Ok(());
            };
            if let Some(name) = records.get("GNU.sparse.name") {
                header.name = name.to_vec();
            }
            let size = match records.number("GNU.sparse.size").map_err(invalid)? {
                Some(size) => Some(size),
                None => records.number("GNU.sparse.realsize").map_err(invalid)?,
            };
            header.size = size.unwrap_or(header.size);
            match form {
                Form::Records => Parts::of_records(records).map_err(invalid)?,
                Form::Content => self.map_of_content()?,
            }
        };
        if has_no_content(header.kind) {
            return Err(invalid("it is sparse, and is no file"));
        }
        let sparse = Sparse::new(parts, header.size).map_err(invalid)?;
        self.holes = self.holes.saturating_add(sparse.holes());
        if self.holes > MAX_HOLES {
            let most = MAX_HOLES >> 30;
            let what = "the holes of the archive's sparse files have more than";
            return Err(invalid(format!("{what} {most} GiB")));
        }
        self.sparse = Some(sparse);
        Ok(())
    }

    /// The map in GNU tar's own header, and in the blocks after it.
    fn own_map(&mut self, header: &mut Header) -> io::Result<Parts> {
        // The program star has the same type for something else.
        if header::format(&self.block) != Format::Gnu {
            let what = "it is sparse in the form of GNU tar, and the header is of another format";
            return Err(invalid(what));
        }
        let size = sparse::size_of_block(&self.block);
        header.size = size.ok_or_else(|| invalid("its size is no number"))?;
        let mut parts = Parts::default();
        let mut is_first = true;
        while parts.add_block(&self.block, is_first).map_err(invalid)? {
            is_first = false;
            if self.fill_block(BLOCK)? < BLOCK {
                return Err(cut_off("the map of a sparse file"));
            }
        }
        Ok(parts)
    }

    /// The map at the start of the content: whole blocks, as many as have its lines.
    fn map_of_content(&mut self) -> io::Result<Parts> {
        let mut map = Vec::new();
        let (mut lines, mut wanted) = (0, 1);
        while lines < wanted {
            if map.len() >= MAX_SPECIAL {
                return Err(invalid("the map of a sparse file has more than a MiB"));
            }
            let start = map.len();
            map.resize(start + BLOCK, 0);
            self.read_whole(&mut map[start..])?;
            lines += map[start..].iter().filter(|byte| **byte == b'\n').count();
            if wanted == 1 && lines > 0 {
                wanted += 2 * sparse::count(&map).map_err(invalid)?;
            }
        }
        Parts::of_content(&map).map_err(invalid)
    }

    /// The whole content of an entry that says something of the next one.
    fn special(&mut self, most: usize) -> io::Result<Vec<u8>> {
        let length = usize::try_from(self.left).unwrap_or(usize::MAX);
        if length > most {
            let what = "a PAX header, long name or long link has more than";
            return Err(invalid(format!("{what} {} KiB", most >> 10)));
        }
        let mut content = vec![0; length];
        self.read_whole(&mut content)?;
        Ok(content)
    }

    /// Reads as much of the content as the buffer takes.
    fn read_whole(&mut self, mut buffer: &mut [u8]) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read_stored(buffer)? {
                0 => return Err(cut_off("the map of a sparse file")),
                length => buffer = &mut buffer[length..],
            }
        }
        Ok(())
    }

    /// Reads some of the content that is in the archive; nothing at its end.
    fn read_stored(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        match self.some(most, buffer)? {
            0 => Err(cut_off("the content of an entry")),
            length => {
                self.left -= length as u64;
                Ok(length)
            }
        }
    }

    /// Passes over what is left of a content.
    fn pass_over(&mut self) -> io::Result<()> {
        if self.left > 0 {
            let mut rest = (&mut self.archive).take(self.left);
            let passed = io::copy(&mut rest, &mut io::sink())?;
            if passed < self.left {
                return Err(cut_off("the content of an entry"));
            }
            self.left = 0;
        }
        Ok(())
    }

    /// Reads the first bytes of a block; gives how many there were.
    fn fill_block(&mut self, length: usize) -> io::Result<usize> {
        let mut filled = 0;
        while filled < length {
            match self.archive.read(&mut self.block[filled..length]) {
                Ok(0) => break,
                Ok(read) => filled += read,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(filled)
    }

    /// Reads at least a byte, unless the archive has ended.
    fn some(&mut self, most: usize, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.archive.read(&mut buffer[..most]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Headers that say more of an entry that never comes have an end.
    #[test]
    fn headers_are_bounded() {
        let mut header = [0; BLOCK];
        header[..5].copy_from_slice(b"entry");
        header[156] = b'L';
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        let archive = header.repeat(11);
        let mut reader = Reader::new(&archive[..]);
        reader.headers = MAX_HEADERS - 11;
        assert!(reader.next().unwrap().is_none());
        let mut reader = Reader::new(&archive[..]);
        reader.headers = MAX_HEADERS - 10;
        let said = reader.next().unwrap_err().to_string();
        assert_eq!(said, "it has more than 4000000 headers");
    }
}
