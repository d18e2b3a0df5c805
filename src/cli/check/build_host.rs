// SPDX-License-Identifier: Apache-2.0

//! Files that carry others to a VM, and configuration beside the daemon's: read by the build host's binary alone.

use offline_fs_kbc::resource::file::Kind;
use offline_fs_kbc::resource::form::Form;
use offline_fs_kbc::resource::name::{CREDENTIAL, Name};
use offline_fs_kbc::resource::parse::parse;
use offline_fs_kbc::resource::problem::{Problem, Severity};
use offline_fs_kbc::text::Quoted;
use offline_fs_kbc::{initdata, kubernetes, lint, userdata};

use crate::cli::check::image::Credential;
use crate::cli::check::other::not_read;
use crate::cli::check::subject::Subject;
use crate::cli::check::user_data;

/// What a file is in which [`Form::of`] sees nothing: what is packed has to be unpacked first.
pub fn form_of(text: &[u8]) -> Option<Form> {
    if initdata::read(text).is_ok() {
        return Some(Form::Initdata);
    }
    userdata::is_user_data(text).then_some(Form::CloudConfig)
}

/// Checks a file of this form; gives the credential that it brings.
pub fn check(subject: &mut Subject<'_>, text: &[u8], form: Form) -> Option<Credential> {
    match form {
        Form::Kubernetes => return manifest(subject, text),
        // Both may be compressed, and then only the content tells them apart.
        Form::Initdata | Form::Gzip | Form::EncodedGzip => match initdata::read(text) {
            Ok(initdata) => {
                subject.title("initdata", text.len());
                subject.find_all(initdata.lint());
            }
            Err(initdata::Error::NotInitdata | initdata::Error::TooLarge)
                if form.is_user_data() =>
            {
                return user_data::check(subject, text);
            }
            Err(error) => {
                subject.title(form.name(), text.len());
                subject.find_all([unread(form, &error.to_string())]);
            }
        },
        form if form.is_user_data() => return user_data::check(subject, text),
        Form::CdhToml => subject.configuration(text, form, lint::component::cdh),
        Form::AaToml => subject.configuration(text, form, lint::component::aa),
        Form::RegistriesConf => subject.configuration(text, form, lint::registries::registries),
        Form::SigstoreConfig => subject.configuration(text, form, lint::registries::sigstore),
        form => {
            subject.title(form.name(), text.len());
            let fix = match form {
                Form::Ignition => "check the files that it writes on their own",
                form => form.fix(),
            };
            let note = not_read(form, "and its content was not checked", fix);
            subject.find_all([note]);
        }
    }
    None
}

/// That a file is recognised, and can't be read here.
fn unread(form: Form, why: &str) -> Problem {
    let what = format!("it is {}, but can't be read here: {why}", form.name());
    Problem::of_file(Severity::Note, "not-read", what, form.fix())
}

impl Subject<'_> {
    /// A configuration file, which is text.
    fn configuration(&mut self, text: &[u8], form: Form, lint: fn(&str) -> Vec<Problem>) {
        self.title(form.name(), text.len());
        match std::str::from_utf8(text) {
            Ok(text) => self.find_all(lint(text)),
            Err(_) => self.find_all([unread(form, "it is not UTF-8")]),
        }
    }
}

/// Kubernetes objects, and the credentials in the Secrets among them.
fn manifest(subject: &mut Subject<'_>, text: &[u8]) -> Option<Credential> {
    subject.title("a Kubernetes manifest", text.len());
    let manifest = match kubernetes::read(text) {
        Ok(manifest) => manifest,
        Err(error) => {
            subject.find_all([unread(Form::Kubernetes, &error.to_string())]);
            return None;
        }
    };
    let path = subject.path.display().to_string();
    let mut credential = None;
    // What is wrong with the others is among the problems.
    let holding = |secret: &&kubernetes::Secret| !secret.credentials.is_empty();
    for secret in manifest.secrets.iter().filter(holding) {
        subject.find_all([secret.finding(Severity::Warning, &path)]);
        for item in &secret.credentials {
            let about = |problem: Problem| Problem {
                what: format!("in {}: {}", Quoted(&item.key), problem.what),
                position: item.position,
                ..problem
            };
            let kind = match item.form {
                kubernetes::Form::Resources => Kind::Resources,
                _ => Kind::Whole(Name::Path(CREDENTIAL.into())),
            };
            match parse(item.value.clone(), &kind) {
                Ok(mut entries) => {
                    let found = subject.entries(&mut entries, &kind, &about);
                    credential = credential.or(found);
                }
                Err(problem) => subject.find_all([about(problem)]),
            }
        }
    }
    subject.find_all(manifest.problems);
    credential
}
