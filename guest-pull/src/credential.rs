// SPDX-License-Identifier: Apache-2.0

//! The login for an image: out of a containers `auth.json`, which the daemon has, or a file.

use std::path::Path;

use common::auth_json::image::ImageName;
use common::auth_json::{AuthEntry, AuthFile, EntryError, MAX_MEMBERS, secret_string};
use common::json;
use common::text::RegistryName;

use zeroize::Zeroizing;

use crate::failure::{Failure, Kind};
use crate::registry::{Login, Secret};
use crate::resource;

pub use crate::resource::Source;

/// How messages name it.
pub const WHAT: &str = "the credential";

/// Where the daemon has it unless configured otherwise.
pub fn usual() -> Source {
    Source::Resource("default/credential/test".to_owned())
}

/// The login for an image, or why the registry is asked without one.
#[derive(Debug)]
pub enum Found {
    /// A login.
    Login(Login),
    /// There is none; the reason names the place.
    Anonymous(String),
}

/// Asks for the credential, the daemon at the socket `daemon` if it has it, and looks for the login for the image in it.
///
/// # Errors
///
/// If the daemon can't be asked or refuses, or what there is for the image can't be used.
pub fn fetch(source: &Source, daemon: &Path, image: &ImageName) -> Result<Found, Failure> {
    let text = resource::fetch(source, daemon, WHAT)?;
    find(source, text.as_ref().map(|text| text.as_slice()), image)
}

/// Looks for the login for the image in the credential's text, if there is one.
///
/// # Errors
///
/// If what there is for the image can't be used.
pub fn find(source: &Source, text: Option<&[u8]>, image: &ImageName) -> Result<Found, Failure> {
    let Some(text) = text else {
        return Ok(Found::Anonymous(format!("there is no credential {source}")));
    };
    match login(text, image) {
        Ok(Some(login)) => Ok(Found::Login(login)),
        Ok(None) => Ok(Found::Anonymous(format!(
            "the credential {source} has no entry for {}",
            image.registry
        ))),
        Err(what) => Err(Failure::new(
            Kind::Configuration,
            format!("{WHAT} {source}: {what}"),
        )),
    }
}

/// Looks for the login for an image in the text of an `auth.json`.
///
/// # Errors
///
/// If the text is something else, or the entry for the image can't be used. The reason holds nothing of the text.
pub fn login(text: &[u8], image: &ImageName) -> Result<Option<Login>, String> {
    let file = AuthFile::parse(text).map_err(|error| format!("not an auth.json: {error}"))?;
    let Some((entry, _)) = file.find(&image.registry, &image.repository) else {
        return Ok(None);
    };
    let key = RegistryName(&entry.key).plain();
    match secret(entry) {
        Ok((user, secret)) => Ok(Some(Login {
            entry: key,
            user,
            secret,
        })),
        Err(error) => Err(format!(
            "the entry {} for {} can't be used: {error}; write it anew with `podman login` or `docker login`",
            key.escape_debug(),
            image.registry
        )),
    }
}

/// The user of an entry, and what proves it: a token before a password, as Docker has it.
fn secret(entry: &AuthEntry<'_>) -> Result<(String, Secret), String> {
    let members = json::members(entry.value.as_bytes(), MAX_MEMBERS).unwrap_or_default();
    let text = |name| {
        let text = secret_string(json::value(&members, name)?);
        text.filter(|text| !text.is_empty())
    };
    // A line break at the end is not the token's.
    let token = |name| Some(Zeroizing::new(text(name)?.trim().to_owned()));
    let name = || text("username").map(|user| user.to_string());
    let user = || match &entry.login {
        Ok(login) => login.user.clone(),
        Err(_) => name().unwrap_or_default(),
    };
    if let Some(token) = token("registrytoken") {
        // No header can have other signs.
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err("\"registrytoken\" has signs that no header can have".to_owned());
        }
        return Ok((user(), Secret::RegistryToken(token)));
    }
    if let Some(token) = token("identitytoken") {
        return Ok((user(), Secret::IdentityToken(token)));
    }
    match &entry.login {
        Ok(login) => Ok((login.user.clone(), Secret::Password(login.password.clone()))),
        // Docker takes the two by themselves as well.
        Err(EntryError::NoAuth) => match (name(), text("password")) {
            (Some(user), Some(password)) => Ok((user, Secret::Password(password))),
            _ => Err(EntryError::NoAuth.to_string()),
        },
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// The entry for the image counts alone, and a broken one is no anonymous pull.
    #[test]
    fn the_entry_of_the_image_counts() {
        let text =
            br#"{"auths":{"a.example":{"auth":"dXNlcjpwYXNz"},"b.example":{"auth":"hunter2!"}}}"#;
        let login = |image: &str| login(text, &ImageName::parse(image).unwrap());
        assert_eq!(login("a.example/x").unwrap().unwrap().user, "user");
        assert!(login("c.example/x").unwrap().is_none());
        let error = login("b.example/x").unwrap_err();
        assert!(
            error.contains("b.example") && !error.contains("hunter"),
            "{error}"
        );
    }

    /// Docker Hub has three names, and a key with a path is for what it names alone. Of a key that comes twice, the last
    /// counts.
    #[test]
    fn keys_are_read_as_other_clients_do() {
        let found = |keys: &[&str], image: &str| {
            let entry = |key: &&str| format!(r#""{key}":{{"auth":"dXNlcjpwYXNz"}}"#);
            let entries: Vec<_> = keys.iter().map(entry).collect();
            let text = format!(r#"{{"auths":{{{}}}}}"#, entries.join(","));
            let found = login(text.as_bytes(), &ImageName::parse(image).unwrap());
            found.unwrap().map(|login| login.entry)
        };
        for key in [
            "docker.io",
            "index.docker.io",
            "registry-1.docker.io",
            "https://index.docker.io/v1/",
            "docker.io/library",
            "docker.io/library/alpine",
        ] {
            assert_eq!(found(&[key], "alpine").as_deref(), Some(key));
        }
        for key in ["index.docker.io/v1/", "docker.io/alpine", "hub.docker.com"] {
            assert_eq!(found(&[key], "alpine"), None, "{key}");
        }
        let keys = ["quay.io", "quay.io/org", "https://quay.io"];
        assert_eq!(
            found(&keys, "quay.io/org/app").as_deref(),
            Some("quay.io/org")
        );
        assert_eq!(found(&keys, "quay.io/other").as_deref(), Some("quay.io"));
        let twice = br#"{"auths":{"q.io":{"auth":"YTpw"},"q.io":{"auth":"Yjpw"}}}"#;
        let login = login(twice, &ImageName::parse("q.io/a").unwrap()).unwrap();
        assert_eq!(login.unwrap().user, "b");
    }
}
