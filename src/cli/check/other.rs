// SPDX-License-Identifier: Apache-2.0

//! Files that the daemon doesn't read itself: what they are, and what can be said of them.

use offline_fs_kbc::lint;
use offline_fs_kbc::resource::form::Form;
use offline_fs_kbc::resource::problem::{Problem, Severity};

use crate::cli::check::files::Subject;
use crate::cli::check::image::Credential;

/// Checks a file of this form; gives the credential that it brings.
pub fn check(subject: &mut Subject<'_>, text: &[u8], form: Form) -> Option<Credential> {
    match form {
        Form::Policy => {
            subject.title("an image policy", text.len());
            // The keys that it names may be in any other file.
            subject.find_all(lint::policy::lint(text, &|_| Some(&[])));
        }
        Form::PublicKey => {
            subject.title(form.name(), text.len());
            subject.find_all(lint::signing::cosign(text));
        }
        Form::GpgKeyring => {
            subject.title(form.name(), text.len());
            subject.find_all(lint::signing::gpg(text));
        }
        #[cfg(feature = "tools")]
        form if form.is_user_data() => return super::user_data::check(subject, text),
        form => {
            subject.title(form.name(), text.len());
            subject.find_all([not_read(form)]);
        }
    }
    None
}

/// That nothing more can be said of a file of this form.
fn not_read(form: Form) -> Problem {
    let name = form.name();
    let (what, fix) = match cfg!(feature = "tools") {
        true => (
            format!("the daemon does not read {name}, and its content was not checked"),
            form.fix(),
        ),
        false => (
            format!(
                "the daemon does not read {name}; on a build host `offline-fs-kbc check` looks into it"
            ),
            form.fix(),
        ),
    };
    Problem::of_file(Severity::Note, "not-read", what, fix)
}
