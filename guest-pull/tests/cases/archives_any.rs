// SPDX-License-Identifier: Apache-2.0

//! Archives of any bytes: what is not an archive is refused, and nothing else happens. The fuzz targets `layers` and
//! `archives` go on from here: docs/fuzzing.md.

use std::io::Read as _;

use guest_pull::layer;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::any_archive::{Allowed, Choices, any_archive};
use crate::erofs_reader;
use crate::raw_tar::{
    CHECKSUM, Entry, FILE, GLOBAL, GNU, LINK, LONG_LINK, LONG_NAME, MAGIC, PAX, SPARSE, archive,
    records,
};

/// An archive that has each kind of header.
fn every_kind() -> Vec<u8> {
    let map = "2\n0\n3\n700\n3\n".to_owned();
    let map = map.clone() + &"\0".repeat(512 - map.len()) + "abcdef";
    let sparse: &[(&str, &[u8])] = &[
        ("GNU.sparse.major", b"1"),
        ("GNU.sparse.minor", b"0"),
        ("GNU.sparse.name", b"sparse"),
        ("GNU.sparse.realsize", b"1000"),
        ("mtime", b"-1.5"),
        ("SCHILY.xattr.user.a", b"b"),
    ];
    archive(&[
        Entry::directory("./"),
        Entry::file("file", "content"),
        Entry::file("x", map).pax(sparse),
        Entry::new(SPARSE, "old")
            .set(MAGIC, GNU)
            .set((386, 24), b"00000000001\x0000000000001\0")
            .content("x")
            .set((483, 12), b"00000000100\0"),
        Entry::link(LINK, "x", "x")
            .long(LONG_LINK, "file")
            .long(LONG_NAME, "link"),
        Entry::new(GLOBAL, "global").content(records(&[("comment", b"x")])),
        Entry::new(FILE, ".wh.gone"),
        Entry::new(FILE, ".wh..wh..opq"),
        Entry::link(b'2', "to", "directory"),
        Entry::file("to/below", "x"),
        Entry::new(b'3', "device").device(1, 3),
    ])
}

/// The archive with right checksums, so that changes are looked at.
fn with_checksums(mut bytes: Vec<u8>) -> Vec<u8> {
    for block in bytes.chunks_exact_mut(512) {
        if block[257..262] == *b"ustar" {
            let (at, length) = CHECKSUM;
            block[at..at + length].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[at..at + length].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    bytes
}

/// An archive becomes a layer that the tests' reader finds right, or is refused.
fn read_or_refused(archive: &[u8]) {
    let file = tempfile::tempfile().unwrap();
    let mut made = file.try_clone().unwrap();
    let scratch = tempfile::tempfile().unwrap();
    if layer::convert(archive, file, scratch, true, [1; 16]).is_ok() {
        let mut image = Vec::new();
        made.read_to_end(&mut image).unwrap();
        erofs_reader::read(&image).unwrap();
    }
}

proptest! {
    // Some have files of 64 MiB.
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Entries of all kinds, chosen by any bytes, end in a layer or an error.
    #[test]
    fn chosen_entries_are_read_or_refused(bytes in vec(any::<u8>(), 0..400)) {
        read_or_refused(&any_archive(&mut Choices::new(&bytes, Allowed::Everything)));
    }
}

proptest! {
    /// Any bytes in the place of others end in a layer or an error.
    #[test]
    fn changed_archives_are_read_or_refused(
        changes in vec((any::<prop::sample::Index>(), any::<u8>()), 1..20),
        end in any::<prop::sample::Index>(),
        is_cut in any::<bool>(),
    ) {
        let mut bytes = every_kind();
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let mut bytes = with_checksums(bytes);
        if is_cut {
            let end = end.index(bytes.len());
            bytes.truncate(end);
        }
        read_or_refused(&bytes);
    }

    /// Any text in a PAX header does too.
    #[test]
    fn any_pax_header_is_read_or_refused(text in "[0-9]{1,2} (path|size|mtime|uid|GNU\\.sparse\\.(map|offset|numbytes|size|major))=[-0-9.,\n]{0,12}\n{0,2}") {
        let pax = Entry::new(PAX, "x").content(text);
        let bytes = archive(&[Entry::file("file", "content").after(pax)]);
        read_or_refused(&bytes);
    }
}

/// The archive that is changed is one.
#[test]
fn the_unchanged_archive_is_read() {
    let file = tempfile::tempfile().unwrap();
    let summary = layer::convert(
        &every_kind()[..],
        file,
        tempfile::tempfile().unwrap(),
        true,
        [1; 16],
    )
    .unwrap();
    assert_eq!(summary.entries, 11);
}
