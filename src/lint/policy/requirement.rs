// SPDX-License-Identifier: Apache-2.0

//! One requirement of a policy: its type, its key, and the identity that a signature must have.
//!
//! From image-rs v0.8.0 to v0.21.0: the types in `signature/policy/policy_requirement.rs`, the identities in
//! `signature/policy/ref_match.rs`, how a key is had in `resource/mod.rs`, and what the two mechanisms do in
//! `signature/policy/simple/mod.rs` and `signature/policy/cosign/mod.rs` (both below `signature/mechanism/` until v0.10.0):
//!
//! - Exactly one of `keyPath` and `keyData`. `keyPath` is `kbs:///…`, `file:///…` or an absolute path in the VM.
//! - `keyData` of `signedBy` is base64; that of `sigstoreSigned` is taken as it is, and must be PEM, although the manual
//!   page has it in base64.
//! - Keyless signatures (`fulcio`, `pki`), lists of keys and a transparency log (`rekorPublicKey…`) are not read.
//! - `keyType` is mandatory for `signedBy`, and only GPG keys are known.
//! - Cosign's signatures name a repository: `sigstoreSigned` takes only `matchRepository` and `exactRepository`.

use zeroize::Zeroizing;

use crate::json::{self, Member};
use crate::lint::policy::{Lint, Place, object, scope};
use crate::lint::signing;
use crate::resource::base64;
use crate::resource::name::Name;
use crate::resource::problem::{Problem, Severity};
use crate::text::{EntryName, RegistryName};

/// One type of requirement.
struct Type {
    name: &'static str,
    /// What clients read of it.
    members: &'static [&'static str],
    /// What it is signed by, if it asks for a signature.
    key: Option<&'static Key>,
}

/// The key of one type of signature.
struct Key {
    /// The resource that is usual, which has findings of its own.
    resource: &'static str,
    /// What is wrong with a key.
    lint: fn(&[u8]) -> Vec<Problem>,
    /// How it is packed.
    fix: &'static str,
    is_cosign: bool,
}

const TYPES: &[Type] = &[
    Type {
        name: "insecureAcceptAnything",
        members: &["type"],
        key: None,
    },
    Type {
        name: "reject",
        members: &["type"],
        key: None,
    },
    Type {
        name: "signedBy",
        members: &["type", "keyType", "keyPath", "keyData", "signedIdentity"],
        key: Some(&Key {
            resource: "default/gpg-public-config/test",
            lint: signing::gpg,
            fix: "write \"keyPath\":\"kbs:///default/gpg-public-config/test\", and pack the public keys: \
                  `offline-fs-kbc pack --merge RESOURCES --gpg-keyring pubkey.gpg -o RESOURCES`",
            is_cosign: false,
        }),
    },
    Type {
        name: "sigstoreSigned",
        members: &["type", "keyPath", "keyData", "signedIdentity"],
        key: Some(&Key {
            resource: "default/cosign-public-key/test",
            lint: signing::cosign,
            fix: "write \"keyPath\":\"kbs:///default/cosign-public-key/test\", and pack the public key: \
                  `offline-fs-kbc pack --merge RESOURCES --cosign-key cosign.pub -o RESOURCES`",
            is_cosign: true,
        }),
    },
];

/// What podman reads in place of a single key, and clients in a VM do not.
struct OtherKey {
    member: &'static str,
    code: &'static str,
    /// Why the images are refused.
    why: &'static str,
    /// What to do before a single key can be written.
    first: &'static str,
}

const SIGN: &str = "sign them with a key, too (`cosign sign --key cosign.key IMAGE`); then ";

const OTHER_KEYS: &[OtherKey] = &[
    OtherKey {
        member: "fulcio",
        code: "policy-keyless",
        why: "they must have a keyless signature (\"fulcio\"), which no client in a VM verifies",
        first: SIGN,
    },
    OtherKey {
        member: "pki",
        code: "policy-keyless",
        why: "they must have a signature by a certificate (\"pki\"), which no client in a VM verifies",
        first: SIGN,
    },
    OtherKey {
        member: "keyPaths",
        code: "policy-key",
        why: "they have a list of keys (\"keyPaths\"), which no client in a VM reads",
        first: "",
    },
    OtherKey {
        member: "keyDatas",
        code: "policy-key",
        why: "they have a list of keys (\"keyDatas\"), which no client in a VM reads",
        first: "",
    },
];

/// The beginning of four members' names that ask for an entry in a transparency log.
const REKOR: &str = "rekorPublicKey";

/// What `signedIdentity` may be, with its mandatory members.
const IDENTITIES: &[(&str, &[&str])] = &[
    ("matchExact", &[]),
    ("matchRepoDigestOrExact", &[]),
    ("matchRepository", &[]),
    ("exactReference", &["dockerReference"]),
    ("exactRepository", &["dockerRepository"]),
    ("remapIdentity", &["prefix", "signedPrefix"]),
];

/// Where the keys were until early 2023: image-rs wrote them there itself (`docs/quickstart/image_signing.md`). The
/// directory is empty at boot.
const OLD_KEY_DIRECTORY: &str = "/run/image-security/";

/// A member that may be a string or left out.
enum Field {
    Absent,
    Text(Zeroizing<String>),
    Other,
}

fn field(members: &[Member<'_>], name: &str) -> Field {
    match json::value(members, name) {
        None | Some("null") => Field::Absent,
        Some(_) => match json::string(members, name) {
            Some(text) => Field::Text(Zeroizing::new(text)),
            None => Field::Other,
        },
    }
}

/// Whether it is, or begins as, a private key: PEM, OpenPGP armour, or the packet of a secret key (RFC 9580, 5.5.1.3).
fn is_private(key: &[u8]) -> bool {
    let words = b"PRIVATE KEY";
    key.windows(words.len()).any(|part| part == words)
        || key
            .first()
            .is_some_and(|first| first & 0b1111_1100 == 0b1001_0100 || *first == 0b1100_0101)
}

impl Lint<'_, '_> {
    /// One requirement; whether it can accept an image.
    pub(super) fn requirement(&mut self, place: Place<'_>, members: &[Member<'_>]) -> bool {
        let kind = json::string(members, "type").unwrap_or_default();
        let Some(known) = TYPES.iter().find(|known| known.name == kind) else {
            self.unknown_type(place, &kind);
            return true;
        };
        let owner = format!("{} of {}", EntryName(known.name), RegistryName(place.name));
        let mut reported = Vec::new();
        if let Some(key) = known.key {
            reported.push(REKOR);
            reported.extend(OTHER_KEYS.iter().map(|other| other.member));
            self.key_type(place, known, members);
            self.key(place, &owner, key, members);
            self.identity(place, &owner, key, members);
            self.signed_by |= !key.is_cosign && place.images.is_some();
        }
        self.members(&owner, members, known.members, &reported);
        known.name != "reject"
    }

    fn unknown_type(&mut self, place: Place<'_>, kind: &str) {
        let meant = TYPES
            .iter()
            .find(|known| known.name.eq_ignore_ascii_case(kind));
        self.unreadable(
            "policy-type",
            format!(
                "{} has a requirement of the type {}, which clients don't know",
                RegistryName(place.name),
                EntryName(kind)
            ),
            match meant {
                Some(meant) => format!("write {}", EntryName(meant.name)),
                None => {
                    let names: Vec<_> = TYPES.iter().map(|known| known.name).collect();
                    format!("use one of {}", names.join(", "))
                }
            },
        );
    }

    fn key_type(&mut self, place: Place<'_>, known: &Type, members: &[Member<'_>]) {
        if !known.members.contains(&"keyType") {
            return;
        }
        let fix = "write \"keyType\":\"GPGKeys\", with a keyring of GPG as the key";
        match field(members, "keyType") {
            Field::Text(text) if *text == "GPGKeys" => {}
            Field::Text(text) => self.refused(
                place,
                "policy-key",
                &format!("clients know no keys of the type {}", EntryName(&text)),
                fix,
            ),
            Field::Absent | Field::Other => self.unreadable(
                "policy",
                format!(
                    "{} of {} has no string \"keyType\"",
                    EntryName(known.name),
                    RegistryName(place.name)
                ),
                fix,
            ),
        }
    }

    fn key(&mut self, place: Place<'_>, owner: &str, key: &Key, members: &[Member<'_>]) {
        let other = OTHER_KEYS
            .iter()
            .find(|other| members.iter().any(|member| member.name == other.member));
        match (field(members, "keyPath"), field(members, "keyData")) {
            (Field::Other, _) | (_, Field::Other) => {
                let what = format!("{owner} has a \"keyPath\" or \"keyData\" that is not a string");
                self.unreadable("policy", what, key.fix);
                return;
            }
            (Field::Absent, Field::Absent) => {
                match other {
                    Some(other) => self.refused(
                        place,
                        other.code,
                        other.why,
                        format!("{}{}; leave \"{}\" out", other.first, key.fix, other.member),
                    ),
                    None => self.refused(
                        place,
                        "policy-key",
                        "their requirement has neither \"keyPath\" nor \"keyData\"",
                        key.fix,
                    ),
                }
                return;
            }
            (Field::Text(_), Field::Text(_)) => self.refused(
                place,
                "policy-key",
                "their requirement has both \"keyPath\" and \"keyData\", and clients take one only",
                "leave one of them out",
            ),
            (Field::Text(path), Field::Absent) => self.key_path(place, key, &path),
            (Field::Absent, Field::Text(data)) => self.key_data(place, owner, key, &data),
        }
        let rekor = members.iter().find(|member| member.name.starts_with(REKOR));
        let ignored = rekor
            .map(|member| &*member.name)
            .or(other.map(|other| other.member));
        if let Some(ignored) = ignored {
            self.add(
                Severity::Warning,
                "policy-member",
                format!(
                    "{owner} has {}, which clients in a VM ignore: they verify the signature by the key alone",
                    EntryName(ignored)
                ),
                "leave it out, if the key is enough",
            );
        }
    }

    fn key_path(&mut self, place: Place<'_>, key: &Key, path: &str) {
        let shown = EntryName(path);
        match path.split_once("://") {
            None if path.starts_with('/') => self.key_file(place, key, path),
            Some(("file", rest)) if rest.starts_with('/') => self.key_file(place, key, rest),
            Some((scheme, rest)) if scheme == "kbs" || scheme.starts_with("kbs+") => {
                match Name::parse(path) {
                    Ok(name @ Name::Path(_)) => self.key_resource(place, key, path, &name),
                    Ok(Name::Other(_)) => self.refused(
                        place,
                        "policy-key-missing",
                        &format!("their key {shown} names no resource"),
                        match Name::parse(rest) {
                            // Two slashes in place of three: the first segment is taken for a host.
                            Ok(Name::Path(path)) => format!("write {}", EntryName(&format!("kbs:///{path}"))),
                            _ => "write kbs:///<repository>/<type>/<tag>".to_owned(),
                        },
                    ),
                    Err(error) => {
                        let why = format!("their key {error}");
                        self.refused(place, "policy-key-missing", &why, key.fix);
                    }
                }
            }
            _ => self.refused(
                place,
                "policy-key",
                &format!("their key {shown} is neither a resource (kbs:///…) nor an absolute path, and clients can't read it"),
                match Name::parse(path) {
                    Ok(Name::Path(path)) => format!("write {}", EntryName(&format!("kbs:///{path}"))),
                    _ => key.fix.to_owned(),
                },
            ),
        }
    }

    fn key_file(&mut self, place: Place<'_>, key: &Key, path: &str) {
        let Some(images) = place.images else { return };
        if path.starts_with(OLD_KEY_DIRECTORY) {
            self.add(
                Severity::Warning,
                "policy-key-file",
                format!(
                    "{images} have the key {}, where only clients of 2022 put one; later ones find no file there and \
                     refuse them",
                    EntryName(path)
                ),
                key.fix,
            );
        } else {
            self.add(
                Severity::Note,
                "policy-key-file",
                format!(
                    "{images} have the key {}, which clients read from the VM's own file system; they are refused if \
                     the VM has no such file",
                    EntryName(path)
                ),
                format!("build it into the VM's image, or {}", key.fix),
            );
        }
    }

    fn key_resource(&mut self, place: Place<'_>, key: &Key, path: &str, name: &Name) {
        let shown = EntryName(path);
        let Some(bytes) = (self.resources)(name) else {
            self.refused(
                place,
                "policy-key-missing",
                &format!("their key {shown} is not there"),
                "pack the key: `offline-fs-kbc pack --merge RESOURCES --resource NAME=KEY -o RESOURCES`",
            );
            return;
        };
        if bytes.is_empty() || name.as_str() == key.resource {
            return;
        }
        for problem in (key.lint)(bytes) {
            let what = match is_private(bytes) {
                true => "is a private key, which belongs on no VM",
                false => &problem.what,
            };
            let why = format!("their key {shown} {what}");
            self.refused(place, "policy-key", &why, problem.fix);
        }
    }

    fn key_data(&mut self, place: Place<'_>, owner: &str, key: &Key, data: &str) {
        let decoded = base64::decode(data);
        let plain = data.as_bytes();
        if is_private(plain) || decoded.as_ref().is_ok_and(|bytes| is_private(bytes)) {
            // Wherever it stands: others can read a policy.
            self.add(
                Severity::Error,
                "policy-key",
                format!("{owner} has a private key as \"keyData\", which belongs on no VM"),
                format!(
                    "make a new key pair, since others may have read this one; then {}",
                    key.fix
                ),
            );
            return;
        }
        let why = match (key.is_cosign, decoded) {
            (true, Ok(bytes)) if (key.lint)(&bytes).is_empty() => {
                "their \"keyData\" is in base64, and clients in a VM take it as it is, in PEM"
            }
            (true, _) if (key.lint)(plain).is_empty() => return,
            (false, Ok(bytes)) if (key.lint)(&bytes).is_empty() => return,
            (false, Err(_)) => "their \"keyData\" is not base64",
            _ => "their \"keyData\" is no public key in a form that clients read",
        };
        self.refused(place, "policy-key", why, key.fix);
    }

    fn identity(&mut self, place: Place<'_>, owner: &str, key: &Key, members: &[Member<'_>]) {
        const CODE: &str = "policy-identity";
        let fix = match key.is_cosign {
            true => "write {\"type\":\"matchRepository\"}",
            false => "leave it out, or write {\"type\":\"matchRepository\"}",
        };
        let Some(value) = json::value(members, "signedIdentity").filter(|value| *value != "null")
        else {
            return;
        };
        let Some(identity) = object(value) else {
            let what = format!("{owner} has a \"signedIdentity\" that is not an object");
            self.unreadable(CODE, what, fix);
            return;
        };
        let kind = json::string(&identity, "type").unwrap_or_default();
        let Some((kind, needed)) = IDENTITIES.iter().find(|(known, _)| *known == kind) else {
            let what = format!(
                "{owner} has a \"signedIdentity\" of the type {}, which clients don't know",
                EntryName(&kind)
            );
            let meant = IDENTITIES
                .iter()
                .find(|(known, _)| known.eq_ignore_ascii_case(&kind));
            match meant {
                Some((meant, _)) => {
                    self.unreadable(CODE, what, format!("write {}", EntryName(meant)))
                }
                None => self.unreadable(CODE, what, fix),
            }
            return;
        };
        for name in *needed {
            if !matches!(field(&identity, name), Field::Text(_)) {
                let what = format!("{owner} has \"{kind}\" without a string \"{name}\"");
                self.unreadable(
                    CODE,
                    what,
                    format!("write \"{name}\":\"…\" beside \"type\""),
                );
            }
        }
        let known: Vec<&str> = ["type"].iter().chain(*needed).copied().collect();
        self.members(
            &format!("\"{kind}\" of {}", RegistryName(place.name)),
            &identity,
            &known,
            &[],
        );
        if key.is_cosign && !["matchRepository", "exactRepository"].contains(kind) {
            self.refused(
                place,
                CODE,
                &format!(
                    "clients take no \"{kind}\" for \"sigstoreSigned\", since cosign signs no tag"
                ),
                fix,
            );
        }
        if let ("exactRepository", Field::Text(text)) =
            (*kind, field(&identity, "dockerRepository"))
        {
            let meant = scope::repository(&text);
            if meant.as_deref() != Some(&**text) {
                self.refused(
                    place,
                    CODE,
                    &format!("no signature is of the repository {}", RegistryName(&text)),
                    match meant {
                        Some(meant) => format!("write {}", EntryName(&meant)),
                        None => "write REGISTRY/REPOSITORY, without a scheme and a tag".to_owned(),
                    },
                );
            }
        }
    }
}
