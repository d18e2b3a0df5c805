// SPDX-License-Identifier: Apache-2.0

//! How cloud-init merges cloud-config of several parts: `cloudinit/mergers` and `handlers/cloud_config.py`.

use std::rc::Rc;

use zeroize::Zeroizing;

use crate::yaml::{Member, Node, Scalar, Type, Value};

/// How many pairs of keys are compared at most, where mappings are merged. An entry of `write_files` has eight keys.
const MAX_COMPARED: usize = 1 << 20;

/// What to do with each type. Of several for one type the first counts; a type without one stays as it was.
#[derive(Debug, Default)]
pub struct Mergers {
    list: Option<Vec<String>>,
    dict: Option<Vec<String>>,
    string: Option<Vec<String>>,
}

/// What the merging did to a key that both have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing of either is lost, as far as lists go.
    Joined,
    /// The new value took the place of the old.
    Replaced,
    /// The old value stayed.
    Kept,
}

fn has(options: &[String], names: &[&str]) -> bool {
    options.iter().any(|option| names.contains(&&**option))
}

impl Mergers {
    /// Those that a part names in itself or by its header, or the default. None where cloud-init can't read them, and
    /// leaves the part out.
    pub fn of(part: &Node, header: &str) -> Option<Self> {
        let mut named = Vec::new();
        let own = part.get("merge_how").filter(|node| !node.is_null());
        let own = own.or_else(|| part.get("merge_type").filter(|node| !node.is_null()));
        if let Some(own) = own {
            match &own.value {
                Value::Scalar(_) => named.extend(parse(own.text()?)?),
                Value::Sequence(items) => {
                    for item in items {
                        named.extend(parse_item(item)?);
                    }
                }
                _ => return None,
            }
        }
        named.extend(parse(header)?);
        if named.is_empty() {
            named = parse("dict(replace)+list()+str()")?;
        }
        let mut mergers = Self::default();
        for (name, options) in named {
            let place = match name.strip_prefix("m_").unwrap_or(&name) {
                "list" => &mut mergers.list,
                "dict" => &mut mergers.dict,
                "str" => &mut mergers.string,
                _ => return None,
            };
            place.get_or_insert(options);
        }
        Some(mergers)
    }

    /// The value of a key of the whole configuration after a part, and what became of the old and the new one.
    pub fn key(
        &self,
        old: Option<&Rc<Node>>,
        new: Option<&Rc<Node>>,
    ) -> (Option<Rc<Node>>, Outcome) {
        let Some(options) = &self.dict else {
            return (old.cloned(), Outcome::Kept);
        };
        let (Some(old), Some(new)) = (old, new) else {
            return (new.or(old).cloned(), Outcome::Joined);
        };
        self.member(old, new, options)
    }

    fn member(
        &self,
        old: &Rc<Node>,
        new: &Rc<Node>,
        options: &[String],
    ) -> (Option<Rc<Node>>, Outcome) {
        if new.is_null() && has(options, &["allow_delete"]) {
            return (None, Outcome::Replaced);
        }
        // Of these the one that is looked for first counts, not the one that is written first.
        if has(options, &["replace"]) {
            return (Some(Rc::clone(new)), Outcome::Replaced);
        }
        let recurse = match &new.value {
            Value::Sequence(_) => has(options, &["recurse_array", "recurse_list"]),
            Value::Mapping(_) => true,
            Value::Scalar(_) => new.text().is_some() && has(options, &["recurse_str"]),
            Value::Bytes(_) => false,
        };
        match recurse {
            true => (Some(self.merge(old, new)), Outcome::Joined),
            false => (Some(Rc::clone(old)), Outcome::Kept),
        }
    }

    fn merge(&self, old: &Rc<Node>, new: &Rc<Node>) -> Rc<Node> {
        let value = match (&old.value, &new.value) {
            (Value::Sequence(items), Value::Sequence(others)) if self.list.is_some() => {
                let options = self.list.as_deref().unwrap_or_default();
                Some(Value::Sequence(self.lists(items, others, options)))
            }
            // A list that is to be replaced gives way to anything.
            (Value::Sequence(_), _)
                if self.list.as_deref().is_some_and(|options| {
                    !has(options, &["append"])
                        && (has(options, &["prepend", "replace"]) || !has(options, &["no_replace"]))
                }) =>
            {
                return Rc::clone(new);
            }
            (Value::Mapping(members), Value::Mapping(others)) if self.dict.is_some() => {
                let options = self.dict.as_deref().unwrap_or_default();
                Some(Value::Mapping(self.mappings(members, others, options)))
            }
            (Value::Scalar(text), _) if old.text().is_some() && self.string.is_some() => {
                let appends = has(self.string.as_deref().unwrap_or_default(), &["append"]);
                match new.text() {
                    Some(more) if appends => Some(Value::Scalar(Scalar {
                        text: Zeroizing::new(format!("{}{more}", *text.text)),
                        of_type: Type::String,
                        place: None,
                    })),
                    _ => return Rc::clone(new),
                }
            }
            _ => None,
        };
        match value {
            Some(value) => Rc::new(Node {
                position: old.position,
                value,
            }),
            None => Rc::clone(old),
        }
    }

    fn lists(&self, old: &[Rc<Node>], others: &[Rc<Node>], options: &[String]) -> Vec<Rc<Node>> {
        let mut items = old.to_vec();
        if has(options, &["append"]) {
            items.extend(others.iter().cloned());
        } else if has(options, &["prepend"]) {
            items.splice(0..0, others.iter().cloned());
        } else {
            let keeps = has(options, &["no_replace"]) && !has(options, &["replace"]);
            // What the new list has beyond the old one's length is lost.
            for (item, other) in items.iter_mut().zip(others).filter(|_| !keeps) {
                let recurse = match &other.value {
                    Value::Sequence(_) => has(options, &["recurse_array", "recurse_list"]),
                    Value::Mapping(_) => has(options, &["recurse_dict"]),
                    _ => other.text().is_some() && has(options, &["recurse_str"]),
                };
                *item = match recurse {
                    true => self.merge(item, other),
                    false => Rc::clone(other),
                };
            }
        }
        items
    }

    fn mappings(&self, old: &[Member], new: &[Member], options: &[String]) -> Vec<Member> {
        let mut members = old.to_vec();
        if members.len().saturating_mul(new.len()) > MAX_COMPARED {
            return members;
        }
        for (key, value) in new {
            let at = members.iter().position(|(own, _)| own.is_same_key(key));
            match at {
                None => members.push((Rc::clone(key), Rc::clone(value))),
                Some(at) => match self.member(&members[at].1, value, options).0 {
                    Some(value) => members[at].1 = value,
                    None => {
                        members.remove(at);
                    }
                },
            }
        }
        members
    }
}

/// `list(append)+dict(no_replace,recurse_list)+str()`; none where cloud-init can't read it.
fn parse(text: &str) -> Option<Vec<(String, Vec<String>)>> {
    let mut named = Vec::new();
    for item in text.split('+') {
        let item = item.trim().to_lowercase().replace('-', "_");
        if item.is_empty() {
            continue;
        }
        let (name, options) = item.strip_suffix(')')?.split_once('(')?;
        let first = |c: char| c.is_ascii_alphabetic() || c == '_';
        let is_word = |name: &str| {
            name.starts_with(first) && name.chars().all(|c| first(c) || c.is_ascii_digit())
        };
        if !is_word(name) {
            return None;
        }
        let options = options.split(',').map(|option| option.trim().to_owned());
        let options = options.filter(|option| !option.is_empty()).collect();
        named.push((name.to_owned(), options));
    }
    Some(named)
}

/// An item of a list `merge_how`: a mapping with `name` and `settings`, or a list of the name and its options.
fn parse_item(item: &Node) -> Option<Option<(String, Vec<String>)>> {
    let (name, options) = match &item.value {
        Value::Mapping(_) => {
            let Value::Sequence(options) = &item.get("settings")?.value else {
                return None;
            };
            (item.get("name")?, options.as_slice())
        }
        Value::Sequence(items) => {
            let (name, options) = items.split_first()?;
            (name, options)
        }
        _ => return None,
    };
    let name = name.text()?.replace('-', "_").trim().to_owned();
    let options = options.iter().filter_map(|option| option.text());
    let options = options.map(str::to_owned).collect();
    Some((!name.is_empty()).then_some((name, options)))
}
