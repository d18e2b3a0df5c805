// SPDX-License-Identifier: Apache-2.0

//! What a pull of an image would do in this VM. guest-pull tells it, which reads its own configuration: so this program and
//! a pull never say different things.

use std::ffi::OsString;
use std::fs::File;
use std::path::Path;

use offline_fs_kbc::child;
use offline_fs_kbc::resource::problem::{Problem, Severity};
use offline_fs_kbc::server::listener::Address;
use offline_fs_kbc::text::Escaped;

use crate::cli::check::asking;
use crate::cli::check::report::Report;

/// Asks guest-pull, if it is installed and a daemon can have its answers: `image` is the name as a pod has it, `hub` the
/// address of cdh.sock, `config` the configuration. Gives the lines that it says.
pub fn check(
    image: &str,
    hub: &Address,
    config: Option<&Path>,
    report: &mut Report,
) -> Option<Vec<String>> {
    if !hub.path().exists() {
        return None;
    }
    let mut args: Vec<OsString> = ["plan", image, "--cdh-sock"].map(OsString::from).into();
    args.push(hub.to_string().into());
    if let Some(config) = config {
        args.extend(["--cdh-config".into(), config.into()]);
    }
    let input = File::open("/dev/null").ok()?;
    let ended = child::run(&asking::guest_pull(), &args, &input).ok()?;
    let output = String::from_utf8_lossy(&ended.output);
    let lines: Vec<_> = output.lines().map(str::to_owned).collect();
    for line in &lines {
        report.line(format!("guest-pull: {line}"));
    }
    if ended.status != Some(0) {
        let said = String::from_utf8_lossy(&ended.error);
        let problem = Problem::of_file(
            Severity::Error,
            "pull-refused",
            format!("nothing would be pulled: {}", Escaped(said.trim_end())),
            "repair what it names",
        );
        report.find(None, problem);
    }
    Some(lines)
}
