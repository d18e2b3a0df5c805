// SPDX-License-Identifier: Apache-2.0

//! The exact output of the commands (`tests/cmd/`), and the files that they leave.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::process::Command;

use crate::support::daemon::{Root, command, one, output, program, run};

/// Golden outputs: this test with `TRYCMD=overwrite` rewrites them; read them before you commit them.
#[test]
fn golden_outputs() {
    // A file that others can read is a finding, and git does not keep such modes.
    for directory in [
        "authjson.in",
        "check.in",
        "forms.in",
        "forms.in/encoded",
        "forms.in/peerpod",
        "forms.in/resources",
        "forms.in/secret",
        "check.in/resources.d/default/credential",
        "policy.in",
        "tools.in",
        "userdata.in",
    ] {
        for file in fs::read_dir(format!("tests/cmd/{directory}")).unwrap() {
            let file = file.unwrap();
            if file.file_type().unwrap().is_file() {
                fs::set_permissions(file.path(), fs::Permissions::from_mode(0o600)).unwrap();
            }
        }
    }
    trycmd::TestCases::new()
        .register_bin("offline-fs-kbc", program())
        .env("OFFLINE_FS_KBC_EXTRA_FILE_PATH", "")
        .case("tests/cmd/*.trycmd")
        .case("docs/troubleshooting.md");
}

/// Only the owner can read what `pack` writes, and `check` finds no problem in it.
#[test]
fn pack_writes_a_private_file_that_checks() {
    let root = Root::new();
    let auth = root.path("auth.json");
    fs::write(&auth, r#"{"auths":{"quay.io":{"auth":"dXNlcjpwYXNz"}}}"#).unwrap();
    let path = root.path("etc/out.json");
    // If `pack` replaces a file that others can read, the new one must be private.
    fs::write(&path, "old").unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
    let [auth, path] = [auth, path].map(|path| path.display().to_string());
    for names in ["path", "old"] {
        let (stdout, stderr, code) =
            run(&["pack", "--credential", &auth, "--names", names, "-o", &path]);
        assert_eq!((stdout.as_str(), stderr.as_str(), code), ("", "", Some(0)));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
        let (stdout, _, code) = run(&["check", &path]);
        assert_eq!(code, Some(0), "{stdout}");
        assert_eq!(
            stdout.contains("(as Credential)"),
            names == "old",
            "{stdout}"
        );
    }
    let left = fs::read_dir(root.path("etc")).unwrap().count();
    assert_eq!(left, 1, "a temporary file is left");
}

/// A symbolic link is kept, and a device is written to, not replaced.
#[test]
fn pack_respects_what_the_output_is() {
    let root = Root::new();
    fs::write(root.path("f"), "x").unwrap();
    let resource = format!("--resource=a/b/c={}", root.path("f").display());
    fs::write(root.path("target"), "").unwrap();
    std::os::unix::fs::symlink("target", root.path("link")).unwrap();
    let link = root.path("link").display().to_string();
    assert_eq!(run(&["pack", &resource, "-o", &link]).2, Some(0));
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert!(
        fs::read_to_string(root.path("target"))
            .unwrap()
            .contains("a/b/c")
    );
    let (stdout, _, code) = run(&["pack", &resource, "-o", "/dev/stdout"]);
    assert_eq!(code, Some(0));
    assert!(stdout.contains("\"a/b/c\": \"eA==\""), "{stdout}");
}

/// A failed `pack` leaves the existing file as it was, and no other files.
#[test]
fn a_failed_pack_changes_nothing() {
    let root = Root::new();
    fs::write(root.path("good"), "x").unwrap();
    let path = root.path("etc/out.json").display().to_string();
    fs::write(&path, "old").unwrap();
    let good = format!("--resource=a/b/c={}", root.path("good").display());
    let bad = format!("--resource=a/b/d={}", root.path("missing").display());
    let (_, stderr, code) = run(&["pack", &good, &bad, "-o", &path]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("missing"), "{stderr}");
    assert_eq!(fs::read_to_string(&path).unwrap(), "old");
    let (_, stderr, code) = run(&["pack", &good, "-o", "/nonexistent/out.json"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("/nonexistent/out.json"), "{stderr}");
}

/// `get` writes the bytes to a pipe or a private file, and to a terminal only with --show.
#[test]
fn get_shows_a_secret_only_when_told_to() {
    let root = Root::with(&one("Credential", "hunter2\n"));
    let _daemon = root.start();
    let dir = root.dir().display().to_string();
    for client in [&[][..], &["--as", "g1"], &["--as", "g2"]] {
        let args = [&["get", "Credential", "--root", &dir], client].concat();
        let (stdout, stderr, code) = run(&args);
        assert_eq!(
            (stdout.as_str(), stderr.as_str(), code),
            ("hunter2\n", "", Some(0))
        );
    }
    let file = root.path("out").display().to_string();
    let (stdout, _, code) = run(&["get", "Credential", "--root", &dir, "--output", &file]);
    assert_eq!((stdout, code), (format!("{file}: 8 bytes\n"), Some(0)));
    assert_eq!(fs::read_to_string(&file).unwrap(), "hunter2\n");
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o600);

    let on_terminal = |more: &str| {
        let line = format!(
            "'{}' get Credential --root '{dir}' {more}",
            program().display()
        );
        let (stdout, _, code) = output(Command::new("script").args(["-qec", &line, "/dev/null"]));
        assert_eq!(code, Some(0), "{stdout}");
        stdout.replace("\r\n", "\n")
    };
    assert_eq!(on_terminal(""), "8 bytes (--show prints them)\n");
    assert_eq!(on_terminal("--show"), "hunter2\n");
}

/// An error names the address and has the daemon's own text.
#[test]
fn get_reports_errors() {
    let root = Root::with(&one("Credential", "x"));
    let dir = root.dir().display().to_string();
    let (_, stderr, code) = run(&["get", "Credential", "--root", &dir]);
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains("getresource.sock: there is no socket; `systemctl start offline-fs-kbc`"),
        "{stderr}"
    );
    let socket = root.socket().display().to_string();
    let _daemon = root.start();
    for (args, part) in [
        (
            &["get", "a/b/c", "--root", &dir][..],
            "NOT_FOUND: no resource a/b/c; the resources are: default/credential/test",
        ),
        (
            &["get", "a/b/c", "--as", "cdh", "--root", &dir],
            "cdh.sock: there is no socket",
        ),
        (
            &["get", "a/b/c", "--as", "cdh", "--socket", &socket],
            "UNIMPLEMENTED: no service api.GetResourceService",
        ),
    ] {
        let (stdout, stderr, code) = run(args);
        assert_eq!((stdout.as_str(), code), ("", Some(1)));
        assert!(stderr.contains(part), "{stderr}");
    }
}

/// Without arguments `check` reads the files that the daemon would.
#[test]
fn check_without_files_looks_where_the_daemon_does() {
    let root = Root::with(&one("Credential", r#"{"auths":{}}"#));
    let dir = root.dir().display().to_string();
    let (stdout, _, code) = run(&["check", "--root", &dir]);
    assert_eq!(code, Some(0), "{stdout}");
    for part in [
        "keys.json: absent",
        "1 entry",
        "12 bytes, 0 registries",
        "no problems",
    ] {
        assert!(stdout.contains(part), "{stdout}");
    }
    let (_, stderr, code) = run(&["check", "file", "--root", &dir]);
    assert_eq!(code, Some(2), "{stderr}");
}

/// A closed pipe or a full disk must not cause a panic.
#[test]
fn output_that_cannot_be_written() {
    let root = Root::with(&one("Credential", r#"{"auths":{}}"#));
    let program = program();
    let check = format!(
        "'{}' check --root '{}'",
        program.display(),
        root.dir().display()
    );
    let (_, stderr, code) = output(
        Command::new("bash").args(["-c", &format!("{check} | true; exit ${{PIPESTATUS[0]}}")]),
    );
    assert_eq!((stderr.as_str(), code), ("", Some(0)));
    let (_, stderr, code) =
        output(Command::new("bash").args(["-c", &format!("{check} > /dev/full")]));
    assert_eq!(code, Some(1));
    assert!(
        stderr.contains("can't write to standard output"),
        "{stderr}"
    );
}

/// A missing credential is not an error, but a user of `check` wants to know.
#[test]
fn check_reports_a_missing_credential() {
    let root = Root::new();
    let dir = root.dir().display().to_string();
    let (stdout, _, code) = run(&["check", "--root", &dir]);
    assert_eq!(code, Some(0), "{stdout}");
    assert!(
        stdout.contains("note: no credential (default/credential/test)"),
        "{stdout}"
    );
    root.write_resources(r#"{"credential":"e30="}"#);
    let (stdout, _, _) = run(&["check", "--root", &dir]);
    assert!(
        stdout.contains(
            "entry \"credential\": clients ask for resources as <repository>/<type>/<tag>"
        ),
        "{stdout}"
    );
}

/// Compares the exact output of `check` in this directory.
fn assert_checked(root: &Root, args: &[&str], expected: &str, code: i32) {
    let (stdout, stderr, status) =
        output(command().current_dir(root.dir()).arg("check").args(args));
    assert_eq!(stdout, expected, "{stderr}");
    assert_eq!(status, Some(code));
}

/// Limits whose input is too large for the golden outputs.
#[test]
fn check_reports_exceeded_limits() {
    let root = Root::new();
    let entries: Vec<_> = (0..=100_000).map(|at| format!("\"{at}\":\"\"")).collect();
    fs::write(root.path("many.json"), format!("{{{}}}", entries.join(","))).unwrap();
    let large = one("a/b/c", vec![b'x'; 4 << 20]);
    fs::write(root.path("large.json"), large).unwrap();
    for file in ["many.json", "large.json"] {
        fs::set_permissions(root.path(file), fs::Permissions::from_mode(0o600)).unwrap();
    }
    assert_checked(
        &root,
        &["many.json"],
        "error: many.json: line 1 column 1088899: more than 100000 entries; nothing of it is served (a running \
         daemon goes on with the last good version) [too-many]
  fix: split the file, or remove what no client asks \
         for
1 error, 0 warnings
",
        1,
    );
    assert_checked(
        &root,
        &["large.json"],
        "large.json: 1 entry, 5592420 bytes
  a/b/c: 4194304 bytes
error: large.json: entry \"a/b/c\": 4194304 \
         bytes, over the 4194292 that ttrpc can carry (4 MiB with what goes around them); every request for \
         it is refused [too-large]
  fix: make the resource smaller
note: no credential \
         (default/credential/test): guest-pull and kata-agents before 3.8 pull anonymously, those of 3.8 to 3.17 that ask \
         for one pull no image [credential-missing]
  fix: write one with \
         `offline-fs-kbc pack --credential auth.json`
1 error, 0 warnings
",
        1,
    );
    let directory = root.path("resources.d/a/b");
    fs::create_dir_all(&directory).unwrap();
    for at in 0..=256 {
        fs::write(directory.join(at.to_string()), "x").unwrap();
    }
    let args = ["check", "--resource-dir", "resources.d", "--root", "."];
    let (stdout, _, code) = output(command().current_dir(root.dir()).args(args));
    let found = "error: resources.d: more than 256 files; the rest is not served [too-many]\n  \
                 fix: keep only the files that clients ask for\n";
    assert!(stdout.contains(found), "{stdout}");
    assert_eq!(code, Some(1));
}

/// A file with secrets must be private on a build host too; its owner there does not matter.
#[test]
fn check_looks_at_the_modes_of_files() {
    let root = Root::new();
    let path = root.path("auth.json");
    fs::write(&path, r#"{"auths":{"quay.io":{"auth":"dXNlcjpwYXNz"}}}"#).unwrap();
    let policy = root.path("policy.json");
    let text = r#"{"default":[{"type":"insecureAcceptAnything"}],"transports":{}}"#;
    fs::write(&policy, text).unwrap();
    fs::set_permissions(&policy, fs::Permissions::from_mode(0o644)).unwrap();
    let title =
        "auth.json: an auth.json, 45 bytes\n  default/credential/test: 45 bytes, 1 registry\n";
    for (mode, what) in [(0o644, "read it"), (0o622, "write to it")] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let expected = format!(
            "{title}warning: auth.json: others can {what} (mode {mode:04o}) [file-mode]\n  fix: `chmod \
             0600 auth.json`\n0 errors, 1 warning\n"
        );
        assert_checked(&root, &["auth.json"], &expected, 0);
        assert_checked(&root, &["--strict", "auth.json"], &expected, 1);
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    if nix::unistd::geteuid().is_root() {
        std::os::unix::fs::chown(&path, Some(65534), Some(65534)).unwrap();
    }
    let expected =
        format!("{title}policy.json: an image policy (policy.json), 63 bytes\nno problems\n");
    assert_checked(&root, &["auth.json", "policy.json"], &expected, 0);
}
