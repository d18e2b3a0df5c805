// SPDX-License-Identifier: Apache-2.0

//! Asking a registry, by another program: this one has no HTTP client, and never gets one. It is guest-pull where that is
//! installed, and else skopeo.

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::PathBuf;

use nix::sys::memfd::{MFdFlags, memfd_create};
use offline_fs_kbc::child;
use offline_fs_kbc::credential::Login;
use offline_fs_kbc::credential::image::ImageName;
use serde_json::json;
use zeroize::Zeroizing;

use crate::cli::check::answer::{Answer, INPUT, Options, shown};
#[cfg(feature = "tools")]
use crate::cli::check::skopeo::ask as without_guest_pull;

/// Asks the image's registry for its manifest, with this login, which is that of the entry, or none.
pub fn ask(
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
        .unwrap_or_else(|| without_guest_pull(image, login, options, &file))
}

/// No image has skopeo, so only the build host's program asks it.
#[cfg(not(feature = "tools"))]
fn without_guest_pull(_: &ImageName, _: Option<&Login>, _: &Options, _: &File) -> Answer {
    Answer::NotAsked("there is no guest-pull here".to_owned())
}

/// The program guest-pull: beside this one, as an image has it, or in PATH.
pub fn guest_pull() -> OsString {
    let beside = env::current_exe().map(|path| path.with_file_name("guest-pull"));
    let beside = beside.ok().filter(|path| path.exists());
    beside.map_or_else(|| "guest-pull".into(), PathBuf::into_os_string)
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
