// SPDX-License-Identifier: Apache-2.0

//! The entries of a tar archive.

use std::io::{self, Read};

use crate::erofs::{Device, Kind};
use crate::layer::attributes::attributes;
use crate::layer::header::Header;
use crate::layer::path::shown;
use crate::layer::place::Layer;
use crate::layer::reader::{Reader, named};
use crate::layer::{Error, Fault, path};

/// How many bytes may follow the archive's end. Tools fill up a block of some KiB, or of some MiB for a tape.
const MAX_REST: u64 = 1 << 30;

/// The longest content of a file: its index has a 512th of that.
const MAX_FILE: i64 = 64 << 30;

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
        take(header, &mut reader, layer)?;
    }
    // What follows belongs to the layer's digest.
    let mut rest = reader.into_inner().take(MAX_REST + 1);
    let passed = io::copy(&mut rest, &mut io::sink());
    match passed.map_err(|error| failed(layer.entries, error))? {
        0..=MAX_REST => Ok(()),
        _ => Err(Error::Limit {
            what: "bytes after the archive's end",
            most: MAX_REST as usize,
        }),
    }
}

fn take(
    mut header: Header,
    reader: &mut Reader<impl Read>,
    layer: &mut Layer,
) -> Result<(), Error> {
    // There may be a MiB of them.
    let xattrs = std::mem::take(&mut header.xattrs);
    let name = &header.name;
    let refused = |what: String| Error::Entry {
        path: shown(name),
        what,
    };
    let failed = |fault| match fault {
        Fault::Entry(what) => refused(what),
        Fault::Write(error) => Error::Write(error),
    };
    let mut parts = path::parts(name).map_err(|what| refused(what.to_owned()))?;
    let Some(base) = parts.pop() else {
        // Nothing else can be there, and containerd ignores it.
        if header.kind == b'5' {
            let attributes = attributes(&header, xattrs).map_err(refused)?;
            layer.put_root(&attributes).map_err(failed)?;
        }
        return Ok(());
    };
    if base.starts_with(WHITEOUT) {
        return whiteout(base, &parts.join(&b'/'), layer).map_err(failed);
    }
    // It is about the archive. containerd ignores it too, but for its name.
    if header.kind == b'g' {
        return layer.put_nothing(name).map_err(failed);
    }
    let attributes = attributes(&header, xattrs).map_err(refused)?;
    let kind = match header.kind {
        b'5' => return layer.put_directory(name, attributes).map_err(failed),
        b'1' => {
            let target = target(&header).map_err(refused)?;
            return layer.put_link(name, target, attributes).map_err(failed);
        }
        b'0' | b'S' if header.size > MAX_FILE => {
            let (bytes, most) = (header.size, MAX_FILE >> 30);
            let what = format!("it has {bytes} bytes, and a file can have {most} GiB");
            return Err(refused(what));
        }
        b'0' | b'S' => {
            let entries = layer.entries;
            let (contents, tree) = layer.contents();
            loop {
                let length = reader.read(contents.room(tree)?);
                let failed = |error: io::Error| Error::Archive {
                    entries,
                    error: named(name, &error),
                };
                match length.map_err(failed)? {
                    0 => break,
                    length => contents.filled(length),
                }
            }
            Kind::File(contents.finish_file(tree)?)
        }
        b'2' => {
            let target = target(&header).map_err(refused)?;
            Kind::Symlink(layer.keep(target).map_err(failed)?)
        }
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
    layer.put(name, attributes, kind).map_err(failed)
}

/// Takes away what lower layers have.
fn whiteout(base: &[u8], directory: &[u8], layer: &mut Layer) -> Result<(), Fault> {
    if base == OPAQUE {
        return layer.put_opaque(directory);
    }
    if base.starts_with(BUILDERS) {
        return Ok(());
    }
    match base.strip_prefix(WHITEOUT).unwrap_or_default() {
        b"" | b"." | b".." => Err(Fault::from("it takes away nothing")),
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
