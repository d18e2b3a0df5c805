// SPDX-License-Identifier: Apache-2.0

//! Cloud-config user data: the files that it writes, as far as one can tell without all of YAML.
//!
//! What is read is what people and cloud-api-adaptor write: a list `write_files`, its items with `path` and a
//! `content` in a block, in quotes or bare.

use zeroize::Zeroizing;

use crate::json::Position;
use crate::resource::base64;
use crate::resource::problem::{Problem, Severity};
use crate::text::Quoted;
use crate::userdata::{FIRST_LINE, PLATFORMS, RESOURCES_PATH};

/// The files that are served wherever they are not told otherwise.
const SERVED: [&str; 3] = [
    RESOURCES_PATH,
    "/etc/aa-offline_fs_kbc-keys.json",
    "/run/peerpod/auth.json",
];

/// A file that user data writes.
pub struct Written {
    /// Its path.
    pub path: String,
    /// Its content.
    pub content: Zeroizing<Vec<u8>>,
    /// Where the content begins in the user data, and how far its lines are indented; none where it
    /// doesn't stand there line by line.
    pub place: Option<(Position, usize)>,
}

impl Written {
    /// A place in the content, as one in the user data.
    pub fn place_of(&self, position: Position) -> Option<Position> {
        let (start, indentation) = self.place?;
        Some(Position {
            line: start.line + position.line - 1,
            column: position.column + indentation,
        })
    }
}

/// The files that user data writes, and what is wrong with it as a whole.
pub fn read(text: &str) -> (Vec<Written>, Vec<Problem>) {
    let mut found = Vec::new();
    if text.lines().next().map(str::trim_end) != Some(FIRST_LINE) {
        found.push(Problem::of_file(
            Severity::Error,
            "user-data-header",
            format!("its first line is not {FIRST_LINE}; cloud-init writes no file of it"),
            format!("write {FIRST_LINE} as the first line, with nothing before it"),
        ));
    }
    for platform in PLATFORMS
        .iter()
        .filter(|platform| !platform.takes(text.len()))
    {
        found.push(Problem::of_file(
            Severity::Warning,
            "user-data-size",
            format!(
                "{} bytes, as {} measures it, which takes {}; there the VM does not start or gets none of it",
                platform.measure(text.len()),
                platform.name,
                platform.most
            ),
            "leave out registries that the VM doesn't need, or bake the file into the image",
        ));
    }
    let mut written = Vec::new();
    for item in items(text) {
        match item.written() {
            Ok(file) => written.extend(file),
            Err(problem) => found.push(problem),
        }
    }
    let is_ours = |path: &str| SERVED.contains(&path);
    let name = |path: &str| path.rsplit('/').next().unwrap_or_default().to_owned();
    for file in written.iter().filter(|file| !is_ours(&file.path)) {
        let meant = SERVED.iter().find(|path| name(path) == name(&file.path));
        if let Some(meant) = meant {
            let problem = Problem::of_file(
                Severity::Warning,
                "user-data-path",
                "no daemon looks for the file there without a flag",
                format!("write {meant}"),
            );
            found.push(problem.about_entry(&file.path, None));
        }
    }
    if !written.iter().any(|file| is_ours(&file.path)) {
        found.push(Problem::of_file(
            Severity::Error,
            "user-data-files",
            format!(
                "it writes none of the files that are served ({}), in a form that could be read here; pulls \
                 are anonymous",
                SERVED.join(", ")
            ),
            "make it with `offline-fs-kbc pack --format cloud-config --credential auth.json`",
        ));
    }
    (written, found)
}

/// One item of `write_files`.
#[derive(Default)]
struct Item<'a> {
    members: Vec<(&'a str, Value<'a>)>,
}

/// A member's value, with the line that it begins on.
struct Value<'a> {
    line: usize,
    text: &'a str,
    /// The lines of a block, not yet without their indentation.
    block: Vec<&'a str>,
}

impl Item<'_> {
    fn get(&self, name: &str) -> Option<&Value<'_>> {
        let member = self.members.iter().find(|(key, _)| *key == name)?;
        Some(&member.1)
    }

    fn written(&self) -> Result<Option<Written>, Problem> {
        let Some(path) = self.get("path").and_then(|path| scalar(path.text)) else {
            return Ok(None);
        };
        let Some(content) = self.get("content") else {
            return Ok(None);
        };
        let problem = |what: String, fix: &str| {
            let position = Position {
                line: content.line,
                column: 1,
            };
            Problem::of_file(Severity::Error, "user-data-content", what, fix)
                .about_entry(&*path, Some(position))
        };
        let (mut bytes, mut place) = match content.text.chars().next() {
            Some('|') => content.block(),
            Some('>') => {
                let what =
                    "its content is a folded block (>), which joins lines; write a literal one (|)";
                return Err(problem(what.to_owned(), "write `content: |`"));
            }
            _ => match scalar(content.text) {
                Some(text) => (Zeroizing::new(text.as_bytes().to_vec()), None),
                None => {
                    let what = "its content can't be read here: it is neither a block nor quoted on one line";
                    return Err(problem(
                        what.to_owned(),
                        "write `content: |` and the lines below it",
                    ));
                }
            },
        };
        let encoding = self.get("encoding").and_then(|value| scalar(value.text));
        match encoding.as_deref().map(String::as_str) {
            None | Some("" | "text/plain") => {}
            Some("b64" | "base64") => {
                let text = std::str::from_utf8(&bytes).unwrap_or_default();
                bytes = base64::decode(text).map_err(|error| {
                    problem(
                        format!("its content is {error}, and its encoding is base64; cloud-init writes no file"),
                        "put the output of `base64 -w 0 FILE` there, or leave the encoding out",
                    )
                })?;
                place = None;
            }
            Some(other) => {
                let what = format!("its encoding {} is not read here", Quoted(other));
                return Err(Problem {
                    severity: Severity::Note,
                    ..problem(what, "check the file before it is encoded")
                });
            }
        }
        Ok(Some(Written {
            path: path.to_string(),
            content: bytes,
            place,
        }))
    }
}

impl Value<'_> {
    /// The text of a literal block.
    fn block(&self) -> (Zeroizing<Vec<u8>>, Option<(Position, usize)>) {
        let indentation = self.block.iter().find(|line| !line.trim().is_empty());
        let indentation = indentation.map_or(0, |line| indentation_of(line));
        let room = self.block.iter().map(|line| line.len() + 1).sum();
        let mut text = Zeroizing::new(Vec::with_capacity(room));
        for line in &self.block {
            text.extend_from_slice(line.get(indentation..).unwrap_or_default().as_bytes());
            text.push(b'\n');
        }
        // One line break stays at the end, or none with `|-`.
        while text.last() == Some(&b'\n') {
            text.pop();
        }
        if !self.text.starts_with("|-") {
            text.push(b'\n');
        }
        let start = Position {
            line: self.line + 1,
            column: 1,
        };
        (text, Some((start, indentation)))
    }
}

fn indentation_of(line: &str) -> usize {
    line.len() - line.trim_start_matches(' ').len()
}

/// The items of `write_files`, by indentation alone.
fn items(text: &str) -> Vec<Item<'_>> {
    let mut items: Vec<Item<'_>> = Vec::new();
    let mut lines = text.lines().enumerate().peekable();
    while let Some((_, line)) = lines.next() {
        if line.trim_end() != "write_files:" {
            continue;
        }
        // The members' indentation, of the item that is being read.
        let mut at = 0;
        while let Some(&(number, line)) = lines.peek() {
            let stripped = line.trim_start_matches(' ');
            let indentation = indentation_of(line);
            if stripped.trim().is_empty() || stripped.starts_with('#') {
                lines.next();
                continue;
            }
            let (indentation, rest) = match stripped.strip_prefix("- ") {
                Some(rest) => {
                    let rest = rest.trim_start_matches(' ');
                    at = line.len() - rest.len();
                    items.push(Item::default());
                    (at, rest)
                }
                None if indentation == 0 => break,
                None => (indentation, stripped),
            };
            lines.next();
            let (Some(item), Some((key, value))) = (items.last_mut(), rest.split_once(':')) else {
                continue;
            };
            if indentation != at {
                continue;
            }
            let mut block = Vec::new();
            let value = value.trim();
            if value.starts_with(['|', '>']) {
                while let Some((_, line)) = lines.peek() {
                    if !line.trim().is_empty() && indentation_of(line) <= at {
                        break;
                    }
                    block.push(*line);
                    lines.next();
                }
            }
            let value = Value {
                line: number + 1,
                text: value,
                block,
            };
            item.members.push((key.trim(), value));
        }
    }
    items
}

/// A value on one line, without its quotes.
fn scalar(text: &str) -> Option<Zeroizing<String>> {
    let text = text.trim();
    let ends = |rest: &str| rest.is_empty() || rest.trim_start().starts_with('#');
    if let Some(rest) = text.strip_prefix('\'') {
        let mut inner = Zeroizing::new(String::with_capacity(rest.len()));
        let mut parts = rest.split('\'');
        inner.push_str(parts.next()?);
        // A quote that is doubled stands for itself.
        while let Some(part) = parts.next() {
            if !part.is_empty() || parts.clone().next().is_none() {
                return ends(part).then_some(inner);
            }
            inner.push('\'');
            inner.push_str(parts.next()?);
        }
        return None;
    }
    if text.starts_with('"') {
        // What JSON has as a string YAML has too.
        let mut strings = serde_json::Deserializer::from_str(text).into_iter::<String>();
        let string = Zeroizing::new(strings.next()?.ok()?);
        return ends(&text[strings.byte_offset()..]).then_some(string);
    }
    let bare = text.split(" #").next().unwrap_or_default().trim_end();
    let is_plain =
        !bare.is_empty() && !bare.starts_with(['{', '[', '&', '*', '!', '|', '>', '@', '`']);
    is_plain.then(|| Zeroizing::new(bare.to_owned()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn files(text: &str) -> Vec<(String, String)> {
        let (written, _) = read(text);
        let text = |file: &Written| String::from_utf8(file.content.to_vec()).unwrap();
        written
            .iter()
            .map(|file| (file.path.clone(), text(file)))
            .collect()
    }

    fn codes(text: &str) -> Vec<&'static str> {
        read(text).1.iter().map(|problem| problem.code).collect()
    }

    /// What the writer writes is read back, and so is what people write by hand.
    #[test]
    fn files_are_read() {
        let written = crate::userdata::write(&[
            ("/peerpod/daemon.json", "{\n  \"a\": 1\n}\n"),
            (crate::userdata::RESOURCES_PATH, "{\"Credential\":\"\"}\n"),
        ]);
        let text = written.unwrap();
        assert_eq!(
            files(&text),
            [
                (
                    "/peerpod/daemon.json".to_owned(),
                    "{\n  \"a\": 1\n}\n".to_owned()
                ),
                (
                    crate::userdata::RESOURCES_PATH.to_owned(),
                    "{\"Credential\":\"\"}\n".to_owned()
                ),
            ]
        );
        assert_eq!(codes(&text), [""; 0]);
        let by_hand = "#cloud-config\nusers: []\nwrite_files:\n- content: |-\n    {\"a\":\n     1}\n\n  \
                       path: \"/run/peerpod/auth.json\" # here\n  permissions: '0600'\n# between\n- encoding: b64\n  \
                       path: /b\n  content: aGVs\n- path: '/c'\n  content: 'it''s'\nruncmd:\n- path: no\n  content: no\n";
        assert_eq!(
            files(by_hand),
            [
                ("/run/peerpod/auth.json", "{\"a\":\n 1}"),
                ("/b", "hel"),
                ("/c", "it's")
            ]
            .map(|(path, text)| (path.to_owned(), text.to_owned()))
        );
        let (written, _) = read(by_hand);
        let place = written[0]
            .place_of(Position { line: 2, column: 2 })
            .unwrap();
        assert_eq!((place.line, place.column), (6, 6));
    }

    #[test]
    fn what_cloud_init_would_not_write_is_found() {
        let ours = "write_files:\n- path: /etc/aa-offline_fs_kbc-resources.json\n";
        for (text, expected) in [
            (format!("{ours}  content: x\n"), &["user-data-header"][..]),
            (
                format!("#cloud-config\n{ours}  content: >\n    x\n"),
                &["user-data-content", "user-data-files"],
            ),
            (
                format!("#cloud-config\n{ours}  encoding: b64\n  content: '!'\n"),
                &["user-data-content", "user-data-files"],
            ),
            (
                format!("#cloud-config\n{ours}  encoding: gz\n  content: x\n"),
                &["user-data-content", "user-data-files"],
            ),
            (format!("#cloud-config\n{ours}"), &["user-data-files"]),
            ("#cloud-config\n".to_owned(), &["user-data-files"]),
        ] {
            assert_eq!(codes(&text), expected, "{text}");
        }
        let large = format!("#cloud-config\n{ours}  content: {}\n", "x".repeat(17 << 10));
        assert_eq!(codes(&large), ["user-data-size"; 2]);
    }
}
