// SPDX-License-Identifier: Apache-2.0

//! A page's blocks, what is done with each, and what it shows.
//!
//! A block of the language `console` has commands (`$`, continued by `>`), the exit status where it is not 0 (`?`), and what
//! they print. A block `sh` has commands that must succeed. What only a VM does by itself stands before a block, in a
//! comment that readers do not see:
//!
//! | Mark | What is done |
//! |---|---|
//! | `setup: COMMANDS` | they are run, and must succeed |
//! | `daemon:` | the daemon is started, or started again |
//! | `file: PATH` | the next block becomes that file |
//! | `pull: IMAGE [NAME]` | kata-agent's request; the next block shows the answer, as the pod's event has it |
//! | `pulled: IMAGE` | kata-agent's request, which must be granted |
//! | `background pull: IMAGE` | the request is made, and nobody waits for it |
//! | `shows: COMMANDS` | they are run, and the next block shows what they print |
//! | `not run: REASON` | the next block is for another place |

use std::fs;
use std::ops::Range;
use std::path::PathBuf;

use snapbox::{Assert, IntoData as _};

use crate::level::level;
use crate::world::World;

/// What is in a page for the one who runs it.
#[derive(Debug, PartialEq, Eq)]
enum Part {
    Mark {
        verb: String,
        rest: String,
    },
    Block {
        language: String,
        lines: Range<usize>,
    },
}

/// A page, and what is to be written into it.
struct Page {
    path: PathBuf,
    lines: Vec<String>,
    /// What comes in the place of which lines.
    found: Vec<(Range<usize>, String)>,
    problems: Vec<String>,
}

/// Where a page is.
pub fn path(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("docs/{name}.md"))
}

/// The marks and blocks of a text in their order.
fn parts(lines: &[String]) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let line = &lines[at];
        if let Some(language) = line.strip_prefix("```") {
            let length = lines[at + 1..].iter().position(|line| line == "```");
            let end = at + 1 + length.expect("each block has an end");
            parts.push(Part::Block {
                language: language.to_owned(),
                lines: at + 1..end,
            });
            at = end;
        } else if line.starts_with("<!--") {
            let length = lines[at..].iter().position(|line| line.ends_with("-->"));
            let end = at + length.expect("each comment has an end");
            let text = lines[at..=end].join("\n");
            let text = text.trim_start_matches("<!--").trim_end_matches("-->");
            if let Some((verb, rest)) = text.split_once(':') {
                parts.push(Part::Mark {
                    verb: verb.trim().to_owned(),
                    rest: rest.trim().to_owned(),
                });
            }
            at = end;
        }
        at += 1;
    }
    parts
}

/// The blocks `console` and `sh` of a page, each by its first line, with the reason why it is not run.
pub fn commands(text: &str) -> Vec<(String, String, Option<String>)> {
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    let mut reason = None;
    let mut commands = Vec::new();
    for part in parts(&lines) {
        match part {
            Part::Mark { verb, rest } if verb == "not run" => reason = Some(rest),
            Part::Mark { .. } => {}
            Part::Block {
                language,
                lines: at,
            } => {
                let reason = reason.take();
                if matches!(&*language, "console" | "sh") {
                    let first = lines[at].first().cloned().unwrap_or_default();
                    commands.push((language, first, reason));
                }
            }
        }
    }
    commands
}

/// Runs a page, and fails with everything in which it is wrong.
pub fn run(name: &str, world: &mut World) {
    let path = path(name);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("docs/{name}.md: {error}"));
    let mut page = Page {
        path,
        lines: text.lines().map(str::to_owned).collect(),
        found: Vec::new(),
        problems: Vec::new(),
    };
    let mut pending: Option<(String, String)> = None;
    for part in parts(&page.lines) {
        match part {
            Part::Mark { verb, rest } => match &*verb {
                "setup" => world.must_run(&rest),
                "daemon" => world.start_daemon(&rest),
                "pulled" => world.must_pull(&rest),
                "background pull" => world.pull_in_the_background(&rest),
                "file" | "pull" | "shows" | "not run" => {
                    assert_eq!(pending, None, "a mark before it has no block");
                    pending = Some((verb, rest));
                }
                _ => panic!("docs/{name}.md: the mark {verb:?} is unknown"),
            },
            Part::Block { language, lines } => {
                page.block(pending.take(), &language, lines, world);
            }
        }
    }
    assert_eq!(pending, None, "the last mark has no block");
    page.end();
}

impl Page {
    fn text(&self, lines: Range<usize>) -> String {
        self.lines[lines].join("\n")
    }

    fn block(
        &mut self,
        mark: Option<(String, String)>,
        language: &str,
        lines: Range<usize>,
        world: &mut World,
    ) {
        let text = self.text(lines.clone());
        match mark.as_ref().map(|(verb, rest)| (&**verb, &**rest)) {
            Some(("file", path)) => world.write(path, &format!("{text}\n")),
            Some(("pull", rest)) => {
                let answer = world.pull(rest);
                self.compare(rest, &answer, lines);
            }
            Some(("shows", command)) => {
                let (output, _) = world.run(command);
                self.compare(command, &output, lines);
            }
            Some(_) => {}
            None => match language {
                "console" => self.console(lines, world),
                "sh" => world.must_run(&text),
                _ => {}
            },
        }
    }

    fn console(&mut self, lines: Range<usize>, world: &mut World) {
        let mut at = lines.start;
        assert!(
            self.lines[at].starts_with("$ "),
            "{}: no command",
            self.lines[at]
        );
        while at < lines.end {
            let mut command = self.lines[at].trim_start_matches("$ ").to_owned();
            at += 1;
            while at < lines.end && self.lines[at].starts_with("> ") {
                command.push('\n');
                command.push_str(&self.lines[at][2..]);
                at += 1;
            }
            let length = self.lines[at..lines.end]
                .iter()
                .position(|line| line.starts_with("$ "));
            let end = length.map_or(lines.end, |length| at + length);
            let (output, code) = world.run(&command);
            let status = match code {
                0 => String::new(),
                code => format!("? {code}\n"),
            };
            self.compare(&command, &format!("{status}{output}"), at..end);
            at = end;
        }
    }

    /// Compares what came with these lines.
    fn compare(&mut self, what: &str, actual: &str, lines: Range<usize>) {
        let trimmed = |text: &str| {
            text.lines()
                .map(str::trim_end)
                .collect::<Vec<_>>()
                .join("\n")
        };
        let actual = trimmed(actual.trim_end());
        let expected = self.text(lines.clone());
        let assert = Assert::new()
            .action(snapbox::assert::Action::Verify)
            .normalize_paths(false)
            .palette(snapbox::report::Palette::plain());
        let compared = assert.try_eq(
            Some(&what),
            level(&actual).into_data(),
            level(trimmed(expected.trim_end()).as_str()).into_data(),
        );
        if let Err(error) = compared {
            let at = lines.start + 1;
            self.problems.push(format!("line {at}: {what}\n{error}"));
            self.found.push((lines, actual));
        }
    }

    fn end(mut self) {
        if self.problems.is_empty() {
            return;
        }
        let shown = self.path.display();
        if std::env::var_os("PAGES").is_none_or(|value| value != "overwrite") {
            panic!("{shown}: {}", self.problems.join("\n"));
        }
        while let Some((lines, text)) = self.found.pop() {
            self.lines.splice(lines, text.lines().map(str::to_owned));
        }
        fs::write(&self.path, self.lines.join("\n") + "\n").unwrap();
    }
}

/// Marks and blocks are found, in their order.
#[test]
fn marks_and_blocks_are_found() {
    let text =
        "a\n<!-- setup: x\ny -->\n```console\n$ a\nb\n```\n<!-- not run: r -->\n```sh\nc\n```\n";
    let lines: Vec<_> = text.lines().map(str::to_owned).collect();
    let mark = |verb: &str, rest: &str| Part::Mark {
        verb: verb.to_owned(),
        rest: rest.to_owned(),
    };
    let block = |language: &str, lines| Part::Block {
        language: language.to_owned(),
        lines,
    };
    let expected = [
        mark("setup", "x\ny"),
        block("console", 4..6),
        mark("not run", "r"),
        block("sh", 9..10),
    ];
    assert_eq!(parts(&lines), expected);
    let blocks = commands(text);
    assert_eq!(blocks.len(), 2);
    assert_eq!(blocks[1].2.as_deref(), Some("r"));
}
