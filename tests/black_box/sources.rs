// SPDX-License-Identifier: Apache-2.0

//! The sources of resources besides the two files: a plain auth.json, directories, systemd's credentials.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use ttrpc::Code;

use crate::support::daemon::{Daemon, Root, one, output, started_by};
use crate::support::wire::{Wire, g2, get, get_frame, outcome};

/// An `auth.json` for one registry, that is identified by its password.
fn auth_of(registry: &str, password: &str) -> String {
    let login = STANDARD.encode(format!("u:{password}"));
    format!(r#"{{"auths":{{"{registry}":{{"auth":"{login}"}}}}}}"#)
}

/// An `auth.json` that is identified by its registry.
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

/// Today's cloud-api-adaptor delivers a plain auth.json, late: it counts as soon as it exists, and a half-written one
/// does not replace the last good one.
#[test]
fn a_plain_auth_json_is_the_credential() {
    let [low, high] = ["low", "high"].map(|password| auth_of("r.example", password));
    let root = Root::with(&one("Credential", &low));
    let daemon = root.start_as_installed();
    assert_eq!(credential(&root).unwrap(), low);
    let path = root.path("run/peerpod/auth.json");
    put(&path, &high);
    assert_eq!(credential(&root).unwrap(), high);
    for half in ["", "{\"auths\":{\"r"] {
        fs::write(&path, half).unwrap();
        assert_eq!(credential(&root).unwrap(), high);
    }
    daemon.wait_for_log("not JSON: the text ends too early");
    // One that no client can use takes nothing away from the others, and the log has the reason.
    put(&path, "{}");
    assert_eq!(credential(&root).unwrap(), low);
    daemon.wait_for_log("no member \"auths\"; it is left out of what is served");
    root.rename_resources("{}");
    assert_eq!(credential(&root).unwrap_err(), Code::FAILED_PRECONDITION);
    // One without registries does not hide that another is broken: clients would keep it.
    root.rename_resources(r#"{"Credential":"?"}"#);
    put(&path, r#"{"auths":{}}"#);
    assert_eq!(credential(&root).unwrap_err(), Code::FAILED_PRECONDITION);
    root.rename_resources(&one("Credential", &low));
    fs::remove_file(&path).unwrap();
    assert_eq!(credential(&root).unwrap(), low);
}

/// A credential that was baked into the image and one that the pod brings both count, whatever registries either has.
/// cloud-api-adaptor always makes the pod's file, without registries where the pod has no pull secret: that takes
/// nothing away from the baked one, which is served byte for byte.
#[test]
fn credentials_of_several_files_are_merged() {
    let baked = r#" {"auths": {"a.example":{"auth":"dTpw"},"docker.io":{"auth":"dTpw"}}, "x":1}"#;
    let root = Root::with(&one("Credential", baked));
    let path = root.path("run/peerpod/auth.json");
    put(&path, r#"{"auths": {}}"#);
    let daemon = root.start_as_installed();
    assert_eq!(credential(&root).unwrap(), baked);
    let pod = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"eDpw"},"b.example":{"username":"x","password":"p"}}}"#;
    put(&path, pod);
    let merged = r#"{"auths":{"a.example":{"auth":"dTpw"},"https://index.docker.io/v1/":{"auth":"eDpw"},"b.example":{"username":"x","password":"p","auth":"eDpw"}}}"#;
    assert_eq!(credential(&root).unwrap(), merged);

    let resources = root.resources().display().to_string();
    let pod_file = path.display().to_string();
    let shares = [
        format!("{resources}: \"a.example\"; overridden by {pod_file}: \"docker.io\""),
        format!("{pod_file}: \"https://index.docker.io/v1/\", \"b.example\""),
    ];
    for share in &shares {
        daemon.wait_for_log(&format!("credential: {share}"));
    }
    let on_root = |args: &[&str]| {
        output(
            crate::support::daemon::command()
                .args(args)
                .arg("--root")
                .arg(root.dir()),
        )
    };
    let (status, _, _) = on_root(&["status"]);
    let expected = format!(
        "default/credential/test: {} bytes, from {pod_file}\n    {}\n    {}\n    repaired: {pod_file}: registry",
        merged.len(),
        shares[0],
        shares[1]
    );
    assert!(status.contains(&expected), "{status}");
    let images = ["a.example/i", "b.example/i", "alpine"];
    let args = images.map(|image| ["--image", image]).concat();
    let (check, _, code) = on_root(&[&["check"], &args[..]].concat());
    assert_eq!(code, Some(0), "{check}");
    for said in [
        format!("a.example/i:latest: the user \"u\" by the entry \"a.example\" of {resources},"),
        format!("b.example/i:latest: the user \"x\" by the entry \"b.example\" of {pod_file},"),
        format!(
            "alpine:latest: the user \"x\" by the entry \"https://index.docker.io/v1/\" of {pod_file},"
        ),
        format!("credential: {}\n", shares[0]),
    ] {
        assert!(check.contains(&said), "{said}: {check}");
    }
    let (json, _, _) = on_root(&[&["check", "--format", "json"], &args[..]].concat());
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["images"][0]["file"], resources.as_str());
    assert_eq!(json["images"][1]["file"], pod_file.as_str());
    assert_eq!(json["served"][0]["shares"], serde_json::json!(shares));

    // Where the pod's file has the same registries, it counts alone, byte for byte.
    let same = r#"{"auths" :{"a.example":{"auth":"eDpw"},"docker.io":{"auth":"eDpw"}}}"#;
    put(&path, same);
    assert_eq!(credential(&root).unwrap(), same);
    fs::remove_file(&path).unwrap();
    assert_eq!(credential(&root).unwrap(), baked);
    // No value is in what was said.
    for said in [daemon.log(), status, check] {
        assert!(!said.contains("dTpw") && !said.contains("eDpw"), "{said}");
    }
}

/// Each source overrides those before it; `check` and `status` show the same order.
#[test]
fn later_sources_override_earlier_ones() {
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
        let value = auth_of("r.example", &n.to_string());
        write(&value);
        assert_eq!(credential(&root).unwrap(), value, "{n}");
    }
    // Of other registries, each source's counts.
    for (n, write) in sources.iter().enumerate() {
        write(&auth(&format!("registry{n}.example")));
    }
    let all = credential(&root).unwrap();
    for n in 0..sources.len() {
        assert!(all.contains(&format!("\"registry{n}.example\"")), "{all}");
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
/// is from the present volume, nothing outside it is served, and removed files are gone.
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
    // Rewritten in place, with the same size.
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
        log.contains("\"default/key/absolute\": it is a symbolic link out of the directory"),
        "{log}"
    );
    fs::remove_dir_all(&volume).unwrap();
    assert_eq!(credential(&root).unwrap_err(), Code::NOT_FOUND);
    // The watch follows without a request.
    put(&at("a/b/c"), "late");
    daemon.wait_for_log("volume/a/b/c: the resource a/b/c, 4 bytes");
}

/// Keys in systemd's credentials unwrap, and are not served as resources.
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

/// If a file or directory can't be read, or a file is empty, its last good content stays in use, and no other
/// source replaces it.
#[test]
fn an_unreadable_directory_keeps_its_last_good_content() {
    let root = Root::new();
    let volume = root.path("volume");
    put(&volume.join("default/credential/test"), &auth("r"));
    put(&volume.join("default/key/1"), "kept");
    let mut command = root.serve_as_installed();
    command
        .arg("--empty-credential")
        .arg("--resource-dir")
        .arg(&volume);
    // As in the unit: a mode keeps root without capabilities out.
    let bare = ["--bounding-set=-all", "--inh-caps=-all", "--no-new-privs"];
    let is_root = nix::unistd::geteuid().is_root();
    let command = match is_root {
        true => started_by("setpriv", &bare, &command),
        false => command,
    };
    let daemon = Daemon::start(command, &root.socket());
    assert_eq!(credential(&root).unwrap(), auth("r"));
    let mode = |name: &str, mode: u32| {
        fs::set_permissions(volume.join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    for place in ["default/credential", "default", ""] {
        mode(place, 0o000);
        assert_eq!(credential(&root).unwrap(), auth("r"), "{place:?}");
        assert_eq!(served(&root, "default/key/1").unwrap(), "kept", "{place:?}");
        mode(place, 0o755);
    }
    assert!(
        daemon.log().contains("can't read it: Permission denied"),
        "{}",
        daemon.log()
    );
    for name in ["default/key/1", "default/credential/test"] {
        fs::write(volume.join(name), "").unwrap();
    }
    assert_eq!(served(&root, "default/key/1").unwrap(), "kept");
    assert_eq!(credential(&root).unwrap(), auth("r"));
    drop(daemon);
    // If it could never be read, there is no credential, and none is invented.
    mode("default", 0o000);
    let mut command = root.serve_as_installed();
    command
        .arg("--empty-credential")
        .arg("--resource-dir")
        .arg(&volume);
    if is_root {
        let _daemon = Daemon::start(started_by("setpriv", &bare, &command), &root.socket());
        assert_eq!(credential(&root).unwrap_err(), Code::NOT_FOUND);
    }
    mode("default", 0o755);
}

/// Stops another thread of the test, however the test ends.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// While a volume is swapped again and again, each answer is from one of its states, requests that are sent
/// together get the same state, and no answer is NOT_FOUND.
#[test]
fn a_volume_that_is_swapped_is_never_missing_nor_mixed() {
    let root = Root::new();
    let volume = root.path("volume");
    let at = |name: &str| volume.join(name);
    let fill = |n: usize| {
        put(&at(&format!("..{n}/default/key/a")), &format!("{n:05}"));
        put(&at(&format!("..{n}/default/key/b")), &format!("{n:05}"));
        let _ = fs::remove_file(at("..data_tmp"));
        symlink(format!("..{n}"), at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
    };
    fill(0);
    symlink("..data/default", at("default")).unwrap();
    let mut command = root.serve_as_installed();
    command.arg("--resource-dir").arg(&volume);
    let daemon = Daemon::start(command, &root.socket());
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 0;
            while !stop.load(Ordering::Relaxed) {
                n += 1;
                fill(n);
                fs::remove_dir_all(at(&format!("..{}", n - 1))).unwrap();
                // A hundred times a second; kubelet does it once a minute.
                thread::sleep(Duration::from_millis(10));
            }
        });
        let _stop = Stop(&stop);
        let mut wire = Wire::connect(&root.socket());
        let ask = |name: &str| get_frame(1, &g2(name));
        let both = [ask("default/key/a"), ask("default/key/b")].concat();
        for _ in 0..2000 {
            wire.send(&both);
            let [a, b] = [(); 2].map(|()| outcome(&wire.receive().1).unwrap());
            // They are sent together and answered after one check of the files.
            assert_eq!(a, b);
        }
    });
    // However often the volume changes, the log stays small.
    let log = daemon.log();
    let lines = log.lines().filter(|line| !line.contains(" DEBUG ")).count();
    assert!(lines < 2000, "{lines}");
}

/// Somebody who can write to the directory, and replaces a file by a link at any moment, can't make the
/// daemon serve a file from outside.
#[test]
fn replaced_links_never_lead_out_of_a_directory() {
    let root = Root::new();
    let volume = root.path("volume");
    put(&volume.join("a/b/c"), "inside");
    fs::write(root.path("outside"), "secret").unwrap();
    symlink(root.path("outside"), volume.join("a/b/.link")).unwrap();
    let mut command = root.serve_as_installed();
    command.arg("--resource-dir").arg(&volume);
    let _daemon = Daemon::start(command, &root.socket());
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let [file, link] = ["a/b/c", "a/b/.link"].map(|name| volume.join(name));
                renameat2(
                    AT_FDCWD,
                    &file,
                    AT_FDCWD,
                    &link,
                    RenameFlags::RENAME_EXCHANGE,
                )
                .unwrap();
            }
        });
        let _stop = Stop(&stop);
        let mut inside = 0;
        let mut wire = Wire::connect(&root.socket());
        for _ in 0..5000 {
            if let Ok(value) = wire.ask(&get_frame(1, &g2("a/b/c"))) {
                assert_eq!(value, b"inside");
                inside += 1;
            }
        }
        assert!(inside > 0);
    });
}
