// SPDX-License-Identifier: Apache-2.0

//! Asking a registry, by skopeo: this program has no HTTP client, and never gets one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use nix::unistd::mkdtemp;
use offline_fs_kbc::credential::Login;
use offline_fs_kbc::credential::image::ImageName;
use offline_fs_kbc::text::Clean;

use crate::cli::check::image::auth_file;
use crate::cli::private_file;

/// How long a registry may take, as skopeo takes it: longer than any client waits.
const LIMIT: &str = "60s";

/// What is handed on to skopeo.
pub struct Options {
    /// The directory of the registry's CA.
    pub cert_dir: Option<PathBuf>,
    /// Whether TLS is not verified, nor needed.
    pub plain_http: bool,
}

/// What the registry makes of a login.
pub enum Answer {
    /// It gives the image.
    Accepted,
    /// It takes the login, and has no such image.
    NoImage(String),
    /// It doesn't take the login.
    Refused(String),
    /// It could not be asked.
    Unreachable(String),
}

impl Answer {
    /// In a word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::NoImage(_) => "no such image",
            Self::Refused(_) => "refused",
            Self::Unreachable(_) => "unreachable",
        }
    }
}

/// Asks the image's registry for its manifest, with this login or none.
///
/// # Errors
///
/// Where skopeo is not there, or a file for it can't be written.
pub fn ask(image: &ImageName, login: Option<&Login>, options: &Options) -> anyhow::Result<Answer> {
    let directory = TemporaryDirectory::new()?;
    let file = directory.0.join("auth.json");
    private_file::write(&file, auth_file(image, login).as_bytes())?;
    let mut command = Command::new("skopeo");
    command.args(["--command-timeout", LIMIT, "inspect", "--raw", "--authfile"]);
    command.arg(&file);
    if let Some(directory) = &options.cert_dir {
        command.arg("--cert-dir").arg(directory);
    }
    if options.plain_http {
        command.arg("--tls-verify=false");
    }
    command.arg(format!("docker://{image}"));
    command.stdin(Stdio::null()).stdout(Stdio::null());
    let output = match command.output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            bail!(
                "--try asks by skopeo, which is not installed: `apt-get install skopeo` or `dnf install skopeo`"
            )
        }
        output => output.context("can't run skopeo")?,
    };
    if output.status.success() {
        return Ok(Answer::Accepted);
    }
    let said = String::from_utf8_lossy(&output.stderr);
    // It has no reason to say the password; should it, that is not repeated.
    let has_secret = login.is_some_and(|login| {
        let password = login.password.as_str();
        said.contains(&*login.encode()) || !password.is_empty() && said.contains(password)
    });
    let reason = if has_secret {
        "(what skopeo says has the password, and is not shown)"
    } else {
        reason(&said)
    };
    let reason = Clean(reason).to_string();
    Ok(classify(&said, reason))
}

fn classify(said: &str, reason: String) -> Answer {
    let said = said.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if has(&[
        "unauthorized",
        "authentication required",
        "denied",
        "forbidden",
        "invalid username/password",
    ]) {
        Answer::Refused(reason)
    } else if has(&[
        "manifest unknown",
        "name unknown",
        "manifest_unknown",
        "name_unknown",
        "repository name not known",
    ]) {
        Answer::NoImage(reason)
    } else {
        Answer::Unreachable(reason)
    }
}

/// The cause in skopeo's words: `… level=fatal msg="Error parsing image name \"…\": cause"`.
fn reason(said: &str) -> &str {
    let line = said
        .lines()
        .rfind(|line| !line.trim().is_empty())
        .unwrap_or("(nothing)");
    let message = line.find("msg=\"").map_or(line, |start| &line[start + 5..]);
    let message = message.trim_end().trim_end_matches('"');
    match message.rfind("\\\": ") {
        Some(end) => &message[end + 4..],
        None => message,
    }
}

/// A directory that nobody else can enter, removed with all that is in it.
struct TemporaryDirectory(PathBuf);

impl TemporaryDirectory {
    fn new() -> anyhow::Result<Self> {
        let place = std::env::temp_dir();
        let directory = mkdtemp(&place.join("offline-fs-kbc.XXXXXX"));
        let shown = Path::new(&place).display();
        Ok(Self(directory.with_context(|| {
            format!("can't make a directory in {shown}; set TMPDIR")
        })?))
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What skopeo says of each case, as its releases word it.
    #[test]
    fn answers_are_told_apart() {
        for (said, expected) in [
            (
                "level=fatal msg=\"Error parsing image name \\\"docker://r/a:1\\\": reading manifest 1 in r/a: unauthorized: authentication required\"",
                "refused",
            ),
            (
                "level=fatal msg=\"unable to retrieve auth token: invalid username/password: unauthorized: access to the requested resource is not authorized\"",
                "refused",
            ),
            (
                "level=fatal msg=\"reading manifest 2 in r/a: manifest unknown: manifest unknown\"",
                "no such image",
            ),
            (
                "level=fatal msg=\"pinging container registry r: Get \\\"https://r/v2/\\\": dial tcp 127.0.0.1:1: connect: connection refused\"",
                "unreachable",
            ),
            (
                "level=fatal msg=\"pinging container registry r: x509: certificate signed by unknown authority\"",
                "unreachable",
            ),
        ] {
            assert_eq!(classify(said, String::new()).word(), expected, "{said}");
        }
        assert_eq!(
            reason("x\ntime=1 level=fatal msg=\"a \\\"b\\\": c: d\"\n\n"),
            "c: d"
        );
    }
}
