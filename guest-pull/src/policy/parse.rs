// SPDX-License-Identifier: Apache-2.0

//! The text of a policy, and which part of it is for an image.

use std::collections::HashMap;
use std::fmt;

use common::auth_json::image::ImageName;
use common::text::{EntryName, Quoted};

use crate::policy::identity::Identity;
use crate::policy::object::{Object, list};
use crate::spelling::check_scope;

/// The transport of registries.
const DOCKER: &str = "docker";

/// What a policy asks of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Requirement {
    /// `insecureAcceptAnything`.
    Accept,
    /// `reject`.
    Reject,
    /// `sigstoreSigned`: a signature of cosign by one of the keys.
    Sigstore { keys: Vec<Key>, identity: Identity },
    /// `signedBy`: a signature of GPG by one of the keys.
    SignedBy { keys: Vec<Key>, identity: Identity },
    /// Something that is right, and not supported: what.
    Unsupported(&'static str),
}

/// Where a public key is, or the key itself.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Key {
    /// `keyPath`: a path or a URI.
    Path(String),
    /// `keyData`, with its name.
    Data(String, String),
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.fmt(f),
            Self::Data(name, _) => f.write_str(name),
        }
    }
}

/// A policy. All requirements of a scope must hold.
#[derive(Debug)]
pub(super) struct Policy {
    default: Vec<Requirement>,
    /// Of the transport `docker`, which alone counts here.
    scopes: HashMap<String, Vec<Requirement>>,
}

impl Policy {
    /// Parses a text, wholly: a part that isn't understood may be what keeps an image out.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        let text = std::str::from_utf8(text).map_err(|_| "not UTF-8")?;
        let object = Object::of(text, &["default", "transports"])?;
        let mut policy = Self {
            default: requirements("default", object.need("default")?)?,
            scopes: HashMap::new(),
        };
        let Some(transports) = object.get("transports") else {
            return Ok(policy);
        };
        let transports = Object::parse(transports).map_err(|what| format!("transports: {what}"))?;
        for (transport, scopes) in transports.iter() {
            let within = |what| format!("transports: {}: {what}", EntryName(transport));
            let scopes = Object::parse(scopes).map_err(within)?;
            for (scope, value) in scopes.iter() {
                let found = requirements(scope, value).map_err(within)?;
                if transport == DOCKER {
                    check_scope(scope).map_err(within)?;
                    policy.scopes.insert(scope.to_owned(), found);
                }
            }
        }
        Ok(policy)
    }

    /// What is asked of any image.
    pub(super) fn all(&self) -> impl Iterator<Item = &Vec<Requirement>> {
        self.scopes.values().chain([&self.default])
    }

    /// What is asked of the image, and the name of the scope: the longest that the image is in.
    pub(super) fn of(&self, image: &ImageName) -> (String, &[Requirement]) {
        let mut scopes = scopes(image).into_iter();
        let found = scopes.find_map(|scope| {
            let requirements = self.scopes.get(&scope)?;
            Some((
                format!("transports.docker {}", Quoted(&scope)),
                requirements,
            ))
        });
        let (scope, requirements) = found.unwrap_or(("default".to_owned(), &self.default));
        (scope, requirements)
    }
}

/// The scopes that an image is in, the smallest first: itself, its repository, what that is in, the registry, the domains
/// of its host, all.
pub(super) fn scopes(image: &ImageName) -> Vec<String> {
    let mut name = format!("{}/{}", image.registry, image.repository);
    let mut scopes = vec![image.to_string(), name.clone()];
    while let Some(slash) = name.rfind('/') {
        name.truncate(slash);
        scopes.push(name.clone());
    }
    let mut host = name.split(':').next().unwrap_or_default();
    while let Some((_, domain)) = host.split_once('.') {
        scopes.push(format!("*.{domain}"));
        host = domain;
    }
    scopes.push(String::new());
    scopes
}

fn requirements(scope: &str, text: &str) -> Result<Vec<Requirement>, String> {
    let within = |what| format!("{}: {what}", EntryName(scope));
    let all = list(text).map_err(within)?;
    if all.is_empty() {
        let what =
            "the list of requirements is empty; to allow all images, write insecureAcceptAnything";
        return Err(within(what.to_owned()));
    }
    let all = all.into_iter().map(requirement);
    all.collect::<Result<_, _>>().map_err(within)
}

fn requirement(text: &str) -> Result<Requirement, String> {
    let kind = Object::parse(text)?.need_text("type")?;
    let within = |what| format!("{kind}: {what}");
    match kind.as_str() {
        "insecureAcceptAnything" => Object::of(text, &["type"]).map(|_| Requirement::Accept),
        "reject" => Object::of(text, &["type"]).map(|_| Requirement::Reject),
        "sigstoreSigned" => sigstore(text),
        "signedBy" => signed_by(text),
        _ => return Err(format!("the type {} is not known", Quoted(&kind))),
    }
    .map_err(within)
}

fn sigstore(text: &str) -> Result<Requirement, String> {
    const REKOR: [&str; 4] = [
        "rekorPublicKeyPath",
        "rekorPublicKeyPaths",
        "rekorPublicKeyData",
        "rekorPublicKeyDatas",
    ];
    let own = ["type", "signedIdentity", "fulcio", "pki"];
    let keys = ["keyPath", "keyPaths", "keyData", "keyDatas"];
    let object = Object::of(text, &[&own[..], &keys, &REKOR].concat())?;
    let identity = identity(&object, Identity::unstated())?;
    let keys = keys_of(&object, &keys)?;
    let has = |name: &str| object.get(name).is_some();
    let count =
        usize::from(!keys.is_empty()) + usize::from(has("fulcio")) + usize::from(has("pki"));
    if count != 1 {
        return Err(
            "exactly one of keyPath, keyPaths, keyData, keyDatas, fulcio and pki must be there"
                .to_owned(),
        );
    }
    Ok(if has("fulcio") {
        Requirement::Unsupported("fulcio (signatures by certificates, keyless)")
    } else if has("pki") {
        Requirement::Unsupported("pki (signatures by certificates)")
    } else if REKOR.iter().any(|name| has(name)) {
        Requirement::Unsupported("rekorPublicKey (proofs of a transparency log)")
    } else {
        Requirement::Sigstore { keys, identity }
    })
}

fn signed_by(text: &str) -> Result<Requirement, String> {
    let keys = ["keyPath", "keyPaths", "keyData"];
    let known = [&["type", "keyType", "signedIdentity"], &keys[..]].concat();
    let object = Object::of(text, &known)?;
    let identity = identity(&object, Identity::repo_digest_or_exact())?;
    let kind = object.need_text("keyType")?;
    if kind != "GPGKeys" {
        return Err(format!(
            "the keyType {} is not known; GPGKeys is",
            Quoted(&kind)
        ));
    }
    let keys = keys_of(&object, &keys)?;
    match keys.is_empty() {
        true => Err("exactly one of keyPath, keyPaths and keyData must be there".to_owned()),
        false => Ok(Requirement::SignedBy { keys, identity }),
    }
}

fn identity(object: &Object<'_>, default: Identity) -> Result<Identity, String> {
    match object.get("signedIdentity") {
        Some(text) => Identity::parse(text).map_err(|what| format!("signedIdentity: {what}")),
        None => Ok(default),
    }
}

/// The keys of the one member that has any; none if there is no such member.
fn keys_of(object: &Object<'_>, names: &[&str]) -> Result<Vec<Key>, String> {
    let found: Vec<_> = names
        .iter()
        .filter(|name| object.get(name).is_some())
        .collect();
    let name = match found[..] {
        [] => return Ok(Vec::new()),
        [name] => *name,
        _ => return Err(format!("only one of {} may be there", names.join(", "))),
    };
    let texts = match name.ends_with('s') {
        true => object.texts(name)?.unwrap_or_default(),
        false => object.text(name)?.into_iter().collect(),
    };
    if texts.is_empty() || texts.iter().any(String::is_empty) {
        return Err(format!("{name} is empty"));
    }
    let many = texts.len() > 1;
    let keys = texts.into_iter().enumerate().map(|(at, text)| {
        if name.starts_with("keyPath") {
            return Key::Path(text);
        }
        let name = match many {
            true => format!("{name}[{at}]"),
            false => name.to_owned(),
        };
        Key::Data(name, text)
    });
    Ok(keys.collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn policy(text: &str) -> Result<Policy, String> {
        Policy::parse(text.as_bytes())
    }

    /// The smallest scope counts, and it alone: a tag or digest, repository, namespace, registry, domain, all, default.
    #[test]
    fn the_smallest_scope_counts() {
        let digest = format!("sha256:{}", "0".repeat(64));
        let text = format!(
            r#"{{"default": [{{"type": "reject"}}], "transports": {{
                "docker-daemon": {{"": [{{"type": "reject"}}], "r.example/a": [{{"type": "reject"}}]}},
                "docker": {{
                    "r.example:5000/a/b:1": [{{"type": "insecureAcceptAnything"}}],
                    "r.example:5000/a/b@{digest}": [{{"type": "insecureAcceptAnything"}}],
                    "r.example:5000/a/b": [{{"type": "insecureAcceptAnything"}}],
                    "r.example:5000/a": [{{"type": "insecureAcceptAnything"}}],
                    "r.example:5000": [{{"type": "insecureAcceptAnything"}}],
                    "*.corp.example": [{{"type": "insecureAcceptAnything"}}],
                    "*.x.corp.example": [{{"type": "insecureAcceptAnything"}}],
                    "docker.io/library": [{{"type": "insecureAcceptAnything"}}]
                }}
            }} }}"#
        );
        let policy = policy(&text).unwrap();
        for (image, scope) in [
            ("r.example:5000/a/b:1", "r.example:5000/a/b:1"),
            (
                &format!("r.example:5000/a/b@{digest}"),
                &format!("r.example:5000/a/b@{digest}"),
            ),
            ("r.example:5000/a/b:2", "r.example:5000/a/b"),
            ("r.example:5000/a/b", "r.example:5000/a/b"),
            ("r.example:5000/a/bc:1", "r.example:5000/a"),
            ("r.example:5000/ab/c:1", "r.example:5000"),
            ("r.corp.example:443/a", "*.corp.example"),
            ("r.y.corp.example/a", "*.corp.example"),
            ("r.x.corp.example/a", "*.x.corp.example"),
            ("alpine", "docker.io/library"),
            // Other ports are other registries, and a domain is not in itself.
            ("r.example/a/b:1", "default"),
            ("corp.example/a", "default"),
            ("quay.io/a", "default"),
        ] {
            let (found, requirements) = policy.of(&ImageName::parse(image).unwrap());
            let (wanted, requirement) = match scope {
                "default" => (scope.to_owned(), Requirement::Reject),
                scope => (
                    format!("transports.docker \"{scope}\""),
                    Requirement::Accept,
                ),
            };
            assert_eq!(
                (found, requirements),
                (wanted, &[requirement][..]),
                "{image}"
            );
        }
        let all = r#"{"default": [{"type": "insecureAcceptAnything"}], "transports": {"docker": {"": [{"type": "reject"}]}}}"#;
        let all = super::Policy::parse(all.as_bytes()).unwrap();
        let (scope, requirements) = all.of(&ImageName::parse("quay.io/a").unwrap());
        assert_eq!(scope, "transports.docker \"\"");
        assert_eq!(requirements, [Requirement::Reject]);
    }

    /// Keys, and what must be signed.
    #[test]
    fn requirements_are_read() {
        let one = |text: &str| -> Result<Requirement, String> {
            let policy = policy(&format!(r#"{{"default": [{text}]}}"#))?;
            Ok(policy.default[0].clone())
        };
        let path = |path: &str| Key::Path(path.to_owned());
        let data = |name: &str, data: &str| Key::Data(name.to_owned(), data.to_owned());
        for (text, wanted) in [
            (r#""keyPath": "kbs:///a/b/c""#, vec![path("kbs:///a/b/c")]),
            (r#""keyPaths": ["/a", "/b"]"#, vec![path("/a"), path("/b")]),
            (r#""keyData": "eA==""#, vec![data("keyData", "eA==")]),
            (
                r#""keyDatas": ["eA==", "eQ=="]"#,
                vec![data("keyDatas[0]", "eA=="), data("keyDatas[1]", "eQ==")],
            ),
        ] {
            let text = format!(r#"{{"type": "sigstoreSigned", {text}}}"#);
            let identity = Identity::unstated();
            let wanted = Requirement::Sigstore {
                keys: wanted,
                identity,
            };
            assert_eq!(one(&text), Ok(wanted), "{text}");
        }
        let text = r#"{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/a", "signedIdentity": {"type": "matchExact"}}"#;
        let identity = Identity::parse(r#"{"type": "matchExact"}"#).unwrap();
        let wanted = Requirement::SignedBy {
            keys: vec![path("/a")],
            identity,
        };
        assert_eq!(one(text), Ok(wanted));
        for text in [
            r#""fulcio": {"caPath": "/a", "oidcIssuer": "x", "subjectEmail": "y"}, "rekorPublicKeyPath": "/b""#,
            r#""pki": {}"#,
            r#""keyPath": "/a", "rekorPublicKeyData": "eA==""#,
        ] {
            let text = format!(r#"{{"type": "sigstoreSigned", {text}}}"#);
            let found = one(&text);
            assert!(
                matches!(found, Ok(Requirement::Unsupported(_))),
                "{found:?}"
            );
        }
    }

    /// What is not understood is an error of the whole policy, with its place.
    #[test]
    fn unknown_parts_are_errors() {
        let scoped = |list: &str| {
            format!(
                r#"{{"default": [{{"type": "reject"}}], "transports": {{"docker": {{"r.example": {list}}}}}}}"#
            )
        };
        for (text, what) in [
            (String::new(), "empty"),
            ("[]".to_owned(), "an array instead of an object"),
            ("{}".to_owned(), "default is missing"),
            (r#"{"default": []}"#.to_owned(), "\"default\": the list of requirements is empty"),
            (r#"{"default": [{"type": "reject"}], "x": 1}"#.to_owned(), "\"x\" is not known"),
            (r#"{"default": [{"type": "reject"}], "default": [{"type": "insecureAcceptAnything"}]}"#.to_owned(), "\"default\" is there twice"),
            (r#"{"default": [{"type": "reject"}], "transports": []}"#.to_owned(), "transports: "),
            (scoped("[]"), "transports: \"docker\": \"r.example\": the list of requirements is empty"),
            (scoped("{}"), "\"r.example\": not a list"),
            (scoped(r#"["reject"]"#), "\"r.example\": "),
            (scoped(r#"[{"type": "accept"}]"#), "the type \"accept\" is not known"),
            (scoped(r#"[{"type": "reject", "x": 1}]"#), "reject: \"x\" is not known"),
            (scoped(r#"[{"type": "sigstoreSigned"}]"#), "exactly one of"),
            (scoped(r#"[{"type": "sigstoreSigned", "keyPath": "/a", "keyData": "eA=="}]"#), "only one of"),
            (scoped(r#"[{"type": "sigstoreSigned", "keyPath": "/a", "fulcio": {}}]"#), "exactly one of"),
            (scoped(r#"[{"type": "sigstoreSigned", "keyPath": ""}]"#), "keyPath is empty"),
            (scoped(r#"[{"type": "sigstoreSigned", "keyPaths": []}]"#), "keyPaths is empty"),
            (scoped(r#"[{"type": "sigstoreSigned", "keyPath": 1}]"#), "keyPath is not a text"),
            (scoped(r#"[{"type": "sigstoreSigned", "keyPath": "/a", "keytype": "x"}]"#), "\"keytype\" is not known"),
            (scoped(r#"[{"type": "sigstoreSigned", "keyPath": "/a", "signedIdentity": {"type": "x"}}]"#), "signedIdentity: the type"),
            (scoped(r#"[{"type": "signedBy", "keyPath": "/a"}]"#), "keyType is missing"),
            (scoped(r#"[{"type": "signedBy", "keyType": "X", "keyPath": "/a"}]"#), "keyType \"X\""),
            (scoped(r#"[{"type": "signedBy", "keyType": "GPGKeys"}]"#), "exactly one of"),
            (scoped(r#"[{"type": "signedBy", "keyType": "GPGKeys", "keyDatas": ["eA=="]}]"#), "\"keyDatas\" is not known"),
        ] {
            let error = policy(&text).err().unwrap_or_default();
            assert!(error.contains(what), "{text}: {error}");
        }
    }
}
