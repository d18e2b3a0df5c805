// SPDX-License-Identifier: Apache-2.0

//! Files on a build host: each on its own, whatever it is.

use std::path::Path;

use offline_fs_kbc::json;
use offline_fs_kbc::lint;
use offline_fs_kbc::resource::base64;
use offline_fs_kbc::resource::entries::Entries;
use offline_fs_kbc::resource::exposure::Exposure;
use offline_fs_kbc::resource::file::{self, Kind};
use offline_fs_kbc::resource::file::{is_absent, unreadable};
use offline_fs_kbc::resource::merge::of_entries;
use offline_fs_kbc::resource::name::{CREDENTIAL, Name};
use offline_fs_kbc::resource::parse::{MAX_ENTRIES, parse};
use offline_fs_kbc::resource::problem::{Problem, Severity};
use offline_fs_kbc::resource::secret::Secret;
use offline_fs_kbc::resource::snapshot::Snapshot;
use offline_fs_kbc::text::count;
#[cfg(feature = "tools")]
use offline_fs_kbc::userdata::{self, UserData};
use offline_fs_kbc::userdata::{AUTH_JSON_BYTES, FIRST_LINE};
use zeroize::Zeroizing;

use crate::cli::check::FileKind;
use crate::cli::check::image::Credential;
use crate::cli::check::report::Report;
use crate::cli::findings;
use crate::config::kind_of;
#[cfg(feature = "tools")]
use crate::config::{AUTH_FILE, KEYS, RESOURCES};

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
    let kind = kind.unwrap_or_else(|| guess(path, &text));
    let mut subject = Subject {
        path,
        repairs,
        report,
    };
    let credential = match kind {
        FileKind::Resources => subject.object(text, &Kind::Resources),
        FileKind::Keys => subject.object(text, &Kind::Keys),
        FileKind::Auth => subject.auth(text),
        FileKind::Policy => {
            subject.title("an image policy", text.len());
            // The keys that it names may be in any other file.
            subject.find_all(lint::policy::lint(&text, &|_| true));
            None
        }
        FileKind::UserData => subject.user_data(&text),
    };
    // A mode lets others at the secrets here, and goes along into the image; a policy is no secret. Owner and file
    // system are those of a build host.
    if kind != FileKind::Policy {
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

/// What the file is, by what is in it, and where that leaves it open by its name.
fn guess(path: &Path, text: &[u8]) -> FileKind {
    let named_keys = kind_of(path) == Kind::Keys;
    let writes = |line: &[u8]| line.starts_with(b"write_files:");
    #[cfg(feature = "tools")]
    if userdata::is_user_data(text) {
        return FileKind::UserData;
    }
    if text.starts_with(FIRST_LINE.as_bytes()) || text.split(|&byte| byte == b'\n').any(writes) {
        return FileKind::UserData;
    }
    let Ok(members) = json::members(text, MAX_ENTRIES) else {
        return match named_keys {
            true => FileKind::Keys,
            false => FileKind::Resources,
        };
    };
    let value = |name| json::value(&members, name);
    if value("auths").is_some_and(|value| !value.starts_with('"'))
        || members.iter().any(|member| member.name == "credsStore")
    {
        return FileKind::Auth;
    }
    if value("default").is_some_and(|value| value.starts_with('[')) || value("transports").is_some()
    {
        return FileKind::Policy;
    }
    let is_key = |value: &str| {
        let inner = value
            .strip_prefix('"')
            .and_then(|rest| rest.strip_suffix('"'));
        inner.is_some_and(|inner| base64::decode(inner).is_ok_and(|bytes| bytes.len() == 32))
    };
    let all_keys = !members.is_empty() && members.iter().all(|member| is_key(member.value));
    match named_keys || all_keys {
        true => FileKind::Keys,
        false => FileKind::Resources,
    }
}

/// One file, and where its findings go.
struct Subject<'a> {
    path: &'a Path,
    repairs: bool,
    report: &'a mut Report,
}

impl Subject<'_> {
    fn title(&mut self, what: &str, bytes: usize) {
        let path = self.path.display();
        self.report.line(format!("{path}: {what}, {bytes} bytes"));
    }

    fn find_all(&mut self, problems: impl IntoIterator<Item = Problem>) {
        for problem in problems {
            self.report.find(Some(self.path), problem);
        }
    }

    /// A resources or keys file.
    fn object(&mut self, text: Zeroizing<Vec<u8>>, kind: &Kind) -> Option<Credential> {
        let bytes = text.len();
        let mut entries = match parse(text, kind) {
            Ok(entries) => entries,
            Err(problem) => {
                self.report
                    .find(Some(self.path), findings::of_whole_file(problem));
                return None;
            }
        };
        let what = match kind {
            Kind::Keys => count(entries.len(), "key", "keys"),
            _ => count(entries.len(), "entry", "entries"),
        };
        self.title(&what, bytes);
        let problems = std::mem::take(&mut entries.problems);
        let snapshot = self.entries(kind, &entries);
        self.find_all(problems);
        self.content(&snapshot);
        if *kind == Kind::Resources {
            for (file, note) in findings::notes(&snapshot) {
                self.report.find(file.as_deref(), note);
            }
        }
        Credential::of(&snapshot, self.repairs)
    }

    /// Lists the entries.
    fn entries(&mut self, kind: &Kind, entries: &Entries) -> Snapshot {
        let snapshot = of_entries(kind, self.path, entries);
        for (name, resource) in snapshot.resources.iter().chain(&snapshot.keys) {
            self.report.line(findings::line(name, resource));
        }
        snapshot
    }

    fn content(&mut self, snapshot: &Snapshot) {
        let found = lint::snapshot(snapshot, self.repairs);
        self.find_all(found.into_iter().map(|(_, problem)| problem));
    }

    /// A plain `auth.json`.
    fn auth(&mut self, text: Zeroizing<Vec<u8>>) -> Option<Credential> {
        let shown = findings::registries(&text);
        self.title(&shown, text.len());
        self.find_all(lint::credential::lint(&text, self.repairs));
        if text.len() >= AUTH_JSON_BYTES {
            self.find_all([too_large_for_delivery(text.len())]);
        }
        let kind = Kind::Whole(Name::Path(CREDENTIAL.into()));
        let entries = Entries::of_one(Name::Path(CREDENTIAL.into()), Secret::new(text));
        Credential::of(&of_entries(&kind, self.path, &entries), self.repairs)
    }

    /// User data: on an image nothing reads it.
    #[cfg(not(feature = "tools"))]
    fn user_data(&mut self, text: &[u8]) -> Option<Credential> {
        self.title("user data", text.len());
        self.find_all([Problem::of_file(
            Severity::Note,
            "user-data-unread",
            "cloud-config, multipart or another form of user data, which this program reads on a build host alone",
            "check it there with `offline-fs-kbc check FILE`",
        )]);
        None
    }

    /// User data: each file that it writes and that is served.
    #[cfg(feature = "tools")]
    fn user_data(&mut self, text: &[u8]) -> Option<Credential> {
        let UserData {
            title,
            files,
            problems,
        } = userdata::read(text);
        self.title(&title, text.len());
        self.find_all(problems);
        let mut credential = None;
        for file in files {
            let kind = match file.path.as_str() {
                RESOURCES => Kind::Resources,
                KEYS => Kind::Keys,
                AUTH_FILE => Kind::Whole(Name::Path(CREDENTIAL.into())),
                _ => continue,
            };
            let (path, length) = (file.path.clone(), file.content.len());
            self.report.line(format!("  writes {path}, {length} bytes"));
            let about = |problem: Problem| {
                let place = problem
                    .position
                    .and_then(|position| file.place_of(position));
                Problem {
                    what: format!("in {path}: {}", problem.what),
                    position: place,
                    ..problem
                }
            };
            match parse(file.content.clone(), &kind) {
                Ok(mut entries) => {
                    let problems = std::mem::take(&mut entries.problems);
                    self.find_all(problems.into_iter().map(about));
                    let snapshot = self.entries(&kind, &entries);
                    let found = lint::snapshot(&snapshot, self.repairs).into_iter();
                    self.find_all(found.map(|(_, problem)| about(problem)));
                    let found = Credential::of(&snapshot, self.repairs);
                    let large = found
                        .as_ref()
                        .filter(|found| found.raw_len() >= AUTH_JSON_BYTES);
                    self.find_all(large.map(|found| too_large_for_delivery(found.raw_len())));
                    credential = found.or(credential);
                }
                Err(problem) => self.find_all([about(findings::of_whole_file(problem))]),
            }
        }
        credential
    }
}

fn too_large_for_delivery(bytes: usize) -> Problem {
    Problem::of_file(
        Severity::Warning,
        "auth-json-size",
        format!(
            "the auth.json has {bytes} bytes; cloud-api-adaptor of 2023 leaves one of {AUTH_JSON_BYTES} or \
             more out of the user data without a word, and pulls are anonymous"
        ),
        "leave out registries that the pods don't need, or bake the file into the image",
    )
}
