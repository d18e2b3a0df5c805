// SPDX-License-Identifier: Apache-2.0

//! One tree for JSON and YAML, with places.

use serde_json::value::RawValue;
use zeroize::Zeroizing;

use super::Error;
use crate::json::{self, Fault, Places, Position};
use crate::yaml;

/// The most members of one object.
const MAX_MEMBERS: usize = 10_000;

/// How deep a manifest is read: a List has items, these data, and that has values. What is deeper is not looked at.
const MAX_DEPTH: usize = 6;

/// How much a manifest may hold once its aliases are resolved: four times the largest file that is read.
const MAX_COPIED_BYTES: usize = 64 << 20;

/// What a node counts beside its text.
const NODE_BYTES: usize = 64;

/// A value, with its place.
pub(super) struct Node {
    pub position: Option<Position>,
    pub value: Value,
}

/// What a value is.
pub(super) enum Value {
    Text(Zeroizing<String>),
    Null,
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
    /// Anything else, by what it is.
    Other(&'static str),
}

impl Node {
    /// The member of this name; of several the last, as Kubernetes' JSON reader has it.
    pub fn get(&self, name: &str) -> Option<&Self> {
        let found = self.members().iter().rev().find(|(key, _)| key == name);
        found.map(|(_, value)| value)
    }

    /// The members of an object; none of anything else.
    pub fn members(&self) -> &[(String, Self)] {
        match &self.value {
            Value::Map(members) => members,
            _ => &[],
        }
    }

    /// The text of a string.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Text(_) => "a string",
            Value::Null => "null",
            Value::List(_) => "a list",
            Value::Map(_) => "a mapping",
            Value::Other(kind) => kind,
        }
    }
}

/// The documents of a file.
pub(super) fn documents(text: &[u8]) -> Result<Vec<Node>, Error> {
    let text = std::str::from_utf8(text).map_err(|_| Error::Syntax {
        what: "not UTF-8".to_owned(),
        position: None,
    })?;
    let text = text.trim_start_matches('\u{feff}');
    let is_json = text.trim_ascii_start().starts_with('{');
    let json = is_json.then(|| of_json(text)).transpose();
    match json {
        Ok(Some(node)) => Ok(vec![node]),
        Ok(None) => of_yaml(text),
        // YAML has braces too. Where it is neither, the words about JSON say more.
        Err(error) => of_yaml(text).map_err(|_| Error::Syntax {
            position: error.position,
            what: match error.what {
                Fault::Syntax(_) => "broken JSON".to_owned(),
                what => what.to_string(),
            },
        }),
    }
}

fn of_json(text: &str) -> Result<Node, json::Error> {
    let first = text.len() - text.trim_ascii_start().len();
    let start = Places::new(text.as_bytes()).at(first);
    json_object(text.trim_ascii(), start, MAX_DEPTH)
}

fn json_object(text: &str, start: Position, depth: usize) -> Result<Node, json::Error> {
    let mut members = Vec::new();
    for member in json::members(text.as_bytes(), MAX_MEMBERS)? {
        let position = member.position.within(start);
        members.push((
            member.name.into_owned(),
            json_value(member.value, position, depth.saturating_sub(1)),
        ));
    }
    Ok(Node {
        position: Some(start),
        value: Value::Map(members),
    })
}

fn json_value(text: &str, position: Position, depth: usize) -> Node {
    let value = match text.bytes().next() {
        _ if depth == 0 => Value::Other("a value too deep to be read"),
        Some(b'"') => match serde_json::from_str::<String>(text) {
            Ok(text) => Value::Text(Zeroizing::new(text)),
            Err(_) => Value::Other("a string that is not Unicode"),
        },
        Some(b'{') => match json_object(text, position, depth) {
            Ok(node) => node.value,
            Err(_) => Value::Other("a mapping too large to be read"),
        },
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text).unwrap_or_default();
            let mut places = Places::new(text.as_bytes());
            let items = items.into_iter().map(|item| {
                // Where the item stands in the text that it is a slice of.
                let offset = item.get().as_ptr() as usize - text.as_ptr() as usize;
                json_value(item.get(), places.at(offset).within(position), depth - 1)
            });
            Value::List(items.collect())
        }
        Some(b'n') => Value::Null,
        Some(b't' | b'f') => Value::Other("a truth value"),
        _ => Value::Other("a number"),
    };
    Node {
        position: Some(position),
        value,
    }
}

/// Kubernetes takes several documents in a file, which the reader of YAML does not: each goes to it alone. A line
/// that begins with `---` is a document's beginning whatever stands around it.
fn of_yaml(text: &str) -> Result<Vec<Node>, Error> {
    let mut nodes = Vec::new();
    let mut document = Zeroizing::new(String::with_capacity(text.len()));
    let (mut lines_before, mut number) = (0, 0);
    let is_marker = |line: &str| {
        line.strip_prefix("---")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
    };
    let mut room = MAX_COPIED_BYTES;
    let mut finish = |document: &mut Zeroizing<String>, lines_before| {
        let source = yaml::Source {
            lines_before: Some(lines_before),
            is_template: false,
        };
        let root = yaml::load(document, source).map_err(|error| match error.limit {
            true => Error::Limit(error.what),
            false => Error::Syntax {
                what: error.what,
                position: error.position,
            },
        })?;
        if let Some(root) = root {
            nodes.push(yaml_value(&root, MAX_DEPTH, &mut room).ok_or_else(too_much)?);
        }
        document.clear();
        Ok(())
    };
    for line in text.split_inclusive('\n') {
        if is_marker(line) && !document.trim_ascii().is_empty() && !is_preamble(&document) {
            finish(&mut document, lines_before)?;
        }
        if document.is_empty() {
            lines_before = number;
        }
        document.push_str(line);
        number += 1;
    }
    finish(&mut document, lines_before)?;
    Ok(nodes)
}

/// Whether there are only comments and directives so far, which the next marker belongs to.
fn is_preamble(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim_ascii);
    lines.all(|line| line.is_empty() || line.starts_with(['#', '%']))
}

/// Aliases stand for more than the file has.
fn too_much() -> Error {
    Error::Limit(format!(
        "what its aliases stand for has more than {MAX_COPIED_BYTES} bytes"
    ))
}

/// The node with what its aliases stand for; none where that has no room.
fn yaml_value(node: &yaml::Node, depth: usize, room: &mut usize) -> Option<Node> {
    let bytes = node.text().map_or(0, str::len);
    *room = room.checked_sub(NODE_BYTES + bytes)?;
    let value = match &node.value {
        _ if depth == 0 => Value::Other("a value too deep to be read"),
        yaml::Value::Mapping(members) => Value::Map(
            members
                .iter()
                .map(|(key, value)| {
                    let key = key.scalar().map(|scalar| scalar.text.to_string());
                    let value = yaml_value(value, depth - 1, room)?;
                    Some((key.unwrap_or_default(), value))
                })
                .collect::<Option<_>>()?,
        ),
        yaml::Value::Sequence(items) => Value::List(
            items
                .iter()
                .map(|item| yaml_value(item, depth - 1, room))
                .collect::<Option<_>>()?,
        ),
        _ if node.is_null() => Value::Null,
        other => match node.text() {
            Some(text) => Value::Text(Zeroizing::new(text.to_owned())),
            None => Value::Other(other.name()),
        },
    };
    Some(Node {
        position: node.position,
        value,
    })
}
