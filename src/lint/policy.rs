// SPDX-License-Identifier: Apache-2.0

//! The image policy, a containers-policy.json(5), as far as clients read it.

use crate::json::{self, Member};
use crate::resource::name::Name;
use crate::resource::problem::{Problem, Severity};
use crate::text::Quoted;

/// The most members of one object of a policy, and items of a list: far above any use.
const MAX_MEMBERS: usize = 1_000;

/// What a requirement may be of.
const TYPES: &[&str] = &[
    "insecureAcceptAnything",
    "reject",
    "signedBy",
    "sigstoreSigned",
    "simpleSigning",
];

/// Where an example is.
const FIX: &str = "write {\"default\":[{\"type\":\"reject\"}],\"transports\":{…}} as \
                    containers-policy.json(5) has it";

/// What is wrong with a policy. Keys that it names as resources must be among those that `exists` knows.
pub fn lint(text: &[u8], exists: &dyn Fn(&Name) -> bool) -> Vec<Problem> {
    let unusable = |what: String| {
        vec![Problem::of_file(
            Severity::Error,
            "policy",
            format!("is no image policy: {what}; clients refuse every image"),
            FIX,
        )]
    };
    let top = match json::members(text, MAX_MEMBERS) {
        Ok(top) => top,
        Err(error) => return unusable(error.to_string()),
    };
    let Some(default) = json::value(&top, "default").and_then(requirements) else {
        return unusable("no list \"default\" of requirements".to_owned());
    };
    let mut found = Vec::new();
    check_all(&default, "default", exists, &mut found);
    let transports = json::value(&top, "transports").unwrap_or("{}");
    let Some(transports) = object(transports) else {
        return unusable("\"transports\" is not an object".to_owned());
    };
    for transport in &transports {
        let Some(scopes) = object(transport.value) else {
            return unusable(format!(
                "transport {} is not an object",
                Quoted(&transport.name)
            ));
        };
        for scope in &scopes {
            let place = if scope.name.is_empty() {
                &transport.name
            } else {
                &scope.name
            };
            match requirements(scope.value) {
                Some(list) => check_all(&list, place, exists, &mut found),
                None => {
                    return unusable(format!("{} is not a list of requirements", Quoted(place)));
                }
            }
        }
    }
    found
}

fn object(value: &str) -> Option<Vec<Member<'_>>> {
    json::members(value.as_bytes(), MAX_MEMBERS).ok()
}

/// The objects of a list.
fn requirements(value: &str) -> Option<Vec<Vec<Member<'_>>>> {
    let items: Vec<&serde_json::value::RawValue> = serde_json::from_str(value).ok()?;
    items.into_iter().map(|item| object(item.get())).collect()
}

fn check_all(
    list: &[Vec<Member<'_>>],
    place: &str,
    exists: &dyn Fn(&Name) -> bool,
    found: &mut Vec<Problem>,
) {
    let place = Quoted(place);
    if list.is_empty() {
        found.push(Problem::of_file(
            Severity::Error,
            "policy",
            format!("{place} has no requirement, which clients don't accept"),
            "write {\"type\":\"reject\"} or {\"type\":\"insecureAcceptAnything\"}",
        ));
    }
    for requirement in list {
        let kind = json::string(requirement, "type").unwrap_or_default();
        if !TYPES.contains(&kind.as_str()) {
            found.push(Problem::of_file(
                Severity::Error,
                "policy-type",
                format!(
                    "{place} has a requirement of the type {}, which clients don't know",
                    Quoted(&kind)
                ),
                format!("use one of {}", TYPES.join(", ")),
            ));
        }
        let Some(path) = json::string(requirement, "keyPath") else {
            continue;
        };
        if !path.starts_with("kbs://") {
            continue;
        }
        let known = Name::parse(&path).is_ok_and(|name| exists(&name));
        if !known {
            found.push(Problem::of_file(
                Severity::Error,
                "policy-key-missing",
                format!(
                    "{place} asks for the key {}, which is not there; its images are refused",
                    Quoted(&path)
                ),
                "pack the key: `offline-fs-kbc pack --merge FILE --resource NAME=KEY`",
            ));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(text: &str) -> Vec<&'static str> {
        let exists = |name: &Name| name.as_str() == "default/gpg-public-config/test";
        lint(text.as_bytes(), &exists)
            .iter()
            .map(|problem| problem.code)
            .collect()
    }

    #[test]
    fn policies_are_judged() {
        for (text, expected) in [
            (
                r#"{"default":[{"type":"insecureAcceptAnything"}]}"#,
                &[][..],
            ),
            (
                r#"{"default":[{"type":"reject"}],"transports":{"docker":{"quay.io/org":[{"type":"signedBy","keyType":"GPGKeys","keyPath":"kbs:///default/gpg-public-config/test"}],"":[{"type":"sigstoreSigned","keyPath":"/etc/key.pub"}]}}}"#,
                &[],
            ),
            (
                r#"{"default":[{"type":"reject"}],"transports":{"docker":{"q":[{"type":"sigstoreSigned","keyPath":"kbs:///default/cosign-public-key/test"}]}}}"#,
                &["policy-key-missing"],
            ),
            (r#"{"default":[{"type":"hope"}]}"#, &["policy-type"]),
            (r#"{"default":[]}"#, &["policy"]),
            (r#"{"default":{}}"#, &["policy"]),
            (r#"{"transports":{}}"#, &["policy"]),
            (
                r#"{"default":[{"type":"reject"}],"transports":[]}"#,
                &["policy"],
            ),
            (
                r#"{"default":[{"type":"reject"}],"transports":{"docker":{"q":{}}}}"#,
                &["policy"],
            ),
            ("hunter2", &["policy"]),
        ] {
            assert_eq!(codes(text), expected, "{text}");
        }
    }
}
