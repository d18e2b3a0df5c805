// SPDX-License-Identifier: Apache-2.0

//! guest-pull, started by the daemon itself where no service manager started that.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use ttrpc::Code;

use crate::support::daemon::{self, Daemon, Root};
use crate::support::puller::RECORDED_PULL;
use crate::support::wait_for;
use crate::support::wire::Wire;

/// A copy that kata-agent started itself starts the program from beside its own, with the address and the configuration
/// file that it was given. Processes that have ended are not left behind.
#[test]
fn the_program_beside_the_daemon_is_started() {
    let root = Root::new();
    let bin = root.path("bin");
    fs::create_dir(&bin).unwrap();
    let hub = bin.join("confidential-data-hub");
    fs::copy(daemon::program(), &hub).unwrap();
    // It answers nothing, and tells how it was started.
    let arguments = root.path("arguments");
    let script = format!(
        "#!/bin/sh\necho \"$@\" >{0}.new\nmv {0}.new {0}\n",
        arguments.display()
    );
    let program = bin.join("guest-pull");
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
    let config = root.path("cdh.toml");
    let address = root.socket_called("cdh.sock");
    let text = format!(
        "socket = \"unix://{}\"\n[image]\nwork_dir = \"/x\"\n",
        address.display()
    );
    fs::write(&config, text).unwrap();
    fs::create_dir_all(address.parent().unwrap()).unwrap();
    let mut command = Command::new(&hub);
    command.arg("-c").arg(&config);
    let daemon = Daemon::start(command, &address);
    let mut client = Wire::connect(&address);
    let (code, text) = client.ask(RECORDED_PULL).unwrap_err();
    assert_eq!(code, Code::UNAVAILABLE);
    assert!(
        text.contains("guest-pull ended without an answer"),
        "{text}"
    );
    let expected = format!(
        "serve --cdh-sock unix://{} --cdh-config {}\n",
        address.display(),
        config.display()
    );
    assert_eq!(fs::read_to_string(&arguments).unwrap(), expected);
    let children = format!("/proc/{0}/task/{0}/children", daemon.pid());
    wait_for("the end of the process", || {
        let children = fs::read_to_string(&children).unwrap();
        children.is_empty().then_some(())
    });
    assert!(!daemon.log().contains("ignored: [image]"));
}
