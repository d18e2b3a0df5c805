// SPDX-License-Identifier: Apache-2.0

//! What would make a pull fail, and what a pull of an image would do. guest-pull tells it, which reads its own configuration and mounts by
//! itself: so this program and a pull never say different things. What needs a network or knows file systems stays there.

use std::ffi::OsString;
use std::fs::File;
use std::path::Path;

use offline_fs_kbc::child;
use offline_fs_kbc::resource::problem::{Problem, Severity};
use offline_fs_kbc::server::listener::Address;
use offline_fs_kbc::text::{Escaped, RegistryName};
use serde_json::{Value, json};

use crate::cli::check::asking;
use crate::cli::check::report::Report;

/// What guest-pull is asked.
pub struct Question<'q> {
    /// The root file system, if it is another one.
    pub root: Option<&'q Path>,
    /// The address of cdh.sock.
    pub hub: &'q Address,
    /// guest-pull's configuration.
    pub config: Option<&'q Path>,
    /// Whether registries are asked.
    pub try_it: bool,
}

/// What it says of an image.
#[derive(Default)]
pub struct Told {
    /// What a pull would do, a line each.
    pub plan: Option<Value>,
    /// Whether it would succeed, with the reason.
    pub verdict: Option<Value>,
}

impl Told {
    /// Says that the image would not be pulled, whatever guest-pull says.
    pub fn refuse(&mut self, reason: &str) {
        let verdict = format!("would not pull: {reason}");
        self.verdict = Some(json!({"would_pull": false, "verdict": verdict}));
    }
}

/// The name under which it tells of an image.
fn shown(image: &str) -> String {
    Escaped(&RegistryName(image).plain()).to_string()
}

impl Question<'_> {
    /// Asks it, about the VM and about these images, as a pod names them. Findings go into the report; gives what it tells of each
    /// image.
    pub fn ask(&self, images: &[&str], report: &mut Report) -> Vec<Told> {
        let mut args: Vec<OsString> = ["check", "--format", "json"].map(OsString::from).into();
        if let Some(config) = self.config {
            args.extend(["--cdh-config".into(), config.into()]);
        }
        match self.root {
            Some(root) => args.extend(["--root".into(), root.into()]),
            None => {
                args.extend(["--cdh-sock".into(), self.hub.to_string().into()]);
                if self.try_it {
                    args.push("--try".into());
                }
                args.push("--".into());
                args.extend(images.iter().map(OsString::from));
            }
        }
        let ended = File::open("/dev/null")
            .and_then(|input| child::run(&asking::guest_pull(), &args, &input));
        let mut told: Vec<_> = images.iter().map(|_| Told::default()).collect();
        let said = match ended {
            Ok(ended) => {
                for line in ended.output.split(|byte| *byte == b'\n') {
                    if let Ok(line) = serde_json::from_slice::<Value>(line) {
                        let name = line["image"].as_str();
                        let mut those = images.iter().map(|image| shown(image));
                        let number = name.and_then(|name| those.position(|it| it == name));
                        let of_image = number.and_then(|number| told.get_mut(number));
                        take(line, of_image, report);
                    }
                }
                // An error comes with a finding.
                match ended.status {
                    Some(0) => return told,
                    Some(1) if !ended.output.is_empty() => return told,
                    _ => String::from_utf8_lossy(&ended.error).into_owned(),
                }
            }
            Err(error) => error.to_string(),
        };
        let problem = Problem::of_file(
            Severity::Error,
            "guest-pull-missing",
            format!("guest-pull can't be run here: {}", Escaped(said.trim_end())),
            "install offline-fs-kbc-guest-pull of the same release: it needs glibc 2.34 or later",
        );
        report.find(None, problem);
        told
    }
}

/// Takes a line of it: a finding, a plan or a verdict.
fn take(line: Value, of_image: Option<&mut Told>, report: &mut Report) {
    let text = |name: &str| line[name].as_str().unwrap_or_default();
    let severity = match text("severity") {
        "error" => Severity::Error,
        "warning" => Severity::Warning,
        "note" => Severity::Note,
        _ => {
            let Some(told) = of_image else { return };
            if let Some(plan) = line["plan"].as_array() {
                for line in plan {
                    report.line(format!("guest-pull: {}", line.as_str().unwrap_or_default()));
                }
                told.plan = Some(line["plan"].clone());
            } else {
                told.verdict = Some(line);
            }
            return;
        }
    };
    let image = line["image"].as_str();
    let image = image.map_or_else(String::new, |image| format!("{image}: "));
    // It lives as long as the report, which ends with the process.
    let code: &'static str = text("code").to_owned().leak();
    let what = format!("{image}{}", text("message"));
    report.find(None, Problem::of_file(severity, code, what, text("fix")));
}
