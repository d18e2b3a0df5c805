// SPDX-License-Identifier: Apache-2.0

//! Names in an archive, taken apart.

/// The longest path, with its NUL byte: `PATH_MAX` of the kernel.
pub const MAX_PATH: usize = 4096;

/// The longest part of a path: `NAME_MAX` of the kernel.
pub const MAX_NAME: usize = 255;

/// The parts of a path, without empty ones and `.`.
///
/// # Errors
///
/// If a part is `..`, which would lead out of a directory, or a part or the whole is longer than the kernel takes, or has
/// a NUL byte.
pub fn parts(path: &[u8]) -> Result<Vec<&[u8]>, &'static str> {
    if path.contains(&0) {
        return Err("the path has a NUL byte");
    }
    let parts = || {
        let parts = path.split(|byte| *byte == b'/');
        parts.filter(|part| !matches!(*part, b"" | b"."))
    };
    // All is checked before there is a list, which of a path of a MiB would take eight.
    let mut length = 0;
    let (mut leads_out, mut is_long) = (false, false);
    for part in parts() {
        leads_out |= part == b"..";
        is_long |= part.len() > MAX_NAME;
        length += 1 + part.len();
    }
    if leads_out {
        return Err("the path has \"..\", which no image needs");
    }
    if is_long {
        return Err("a part of the path is longer than 255 bytes");
    }
    match length >= MAX_PATH {
        true => Err("the path is longer than 4095 bytes"),
        false => Ok(parts().collect()),
    }
}

/// A name of an archive for a message: escaped, and if no path can be as long, its beginning.
pub fn shown(name: &[u8]) -> String {
    match name.get(..MAX_PATH) {
        Some(start) => format!("{}...", start.escape_ascii()),
        None => name.escape_ascii().to_string(),
    }
}
