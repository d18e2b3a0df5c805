// SPDX-License-Identifier: Apache-2.0

//! Which login a client would use for an image.

use std::path::{Path, PathBuf};

use offline_fs_kbc::credential::find::Step;
use offline_fs_kbc::credential::image::ImageName;
use offline_fs_kbc::credential::served::Delivery;
use offline_fs_kbc::credential::{AuthFile, Login};
use offline_fs_kbc::resource::name::{CREDENTIAL, Name};
use offline_fs_kbc::resource::problem::{Problem, Severity};
use offline_fs_kbc::resource::secret::Secret;
use offline_fs_kbc::resource::snapshot::{Resource, Snapshot};
use offline_fs_kbc::text::{Escaped, Quoted, RegistryName};
use serde_json::json;
use zeroize::Zeroizing;

use crate::cli::check::Options;
#[cfg(feature = "tools")]
use crate::cli::check::asking::ask;
use crate::cli::check::guest_pull::Told;
use crate::cli::check::report::Report;

/// How many registries are listed where none fits.
const LISTED: usize = 10;

/// The credential of a file, as the daemon would serve it.
pub struct Credential {
    file: PathBuf,
    /// The bytes, or why there are none.
    value: Result<Secret, Box<str>>,
    /// Those of all files, lowest precedence first.
    sources: Vec<Resource>,
    /// How long it is in the file.
    #[cfg_attr(not(feature = "tools"), expect(dead_code))]
    raw: usize,
}

impl Credential {
    /// That of a snapshot, if it has one, and the snapshot as a daemon serves it that repairs credentials or not.
    pub fn of(snapshot: &Snapshot, repairs: bool) -> (Option<Self>, Snapshot) {
        let name = Name::Path(CREDENTIAL.into());
        let raw = |snapshot: &Snapshot| {
            let value = &snapshot.resources.get(&name)?.value;
            Some(value.as_ref().map_or(0, Secret::len))
        };
        let raw = raw(snapshot).unwrap_or_default();
        let mut served = snapshot.clone();
        let delivery = Delivery {
            repair: repairs,
            empty: false,
        };
        delivery.apply(&mut served);
        let credential = served.resources.get(&name).map(|resource| {
            let value = resource.value.as_ref();
            let is_readable = |value: &Secret| {
                AuthFile::parse(value.expose()).is_ok_and(|file| file.is_readable())
            };
            Self {
                file: resource.file.to_path_buf(),
                value: match value {
                    Ok(value) if is_readable(value) => Ok(value.clone()),
                    Ok(_) => {
                        Err("is rejected by clients as a whole (--repair-credential is off)".into())
                    }
                    Err(reason) => Err(reason.clone()),
                },
                sources: served.credentials.clone(),
                raw,
            }
        });
        (credential, served)
    }

    /// The file whose entry this is: the last that has it.
    fn file_of(&self, key: &str) -> &Path {
        let has = |source: &&Resource| {
            let Ok(value) = &source.value else {
                return false;
            };
            let file = AuthFile::parse(value.expose());
            file.is_ok_and(|file| {
                file.is_readable() && file.entries.iter().any(|entry| entry.key == key)
            })
        };
        let source = self.sources.iter().rfind(has);
        source.map_or(&self.file, |source| &source.file)
    }

    /// How long it is in the file.
    #[cfg(feature = "tools")]
    pub fn raw_len(&self) -> usize {
        self.raw
    }
}

/// The login that a client uses.
struct Chosen {
    /// The entry's key.
    key: String,
    login: Login,
    /// How it was found.
    step: Step,
    /// The entry as it is served: it may have a token too.
    entry: Zeroizing<String>,
}

/// What a client does for an image.
struct Choice {
    /// The login; or why there is none.
    login: Result<Chosen, String>,
}

/// Says for each credential which login it has for the image; with `how`, what the registry makes of it, unless
/// guest-pull has asked it. `told` is what that says.
pub fn check(
    image: &ImageName,
    told: Told,
    credentials: &[Option<Credential>],
    how: Option<&Options>,
    report: &mut Report,
) {
    let mut any = false;
    for credential in credentials.iter().flatten() {
        any = true;
        let choice = choose(image, credential);
        let file = match &choice.login {
            Ok(chosen) => credential.file_of(&chosen.key),
            Err(_) => &credential.file,
        };
        check_one(image, &told, &choice, Some(file), how, report);
    }
    if !any {
        let none = Choice {
            login: Err("there is no credential".to_owned()),
        };
        check_one(image, &told, &none, None, how, report);
    }
}

fn choose(image: &ImageName, credential: &Credential) -> Choice {
    let login = credential
        .value
        .as_ref()
        .map_err(|reason| format!("the credential {reason}"));
    let login = login.and_then(|value| {
        let file = AuthFile::parse(value.expose()).map_err(|error| error.to_string())?;
        match file.find(&image.registry, &image.repository) {
            Some((entry, step)) => match &entry.login {
                Ok(login) => Ok(Chosen {
                    key: entry.key.clone(),
                    login: login.clone(),
                    step,
                    entry: Zeroizing::new(entry.value.to_owned()),
                }),
                Err(error) => Err(format!("the entry {}: {error}", RegistryName(&entry.key))),
            },
            None => {
                let keys = file.entries.iter().take(LISTED);
                let keys: Vec<_> = keys
                    .map(|entry| RegistryName(&entry.key).to_string())
                    .collect();
                Err(match keys.is_empty() {
                    true => "the credential has no registries".to_owned(),
                    false => format!("no entry is for it; there are: {}", keys.join(", ")),
                })
            }
        }
    });
    Choice { login }
}

fn check_one(
    image: &ImageName,
    of_guest_pull: &Told,
    choice: &Choice,
    file: Option<&Path>,
    how: Option<&Options>,
    report: &mut Report,
) {
    let mut told =
        json!({"image": image.to_string(), "file": file.map(|file| file.display().to_string())});
    let Told { plan, verdict } = of_guest_pull;
    if !plan.is_empty() {
        told["pull"] = json!(plan);
    }
    if let Some(verdict) = verdict {
        told["verdict"] = json!(verdict.text);
        for (name, value) in &verdict.members {
            told[*name] = value.clone();
        }
        report.verdict(&verdict.text);
    }
    let how = how.filter(|_| verdict.is_none());
    match &choice.login {
        Ok(Chosen {
            key, login, step, ..
        }) => {
            let how_found = match step {
                Step::Prefix => "the most specific entry that matches",
                Step::Host => "another spelling of its registry",
            };
            let of_file = file.map(|file| format!(" of {}", file.display()));
            report.line(format!(
                "{image}: the user {} by the entry {}{}, {how_found}",
                Quoted(&login.user),
                RegistryName(key),
                of_file.unwrap_or_default()
            ));
            told["user"] = json!(login.user);
            told["entry"] = json!(RegistryName(key).plain());
            told["step"] = json!(match step {
                Step::Prefix => "prefix",
                Step::Host => "host",
            });
        }
        Err(reason) => {
            told["anonymous"] = json!(reason);
            let problem = Problem::of_file(
                Severity::Warning,
                "image-anonymous",
                format!("there is no login for {image}: {reason}"),
                format!(
                    "`skopeo login --authfile auth.json {}`",
                    Escaped(&image.registry)
                ),
            );
            report.find(file, problem);
        }
    }
    if let Some(options) = how {
        let chosen = choice.login.as_ref().ok();
        let login = chosen.map(|chosen| &chosen.login);
        let entry = chosen.map(|chosen| chosen.entry.as_str());
        told["answer"] = json!(ask(image, login, entry, options, file, report));
    }
    report.image(told);
}

/// An image's binary asks no registry: in a VM, guest-pull does.
#[cfg(not(feature = "tools"))]
fn ask(
    image: &ImageName,
    _: Option<&Login>,
    _: Option<&str>,
    _: &Options,
    file: Option<&Path>,
    report: &mut Report,
) -> &'static str {
    let problem = Problem::of_file(
        Severity::Error,
        "guest-pull-missing",
        format!(
            "{} was not asked: here only guest-pull asks, for what a pull needs",
            Escaped(&image.registry)
        ),
        "install guest-pull, and leave out FILE; or try it on a build host",
    );
    report.find(file, problem);
    "not asked"
}
