// SPDX-License-Identifier: Apache-2.0

//! Files on a build host: each on its own, whatever it is.

use std::path::Path;

use offline_fs_kbc::json;
use offline_fs_kbc::resource::base64;
use offline_fs_kbc::resource::exposure::Exposure;
use offline_fs_kbc::resource::file::{self, Kind, is_absent, unreadable};
use offline_fs_kbc::resource::form::Form;
use offline_fs_kbc::resource::name::{CREDENTIAL, Name};
use offline_fs_kbc::resource::parse::MAX_ENTRIES;
use offline_fs_kbc::resource::problem::{Problem, Severity};

use crate::cli::check::image::Credential;
use crate::cli::check::report::Report;
use crate::cli::check::subject::Subject;
use crate::cli::check::{FileKind, other};
use crate::config::{kind_by_name, kind_of_entries};

/// What a file is, as far as the daemon is concerned.
pub enum What {
    /// One that it serves from.
    Served(Kind),
    /// Another.
    Other(Form),
}

/// Checks one file, for a daemon that repairs its credential or not; gives the credential that is in it.
pub fn check(
    path: &Path,
    kind: Option<FileKind>,
    repairs: bool,
    report: &mut Report,
) -> Option<Credential> {
    let (text, exposures) = match file::read(path) {
        Ok(content) => (content.text, content.exposures),
        Err(error) => {
            report.find(Some(path), cannot_read(&error, path));
            return None;
        }
    };
    let what = kind.map_or_else(|| decide(path, &text), FileKind::what);
    let mut subject = Subject {
        path,
        repairs,
        report,
    };
    let is_secret = match &what {
        What::Served(_) => true,
        What::Other(form) => form.is_secret(),
    };
    let credential = match what {
        What::Served(kind) => subject.served(text, &kind),
        What::Other(form) => other::check(&mut subject, &text, form),
    };
    // A mode lets others at the secrets here, and goes along into the image. Owner and file system are those of a
    // build host.
    if is_secret {
        let modes = exposures
            .iter()
            .filter(|exposure| matches!(exposure, Exposure::Mode(_)));
        subject.find_all(modes.map(|exposure| exposure.problem(path)));
    }
    credential
}

fn cannot_read(error: &std::io::Error, path: &Path) -> Problem {
    match is_absent(error) {
        true => Problem::of_file(
            Severity::Error,
            "missing",
            "there is no such file",
            "name a file that exists",
        ),
        false => unreadable(error, path),
    }
}

/// What the file is: by its name, where the daemon would find it under that name, else by its content.
fn decide(path: &Path, text: &[u8]) -> What {
    if let Some(kind) = kind_by_name(path) {
        return What::Served(kind);
    }
    let form = Form::of(text);
    #[cfg(feature = "tools")]
    let form = form.or_else(|| super::build_host::form_of(text));
    // Peer pods without initdata have an empty aa.toml.
    let form = form.or(path.ends_with("aa.toml").then_some(Form::AaToml));
    match form {
        Some(Form::AuthJson | Form::DockerCfg | Form::EncodedAuthJson) => {
            What::Served(Kind::Whole(Name::Path(CREDENTIAL.into())))
        }
        None | Some(Form::Resources) if are_keys(text) => What::Served(Kind::Keys),
        None | Some(Form::Resources) => What::Served(kind_of_entries(path)),
        Some(form) => What::Other(form),
    }
}

/// Whether the text has entries, and each is as long as a key.
fn are_keys(text: &[u8]) -> bool {
    let members = json::members(text, MAX_ENTRIES).unwrap_or_default();
    let is_key = |value: &str| {
        let inner = value
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'));
        inner.is_some_and(|inner| base64::decode(inner).is_ok_and(|bytes| bytes.len() == 32))
    };
    !members.is_empty() && members.iter().all(|member| is_key(member.value))
}
