// SPDX-License-Identifier: Apache-2.0

//! The login for an image: out of a containers `auth.json`, which the daemon has, or a file.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::auth_json::AuthFile;
use common::auth_json::image::ImageName;
use common::client::{self, Error};
use common::proto::api::{GetResourceRequest, GetResourceResponse};
use common::text::Escaped;
use ttrpc::Code;
use zeroize::Zeroizing;

use crate::failure::{Failure, Kind};
use crate::registry::Login;

/// How long the daemon may take. It answers from memory.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// The largest file with a credential; the daemon's limit on an answer is the same.
const MAX_BYTES: u64 = 4 << 20;

/// Where a credential is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A resource of the daemon: its path, `repository/type/tag`.
    Resource(String),
    /// A file.
    File(PathBuf),
}

impl Source {
    /// Where the daemon has it unless configured otherwise.
    pub fn usual() -> Self {
        Self::Resource("default/credential/test".to_owned())
    }

    /// Reads a URI: `kbs:///repository/type/tag` or `file:///path`.
    pub fn parse(uri: &str) -> Option<Self> {
        if let Some(path) = uri.strip_prefix("kbs:///") {
            let is_path = path.split('/').count() == 3 && !path.split('/').any(str::is_empty);
            return is_path.then(|| Self::Resource(path.to_owned()));
        }
        let path = uri.strip_prefix("file://")?;
        path.starts_with('/').then(|| Self::File(path.into()))
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Resource(path) => write!(f, "kbs:///{}", Escaped(path)),
            Self::File(path) => Escaped(&path.display().to_string()).fmt(f),
        }
    }
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
    let Some(text) = text("the credential", source, daemon)? else {
        return Ok(Found::Anonymous(format!("there is no credential {source}")));
    };
    match login(&text, image) {
        Ok(Some(login)) => Ok(Found::Login(login)),
        Ok(None) => Ok(Found::Anonymous(format!(
            "the credential {source} has no entry for {}",
            image.registry
        ))),
        Err(what) => Err(Failure::new(
            Kind::Configuration,
            format!("the credential {source}: {what}"),
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

/// What is at a place, if it is there; `what` it is, for messages.
///
/// # Errors
///
/// If the daemon can't be asked or refuses, or the file can't be read.
pub fn text(
    what: &str,
    source: &Source,
    daemon: &Path,
) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
    match source {
        Source::Resource(path) => ask(what, path, daemon),
        Source::File(path) => read(what, path),
    }
}

/// The resource of the daemon, if it has it.
fn ask(what: &str, path: &str, daemon: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
    let request = GetResourceRequest {
        ResourcePath: format!("kbs:///{path}"),
        ..Default::default()
    };
    let method = ("api.GetResourceService", "GetResource");
    let answer = client::call::<GetResourceResponse>(daemon, method, &request, ANSWER_TIME);
    let shown = daemon.display();
    let asking = format!("{what} kbs:///{}", Escaped(path));
    match answer {
        Ok(answer) => Ok(Some(Zeroizing::new(answer.Resource))),
        Err(Error::Refused(status)) if status.code() == Code::NOT_FOUND => Ok(None),
        Err(Error::Refused(status)) => {
            let text = format!(
                "{asking}: the daemon refuses it: {:?}: {}",
                status.code(),
                status.message
            );
            Err(Failure::new(Kind::Configuration, text))
        }
        Err(Error::Connect(error)) => {
            let text = format!(
                "{asking}: nobody answers at {shown}: {error}; start offline-fs-kbc, or name its socket (--cdh-sock)"
            );
            Err(Failure::new(Kind::Unreachable, text))
        }
        Err(error) => {
            let text = format!("{asking}: no answer from {shown}: {error}; see the daemon's log");
            Err(Failure::new(Kind::Unreachable, text))
        }
    }
}

/// The file, if it is there.
fn read(what: &str, path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
    let failed = |problem: String| {
        let text = format!("{what} {}: {problem}", path.display());
        Err(Failure::new(Kind::Configuration, text))
    };
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return failed(format!("can't be read: {error}")),
    };
    let length = match file.metadata() {
        Ok(metadata) if metadata.is_file() => metadata.len(),
        _ => return failed("it is not a regular file".to_owned()),
    };
    if length > MAX_BYTES {
        return failed(format!("it has more than {MAX_BYTES} bytes"));
    }
    // Room for all of it, since a vector that grows leaves copies behind.
    let mut text = Zeroizing::new(vec![0; length as usize]);
    match file.read_exact(&mut text) {
        Ok(()) => Ok(Some(text)),
        Err(error) => failed(format!("can't be read: {error}")),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Other URIs are no place of a credential.
    #[test]
    fn sources_are_uris() {
        for uri in ["kbs:///a/b/c", "file:///run/x"] {
            assert!(Source::parse(uri).is_some(), "{uri}");
        }
        for uri in [
            "kbs://host/a/b/c",
            "kbs:///a/b",
            "kbs:///a//c",
            "file://x",
            "/run/x",
            "",
        ] {
            assert!(Source::parse(uri).is_none(), "{uri}");
        }
    }

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
