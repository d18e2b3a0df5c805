// SPDX-License-Identifier: Apache-2.0

//! Files on a build host: each on its own, whatever it is.

use std::path::Path;

use offline_fs_kbc::json;
use offline_fs_kbc::lint;
use offline_fs_kbc::resource::base64;
use offline_fs_kbc::resource::entries::Entries;
use offline_fs_kbc::resource::exposure::Exposure;
use offline_fs_kbc::resource::file::{self, Kind, is_absent, unreadable};
use offline_fs_kbc::resource::form::Form;
use offline_fs_kbc::resource::merge::of_entries;
use offline_fs_kbc::resource::name::{CREDENTIAL, Name};
use offline_fs_kbc::resource::parse::{MAX_ENTRIES, parse};
use offline_fs_kbc::resource::problem::{Problem, Severity};
use offline_fs_kbc::resource::secret::Secret;
use offline_fs_kbc::text::count;
use zeroize::Zeroizing;

use crate::cli::check::image::Credential;
use crate::cli::check::report::Report;
use crate::cli::check::{FileKind, other};
use crate::cli::findings;
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

/// One file, and where its findings go.
pub struct Subject<'a> {
    /// The file's path.
    pub path: &'a Path,
    /// Whether the daemon repairs a credential.
    pub repairs: bool,
    /// Where the findings go.
    pub report: &'a mut Report,
}

impl Subject<'_> {
    /// Says what the file is.
    pub fn title(&mut self, what: &str, bytes: usize) {
        let path = self.path.display();
        self.report.line(format!("{path}: {what}, {bytes} bytes"));
    }

    /// Reports problems of the file.
    pub fn find_all(&mut self, problems: impl IntoIterator<Item = Problem>) {
        for problem in problems {
            self.report.find(Some(self.path), problem);
        }
    }

    /// A file as the daemon reads it from this path; gives the credential that is in it.
    pub fn served(&mut self, text: Zeroizing<Vec<u8>>, kind: &Kind) -> Option<Credential> {
        let bytes = text.len();
        let mut entries = match parse(text, kind) {
            Ok(entries) => entries,
            Err(problem) => {
                self.find_all([findings::of_whole_file(problem)]);
                return None;
            }
        };
        let credential = self.whole(&entries);
        let what = match (credential, kind) {
            (Some(_), _) => "an auth.json".to_owned(),
            (None, Kind::Keys) => count(entries.len(), "key", "keys"),
            (None, _) => count(entries.len(), "entry", "entries"),
        };
        self.title(&what, bytes);
        let credential = self.entries(&mut entries, kind, &|problem| problem);
        if *kind == Kind::Resources {
            for (file, note) in findings::notes(&of_entries(kind, self.path, &entries)) {
                self.report.find(file.as_deref(), note);
            }
        }
        #[cfg(feature = "tools")]
        if let Kind::Whole(_) = kind {
            self.find_all(super::user_data::too_large_for_delivery(bytes));
        }
        credential
    }

    /// The credential that the whole file is.
    fn whole<'e>(&self, entries: &'e Entries) -> Option<&'e Secret> {
        let credential = entries.get(&Name::Path(CREDENTIAL.into()));
        let credential = credential.filter(|_| entries.is_whole());
        credential.and_then(|entry| entry.value.as_ref().ok())
    }

    /// The entries of a file, whose problems `about` makes ones of the file that is checked; gives the credential.
    pub fn entries(
        &mut self,
        entries: &mut Entries,
        kind: &Kind,
        about: &dyn Fn(Problem) -> Problem,
    ) -> Option<Credential> {
        let problems = std::mem::take(&mut entries.problems);
        let snapshot = of_entries(kind, self.path, entries);
        let (credential, served) = Credential::of(&snapshot, self.repairs);
        for (name, resource) in served.resources.iter().chain(&served.keys) {
            self.report.line(findings::line(name, resource));
        }
        let found: Vec<Problem> = match self.whole(entries) {
            // Findings about a part of it have their place in the file.
            Some(credential) => lint::credential::lint(credential.expose(), self.repairs),
            None => {
                let found = lint::snapshot(&snapshot, self.repairs).into_iter();
                found.map(|(_, problem)| problem).collect()
            }
        };
        self.find_all(problems.into_iter().chain(found).map(about));
        self.report.serve(&served);
        credential
    }
}
