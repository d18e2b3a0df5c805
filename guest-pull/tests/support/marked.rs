// SPDX-License-Identifier: Apache-2.0

//! Secrets that are recognised wherever they come up: in texts, files, arguments, environments and memory. For the tests of
//! both programs.

// Each of the tests' programs uses a part of it.
#![allow(dead_code)]

use std::fs;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The traces of a text that occurs only in a secret: raw, and in base64 at each of the three alignments, without the
/// characters at its ends that depend on the neighbours.
pub fn traces(mark: &str) -> Vec<Vec<u8>> {
    let aligned = |before: usize| {
        let text = STANDARD.encode([&vec![b'x'; before], mark.as_bytes(), b"xxx"].concat());
        let start = before.div_ceil(3) * 4;
        text.as_bytes()[start..start + mark.len() - 4].to_vec()
    };
    vec![mark.into(), aligned(0), aligned(1), aligned(2)]
}

/// The traces of a layer's key: as it is, in base64, as the list of numbers in which a key provider gives its options, and
/// what can be turned back into it: the keys of AES' rounds, and the key masked by the two constants of HMAC.
pub fn traces_of_key(key: &[u8]) -> Vec<Vec<u8>> {
    let encoded = STANDARD.encode(key);
    // Not from the beginning, which the C library overwrites in what is freed.
    let encoded = &encoded.as_bytes()[20..40];
    // In the options, which are a JSON text, it is in base64.
    let list = |separator: &str| {
        let numbers: Vec<_> = encoded.iter().map(u8::to_string).collect();
        numbers.join(separator).into_bytes()
    };
    let masked = |mask: u8| key[16..].iter().map(|byte| byte ^ mask).collect::<Vec<_>>();
    let mut all = vec![encoded.to_vec(), list(","), list(", ")];
    all.extend([masked(0x36), masked(0x5c)]);
    all.extend(round_keys(key).chunks(16).map(<[u8]>::to_vec));
    all
}

/// The keys of the 15 rounds of AES-256, as FIPS 197 has it; the first two are the key.
fn round_keys(key: &[u8]) -> Vec<u8> {
    let mut all = key.to_vec();
    let mut constant = 1_u8;
    while all.len() < 15 * 16 {
        let at = all.len();
        let mut word: [u8; 4] = all[at - 4..].try_into().unwrap();
        match (at / 4) % 8 {
            0 => {
                word.rotate_left(1);
                word = word.map(substitute);
                word[0] ^= constant;
                constant <<= 1;
            }
            4 => word = word.map(substitute),
            _ => {}
        }
        for (number, byte) in word.into_iter().enumerate() {
            all.push(all[at - 32 + number] ^ byte);
        }
    }
    all
}

/// The substitution of AES: the inverse in its field, and then a map of the bits.
fn substitute(byte: u8) -> u8 {
    let times = |mut a: u8, mut b: u8| {
        let mut product = 0;
        while b != 0 {
            product ^= a * (b & 1);
            a = (a << 1) ^ (0x1b * (a >> 7));
            b >>= 1;
        }
        product
    };
    // The 254th power.
    let inverse = (0..254).fold(1, |power, _| times(power, byte));
    (1..5).fold(inverse ^ 0x63, |bits, by| bits ^ inverse.rotate_left(by))
}

/// How often each of these is in `bytes`. It passes over them once, since the memory of a process has many.
pub fn count(bytes: &[u8], traces: &[Vec<u8>]) -> Vec<usize> {
    let mut by_first = vec![Vec::new(); 256];
    for (number, trace) in traces.iter().enumerate() {
        by_first[usize::from(trace[0])].push(number);
    }
    let mut found = vec![0; traces.len()];
    for (at, byte) in bytes.iter().enumerate() {
        for number in &by_first[usize::from(*byte)] {
            if bytes[at..].starts_with(&traces[*number]) {
                found[*number] += 1;
            }
        }
    }
    found
}

/// How often each of these is in the memory of a process.
pub fn search(process: u32, traces: &[Vec<u8>]) -> Vec<usize> {
    let maps = fs::read_to_string(format!("/proc/{process}/maps")).unwrap();
    let mut memory = fs::File::open(format!("/proc/{process}/mem")).unwrap();
    let mut found = vec![0; traces.len()];
    for line in maps.lines().filter(|line| !line.contains("[v")) {
        let (range, rest) = line.split_once(' ').unwrap();
        // A file's that can't be written is the program.
        let is_of_file = rest.contains('/');
        if !rest.starts_with('r') || (is_of_file && !rest.starts_with("rw")) {
            continue;
        }
        let (start, end) = range.split_once('-').unwrap();
        let [start, end] = [start, end].map(|address| u64::from_str_radix(address, 16).unwrap());
        // Some of the memory may be gone before it is read.
        let mut bytes = Vec::new();
        memory.seek(SeekFrom::Start(start)).unwrap();
        let _ = (&mut memory).take(end - start).read_to_end(&mut bytes);
        for (times, more) in found.iter_mut().zip(count(&bytes, traces)) {
            *times += more;
        }
    }
    found
}

/// Fails if one of these is in the memory of a process.
pub fn assert_forgotten(what: &str, process: u32, traces: &[Vec<u8>]) {
    let found = search(process, traces);
    assert!(found.iter().all(|times| *times == 0), "{what}: {found:?}");
}

/// Fails if a text has one of these.
pub fn assert_absent(what: &str, bytes: &[u8], traces: &[Vec<u8>]) {
    let found = count(bytes, traces);
    let text = String::from_utf8_lossy(bytes);
    assert!(found.iter().all(|times| *times == 0), "{what}: {text}");
}

/// Fails if a file below a directory has one of these, in its name or its content.
pub fn assert_absent_below(directory: &Path, traces: &[Vec<u8>]) {
    for entry in fs::read_dir(directory).into_iter().flatten() {
        let path = entry.unwrap().path();
        let shown = path.display().to_string();
        assert_absent("a name", shown.as_bytes(), traces);
        let kind = fs::symlink_metadata(&path).unwrap().file_type();
        if kind.is_dir() {
            assert_absent_below(&path, traces);
        } else if kind.is_file() {
            assert_absent(&shown, &fs::read(&path).unwrap(), traces);
        }
    }
}

/// Fails if one of these is in the arguments or the environment of a process, or if users without root's rights can read its
/// memory.
pub fn assert_closed(process: u32, users: &[u32], traces: &[Vec<u8>]) {
    for place in ["cmdline", "environ", "comm"] {
        let bytes = fs::read(format!("/proc/{process}/{place}")).unwrap();
        assert!(!bytes.is_empty(), "{place}");
        assert_absent(place, &bytes, traces);
    }
    let limits = fs::read_to_string(format!("/proc/{process}/limits")).unwrap();
    let mut lines = limits.lines();
    let core = lines.find(|line| line.starts_with("Max core file size"));
    assert_eq!(core.unwrap().split_whitespace().nth(4), Some("0"));
    for user in users {
        for place in ["mem", "environ", "maps"] {
            let path = format!("/proc/{process}/{place}");
            let mut command = Command::new("head");
            command.args(["-c", "1", &path]).uid(*user).gid(*user);
            let output = command.output().unwrap();
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(said.contains("Permission denied"), "{user} {path}: {said}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The example of FIPS 197 (A.3).
    #[test]
    fn round_keys_are_those_of_the_standard() {
        let key = [
            0x60, 0x3d, 0xeb, 0x10, 0x15, 0xca, 0x71, 0xbe, 0x2b, 0x73, 0xae, 0xf0, 0x85, 0x7d,
            0x77, 0x81, 0x1f, 0x35, 0x2c, 0x07, 0x3b, 0x61, 0x08, 0xd7, 0x2d, 0x98, 0x10, 0xa3,
            0x09, 0x14, 0xdf, 0xf4,
        ];
        let all = round_keys(&key);
        assert_eq!(all[32..36], [0x9b, 0xa3, 0x54, 0x11]);
        assert_eq!(all[236..], [0x70, 0x6c, 0x63, 0x1e]);
    }
}
