// SPDX-License-Identifier: Apache-2.0

//! `check` in a running VM: without file arguments it checks everything that the daemon uses.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use serde_json::Value;

use crate::status::Upstream;
use crate::support::daemon::{ANONYMOUS, Root, command, one, output};

/// The findings' codes and severities.
fn findings(root: &Root, args: &[&str]) -> (Vec<(String, String)>, Option<i32>) {
    findings_in(root.dir(), args)
}

/// The same, of any image.
pub fn findings_in(root: &Path, args: &[&str]) -> (Vec<(String, String)>, Option<i32>) {
    let mut check = command();
    check
        .args(["check", "--format", "json", "--root"])
        .arg(root)
        .args(args);
    let (stdout, stderr, code) = output(&mut check);
    let report: Value =
        serde_json::from_str(&stdout).unwrap_or_else(|_| panic!("{stdout}{stderr}"));
    assert_eq!(report["version"], 1);
    let findings = report["findings"].as_array().unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    for finding in findings {
        assert!(!text(&finding["message"]).is_empty() && !text(&finding["fix"]).is_empty());
    }
    let found = findings
        .iter()
        .map(|finding| (text(&finding["code"]), text(&finding["severity"])));
    (found.collect(), code)
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    let pairs = expected
        .iter()
        .map(|(code, severity)| ((*code).to_owned(), (*severity).to_owned()));
    pairs.collect()
}

/// Findings about the VM: who can read the files, which KBC is configured, swap, and no daemon.
#[test]
fn the_vm_is_checked() {
    let root = Root::new();
    assert_eq!(
        findings(&root, &[]),
        (
            pairs(&[("credential-missing", "note"), ("daemon-absent", "note")]),
            Some(0)
        )
    );
    root.write_resources(&one("Credential", ANONYMOUS));
    fs::set_permissions(root.resources(), fs::Permissions::from_mode(0o644)).unwrap();
    fs::create_dir(root.path("proc")).unwrap();
    fs::write(
        root.path("proc/swaps"),
        "Filename Type\n/dev/vdb partition\n",
    )
    .unwrap();
    let expected = pairs(&[
        ("file-mode", "warning"),
        ("swap", "warning"),
        ("daemon-absent", "note"),
    ]);
    assert_eq!(findings(&root, &[]), (expected.clone(), Some(0)));
    assert_eq!(findings(&root, &["--strict"]), (expected, Some(1)));
    fs::write(
        root.path("etc/agent-config.toml"),
        "aa_kbc_params = \"cc_kbc::http://h\"\n",
    )
    .unwrap();
    fs::write(
        root.path("proc/cmdline"),
        "ro agent.aa_kbc_params=eaa_kbc::x\n",
    )
    .unwrap();
    let (found, code) = findings(&root, &[]);
    assert_eq!(
        found.iter().filter(|(code, _)| code == "kbc").count(),
        2,
        "{found:?}"
    );
    assert_eq!(code, Some(1));
    if nix::unistd::geteuid().is_root() {
        fs::set_permissions(root.resources(), fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::chown(root.resources(), Some(65534), Some(65534)).unwrap();
        let (found, _) = findings(&root, &[]);
        assert!(
            found.contains(&("file-owner".to_owned(), "error".to_owned())),
            "{found:?}"
        );
    }
}

/// The running daemon is asked, and its answer is compared with what `check` found.
#[test]
fn the_daemon_is_asked() {
    let root = Root::with(&one("Credential", ANONYMOUS));
    let extra = root.path("extra.json");
    fs::write(&extra, "{}").unwrap();
    fs::set_permissions(&extra, fs::Permissions::from_mode(0o600)).unwrap();
    {
        let _daemon = root.start();
        let (stdout, _, code) = output(command().args(["check", "--root"]).arg(root.dir()));
        assert_eq!(code, Some(0), "{stdout}");
        assert!(
            stdout.contains(", up 0 s, on unix://") || stdout.contains(" s, on unix://"),
            "{stdout}"
        );
        assert!(
            stdout.contains("serving 1 resource; credential: 0 registries"),
            "{stdout}"
        );
        let flag = ["--extra-file", extra.to_str().unwrap()];
        assert_eq!(
            findings(&root, &flag).0,
            pairs(&[("daemon-differs", "warning")])
        );
    }
    // A stock confidential-data-hub on its own socket is correct; another program on this daemon's socket is
    // not.
    {
        let _hub = Upstream::start(&root.socket_called("cdh.sock"));
        let _daemon = root.start();
        assert_eq!(findings(&root, &[]).0, pairs(&[("daemon-other", "note")]));
    }
    fs::remove_file(root.socket_called("cdh.sock")).unwrap();
    // The daemon was killed, and left sockets on which nobody answers.
    assert_eq!(
        findings(&root, &[]).0,
        pairs(&[("daemon-silent", "warning"); 3])
    );
}
