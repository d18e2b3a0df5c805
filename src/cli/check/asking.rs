// SPDX-License-Identifier: Apache-2.0

//! Asking a registry on a build host, by another program: this one has no HTTP client, and never gets one. It is
//! guest-pull where that is installed, and else skopeo. In a VM, guest-pull asks in its worker:
//! [`crate::cli::check::guest_pull`].

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use nix::sys::memfd::{MFdFlags, memfd_create};
use offline_fs_kbc::child;
use offline_fs_kbc::credential::Login;
use offline_fs_kbc::credential::image::ImageName;
use offline_fs_kbc::resource::problem::{Problem, Severity};
use offline_fs_kbc::text::{Escaped, Quoted};
use serde_json::json;
use zeroize::Zeroizing;

use crate::cli::check::Options;
use crate::cli::check::answer::{Answer, INPUT, shown};
use crate::cli::check::guest_pull::program as guest_pull;
use crate::cli::check::report::Report;
use crate::cli::check::skopeo;

/// Asks the image's registry for its manifest, with this login, which is that of the entry, or none; and reports what it
/// made of it. Gives that in a word.
pub fn ask(
    image: &ImageName,
    login: Option<&Login>,
    entry: Option<&str>,
    options: &Options,
    file: Option<&Path>,
    report: &mut Report,
) -> &'static str {
    let answer = answer(image, login, entry, options);
    tell(image, login, &answer, file, report);
    answer.word()
}

fn answer(
    image: &ImageName,
    login: Option<&Login>,
    entry: Option<&str>,
    options: &Options,
) -> Answer {
    let file = match in_memory(auth_file(image, entry).as_bytes()) {
        Ok(file) => file,
        Err(error) => return Answer::NotAsked(format!("no memory for its file: {error}")),
    };
    by_guest_pull(image, login, options, &file)
        .unwrap_or_else(|| skopeo::ask(image, login, options, &file))
}

/// What guest-pull says; none if it is not installed.
fn by_guest_pull(
    image: &ImageName,
    login: Option<&Login>,
    options: &Options,
    file: &File,
) -> Option<Answer> {
    let mut args: Vec<OsString> = ["inspect", "--auth-file", INPUT].map(OsString::from).into();
    for certificate in certificates(options) {
        args.extend(["--ca-file".into(), certificate.into()]);
    }
    if options.plain_http {
        args.push("--plain-http".into());
    }
    args.push(image.to_string().into());
    let ended = match child::run(&guest_pull(), &args, file) {
        Ok(ended) => ended,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => {
            return Some(Answer::NotAsked(format!(
                "guest-pull can't be run: {error}"
            )));
        }
    };
    // The image, the answer in a word, and a text.
    let output = String::from_utf8_lossy(&ended.output);
    let error = String::from_utf8_lossy(&ended.error);
    let said = output.splitn(3, ": ").nth(2).unwrap_or(&error).trim_end();
    let shown = shown("guest-pull", said, said, login);
    Some(match ended.status {
        Some(0) => Answer::Accepted,
        Some(3) => Answer::Refused(shown),
        Some(4) => Answer::NoImage(shown),
        // guest-pull never leaves out the verification of TLS, and skopeo can.
        _ if options.plain_http => return None,
        // What is no answer of the registry says nothing about the login.
        _ => Answer::Unreachable(shown),
    })
}

/// The certificates of the registry's CA, as skopeo takes them from the directory.
fn certificates(options: &Options) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let entries = options
        .cert_dir
        .as_ref()
        .and_then(|path| fs::read_dir(path).ok());
    for entry in entries.into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "crt") {
            found.push(path);
        }
    }
    found
}

/// An `auth.json` with this entry alone, for the image's registry.
fn auth_file(image: &ImageName, entry: Option<&str>) -> Zeroizing<String> {
    let Some(entry) = entry else {
        return Zeroizing::new(r#"{"auths":{}}"#.to_owned());
    };
    // skopeo has Docker Hub under its historic name.
    let host = match image.registry.as_str() {
        "docker.io" => "https://index.docker.io/v1/",
        other => other,
    };
    let host = json!(host).to_string();
    Zeroizing::new(["{\"auths\":{", &host, ":", entry, "}}"].concat())
}

/// A file that no path leads to and that is gone with its last user, however that ends.
fn in_memory(content: &[u8]) -> io::Result<File> {
    let descriptor = memfd_create(c"auth.json", MFdFlags::MFD_CLOEXEC)?;
    let mut file = File::from(descriptor);
    file.write_all(content)?;
    Ok(file)
}

/// Says what the registry made of it.
fn tell(
    image: &ImageName,
    login: Option<&Login>,
    answer: &Answer,
    file: Option<&Path>,
    report: &mut Report,
) {
    let registry = Escaped(&image.registry);
    let who = match login {
        Some(login) => format!("the login of {}", Quoted(&login.user)),
        None => "an anonymous pull".to_owned(),
    };
    let (code, what, fix) = match answer {
        Answer::Accepted => {
            report.line(format!("{image}: {registry} accepts {who}"));
            return;
        }
        Answer::NoImage(said) => (
            "image-missing",
            format!("{registry} accepts {who}, but has no such image: {said}"),
            "fix the image's name".to_owned(),
        ),
        Answer::Refused(said) => (
            "image-refused",
            format!("{registry} refuses {who}: {said}"),
            match login {
                Some(_) => format!(
                    "a wrong password, or no right to this image: `skopeo login --authfile auth.json {registry}`"
                ),
                None => format!("give it a login: `skopeo login --authfile auth.json {registry}`"),
            },
        ),
        Answer::NotAsked(said) => (
            "skopeo",
            format!("{registry} was not asked: {said}"),
            "--try asks by guest-pull or skopeo: `apt-get install skopeo` or `dnf install skopeo`"
                .to_owned(),
        ),
        Answer::Unreachable(said) => (
            "image-unreachable",
            format!("{registry} can't be asked: {said}"),
            "look at name, port, network and certificate (--cert-dir, --plain-http)".to_owned(),
        ),
    };
    report.find(file, Problem::of_file(Severity::Error, code, what, fix));
}
