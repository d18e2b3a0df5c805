// SPDX-License-Identifier: Apache-2.0

//! The login for an image: out of a containers `auth.json`, which the daemon has, or a file.

use std::path::Path;

use common::auth_json::AuthFile;
use common::auth_json::image::ImageName;

use crate::failure::{Failure, Kind};
use crate::registry::Login;
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
    match &entry.login {
        Ok(login) => Ok(Some(Login {
            user: login.user.clone(),
            password: login.password.clone(),
        })),
        Err(error) => Err(format!(
            "the entry for {} can't be used: {error}; write it anew with `podman login` or `docker login`",
            image.registry
        )),
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
}
