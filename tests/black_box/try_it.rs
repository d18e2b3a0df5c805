// SPDX-License-Identifier: Apache-2.0

//! `check --image … --try` against a real registry with TLS by a CA of its own.

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::support::both::copy_to;
use crate::support::daemon::{self, output_within};
use crate::support::registry::{Registry, USER};
use crate::support::skopeo::command_with_skopeo;

/// How long skopeo may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(90);

fn check(home: &Path, args: &[&str]) -> (String, Option<i32>) {
    let mut command = command_with_skopeo(home, "offline-fs-kbc");
    command.arg("check").args(args);
    // No temporary file for skopeo is left.
    command.env("TMPDIR", home.join("tmp"));
    let (stdout, stderr, code) = output_within(&mut command, LIMIT);
    let left: Vec<_> = fs::read_dir(home.join("tmp")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    (format!("{stdout}{stderr}"), code)
}

/// The same by guest-pull, from beside the program.
fn check_by_guest_pull(home: &Path, args: &[&str]) -> (String, Option<i32>) {
    let copy = copy_to(&home.join("both"), true);
    let mut command = daemon::called_from(&copy, "offline-fs-kbc");
    // Neither is in PATH.
    command.env("PATH", home).arg("check").args(args);
    let (stdout, stderr, code) = output_within(&mut command, LIMIT);
    (format!("{stdout}{stderr}"), code)
}

/// A right password, a wrong one, a wrong host, no such image, an unknown CA, no registry: each has its own
/// result, and only the entry that a client would use is tried.
#[test]
fn a_registry_is_asked() {
    for (check, unknown_authority) in [
        (check as fn(&Path, &[&str]) -> _, "x509: "),
        (check_by_guest_pull, "certificate"),
    ] {
        ask_a_registry(check, unknown_authority);
    }
}

fn ask_a_registry(check: fn(&Path, &[&str]) -> (String, Option<i32>), unknown_authority: &str) {
    let (registry, image) = Registry::with_image(2000);
    let home = tempfile::tempdir().unwrap();
    let home = home.path();
    fs::create_dir(home.join("tmp")).unwrap();
    let write = |name: &str, text: String| {
        fs::write(home.join(name), text).unwrap();
        home.join(name).display().to_string()
    };
    let right = write("right.json", registry.auth_json());
    let wrong = write("wrong.json", registry.auth_json_with("hunter2"));
    let elsewhere = write(
        "elsewhere.json",
        registry.auth_json().replace("127.0.0.1", "localhost"),
    );
    let ca = registry.cert_dir().display().to_string();
    let try_it = |image: &str, file: &str| {
        let args = ["--image", image, "--try", "--cert-dir", &ca, file];
        check(home, &args)
    };
    let host = &registry.host;

    let (said, code) = try_it(&image, &right);
    assert_eq!(code, Some(0), "{said}");
    assert!(
        said.contains(&format!("{image}: {host} accepts the login of \"{USER}\"")),
        "{said}"
    );

    let (said, code) = try_it(&image, &wrong);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains(&format!("{host} refuses the login of \"{USER}\": ")),
        "{said}"
    );
    assert!(
        said.contains("[image-refused]") && !said.contains("hunter2"),
        "{said}"
    );

    // The entry is for another host, so a client has no login, and the registry requires one.
    let (said, code) = try_it(&image, &elsewhere);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains(": no entry is for it; there are: \"localhost"),
        "{said}"
    );
    assert!(
        said.contains(&format!("{host} refuses an anonymous pull: ")),
        "{said}"
    );

    let other = image.replace("private/app", "private/none");
    let (said, _) = try_it(&other, &right);
    assert!(said.contains("[image-missing]"), "{said}");

    let (said, code) = check(home, &["--image", &image, "--try", &right]);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("[image-unreachable]") && said.contains(unknown_authority),
        "{said}"
    );
    // Without TLS verification it is reached.
    let (said, code) = check(home, &["--image", &image, "--try", "--plain-http", &right]);
    match unknown_authority {
        "x509: " => assert_eq!(code, Some(0), "{said}"),
        // guest-pull always verifies it, and there is no skopeo to ask.
        _ => assert!(
            said.contains("there is no guest-pull and no skopeo"),
            "{said}"
        ),
    }

    drop(registry);
    let (said, code) = try_it(&image, &right);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains("[image-unreachable]") && said.to_lowercase().contains("connection refused"),
        "{said}"
    );
}

/// Without guest-pull and skopeo, nothing is guessed: the message says what to install.
#[test]
fn without_either_it_says_so() {
    let home = tempfile::tempdir().unwrap();
    fs::write(home.path().join("a.json"), r#"{"auths":{}}"#).unwrap();
    let copy = copy_to(&home.path().join("apart"), false);
    let mut command = daemon::called_from(&copy, "offline-fs-kbc");
    command.env("PATH", home.path()).current_dir(home.path());
    command.args(["check", "--image", "quay.io/a", "--try", "a.json"]);
    let (stdout, _, code) = output_within(&mut command, LIMIT);
    assert_eq!(code, Some(1));
    // The findings that need no skopeo are still reported.
    for said in [
        "default/credential/test: 12 bytes, 0 registries",
        "quay.io was not asked: there is no guest-pull and no skopeo here [skopeo]",
        "--try asks by guest-pull or skopeo: `apt-get install skopeo`",
    ] {
        assert!(stdout.contains(said), "{said}: {stdout}");
    }
}
