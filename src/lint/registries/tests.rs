// SPDX-License-Identifier: Apache-2.0

use super::*;

fn errors(found: &[Problem]) -> Vec<(Severity, Option<&str>)> {
    found
        .iter()
        .map(|problem| (problem.severity, problem.entry.as_deref()))
        .collect()
}

/// Files as people have them; what image-rs 8246e5e0 does of each was read in its source.
#[test]
fn registries_are_judged_as_image_rs_reads_them() {
    use Severity::{Error, Warning};
    for (text, expected) in [
        ("", &[][..]),
        // The example of image-rs's own documentation.
        (
            "unqualified-search-registries = [\"docker.io\", \"example1.com\"]\n[[registry]]\nprefix = \
             \"example.com/banned\"\nblocked = true\n[[registry]]\nprefix = \"example.com/foo\"\ninsecure = \
             false\n[[registry.mirror]]\nlocation = \"m.local/foo\"\n[[registry.mirror]]\nlocation = \
             \"n.local/foo\"\ninsecure = true\n[[registry]]\nlocation = \"localhost:5000\"\ninsecure = true\n",
            &[],
        ),
        (
            "[registries.search]\nregistries = ['docker.io']\n[registries.insecure]\nregistries = []\n",
            &[(Error, Some("registries"))],
        ),
        // What Fedora's file has.
        (
            "unqualified-search-registries = [\"registry.fedoraproject.org\", \"docker.io\"]\nshort-name-mode = \
             \"enforcing\"\n",
            &[(Warning, Some("short-name-mode"))],
        ),
        (
            "unqualified-search-registries = []\n",
            &[(Error, Some("unqualified-search-registries"))],
        ),
        (
            "unqualified-search-registries = [\"quay.io\"]\n",
            &[(Warning, Some("unqualified-search-registries"))],
        ),
        (
            "unqualified-search-registries = \"docker.io\"\n",
            &[(Error, Some("unqualified-search-registries"))],
        ),
        (
            "[registry]\nlocation = \"quay.io\"\n",
            &[(Error, Some("registry"))],
        ),
        (
            "[[registry]]\nblocked = true\n",
            &[(Error, Some("registry 1"))],
        ),
        (
            "[[registry]]\nprefix = \"*.example.com\"\n",
            &[(Error, Some("registry 1"))],
        ),
        (
            "[[registry]]\nprefix = \"*.example.com\"\nlocation = \"m.local\"\n",
            &[],
        ),
        (
            "[[registry]]\nprefix = \"https://quay.io\"\nlocation = \"m.local\"\n",
            &[(Warning, Some("registry 1"))],
        ),
        (
            "[[registry]]\nprefix = \"quay.io\"\nlocation = \"http://m.local\"\n",
            &[(Error, Some("registry 1"))],
        ),
        (
            "[[registry]]\nprefix = \"quay.io\"\n[[registry.mirror]]\ninsecure = true\n",
            &[(Error, Some("registry 1"))],
        ),
        (
            "[[registry]]\nlocation = \"quay.io\"\ninsecure = \"true\"\n",
            &[(Error, Some("registry 1"))],
        ),
        (
            "[[registry]]\nlocation = \"quay.io\"\nskip_verify = true\nmirror-by-digest-only = true\n\
             [[registry.mirror]]\nlocation = \"m\"\npull-from-mirror = \"all\"\n",
            &[
                (Warning, Some("registry 1 mirror-by-digest-only")),
                (Warning, Some("registry 1 skip_verify")),
                (Warning, Some("registry 1 mirror pull-from-mirror")),
            ],
        ),
        ("[[registry]\n", &[(Error, None)]),
        ("hunter2", &[(Error, None)]),
    ] {
        let found = registries(text);
        assert_eq!(errors(&found), expected, "{text}: {found:#?}");
        assert!(!format!("{found:?}").contains("hunter"), "{found:#?}");
    }
}

#[test]
fn a_place_is_the_line_of_the_key() {
    let found = registries("[[registry]]\nlocation = \"quay.io\"\ninsecure = 1\n");
    assert_eq!(found[0].position.map(|at| at.line), Some(3));
    let found = registries("a = 1\nb = = 1\n");
    assert_eq!(found[0].position.map(|at| at.line), Some(2));
}

#[test]
fn a_sigstore_configuration_is_judged_as_image_rs_reads_it() {
    use Severity::{Error, Note, Warning};
    for (text, expected) in [
        (
            "default-docker:\n  sigstore: file:///var/lib/containers/sigstore\n",
            &[][..],
        ),
        (
            "docker:\n  quay.io/org:\n    sigstore: file:///x\n    sigstore-staging: file:///y\n",
            &[],
        ),
        (
            "docker: {quay.io: {lookaside: 'https://x'}}\n",
            &[(Error, Some("quay.io"))],
        ),
        (
            "docker:\n  registry.redhat.io:\n    sigstore: https://x\n",
            &[(Error, Some("registry.redhat.io"))],
        ),
        (
            "docker:\n  q:\n    use-sigstore-attachments: true\n",
            &[(Error, Some("q")), (Note, Some("q"))],
        ),
        (
            "docker:\n  q:\n    sigstore: file:///x\n    sigstor: 1\n",
            &[(Warning, Some("q"))],
        ),
        ("docker:\n", &[(Warning, Some("docker"))]),
        ("docker: []\n", &[(Error, Some("docker"))]),
        (
            "dockers:\n  q: 1\n",
            &[(Warning, Some("dockers")), (Warning, None)],
        ),
        ("", &[(Warning, None)]),
        ("docker:\n\tq: hunter2\n", &[(Error, None)]),
        ("docker: 'hunter2\n", &[(Error, None)]),
    ] {
        let found = sigstore(text);
        assert_eq!(errors(&found), expected, "{text}: {found:#?}");
        assert!(!format!("{found:?}").contains("hunter"), "{found:#?}");
    }
}
