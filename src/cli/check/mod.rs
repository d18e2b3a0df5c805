// SPDX-License-Identifier: Apache-2.0

//! `check`: every problem at once, before a pod finds it.

#[cfg(feature = "tools")]
mod answer;
#[cfg(feature = "tools")]
mod asking;
#[cfg(feature = "tools")]
mod build_host;
mod files;
mod guest_pull;
mod image;
mod other;
mod puller;
pub mod report;
#[cfg(feature = "tools")]
mod skopeo;
mod subject;
mod units;
#[cfg(feature = "tools")]
mod user_data;
mod vm;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use offline_fs_kbc::credential::image::{ImageName, NotAnImage};
use offline_fs_kbc::resource::file::Kind;
use offline_fs_kbc::resource::form::Form;
use offline_fs_kbc::resource::name::{CREDENTIAL, Name};
use offline_fs_kbc::resource::problem::{Problem, Severity};

use crate::cli::check::files::What;
use crate::cli::check::guest_pull::{Question, Told};
use crate::cli::check::report::{Format, Report};
use crate::cli::serve::Switch;
use crate::config::{Choice, Files, Role, Root, Sockets};

/// What `--help` and the manual show at the end.
const EXAMPLE: &str = "Example:
  offline-fs-kbc check aa-offline_fs_kbc-resources.json
  offline-fs-kbc check --image quay.io/org/app:1 --try auth.json
  offline-fs-kbc check --root /path/to/rootfs
  offline-fs-kbc check --image quay.io/org/app:1 --try";

/// Find every problem with the files, and what each means for a pull
///
/// With FILE: files on a build host, each on its own. Without: the files that the daemon in this VM would
/// load, the daemon itself, and what would keep guest-pull from pulling. Prints names and sizes, never values.
/// Exit status: 0 fine, 1 errors (with --strict warnings too), 2 usage.
#[derive(Args)]
#[command(after_help = EXAMPLE)]
pub struct Check {
    /// Files to check: resources, keys, auth.json, policy.json and others (see --as)
    #[arg(value_name = "FILE", conflicts_with_all = ["resources", "keys", "extra_file", "resource_dir", "auth_file", "root"])]
    file: Vec<PathBuf>,

    /// What the files are [default: by their content]
    #[arg(long = "as", value_name = "KIND", requires = "file")]
    kind: Option<FileKind>,

    /// Tell which login a client would use for this image, and in the VM what guest-pull would do; may be repeated
    #[arg(long, value_name = "IMAGE", value_parser = named)]
    image: Vec<(String, ImageName)>,

    /// Without FILE: the configuration of guest-pull [default: that of the pod]
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    cdh_config: Option<PathBuf>,

    /// Ask the registry of each image: in the VM for all that guest-pull needs, and say at the end whether it would pull;
    /// elsewhere for the manifest, with that login alone, by guest-pull or skopeo
    #[arg(long = "try", requires = "image")]
    try_it: bool,

    #[command(flatten)]
    how: Options,

    /// Whether the daemon repairs the credential: the same setting as that of `serve`
    #[arg(long, value_name = "on|off", default_value = "on")]
    repair_credential: Switch,

    /// Exit with 1 for warnings too
    #[arg(long)]
    strict: bool,

    /// How to print it
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    format: Format,

    #[command(flatten)]
    files: Files,

    #[command(flatten)]
    sockets: Sockets,

    #[command(flatten)]
    root: Root,
}

/// How a registry is asked on a build host.
#[derive(Args, Default, PartialEq, Eq)]
struct Options {
    /// With --try: certificates of the registry's CA
    #[cfg(feature = "tools")]
    #[arg(long, value_name = "DIR", requires = "try_it")]
    cert_dir: Option<PathBuf>,

    /// With --try: the registry has no TLS, or an unknown certificate
    #[cfg(feature = "tools")]
    #[arg(long, requires = "try_it")]
    plain_http: bool,
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum FileKind {
    /// A JSON object: name to base64
    Resources,
    /// A JSON object: key id to base64 of 32 bytes
    Keys,
    /// A containers auth.json
    Auth,
    /// A containers policy.json
    Policy,
    /// User data of cloud-init
    UserData,
    /// Kubernetes objects, a pull secret among them
    #[cfg(feature = "tools")]
    Kubernetes,
    /// Initdata, as TOML or as in the annotation
    #[cfg(feature = "tools")]
    Initdata,
    /// The configuration of confidential-data-hub
    #[cfg(feature = "tools")]
    CdhToml,
    /// The configuration of the attestation-agent
    #[cfg(feature = "tools")]
    AaToml,
    /// A containers registries.conf
    #[cfg(feature = "tools")]
    RegistriesConf,
    /// A signature storage configuration (registries.d)
    #[cfg(feature = "tools")]
    SigstoreConfig,
}

impl FileKind {
    fn what(self) -> What {
        match self {
            Self::Resources => What::Served(Kind::Resources),
            Self::Keys => What::Served(Kind::Keys),
            Self::Auth => What::Served(Kind::Whole(Name::Path(CREDENTIAL.into()))),
            Self::Policy => What::Other(Form::Policy),
            Self::UserData => What::Other(Form::CloudConfig),
            #[cfg(feature = "tools")]
            Self::Kubernetes => What::Other(Form::Kubernetes),
            #[cfg(feature = "tools")]
            Self::Initdata => What::Other(Form::Initdata),
            #[cfg(feature = "tools")]
            Self::CdhToml => What::Other(Form::CdhToml),
            #[cfg(feature = "tools")]
            Self::AaToml => What::Other(Form::AaToml),
            #[cfg(feature = "tools")]
            Self::RegistriesConf => What::Other(Form::RegistriesConf),
            #[cfg(feature = "tools")]
            Self::SigstoreConfig => What::Other(Form::SigstoreConfig),
        }
    }
}

/// The name of an image, and as it was written.
fn named(text: &str) -> Result<(String, ImageName), NotAnImage> {
    Ok((text.to_owned(), ImageName::parse(text)?))
}

impl Check {
    /// Checks this VM, or a root file system; gives the credential that is served, and what guest-pull tells of each image.
    fn vm(&self, repairs: bool, report: &mut Report) -> (Option<image::Credential>, Vec<Told>) {
        let (sockets, root) = (&self.sockets, &self.root);
        let (credential, served_by) = vm::check(&self.files, sockets, root, repairs, report);
        let puller = puller::check(root, sockets, served_by, self.try_it, report);
        let hub = match &sockets.cdh_sock {
            Some(Choice::At(address)) => Some(address.clone()),
            Some(Choice::Off) => None,
            None => root.socket(Role::ConfidentialDataHub).ok(),
        };
        let images: Vec<_> = self.image.iter().map(|(text, _)| text.as_str()).collect();
        let mut refused = puller.reason;
        // A pull takes none of that from the command line.
        let try_it = self.try_it && self.how == Options::default();
        let mut told = match hub {
            Some(hub) if puller.is_installed && (root.root.is_some() || hub.path().exists()) => {
                let question = Question {
                    root: root.root.as_deref(),
                    hub: &hub,
                    config: self.cdh_config.as_deref(),
                    try_it,
                };
                question.ask(&images, report)
            }
            Some(_) if puller.is_installed && try_it => {
                let what = "nobody has cdh.sock, by which kata-agent asks for images";
                let fix = "`systemctl restart offline-fs-kbc.service offline-fs-kbc-cdh.socket`; in peer pods `systemctl start attestation-agent.service`";
                report.find(
                    None,
                    Problem::of_file(Severity::Error, "hub-absent", what, fix),
                );
                refused = refused.or(Some(what));
                Vec::new()
            }
            _ => Vec::new(),
        };
        if let Some(reason) = refused.filter(|_| try_it && root.root.is_none()) {
            told.resize_with(images.len(), Told::default);
            for told in &mut told {
                told.refuse(reason);
            }
        }
        (credential, told)
    }

    /// Prints what is there and what is wrong with it.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        crate::process::harden()?;
        let mut report = Report::default();
        let repairs = self.repair_credential == Switch::On;
        let (credentials, told) = if self.file.is_empty() {
            let (credential, told) = self.vm(repairs, &mut report);
            (vec![credential], told)
        } else {
            let files = self.file.iter();
            let credentials = files
                .map(|path| files::check(path, self.kind, repairs, &mut report))
                .collect();
            (credentials, Vec::new())
        };
        let how = self.try_it.then_some(self.how);
        let mut told = told.into_iter();
        for (_, name) in &self.image {
            let told = told.next().unwrap_or_default();
            image::check(name, told, &credentials, how.as_ref(), &mut report);
        }
        super::print(report.render(self.format))?;
        let failing = match self.strict {
            true => Severity::Warning,
            false => Severity::Error,
        };
        let failed = [Severity::Warning, Severity::Error]
            .into_iter()
            .any(|severity| severity >= failing && report.count(severity) > 0);
        Ok(if failed {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        })
    }
}
