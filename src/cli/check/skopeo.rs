// SPDX-License-Identifier: Apache-2.0

//! Asking a registry by skopeo.

use std::ffi::OsString;
use std::fs::File;
use std::io;

use offline_fs_kbc::child;
use offline_fs_kbc::credential::Login;
use offline_fs_kbc::credential::image::ImageName;

use crate::cli::check::Options;
use crate::cli::check::answer::{Answer, INPUT, shown};

/// How long a registry may take, as skopeo takes it: longer than any client waits.
const LIMIT: &str = "60s";

/// Asks the image's registry for its manifest, with the login of the file.
pub fn ask(image: &ImageName, login: Option<&Login>, options: &Options, file: &File) -> Answer {
    let args = [
        "--command-timeout",
        LIMIT,
        "inspect",
        "--raw",
        "--authfile",
        INPUT,
    ];
    let mut args = Vec::from(args.map(OsString::from));
    if let Some(directory) = &options.cert_dir {
        args.extend(["--cert-dir".into(), directory.into()]);
    }
    if options.plain_http {
        args.push("--tls-verify=false".into());
    }
    args.push(format!("docker://{image}").into());
    let ended = match child::run("skopeo".as_ref(), &args, file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Answer::NotAsked("there is no guest-pull and no skopeo here".to_owned());
        }
        Err(error) => return Answer::NotAsked(format!("skopeo can't be run: {error}")),
        Ok(ended) => ended,
    };
    if ended.status == Some(0) {
        return Answer::Accepted;
    }
    let said = String::from_utf8_lossy(&ended.error);
    let reason = reason(&said);
    classify(reason, shown("skopeo", &said, reason, login))
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
