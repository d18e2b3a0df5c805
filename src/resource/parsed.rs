// SPDX-License-Identifier: Apache-2.0

//! The entries of a text while it is read, in as little memory as they can be held in: a file's text, its values
//! and what is known of them are all there at once then, and never again.

use std::borrow::Cow;
use std::mem;
use std::ops::Range;

use memchr::memchr;
use zeroize::Zeroizing;

use crate::json::{self, Places};
use crate::keyprovider::KEY_BYTES;
use crate::resource::base64::{self, Alphabet};
use crate::resource::entries::{Entries, Entry};
use crate::resource::file::{Kind, MAX_FILE_BYTES};
use crate::resource::name::{CREDENTIAL, Name};
use crate::resource::problem::{CREDENTIAL_REFUSED, NAME_SPELLING, NO_MEMORY, Problem, Severity};
use crate::resource::secret::Secret;
use crate::text::EntryName;

/// A text that is being read.
pub(super) struct Reading<'a> {
    text: &'a [u8],
    kind: &'a Kind,
    list: Vec<Found>,
    bytes: Zeroizing<Vec<u8>>,
    broken: Vec<(u32, Box<str>)>,
    /// The names that are not written as they are looked up.
    spelled: Vec<(u32, Cow<'a, str>)>,
    /// What is wrong, and with what: an entry is known by where its value begins.
    problems: Vec<(u32, Problem)>,
}

impl<'a> Reading<'a> {
    /// Nothing read yet.
    ///
    /// # Errors
    ///
    /// Where the text is too long, or memory too small for its values.
    pub(super) fn new(text: &'a [u8], kind: &'a Kind) -> Result<Self, Problem> {
        // Below this all places fit into 32 bits.
        if text.len() as u64 > MAX_FILE_BYTES {
            let what = format!(
                "{} bytes long, over the cap of {MAX_FILE_BYTES}",
                text.len()
            );
            let fix = "split the file, or remove what no client asks for";
            return Err(Problem::of_file(Severity::Error, "too-long", what, fix));
        }
        // Room for all values, since a vector that grows would leave copies behind: what is around each in
        // the text makes up for what decoding needs besides.
        let room = text.len() / 4 * 3 + 3;
        let mut bytes = Zeroizing::new(Vec::new());
        if bytes.try_reserve_exact(room).is_err() {
            let what = format!("no memory for the {room} bytes that it may decode to");
            let fix = "give the process more memory, or make the file smaller";
            return Err(Problem::of_file(Severity::Error, NO_MEMORY, what, fix));
        }
        Ok(Self {
            text,
            kind,
            list: Vec::new(),
            bytes,
            broken: Vec::new(),
            spelled: Vec::new(),
            problems: Vec::new(),
        })
    }

    /// Adds a member, whose value begins at this byte.
    pub(super) fn add(&mut self, written: Cow<'a, str>, value: &str, at: usize) {
        let at = at as u32;
        let name = match Name::parse(&written) {
            Ok(name) => name,
            // An id of a key is any text.
            Err(_) if *self.kind == Kind::Keys => Name::Other(written.as_ref().into()),
            Err(error) => {
                let fix = "name it <repository>/<type>/<tag>";
                let what = format!("{error}; it is not served");
                let problem = Problem::of_file(Severity::Error, "name-plugin", what, fix);
                self.problems.push((at, problem.about_entry(written, None)));
                return;
            }
        };
        let start = self.bytes.len();
        let decoded = decode(value, self.kind, &mut self.bytes);
        let length = self.bytes.len() - start;
        let problem = match decoded {
            // Of what clients ask for by itself none can be empty, and clients keep what they get.
            Ok(_) if length == 0 && name.old().is_some() => {
                self.broken.push((at, "the value is empty".into()));
                let what = format!(
                    "the value is empty, as an unset variable in a script or template leaves it; {}",
                    self.meaning(&name)
                );
                Some((Severity::Error, "value-empty", what))
            }
            Ok(_) if length == 0 => {
                let what = "the value is empty, and is served empty".to_owned();
                Some((Severity::Warning, "value-empty", what))
            }
            Ok(Alphabet::Standard) => None,
            Ok(Alphabet::UrlSafe) => {
                let what = "the value is URL-safe base64 (- and _), which this daemon reads and an upstream \
                            agent refuses";
                Some((Severity::Warning, "base64-url-safe", what.to_owned()))
            }
            Err((code, reason)) => {
                let what = format!("{reason}; {}", self.meaning(&name));
                self.broken.push((at, reason.into()));
                Some((Severity::Error, code, what))
            }
        };
        if let Some((severity, code, what)) = problem {
            let problem = Problem::of_file(severity, code, what, fix_value(self.kind));
            let problem = problem.about_entry(written.as_ref(), None);
            self.problems.push((at, problem));
        }
        let old = Name::is_old(&written);
        if written != name.as_str() {
            if !old {
                let problem = is_spelled_otherwise(&name, written.as_ref());
                self.problems.push((at, problem));
            }
            self.spelled.push((at, written));
        }
        self.list.push(Found {
            name,
            start: start as u32,
            length: length as u32,
            at,
            old,
        });
    }

    /// What it means that an entry is broken.
    fn meaning(&self, name: &Name) -> &'static str {
        match (self.kind, name.as_str()) {
            (Kind::Keys, _) => "layers that need it can't be decrypted",
            (_, CREDENTIAL) => CREDENTIAL_REFUSED,
            _ => "requests for it are refused",
        }
    }

    /// Whether any entry has a good value.
    pub(super) fn has_good(&self) -> bool {
        self.list.len() > self.broken.len()
    }

    /// Puts the entries in order, of several of one name and one way to write it only the last.
    pub(super) fn finish(self) -> Parsed {
        let (mut list, spelled, mut problems) = (self.list, self.spelled, self.problems);
        let order = |entry: &Found| (!entry.old, entry.at);
        list.sort_unstable_by(|a, b| {
            let names = a.name.cmp(&b.name);
            names.then_with(|| order(a).cmp(&order(b)))
        });
        list.dedup_by(|next, kept| {
            let twice = next.name == kept.name && next.old == kept.old;
            if twice {
                let problem = is_twice(written(kept, &spelled), written(next, &spelled));
                problems.push((next.at, problem));
                mem::swap(kept, next);
            }
            twice
        });
        // In the order of the text, and what is wrong with one entry in the order in which it was found.
        problems.sort_by_key(|(at, _)| *at);
        let mut places = Places::new(self.text);
        let problems = problems.into_iter().map(|(at, problem)| Problem {
            position: Some(places.at(at as usize)),
            ..problem
        });
        let mut parsed = Parsed {
            list,
            bytes: self.bytes,
            broken: self.broken,
            problems: problems.collect(),
        };
        let conflicts = parsed.conflicts(self.text);
        parsed.problems.extend(conflicts);
        parsed
    }
}

/// An entry's name as the text has it.
fn written<'e>(entry: &'e Found, spelled: &'e [(u32, Cow<'_, str>)]) -> &'e str {
    match spelled.binary_search_by_key(&entry.at, |(at, _)| *at) {
        Ok(spelling) => &spelled[spelling].1,
        Err(_) => entry.name.as_str(),
    }
}

/// That only this daemon finds an entry by the name that it is written by.
fn is_spelled_otherwise(name: &Name, written: &str) -> Problem {
    let name = EntryName(name.as_str());
    let what = format!(
        "this daemon finds it, but confidential-data-hub and the attestation-agents since February 2023 look for {name}"
    );
    let fix = format!("name it {name}");
    Problem::of_file(Severity::Warning, NAME_SPELLING, what, fix).about_entry(written, None)
}

/// That an entry, by this name, takes the place of one before.
fn is_twice(before: &str, written: &str) -> Problem {
    let what = if before == written {
        "the name comes more than once; the last value counts".to_owned()
    } else {
        let before = EntryName(before);
        format!("the same resource as {before} above; the last value counts")
    };
    Problem::of_file(Severity::Warning, "name-twice", what, "leave one of them")
        .about_entry(written, None)
}

/// What a file's text has, in as little memory as it can be held in: the text is there too.
pub(super) struct Parsed {
    list: Vec<Found>,
    /// All good values, one after the other.
    bytes: Zeroizing<Vec<u8>>,
    /// Why the others are none, in the order of the text.
    broken: Vec<(u32, Box<str>)>,
    problems: Vec<Problem>,
}

/// One entry of a text.
struct Found {
    name: Name,
    /// Where its value begins among the good ones, and how long it is.
    start: u32,
    length: u32,
    /// Where its value begins in the text. No two entries have that in common.
    at: u32,
    old: bool,
}

impl Found {
    fn range(&self) -> Range<usize> {
        let start = self.start as usize;
        start..start + self.length as usize
    }
}

/// The same bytes in a place that is not much larger: it is kept, locked and wiped as a whole for as long as one of them
/// is served, and values that are no good leave room.
fn fitting(bytes: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    if bytes.capacity() / 2 <= bytes.len() {
        return bytes;
    }
    let mut fitting = Zeroizing::new(Vec::new());
    match fitting.try_reserve_exact(bytes.len()) {
        Ok(()) => {
            fitting.extend_from_slice(&bytes);
            fitting
        }
        Err(_) => bytes,
    }
}

impl Parsed {
    /// The entries. The text need not be there any more.
    pub(super) fn entries(mut self) -> Entries {
        let all = Secret::new(fitting(mem::take(&mut self.bytes)));
        let list = mem::take(&mut self.list).into_iter().map(|found| Entry {
            value: match self.why_broken(&found) {
                Some(reason) => Err(reason.into()),
                None => Ok(all.part(found.range())),
            },
            name: found.name,
            old: found.old,
        });
        let list = list.collect();
        Entries::of_sorted(list, self.problems)
    }

    /// What has a good value under both ways to write its name, and not the same one.
    fn conflicts(&self, text: &[u8]) -> Vec<Problem> {
        let same = self.list.chunk_by(|a, b| a.name == b.name);
        let pairs = same.filter_map(|same| match same {
            [old, new] => Some((old, self.value(old)?, self.value(new)?)),
            _ => None,
        });
        let conflicts = pairs.filter(|(_, old, new)| old != new);
        conflicts
            .map(|(old, ..)| {
                let path = EntryName(old.name.as_str());
                let conflict = Problem::of_file(
                    Severity::Warning,
                    "name-conflict",
                    format!("the same resource as {path}, with another value; {path} counts"),
                    "remove this one",
                );
                // There are no more of them than there are old names.
                let position = Places::new(text).at(old.at as usize);
                conflict.about_entry(old.name.old().unwrap_or_default(), Some(position))
            })
            .collect()
    }

    /// The entry's value, if it is a good one.
    fn value(&self, entry: &Found) -> Option<&[u8]> {
        match self.why_broken(entry) {
            Some(_) => None,
            None => self.bytes.get(entry.range()),
        }
    }

    fn why_broken(&self, entry: &Found) -> Option<&str> {
        let at = self.broken.binary_search_by_key(&entry.at, |(at, _)| *at);
        Some(&self.broken[at.ok()?].1)
    }
}

fn fix_value(kind: &Kind) -> &'static str {
    match kind {
        Kind::Keys => "put the key's 32 bytes there, as by `openssl rand -base64 32`",
        _ => "put the output of `base64 -w 0 FILE` there",
    }
}

/// Puts the decoded value of one entry behind the others, and tells its alphabet; or says what is wrong with it: its
/// code, and the words.
fn decode(
    value: &str,
    kind: &Kind,
    bytes: &mut Zeroizing<Vec<u8>>,
) -> Result<Alphabet, (&'static str, String)> {
    let Some(inner) = value
        .strip_prefix('"')
        .and_then(|rest| rest.strip_suffix('"'))
    else {
        let first = value.bytes().next().unwrap_or_default();
        let found = json::other_kind(first).unwrap_or("an object");
        return Err((
            "not-a-string",
            format!("{found} instead of a string of base64"),
        ));
    };
    let start = bytes.len();
    let decoded = if memchr(b'\\', inner.as_bytes()).is_some() {
        let unescaped: Zeroizing<String> = serde_json::from_str(value)
            .map(Zeroizing::new)
            .map_err(|_| ("not-a-string", "a string with a broken escape".to_owned()))?;
        base64::decode_onto(&unescaped, bytes)
    } else {
        base64::decode_onto(inner, bytes)
    };
    let alphabet = decoded.map_err(|error| ("base64", error.to_string()))?;
    let length = bytes.len() - start;
    if *kind == Kind::Keys && length != KEY_BYTES {
        bytes.truncate(start);
        let what = format!("decodes to {length} bytes; a key has {KEY_BYTES}");
        return Err(("key-size", what));
    }
    Ok(alphabet)
}
