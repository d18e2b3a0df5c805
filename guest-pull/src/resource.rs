// SPDX-License-Identifier: Apache-2.0

//! What a configuration names by a URI: resources of the daemon, and files.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::client::{self, Error};
use common::proto::api::{GetResourceRequest, GetResourceResponse};
use common::text::Escaped;
use ttrpc::Code;
use zeroize::Zeroizing;

use crate::failure::{Failure, Kind};

/// How long the daemon may take. It answers from memory.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// The largest file that is read; the daemon's limit on an answer is the same.
const MAX_BYTES: u64 = 4 << 20;

/// Where a resource is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// A resource of the daemon: its path, `repository/type/tag`.
    Resource(String),
    /// A file.
    File(PathBuf),
}

impl Source {
    /// How a URI is written, for messages.
    pub const FORM: &str = "kbs:///REPOSITORY/TYPE/TAG or file:///PATH";

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

/// A text that the configuration has, or names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Text {
    /// The text itself.
    Inline(String),
    /// Where it is.
    At(Source),
}

impl fmt::Display for Text {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Inline(_) => f.write_str("in the configuration"),
            Self::At(source) => source.fmt(f),
        }
    }
}

impl Text {
    /// Gets the text, which there must be; `what` names it in messages.
    ///
    /// # Errors
    ///
    /// If it can't be had, or there is none where it should be.
    pub fn fetch(&self, daemon: &Path, what: &str) -> Result<Zeroizing<Vec<u8>>, Failure> {
        match self {
            Self::Inline(text) => Ok(Zeroizing::new(text.as_bytes().to_vec())),
            Self::At(source) => fetch_required(source, daemon, what),
        }
    }
}

/// Gets a resource, from the daemon at the socket `daemon` if it has it; none if there is none. `what` names it in
/// messages: `the credential`.
///
/// # Errors
///
/// If the daemon can't be asked or refuses, or the file can't be read.
pub fn fetch(
    source: &Source,
    daemon: &Path,
    what: &str,
) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
    match source {
        Source::Resource(path) => ask(path, daemon, what),
        Source::File(path) => read(path, what),
    }
}

/// Gets a resource that there must be, since it can forbid things: a policy.
///
/// # Errors
///
/// As [`fetch`], and if there is none.
pub fn fetch_required(
    source: &Source,
    daemon: &Path,
    what: &str,
) -> Result<Zeroizing<Vec<u8>>, Failure> {
    fetch(source, daemon, what)?.ok_or_else(|| {
        let text = format!(
            "{what} {source}: there is none; it may forbid the image, so nothing is pulled without it"
        );
        Failure::new(Kind::Configuration, text)
    })
}

/// The resource of the daemon, if it has it.
fn ask(path: &str, daemon: &Path, what: &str) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
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
fn read(path: &Path, what: &str) -> Result<Option<Zeroizing<Vec<u8>>>, Failure> {
    let failed = |reason: String| {
        let text = format!("{what} {}: {reason}", path.display());
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
    use super::*;

    /// Other URIs are no place of a resource.
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
}
