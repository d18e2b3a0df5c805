// SPDX-License-Identifier: Apache-2.0

//! What peer pods of today make of user data.

use crate::resource::problem::{Problem, Severity};
use crate::userdata::{SERVED, Written};

/// The directory to which cloud-api-adaptor's process-user-data writes, and to no other.
const DIRECTORY: &str = "/run/peerpod/";

/// Files that are served, but that no peer pod of today gets by user data: cloud-api-adaptor has not put them into it
/// since v0.8.0, and since v0.10.0 (October 2024) its process-user-data skips them.
pub fn not_written(files: &[Written]) -> impl Iterator<Item = Problem> {
    let paths = files.iter().map(|file| file.path.as_str());
    let skipped = paths.filter(|path| SERVED.contains(path) && !path.starts_with(DIRECTORY));
    skipped.map(|path| {
        let problem = Problem::of_file(
            Severity::Note,
            "user-data-peerpod",
            "peer pods of today never get this file by user data: cloud-api-adaptor makes theirs, and since v0.8.0 (November \
             2023) without it",
            "for peer pods, name an image pull secret in the pod or bake the file into the image: docs/peer-pods.md",
        );
        problem.about_entry(path, None)
    })
}

#[cfg(test)]
mod tests {
    use crate::userdata::read;

    /// Somebody who gives a peer pod of today its credential as in 2023 learns why it does not arrive, once for each file.
    #[test]
    fn files_that_peer_pods_never_get_are_noted() {
        for (path, notes) in [
            ("/etc/aa-offline_fs_kbc-resources.json", 1),
            ("/etc/aa-offline_fs_kbc-keys.json", 1),
            ("/run/peerpod/auth.json", 0),
            ("/etc/motd", 0),
        ] {
            let text = format!("#cloud-config\nwrite_files:\n- path: {path}\n  content: x\n");
            let problems = read(text.as_bytes()).problems;
            let found = problems
                .iter()
                .filter(|problem| problem.code == "user-data-peerpod");
            assert_eq!(found.count(), notes, "{path}");
        }
    }
}
