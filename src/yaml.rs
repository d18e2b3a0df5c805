// SPDX-License-Identifier: Apache-2.0

//! One YAML document, as Python's `yaml.safe_load` reads it: cloud-init uses that.
//!
//! It is built from the parser's events, since a tree that copies what an alias stands for can grow without a bound.
//! Here an alias is one more reference to its anchor's node.

mod scalar;

use std::cell::Cell;
use std::collections::HashMap;
use std::rc::Rc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span, Tag};
use zeroize::Zeroizing;

use crate::json::Position;
pub use scalar::{Type, integer};

/// How many nodes a document has at most, with what merge keys add. User data has some hundreds.
const MAX_NODES: usize = 200_000;

/// How deep nodes lie in each other at most. User data needs less than ten levels.
const MAX_DEPTH: usize = 64;

/// Why a text is not a document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Where.
    pub position: Option<Position>,
    /// What is wrong, without any part of the text.
    pub what: String,
    /// Whether it is a limit of this program, and no fault of the text.
    pub limit: bool,
}

/// A node, with the place where it begins.
#[derive(Debug)]
pub struct Node {
    /// Where it begins; none where the text is a part of no file.
    pub position: Option<Position>,
    /// What it is.
    pub value: Value,
}

/// What a node is.
pub enum Value {
    /// A scalar.
    Scalar(Scalar),
    /// Bytes, by the tag `!!binary`.
    Bytes(Zeroizing<Vec<u8>>),
    /// A list.
    Sequence(Vec<Rc<Node>>),
    /// A mapping. Its keys are scalars, and each is there once.
    Mapping(Vec<Member>),
}

/// A key and its value.
pub type Member = (Rc<Node>, Rc<Node>);

/// A scalar.
pub struct Scalar {
    /// Its text.
    pub text: Zeroizing<String>,
    /// Its type, by its tag or its form.
    pub of_type: Type,
    /// Where the text begins in the file, and how far its lines are indented; none where the text does not stand
    /// there line by line.
    pub place: Option<(Position, usize)>,
}

impl std::fmt::Debug for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Value {
    /// What it is, for messages.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Scalar(scalar) => scalar.of_type.name(),
            Self::Bytes(_) => "bytes",
            Self::Sequence(_) => "a list",
            Self::Mapping(_) => "a mapping",
        }
    }
}

impl Node {
    /// The member of this name, where the node is a mapping.
    pub fn get(&self, name: &str) -> Option<&Rc<Self>> {
        let Value::Mapping(members) = &self.value else {
            return None;
        };
        let member = members.iter().find(|(key, _)| key.text() == Some(name))?;
        Some(&member.1)
    }

    /// The text of a string.
    pub fn text(&self) -> Option<&str> {
        let scalar = self.scalar()?;
        (scalar.of_type == Type::String).then_some(&*scalar.text)
    }

    /// The scalar that it is.
    pub fn scalar(&self) -> Option<&Scalar> {
        match &self.value {
            Value::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    /// Whether there is nothing: `null`, `~`, or no text at all.
    pub fn is_null(&self) -> bool {
        self.scalar()
            .is_some_and(|scalar| scalar.of_type == Type::Null)
    }

    /// Whether Python takes it for false: nothing, an empty text or collection, zero.
    pub fn is_falsy(&self) -> bool {
        match &self.value {
            Value::Scalar(scalar) => match scalar.of_type {
                Type::Null => true,
                Type::String => scalar.text.is_empty(),
                Type::Boolean => {
                    let text = scalar.text.to_lowercase();
                    matches!(&*text, "no" | "off" | "false")
                }
                Type::Integer => integer(&scalar.text) == Some(0),
                Type::Float => scalar.text.bytes().all(|byte| b"0.:_+-".contains(&byte)),
                Type::Time | Type::Merge | Type::Value | Type::Template => false,
            },
            Value::Bytes(bytes) => bytes.is_empty(),
            Value::Sequence(items) => items.is_empty(),
            Value::Mapping(members) => members.is_empty(),
        }
    }

    /// Whether Python takes both for the same key of a mapping, as far as keys go here.
    pub fn is_same_key(&self, other: &Self) -> bool {
        self.key() == other.key()
    }

    fn key(&self) -> Option<(Type, &str)> {
        let scalar = self.scalar()?;
        Some((scalar.of_type, &scalar.text))
    }
}

/// How to read a text.
#[derive(Clone, Copy, Debug)]
pub struct Source {
    /// How many lines of the file are before the text; none where it has no place in a file.
    pub lines_before: Option<usize>,
    /// Whether it is a Jinja template: a scalar with `{{` in it is known only once it is rendered.
    pub is_template: bool,
}

/// The document that a text is; none where it is empty.
///
/// # Errors
///
/// Where it is no YAML, has more than one document, or is over a limit.
pub fn load(text: &str, source: Source) -> Result<Option<Rc<Node>>, Error> {
    let mut loader = Loader {
        lines: text.split('\n').collect(),
        source,
        anchors: HashMap::new(),
        exempt: Vec::new(),
        open: Vec::new(),
        root: None,
        documents: 0,
        nodes: 0,
        last: Cell::new((0, 0, 0)),
        characters: text.chars().count(),
        ends_open: !text.ends_with('\n'),
    };
    loader.printable()?;
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| {
            // The parser quotes a character in one message.
            let what = match error.info().contains('`') {
                true => "a character that YAML reserves (@, ` or %)",
                false => error.info(),
            };
            Error {
                // Python takes a byte order mark for a character like any other, and a `-` alone in a flow list.
                limit: text.contains('\u{feff}')
                    || error.info().starts_with("plain scalar cannot start with")
                    || error.info() == "recursion limit exceeded",
                ..loader.error(error.marker(), what)
            }
        })?;
        loader.take(event, &span)?;
    }
    loader.tabs(text)?;
    Ok(loader.root)
}

/// A collection that has not ended.
struct Open {
    position: Option<Position>,
    anchor: usize,
    is_mapping: bool,
    items: Vec<Rc<Node>>,
}

struct Loader<'a> {
    lines: Vec<&'a str>,
    source: Source,
    anchors: HashMap<usize, Rc<Node>>,
    /// Where tabs are allowed, in characters from the beginning.
    exempt: Vec<(usize, usize)>,
    open: Vec<Open>,
    root: Option<Rc<Node>>,
    documents: usize,
    nodes: usize,
    /// The line, the characters and the bytes before the last place that was looked up.
    last: Cell<(usize, usize, usize)>,
    /// How long the text is.
    characters: usize,
    /// Whether its last line has no line break.
    ends_open: bool,
}

impl Loader<'_> {
    fn position(&self, marker: &Marker) -> Option<Position> {
        let before = self.source.lines_before?;
        Some(Position {
            line: before + marker.line(),
            column: self.bytes_before(marker) + 1,
        })
    }

    /// How many bytes of its line are before a place. It goes on from the last one, since a line may be all of the
    /// text.
    fn bytes_before(&self, marker: &Marker) -> usize {
        let Some(line) = self.lines.get(marker.line().saturating_sub(1)) else {
            return 0;
        };
        let (number, characters, bytes) = match self.last.get() {
            last if last.0 == marker.line() && last.1 <= marker.col() => last,
            _ => (marker.line(), 0, 0),
        };
        let rest = line.get(bytes..).unwrap_or_default();
        let more = rest.char_indices().nth(marker.col() - characters);
        let bytes = more.map_or(line.len(), |(at, _)| bytes + at);
        if more.is_some() {
            self.last.set((number, marker.col(), bytes));
        }
        bytes
    }

    fn error(&self, marker: &Marker, what: impl Into<String>) -> Error {
        Error {
            position: self.position(marker),
            what: what.into(),
            limit: false,
        }
    }

    fn limit(&self, marker: &Marker, what: String) -> Error {
        Error {
            limit: true,
            ..self.error(marker, what)
        }
    }

    fn take(&mut self, event: Event<'_>, span: &Span) -> Result<(), Error> {
        let start = &span.start;
        match event {
            Event::DocumentStart(_) => {
                self.documents += 1;
                match self.documents {
                    1 => Ok(()),
                    _ => Err(self.error(
                        start,
                        "it has more than one document (a line `---` begins another one)",
                    )),
                }
            }
            Event::Scalar(text, style, anchor, tag) => {
                if style != ScalarStyle::Plain {
                    self.exempt.push((start.index(), span.end.index()));
                }
                let text = match self.ends_open && span.end.index() >= self.characters {
                    // This parser ends a block's last line as if the text had a line break there.
                    true if matches!(style, ScalarStyle::Literal | ScalarStyle::Folded) => {
                        text.strip_suffix('\n').unwrap_or(&text)
                    }
                    _ => &text,
                };
                let value = self.scalar(text, style, tag.as_deref(), start)?;
                let position = self.position(start);
                self.add(Rc::new(Node { position, value }), anchor, start)
            }
            Event::SequenceStart(anchor, tag) => self.begin(anchor, tag.as_deref(), false, start),
            Event::MappingStart(anchor, tag) => self.begin(anchor, tag.as_deref(), true, start),
            Event::SequenceEnd | Event::MappingEnd => self.end(start),
            Event::Alias(anchor) => match self.anchors.get(&anchor).cloned() {
                Some(node) => self.add(node, 0, start),
                None => Err(self.limit(start, "an alias of a node that it is a part of".into())),
            },
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
        }
    }

    fn begin(
        &mut self,
        anchor: usize,
        tag: Option<&Tag>,
        is_mapping: bool,
        start: &Marker,
    ) -> Result<(), Error> {
        let known = match is_mapping {
            true => &["map", "omap", "set", "pairs"][..],
            false => &["seq", "omap", "pairs"],
        };
        let tag = tag.filter(|tag| !is_unspecific(tag));
        if tag
            .is_some_and(|tag| !tag.is_yaml_core_schema() || !known.contains(&tag.suffix.as_str()))
        {
            return Err(self.error(start, "a tag that Python's safe loader does not know"));
        }
        if self.open.len() >= MAX_DEPTH {
            let what = format!("nodes lie in each other more than {MAX_DEPTH} levels deep");
            return Err(self.limit(start, what));
        }
        self.open.push(Open {
            position: self.position(start),
            anchor,
            is_mapping,
            items: Vec::new(),
        });
        Ok(())
    }

    fn end(&mut self, marker: &Marker) -> Result<(), Error> {
        let Some(open) = self.open.pop() else {
            return Ok(());
        };
        let value = match open.is_mapping {
            true => Value::Mapping(self.mapping(open.items, marker)?),
            false => Value::Sequence(open.items),
        };
        let node = Node {
            position: open.position,
            value,
        };
        self.add(Rc::new(node), open.anchor, marker)
    }

    fn add(&mut self, node: Rc<Node>, anchor: usize, marker: &Marker) -> Result<(), Error> {
        self.count(1, marker)?;
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(&node));
        }
        match self.open.last_mut() {
            Some(open) => open.items.push(node),
            None => self.root = Some(node),
        }
        Ok(())
    }

    fn count(&mut self, nodes: usize, marker: &Marker) -> Result<(), Error> {
        self.nodes += nodes;
        match self.nodes > MAX_NODES {
            true => Err(self.limit(marker, format!("it has more than {MAX_NODES} nodes"))),
            false => Ok(()),
        }
    }

    /// The members of a mapping: what merge keys bring first, which the mapping's own members replace, and of these
    /// the last of a name counts.
    fn mapping(&mut self, items: Vec<Rc<Node>>, marker: &Marker) -> Result<Vec<Member>, Error> {
        let mut merged: Vec<Rc<Node>> = Vec::new();
        let mut own = Vec::with_capacity(items.len() / 2);
        let mut items = items.into_iter();
        while let (Some(key), Some(value)) = (items.next(), items.next()) {
            match key.scalar().map(|scalar| scalar.of_type) {
                None => {
                    let what = "a key of a mapping is a list, a mapping or bytes";
                    return Err(Error {
                        position: key.position,
                        ..self.error(marker, what)
                    });
                }
                Some(Type::Merge) => match &value.value {
                    Value::Mapping(_) => merged.push(value),
                    // Of several the first wins, so that it must come last.
                    Value::Sequence(list)
                        if list
                            .iter()
                            .all(|node| matches!(node.value, Value::Mapping(_))) =>
                    {
                        merged.extend(list.iter().rev().cloned());
                    }
                    _ => {
                        let what = "a merge key (<<) of something that is no mapping";
                        return Err(Error {
                            position: value.position,
                            ..self.error(marker, what)
                        });
                    }
                },
                Some(_) => own.push((key, value)),
            }
        }
        let mut members: Vec<Member> = Vec::new();
        let mut at: HashMap<(Type, String), usize> = HashMap::new();
        let mut set = |(key, value): Member| {
            let Some(scalar) = key.scalar() else { return };
            let index = *at
                .entry((scalar.of_type, scalar.text.to_string()))
                .or_insert(members.len());
            match members.get_mut(index) {
                Some(member) => member.1 = value,
                None => members.push((key, value)),
            }
        };
        for node in &merged {
            let Value::Mapping(brought) = &node.value else {
                continue;
            };
            self.count(brought.len(), marker)?;
            brought.iter().cloned().for_each(&mut set);
        }
        own.into_iter().for_each(&mut set);
        Ok(members)
    }

    fn scalar(
        &mut self,
        text: &str,
        style: ScalarStyle,
        tag: Option<&Tag>,
        start: &Marker,
    ) -> Result<Value, Error> {
        let is_template = self.source.is_template && text.contains("{{");
        let tag = tag.filter(|tag| !is_unspecific(tag));
        let of_type = match tag {
            _ if is_template => Type::Template,
            None if style == ScalarStyle::Plain => {
                let of_type = Type::of_plain(text);
                let is_key = self
                    .open
                    .last()
                    .is_some_and(|open| open.is_mapping && open.items.len() % 2 == 0);
                if of_type == Type::Value || (of_type == Type::Merge && !is_key) {
                    let what = "a bare `=` or `<<`, for which Python's safe loader has no value";
                    return Err(self.error(start, what));
                }
                of_type
            }
            None => Type::String,
            Some(tag) if tag.is_yaml_core_schema() && tag.suffix == "binary" => {
                let bytes = crate::encoding::base64_as_python(text);
                return match bytes {
                    Some(bytes) => Ok(Value::Bytes(bytes)),
                    None => Err(self.error(start, "a value of !!binary is not base64")),
                };
            }
            Some(tag) => Type::of_tag(tag).ok_or_else(|| {
                self.error(start, "a tag that Python's safe loader does not know")
            })?,
        };
        Ok(Value::Scalar(Scalar {
            text: Zeroizing::new(text.to_owned()),
            of_type,
            place: self.place(text, style, start),
        }))
    }

    /// Where a scalar's text stands in the file, if it stands there as it is.
    fn place(&self, text: &str, style: ScalarStyle, start: &Marker) -> Option<(Position, usize)> {
        let before = self.source.lines_before?;
        let (line, indentation) = match style {
            ScalarStyle::Literal => {
                // It begins where its first line does that is not empty.
                let empty = text.split('\n').take_while(|line| line.is_empty()).count();
                (start.line().checked_sub(empty)?, start.col())
            }
            ScalarStyle::Folded => return None,
            ScalarStyle::Plain | ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => {
                let raw = self.lines.get(start.line().checked_sub(1)?)?;
                let column = self.bytes_before(start) + usize::from(style != ScalarStyle::Plain);
                if !raw.get(column..)?.starts_with(text) {
                    return None;
                }
                (start.line(), column)
            }
        };
        let position = Position {
            line: before + line,
            column: 1,
        };
        Some((position, indentation))
    }

    /// Python's reader takes no control characters.
    fn printable(&self) -> Result<(), Error> {
        let odd = |c: char| {
            (c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}'))
                || matches!(c, '\u{fffe}' | '\u{ffff}')
        };
        for (number, line) in self.lines.iter().enumerate() {
            // YAML 1.1 has more line breaks than the version that this parser reads.
            let other_break = |c| matches!(c, '\u{85}' | '\u{2028}' | '\u{2029}');
            if let Some(at) = line.find(|c| odd(c) || other_break(c)) {
                let is_break = line[at..].starts_with(other_break);
                return Err(Error {
                    position: self.source.lines_before.map(|before| Position {
                        line: before + number + 1,
                        column: at + 1,
                    }),
                    what: match is_break {
                        true => "a line break other than LF".to_owned(),
                        false => "a control character".to_owned(),
                    },
                    limit: is_break,
                });
            }
        }
        Ok(())
    }

    /// Python's scanner takes a tab in quotes, blocks and comments alone, this parser elsewhere too.
    fn tabs(&self, text: &str) -> Result<(), Error> {
        if !text.contains('\t') {
            return Ok(());
        }
        let (mut at, mut next) = (0, 0);
        for (number, line) in self.lines.iter().enumerate() {
            let mut in_comment = false;
            let mut last = ' ';
            for (column, c) in line.char_indices() {
                while self.exempt.get(next).is_some_and(|(_, end)| *end <= at) {
                    next += 1;
                }
                let is_exempt = self.exempt.get(next).is_some_and(|(start, _)| *start <= at);
                in_comment |= c == '#' && !is_exempt && matches!(last, ' ' | '\t');
                if c == '\t' && !is_exempt && !in_comment {
                    let before = self.source.lines_before;
                    return Err(Error {
                        position: before.map(|before| Position {
                            line: before + number + 1,
                            column: column + 1,
                        }),
                        what: "a tab where YAML takes spaces alone".to_owned(),
                        limit: false,
                    });
                }
                last = c;
                at += 1;
            }
            at += 1;
        }
        Ok(())
    }
}

/// The tag `!`, which leaves the type open.
fn is_unspecific(tag: &Tag) -> bool {
    (tag.handle.is_empty() || tag.handle == "!") && matches!(tag.suffix.as_str(), "" | "!")
}
