// SPDX-License-Identifier: Apache-2.0

//! `check --image IMAGE --try` in a VM with guest-pull: a real registry is asked for all that a pull would ask for, but
//! the content of layers, and the last line says whether the image would be pulled.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::check_puller::{Tmpfs, assert_documented};
use crate::support::both::{configure, copy_to};
use crate::support::daemon::{Daemon, Root, called_from, one, output_within};
use crate::support::registry::{Registry, USER};

/// How long a registry may take on a busy machine.
const LIMIT: Duration = Duration::from_secs(120);

/// A daemon on `cdh.sock`, with guest-pull beside it.
struct Vm {
    root: Root,
    program: std::path::PathBuf,
    daemon: Daemon,
}

impl Vm {
    /// With this credential, and these lines of guest-pull's configuration.
    fn new(auth_json: &str, more: &str) -> Self {
        let root = Root::with(&one("default/credential/test", auth_json));
        let daemon = root.start_hub();
        configure(&root, more);
        let program = copy_to(&root.path("bin"), true);
        Self {
            root,
            program,
            daemon,
        }
    }

    /// One that trusts the registry.
    fn trusting(registry: &Registry, auth_json: &str, more: &str) -> Self {
        let ca = fs::read_to_string(registry.cert_dir().join("ca.crt")).unwrap();
        Self::new(
            auth_json,
            &format!("extra_root_certificates = [\"\"\"\n{ca}\"\"\"]\n{more}"),
        )
    }

    fn check(&self, image: &str, args: &[&str]) -> (String, Option<i32>) {
        let mut command = called_from(&self.program, "offline-fs-kbc");
        let hub = self.root.socket_called("cdh.sock").display().to_string();
        command
            .args(["check", "--try", "--image", image, "--resources"])
            .arg(self.root.resources())
            .args(["--cdh-sock", &format!("unix://{hub}"), "--cdh-config"])
            .arg(self.root.path("cdh.toml"))
            .args(args);
        let (stdout, stderr, code) = output_within(&mut command, LIMIT);
        assert!(!stderr.contains("panic"), "{stderr}");
        (stdout, code)
    }

    /// Expects that the image would not be pulled, with this code, and these words in the last line; gives all that was
    /// said.
    fn expect_refused(&self, image: &str, code: &str, words: &[&str]) -> String {
        let (said, status) = self.check(image, &[]);
        assert_eq!(status, Some(1), "{said}");
        let last = last(&said);
        assert!(last.starts_with("would not pull: "), "{said}");
        for word in words {
            assert!(last.contains(word), "{word}: {said}");
        }
        assert!(said.contains(&format!(" [{code}]")), "{code}: {said}");
        assert_documented(code);
        said
    }
}

fn last(said: &str) -> &str {
    said.lines().next_back().unwrap_or_default()
}

/// The image would be pulled: the last line says so, with its digest and size, and programs get the same. Nothing is
/// fetched.
#[test]
fn an_image_that_would_be_pulled() {
    let (registry, image) = Registry::with_image(2000);
    let vm = Vm::trusting(&registry, &registry.auth_json(), "");
    let (said, code) = vm.check(&image, &[]);
    assert_eq!(code, Some(0), "{said}");
    let verdict = last(&said).to_owned();
    assert!(
        verdict.starts_with(&format!("would pull: {image}@sha256:"))
            && verdict.ends_with(" (2 layers, 4096 bytes)"),
        "{said}"
    );
    assert!(said.contains(&format!(
        "guest-pull: 1. {image}: TLS, directly; with the login of {USER}"
    )));
    assert!(!said.contains(&registry.password));
    assert!(!vm.root.path("store").exists(), "something is stored");

    let (said, _) = vm.check(&image, &["--format", "json"]);
    let report: Value = serde_json::from_str(&said).unwrap();
    let found = &report["images"][0];
    assert_eq!(found["would_pull"], true, "{said}");
    assert_eq!(found["verdict"], verdict, "{said}");
    assert_eq!(
        (&found["layers"], &found["bytes"]),
        (&2.into(), &4096.into())
    );
    let digest = found["digest"].as_str().unwrap();
    assert!(verdict.contains(digest));

    // By the digest, it is the same.
    let by_digest = format!("{}@{digest}", image.strip_suffix(":1").unwrap());
    let (said, _) = vm.check(&by_digest, &[]);
    assert!(
        last(&said).starts_with(&format!("would pull: {by_digest} (2 layers")),
        "{said}"
    );
}

/// A wrong password, no login, no such image: each is an error of its own, and the last line has the registry's reason.
#[test]
fn what_the_registry_refuses() {
    let (registry, image) = Registry::with_image(2000);
    let vm = Vm::trusting(&registry, &registry.auth_json_with("hunter2"), "");
    let said = vm.expect_refused(&image, "image-refused", &[&registry.host, "401", USER]);
    assert!(!said.contains("hunter2"), "{said}");
    let (json, code) = vm.check(&image, &["--format", "json"]);
    let report: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        (&report["images"][0]["would_pull"], code),
        (&false.into(), Some(1))
    );
    let of_registry = |finding: &&Value| finding["code"] == "image-refused";
    let finding = report["findings"]
        .as_array()
        .unwrap()
        .iter()
        .find(of_registry)
        .unwrap();
    assert_eq!(finding["severity"], "error");
    assert!(finding["message"].as_str().unwrap().starts_with(&image));

    let vm = Vm::trusting(&registry, r#"{"auths":{}}"#, "");
    vm.expect_refused(&image, "image-refused", &["has no entry for"]);

    let vm = Vm::trusting(&registry, &registry.auth_json(), "");
    let missing = image.replace("private/app", "private/none");
    vm.expect_refused(&missing, "image-missing", &["private/none"]);
}

/// A registry by an unknown authority, with a certificate whose time has not come, or that is gone.
#[test]
fn a_registry_that_can_not_be_asked() {
    let (registry, image) = Registry::with_image(2000);
    let auth_json = registry.auth_json();
    let vm = Vm::new(&auth_json, "");
    vm.expect_refused(
        &image,
        "image-unreachable",
        &["UnknownIssuer", "extra_root_certificates"],
    );
    drop(registry);
    vm.expect_refused(&image, "image-unreachable", &["refused"]);

    let (registry, image) = Registry::with_image(2099);
    let vm = Vm::trusting(&registry, &registry.auth_json(), "");
    let said = vm.expect_refused(&image, "image-unreachable", &["not valid yet"]);
    assert!(said.contains("fix: set the VM's clock"), "{said}");
}

/// The way that the configuration wants: a proxy whose name nobody knows, and a policy that lets the image in or not.
#[test]
fn the_configuration_counts() {
    let (registry, image) = Registry::with_image(2000);
    let auth_json = registry.auth_json();
    let proxy = "[image.image_pull_proxy]\nhttps_proxy = 'http://proxy.invalid:3128'\n";
    let vm = Vm::trusting(&registry, &auth_json, proxy);
    vm.expect_refused(&image, "image-unreachable", &["proxy.invalid"]);
    let policy = |text: &str| format!("image_security_policy = '{text}'\n");
    let vm = Vm::trusting(
        &registry,
        &auth_json,
        &policy(r#"{"default": [{"type": "reject"}]}"#),
    );
    let said = vm.expect_refused(&image, "pull-refused", &["does not allow", "reject"]);
    assert!(said.contains("[policy-refuses-all]"), "{said}");
    // It must be signed, and is not: that only the registry tells.
    let signed = format!(
        r#"{{"default": [{{"type": "sigstoreSigned", "keyData": "{}"}}]}}"#,
        STANDARD.encode(crate::plan::KEY)
    );
    let vm = Vm::trusting(&registry, &auth_json, &policy(&signed));
    vm.expect_refused(
        &image,
        "pull-refused",
        &["there is no signature of sha256:"],
    );
}

/// A store that is too small, for any image and for this one.
#[test]
fn a_store_that_is_too_small() {
    if !nix::unistd::geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "this test needs root");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let registry = Registry::start();
    // Its layer is not compressed, and takes as much in the registry as it has.
    let large = crate::support::registry::tar("large", &vec![7; 24 << 20]);
    let pushed = runtime.block_on(registry.push_layers(vec![large]));
    let before = registry.host.clone();
    let registry = registry.with_tls();
    let image = pushed.replace(&before, &registry.host);
    let vm = Vm::trusting(&registry, &registry.auth_json(), "");
    fs::create_dir(vm.root.path("store")).unwrap();
    {
        let _small = Tmpfs::mount(&vm.root.path("store"), "size=8m");
        vm.expect_refused(&image, "store-room", &["room"]);
    }
    {
        let _small = Tmpfs::mount(&vm.root.path("store"), "size=20m");
        vm.expect_refused(
            &image,
            "store-room",
            &["no room: the layers have 25 MiB", "20 of 20 MiB are free"],
        );
    }
    {
        // It may become smaller than that.
        let _large = Tmpfs::mount(&vm.root.path("store"), "size=40m");
        let (said, code) = vm.check(&image, &[]);
        assert_eq!(code, Some(0), "{said}");
        assert!(
            said.contains("warning: ") && said.contains("[store-room]"),
            "{said}"
        );
        assert!(last(&said).starts_with("would pull: "), "{said}");
    }
}

/// Without guest-pull, this VM pulls nothing by this program.
#[test]
fn without_guest_pull_nothing_is_pulled() {
    let vm = Vm::new(r#"{"auths":{}}"#, "");
    let apart = copy_to(&vm.root.path("apart"), false);
    let mut command = called_from(&apart, "offline-fs-kbc");
    command.env("PATH", vm.root.dir());
    let hub = vm.root.socket_called("cdh.sock").display().to_string();
    command.args([
        "check",
        "--try",
        "--image",
        "quay.io/a:1",
        "--cdh-sock",
        &format!("unix://{hub}"),
    ]);
    let (said, _, code) = output_within(&mut command, LIMIT);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("[guest-pull-missing]"), "{said}");
    assert!(
        last(&said).starts_with("would not pull: guest-pull is not installed"),
        "{said}"
    );
}

/// One that can't be started says why.
#[test]
fn a_guest_pull_that_can_not_be_started() {
    let vm = Vm::new(r#"{"auths":{}}"#, "");
    let beside = vm.root.path("bin/guest-pull");
    fs::remove_file(&beside).unwrap();
    for (text, reason) in [
        ("#!/nonexistent/loader\n", "No such file"),
        ("#!/bin/false\n", "can't be run here"),
    ] {
        fs::write(&beside, text).unwrap();
        fs::set_permissions(&beside, fs::Permissions::from_mode(0o755)).unwrap();
        vm.expect_refused(
            "quay.io/a:1",
            "guest-pull-missing",
            &["guest-pull can't be run", reason],
        );
    }
}

/// Where nobody has cdh.sock, kata-agent can ask for no image.
#[test]
fn without_a_hub_nothing_is_pulled() {
    let vm = Vm::new(r#"{"auths":{}}"#, "");
    let Vm {
        root,
        program,
        daemon,
    } = vm;
    drop(daemon);
    fs::remove_file(root.socket_called("cdh.sock")).unwrap();
    let hub = format!("unix://{}", root.socket_called("cdh.sock").display());
    let mut command = called_from(&program, "offline-fs-kbc");
    command.args([
        "check",
        "--try",
        "--image",
        "quay.io/a:1",
        "--cdh-sock",
        &hub,
    ]);
    let (said, _, code) = output_within(&mut command, LIMIT);
    assert_eq!(code, Some(1), "{said}");
    assert!(
        last(&said).starts_with("would not pull: nobody has cdh.sock"),
        "{said}"
    );
    assert!(said.contains(" [hub-absent]"), "{said}");
    assert_documented("hub-absent");
}
