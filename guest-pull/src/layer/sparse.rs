// SPDX-License-Identifier: Apache-2.0

//! Sparse files: the archive has the parts with data one after another, and a map of where they go. GNU tar wrote the map
//! in four ways over the years.

use crate::layer::header::{self, Block};
use crate::layer::pax::{Records, decimal};

/// How many parts a file has at most: a MiB of them in memory.
const MAX_PARTS: usize = 1 << 16;

/// The length of the record of one part in GNU tar's own header.
const PART_BYTES: usize = 24;

/// Where the records are in such a header, and in the blocks that follow it where they don't fit.
const PARTS: std::ops::Range<usize> = 386..482;
const MORE_PARTS: std::ops::Range<usize> = 0..504;

/// How the map of a sparse file is told.
pub enum Form {
    /// In PAX records: 0.0 and 0.1.
    Records,
    /// At the start of the content: 1.0.
    Content,
}

/// How PAX records say that a file is sparse; none if it isn't, or in a way that nobody knows.
pub fn form(records: &Records) -> Option<Form> {
    match (
        records.get("GNU.sparse.major"),
        records.get("GNU.sparse.minor"),
    ) {
        (Some(b"0"), Some(b"0" | b"1")) => Some(Form::Records),
        (Some(b"1"), Some(b"0")) => Some(Form::Content),
        (None, None) if records.get("GNU.sparse.map").is_some() => Some(Form::Records),
        _ => None,
    }
}

/// A part that has data.
#[derive(Debug, PartialEq, Eq)]
struct Part {
    start: i64,
    length: i64,
}

/// The parts of a file as they are read from the archive.
#[derive(Debug, Default)]
pub struct Parts(Vec<Part>);

impl Parts {
    fn push(&mut self, start: i64, length: i64) -> Result<(), String> {
        if self.0.len() == MAX_PARTS {
            return Err(format!("a sparse file has more than {MAX_PARTS} parts"));
        }
        self.0.push(Part { start, length });
        Ok(())
    }

    /// The parts that PAX records list.
    ///
    /// # Errors
    ///
    /// If the list is broken.
    pub fn of_records(records: &Records) -> Result<Self, String> {
        let map = records.get("GNU.sparse.map").unwrap_or_default();
        let numbers = map.split(|byte| *byte == b',');
        let numbers = numbers.filter(|_| !map.is_empty()).map(decimal);
        let count = records.number("GNU.sparse.numblocks")?;
        let (parts, rest) = Self::of_numbers(numbers)?;
        let matches = i64::try_from(parts.0.len()).is_ok_and(|found| count == Some(found));
        match matches && !rest {
            true => Ok(parts),
            false => Err("the map of a sparse file is not as long as it says".to_owned()),
        }
    }

    /// The parts, and whether a number is left over.
    fn of_numbers(mut numbers: impl Iterator<Item = Option<i64>>) -> Result<(Self, bool), String> {
        let broken = "the map of a sparse file has something else than numbers";
        let mut parts = Self::default();
        while let Some(start) = numbers.next() {
            let start = start.ok_or(broken)?;
            let Some(length) = numbers.next() else {
                return Ok((parts, true));
            };
            parts.push(start, length.ok_or(broken)?)?;
        }
        Ok((parts, false))
    }

    /// The parts that the start of a content lists: a line with their number, and two for each.
    ///
    /// # Errors
    ///
    /// If the list is broken.
    pub fn of_content(content: &[u8]) -> Result<Self, String> {
        let count = count(content)?;
        let lines = content.split(|byte| *byte == b'\n').skip(1);
        let (parts, _) = Self::of_numbers(lines.take(2 * count).map(decimal))?;
        Ok(parts)
    }

    /// Adds the parts that GNU tar's own header lists, or a block after it if `is_first` is false. Gives whether another
    /// block follows.
    ///
    /// # Errors
    ///
    /// If the list is broken.
    pub fn add_block(&mut self, block: &Block, is_first: bool) -> Result<bool, String> {
        let range = if is_first { PARTS } else { MORE_PARTS };
        let has_more = block[range.end] != 0;
        for record in block[range].chunks_exact(PART_BYTES) {
            if record[0] == 0 {
                break;
            }
            let (start, length) = record.split_at(PART_BYTES / 2);
            match (header::number(start), header::number(length)) {
                (Some(start), Some(length)) => self.push(start, length)?,
                _ => {
                    return Err(
                        "the map of a sparse file has something else than numbers".to_owned()
                    );
                }
            }
        }
        Ok(has_more)
    }
}

/// How many parts the first line of a content says there are.
///
/// # Errors
///
/// If it says nothing of the kind, or too many.
pub fn count(content: &[u8]) -> Result<usize, String> {
    let line = content.split(|byte| *byte == b'\n').next();
    let count = line.and_then(decimal);
    let count = count.and_then(|count| usize::try_from(count).ok());
    let count = count.ok_or("the map of a sparse file has no number of parts")?;
    match count > MAX_PARTS {
        true => Err(format!("a sparse file has more than {MAX_PARTS} parts")),
        false => Ok(count),
    }
}

/// The length of a sparse file that GNU tar's own header says.
pub fn size_of_block(block: &Block) -> Option<i64> {
    header::number(&block[483..495])
}

/// What comes next of a sparse file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// So many bytes that the archive has.
    Data(u64),
    /// So many zeros that it doesn't have.
    Hole(u64),
    /// Nothing.
    End,
}

/// A sparse file that is being read.
#[derive(Debug)]
pub struct Sparse {
    /// The parts with data.
    parts: Vec<Part>,
    /// The first of them that is not read whole.
    part: usize,
    size: u64,
    at: u64,
}

impl Part {
    /// Its first byte, and the one after its last: none is negative in a file that was checked.
    fn range(&self) -> (u64, u64) {
        (self.start as u64, (self.start + self.length) as u64)
    }
}

impl Sparse {
    /// A file of this size.
    ///
    /// # Errors
    ///
    /// If the parts are out of order, or reach over the end.
    pub fn new(parts: Parts, size: i64) -> Result<Self, String> {
        let mut ends = 0;
        for part in &parts.0 {
            let end = part.start.checked_add(part.length);
            let end = end.filter(|end| part.start >= ends && part.length >= 0 && *end <= size);
            ends = end.ok_or("the parts of a sparse file don't fit it")?;
        }
        Ok(Self {
            parts: parts.0,
            part: 0,
            size: u64::try_from(size).map_err(|_| "a sparse file has less than no bytes")?,
            at: 0,
        })
    }

    /// How many bytes of it are zeros that the archive doesn't have.
    pub fn holes(&self) -> u64 {
        let data: u64 = self.parts.iter().map(|part| part.length as u64).sum();
        self.size - data
    }

    /// What comes next.
    pub fn next(&mut self) -> Next {
        while let Some(part) = self.parts.get(self.part) {
            let (start, end) = part.range();
            if end <= self.at {
                self.part += 1;
                continue;
            }
            return match self.at < start {
                true => Next::Hole(start - self.at),
                false => Next::Data(end - self.at),
            };
        }
        match self.at < self.size {
            true => Next::Hole(self.size - self.at),
            false => Next::End,
        }
    }

    /// Goes on after so many bytes of what came next.
    pub fn advance(&mut self, bytes: usize) {
        self.at += bytes as u64;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn sparse(parts: &[(i64, i64)], size: i64) -> Result<Sparse, String> {
        let mut all = Parts::default();
        for (start, length) in parts {
            all.push(*start, *length).unwrap();
        }
        Sparse::new(all, size)
    }

    /// Data and holes come in their order, empty parts are nothing, and the end may be a hole.
    #[test]
    fn parts_and_holes_come_in_order() {
        let mut file = sparse(&[(0, 0), (2, 3), (5, 1), (10, 0), (10, 2)], 20).unwrap();
        assert_eq!(file.holes(), 14);
        let mut found = Vec::new();
        loop {
            let next = file.next();
            found.push(next);
            match next {
                Next::Data(length) | Next::Hole(length) => file.advance(length as usize),
                Next::End => break,
            }
        }
        let (data, hole) = (Next::Data, Next::Hole);
        let expected = [
            hole(2),
            data(3),
            data(1),
            hole(4),
            data(2),
            hole(8),
            Next::End,
        ];
        assert_eq!(found, expected);
    }

    /// Parts that overlap, go backwards, or reach over the end or over all numbers are refused.
    #[test]
    fn parts_that_do_not_fit_are_refused() {
        for (parts, size) in [
            (&[(0, 2), (1, 2)][..], 10),
            (&[(5, 1), (1, 1)], 10),
            (&[(5, 6)], 10),
            (&[(-1, 1)], 10),
            (&[(1, -1)], 10),
            (&[(i64::MAX, i64::MAX)], i64::MAX),
            (&[], -1),
        ] {
            assert!(sparse(parts, size).is_err(), "{parts:?} {size}");
        }
    }
}
