// SPDX-License-Identifier: Apache-2.0

//! The log and the status follow the files without a request; what is served does not depend on that.

use std::fs;

use crate::support::daemon::{Daemon, Root, one, started_by};
use crate::support::service_manager::Manager;
use crate::support::wire::{g2, get};

const CREDENTIAL: &str = "/default/credential/test";

/// A mistake is logged when it is made, not when a pull fails.
#[test]
fn the_log_follows_without_a_request() {
    let root = Root::with(&one(
        "Credential",
        r#"{"auths":{"a.example":{"auth":"dTpw"}}}"#,
    ));
    let manager = Manager::new();
    let daemon = Daemon::spawn(manager.manage(root.serve()));
    manager.wait_for("READY=1");
    root.rename_resources("{");
    daemon.wait_for_log("not JSON: the text ends too early");
    manager.wait_for("STATUS=serving 1 resource; credential: 1 registry; 1 problem");
    fs::remove_file(root.resources()).unwrap();
    manager.wait_for("STATUS=serving 0 resources");
    // The directory itself may be removed and created again.
    fs::rename(root.path("etc"), root.path("old")).unwrap();
    fs::create_dir(root.path("etc")).unwrap();
    root.write_resources(&one("a/b/c", "x"));
    manager.wait_for("STATUS=serving 1 resource;");
}

/// Without a watch the log is late, but the answers are not.
#[test]
fn answers_do_not_depend_on_the_watch() {
    let root = Root::with(&one("Credential", "x"));
    let script = "echo 0 > /proc/sys/user/max_inotify_instances && exec \"$@\"";
    let apart = ["--user", "--map-root-user", "sh", "-c", script, "sh"];
    let command = started_by("unshare", &apart, &root.serve());
    let daemon = Daemon::start(command, &root.socket());
    daemon.wait_for_log("can't watch the files");
    assert_eq!(get(&root.socket(), &g2(CREDENTIAL)).unwrap(), b"x");
    root.rename_resources(&one("Credential", "y"));
    assert_eq!(get(&root.socket(), &g2(CREDENTIAL)).unwrap(), b"y");
    fs::rename(root.path("etc"), root.path("old")).unwrap();
    get(&root.socket(), &g2(CREDENTIAL)).unwrap_err();
    fs::rename(root.path("old"), root.path("etc")).unwrap();
    assert_eq!(get(&root.socket(), &g2(CREDENTIAL)).unwrap(), b"y");
}
