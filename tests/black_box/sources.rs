// SPDX-License-Identifier: Apache-2.0

//! Where resources come from beside the two files: a plain auth.json, directories, systemd's credentials.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use ttrpc::Code;

use crate::support::daemon::{Daemon, Root, one, output};
use crate::support::wire::{g2, get};

/// An `auth.json` that is told from others by its registry.
fn auth(registry: &str) -> String {
    format!(r#"{{"auths":{{"{registry}":{{"auth":"dTpw"}}}}}}"#)
}

fn served(root: &Root, name: &str) -> Result<String, Code> {
    let bytes = get(&root.socket(), &g2(name)).map_err(|(code, _)| code)?;
    Ok(String::from_utf8(bytes).unwrap())
}

fn credential(root: &Root) -> Result<String, Code> {
    served(root, "default/credential/test")
}

fn put(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

/// Today's cloud-api-adaptor delivers a plain auth.json, late: it is the credential from the moment that it
/// is there, and a half-written one takes nothing away.
#[test]
fn a_plain_auth_json_is_the_credential() {
    let root = Root::with(&one("Credential", auth("low")));
    let daemon = root.start_as_installed();
    assert_eq!(credential(&root).unwrap(), auth("low"));
    let path = root.path("run/peerpod/auth.json");
    put(&path, &auth("high"));
    assert_eq!(credential(&root).unwrap(), auth("high"));
    for half in ["", "{\"auths\":{\"r"] {
        fs::write(&path, half).unwrap();
        assert_eq!(credential(&root).unwrap(), auth("high"));
    }
    daemon.wait_for_log("not JSON: the text ends too early");
    // What can't be used by any client is refused, not passed over.
    put(&path, "{}");
    assert_eq!(credential(&root).unwrap_err(), Code::FAILED_PRECONDITION);
    fs::remove_file(&path).unwrap();
    assert_eq!(credential(&root).unwrap(), auth("low"));
}

/// The order of the sources, each of which wins over those before it; `check` and `status` show the same.
#[test]
fn the_last_source_that_has_a_name_wins() {
    let root = Root::new();
    let at = |name: &str| root.path(name);
    type Write<'a> = &'a dyn Fn(&str);
    let resources: Write = &|value| root.rename_resources(&one("Credential", value));
    let environment: Write = &|value| {
        put(
            &at("environment.json"),
            &one("default/credential/test", value),
        )
    };
    let extra: Write = &|value| put(&at("extra.json"), &one("Credential", value));
    let directory: Write = &|value| put(&at("dir/default/credential/test"), value);
    let systemd: Write = &|value| {
        put(
            &at("credentials/aa-offline_fs_kbc-resources.json"),
            &one("Credential", value),
        );
    };
    let systemd_auth: Write = &|value| put(&at("credentials/auth.json"), value);
    let auth_file: Write = &|value| put(&at("auth.json"), value);
    let with_flags = |command: &mut std::process::Command| {
        command.arg("--extra-file").arg(at("extra.json"));
        command.arg("--resource-dir").arg(at("dir"));
        command.arg("--auth-file").arg(at("auth.json"));
        command.env("CREDENTIALS_DIRECTORY", at("credentials"));
        command.env("OFFLINE_FS_KBC_EXTRA_FILE_PATH", at("environment.json"));
    };
    let mut command = root.serve_as_installed();
    with_flags(&mut command);
    let _daemon = Daemon::start(command, &root.socket());
    let sources = [
        resources,
        environment,
        extra,
        directory,
        systemd,
        systemd_auth,
        auth_file,
    ];
    for (n, write) in sources.iter().enumerate() {
        let value = auth(&format!("registry{n}.example"));
        write(&value);
        assert_eq!(credential(&root).unwrap(), value, "{n}");
    }
    let mut check = crate::support::daemon::command();
    check
        .args(["check", "--image", "registry6.example/a", "--root"])
        .arg(root.dir());
    with_flags(&mut check);
    let (stdout, stderr, code) = output(&mut check);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    assert!(
        stdout.contains(
            "registry6.example/a:latest: the user \"u\" by the entry \"registry6.example\""
        ),
        "{stdout}"
    );
    let order = [
        "keys.json",
        "etc/aa-offline_fs_kbc-resources.json",
        "environment.json",
        "extra.json",
        "/dir:",
        "credentials/aa-offline_fs_kbc-resources.json",
        "credentials/auth.json",
        "/auth.json",
    ];
    let mut rest = stdout.as_str();
    for name in order {
        let at = rest
            .find(name)
            .unwrap_or_else(|| panic!("{name} in its place: {stdout}"));
        rest = &rest[at..];
    }
}

/// A Kubernetes secret volume: its names are links through `..data`, which is swapped as a whole. Each answer
/// is of the present volume, nothing outside it is served, and what goes is gone.
#[test]
fn a_directory_is_read_at_each_request() {
    let root = Root::new();
    let volume = root.path("volume");
    let at = |name: &str| volume.join(name);
    let mut command = root.serve_as_installed();
    command.arg("--resource-dir").arg(&volume);
    let daemon = Daemon::start(command, &root.socket());
    assert_eq!(credential(&root).unwrap_err(), Code::NOT_FOUND);
    for n in 0..5 {
        put(
            &at(&format!("..{n}/default/credential/test")),
            &auth(&format!("r{n}")),
        );
        put(&at(&format!("..{n}/default/key/{n}")), "x");
        symlink(format!("..{n}"), at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        if n == 0 {
            symlink("..data/default", at("default")).unwrap();
        }
        assert_eq!(credential(&root).unwrap(), auth(&format!("r{n}")));
        assert_eq!(served(&root, &format!("default/key/{n}")).unwrap(), "x");
        if n > 0 {
            assert_eq!(
                served(&root, &format!("default/key/{}", n - 1)).unwrap_err(),
                Code::NOT_FOUND
            );
        }
    }
    // In place, of one size.
    for value in ["aaaa", "bbbb", "aaaa"] {
        fs::write(at("..4/default/key/4"), value).unwrap();
        assert_eq!(served(&root, "default/key/4").unwrap(), value);
    }
    fs::write(root.path("outside"), "secret").unwrap();
    symlink("../../../outside", at("..4/default/key/out")).unwrap();
    symlink(root.path("outside"), at("..4/default/key/absolute")).unwrap();
    for name in ["default/key/out", "default/key/absolute"] {
        assert_eq!(served(&root, name).unwrap_err(), Code::NOT_FOUND);
    }
    let log = daemon.log();
    assert!(log.contains("\"default/key/out\": "), "{log}");
    assert!(
        log.contains("\"default/key/absolute\": it is a link out of the directory"),
        "{log}"
    );
    // Of a file that can't be read any more, what was good is kept.
    put(&at("..5/default/key/4"), "kept");
    fs::remove_dir_all(&volume).unwrap();
    assert_eq!(credential(&root).unwrap_err(), Code::NOT_FOUND);
    // The watch follows without a request.
    put(&at("a/b/c"), "late");
    daemon.wait_for_log("volume/a/b/c: the resource a/b/c, 4 bytes");
}

/// Keys in systemd's credentials unwrap, and are no resources.
#[test]
fn keys_of_the_credentials_directory_are_keys() {
    let root = Root::new();
    let credentials = root.path("credentials");
    put(
        &credentials.join("aa-offline_fs_kbc-keys.json"),
        &one("default/key/1", [7; 32]),
    );
    let mut command = root.serve_as_installed();
    command.env("CREDENTIALS_DIRECTORY", &credentials);
    let _daemon = Daemon::start(command, &root.socket());
    assert_eq!(served(&root, "default/key/1").unwrap_err(), Code::NOT_FOUND);
    let (stdout, _, _) = output(
        crate::support::daemon::command()
            .args(["status", "--root"])
            .arg(root.dir()),
    );
    assert!(
        stdout.contains("keys:\n  default/key/1: 32 bytes, from "),
        "{stdout}"
    );
}
