// SPDX-License-Identifier: Apache-2.0

//! JSON objects in which every member must be known: what a policy or a signature says, and this program doesn't
//! understand, may be what keeps an image out.

use common::json::{self, Member};
use common::text::EntryName;

/// The most members of one object, and values of one list. Policies have a scope for each registry or repository.
const MAX_MEMBERS: usize = 10_000;

/// An object whose members are all different.
pub(super) struct Object<'a> {
    members: Vec<Member<'a>>,
}

impl<'a> Object<'a> {
    /// Any object.
    pub(super) fn parse(text: &'a str) -> Result<Self, String> {
        let members = json::members(text.as_bytes(), MAX_MEMBERS);
        let members = members.map_err(|error| error.to_string())?;
        let mut names: Vec<_> = members.iter().map(|member| &member.name).collect();
        names.sort();
        match names.windows(2).find(|pair| pair[0] == pair[1]) {
            Some(pair) => Err(format!("{} is there twice", EntryName(pair[0]))),
            None => Ok(Self { members }),
        }
    }

    /// An object that has no other members than these.
    pub(super) fn of(text: &'a str, known: &[&str]) -> Result<Self, String> {
        let object = Self::parse(text)?;
        if let Some((name, _)) = object.iter().find(|(name, _)| !known.contains(name)) {
            return Err(format!("{} is not known", EntryName(name)));
        }
        Ok(object)
    }

    /// Names and values, in the order of the text.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &'a str)> {
        let members = self.members.iter();
        members.map(|member| (member.name.as_ref(), member.value))
    }

    /// The value of a member as it is in the text.
    pub(super) fn get(&self, name: &str) -> Option<&'a str> {
        json::value(&self.members, name)
    }

    /// The value of a member that must be there.
    pub(super) fn need(&self, name: &str) -> Result<&'a str, String> {
        self.get(name).ok_or_else(|| format!("{name} is missing"))
    }

    /// The text that a member has, if it is there.
    pub(super) fn text(&self, name: &str) -> Result<Option<String>, String> {
        let value = self.get(name).map(serde_json::from_str).transpose();
        value.map_err(|_| format!("{name} is not a text"))
    }

    /// The text of a member that must be there.
    pub(super) fn need_text(&self, name: &str) -> Result<String, String> {
        self.need(name)?;
        Ok(self.text(name)?.unwrap_or_default())
    }

    /// The texts in the list that a member has, if it is there.
    pub(super) fn texts(&self, name: &str) -> Result<Option<Vec<String>>, String> {
        let value = self.get(name).map(serde_json::from_str).transpose();
        value.map_err(|_| format!("{name} is not a list of texts"))
    }
}

/// The values in a list.
pub(super) fn list(text: &str) -> Result<Vec<&str>, String> {
    let (mut values, mut count) = (Vec::new(), 0);
    let read = json::each_value(text, |value| {
        count += 1;
        if count <= MAX_MEMBERS {
            values.push(value);
        }
    });
    match (read, count <= MAX_MEMBERS) {
        (Err(_), _) => Err("not a list".to_owned()),
        (Ok(()), true) => Ok(values),
        (Ok(()), false) => Err(format!("a list of more than {MAX_MEMBERS} entries")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A member that nobody knows, or that is there twice, is never passed over.
    #[test]
    fn members_are_known_and_different() {
        let parse = |text| Object::of(text, &["a", "b"]).map(|_| ());
        assert_eq!(parse(r#"{"a": 1}"#), Ok(()));
        for (text, what) in [
            (r#"{"a": 1, "c": 1}"#, "\"c\" is not known"),
            (r#"{"a": 1, "b": 2, "a": 1}"#, "\"a\" is there twice"),
            (r#"{"a": 1, "\u0061": 2}"#, "\"a\" is there twice"),
            (r#"[1]"#, "JSON, but an array"),
            ("{", "the text ends too early"),
        ] {
            let error = parse(text).err().unwrap_or_default();
            assert!(error.contains(what), "{text}: {error}");
        }
    }
}
