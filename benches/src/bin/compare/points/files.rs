// SPDX-License-Identifier: Apache-2.0

//! What a container sees of its image's files.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;

use tar::EntryType;

use super::{Point, World, either, point};
use crate::tree::{Layer, Packing, TIME, header, noise};

const FILES: &str = "Files of an image";

/// A capability of a file: CAP_NET_BIND_SERVICE, permitted and effective, in the second version of the form.
const CAPABILITY: &[u8] = &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// An access control list: the owner may write, user 1000 and all others read.
const ACL: &[u8] = &[
    2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 4, 0, 232, 3, 0, 0, 4, 0, 4, 0, 255, 255,
    255, 255, 16, 0, 4, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255,
];

pub fn points() -> Vec<Point> {
    vec![
        point(FILES, "attributes", "attributes `user.*`", attributes),
        point(
            FILES,
            "capabilities",
            "file capabilities (`security.capability`)",
            capabilities,
        ),
        point(FILES, "acl", "access control lists (POSIX ACL)", acl),
        point(FILES, "owner", "owner, group and the setuid bit", owner),
        point(FILES, "time", "times with fractions of a second", time),
        point(
            FILES,
            "hard-link",
            "two names of one file (hard link)",
            hard_link,
        ),
        point(
            FILES,
            "lower-link",
            "a hard link to a file of a lower layer",
            lower_link,
        ),
        point(
            FILES,
            "sparse",
            "sparse files, as GNU tar writes them by itself",
            |world| sparse(world, "sparse", Layer::sparse_gnu),
        ),
        point(
            FILES,
            "sparse-pax",
            "sparse files in the form of PAX",
            |world| sparse(world, "sparse-pax", Layer::sparse_pax),
        ),
        point(FILES, "devices", "device nodes and pipes", devices),
        point(FILES, "name", "a name that is not UTF-8", name),
        point(
            FILES,
            "whiteouts",
            "what a layer removes of lower ones",
            whiteouts,
        ),
        point(
            FILES,
            "directory",
            "mode and owner of a directory that only a lower layer has an entry for",
            directory,
        ),
        point(FILES, "zstd", "layers compressed with zstd", |world| {
            zstd(world, 21)
        }),
    ]
}

/// The attribute of a file, as `kept` or `lost`.
fn attribute(path: &Path, name: &str, expected: &[u8]) -> String {
    let mut value = [0; 256];
    match rustix::fs::lgetxattr(path, name, &mut value) {
        Ok(length) if &value[..length] == expected => "kept".to_owned(),
        Ok(_) => "changed".to_owned(),
        Err(_) => "lost".to_owned(),
    }
}

fn attribute_point(world: &World, image: &str, name: &'static str, value: &'static [u8]) -> String {
    let key = format!("SCHILY.xattr.{name}");
    let layer = Layer::new()
        .pax(&[(&*key, value)])
        .file("file", 0o644, b"text");
    world.tree(image, vec![layer], |root| {
        attribute(&root.join("file"), name, value)
    })
}

fn attributes(world: &World) -> String {
    attribute_point(world, "attributes", "user.note", b"any text")
}

fn capabilities(world: &World) -> String {
    attribute_point(world, "capabilities", "security.capability", CAPABILITY)
}

fn acl(world: &World) -> String {
    attribute_point(world, "acl", "system.posix_acl_access", ACL)
}

fn owner(world: &World) -> String {
    let mut owned = header(EntryType::Regular, 0o4755);
    owned.set_uid(100_000);
    owned.set_gid(70_000);
    let layer = Layer::new().entry(owned, b"file", b"text");
    world.tree("owner", vec![layer], |root| {
        let seen = fs::symlink_metadata(root.join("file")).expect("the file");
        let seen = (seen.uid(), seen.gid(), seen.mode() & 0o7777);
        match seen == (100_000, 70_000, 0o4755) {
            true => "kept".to_owned(),
            false => format!("become {}:{} with mode {:o}", seen.0, seen.1, seen.2),
        }
    })
}

fn time(world: &World) -> String {
    let text = format!("{TIME}.123456789");
    let layer = Layer::new()
        .pax(&[("mtime", text.as_bytes())])
        .file("file", 0o644, b"text");
    world.tree("time", vec![layer], |root| {
        let seen = fs::symlink_metadata(root.join("file")).expect("the file");
        match (seen.mtime() == TIME as i64, seen.mtime_nsec()) {
            (true, 123_456_789) => "kept".to_owned(),
            (true, 0) => "cut to whole seconds".to_owned(),
            _ => "changed".to_owned(),
        }
    })
}

fn hard_link(world: &World) -> String {
    let layer = Layer::new()
        .file("one", 0o644, b"text")
        .hard_link("two", "one");
    world.tree("hard-link", vec![layer], |root| {
        let number = |name: &str| {
            fs::symlink_metadata(root.join(name))
                .expect("the file")
                .ino()
        };
        either(number("one") == number("two"), "one file", "two files")
    })
}

fn lower_link(world: &World) -> String {
    let lower = Layer::new().file("one", 0o644, b"text");
    let upper = Layer::new().hard_link("two", "one");
    world.tree("lower-link", vec![lower, upper], |root| {
        let text = fs::read(root.join("two")).unwrap_or_default();
        either(text == b"text", "a copy of that file", "another content")
    })
}

fn sparse(world: &World, image: &str, write: fn(Layer, &str, usize, &[u8]) -> Layer) -> String {
    const HOLE: usize = 64 << 10;
    let layer = write(Layer::new(), "file", HOLE, b"the end of it");
    world.tree(image, vec![layer], |root| {
        let mut right = vec![0; HOLE];
        right.extend(b"the end of it");
        match fs::read(root.join("file")) {
            Ok(seen) if seen == right => "right".to_owned(),
            Ok(_) => "another content".to_owned(),
            Err(_) => "under another name".to_owned(),
        }
    })
}

fn devices(world: &World) -> String {
    let mut device = header(EntryType::Char, 0o666);
    device.set_device_major(1).expect("a small number");
    device.set_device_minor(3).expect("a small number");
    let layer = Layer::new().entry(device, b"device", b"").entry(
        header(EntryType::Fifo, 0o600),
        b"pipe",
        b"",
    );
    world.tree("devices", vec![layer], |root| {
        let device = fs::symlink_metadata(root.join("device"));
        let device =
            device.is_ok_and(|seen| seen.file_type().is_char_device() && seen.rdev() == 0x103);
        let pipe = fs::symlink_metadata(root.join("pipe"));
        let pipe = pipe.is_ok_and(|seen| seen.file_type().is_fifo());
        match (device, pipe) {
            (true, true) => "made".to_owned(),
            (true, false) => "the pipe is missing".to_owned(),
            (false, true) => "the device is missing".to_owned(),
            (false, false) => "both are missing".to_owned(),
        }
    })
}

fn name(world: &World) -> String {
    let bytes = b"caf\xe9";
    let layer = Layer::new().entry(header(EntryType::Regular, 0o644), bytes, b"text");
    world.tree("name", vec![layer], |root| {
        let is_there = root.join(OsStr::from_bytes(bytes)).exists();
        either(is_there, "kept", "changed")
    })
}

fn whiteouts(world: &World) -> String {
    let lower = Layer::new()
        .directory("one", 0o755)
        .file("one/removed", 0o644, b"text")
        .directory("two", 0o755)
        .file("two/hidden", 0o644, b"text");
    let upper = Layer::new()
        .directory("one", 0o755)
        .file("one/.wh.removed", 0o644, b"")
        .directory("two", 0o755)
        .file("two/.wh..wh..opq", 0o644, b"")
        .file("two/new", 0o644, b"text");
    world.tree("whiteouts", vec![lower, upper], |root| {
        let there = |name: &str| root.join(name).exists();
        let is_right = !there("one/removed") && !there("two/hidden") && there("two/new");
        either(is_right, "is gone", "is still there")
    })
}

fn directory(world: &World) -> String {
    let mut owned = header(EntryType::Directory, 0o700);
    owned.set_uid(7);
    owned.set_gid(7);
    let lower = Layer::new().entry(owned, b"private", b"");
    let upper = Layer::new().file("private/file", 0o600, b"text");
    world.tree("directory", vec![lower, upper], |root| {
        let seen = fs::symlink_metadata(root.join("private")).expect("the directory");
        let seen = (seen.mode() & 0o7777, seen.uid());
        match seen == (0o700, 7) {
            true => "kept".to_owned(),
            false => format!("become mode {:o} of user {}", seen.0, seen.1),
        }
    })
}

pub fn zstd(world: &World, bits: u32) -> String {
    let text = noise(100_000, 1);
    let layer = Layer::new().file("file", 0o644, &text);
    let pushed = world
        .registry
        .push(&format!("zstd-{bits}"), vec![layer], Packing::Zstd(bits));
    world.pull_and_look(&pushed, |root| {
        let seen = fs::read(root.join("file")).unwrap_or_default();
        either(seen == text, "right", "another content")
    })
}
