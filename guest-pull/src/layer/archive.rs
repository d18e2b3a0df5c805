// SPDX-License-Identifier: Apache-2.0

//! The entries of a tar archive.

use std::io::{self, Read};

use tar::{Archive, Entry, EntryType};

use crate::erofs::{Attributes, Device, Kind, Xattr};
use crate::layer::place::{Layer, is_kept, sorted};
use crate::layer::{Error, path};

/// How many entries an archive has at most: each name may come twice in an archive, and hard links take no inode.
const MAX_ENTRIES: usize = 4_000_000;

/// The prefix of names that take something away.
const WHITEOUT: &[u8] = b".wh.";

/// The name that hides what lower layers have in its directory.
const OPAQUE: &[u8] = b".wh..wh..opq";

/// The prefix of other names that only the file system of the image's builder had a use for.
const BUILDERS: &[u8] = b".wh..wh.";

/// The prefix of extended attributes in a PAX header, as GNU tar, Go and Docker write them.
const XATTR: &str = "SCHILY.xattr.";

/// The prefix of what GNU tar writes into the PAX header of a sparse file.
const SPARSE: &str = "GNU.sparse.";

/// Reads the archive to its end, what follows the last entry included, and puts its entries into the layer.
pub fn read(archive: impl Read, layer: &mut Layer) -> Result<(), Error> {
    let mut archive = Archive::new(archive);
    let failed = |entries, error| Error::Archive { entries, error };
    for entry in archive.entries().map_err(|error| failed(0, error))? {
        let mut entry = entry.map_err(|error| failed(layer.entries, error))?;
        layer.entries += 1;
        if layer.entries > MAX_ENTRIES {
            return Err(Error::Limit {
                what: "entries",
                most: MAX_ENTRIES,
            });
        }
        take(&mut entry, layer)?;
    }
    // What follows belongs to the layer's digest.
    let mut rest = archive.into_inner();
    io::copy(&mut rest, &mut io::sink()).map_err(|error| failed(layer.entries, error))?;
    Ok(())
}

fn take(entry: &mut Entry<'_, impl Read>, layer: &mut Layer) -> Result<(), Error> {
    let name = entry.path_bytes().into_owned();
    let refused = |what: String| Error::Entry {
        path: name.escape_ascii().to_string(),
        what,
    };
    let (directory, base) = split(&name);
    if base == OPAQUE {
        return layer.put_opaque(directory).map_err(refused);
    }
    if base.starts_with(BUILDERS) {
        return Ok(());
    }
    if let Some(gone) = base.strip_prefix(WHITEOUT) {
        let parts = path::parts(gone).map_err(|what| refused(what.to_owned()))?;
        return match parts[..] {
            [gone] => layer.put_whiteout(directory, gone).map_err(refused),
            _ => Err(refused("it takes away nothing".to_owned())),
        };
    }
    let attributes = attributes(entry).map_err(&refused)?;
    let kind = entry.header().entry_type();
    let is_directory = kind == EntryType::Directory
        // Archives from before 1988 have no type for directories.
        || kind == EntryType::Regular && name.ends_with(b"/");
    match kind {
        _ if is_directory => layer.put_directory(&name, attributes).map_err(refused),
        EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
            let entries = layer.entries;
            let contents = layer.contents();
            loop {
                let length = match entry.read(contents.room()?) {
                    Ok(0) => break,
                    Ok(length) => length,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                    Err(error) => return Err(Error::Archive { entries, error }),
                };
                contents.filled(length);
            }
            let content = contents.finish_file()?;
            layer
                .put(&name, attributes, Kind::File(content))
                .map_err(refused)
        }
        EntryType::Symlink => {
            let target = target(entry).map_err(&refused)?;
            // Linux knows no other mode of a link.
            let attributes = Attributes {
                mode: 0o777,
                ..attributes
            };
            layer
                .put(&name, attributes, Kind::Symlink(target.into()))
                .map_err(refused)
        }
        EntryType::Link => {
            let target = target(entry).map_err(&refused)?;
            layer.put_link(&name, &target, attributes).map_err(refused)
        }
        EntryType::Char | EntryType::Block => {
            let device = device(entry).map_err(&refused)?;
            // Overlayfs would take this one for a whiteout.
            if kind == EntryType::Char && device == Device::default() {
                return Err(refused("it is the device 0/0".to_owned()));
            }
            let kind = match kind {
                EntryType::Char => Kind::CharacterDevice(device),
                _ => Kind::BlockDevice(device),
            };
            layer.put(&name, attributes, kind).map_err(refused)
        }
        EntryType::Fifo => layer.put(&name, attributes, Kind::Fifo).map_err(refused),
        // It is about the archive, and containerd ignores it too.
        EntryType::XGlobalHeader => Ok(()),
        other => Err(refused(format!(
            "it is of the unknown type {}",
            other.as_byte().escape_ascii()
        ))),
    }
}

/// The directory of a name, and its last part.
fn split(name: &[u8]) -> (&[u8], &[u8]) {
    let end = name.iter().rposition(|byte| *byte != b'/');
    let name = &name[..end.map_or(0, |end| end + 1)];
    match name.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&name[..at], &name[at + 1..]),
        None => (b"", name),
    }
}

/// Where a link leads.
fn target(entry: &Entry<'_, impl Read>) -> Result<Vec<u8>, String> {
    match entry.link_name_bytes() {
        Some(target) if target.is_empty() => Err("the link has an empty target".to_owned()),
        Some(target) if target.len() >= path::MAX_PATH => {
            Err("the link's target is longer than 4095 bytes".to_owned())
        }
        Some(target) if target.contains(&0) => Err("the link's target has a NUL byte".to_owned()),
        Some(target) => Ok(target.into_owned()),
        None => Err("the link has no target".to_owned()),
    }
}

fn device(entry: &Entry<'_, impl Read>) -> Result<Device, String> {
    let header = entry.header();
    let ustar = header.as_ustar().map(|it| (it.dev_major, it.dev_minor));
    let gnu = header.as_gnu().map(|it| (it.dev_major, it.dev_minor));
    // The oldest format has no numbers.
    let (major, minor) = ustar.or(gnu).unwrap_or_default();
    let number = |field: &[u8], number: io::Result<Option<u32>>| {
        let number =
            or_zero(field, number).map_err(|error| format!("the device's number: {error}"))?;
        Ok::<_, String>(number.unwrap_or_default())
    };
    let device = Device {
        major: number(&major, header.device_major())?,
        minor: number(&minor, header.device_minor())?,
    };
    // What the kernel's device numbers hold.
    match device.major < 1 << 12 && device.minor < 1 << 20 {
        true => Ok(device),
        false => Err(format!(
            "there is no device {}/{}",
            device.major, device.minor
        )),
    }
}

/// The number in a field of a header. One of nothing but NUL bytes and spaces is 0, as Go and GNU tar have it.
fn or_zero<T: Default>(field: &[u8], number: io::Result<T>) -> io::Result<T> {
    match number {
        Err(_) if field.iter().all(|byte| matches!(byte, 0 | b' ')) => Ok(T::default()),
        number => number,
    }
}

/// Mode, owner, time and extended attributes; the PAX header has precedence over the entry's own.
fn attributes(entry: &mut Entry<'_, impl Read>) -> Result<Attributes, String> {
    let header = entry.header();
    let number = |what: &str, field: &[u8], number: io::Result<u64>| {
        let number = or_zero(field, number).map_err(|error| format!("its {what}: {error}"))?;
        u32::try_from(number).map_err(|_| format!("its {what} is {number}, over 32 bits"))
    };
    let fields = header.as_old();
    let mut attributes = Attributes {
        mode: (number("mode", &fields.mode, header.mode().map(u64::from))? & 0o7777) as u16,
        uid: number("owner", &fields.uid, header.uid())?,
        gid: number("group", &fields.gid, header.gid())?,
        seconds: or_zero(&fields.mtime, header.mtime())
            .map_err(|error| format!("its time: {error}"))? as i64,
        ..Attributes::default()
    };
    let mut xattrs: Vec<Xattr> = Vec::new();
    let extensions = entry
        .pax_extensions()
        .map_err(|error| format!("its PAX header: {error}"))?;
    for extension in extensions.into_iter().flatten() {
        let extension = extension.map_err(|error| format!("its PAX header: {error}"))?;
        let value = extension.value_bytes();
        let Ok(key) = extension.key() else { continue };
        let whole = |what| {
            let text = std::str::from_utf8(value).ok();
            let number = text.and_then(|text| text.parse::<u32>().ok());
            number.ok_or_else(|| format!("its {what} in the PAX header is no number of 32 bits"))
        };
        match key {
            "uid" => attributes.uid = whole("owner")?,
            "gid" => attributes.gid = whole("group")?,
            "mtime" => {
                let time = time(value).ok_or("its time in the PAX header is no time")?;
                (attributes.seconds, attributes.nanoseconds) = time;
            }
            key if key.starts_with(SPARSE) => {
                return Err(
                    "it is a sparse file in the PAX form, which is not supported yet".to_owned(),
                );
            }
            key => match key.strip_prefix(XATTR).map(str::as_bytes) {
                Some(name) if is_kept(name) => xattrs.push((name.into(), value.into())),
                _ => {}
            },
        }
    }
    attributes.xattrs = sorted(xattrs);
    let (seconds, nanoseconds) = bounded(attributes.seconds, attributes.nanoseconds);
    (attributes.seconds, attributes.nanoseconds) = (seconds, nanoseconds);
    Ok(attributes)
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

/// A time of a PAX header, such as `-1.5`: seconds, and nanoseconds after them. Further digits are cut off.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().ok()?;
    if !part.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let mut nanoseconds = 0;
    for at in 0..9 {
        let digit = part.as_bytes().get(at).map_or(0, |digit| digit - b'0');
        nanoseconds = nanoseconds * 10 + u32::from(digit);
    }
    // -1.25 is 1.25 seconds before 1970: two seconds before, and 0.75 after that.
    match whole.starts_with('-') && nanoseconds > 0 {
        true => Some((seconds.checked_sub(1)?, 1_000_000_000 - nanoseconds)),
        false => Some((seconds, nanoseconds)),
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

    /// Times before 1970, and fractions of any length.
    #[test]
    fn times_are_read() {
        for (text, expected) in [
            ("0", Some((0, 0))),
            ("1.5", Some((1, 500_000_000))),
            ("1.1234567899", Some((1, 123_456_789))),
            ("-1", Some((-1, 0))),
            ("-1.25", Some((-2, 750_000_000))),
            ("-0.5", Some((-1, 500_000_000))),
            ("1.", Some((1, 0))),
            ("", None),
            ("x", None),
            ("1.x", None),
            ("9223372036854775808", None),
        ] {
            assert_eq!(time(text.as_bytes()), expected, "{text}");
        }
    }
}
