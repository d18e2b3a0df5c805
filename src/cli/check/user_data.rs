// SPDX-License-Identifier: Apache-2.0

//! User data: the files that it writes, each as the daemon would read it.

use offline_fs_kbc::resource::parse::parse;
use offline_fs_kbc::resource::problem::Problem;
use offline_fs_kbc::userdata::{self, UserData};

use crate::cli::check::image::Credential;
use crate::cli::check::subject::{Subject, too_large_for_delivery};
use crate::cli::findings;
use crate::config::kind_at;

/// Checks user data; gives the credential that it brings.
pub fn check(subject: &mut Subject<'_>, text: &[u8]) -> Option<Credential> {
    let UserData {
        title,
        files,
        problems,
    } = userdata::read(text);
    subject.title(&title, text.len());
    subject.find_all(problems);
    let mut credential = None;
    for file in files {
        let Some(kind) = kind_at(&file.path) else {
            continue;
        };
        let (path, length) = (file.path.clone(), file.content.len());
        subject
            .report
            .line(format!("  writes {path}, {length} bytes"));
        let about = |problem: Problem| {
            let place = problem.position;
            Problem {
                what: format!("in {path}: {}", problem.what),
                position: place.and_then(|position| file.place_of(position)),
                ..problem
            }
        };
        match parse(file.content.clone(), &kind) {
            Ok(mut entries) => {
                let found = subject.entries(&mut entries, &kind, &about);
                let raw = found.as_ref().map_or(0, Credential::raw_len);
                subject.find_all(too_large_for_delivery(raw));
                credential = found.or(credential);
            }
            Err(problem) => subject.find_all([about(findings::of_whole_file(problem))]),
        }
    }
    credential
}
