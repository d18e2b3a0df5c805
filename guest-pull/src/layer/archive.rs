// SPDX-License-Identifier: Apache-2.0

//! The entries of a tar archive.

use std::io::{self, Read};

use crate::erofs::{Attributes, Device, Kind, Xattr};
use crate::layer::header::Header;
use crate::layer::place::{Layer, is_kept, sorted};
use crate::layer::reader::{Reader, named};
use crate::layer::{Error, path};

/// How many entries an archive has at most: each name may come twice in an archive, and hard links take no inode.
const MAX_ENTRIES: usize = 4_000_000;

/// The longest name of an extended attribute: `XATTR_NAME_MAX` of the kernel.
const MAX_XATTR_NAME: usize = 255;

/// The prefix of names that take something away.
const WHITEOUT: &[u8] = b".wh.";

/// The name that hides what lower layers have in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// The prefix of other names that only the file system of the image's builder had a use for.
const BUILDERS: &[u8] = b".wh..wh.";

/// Reads the archive to its end, what follows the last entry included, and puts its entries into the layer.
pub fn read(archive: impl Read, layer: &mut Layer) -> Result<(), Error> {
    let mut reader = Reader::new(archive);
    let failed = |entries, error| Error::Archive { entries, error };
    while let Some(header) = reader
        .next()
        .map_err(|error| failed(layer.entries, error))?
    {
        layer.entries += 1;
        if layer.entries > MAX_ENTRIES {
            return Err(Error::Limit {
                what: "entries",
                most: MAX_ENTRIES,
            });
        }
        take(header, &mut reader, layer)?;
    }
    // What follows belongs to the layer's digest.
    let mut rest = reader.into_inner();
    io::copy(&mut rest, &mut io::sink()).map_err(|error| failed(layer.entries, error))?;
    Ok(())
}

fn take(header: Header, reader: &mut Reader<impl Read>, layer: &mut Layer) -> Result<(), Error> {
    let name = &header.name;
    let refused = |what: String| Error::Entry {
        path: name.escape_ascii().to_string(),
        what,
    };
    let mut parts = path::parts(name).map_err(|what| refused(what.to_owned()))?;
    let Some(base) = parts.pop() else {
        // Nothing else can be there, and containerd ignores it.
        if header.kind == b'5' {
            layer.put_root(&attributes(&header).map_err(refused)?);
        }
        return Ok(());
    };
    if base.starts_with(WHITEOUT) {
        return whiteout(base, &parts.join(&b'/'), layer).map_err(refused);
    }
    // It is about the archive. containerd ignores it too, but for its name.
    if header.kind == b'g' {
        return layer.put_nothing(name).map_err(refused);
    }
    let attributes = attributes(&header).map_err(refused)?;
    let kind = match header.kind {
        b'5' => return layer.put_directory(name, attributes).map_err(refused),
        b'1' => {
            let target = target(&header).map_err(refused)?;
            return layer.put_link(name, target, attributes).map_err(refused);
        }
        b'0' | b'S' => {
            let entries = layer.entries;
            let contents = layer.contents();
            loop {
                let length = reader.read(contents.room()?);
                let failed = |error: io::Error| Error::Archive {
                    entries,
                    error: named(name, &error),
                };
                match length.map_err(failed)? {
                    0 => break,
                    length => contents.filled(length),
                }
            }
            Kind::File(contents.finish_file()?)
        }
        b'2' => Kind::Symlink(target(&header).map_err(refused)?.into()),
        b'3' => {
            let device = device(header.device).map_err(refused)?;
            // Overlayfs would take this one for a whiteout.
            if device == Device::default() {
                return Err(refused("it is the device 0/0".to_owned()));
            }
            Kind::CharacterDevice(device)
        }
        b'4' => Kind::BlockDevice(device(header.device).map_err(refused)?),
        b'6' => Kind::Fifo,
        other => {
            let what = format!("it is of the unknown type {}", other.escape_ascii());
            return Err(refused(what));
        }
    };
    layer.put(name, attributes, kind).map_err(refused)
}

/// Takes away what lower layers have.
fn whiteout(base: &[u8], directory: &[u8], layer: &mut Layer) -> Result<(), String> {
    if base == OPAQUE {
        return layer.put_opaque(directory);
    }
    if base.starts_with(BUILDERS) {
        return Ok(());
    }
    match base.strip_prefix(WHITEOUT).unwrap_or_default() {
        b"" | b"." | b".." => Err("it takes away nothing".to_owned()),
        gone => layer.put_whiteout(directory, gone),
    }
}

/// Where a link leads.
fn target(header: &Header) -> Result<&[u8], String> {
    let target = &header.link;
    if target.is_empty() {
        return Err("the link has an empty target".to_owned());
    }
    if target.len() >= path::MAX_PATH {
        return Err("the link's target is longer than 4095 bytes".to_owned());
    }
    match target.contains(&0) {
        true => Err("the link's target has a NUL byte".to_owned()),
        false => Ok(target),
    }
}

fn device((major, minor): (i64, i64)) -> Result<Device, String> {
    // What the kernel's device numbers hold.
    match (u32::try_from(major), u32::try_from(minor)) {
        (Ok(major @ 0..0x1000), Ok(minor @ 0..0x10_0000)) => Ok(Device { major, minor }),
        _ => Err(format!("there is no device {major}/{minor}")),
    }
}

/// Mode, owner, time and extended attributes.
fn attributes(header: &Header) -> Result<Attributes, String> {
    let owner = |what: &str, number: i64| match u32::try_from(number) {
        // The last one means none to the kernel.
        Ok(number) if number < u32::MAX => Ok(number),
        _ => Err(format!("its {what} is {number}, which no file can have")),
    };
    let mut xattrs: Vec<Xattr> = Vec::new();
    for (name, value) in &header.xattrs {
        if is_kept(name) {
            check_xattr(name, value)?;
            xattrs.push((name.clone(), value.clone()));
        }
    }
    let (seconds, nanoseconds) = bounded(header.seconds, header.nanoseconds);
    Ok(Attributes {
        mode: (header.mode & 0o7777) as u16,
        uid: owner("owner", header.uid)?,
        gid: owner("group", header.gid)?,
        seconds,
        nanoseconds,
        xattrs: sorted(xattrs),
    })
}

/// What the kernel would refuse to set.
fn check_xattr(name: &[u8], value: &[u8]) -> Result<(), String> {
    let what = match name {
        b"security.capability" if !is_capability(value) => "has no value that the kernel knows",
        b"user." | b"trusted." | b"security." => "has no name after its prefix",
        _ if name.contains(&0) => "has a NUL byte in its name",
        _ if name.len() > MAX_XATTR_NAME => "has a name over 255 bytes",
        _ => return Ok(()),
    };
    Err(format!(
        "the extended attribute {} {what}",
        name.escape_ascii()
    ))
}

/// Whether it is of the second or third version of file capabilities, which are those that can be set.
fn is_capability(value: &[u8]) -> bool {
    matches!((value.len(), value.get(3)), (20, Some(2)) | (24, Some(3)))
}

/// The first second of 1970 for a time that 63 bits of nanoseconds since then don't hold, as containerd has it: before it, or
/// after April 2262.
fn bounded(seconds: i64, nanoseconds: u32) -> (i64, u32) {
    let whole = seconds.checked_mul(1_000_000_000);
    let time = whole.and_then(|whole| whole.checked_add(i64::from(nanoseconds)));
    match time {
        Some(0..) => (seconds, nanoseconds),
        _ => (0, 0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Times that containerd can't set become the first one that it can.
    #[test]
    fn times_are_bounded() {
        for (time, expected) in [
            ((0, 5), (0, 5)),
            ((-1, 999_999_999), (0, 0)),
            ((9_223_372_036, 854_775_807), (9_223_372_036, 854_775_807)),
            ((9_223_372_036, 854_775_808), (0, 0)),
            ((i64::MAX, 0), (0, 0)),
        ] {
            assert_eq!(bounded(time.0, time.1), expected, "{time:?}");
        }
    }
}
