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
use serde_json::Value;

use crate::cli::check::asking;
use crate::cli::check::report::Report;

/// Asks guest-pull, if it is installed and a daemon can have its answers: `image` is the name as a pod has it, `hub` the
/// address of cdh.sock, `config` the configuration. Gives what it says, for programs.
pub fn check(
    image: &str,
    hub: &Address,
    config: Option<&Path>,
    report: &mut Report,
) -> Option<Value> {
    if !hub.path().exists() {
        return None;
    }
    let mut args: Vec<OsString> = ["plan", image, "--format", "json", "--cdh-sock"]
        .map(OsString::from)
        .into();
    args.push(hub.to_string().into());
    if let Some(config) = config {
        args.extend(["--cdh-config".into(), config.into()]);
    }
    let input = File::open("/dev/null").ok()?;
    let ended = child::run(&asking::guest_pull(), &args, &input).ok()?;
    let told: Value = serde_json::from_slice(&ended.output).ok()?;
    for line in told["lines"].as_array().into_iter().flatten() {
        report.line(format!("guest-pull: {}", line.as_str().unwrap_or_default()));
    }
    if let Some(error) = told["error"].as_str() {
        let problem = Problem::of_file(
            Severity::Error,
            "pull-refused",
            format!("guest-pull would not pull {}: {error}", Escaped(image)),
            "repair what it names",
        );
        report.find(None, problem);
    }
    Some(told)
}
