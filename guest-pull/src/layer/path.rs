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
    let parts = path.split(|byte| *byte == b'/');
    let parts: Vec<_> = parts.filter(|part| !matches!(*part, b"" | b".")).collect();
    if parts.contains(&&b".."[..]) {
        return Err("the path has \"..\", which no image needs");
    }
    if parts.iter().any(|part| part.len() > MAX_NAME) {
        return Err("a part of the path is longer than 255 bytes");
    }
    let length: usize = parts.iter().map(|part| 1 + part.len()).sum();
    match length >= MAX_PATH {
        true => Err("the path is longer than 4095 bytes"),
        false => Ok(parts),
    }
}
