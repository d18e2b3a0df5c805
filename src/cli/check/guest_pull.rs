// SPDX-License-Identifier: Apache-2.0

//! What would make a pull fail, and what a pull of an image would do. guest-pull tells it, which reads its own
//! configuration and mounts by itself: so this program and a pull never say different things. What needs a network or
//! knows file systems stays there.

use std::env;
use std::ffi::OsString;
use std::fs::File;
use std::path::{Path, PathBuf};

use offline_fs_kbc::child;
use offline_fs_kbc::json::{self, Member};
use offline_fs_kbc::resource::problem::{Problem, Severity};
use offline_fs_kbc::server::listener::Address;
use offline_fs_kbc::text::{Escaped, RegistryName};
use serde_json::Value;

use crate::cli::check::report::Report;

/// The most members of a line: a verdict has seven.
const MAX_MEMBERS: usize = 20;

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
    pub plan: Vec<String>,
    /// Whether it would succeed, if that was tried.
    pub verdict: Option<Verdict>,
}

/// Whether an image would be pulled.
pub struct Verdict {
    /// It, in a line, with the reason.
    pub text: String,
    /// Members for programs.
    pub members: Vec<(&'static str, Value)>,
}

impl Told {
    /// Says that the image would not be pulled, whatever guest-pull says.
    pub fn refuse(&mut self, reason: &str) {
        self.verdict = Some(Verdict {
            text: format!("would not pull: {reason}"),
            members: vec![("would_pull", false.into())],
        });
    }
}

/// The program guest-pull: beside this one, as an image has it, or in PATH.
pub fn program() -> OsString {
    let beside = env::current_exe().map(|path| path.with_file_name("guest-pull"));
    let beside = beside.ok().filter(|path| path.exists());
    beside.map_or_else(|| "guest-pull".into(), PathBuf::into_os_string)
}

/// The name under which it tells of an image.
fn shown(image: &str) -> String {
    Escaped(&RegistryName(image).plain()).to_string()
}

impl Question<'_> {
    /// Asks it, about the VM and about these images, as a pod names them. Findings go into the report; gives what it
    /// tells of each image.
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
        let ended = File::open("/dev/null").and_then(|input| child::run(&program(), &args, &input));
        let mut told: Vec<_> = images.iter().map(|_| Told::default()).collect();
        let said = match ended {
            Ok(ended) => {
                for line in ended.output.split(|byte| *byte == b'\n') {
                    let Ok(line) = json::members(line, MAX_MEMBERS) else {
                        continue;
                    };
                    let name = json::string(&line, "image");
                    let mut those = images.iter().map(|image| shown(image));
                    let number = those.position(|it| Some(it) == name);
                    let of_image = number.and_then(|number| told.get_mut(number));
                    take(&line, of_image, report);
                }
                // An error comes with a finding.
                match ended.status {
                    Some(0) => return told,
                    Some(1) if !ended.output.is_empty() => return told,
                    _ => String::from_utf8_lossy(&ended.error).into_owned(),
                }
            }
            // The one of the image is for the image.
            Err(_) if self.root.is_some() => return told,
            Err(error) => error.to_string(),
        };
        let what = format!("guest-pull can't be run here: {}", Escaped(said.trim_end()));
        if self.try_it {
            for told in &mut told {
                told.refuse(&what);
            }
        }
        let fix =
            "install offline-fs-kbc-guest-pull of the same release: it needs glibc 2.34 or later";
        let problem = Problem::of_file(Severity::Error, "guest-pull-missing", what, fix);
        report.find(None, problem);
        told
    }
}

/// Takes a line of it: a finding, a line of a plan, or a verdict.
fn take(line: &[Member<'_>], of_image: Option<&mut Told>, report: &mut Report) {
    let text = |name| json::string(line, name).unwrap_or_default();
    let severity = match text("severity").as_str() {
        "error" => Severity::Error,
        "warning" => Severity::Warning,
        "note" => Severity::Note,
        _ => {
            let Some(told) = of_image else { return };
            if let Some(step) = json::string(line, "plan") {
                report.line(format!("guest-pull: {step}"));
                told.plan.push(step);
                return;
            }
            let number = |name| json::value(line, name)?.parse::<u64>().ok();
            let would = json::value(line, "would_pull") == Some("true");
            let mut members = vec![("would_pull", would.into())];
            let numbers = ["layers", "stored", "bytes"];
            members.extend(
                numbers
                    .into_iter()
                    .filter_map(|name| Some((name, number(name)?.into()))),
            );
            let digest = json::string(line, "digest");
            members.extend(digest.map(|digest| ("digest", digest.into())));
            told.verdict = Some(Verdict {
                text: text("verdict"),
                members,
            });
            return;
        }
    };
    let image = json::string(line, "image");
    let image = image.map_or_else(String::new, |image| format!("{image}: "));
    // It lives as long as the report, which ends with the process.
    let code: &'static str = text("code").leak();
    let what = format!("{image}{}", text("message"));
    report.find(None, Problem::of_file(severity, code, what, text("fix")));
}
