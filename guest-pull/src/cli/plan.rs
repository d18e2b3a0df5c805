// SPDX-License-Identifier: Apache-2.0

//! `plan`: what a pull would do.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use common::text::{Escaped, RegistryName};
use guest_pull::config::Image;
use guest_pull::failure::Failure;
use guest_pull::plan::Plan;
use serde_json::json;

use crate::cli::{Daemon, Format};

/// Say what a pull of an image would do: where it looks for it, by which login, and through which proxy
///
/// No registry is asked, and nothing that is printed is a secret. The daemon is asked for the credential, and for what the
/// configuration says that it has. Exit status: 0 there is a place to ask, 1 there is none.
///
/// With --format json, one object: "image"; "configuration", where it is from; "places", in the order in which they are
/// asked; "credential", "policy" and "sigstore", where each of these is, or null; "work_dir"; "layers_at_once";
/// "warnings", a list of texts. Each place has "image", its name there; "registry", "repository" and "reference";
/// "mirror" and "plain_http", true or false; "proxy", or null; "user" and "entry", the login's user name and the
/// credential's entry that it is of, or null; "anonymous", why it is asked without a login, or null; "rules", the signatures
/// that the policy wants, a list of texts, or null; "problem", why it is not asked, or null. If there is no place to ask: "image", "error", a text, and "kind".
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub struct Show {
    /// The image, as the pod names it
    #[arg(value_name = "IMAGE")]
    image: String,

    #[command(flatten)]
    daemon: Daemon,

    /// How to print it
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,
}

impl Show {
    /// Prints the plan.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let made = self.make();
        let image = RegistryName(&self.image).plain();
        match (&made, self.format) {
            (Ok((config, plan)), Format::Text) => {
                for line in plan.lines(config) {
                    println!("{line}");
                }
            }
            (Ok((config, plan)), Format::Json) => println!("{}", plan.to_json(config)),
            (Err(failure), Format::Text) => eprintln!("guest-pull: {}: {failure}", Escaped(&image)),
            (Err(failure), Format::Json) => {
                let (text, kind) = (&failure.message, failure.kind.name());
                println!("{}", json!({"image": image, "error": text, "kind": kind}));
            }
        }
        Ok(match made {
            Ok(_) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        })
    }

    fn make(&self) -> Result<(Image, Plan), Failure> {
        let config: Option<PathBuf> = self.daemon.cdh_config.clone();
        let config = Image::of_environment(config.as_deref())?;
        let plan = Plan::make(&config, &self.image, &self.daemon.cdh_sock)?;
        Ok((config, plan))
    }
}
