// SPDX-License-Identifier: Apache-2.0

//! The daemon's messages in docs/troubleshooting.md are those that it prints. (Those of `check` are compared
//! with the golden outputs.)

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};

use serde_json::json;

use crate::support::daemon::{ANONYMOUS, Daemon, Root, command, one, output, run, started_by};
use crate::support::wire::{g2, get};

/// Removes what differs from run to run: numbers, the root's path, the peer's program.
fn normalized(text: &str, root: &Root) -> String {
    let text = text.replace(&root.dir().display().to_string(), "");
    let mut out = String::new();
    let mut digits = false;
    for c in text.chars() {
        if c.is_ascii_digit() {
            if !digits {
                out.push('0');
            }
        } else {
            out.push(c);
        }
        digits = c.is_ascii_digit();
    }
    // The name of a process is in parentheses after its id.
    let parts: Vec<_> = out.split("pid 0 (\"").collect();
    let mut leveled = parts[0].to_owned();
    for part in &parts[1..] {
        let rest = part.split_once("\")").map_or("", |(_, rest)| rest);
        leveled.push_str("pid 0 (\"\")");
        leveled.push_str(rest);
    }
    leveled
}

#[test]
fn what_the_daemon_says_is_what_the_docs_show() {
    let root = Root::with(&one(
        "Credential",
        r#"{"auths":{"https://index.docker.io/v1/":{}}}"#,
    ));
    fs::write(
        root.path("etc/agent-config.toml"),
        "aa_kbc_params = \"cc_kbc::null\"\n",
    )
    .unwrap();
    root.write_keys(&one("default/key/1", [1; 32]));
    let mut said = String::new();
    let dir = root.dir().display().to_string();
    said.push_str(&run(&["status", "--root", &dir]).1);
    let hub = root.socket_called("cdh.sock");
    let mut serve = root.serve_as_installed();
    serve.arg("--cdh-sock").arg(&hub);
    let daemon = Daemon::start(serve, &hub);
    let ask = || drop(get(&root.socket(), &g2("default/credential/test")));
    ask();
    drop(crate::hub::get(&root, "kbs:///default/credential/test"));
    root.rename_resources(&one("Credential", ANONYMOUS));
    ask();
    root.write_resources("{\"Cred");
    ask();
    let packet =
        json!({"kid": "default/key/2", "wrapped_data": "", "iv": "", "wrap_type": "A256GCM"});
    said.push_str(&crate::keys::unwrap(&root, &packet).unwrap_err().1);
    if nix::unistd::geteuid().is_root() {
        let socket = root.socket();
        for above in socket
            .ancestors()
            .skip(1)
            .take_while(|path| path.starts_with(root.dir()))
        {
            fs::set_permissions(above, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
        let mut get = command();
        get.args(["get", "Credential", "--socket"]).arg(&socket);
        let stranger = ["--reuid=65534", "--clear-groups"];
        output(&mut started_by("setpriv", &stranger, &get));
        daemon.wait_for_log(": its user is neither root nor the daemon's own");
        fs::write(root.resources(), one("Credential", ANONYMOUS)).unwrap();
        chown(root.resources(), Some(65534), Some(65534)).unwrap();
        ask();
    }
    said.push_str(&daemon.log());
    drop(daemon);
    chown(
        root.resources(),
        Some(nix::unistd::geteuid().as_raw()),
        None,
    )
    .unwrap();
    root.write_resources(&one(
        "Credential",
        r#"{"auths":{"quay.io":{"auth":"dTpwYXNzd28="},"ghcr.io":{}}}"#,
    ));
    let daemon = root.start_as_installed();
    ask();
    said.push_str(&run(&["status", "--root", &dir]).0);
    said.push_str(&daemon.log());
    drop(daemon);
    fs::remove_file(root.socket()).unwrap();
    let _upstream = crate::status::Upstream::start(&root.socket());
    let socket = root.socket().display().to_string();
    said.push_str(&run(&["status", "--socket", &socket]).1);

    let said = normalized(&said, &root);
    let docs = include_str!("../../docs/troubleshooting.md");
    let mut shown = 0;
    for block in docs.split("```text\n").skip(1) {
        for line in block.split("```").next().unwrap().lines() {
            let line = normalized(line, &root);
            if line.contains("65534") && !nix::unistd::geteuid().is_root() {
                assert!(std::env::var_os("CI").is_none(), "this test needs root");
                continue;
            }
            assert!(said.contains(&line), "{line}\nis not in\n{said}");
            shown += 1;
        }
    }
    assert!(shown > 10);
}
