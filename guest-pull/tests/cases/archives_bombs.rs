// SPDX-License-Identifier: Apache-2.0

//! Archives that are there to take time, memory or room: each meets a named limit, and the error says which.

use std::fs::File;
use std::io::{self, Read};
use std::process::Command;

use guest_pull::layer::{self, Summary};

use crate::host::{Mounted, is_root, run};
use crate::hostile::{Victim, three_layers};
use crate::image::{Repository, noise};
use crate::raw_tar::{Entry, LINK, SYMLINK, archive, open_archive};

/// Makes a layer of what a reader gives.
fn convert(archive: impl Read) -> Result<Summary, String> {
    let file = tempfile::tempfile().unwrap();
    layer::convert(archive, file, tempfile::tempfile().unwrap(), true, [1; 16])
        .map_err(|error| error.to_string())
}

/// Fails unless the archive is refused with these words.
fn assert_refused(archive: impl Read, expected: &str) {
    let said = convert(archive).unwrap_err();
    assert!(said.contains(expected), "{said}");
}

/// An archive that is made while it is read, and has no end.
struct Endless<F> {
    next: F,
    number: usize,
    bytes: Vec<u8>,
    at: usize,
}

fn endless(next: impl FnMut(usize) -> Vec<u8>) -> impl Read {
    Endless {
        next,
        number: 0,
        bytes: Vec::new(),
        at: 0,
    }
}

impl<F: FnMut(usize) -> Vec<u8>> Read for Endless<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.at == self.bytes.len() {
            (self.bytes, self.at) = ((self.next)(self.number), 0);
            self.number += 1;
        }
        let length = buffer.len().min(self.bytes.len() - self.at);
        buffer[..length].copy_from_slice(&self.bytes[self.at..self.at + length]);
        self.at += length;
        Ok(length)
    }
}

/// A file of nothing but a hole.
fn hole(name: &str, size: &str) -> Entry {
    let size = size.as_bytes();
    Entry::file(name, "0\n".to_owned() + &"\0".repeat(510)).pax(&[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", name.as_bytes()),
        ("GNU.sparse.realsize", size),
    ])
}

/// Holes that cost an archive nothing are bounded, in one file and in all together, before any of it is written.
#[test]
fn sparse_files_without_end() {
    let expected = "the holes of the archive's sparse files have more than 16 GiB";
    let one = archive(&[hole("large", "1000000000000")]);
    assert_refused(&one[..], &format!("large: {expected}"));
    let one = archive(&[hole("largest", "9223372036854775807")]);
    assert_refused(&one[..], expected);
    // The room that there is would not hold what the entries before this one say.
    let old = "more than 65536 parts";
    let part = b"00000000000\x0000000000000\0".repeat(21);
    let head = Entry::new(crate::raw_tar::SPARSE, "parts")
        .set(crate::raw_tar::MAGIC, crate::raw_tar::GNU)
        .set((482, 1), b"\x01")
        .bytes();
    let more = [&part[..], b"\x01\0\0\0\0\0\0\0"].concat();
    let parts = endless(|number| {
        if number == 0 {
            head.clone()
        } else {
            more.clone()
        }
    });
    assert_refused(parts, old);
}

/// A file without an end ends with the room, and one that says how long it is, before that.
#[test]
fn content_without_end() {
    if !is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut mount = Command::new("mount");
    mount.args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]);
    run(mount.arg(dir.path()));
    let mounted = Mounted(dir.path().to_owned());
    let file = File::create(dir.path().join("layer")).unwrap();
    let large = Entry::file("large", "").pax(&[("size", b"68719476737")]);
    let expected = "entry large: it has 68719476737 bytes, and a file can have 64 GiB";
    assert_refused(&archive(&[large])[..], expected);
    let header = Entry::file("endless", "").set(crate::raw_tar::SIZE, b"77777777777");
    let (header, noise) = (header.bytes(), noise(1, 1 << 20));
    let content = endless(|number| {
        if number == 0 {
            header.clone()
        } else {
            noise.clone()
        }
    });
    let said = layer::convert(content, file, tempfile::tempfile().unwrap(), true, [1; 16])
        .unwrap_err()
        .to_string();
    assert!(said.contains("No space left on device"), "{said}");
    drop(mounted);
}

/// Attributes, names and targets go to the scratch file until the end, and are bounded together.
#[test]
fn attributes_without_end() {
    let value = vec![b'x'; 65_000];
    let records: Vec<_> = (0..4)
        .map(|number| format!("SCHILY.xattr.user.{number}"))
        .collect();
    let records: Vec<_> = records
        .iter()
        .map(|name| (name.as_str(), &value[..]))
        .collect();
    let entry = Entry::file("file", "").pax(&records).bytes();
    let expected = "the names, attributes and ends of files up to here take more than 1024 MiB";
    assert_refused(endless(|_| entry.clone()), expected);
}

/// An inode has room for 256 KiB of attributes.
#[test]
fn many_large_attributes_of_one_file() {
    let value = vec![b'x'; 60_000];
    let records = ["a", "b", "c", "d", "e"].map(|name| format!("SCHILY.xattr.user.{name}"));
    let records = records.each_ref().map(|name| (name.as_str(), &value[..]));
    let archive = archive(&[Entry::file("file", "x").pax(&records)]);
    assert_refused(&archive[..], "the extended attributes up to user.e take");
}

/// Entries for one directory, or hard links to one file, whose attributes are those of all of them together: they are bounded
/// with each entry, which the error names.
#[test]
fn attributes_that_come_one_by_one() {
    let value = vec![b'x'; 60_000];
    let with = |entry: Entry, number: usize| {
        let name = format!("SCHILY.xattr.user.{number}");
        entry.pax(&[(&*name, &value[..])]).bytes()
    };
    let expected = |entry| format!("entry {entry}: the extended attributes up to user.4 take 300");
    let directory = endless(|number| with(Entry::directory("d/"), number));
    assert_refused(directory, &expected("d/"));
    let links = endless(|number| match number {
        0 => Entry::file("file", "").bytes(),
        _ => with(Entry::link(LINK, "link", "file"), number - 1),
    });
    assert_refused(links, &expected("link"));
    // Of the largest that an entry can have, sixty would be more than the worker's memory.
    let value = vec![b'x'; 1_000_000];
    let all: Vec<u8> = (0..60)
        .flat_map(|number| {
            let name = format!("SCHILY.xattr.user.{number}");
            Entry::directory("d/").pax(&[(&*name, &value[..])]).bytes()
        })
        .collect();
    let victim = Victim::new();
    let expected = "entry d/: the extended attributes up to user.0 take";
    victim.assert_refused(&Repository::of(&[all]).0, &[expected]);
    victim.assert_pulled(&three_layers().0);
    // What hides the lower layers' files is an attribute too.
    let value = vec![b'x'; 65_527];
    let names = ["a", "b", "c", "d"].map(|name| format!("SCHILY.xattr.user.{name}"));
    let records = names.each_ref().map(|name| (name.as_str(), &value[..]));
    let full = Entry::directory("d/").pax(&records);
    assert!(convert(&archive(std::slice::from_ref(&full))[..]).is_ok());
    let opaque = Entry::file("d/.wh..wh..opq", "");
    assert_refused(
        &archive(&[full, opaque])[..],
        "entry /d: the extended attributes up to user.d take",
    );
}

/// Ten thousand directories deep, by one name and by a chain of links.
#[test]
fn directories_10_000_deep() {
    let path = "d/".repeat(10_000);
    let deep = Entry::directory("cut").pax(&[("path", path.as_bytes())]);
    assert_refused(&archive(&[deep])[..], "longer than 4095 bytes");
    let target = "d/".repeat(1000);
    let link = |number: usize| {
        let name = "l/".repeat(number) + "l";
        let record = [("path", name.as_bytes()), ("linkpath", target.as_bytes())];
        Entry::new(SYMLINK, "cut").pax(&record)
    };
    let chain: Vec<_> = (0..10).map(link).collect();
    assert_refused(
        &archive(&chain)[..],
        "links make its path longer than 4095 bytes",
    );
}

/// Paths that lead through long links again and again take a bounded time.
#[test]
fn walks_without_end() {
    let target = "d/../".repeat(800);
    let mut head = vec![Entry::directory("d/")];
    for number in 0..100 {
        let target = format!("{target}l{}", number + 1);
        let link = Entry::new(SYMLINK, format!("l{number}"));
        head.push(link.pax(&[("linkpath", target.as_bytes())]));
    }
    head.push(Entry::directory("l100/"));
    let head = open_archive(&head);
    let file = Entry::file("l0/file", "").bytes();
    let walks = endless(|number| {
        if number == 0 {
            head.clone()
        } else {
            file.clone()
        }
    });
    assert_refused(
        walks,
        "the paths of the layer have more than 20000000 parts",
    );
}

/// Targets that are long, and are left at their first part, take time too.
#[test]
fn walks_that_end_early() {
    let target = "x/".repeat(2000);
    let link = Entry::new(SYMLINK, "l").pax(&[("linkpath", target.as_bytes())]);
    let head = open_archive(&[link, Entry::file("x", "")]);
    let more = Entry::file("l/.wh.gone", "").bytes();
    let walks = endless(|number| {
        if number == 0 {
            head.clone()
        } else {
            more.clone()
        }
    });
    assert_refused(
        walks,
        "the paths of the layer have more than 20000000 parts",
    );
}

/// Each entry of a directory has all its attributes sorted again.
#[test]
fn attributes_again_and_again() {
    let names: Vec<_> = (0..4000)
        .map(|number| format!("SCHILY.xattr.user.{number}"))
        .collect();
    let records: Vec<_> = names.iter().map(|name| (&**name, &b""[..])).collect();
    let head = open_archive(&[Entry::directory("d/").pax(&records)]);
    let again = Entry::directory("d/").bytes();
    let entries = endless(|number| {
        if number == 0 {
            head.clone()
        } else {
            again.clone()
        }
    });
    assert_refused(entries, "more than 20000000 parts");
}

/// More names of attributes than the kernel lists.
#[test]
fn names_of_attributes_without_end() {
    let names: Vec<_> = (0..6000)
        .map(|number| format!("SCHILY.xattr.user.{number:05}"))
        .collect();
    let records: Vec<_> = names.iter().map(|name| (&**name, &b""[..])).collect();
    let archive = archive(&[Entry::file("file", "").pax(&records)]);
    assert_refused(
        &archive[..],
        "the names of its extended attributes take 66000 bytes, and a file can have 65536",
    );
}

/// Directories without an entry, whose paths together are far longer than their names.
#[test]
fn paths_of_directories_without_end() {
    let deep = "d/".repeat(1900);
    let mut all = Vec::new();
    for number in 0..2000 {
        let path = format!("{deep}{number}/file");
        all.push(Entry::file("cut", "").pax(&[("path", path.as_bytes())]));
    }
    assert_refused(
        &archive(&all)[..],
        "more than 1048576 bytes of paths of directories without an entry",
    );
}

/// Directories without an entry, with paths so short that there are many.
#[test]
fn directories_without_end() {
    let file = |number: usize| Entry::file(format!("{number}/x"), "").bytes();
    let archive: Vec<u8> = (0..20_001).flat_map(file).collect();
    assert_refused(
        &archive[..],
        "more than 20000 directories without an entry, and links to files of lower layers",
    );
}

/// Links whose targets lead through other links before their ends: what is still to be walked is as long as all of them.
#[test]
fn targets_that_lead_through_links() {
    let mut all = vec![Entry::directory("d/")];
    for number in 0..250 {
        // The first part leads on, and the others are left for later.
        let target = format!("l{}/{}", number + 1, "../d/".repeat(800));
        let link = Entry::new(SYMLINK, format!("l{number}"));
        all.push(link.pax(&[("linkpath", target.as_bytes())]));
    }
    all.push(Entry::directory("l250/"));
    all.push(Entry::file("l0/file", "x"));
    let summary = convert(&archive(&all)[..]).unwrap();
    assert_eq!(summary.entries, all.len());
}

/// What follows the archive's end takes no room, but time.
#[test]
fn zeros_without_end() {
    let (file, zeros) = (Entry::file("file", "").bytes(), vec![0; 1 << 20]);
    let rest = endless(|number| {
        if number == 0 {
            file.clone()
        } else {
            zeros.clone()
        }
    });
    assert_refused(rest, "more than 1073741824 bytes after the archive's end");
}

/// Hard links that come before their targets, each of which is looked for at the end, are bounded.
#[test]
fn hard_links_before_their_targets() {
    let link = |number: usize| Entry::link(LINK, format!("link{number}"), "x").bytes();
    assert_refused(endless(link), "one of more than 10000 hard links");
}

/// As many small files as no image has are a layer all the same. (Two million inodes are the limit.)
#[test]
fn a_hundred_thousand_empty_files() {
    let mut all = Vec::new();
    for number in 0..100_000 {
        all.extend(Entry::file(format!("d{}/{number}", number / 1000), "").bytes());
    }
    let summary = convert(&all[..]).unwrap();
    assert_eq!((summary.entries, summary.implied.len()), (100_000, 101));
}
