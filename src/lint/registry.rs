// SPDX-License-Identifier: Apache-2.0

//! The keys of an `auth.json`: whether clients find an entry for the images that it is meant for.
//!
//! People write keys in many forms, most of which some other tool reads. One rule judges all of them: what the key is
//! meant for gives names of images, and the clients' own look-up says whether it finds the key for these.

use std::fmt;

use crate::credential::find::{find_key, host_of_key};
use crate::credential::image::ImageName;
use crate::credential::{FIX, is_invisible};
use crate::resource::problem::Severity;
use crate::text::{Quoted, RegistryName, split_login};

/// What stands for any characters, for kubelet for example.
const WILD: [char; 2] = ['*', '?'];

/// Docker Hub as the names of images have it.
const HUB: &str = "docker.io";

/// The hosts that people take for the one of Docker Hub's images.
const HUB_HOSTS: [&str; 13] = [
    HUB,
    "app.docker.com",
    "auth.docker.io",
    "cloud.docker.com",
    "docker.com",
    "hub.docker.com",
    "index.docker.io",
    "login.docker.com",
    "registry-1.docker.io",
    "registry.docker.io",
    "registry.hub.docker.com",
    "www.docker.com",
    "www.docker.io",
];

/// What is said in several places, or looked for.
const CAPITALS: &str = "it has capital letters (clients compare literally)";
const API: &str = "it has a path of the registry's API (such as /v2/)";
const WILDCARD: &str =
    "it has a wildcard (kubelet matches by it, but clients in the VM compare literally)";

/// What is said of a port that other tools leave out, since it is a scheme's own.
const PORT: &str = "clients compare the port too";

/// The longest key that is looked into: a repository's name has at most 255 bytes, and a tag or digest comes to less.
const MAX_KEY_BYTES: usize = 1_000;

/// What clients make of a key, and how to write it; none if they find it for the images that it is meant for,
/// and for no others.
pub fn unmatched(key: &str) -> Option<(Severity, String, String)> {
    if key.len() > MAX_KEY_BYTES {
        let what =
            "it is longer than the name of any image, so it matches none, and pulls are anonymous";
        return Some((Severity::Warning, what.to_owned(), FIX.to_owned()));
    }
    let meant = Meant::of(key);
    let images = meant.images();
    let spelled = Some(meant.spelled()).filter(|spelled| finds(spelled, &images));
    if finds(key, &images) {
        // The same registry's images beside the part that is meant.
        let beside = Meant {
            path: format!("{}x", meant.path),
            ..meant.clone()
        };
        if meant.path.is_empty() || !finds(key, &beside.images()) {
            return None;
        }
        let what = "after http:// or https:// clients read the host alone, so the entry counts for the whole registry";
        let fix = match shown(spelled) {
            Some(part) => {
                let all = Quoted(&meant.host);
                format!("write {part} for that part of the registry, or {all} for all of it")
            }
            None => FIX.to_owned(),
        };
        return Some((Severity::Warning, what.to_owned(), fix));
    }
    // What images would have to be called to be found.
    let literal = host_of_key(key);
    let is_found = finds(
        key,
        &image(&format!("{literal}/x"))
            .into_iter()
            .collect::<Vec<_>>(),
    );
    let meaning = match is_found {
        true => format!(
            "so it matches only images whose names begin with {}; it matches no other image",
            RegistryName(literal)
        ),
        false => "so it matches no image, and pulls are anonymous".to_owned(),
    };
    let (severity, more) = match meant.reasons.0.as_slice() {
        // Images may be written so too.
        [PORT] if is_found => (
            Severity::Note,
            ", unless the images are written with the port",
        ),
        _ => (Severity::Warning, ""),
    };
    let image_of_hub = format!("{HUB}/library/{}", meant.path);
    let fix = match shown(spelled) {
        None => FIX.to_owned(),
        Some(example) if meant.is_example => {
            format!("write an entry for each registry, such as {example}")
        }
        Some(organisation) if meant.is_bare && !meant.path.contains('/') => format!(
            "write {organisation} for the organisation, or {} for the image",
            Quoted(&image_of_hub)
        ),
        Some(spelled) => format!("write {spelled}{more}"),
    };
    let what = format!("{}, {meaning}", meant.reasons);
    Some((severity, what, fix))
}

/// A key as messages show it, if they may.
fn shown(spelled: Option<String>) -> Option<String> {
    let shown = Quoted(spelled.as_ref()?).to_string();
    (shown == RegistryName(spelled.as_ref()?).to_string()).then_some(shown)
}

/// Whether clients find an entry with this key, were it the only one, for all of these images. For none of none.
fn finds(key: &str, images: &[ImageName]) -> bool {
    let found = |image: &ImageName| find_key(&[key], &image.registry, &image.repository).is_some();
    !images.is_empty() && images.iter().all(found)
}

/// The image of this name, if clients take it for one.
fn image(name: &str) -> Option<ImageName> {
    let image = ImageName::parse(name).ok()?;
    let (host, port) = image
        .registry
        .split_once(':')
        .unwrap_or((&image.registry, "0"));
    let is_label = |label: &str| {
        let is_inside = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        label.bytes().all(is_inside)
            && !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let is_host = host.split('.').all(is_label) && is_number(port);
    // The clients' pattern takes what is no host for a first part of the repository, and only then splits it off.
    let is_valid =
        (is_host || is_part(&image.registry)) && image.repository.split('/').all(is_part);
    is_valid.then_some(image)
}

/// Whether this is a part of a repository's name: small letters and digits, with one of `.`, `_`, `__` and `-`, of which
/// there may be more, between them.
fn is_part(part: &str) -> bool {
    let is_inside = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let is_separator =
        |text: &str| matches!(text, "" | "." | "_" | "__") || text.bytes().all(|byte| byte == b'-');
    part.starts_with(is_inside)
        && part.ends_with(is_inside)
        && part.split(is_inside).all(is_separator)
}

/// What a key is meant for, written as the names of images are.
#[derive(Clone)]
struct Meant {
    /// The registry, with its port.
    host: String,
    /// The repository, or a leading part of it; empty where the key is meant for all of the registry.
    path: String,
    /// Whether the registry is one of many that a wildcard stands for.
    is_example: bool,
    /// Whether the key names no registry.
    is_bare: bool,
    reasons: Reasons,
}

/// In what a key differs from the names of images, a clause each.
#[derive(Clone, Default)]
struct Reasons(Vec<&'static str>);

impl Reasons {
    fn add(&mut self, differs: bool, reason: &'static str) {
        if differs && !self.0.contains(&reason) {
            self.0.push(reason);
        }
    }
}

impl fmt::Display for Reasons {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, reason) in self.0.iter().enumerate() {
            f.write_str(match at {
                0 => "",
                _ if at + 1 == self.0.len() => " and ",
                _ => ", ",
            })?;
            f.write_str(reason)?;
        }
        Ok(())
    }
}

impl Meant {
    fn of(key: &str) -> Self {
        let mut reasons = Reasons::default();
        let seen: String = key.chars().filter(|c| !is_invisible(*c)).collect();
        reasons.add(seen != key, "it has white space or invisible characters");
        let text = seen.trim_matches(['"', '\'', '`', '<', '>', ',', ';']);
        reasons.add(text != seen, "it has quotes or punctuation around it");
        let (scheme, rest) = without_scheme(text, &mut reasons);
        let is_web = matches!(scheme, "http://" | "https://");
        // Behind a scheme the path makes no difference.
        let mut of_path = Reasons::default();
        let without_slash = rest.trim_start_matches('/');
        reasons.add(without_slash != rest, "it begins with a slash");
        let (written, path) = without_slash.split_once('/').unwrap_or((without_slash, ""));
        let mut parts: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
        let is_open = without_slash.ends_with('/');
        let without_end = path.trim_end_matches('/');
        of_path.add(
            without_end.starts_with('/') || without_end.contains("//"),
            "it has an empty part",
        );

        let (host, mut port, is_example) = host(written, &mut reasons);
        let is_hub = HUB_HOSTS.contains(&host.as_str()) && port.is_empty();
        let is_name =
            host.contains('.') || host == "localhost" || !port.is_empty() || host.is_empty();
        if !is_name && is_web {
            reasons.add(
                true,
                "clients take a name without a dot or a port for one of Docker Hub's",
            );
            port = if scheme == "http://" { ":80" } else { ":443" };
        }
        let is_bare = !is_name && !is_web;
        if is_bare {
            reasons.add(true, "it names no registry");
            parts.insert(0, &host);
        }
        let path = path_of(parts, &host, is_open || is_web, &mut of_path);
        of_path.add(is_open && !of_path.0.contains(&API), "it ends in a slash");
        if !is_web {
            of_path
                .0
                .into_iter()
                .for_each(|reason| reasons.add(true, reason));
        }
        reasons.add(
            is_hub && host != HUB,
            "clients know Docker Hub as docker.io",
        );
        let mut meant = Self {
            host: match is_hub || is_bare {
                true => HUB.to_owned(),
                false => host + port,
            },
            path,
            is_example,
            is_bare,
            reasons,
        };
        let is_invalid = meant.reasons.0.is_empty() || meant.images().is_empty();
        meant.reasons.add(key.is_empty(), "it is empty");
        meant.reasons.add(
            is_invalid && !key.is_empty(),
            "it is not a valid name of a registry or repository",
        );
        meant
    }

    /// As clients find it.
    fn spelled(&self) -> String {
        match self.path.is_empty() {
            true => self.host.clone(),
            false => format!("{}/{}", self.host, self.path),
        }
    }

    /// Names of images that it is meant for; none if clients take none of them for one.
    fn images(&self) -> Vec<ImageName> {
        let spelled = self.spelled();
        let below = image(&format!("{spelled}/x"));
        // An image of Docker Hub that is named alone is one of `library`.
        let is_image = self.path.contains('/') || self.host != HUB && !self.path.is_empty();
        let itself = image(&spelled).filter(|_| is_image);
        match below {
            Some(below) => itself.into_iter().chain([below]).collect(),
            None => Vec::new(),
        }
    }
}

/// The scheme of a key, if it is one that clients may know, and what is behind scheme and login.
fn without_scheme<'k>(text: &'k str, reasons: &mut Reasons) -> (&'k str, &'k str) {
    let (mut scheme, has_login, mut rest) = split_login(text);
    reasons.add(has_login, "it seems to contain a login");
    if has_login && rest.starts_with("sha") && !rest.contains('.') {
        // The digest of an image without a registry. Its name may be a login, so nothing of it is shown.
        return ("", "");
    }
    for broken in ["https:", "http:"] {
        let (start, after) = rest.split_at_checked(broken.len()).unwrap_or_default();
        // Before a digit the colon is a port's.
        if start.eq_ignore_ascii_case(broken) && !after.starts_with(|c: char| c.is_ascii_digit()) {
            rest = after.trim_start_matches('/');
            scheme = "";
            reasons.add(true, "its scheme is not written as https://");
        }
    }
    let is_web = matches!(scheme, "http://" | "https://");
    if !is_web && !scheme.is_empty() {
        let is_like = matches!(&*scheme.to_ascii_lowercase(), "http://" | "https://");
        reasons.add(is_like, "its scheme is not written as https://");
        reasons.add(!is_like, "its scheme is neither http nor https");
    }
    if is_web {
        rest = rest.split(['?', '#']).next().unwrap_or_default();
    }
    (scheme, rest)
}

/// The registry's host and its port, with a colon, and whether a wildcard stood there.
fn host<'k>(written: &'k str, reasons: &mut Reasons) -> (String, &'k str, bool) {
    let written = written.split('@').next().unwrap_or_default();
    let colon = written.find(':').filter(|_| !written.starts_with('['));
    let (written, mut port) = written.split_at(colon.unwrap_or(written.len()));
    if !port.is_empty() && !is_number(&port[1..]) {
        reasons.add(true, "what follows its colon is no port");
        port = "";
    }
    let without_dot = written.trim_end_matches('.');
    reasons.add(without_dot != written, "its host ends in a dot");
    let mut host = without_dot.to_ascii_lowercase();
    reasons.add(host != without_dot, CAPITALS);
    let is_example = host.contains(WILD);
    if is_example {
        reasons.add(true, WILDCARD);
        host = host.replace(WILD, "x");
        if !host.contains('.') {
            host = "registry.example.com".to_owned();
        }
    }
    let is_name = host.contains('.') || host == "localhost";
    if is_name && matches!(port, ":443" | ":80") {
        reasons.add(true, PORT);
        port = "";
    }
    (host, port, is_example)
}

/// The part of the registry that these parts of a key mean. `is_address` tells whether they look like an address's.
fn path_of(mut parts: Vec<&str>, host: &str, is_address: bool, reasons: &mut Reasons) -> String {
    if let Some(wild) = parts.iter().position(|part| part.contains(WILD)) {
        reasons.add(true, WILDCARD);
        parts.truncate(wild);
    }
    if let Some(last) = parts.last_mut() {
        let name = last.split([':', '@']).next().unwrap_or_default();
        reasons.add(name != *last, "it has a tag or a digest");
        *last = name;
    }
    let written = parts.join("/");
    let path = written.to_ascii_lowercase();
    reasons.add(path != written, CAPITALS);
    let mut parts: Vec<_> = path.split('/').filter(|part| !part.is_empty()).collect();
    let is_version = |part: &str| {
        let number = part.strip_prefix('v').unwrap_or_default();
        number.starts_with(|c: char| c.is_ascii_digit())
    };
    let mut of_api = false;
    loop {
        // How many parts are no part of an image's name, and why.
        let (count, api) = match (host, parts.as_slice()) {
            ("hub.docker.com", ["_", ..]) => {
                parts[0] = "library";
                continue;
            }
            ("hub.docker.com", ["repository", "docker", _, ..]) => (2, false),
            ("hub.docker.com", ["r" | "u", _, ..]) | ("quay.io", ["repository", _, ..]) => {
                (1, false)
            }
            (_, ["v1" | "v2", "auth" | "search" | "token" | "users", ..]) => (parts.len(), true),
            (_, ["v1" | "v2", ..]) => (1, true),
            (_, ["api", next, ..]) if is_version(next) => (parts.len(), true),
            (_, ["api"]) if is_address => (1, true),
            (_, [word, ..]) if word.starts_with('_') => (parts.len(), true),
            _ => break,
        };
        reasons.add(api, API);
        reasons.add(!api, "it is the address of a web page");
        of_api |= api;
        parts.drain(..count);
    }
    let end = |part: &&str| of_api && ["blobs", "manifests", "tags"].contains(part);
    if let Some(end) = parts.iter().position(end).filter(|end| *end > 0) {
        parts.truncate(end);
    }
    parts.join("/")
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests;
