// SPDX-License-Identifier: Apache-2.0

//! What peer pods of today make of user data.

use crate::resource::problem::{Problem, Severity};
use crate::userdata::{SERVED, Written};

/// The directory to which cloud-api-adaptor's process-user-data writes, and to no other.
const DIRECTORY: &str = "/run/peerpod/";

/// Files that are served, but that no peer pod of today gets by user data: cloud-api-adaptor has not put them into it
/// since v0.9.0, and since v0.10.0 its process-user-data skips them.
pub fn not_written(files: &[Written]) -> impl Iterator<Item = Problem> {
    let paths = files.iter().map(|file| file.path.as_str());
    let skipped = paths.filter(|path| SERVED.contains(path) && !path.starts_with(DIRECTORY));
    skipped.map(|path| {
        let problem = Problem::of_file(
            Severity::Note,
            "user-data-peerpod",
            "peer pods of today never get this file by user data: cloud-api-adaptor since v0.9.0 (August 2024) makes their user \
             data itself, without it",
            "for peer pods, name an image pull secret in the pod or bake the file into the image: docs/peer-pods.md",
        );
        problem.about_entry(path, None)
    })
}
