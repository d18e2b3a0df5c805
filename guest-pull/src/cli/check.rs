// SPDX-License-Identifier: Apache-2.0

//! `check`: what would make a pull fail.

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use common::text::{Escaped, RegistryName, count};
use guest_pull::check::{self, Finding, Root, Severity};
use guest_pull::config::Image;
use guest_pull::failure::{Failure, Kind};
use guest_pull::limits;
use guest_pull::plan::Plan;
use guest_pull::serve::verify::{Verified, verify};
use serde_json::{Value, json};

use crate::cli::{Daemon, Format};

/// Say what would make a pull fail: of the kernel, the store, names, clock, configuration and policy
///
/// As root, it mounts and unmounts the image of one file for that. With IMAGE, it says what a pull of it would do, as
/// `plan` does. With --try, it asks the registry for everything but the content of layers, in the same confined process
/// as a pull, and ends with "would pull" or the reason. `offline-fs-kbc check` asks this program, and has its own
/// findings too. Exit status: 0 fine, 1 errors.
///
/// With --format json, an object a line. A finding has "severity" (error, warning or note), "code", "message" and
/// "fix", and "image" if it is about one. Each line of a plan has "image" and "plan", a text. The last line of an image
/// has "image", "would_pull", true or false, and "verdict", a text; of one that would be pulled also "digest",
/// "layers", "stored" and "bytes".
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Check {
    /// Images, as the pod names them
    #[arg(value_name = "IMAGE")]
    image: Vec<String>,

    /// Ask the registries
    #[arg(long = "try", requires = "image", conflicts_with = "root")]
    try_it: bool,

    /// Look at the root file system in DIR: an image that is being built
    #[arg(long, value_name = "DIR", conflicts_with = "image")]
    root: Option<PathBuf>,

    #[command(flatten)]
    daemon: Daemon,

    /// How to print it
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

/// What was found, which is printed at once.
struct Report {
    format: Format,
    /// The first error, which would make any pull fail.
    error: RefCell<Option<String>>,
}

impl Report {
    fn print(&self, value: &Value, text: &str) {
        match self.format {
            Format::Text => println!("{text}"),
            Format::Json => println!("{value}"),
        }
    }

    fn find(&self, image: Option<&str>, finding: &Finding) {
        if finding.severity == Severity::Error {
            let mut error = self.error.borrow_mut();
            error.get_or_insert_with(|| finding.message.clone());
        }
        let mut value = finding.to_json();
        if let (Some(image), Some(object)) = (image, value.as_object_mut()) {
            object.insert("image".to_owned(), json!(image));
        }
        let Finding {
            severity,
            code,
            message,
            fix,
        } = finding;
        let severity = severity.name();
        self.print(
            &value,
            &format!("{severity}: {message} [{code}]\n  fix: {fix}"),
        );
    }
}

impl Check {
    /// Prints what would make a pull fail.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        limits::set();
        let report = Report {
            format: self.format,
            error: RefCell::default(),
        };
        let root = Root {
            other: self.root.as_deref(),
        };
        let config = check::configuration(root, self.daemon.cdh_config.as_deref());
        let daemon = &self.daemon.cdh_sock;
        let is_there = root.other.is_none() && daemon.exists();
        for finding in check::system(root, &config, is_there.then_some(daemon.as_path())) {
            report.find(None, &finding);
        }
        let of_system = report.error.take();
        let mut failed = of_system.is_some();
        for image in &self.image {
            // What is wrong with it is told already.
            if let Ok(config) = &config {
                failed |= !self.image(image, config.clone(), of_system.as_deref(), &report);
            } else if self.try_it {
                verdict(image, Err(of_system.clone().unwrap_or_default()), &report);
            }
        }
        Ok(match failed {
            true => ExitCode::FAILURE,
            false => ExitCode::SUCCESS,
        })
    }

    /// Says what a pull of the image would do; gives whether it would succeed, as far as that is known. `of_system` is
    /// the reason why none does.
    fn image(
        &self,
        image: &str,
        mut config: Image,
        of_system: Option<&str>,
        report: &Report,
    ) -> bool {
        let shown = Escaped(&RegistryName(image).plain()).to_string();
        let find = |finding: &Finding| report.find(Some(&shown), finding);
        let mut plan = match Plan::make(&config, image, &self.daemon.cdh_sock) {
            Ok(plan) => plan,
            Err(failure) => {
                let finding = of_failure(&failure);
                find(&finding);
                if self.try_it {
                    verdict(&shown, Err(finding.message), report);
                }
                return false;
            }
        };
        for line in plan.lines(&config) {
            report.print(&json!({"image": shown, "plan": line}), &line);
        }
        if !self.try_it {
            return true;
        }
        // The program itself, even if its file was replaced.
        let program = Path::new("/proc/self/exe");
        let daemon = &self.daemon.cdh_sock;
        let verified = verify(program, &mut plan, &mut config, daemon, &|finding| {
            find(&finding)
        });
        let verified = verified.map_err(|failure| {
            let finding = of_failure(&failure);
            find(&finding);
            finding.message
        });
        // What the image itself lacks comes first.
        let verified = match (verified, of_system) {
            (Ok(_), Some(reason)) => Err(reason.to_owned()),
            (verified, _) => verified,
        };
        verdict(&shown, verified, report)
    }
}

/// The last line of an image: whether it would be pulled.
fn verdict(image: &str, verified: Result<Verified, String>, report: &Report) -> bool {
    let (text, value) = match &verified {
        Ok(Verified {
            digest,
            layers,
            bytes,
            stored,
        }) => {
            // A name that has a digest has this one, or that of an index that leads to it.
            let name = image.split('@').next().unwrap_or_default();
            let kept = match stored {
                0 => String::new(),
                stored => format!("; stored already: {stored}"),
            };
            let text = format!(
                "would pull: {name}@{digest} ({}, {}{kept})",
                count(*layers, "layer", "layers"),
                size(*bytes)
            );
            let digest = digest.to_string();
            let value =
                json!({"digest": digest, "layers": layers, "bytes": bytes, "stored": stored});
            (text, value)
        }
        Err(reason) => (format!("would not pull: {reason}"), json!({})),
    };
    let mut value = value;
    value["image"] = json!(image);
    value["would_pull"] = json!(verified.is_ok());
    value["verdict"] = json!(text);
    report.print(&value, &text);
    verified.is_ok()
}

/// A size for people.
fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{bytes} bytes"),
        _ => format!("{}.{} MB", bytes / 1_000_000, bytes / 100_000 % 10),
    }
}

/// Why the image would not be pulled. The text names the image's places and what can be done in the configuration.
fn of_failure(failure: &Failure) -> Finding {
    let message = failure.message.clone();
    let (code, fix) = match failure.kind {
        Kind::Refused | Kind::Forbidden => (
            "image-refused",
            "a wrong password, or no right to this image: `skopeo login --authfile auth.json REGISTRY`",
        ),
        Kind::Missing => ("image-missing", "fix the image's name"),
        Kind::Unreachable if message.contains(NOT_YET) => (
            "image-unreachable",
            "set the VM's clock, if it is late; else wait, or have the registry's certificate made anew",
        ),
        Kind::Unreachable | Kind::Busy => (
            "image-unreachable",
            "look at the VM's network, /etc/resolv.conf and clock; and in [image] of cdh.toml at image_pull_proxy and \
             extra_root_certificates",
        ),
        Kind::NoRoom => (
            "store-room",
            "give the VM more memory, or set work_dir in [image] of cdh.toml to a larger disk",
        ),
        Kind::Configuration | Kind::Invalid => ("pull-refused", "repair what it names"),
        _ => (
            "pull-failed",
            "docs/guest-pull.md lists the texts of failed pulls, and what helps",
        ),
    };
    Finding::error(code, message, fix)
}

/// What rustls says of a certificate whose time has not come by this clock.
const NOT_YET: &str = "not valid yet";
