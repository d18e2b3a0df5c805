// SPDX-License-Identifier: Apache-2.0

//! The files that a list `write_files` writes, as `cc_write_files.py` of cloud-init writes them.

use zeroize::Zeroizing;

use crate::encoding::{Gunzip, MAX_BYTES, base64_as_python, gunzip};
use crate::json::Position;
use crate::resource::problem::{Problem, Severity};
use crate::text::{EntryName, count};
use crate::userdata::part::Found;
use crate::userdata::{RESOURCES_PATH, SERVED};
use crate::yaml::{Node, Type, Value, integer};
use common::base64;

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

/// Whether a daemon looks for a file there without a flag.
pub fn is_served(path: &str) -> bool {
    SERVED.contains(&path)
}

/// How many entries of `write_files` are read. Each may take time, and real user data has a few.
const MAX_ENTRIES: usize = 1_000;

/// The files of a list, in the order in which cloud-init writes them; each path is there once.
pub fn written(list: &Node, found: &mut Found) -> Vec<Written> {
    let items = match &list.value {
        Value::Sequence(items) => items.as_slice(),
        Value::Scalar(scalar) if scalar.of_type == Type::Template => {
            found.unread(
                "write_files is known only once the template is rendered",
                "check what it renders to",
            );
            return Vec::new();
        }
        Value::Scalar(scalar) if scalar.of_type == Type::Null => return Vec::new(),
        other => {
            let what = format!(
                "write_files is {}, not a list; cloud-init writes no file of it",
                other.name()
            );
            let fix = "write `- path: …` and the entry's other members below it";
            let problem = Problem::of_file(Severity::Error, "user-data-content", what, fix);
            found.problems.push(Problem {
                position: list.position,
                ..problem
            });
            return Vec::new();
        }
    };
    let items = match items.get(..MAX_ENTRIES) {
        Some(first) if items.len() > MAX_ENTRIES => {
            let what = format!(
                "write_files has more than {MAX_ENTRIES} entries; the others were not read"
            );
            found.unread(&what, "split the user data, to check the rest");
            first
        }
        _ => items,
    };
    let mut writer = Writer {
        found,
        files: Vec::new(),
        bytes: 0,
    };
    // It looks at all of them for `defer` before it writes one.
    if let Some(odd) = items.iter().find(|item| is_uniterable(item)) {
        writer.stop(
            odd,
            None,
            "an entry of write_files is no mapping",
            "and writes no file",
        );
        return Vec::new();
    }
    for deferred in [false, true] {
        let items: Vec<_> = items
            .iter()
            .filter(|item| item.get("defer").is_some_and(|node| is_true(node)) == deferred)
            .collect();
        for (index, item) in items.iter().enumerate() {
            let left = items.len() - index - 1;
            if !writer.entry(item, deferred, left) {
                break;
            }
        }
    }
    writer.files
}

/// What Python's `in` can't look into.
fn is_uniterable(node: &Node) -> bool {
    node.scalar()
        .is_some_and(|scalar| !matches!(scalar.of_type, Type::String | Type::Template))
}

/// What cloud-init takes for true.
fn is_true(node: &Node) -> bool {
    node.scalar().is_some_and(|scalar| {
        let text = scalar.text.trim().to_lowercase();
        matches!(&*text, "true" | "1" | "on" | "yes")
            || (scalar.of_type == Type::Integer && integer(&text) == Some(1))
    })
}

/// How a content is encoded.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Encoding {
    base64: bool,
    gzip: bool,
}

impl Encoding {
    /// It by its name; none for one that cloud-init doesn't know.
    fn of(name: &str) -> Option<Self> {
        let (base64, gzip) = match name.trim().to_lowercase().as_str() {
            "" | "text/plain" => (false, false),
            "b64" | "base64" => (true, false),
            "gz" | "gzip" => (false, true),
            "gz+base64" | "gzip+base64" | "gz+b64" | "gzip+b64" => (true, true),
            _ => return None,
        };
        Some(Self { base64, gzip })
    }
}

/// The part of a message on what an error at an entry leads to.
fn stops(left: usize) -> String {
    match left {
        0 => "cloud-init fails there and does not write the file".to_owned(),
        _ => format!(
            "cloud-init fails there and writes neither this file nor the {} after it",
            count(left, "entry", "entries")
        ),
    }
}

struct Writer<'a> {
    found: &'a mut Found,
    files: Vec<Written>,
    /// Of all contents so far.
    bytes: usize,
}

impl Writer<'_> {
    fn problem(
        &mut self,
        severity: Severity,
        code: &'static str,
        path: Option<&str>,
        node: &Node,
        (what, fix): (String, &str),
    ) {
        let problem = Problem::of_file(severity, code, what, fix);
        self.found.problems.push(match path {
            Some(path) => problem.about_entry(path, node.position),
            None => Problem {
                position: node.position,
                ..problem
            },
        });
    }

    /// An entry by which cloud-init fails.
    fn stop(&mut self, node: &Node, path: Option<&str>, what: &str, consequence: &str) {
        let fix = "write `- path: …` and `content: |`, with the text below it, indented";
        let what = match consequence.strip_prefix("and ") {
            Some(rest) => format!("{what}; cloud-init fails and {rest}"),
            None => format!("{what}; {consequence}"),
        };
        self.problem(
            Severity::Error,
            "user-data-content",
            path,
            node,
            (what, fix),
        );
    }

    fn unread(&mut self, path: Option<&str>, node: &Node, what: &str, fix: &str) {
        self.found.unread = true;
        let text = (what.to_owned(), fix);
        self.problem(Severity::Note, "user-data-unread", path, node, text);
    }

    /// Writes one entry; false where cloud-init fails at it.
    fn entry(&mut self, item: &Node, deferred: bool, left: usize) -> bool {
        let members = match &item.value {
            Value::Mapping(members) => members,
            Value::Scalar(scalar) if scalar.of_type == Type::Template => {
                self.template(None, item);
                return true;
            }
            _ => {
                let what = "an entry of write_files is no mapping";
                self.stop(item, None, what, &stops(left));
                return false;
            }
        };
        let path = match item.get("path").map(|node| (node, node.text())) {
            Some((_, Some(path))) if !path.is_empty() => absolute(path),
            Some((node, None)) if !node.is_falsy() => {
                if is_template(node) {
                    self.template(None, node);
                    return true;
                }
                let what = format!("the path of an entry is {}", node.value.name());
                self.stop(node, None, &what, &stops(left));
                return false;
            }
            _ => {
                let what = "an entry of write_files has no path, and cloud-init leaves it out";
                let fix = "write `path:` and the file's absolute path";
                let text = (what.to_owned(), fix);
                self.problem(Severity::Warning, "user-data-content", None, item, text);
                return true;
            }
        };
        if members.iter().any(|(_, value)| is_template(value)) {
            self.template(Some(&path), item);
            return true;
        }
        if let Some(source) = item.get("source").filter(|node| !node.is_null()) {
            if !matches!(source.value, Value::Mapping(_)) {
                let what = format!("its source is {} and not a mapping", source.value.name());
                self.stop(source, Some(&path), &what, &stops(left));
                return false;
            }
            if source.get("uri").is_some_and(|uri| !uri.is_falsy()) {
                let what =
                    "its content is fetched from a URL at boot (source) and can't be read here";
                self.unread(
                    Some(&path),
                    source,
                    what,
                    "check what is behind the URL on its own",
                );
                return true;
            }
        }
        let (content, place) = match self.content(item, &path, left) {
            Content::Is(content, place) => (content, place),
            Content::Unread => return true,
            Content::Fails => return false,
        };
        self.mode(item, &path);
        if deferred && is_served(&path) {
            let what = "it is written at the end of the boot (defer), when the daemon may have run for long; pulls before that \
                        get no login";
            let text = (what.to_owned(), "leave `defer` out");
            self.problem(Severity::Note, "user-data-defer", Some(&path), item, text);
        }
        let appends = item.get("append").is_some_and(|node| is_true(node));
        self.put(item, path, content, place, appends);
        true
    }

    fn template(&mut self, path: Option<&str>, node: &Node) {
        let what = "an entry with `{{` is known only once the template is rendered, at boot";
        self.unread(path, node, what, "check what it renders to");
    }

    fn put(
        &mut self,
        item: &Node,
        path: String,
        content: Zeroizing<Vec<u8>>,
        place: Option<(Position, usize)>,
        appends: bool,
    ) {
        let at = self.files.iter().position(|file| file.path == path);
        match at {
            Some(at) if appends => {
                let file = &mut self.files[at];
                let mut both =
                    Zeroizing::new(Vec::with_capacity(file.content.len() + content.len()));
                both.extend_from_slice(&file.content);
                both.extend_from_slice(&content);
                (file.content, file.place) = (both, None);
            }
            Some(at) => {
                if is_served(&path) {
                    let what = "an entry before writes the same file, and this one replaces it";
                    let text = (what.to_owned(), "leave one of them out");
                    self.problem(
                        Severity::Warning,
                        "user-data-twice",
                        Some(&path),
                        item,
                        text,
                    );
                }
                self.files.remove(at);
                self.files.push(Written {
                    path,
                    content,
                    place,
                });
            }
            None => {
                if appends && is_served(&path) {
                    let what = "it is added to the file that the image has (append), which is not known here; it is checked as if \
                                there were none";
                    let text = (
                        what.to_owned(),
                        "leave `append` out, unless the image has a part of the file",
                    );
                    self.problem(Severity::Note, "user-data-append", Some(&path), item, text);
                }
                self.files.push(Written {
                    path,
                    content,
                    place,
                });
            }
        }
    }

    /// What cloud-init writes as the content of an entry.
    fn content(&mut self, item: &Node, path: &str, left: usize) -> Content {
        let Some(node) = item.get("content").filter(|node| !node.is_null()) else {
            return Content::Is(Zeroizing::default(), None);
        };
        let name = match item.get("encoding") {
            None => "",
            Some(node) if node.is_falsy() => "",
            Some(node) => match node.text() {
                Some(name) => name,
                None => {
                    let what = format!("its encoding is {}", node.value.name());
                    self.stop(node, Some(path), &what, &stops(left));
                    return Content::Fails;
                }
            },
        };
        let encoding = Encoding::of(name);
        if encoding.is_none() {
            let what = "cloud-init does not know its encoding and writes the content as it stands";
            let fix = "write `encoding: b64` or `encoding: gz+b64`, or leave it out for plain text";
            let node = item.get("encoding").map_or(item, |node| node);
            let text = (what.to_owned(), fix);
            self.problem(
                Severity::Warning,
                "user-data-content",
                Some(path),
                node,
                text,
            );
        }
        let encoding = encoding.unwrap_or(Encoding {
            base64: false,
            gzip: false,
        });
        let (mut bytes, mut place) = match &node.value {
            Value::Bytes(bytes) => (bytes.clone(), None),
            Value::Scalar(scalar) if scalar.of_type == Type::String => {
                let bytes = scalar.text.as_bytes().to_vec();
                (Zeroizing::new(bytes), scalar.place)
            }
            other => {
                let what = match other {
                    Value::Mapping(_) => {
                        "its content is a mapping of YAML and not text, since nothing quotes the braces".to_owned()
                    }
                    other => format!("its content is {} of YAML and not text", other.name()),
                };
                self.stop(node, Some(path), &what, &stops(left));
                return Content::Fails;
            }
        };
        if encoding
            != (Encoding {
                base64: false,
                gzip: false,
            })
        {
            place = None;
        }
        if encoding.base64 {
            match self.base64(&bytes, node, path, left) {
                Some(decoded) => bytes = decoded,
                None => return Content::Fails,
            }
        }
        if encoding.gzip {
            bytes = match gunzip(&bytes) {
                Ok(bytes) => bytes,
                Err(Gunzip::TooLarge) => {
                    let what = format!(
                        "its content makes more than {MAX_BYTES} bytes and is not read here"
                    );
                    self.unread(Some(path), node, &what, "check the file on its own");
                    // Each of many entries could take as long.
                    return Content::Fails;
                }
                Err(Gunzip::Broken) => {
                    let what = format!(
                        "its encoding is {}, and its content is no gzip, or is cut off; {}",
                        EntryName(name),
                        stops(left)
                    );
                    let fix =
                        "write `encoding: gz+b64` and the output of `gzip -c FILE | base64 -w 0`";
                    self.problem(
                        Severity::Error,
                        "user-data-content",
                        Some(path),
                        node,
                        (what, fix),
                    );
                    return Content::Fails;
                }
            };
        }
        self.bytes += bytes.len();
        if self.bytes > MAX_BYTES {
            let what = format!(
                "the files have more than {MAX_BYTES} bytes together; this one is not read here"
            );
            self.unread(Some(path), node, &what, "check the file on its own");
            return Content::Unread;
        }
        Content::Is(bytes, place)
    }

    /// The content without its base64.
    fn base64(
        &mut self,
        bytes: &[u8],
        node: &Node,
        path: &str,
        left: usize,
    ) -> Option<Zeroizing<Vec<u8>>> {
        const FIX: &str = "put the output of `base64 -w 0 FILE` there, or leave the encoding out";
        let text = String::from_utf8_lossy(bytes);
        let (decoded, strict) = (base64_as_python(&text), base64::decode(&text));
        match (&decoded, strict) {
            (Some(decoded), Ok(strict)) if *decoded == strict => {}
            (Some(_), strict) => {
                let reason = strict.err().map_or_else(
                    || "base64 that goes on after its end".to_owned(),
                    |error| error.to_string(),
                );
                let what = format!(
                    "its content is {reason}, and its encoding is base64; cloud-init leaves out what it can't read and writes the rest"
                );
                let text = (what, FIX);
                self.problem(
                    Severity::Warning,
                    "user-data-content",
                    Some(path),
                    node,
                    text,
                );
            }
            (None, strict) => {
                let reason = strict.err().map_or_else(
                    || "base64 without the padding (=) at its end".to_owned(),
                    |error| error.to_string(),
                );
                let what = format!(
                    "its content is {reason}, and its encoding is base64; {}",
                    stops(left)
                );
                self.problem(
                    Severity::Error,
                    "user-data-content",
                    Some(path),
                    node,
                    (what, FIX),
                );
            }
        }
        decoded
    }

    /// What is wrong with a file's mode.
    fn mode(&mut self, item: &Node, path: &str) {
        let Some(node) = item.get("permissions").filter(|_| is_served(path)) else {
            return;
        };
        let Some(scalar) = node.scalar() else { return };
        let octal =
            |text: &str| i64::from_str_radix(text.strip_prefix("0o").unwrap_or(text), 8).ok();
        let mode = match scalar.of_type {
            Type::Integer => integer(&scalar.text),
            _ => octal(scalar.text.trim()),
        };
        let Some(mode) = mode.filter(|mode| (0..=0o7777).contains(mode)) else {
            return;
        };
        let is_decimal = scalar.of_type == Type::Integer && !scalar.text.starts_with('0');
        let what = match (is_decimal, mode & 0o022) {
            (true, _) => {
                format!("its permissions are a decimal number, which is the mode {mode:04o}")
            }
            (_, 0) => return,
            _ => format!("others in the VM can write to it (mode {mode:04o})"),
        };
        let text = (what, "write `permissions: '0600'`");
        self.problem(Severity::Warning, "user-data-mode", Some(path), node, text);
    }
}

/// What an entry's content is.
enum Content {
    Is(Zeroizing<Vec<u8>>, Option<(Position, usize)>),
    Unread,
    Fails,
}

fn is_template(node: &Node) -> bool {
    node.scalar()
        .is_some_and(|scalar| scalar.of_type == Type::Template)
}

/// A path as cloud-init makes it absolute; its working directory is `/`.
fn absolute(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

/// Files whose name is nearly that of one that is served, in another place or another spelling.
pub fn misplaced(files: &[Written]) -> Vec<Problem> {
    let name = |path: &str| {
        let name = path.rsplit('/').next().unwrap_or_default().to_lowercase();
        name.replace(['_', ' '], "-")
    };
    let mut found = Vec::new();
    for file in files.iter().filter(|file| !is_served(&file.path)) {
        let meant = SERVED.iter().find(|path| name(path) == name(&file.path));
        if let Some(meant) = meant {
            let problem = Problem::of_file(
                Severity::Warning,
                "user-data-path",
                "the daemon does not read this path, unless a flag names it",
                format!("write {meant}"),
            );
            found.push(problem.about_entry(&file.path, None));
        }
    }
    found
}

/// What it means that none of the files is served.
pub fn none_served(found: &mut Found) {
    let served = SERVED.join(", ");
    match found.unread {
        true => found.add(
            Severity::Note,
            "user-data-files",
            format!(
                "what could be read of it writes none of the files that are served ({served}); without one of them it brings \
                 no credential"
            ),
            &format!("check that what was not read writes {RESOURCES_PATH}"),
        ),
        false => found.add(
            Severity::Error,
            "user-data-files",
            format!("it writes none of the files that are served ({served}), so it brings no credential"),
            "make it with `offline-fs-kbc pack --format cloud-config --credential auth.json`",
        ),
    }
}
