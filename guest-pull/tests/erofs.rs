// SPDX-License-Identifier: Apache-2.0

//! File systems that the writer makes, read by erofs-utils, by the kernel, and by a reader of these tests.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

#[path = "support/erofs_reader.rs"]
mod erofs_reader;

use std::fs::{self, File};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::process::Command;

use guest_pull::erofs::{Attributes, Content, ContentWriter, Device, Kind, ROOT, Tree, finish};

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().expect(program);
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{program} {args:?}: {said}");
    said
}

/// Bytes that shrink, and bytes that don't.
fn bytes(length: usize, compressible: bool) -> Vec<u8> {
    let mut state = length as u64 + 1;
    (0..length)
        .map(|at| match compressible {
            true => (at / 100 % 251) as u8,
            false => {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state as u8
            }
        })
        .collect()
}

const LENGTHS: [usize; 16] = [
    0, 1, 100, 2048, 2049, 4095, 4096, 4097, 6144, 8192, 65_535, 65_536, 65_537, 70_000, 131_072,
    1_000_001,
];

/// A file of each length around the limits of blocks and clusters, in each mixture of what shrinks and what doesn't.
#[test]
fn contents_of_every_shape_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let mut tree = Tree::new(tempfile::tempfile().unwrap()).unwrap();
    let mut writer = ContentWriter::new(File::create(&path).unwrap(), true);
    let mut expected = Vec::new();
    for first in [true, false] {
        for second in [true, false] {
            for length in LENGTHS {
                let mut content = bytes(length / 2, first);
                content.extend(bytes(length - length / 2, second));
                for part in content.chunks(7777) {
                    writer.write(&mut tree, part).unwrap();
                }
                let name = format!("{length}-{first}-{second}");
                let file = Kind::File(writer.finish_file(&mut tree).unwrap());
                let id = tree
                    .add(
                        &Attributes {
                            mode: 0o644,
                            ..Attributes::default()
                        },
                        file,
                    )
                    .unwrap();
                tree.link(ROOT, name.as_bytes(), id).unwrap();
                expected.push((name, content));
            }
        }
    }
    // A directory of several blocks, and devices.
    let big = tree
        .add_directory(
            &Attributes {
                mode: 0o1777,
                ..Attributes::default()
            },
            ROOT,
        )
        .unwrap();
    tree.link(ROOT, b"big", big).unwrap();
    for n in 0..1000 {
        let id = tree
            .add(
                &Attributes {
                    mode: 0o4755,
                    uid: 3_000_000,
                    gid: 7,
                    seconds: -5,
                    nanoseconds: 999_999_999,
                    xattrs: vec![
                        (
                            b"security.capability"[..].into(),
                            b"\x01\0\0\x02\0\x20\0\0\0\0\0\0\0\0\0\0\0\0\0\0"[..].into(),
                        ),
                        (b"user.x"[..].into(), b"y"[..].into()),
                    ],
                },
                Kind::File(Content::empty()),
            )
            .unwrap();
        tree.link(big, format!("a name of some length {n}").as_bytes(), id)
            .unwrap();
        tree.link(big, format!("link {n}").as_bytes(), id).unwrap();
    }
    let device = Device {
        major: 259,
        minor: 70_000,
    };
    for (name, kind) in [
        ("c", Kind::CharacterDevice(device)),
        ("b", Kind::BlockDevice(device)),
        ("p", Kind::Fifo),
        ("s", Kind::Symlink(tree.keep(&[b'x'; 4000]).unwrap())),
        ("t", Kind::Symlink(tree.keep(b"target").unwrap())),
    ] {
        let id = tree.add(&Attributes::default(), kind).unwrap();
        tree.link(ROOT, name.as_bytes(), id).unwrap();
    }
    let length = finish(&mut tree, &mut writer, [7; 16]).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), length);
    let tree = erofs_reader::read(&fs::read(&path).unwrap()).unwrap();
    for (name, content) in &expected {
        let kind = &tree[format!("/{name}").as_bytes()].kind;
        let wanted = erofs_reader::Kind::File(content.len() as u64, erofs_reader::hash(content));
        assert_eq!(*kind, wanted, "{name}");
    }
    let path = path.to_str().unwrap();
    run("fsck.erofs", &[path]);
    let out = dir.path().join("out");
    run(
        "fsck.erofs",
        &[&format!("--extract={}", out.display()), path],
    );
    compare(&out, &expected);
    let mounted = dir.path().join("mounted");
    fs::create_dir(&mounted).unwrap();
    let mounted_at = mounted.to_str().unwrap();
    run("mount", &["-t", "erofs", "-o", "loop,ro", path, mounted_at]);
    compare(&mounted, &expected);
    let stat = fs::symlink_metadata(mounted.join("big/a name of some length 999")).unwrap();
    assert_eq!(
        (
            stat.mode() & 0o7777,
            stat.uid(),
            stat.gid(),
            stat.mtime(),
            stat.mtime_nsec(),
            stat.nlink()
        ),
        (0o4755, 3_000_000, 7, -5, 999_999_999, 2)
    );
    assert_eq!(fs::read_dir(mounted.join("big")).unwrap().count(), 2000);
    let c = fs::symlink_metadata(mounted.join("c")).unwrap();
    assert_eq!(c.rdev(), nix_makedev(259, 70_000));
    assert_eq!(
        fs::read_link(mounted.join("s")).unwrap().as_os_str().len(),
        4000
    );
    run("umount", &[mounted_at]);
}

fn nix_makedev(major: u64, minor: u64) -> u64 {
    ((major & 0xffff_f000) << 32)
        | ((major & 0xfff) << 8)
        | ((minor & 0xffff_ff00) << 12)
        | (minor & 0xff)
}

fn compare(root: &Path, expected: &[(String, Vec<u8>)]) {
    for (name, content) in expected {
        assert!(fs::read(root.join(name)).unwrap() == *content, "{name}");
    }
}

/// The reader of the tests sees each change of superblock and metadata: every byte there that is not zero is for something.
#[test]
fn the_reader_sees_each_change() {
    let file = tempfile::tempfile().unwrap();
    let mut tree = Tree::new(tempfile::tempfile().unwrap()).unwrap();
    let mut writer = ContentWriter::new(file.try_clone().unwrap(), true);
    let attributes = |mode| Attributes {
        mode,
        uid: 1000,
        gid: 7,
        seconds: 5,
        nanoseconds: 9,
        xattrs: vec![(b"user.x"[..].into(), b"y"[..].into())],
    };
    let directory = tree.add_directory(&attributes(0o755), ROOT).unwrap();
    tree.link(ROOT, b"directory", directory).unwrap();
    for (name, content) in [
        (&b"tail"[..], b"content".to_vec()),
        (b"block", vec![b'x'; 4096]),
        (b"compressed", bytes(70_000, true)),
        (b"empty", Vec::new()),
    ] {
        writer.write(&mut tree, &content).unwrap();
        let file = Kind::File(writer.finish_file(&mut tree).unwrap());
        let id = tree.add(&attributes(0o644), file).unwrap();
        tree.link(directory, name, id).unwrap();
        tree.link(ROOT, name, id).unwrap();
    }
    let device = Device { major: 1, minor: 3 };
    for (name, kind) in [
        (&b"link"[..], Kind::Symlink(tree.keep(b"target").unwrap())),
        (b"pipe", Kind::Fifo),
        (b"device", Kind::CharacterDevice(device)),
        (b"disk", Kind::BlockDevice(device)),
    ] {
        let id = tree.add(&attributes(0o600), kind).unwrap();
        tree.link(ROOT, name, id).unwrap();
    }
    let length = finish(&mut tree, &mut writer, [7; 16]).unwrap();
    let mut image = vec![0; length as usize];
    file.read_exact_at(&mut image, 0).unwrap();
    let good = erofs_reader::read(&image).unwrap();
    assert_eq!(good.len(), 14);
    let metadata = image[1024 + 40..][..4].try_into().unwrap();
    let metadata = u32::from_le_bytes(metadata) as usize * 4096;
    // What no reader needs: that files have times, and what identifies the image.
    let superblock = (1024..4096).filter(|at| *at != 1024 + 8);
    let superblock = superblock.filter(|at| !(1024 + 48..1024 + 64).contains(at));
    for at in superblock.chain(metadata..image.len()) {
        let before = image[at];
        if before == 0 {
            continue;
        }
        for change in [1, 0x80] {
            image[at] = before ^ change;
            let read = erofs_reader::read(&image);
            // Inodes may have any numbers, if no two have the same.
            let is_number = at > metadata && (at - metadata) % 32 == 20;
            let is_seen = is_number || read.as_ref() != Ok(&good);
            assert!(is_seen, "{at}: {before} ^ {change}");
        }
        image[at] = before;
    }
}
