// SPDX-License-Identifier: Apache-2.0

//! The image policy, a containers-policy.json(5), as the clients in a VM read it.
//!
//! The clients are image-rs, in kata-agent and later in confidential-data-hub (repository
//! confidential-containers/guest-components). Their rules, from `image-rs/src/signature/` of v0.8.0 (2023), v0.14.0 and
//! v0.21.0 (2026), which are the same except where a version is named:
//!
//! - `policy/mod.rs` reads the file by serde. `default` and `transports` are mandatory, although the manual page has
//!   `transports` optional. Members that it doesn't know are ignored; one that it knows may not be there twice. An
//!   unknown type anywhere, or a value of the wrong kind, makes the whole policy unreadable. Then no image can be
//!   pulled.
//! - Only the transport `docker` is looked at (`image/mod.rs`). A scope is a whole image, a repository, a part of
//!   its path, a registry, or `*.domain`; they are tried in this order, then the scope `""`, then `default`. Of a
//!   scope that is there twice the last one counts.
//! - All requirements of the list must be met. An empty list refuses up to v0.13.0, and accepts since v0.14.0
//!   (`signature/mod.rs`).
//! - What a requirement may be is in `requirement`, how a scope is spelled in `scope`.
//!
//! What podman says of the same file is from containers/image v5.36, `signature/policy_config.go`: it refuses a file
//! with an unknown member.

mod requirement;
mod scope;
#[cfg(test)]
mod tests;

use crate::json::{self, Member};
use crate::lint::policy::scope::Spelling;
use crate::resource::name::Name;
use crate::resource::problem::{Problem, Severity};
use crate::text::{EntryName, RegistryName};

/// The most members of one object of a policy, and items of a list: far above any use.
const MAX_MEMBERS: usize = 1_000;

/// Where an example is.
const FIX: &str = "write {\"default\":[{\"type\":\"reject\"}],\"transports\":{…}} as \
                    containers-policy.json(5) has it";

/// The one transport that clients look at.
const DOCKER: &str = "docker";

/// The other transports of containers-transports(5), which podman's own default policy has. They do no harm.
const OTHER_TRANSPORTS: &[&str] = &[
    "atomic",
    "containers-storage",
    "dir",
    "docker-archive",
    "docker-daemon",
    "oci",
    "oci-archive",
    "ostree",
    "sif",
    "tarball",
];

/// Where the signatures of `signedBy` are.
const SIGSTORE_CONFIG: &str = "default/sigstore-config/test";

/// The resources that a policy can name: the bytes of one, or none if there is no such resource.
///
/// No bytes stand for a resource that may be there and of which nothing is known.
pub type Resources<'a> = dyn Fn(&Name) -> Option<&'a [u8]> + 'a;

/// What is wrong with a policy, and which images that makes fail. Keys that it names must be among the resources.
pub fn lint(text: &[u8], resources: &Resources<'_>) -> Vec<Problem> {
    let mut lint = Lint {
        resources,
        found: Vec::new(),
        unreadable: false,
        signed_by: false,
    };
    if let Err(what) = lint.file(text) {
        lint.found.clear();
        lint.add(
            Severity::Error,
            "policy",
            format!("is no image policy: {what}; clients refuse every image"),
            FIX,
        );
    }
    lint.found
}

/// A list of requirements, and whose they are.
#[derive(Clone, Copy)]
struct Place<'p> {
    /// The scope, or what else the list stands under.
    name: &'p str,
    /// The images that are judged by it, as a message's subject; none if no pull comes to it.
    images: Option<&'p str>,
}

struct Lint<'r, 'a> {
    resources: &'r Resources<'a>,
    found: Vec<Problem>,
    /// Whether clients can't read the policy at all.
    unreadable: bool,
    /// Whether images are judged by a `signedBy`.
    signed_by: bool,
}

impl Lint<'_, '_> {
    fn file(&mut self, text: &[u8]) -> Result<(), String> {
        let top = json::members(text, MAX_MEMBERS).map_err(|error| error.to_string())?;
        let default = json::value(&top, "default").filter(|default| default.starts_with('['));
        let Some(default) = default else {
            return Err("no list \"default\" of requirements".to_owned());
        };
        let transports = json::value(&top, "transports");
        let Some(transports) = object(transports.unwrap_or("{}")) else {
            return Err("\"transports\" is not an object".to_owned());
        };
        if json::value(&top, "transports").is_none() {
            self.unreadable(
                "policy",
                "has no \"transports\" (optional by containers-policy.json(5), but not for clients in a VM)"
                    .to_owned(),
                "write \"transports\":{} after \"default\"",
            );
        }
        self.members("the policy", &top, &["default", "transports"], &[]);

        let docker = transports.iter().rev().find(|one| one.name == DOCKER);
        let docker = docker.and_then(|docker| object(docker.value));
        let docker = docker.unwrap_or_default();
        let images = match docker.iter().any(|scope| scope.name.is_empty()) {
            true => None,
            false if docker.is_empty() => Some("all images"),
            false => Some("images that no scope covers"),
        };
        let place = Place {
            name: "default",
            images,
        };
        let mut accepts = self.list(place, default) && images.is_some();
        for (index, transport) in transports.iter().enumerate() {
            accepts |= self.transport(transport, &transports[index + 1..]);
        }
        if !accepts && !self.unreadable {
            self.add(
                Severity::Warning,
                "policy-rejects-all",
                "has no scope of the transport \"docker\" that accepts an image; clients refuse every image"
                    .to_owned(),
                "write the images' scope: \"transports\":{\"docker\":{\"quay.io/org\":[{…}]}}",
            );
        }
        let sigstore_config = Name::Path(SIGSTORE_CONFIG.into());
        if self.signed_by && (self.resources)(&sigstore_config).is_none() {
            self.add(
                Severity::Warning,
                "policy-sigstore-config",
                format!(
                    "has \"signedBy\", and there is no sigstore configuration ({SIGSTORE_CONFIG}), which says where \
                     the signatures are; without one elsewhere in the VM these images are refused"
                ),
                format!("pack one: `offline-fs-kbc pack --merge FILE --resource {SIGSTORE_CONFIG}=FILE`"),
            );
        }
        Ok(())
    }

    /// One transport, before those that come after it; whether it accepts any image.
    fn transport(&mut self, transport: &Member<'_>, later: &[Member<'_>]) -> bool {
        let name = &*transport.name;
        let Some(scopes) = object(transport.value) else {
            self.unreadable(
                "policy",
                format!("has a transport {} that is not an object", EntryName(name)),
                FIX,
            );
            return true;
        };
        let is_last = self.is_last(transport, later);
        if name != DOCKER && !OTHER_TRANSPORTS.contains(&name) {
            self.add(
                Severity::Warning,
                "policy-transport",
                format!(
                    "has a transport {}, and clients look at \"docker\" only: what stands there applies to no image",
                    RegistryName(name)
                ),
                "write \"docker\", with the registry as a scope in it",
            );
        }
        let mut accepts = false;
        for (index, scope) in scopes.iter().enumerate() {
            let counts = self.is_last(scope, &scopes[index + 1..]) && is_last && name == DOCKER;
            if counts {
                self.spelling(&scope.name);
            }
            let images = match scope.name.is_empty() {
                false => format!("images of {}", RegistryName(&scope.name)),
                true if scopes.len() == 1 => "all images".to_owned(),
                true => "images that no other scope covers".to_owned(),
            };
            let place = Place {
                name: match scope.name.is_empty() {
                    true => name,
                    false => &scope.name,
                },
                images: counts.then_some(&images),
            };
            accepts |= self.list(place, scope.value) && counts;
        }
        accepts
    }

    /// Whether none of the members that come after this one has its name.
    fn is_last(&mut self, member: &Member<'_>, later: &[Member<'_>]) -> bool {
        let again = later.iter().any(|one| one.name == member.name);
        if again {
            self.add(
                Severity::Warning,
                "policy-scope-twice",
                format!(
                    "has {} twice: clients take the last one and ignore what stands in the other",
                    RegistryName(&member.name)
                ),
                "write it once, with all that belongs in it",
            );
        }
        !again
    }

    fn spelling(&mut self, scope: &str) {
        let fix = match scope::spelling(scope) {
            Spelling::Matches => return,
            Spelling::Write(meant) => format!("write {}", EntryName(&meant)),
            Spelling::Unclear => {
                "write REGISTRY, REGISTRY/NAMESPACE, REGISTRY/REPOSITORY[:TAG] or *.DOMAIN, in the \
                                  long form: docker.io/library/busybox"
                    .to_owned()
            }
        };
        self.add(
            Severity::Warning,
            "policy-scope",
            format!(
                "has a scope {} that matches no image; the images that are meant get the requirements of another scope \
                 or of \"default\"",
                RegistryName(scope)
            ),
            fix,
        );
    }

    /// A list of requirements; whether it can accept an image.
    fn list(&mut self, place: Place<'_>, value: &str) -> bool {
        let shown = RegistryName(place.name);
        let Some(list) = requirements(value) else {
            self.unreadable(
                "policy",
                format!("{shown} is not a list of requirements"),
                "write [{\"type\":\"reject\"}] or another list of objects",
            );
            return true;
        };
        if list.is_empty() {
            self.add(
                Severity::Error,
                "policy",
                match place.images {
                    Some(images) => format!(
                        "{shown} has no requirement: clients before guest-components v0.14.0 refuse {images}, and later \
                         ones accept them unsigned"
                    ),
                    None => format!("{shown} has no requirement, which podman doesn't accept"),
                },
                "write {\"type\":\"reject\"} or {\"type\":\"insecureAcceptAnything\"}",
            );
        }
        let mut accepts = true;
        for requirement in &list {
            accepts &= self.requirement(place, requirement);
        }
        accepts
    }

    /// Members of an object that clients ignore, and those that may not be there twice. `owner` is the object in a
    /// message, `known` what clients read of it; `reported` is what has a finding of its own.
    fn members(&mut self, owner: &str, members: &[Member<'_>], known: &[&str], reported: &[&str]) {
        for name in known {
            if members.iter().filter(|one| one.name == *name).count() > 1 {
                self.unreadable(
                    "policy",
                    format!("{owner} has \"{name}\" twice"),
                    "write it once",
                );
            }
        }
        let known_or_reported =
            |name: &str| known.contains(&name) || reported.iter().any(|one| name.starts_with(one));
        for member in members.iter().filter(|one| !known_or_reported(&one.name)) {
            let meant = known
                .iter()
                .find(|one| one.eq_ignore_ascii_case(&member.name));
            self.add(
                Severity::Warning,
                "policy-member",
                format!(
                    "{owner} has a member {}, which clients in a VM ignore; podman would refuse the policy",
                    EntryName(&member.name)
                ),
                match meant {
                    Some(meant) => format!("write \"{meant}\""),
                    None => "leave it out".to_owned(),
                },
            );
        }
    }

    /// Clients can't read the policy because of this.
    fn unreadable(&mut self, code: &'static str, what: String, fix: impl Into<String>) {
        self.unreadable = true;
        let what = what + ": clients can't read the policy, and refuse every image";
        self.add(Severity::Error, code, what, fix);
    }

    /// The images of a place are refused because of this. Of a place that no pull comes to there is nothing to say.
    fn refused(&mut self, place: Place<'_>, code: &'static str, why: &str, fix: impl Into<String>) {
        if let Some(images) = place.images {
            self.add(
                Severity::Error,
                code,
                format!("{images} are refused: {why}"),
                fix,
            );
        }
    }

    fn add(
        &mut self,
        severity: Severity,
        code: &'static str,
        what: String,
        fix: impl Into<String>,
    ) {
        self.found.push(Problem::of_file(severity, code, what, fix));
    }
}

fn object(value: &str) -> Option<Vec<Member<'_>>> {
    json::members(value.as_bytes(), MAX_MEMBERS).ok()
}

/// The objects of a list.
fn requirements(value: &str) -> Option<Vec<Vec<Member<'_>>>> {
    let items: Vec<&serde_json::value::RawValue> = serde_json::from_str(value).ok()?;
    items.into_iter().map(|item| object(item.get())).collect()
}
