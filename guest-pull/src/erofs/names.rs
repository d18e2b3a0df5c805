// SPDX-License-Identifier: Apache-2.0

//! The names in all directories, sorted: a B+ tree in pages of the scratch file.
//!
//! Its keys are a directory's number and a name, so that the names of one directory come one after another, sorted by their
//! bytes. Archives list their entries by directory, so that few pages are used at a time.

use std::cmp::Ordering;
use std::io;

use crate::erofs::Error;
use crate::erofs::scratch::{PAGE, Page, Scratch};

/// The longest name: `NAME_MAX` of the kernel.
const MAX_NAME: usize = 255;

/// The length of a directory's number before a name.
const PREFIX: usize = 4;

/// What comes first in a page: the number of cells, where the cells begin, and the child for keys before the first cell.
const HEAD: usize = 8;

/// The length of a cell without its key: the key's length, and a number.
const CELL: usize = 6;

/// The length of the record that says where a cell is. They come after the head, sorted by the cells' keys.
const SLOT: usize = 2;

/// The first child of a page that has no children.
const LEAF: u32 = u32::MAX;

/// How many levels there are at most: even with the longest names, a page has fifteen, seven or eight after it was split, and
/// so many pages don't fit the file.
const MAX_LEVELS: usize = 12;

/// A directory's number and a name.
#[derive(Clone)]
struct Key {
    bytes: [u8; PREFIX + MAX_NAME],
    length: usize,
}

impl Key {
    fn new(directory: u32, name: &[u8]) -> Result<Self, Error> {
        let length = PREFIX + name.len();
        let mut bytes = [0; PREFIX + MAX_NAME];
        let (prefix, rest) = bytes.split_at_mut(PREFIX);
        prefix.copy_from_slice(&directory.to_be_bytes());
        match rest.get_mut(..name.len()) {
            Some(rest) => rest.copy_from_slice(name),
            None => return Err(Error::Name(name.len())),
        }
        Ok(Self { bytes, length })
    }

    fn get(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

fn u16_at(page: &Page, at: usize) -> usize {
    let bytes = page.get(at..).and_then(<[u8]>::first_chunk);
    usize::from(bytes.copied().map_or(0, u16::from_le_bytes))
}

fn u32_at(page: &Page, at: usize) -> u32 {
    let bytes = page.get(at..).and_then(<[u8]>::first_chunk);
    bytes.copied().map_or(0, u32::from_le_bytes)
}

fn put(page: &mut Page, at: usize, bytes: &[u8]) {
    if let Some(to) = page.get_mut(at..at + bytes.len()) {
        to.copy_from_slice(bytes);
    }
}

fn count(page: &Page) -> usize {
    u16_at(page, 0)
}

/// The key and the number of a cell.
fn cell(page: &Page, number: usize) -> (&[u8], u32) {
    let at = u16_at(page, HEAD + number * SLOT);
    let start = at + CELL;
    let key = page.get(start..start + u16_at(page, at));
    (key.unwrap_or_default(), u32_at(page, at + 2))
}

/// The number of the cell with this key; where it would be, if there is none.
fn search(page: &Page, key: &[u8]) -> Result<usize, usize> {
    search_by(page, |other| other.cmp(key))
}

/// The same of a key that is compared in another way.
fn search_by(page: &Page, compare: impl Fn(&[u8]) -> Ordering) -> Result<usize, usize> {
    let (mut from, mut to) = (0, count(page));
    while from < to {
        let middle = (from + to) / 2;
        match compare(cell(page, middle).0) {
            Ordering::Less => from = middle + 1,
            Ordering::Equal => return Ok(middle),
            Ordering::Greater => to = middle,
        }
    }
    Err(from)
}

/// An empty page.
fn clear(page: &mut Page, first: u32) {
    put(page, 0, &0_u16.to_le_bytes());
    put(page, 2, &(PAGE as u16).to_le_bytes());
    put(page, 4, &first.to_le_bytes());
}

/// Puts a cell at the end of the unused middle of a page, and its record before the one with this number; false if it
/// doesn't fit.
fn insert(page: &mut Page, at: usize, key: &[u8], number: u32) -> bool {
    let (cells, low) = (count(page), u16_at(page, 2));
    let end = HEAD + cells * SLOT;
    let length = CELL + key.len();
    if end + SLOT + length > low {
        return false;
    }
    let low = low - length;
    put(page, low, &(key.len() as u16).to_le_bytes());
    put(page, low + 2, &number.to_le_bytes());
    put(page, low + CELL, key);
    let slot = HEAD + at * SLOT;
    if slot <= end {
        page.copy_within(slot..end, slot + SLOT);
    }
    put(page, slot, &(low as u16).to_le_bytes());
    put(page, 0, &(cells as u16 + 1).to_le_bytes());
    put(page, 2, &(low as u16).to_le_bytes());
    true
}

/// Puts a cell into a page, whose cells are moved together if that makes room; false if it doesn't fit.
fn insert_somewhere(page: &mut Page, at: usize, key: &[u8], number: u32) -> bool {
    if insert(page, at, key, number) {
        return true;
    }
    let before = *page;
    let cells = count(&before);
    let used: usize = (0..cells)
        .map(|number| SLOT + CELL + cell(&before, number).0.len())
        .sum();
    if HEAD + used + SLOT + CELL + key.len() > PAGE {
        return false;
    }
    clear(page, u32_at(&before, 4));
    for number in 0..cells {
        let (key, value) = cell(&before, number);
        insert(page, number, key, value);
    }
    insert(page, at, key, number)
}

/// Takes a cell out of a page.
fn remove(page: &mut Page, number: usize) {
    let cells = count(page);
    let (slot, end) = (HEAD + number * SLOT, HEAD + cells * SLOT);
    if number < cells && end <= PAGE {
        page.copy_within(slot + SLOT..end, slot);
        put(page, 0, &(cells as u16 - 1).to_le_bytes());
    }
}

/// The names in directories, and a number for each.
#[derive(Debug, Default)]
pub struct Names {
    root: Option<u32>,
}

impl Names {
    /// The pages from the root to the leaf where a key is or would be, and the first key that is in a later leaf.
    fn descend(
        &self,
        scratch: &mut Scratch,
        key: &[u8],
        mut later: Option<&mut Vec<u8>>,
    ) -> Result<([u32; MAX_LEVELS], usize), Error> {
        let mut path = [0; MAX_LEVELS];
        let mut next = self.root.unwrap_or_default();
        for (level, place) in path.iter_mut().enumerate() {
            *place = next;
            let page = scratch.get(next)?;
            let first = u32_at(page, 4);
            if first == LEAF {
                return Ok((path, level));
            }
            let after = match search(page, key) {
                Ok(at) => at + 1,
                Err(at) => at,
            };
            next = match after {
                0 => first,
                _ => cell(page, after - 1).1,
            };
            if let Some(later) = later.as_mut().filter(|_| after < count(page)) {
                later.clear();
                later.extend(cell(page, after).0);
            }
        }
        Err(Error::Scratch(io::Error::other("it has too many levels")))
    }

    /// The number of a name.
    ///
    /// # Errors
    ///
    /// If the scratch file can't be read or written.
    pub fn get(
        &self,
        scratch: &mut Scratch,
        directory: u32,
        name: &[u8],
    ) -> Result<Option<u32>, Error> {
        // Each part of each path comes here: so without a key of its own, and without the way to the leaf.
        let Some(mut next) = self.root else {
            return Ok(None);
        };
        for _ in 0..MAX_LEVELS {
            let page = scratch.get(next)?;
            let found = search_by(page, |key| {
                let (prefix, rest) = key.split_first_chunk().unwrap_or((&[0; PREFIX], &[]));
                let order = u32::from_be_bytes(*prefix).cmp(&directory);
                order.then_with(|| rest.cmp(name))
            });
            next = match (u32_at(page, 4), found) {
                (LEAF, found) => return Ok(found.ok().map(|at| cell(page, at).1)),
                (first, Err(0)) => first,
                (_, Ok(at)) => cell(page, at).1,
                (_, Err(at)) => cell(page, at - 1).1,
            };
        }
        Ok(None)
    }

    /// Gives a name a number; returns the one that it had.
    ///
    /// # Errors
    ///
    /// If the scratch file can't be read or written, or is full.
    pub fn insert(
        &mut self,
        scratch: &mut Scratch,
        directory: u32,
        name: &[u8],
        number: u32,
    ) -> Result<Option<u32>, Error> {
        let key = Key::new(directory, name)?;
        if self.root.is_none() {
            let root = scratch.add(1)?;
            clear(scratch.get_mut(root)?, LEAF);
            self.root = Some(root);
        }
        let (path, leaf) = self.descend(scratch, key.get(), None)?;
        let path = path.get(..=leaf).unwrap_or_default();
        let (mut key, mut number) = (key.get().to_vec(), number);
        for (level, &page) in path.iter().enumerate().rev() {
            let content = scratch.get_mut(page)?;
            let at = match search(content, &key) {
                Ok(at) => {
                    let before = cell(content, at).1;
                    let place = u16_at(content, HEAD + at * SLOT) + 2;
                    put(content, place, &number.to_le_bytes());
                    return Ok(Some(before));
                }
                Err(at) => at,
            };
            if insert_somewhere(content, at, &key, number) {
                return Ok(None);
            }
            let right = scratch.add(1)?;
            key = split(scratch, page, right, (at, &key, number), level == leaf)?;
            number = right;
        }
        let root = scratch.add(1)?;
        let page = scratch.get_mut(root)?;
        clear(page, self.root.unwrap_or_default());
        insert(page, 0, &key, number);
        self.root = Some(root);
        Ok(None)
    }

    /// Takes a name away; returns its number. Pages that become empty stay, since the names of an archive are bounded.
    ///
    /// # Errors
    ///
    /// If the scratch file can't be read or written.
    pub fn remove(
        &mut self,
        scratch: &mut Scratch,
        directory: u32,
        name: &[u8],
    ) -> Result<Option<u32>, Error> {
        if self.root.is_none() || name.len() > MAX_NAME {
            return Ok(None);
        }
        let key = Key::new(directory, name)?;
        let (path, leaf) = self.descend(scratch, key.get(), None)?;
        let page = path.get(leaf).copied().unwrap_or_default();
        let Ok(at) = search(scratch.get(page)?, key.get()) else {
            return Ok(None);
        };
        let page = scratch.get_mut(page)?;
        let before = cell(page, at).1;
        remove(page, at);
        Ok(Some(before))
    }
}

/// Puts the last cells of a page into another one, which is empty, and a new cell at its place among all of them. Gives the
/// first key of the other page.
fn split(
    scratch: &mut Scratch,
    left: u32,
    right: u32,
    (at, key, number): (usize, &[u8], u32),
    is_leaf: bool,
) -> Result<Vec<u8>, Error> {
    let before = *scratch.get(left)?;
    let cells = count(&before) + 1;
    let item = |place: usize| match place.cmp(&at) {
        Ordering::Less => cell(&before, place),
        Ordering::Equal => (key, number),
        Ordering::Greater => cell(&before, place - 1),
    };
    let length = |place: usize| SLOT + CELL + item(place).0.len();
    let all: usize = (0..cells).map(length).sum();
    // Names that come in their order fill three quarters of each page. With more, such as come the other way round would
    // leave pages nearly empty.
    let wanted = if at + 1 == cells {
        all * 3 / 4
    } else {
        all / 2
    };
    let mut middle = 0;
    let mut taken = 0;
    while middle + 1 < cells && (middle == 0 || taken + length(middle) <= wanted) {
        taken += length(middle);
        middle += 1;
    }
    let page = scratch.get_mut(left)?;
    clear(page, u32_at(&before, 4));
    for place in 0..middle {
        let (key, number) = item(place);
        insert(page, place, key, number);
    }
    let (separator, child) = item(middle);
    let page = scratch.get_mut(right)?;
    // Of a page with children, the middle cell goes up, and its child comes first.
    let (first, from) = match is_leaf {
        true => (LEAF, middle),
        false => (child, middle + 1),
    };
    clear(page, first);
    for place in from..cells {
        let (key, number) = item(place);
        insert(page, place - from, key, number);
    }
    Ok(separator.to_vec())
}

/// A directory's number, a name in it, and the number of the name.
pub type Entry<'a> = (u32, &'a [u8], u32);

/// Goes through names in their order. Names may be taken away meanwhile, but none may be added.
pub struct Cursor {
    /// A copy of the leaf, so that the tree can be used meanwhile.
    leaf: Box<Page>,
    at: usize,
    /// Where the next leaf begins; none after the last.
    later: Option<Vec<u8>>,
    /// The directory; none if the names of all are wanted.
    directory: Option<u32>,
}

impl Cursor {
    /// At the first name of a directory, or of all.
    pub fn new(directory: Option<u32>) -> Self {
        Self {
            leaf: Box::new([0; PAGE]),
            at: 0,
            later: Some(directory.unwrap_or_default().to_be_bytes().to_vec()),
            directory,
        }
    }

    /// The directory, the name and the number of the next entry, which stays the next; none after the last.
    ///
    /// # Errors
    ///
    /// If the scratch file can't be read or written.
    pub fn peek(
        &mut self,
        names: &Names,
        scratch: &mut Scratch,
    ) -> Result<Option<Entry<'_>>, Error> {
        while self.at >= count(&self.leaf) {
            let key = self.later.take().filter(|key| !self.is_over(key));
            let (Some(key), Some(_)) = (key, names.root) else {
                return Ok(None);
            };
            let mut later = Vec::new();
            let (path, leaf) = names.descend(scratch, &key, Some(&mut later))?;
            let page = path.get(leaf).copied().unwrap_or_default();
            self.leaf.copy_from_slice(scratch.get(page)?);
            self.at = search(&self.leaf, &key).unwrap_or_else(|at| at);
            self.later = (!later.is_empty()).then_some(later);
        }
        let (key, number) = cell(&self.leaf, self.at);
        if self.is_over(key) {
            return Ok(None);
        }
        let (prefix, name) = key.split_first_chunk().unwrap_or((&[0; PREFIX], &[]));
        Ok(Some((u32::from_be_bytes(*prefix), name, number)))
    }

    /// Goes on to the next name.
    pub fn advance(&mut self) {
        self.at += 1;
    }

    /// Whether a key is behind all names of the directory.
    fn is_over(&self, key: &[u8]) -> bool {
        let prefix = key.first_chunk().copied().map(u32::from_be_bytes);
        self.directory
            .is_some_and(|directory| prefix.is_some_and(|prefix| prefix > directory))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use std::collections::BTreeMap;

    fn all(
        names: &Names,
        scratch: &mut Scratch,
        directory: Option<u32>,
    ) -> Vec<(u32, Vec<u8>, u32)> {
        let mut cursor = Cursor::new(directory);
        let mut all = Vec::new();
        while let Some((directory, name, number)) = cursor.peek(names, scratch).unwrap() {
            all.push((directory, name.to_vec(), number));
            cursor.advance();
        }
        all
    }

    /// Names of every length, in orders that tools and attackers write them in, are found, replaced, removed and listed as a
    /// map of the library has them.
    #[test]
    fn names_are_kept_as_a_map_keeps_them() {
        for order in 0..4 {
            let mut scratch = Scratch::new(tempfile::tempfile().unwrap());
            let (mut names, mut map) = (Names::default(), BTreeMap::new());
            let count = 6000;
            for step in 0..count {
                let number = match order {
                    0 => step,
                    1 => count - step,
                    2 => step * 1009 % count,
                    // Some come again.
                    _ => step * step % 4001,
                };
                let name = format!("{number:05}{}", "x".repeat((number as usize * 7) % 250));
                let (directory, name) = (number % 7, name.into_bytes());
                let before = names.insert(&mut scratch, directory, &name, step).unwrap();
                assert_eq!(before, map.insert((directory, name), step));
                if step % 3 == 0 {
                    let (directory, name) = map.keys().nth(map.len() / 2).cloned().unwrap();
                    let removed = names.remove(&mut scratch, directory, &name).unwrap();
                    assert_eq!(removed, map.remove(&(directory, name.clone())));
                    assert_eq!(names.remove(&mut scratch, directory, &name).unwrap(), None);
                }
            }
            for ((directory, name), number) in &map {
                let found = names.get(&mut scratch, *directory, name).unwrap();
                assert_eq!(found, Some(*number));
            }
            assert_eq!(names.get(&mut scratch, 3, b"none").unwrap(), None);
            let expected: Vec<_> = map
                .into_iter()
                .map(|((directory, name), number)| (directory, name, number))
                .collect();
            assert_eq!(all(&names, &mut scratch, None), expected);
            for directory in 0..8 {
                let of = |entry: &&(u32, Vec<u8>, u32)| entry.0 == directory;
                let expected: Vec<_> = expected.iter().filter(of).cloned().collect();
                assert_eq!(all(&names, &mut scratch, Some(directory)), expected);
            }
        }
    }

    /// Names that come the other way round, of which each is put before all others of its directory, fill their pages too.
    #[test]
    fn no_order_leaves_pages_empty() {
        for order in 0..3 {
            let mut scratch = Scratch::new(tempfile::tempfile().unwrap());
            let mut names = Names::default();
            // The last of the names that come first fills a page, behind which the others come.
            for number in 0..50_000_u32 {
                let (directory, name) = match order {
                    0 => (1, number),
                    1 => (1, 50_000 - number),
                    _ => (number / 100, 100 - number % 100),
                };
                let name = format!("a name {name:06}");
                names
                    .insert(&mut scratch, directory, name.as_bytes(), 0)
                    .unwrap();
            }
            // A cell takes 25 bytes, so that 313 pages would be enough.
            let pages = scratch.add(1).unwrap();
            assert!(pages < 4 * 313, "{order}: {pages}");
        }
    }
}
