// SPDX-License-Identifier: Apache-2.0

//! Where the keys of a TOML file are. The parser gives no places, so a key's is known only where one line alone can be it.

use crate::json::Position;

/// The lines of a TOML file.
pub(super) struct Keys<'a> {
    text: &'a str,
}

impl<'a> Keys<'a> {
    /// Those of a text.
    pub fn of(text: &'a str) -> Self {
        Self { text }
    }

    /// Where `key = …` is, if just one line begins so.
    pub fn position(&self, key: &str) -> Option<Position> {
        self.only(|line| {
            let rest = line.strip_prefix(['"', '\'']).unwrap_or(line);
            let rest = rest.strip_prefix(key)?;
            let rest = rest.strip_prefix(['"', '\'']).unwrap_or(rest);
            rest.trim_ascii_start().strip_prefix('=')
        })
    }

    /// Where `[name]` or `[[name]]` is, or a table below it, if just one line begins so.
    pub fn header(&self, name: &str) -> Option<Position> {
        self.only(|line| {
            let rest = line.strip_prefix('[')?;
            let rest = rest.strip_prefix('[').unwrap_or(rest);
            let rest = rest.trim_ascii_start().strip_prefix(name)?;
            rest.trim_ascii_start().strip_prefix([']', '.'])
        })
    }

    fn only(&self, is_it: impl Fn(&'a str) -> Option<&'a str>) -> Option<Position> {
        let mut lines = self.text.lines().enumerate().filter_map(|(index, line)| {
            let start = line.trim_ascii_start();
            is_it(start).map(|_| Position {
                line: index + 1,
                column: line.len() - start.len() + 1,
            })
        });
        lines.next().filter(|_| lines.next().is_none())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A place is right or is not given.
    #[test]
    fn only_what_is_there_once_has_a_place() {
        let keys = Keys::of("a = 1\n b=2\n\"c.d\" = 3\naa = 1\n[x]\nb = 4\n[[ y.z ]]\n");
        let at = |position: Option<Position>| position.map(|at| (at.line, at.column));
        assert_eq!(at(keys.position("a")), Some((1, 1)));
        assert_eq!(at(keys.position("b")), None);
        assert_eq!(at(keys.position("c.d")), Some((3, 1)));
        assert_eq!(at(keys.position("z")), None);
        assert_eq!(at(keys.header("x")), Some((5, 1)));
        assert_eq!(at(keys.header("y")), Some((7, 1)));
        assert_eq!(at(keys.header("z")), None);
    }
}
