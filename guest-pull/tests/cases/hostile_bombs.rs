// SPDX-License-Identifier: Apache-2.0

//! Small layers that are there to take time, memory or room, through the worker: each is refused with its number, within the
//! worker's memory, and the next pull is right. `archives_bombs.rs` has them without the worker, and those without an end.

use crate::hostile::{Victim, three_layers};
use crate::image::Repository;
use crate::raw_tar::{Entry, GNU, MAGIC, SPARSE, SYMLINK, archive};

/// Directories 10,000 deep, by one name and by links that lead to each other.
fn deep() -> Vec<(Vec<u8>, &'static str)> {
    let path = "d/".repeat(10_000);
    let one = Entry::directory("cut").pax(&[("path", path.as_bytes())]);
    let target = "d/".repeat(1000);
    let link = |number: usize| {
        let name = "l/".repeat(number) + "l";
        let record = [("path", name.as_bytes()), ("linkpath", target.as_bytes())];
        Entry::new(SYMLINK, "cut").pax(&record)
    };
    let chain: Vec<_> = (0..10).map(link).collect();
    vec![
        (archive(&[one]), "longer than 4095 bytes"),
        (archive(&chain), "longer than 4095 bytes"),
    ]
}

/// Names, a header and attributes that are longer than any.
fn long() -> Vec<(Vec<u8>, &'static str)> {
    let name = vec![b'n'; 256];
    let header = vec![b'x'; 1 << 20];
    let value = vec![b'x'; 70_000];
    let names: Vec<_> = (0..6000)
        .map(|number| format!("SCHILY.xattr.user.{number:05}"))
        .collect();
    let many: Vec<_> = names.iter().map(|name| (&**name, &b""[..])).collect();
    let with = |list: &[(&str, &[u8])]| archive(&[Entry::file("file", "x").pax(list)]);
    vec![
        (with(&[("path", &name)]), "longer than 255 bytes"),
        (with(&[("comment", &header)]), "more than 1024 KiB"),
        (with(&[("SCHILY.xattr.user.x", &value)]), "and at most"),
        (with(&many), "the names of its extended attributes"),
    ]
}

/// Holes, and maps of more parts than are read.
fn sparse() -> Vec<(Vec<u8>, &'static str)> {
    let content = "0\n".to_owned() + &"\0".repeat(510);
    let hole = |size: &[u8]| {
        archive(&[Entry::file("hole", &content).pax(&[
            ("GNU.sparse.major", b"1"),
            ("GNU.sparse.minor", b"0"),
            ("GNU.sparse.name", b"hole"),
            ("GNU.sparse.realsize", size),
        ])])
    };
    let part = b"00000000000\x0000000000000\0".repeat(21);
    let head = Entry::new(SPARSE, "parts").set(MAGIC, GNU);
    let mut parts = head.set((482, 1), b"\x01").bytes();
    for _ in 0..65_536 / 21 + 2 {
        parts.extend([&part[..], b"\x01\0\0\0\0\0\0\0"].concat());
    }
    vec![
        (hole(b"17592186044416"), "more than 16 GiB"),
        (hole(b"9223372036854775807"), "more than 16 GiB"),
        (parts, "more than 65536 parts"),
    ]
}

/// Paths that lead through a hundred long links each.
fn walks() -> Vec<(Vec<u8>, &'static str)> {
    let target = "d/../".repeat(800);
    let mut all = vec![Entry::directory("d/")];
    for number in 0..100 {
        let target = format!("{target}l{}", number + 1);
        let link = Entry::new(SYMLINK, format!("l{number}"));
        all.push(link.pax(&[("linkpath", target.as_bytes())]));
    }
    all.push(Entry::directory("l100/"));
    all.extend((0..400).map(|number| Entry::file(format!("l0/{number}"), "")));
    vec![(archive(&all), "the paths of the layer have more than")]
}

/// Each of them is refused.
#[test]
fn small_bombs() {
    let victim = Victim::new();
    let all = [deep(), long(), sparse(), walks()];
    for (bomb, expected) in all.into_iter().flatten() {
        let (repository, image) = Repository::of(&[bomb]);
        let number = format!("layer 1 of 1 ({})", image.layers[0]);
        victim.assert_refused(&repository, &[&number, expected]);
    }
    let (good, _) = three_layers();
    victim.assert_pulled(&good);
}
