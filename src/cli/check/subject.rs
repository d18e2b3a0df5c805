// SPDX-License-Identifier: Apache-2.0

//! A file that is checked: its entries as the daemon serves them, and what is wrong with it.

use std::path::Path;

use offline_fs_kbc::lint;
use offline_fs_kbc::resource::entries::Entries;
use offline_fs_kbc::resource::file::Kind;
use offline_fs_kbc::resource::form::Form;
use offline_fs_kbc::resource::merge::of_entries;
use offline_fs_kbc::resource::name::{CREDENTIAL, Name};
use offline_fs_kbc::resource::parse::parse;
use offline_fs_kbc::resource::problem::Problem;
use offline_fs_kbc::resource::secret::Secret;
use offline_fs_kbc::text::count;
#[cfg(feature = "tools")]
use offline_fs_kbc::userdata::AUTH_JSON_BYTES;
use zeroize::Zeroizing;

use crate::cli::check::image::Credential;
use crate::cli::check::report::Report;
use crate::cli::findings;

/// The problems whose fix is a command about the file itself.
const ABOUT_THE_FILE: [&str; 5] = [
    "auth-json-as-resources",
    "dockercfg",
    "not-an-auth-json",
    "not-read",
    "wrong-form",
];

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
        for mut problem in problems {
            if ABOUT_THE_FILE.contains(&problem.code) {
                self.name_file(&mut problem.fix);
            }
            self.report.find(Some(self.path), problem);
        }
    }

    /// Puts the file's path into a command about it, if a shell takes the path as it is.
    fn name_file(&self, fix: &mut String) {
        let path = self.path.display().to_string();
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
        if path.chars().all(is_plain) && !path.starts_with('-') {
            *fix = fix.replace(" FILE", &format!(" {path}"));
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
            (Some(credential), _) => {
                let form = Form::of(credential.expose());
                form.map_or("an auth.json", Form::name).to_owned()
            }
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
            self.find_all(too_large_for_delivery(bytes));
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
            Some(credential) => {
                let name = Name::Path(CREDENTIAL.into());
                let mut found = lint::resource(&name, credential.expose(), &|_| None, self.repairs);
                // Where a file's form was reported, once is enough.
                if self.repairs && !problems.is_empty() {
                    found.retain(|problem| problem.code != "dockercfg");
                }
                found
            }
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

/// The problem of a credential that cloud-api-adaptor would not deliver.
#[cfg(feature = "tools")]
pub fn too_large_for_delivery(bytes: usize) -> Option<Problem> {
    use offline_fs_kbc::resource::problem::Severity;
    (bytes >= AUTH_JSON_BYTES).then(|| {
        Problem::of_file(
            Severity::Warning,
            "auth-json-size",
            format!(
                "the auth.json has {bytes} bytes; cloud-api-adaptor of 2023 leaves one of {AUTH_JSON_BYTES} or more out of \
                 the user data (that of today: one of more than {AUTH_JSON_BYTES}), and says so only in its own log; the VM then \
                 gets no credential"
            ),
            "leave out registries that the pods don't need, or bake the file into the image",
        )
    })
}
