// SPDX-License-Identifier: Apache-2.0

//! Files that the daemon doesn't read itself: what they are, and what can be said of them.

use offline_fs_kbc::lint;
use offline_fs_kbc::resource::form::Form;
use offline_fs_kbc::resource::problem::{Problem, Severity};

use crate::cli::check::image::Credential;
use crate::cli::check::subject::Subject;

/// Checks a file of this form; gives the credential that it brings.
pub fn check(subject: &mut Subject<'_>, text: &[u8], form: Form) -> Option<Credential> {
    let found = match form {
        // The keys that it names may be in any other file.
        Form::Policy => lint::policy::lint(text, &|_| Some(&[])),
        Form::PublicKey => lint::signing::cosign(text),
        Form::GpgKeyring => lint::signing::gpg(text),
        #[cfg(feature = "tools")]
        form => return super::build_host::check(subject, text, form),
        #[cfg(not(feature = "tools"))]
        form => vec![not_read(
            form,
            "and looks into it only on a build host",
            "run `offline-fs-kbc check` of `make build` there",
        )],
    };
    subject.title(form.name(), text.len());
    subject.find_all(found);
    None
}

/// That a file of this form is not read. It may be right where it belongs.
pub fn not_read(form: Form, why: &str, fix: &str) -> Problem {
    let what = format!("the daemon does not read {}, {why}", form.name());
    Problem::of_file(Severity::Note, "not-read", what, fix)
}
