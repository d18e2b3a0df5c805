// SPDX-License-Identifier: Apache-2.0

//! What differs from run to run is made the same: in what a page shows, and in what comes.

/// What stands before the list of parts that confine a worker, which depends on the kernel.
const CONFINED: &str = "worker confined by ";

/// Digests, process ids, times, rates, how much came so far, and what confines a worker are replaced; so a page can show real ones.
pub fn level(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if rest.starts_with(CONFINED) {
            out.push_str(CONFINED);
            rest = &rest[rest.find('\n').unwrap_or(rest.len())..];
            continue;
        }
        if !c.is_ascii_alphanumeric() {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        }
        let end = |is_part: fn(char) -> bool| rest.find(|c| !is_part(c)).unwrap_or(rest.len());
        let number = end(|c| c.is_ascii_digit() || c == '.');
        let length = end(|c| c.is_ascii_alphanumeric());
        let word = &rest[..length];
        let is_hex = |c: char| matches!(c, '0'..='9' | 'a'..='f');
        if word.len() >= 12 && word.chars().all(is_hex) {
            out.push_str("DIGEST");
            rest = &rest[length..];
        } else if number > 0 {
            let (digits, after) = rest.split_at(number);
            match unit(after) {
                Some((unit, length)) => {
                    out.push_str(unit);
                    rest = &after[length..];
                }
                None => {
                    let differs = out.ends_with("pid ") || out.ends_with("at byte ");
                    out.push_str(if differs { "NUMBER" } else { digits });
                    rest = after;
                }
            }
        } else {
            out.push_str(word);
            rest = &rest[length..];
        }
    }
    out
}

/// What stands for a number before this text, with the length of the unit, if it is one that differs.
fn unit(after: &str) -> Option<(&'static str, usize)> {
    const UNITS: [(&str, &str); 9] = [
        (" s", "TIME"),
        (" ms", "TIME"),
        (" min", "TIME"),
        ("s", "TIME"),
        (" B/s", "RATE"),
        (" kB/s", "RATE"),
        (" KB/s", "RATE"),
        (" MB/s", "RATE"),
        (" MB of", "SO MUCH of"),
    ];
    UNITS.iter().find_map(|(unit, name)| {
        let rest = after.strip_prefix(unit)?;
        let ends = rest.chars().next().is_none_or(|c| !c.is_alphanumeric());
        ends.then_some((*name, unit.len()))
    })
}

/// What is replaced, and what is not.
#[test]
fn only_what_differs_is_replaced() {
    for (text, expected) in [
        (
            "pulled in 1.25 s, pid 4711 (\"x\")",
            "pulled in TIME, pid NUMBER (\"x\")",
        ),
        ("at 3.1 MB/s for 20 s", "at RATE for TIME"),
        ("sha256:0123456789abcdef0", "sha256:DIGEST"),
        ("12 MB, 3 layers, 127.0.0.1", "12 MB, 3 layers, 127.0.0.1"),
        ("default/key/k1 k1s", "default/key/k1 k1s"),
        ("worker confined by x, y\n1 s", "worker confined by \nTIME"),
    ] {
        assert_eq!(level(text), expected);
    }
}
