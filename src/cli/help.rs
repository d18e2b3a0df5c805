// SPDX-License-Identifier: Apache-2.0

//! Wraps help to the width of a terminal. clap's own wrapping would add a crate to the daemon.

use std::io::{self, Write as _};

use clap::error::ErrorKind;

/// The width of help, in columns.
const WIDTH: usize = 80;

/// The least width of the column of descriptions. If it would be narrower, descriptions begin at the left.
const NARROWEST: usize = 30;

/// Prints the parser's message: help and version to standard output, errors to standard error.
pub fn print(error: &clap::Error) {
    let text = error.render().to_string();
    let text = match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => wrap(&text),
        _ => text,
    };
    // If it cannot be written, the exit status still reports the result.
    let _ = match error.use_stderr() {
        true => io::stderr().write_all(text.as_bytes()),
        false => io::stdout().write_all(text.as_bytes()),
    };
}

/// Wraps long lines at spaces. Continuation lines begin in the column of the description.
fn wrap(text: &str) -> String {
    let mut wrapped = String::with_capacity(text.len());
    for line in text.lines() {
        if line.chars().count() <= WIDTH {
            wrapped.extend([line, "\n"]);
            continue;
        }
        let margin = margin(line);
        let (before, rest) = line.split_at(margin);
        wrapped.push_str(before);
        let mut column = margin;
        for (index, word) in rest.split(' ').enumerate() {
            let width = word.chars().count();
            if index > 0 && column + 1 + width > WIDTH {
                wrapped.push('\n');
                wrapped.extend(std::iter::repeat_n(' ', margin));
                column = margin;
            } else if index > 0 {
                wrapped.push(' ');
                column += 1;
            }
            wrapped.push_str(word);
            column += width;
        }
        wrapped.push('\n');
    }
    wrapped
}

/// The column where a line's description begins: after the first gap of two spaces or more, if there is one.
fn margin(line: &str) -> usize {
    const USAGE: &str = "Usage: ";
    if line.starts_with(USAGE) {
        return USAGE.len();
    }
    let indentation = line.len() - line.trim_start_matches(' ').len();
    let described = line[indentation..].find("  ").map(|gap| {
        let rest = &line[indentation + gap..];
        line.len() - rest.trim_start_matches(' ').len()
    });
    // The described item is an option or a command, which are ASCII.
    described
        .filter(|&at| at + NARROWEST <= WIDTH && line[..at].is_ascii())
        .unwrap_or(indentation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_broken_below_their_description() {
        let word = "word ".repeat(20);
        let text = format!("  -h, --help  {word}\n          {word}\n{word}\nUsage: x {word}\n");
        let wrapped = wrap(&text);
        assert!(wrapped.lines().all(|line| line.len() <= WIDTH), "{wrapped}");
        for (line, margin) in [
            ("  -h, --help  word", 14),
            ("          word", 10),
            ("word", 0),
        ] {
            let mut lines = wrapped.lines().skip_while(|found| !found.starts_with(line));
            assert!(lines.next().is_some(), "{line}");
            let next = lines.next().unwrap_or_default();
            let begins = next.len() - next.trim_start().len();
            assert_eq!(begins, margin, "{wrapped}");
        }
        assert_eq!(wrap("short\n\n"), "short\n\n");
        // A word that is too long stays whole.
        let long = format!("{}\n", "x".repeat(100));
        assert_eq!(wrap(&long), long);
    }
}
