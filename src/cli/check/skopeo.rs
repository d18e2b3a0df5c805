// SPDX-License-Identifier: Apache-2.0

//! Asking a registry, by skopeo: this program has no HTTP client, and never gets one.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use nix::sys::memfd::{MFdFlags, memfd_create};
use offline_fs_kbc::credential::Login;
use offline_fs_kbc::credential::image::ImageName;
use offline_fs_kbc::text::Escaped;
use serde_json::json;
use zeroize::Zeroizing;

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
    /// It was not asked, since there is nothing to ask with.
    NotAsked(String),
}

impl Answer {
    /// In a word.
    pub fn word(&self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::NoImage(_) => "no such image",
            Self::Refused(_) => "refused",
            Self::Unreachable(_) => "unreachable",
            Self::NotAsked(_) => "not asked",
        }
    }
}

/// Asks the image's registry for its manifest, with this login or none.
pub fn ask(image: &ImageName, login: Option<&Login>, options: &Options) -> Answer {
    let file = match in_memory(auth_file(image, login).as_bytes()) {
        Ok(file) => file,
        Err(error) => return Answer::NotAsked(format!("no memory for its file: {error}")),
    };
    let mut command = Command::new("skopeo");
    command.args(["--command-timeout", LIMIT, "inspect", "--raw", "--authfile"]);
    // Its standard input, by a name under which it can be opened.
    command.arg("/proc/self/fd/0").stdin(Stdio::from(file));
    if let Some(directory) = &options.cert_dir {
        command.arg("--cert-dir").arg(directory);
    }
    if options.plain_http {
        command.arg("--tls-verify=false");
    }
    command.arg(format!("docker://{image}"));
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let output = match command.output() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Answer::NotAsked("there is no skopeo here".to_owned());
        }
        Err(error) => return Answer::NotAsked(format!("skopeo can't be run: {error}")),
        Ok(output) => output,
    };
    if output.status.success() {
        return Answer::Accepted;
    }
    let said = String::from_utf8_lossy(&output.stderr);
    // It has no reason to say the password; should it, that is not repeated.
    let has_secret = login.is_some_and(|login| {
        let password = login.password.as_str();
        said.contains(&*login.encode()) || !password.is_empty() && said.contains(password)
    });
    let reason = reason(&said);
    let shown = match has_secret {
        true => "(what skopeo says has the password, and is not shown)".to_owned(),
        false => Escaped(reason).to_string(),
    };
    classify(reason, shown)
}

/// An `auth.json` with this login alone, for the image's registry.
fn auth_file(image: &ImageName, login: Option<&Login>) -> Zeroizing<String> {
    let Some(login) = login else {
        return Zeroizing::new(r#"{"auths":{}}"#.to_owned());
    };
    // skopeo has Docker Hub under its historic name.
    let host = match image.registry.as_str() {
        "docker.io" => "https://index.docker.io/v1/",
        other => other,
    };
    let host = json!(host);
    Zeroizing::new(format!(
        "{{\"auths\":{{{host}:{{\"auth\":\"{}\"}}}}}}",
        *login.encode()
    ))
}

/// A file that no path leads to and that is gone with its last user, however that ends.
fn in_memory(content: &[u8]) -> io::Result<File> {
    let descriptor = memfd_create(c"auth.json", MFdFlags::MFD_CLOEXEC)?;
    let mut file = File::from(descriptor);
    file.write_all(content)?;
    Ok(file)
}

/// What skopeo's words mean. Whatever is not the registry's own word is no answer of it, so that comes first.
fn classify(said: &str, shown: String) -> Answer {
    let said = said.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if has(&[
        "dial tcp",
        "no such host",
        "connection refused",
        "connection reset",
        "timeout",
        "deadline exceeded",
        "x509:",
        "tls:",
        "http response to https client",
        "permission denied",
        "no such file",
    ]) {
        Answer::Unreachable(shown)
    } else if has(&[
        "unauthorized:",
        "authentication required",
        "is denied",
        "denied:",
        "403 (forbidden)",
        "invalid username/password",
    ]) {
        Answer::Refused(shown)
    } else if has(&[
        "manifest unknown",
        "name unknown",
        "repository name not known",
    ]) {
        Answer::NoImage(shown)
    } else {
        Answer::Unreachable(shown)
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
            assert_eq!(
                classify(reason(said), String::new()).word(),
                expected,
                "{said}"
            );
        }
        assert_eq!(
            reason("x\ntime=1 level=fatal msg=\"a \\\"b\\\": c: d\"\n\n"),
            "c: d"
        );
    }
}
