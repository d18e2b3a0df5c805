// SPDX-License-Identifier: Apache-2.0

//! `guest-pull serve`, called as the daemon calls it: with kata-agent's request as it was recorded, a daemon that has the
//! credential, real registries, and callers that go away.

#![allow(clippy::expect_used, clippy::panic, clippy::unwrap_used)]

#[path = "support/caller.rs"]
mod caller;
#[path = "support/host.rs"]
mod host;
#[path = "support/registry.rs"]
mod registry;

use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use ttrpc::Code;

use caller::{Place, Serve, Stalling, daemon, recorded, runs, wait_until, with_progress};
use host::{Mounted, PATIENCE, guest_pull, is_root, mounts_below, output, run, support};
use registry::{PASSWORD, Registry};

fn layout(place: &Place) -> std::path::PathBuf {
    let layout = place.at("layout");
    run(support("make-image").arg(&layout));
    layout
}

/// A registry for everybody, which has the image and may be asked without TLS; and the image's name. The daemon has no
/// credential.
fn public(place: &Place) -> (Registry, String) {
    let registry = Registry::start();
    let image = registry.push(&layout(place));
    place.configure(&insecure(&registry.address));
    daemon(place, Err(Code::NOT_FOUND));
    (registry, image)
}

/// A pull that is in the middle of its layers, which never come; and its worker.
fn stalled(place: &Place, layout: &Path) -> (Serve, u32) {
    let stalling = Stalling::start(layout);
    place.configure(&insecure(&stalling.address));
    daemon(place, Err(Code::NOT_FOUND));
    let mut serve = place.serve();
    let image = format!("{}/a/b:1", stalling.address);
    serve.send(&recorded(&image, &place.bundle()));
    stalling.asked.recv_timeout(PATIENCE).unwrap();
    let [worker] = serve.children()[..] else {
        panic!("{:?}", serve.children())
    };
    (serve, worker)
}

/// `[image]` with the registry's own CA.
fn with_ca(registry: &Registry) -> String {
    let ca = fs::read_to_string(registry.ca_file()).unwrap();
    format!("[image]\nextra_root_certificates = ['''\n{ca}''']\n")
}

/// `[image]` that lets the registry be asked without TLS.
fn insecure(address: &str) -> String {
    format!(
        "[image]\n[[image.registry_config.registry]]\nlocation = \"{address}\"\ninsecure = true\n"
    )
}

/// What kata-agent does when the container is gone.
fn remove_as_kata_agent_does(place: &Place) {
    umount2(&place.rootfs(), MntFlags::MNT_DETACH).unwrap();
    fs::remove_dir_all(place.bundle()).unwrap();
}

/// kata-agent's request gets an image of a private registry with TLS, by the daemon's credential: mounted once, writable,
/// with the writable layer in the bundle as the store is in memory; and kata-agent's way to remove it works. The caller is
/// told how it goes, in numbers that add up.
#[test]
fn the_recorded_request_gets_its_image() {
    if !is_root() {
        return;
    }
    let place = Place::new(false);
    let registry = Registry::start_private();
    let image = registry.push(&layout(&place));
    let asked = daemon(&place, Ok(fs::read(registry.auth_file(PASSWORD)).unwrap()));
    place.configure(&with_ca(&registry));
    let answer = place.ask(&with_progress(recorded(&image, &place.bundle())));
    assert!(
        answer.digest().starts_with("sha256:"),
        "{}",
        answer.digest()
    );
    // Clients of 2023 and 2024 take no answer without a status.
    assert_eq!(answer.body[..2], [0x0a, 0]);
    assert_eq!(asked.recv().unwrap(), "kbs:///default/credential/test");
    assert_eq!(mounts_below(place.dir.path()), 1);
    assert!(place.rootfs().join("bin/app").exists());
    fs::write(place.rootfs().join("written"), "x").unwrap();
    assert!(place.bundle().join("upper/written").exists());
    let last = answer.progress.last().unwrap();
    assert_eq!((last.layers, last.layers_done), (3, 3));
    assert_eq!(last.bytes_fetched, last.bytes);
    assert!(answer.progress.len() >= 4, "{}", answer.progress.len());
    assert_eq!(place.left_in_store(), [""; 0]);
    assert!(!place.log().contains(PASSWORD));
    remove_as_kata_agent_does(&place);

    // Stored layers are told apart. Nobody is told who did not ask.
    fs::create_dir(place.bundle()).unwrap();
    let answer = place.ask(&with_progress(recorded(&image, &place.bundle())));
    let last = answer.progress.last().unwrap();
    assert_eq!((last.bytes_fetched, last.bytes_stored), (0, last.bytes));
    remove_as_kata_agent_does(&place);
    fs::create_dir(place.bundle()).unwrap();
    assert!(
        place
            .ask(&recorded(&image, &place.bundle()))
            .progress
            .is_empty()
    );
    // A second mount over it would outlive kata-agent's unmounting.
    let answer = place.ask(&recorded(&image, &place.bundle()));
    assert!(
        answer.code() != Code::OK && answer.text().contains("has a mount already"),
        "{}",
        answer.text()
    );
    remove_as_kata_agent_does(&place);
}

/// Each failure has the code that fits, and a text in one line that begins with the image and names what to do. It has no
/// secret. Nothing is mounted, and nothing is left.
#[test]
fn failures_are_told_apart() {
    let place = Place::new(false);
    let registry = Registry::start_private();
    let image = registry.push(&layout(&place));
    let right = fs::read(registry.auth_file(PASSWORD)).unwrap();
    let wrong = fs::read(registry.auth_file("hunter3")).unwrap();
    let broken = format!(
        r#"{{"auths":{{"{}":{{"auth":"hunter4"}}}}}}"#,
        registry.address
    );
    let missing = image.replace(":1", ":2");
    let (ca, address) = (with_ca(&registry), registry.address.as_str());
    let check = |what: &str, image: &str, code: Code, parts: &[&str]| {
        let answer = place.ask(&recorded(image, &place.bundle()));
        let text = answer.text();
        assert_eq!(answer.code(), code, "{what}: {text}");
        assert!(
            text.starts_with(image) && !text.contains('\n'),
            "{what}: {text}"
        );
        assert!(
            !text.contains("hunter") && !place.log().contains("hunter"),
            "{what}: {text}"
        );
        for part in parts {
            assert!(text.contains(part), "{what}: {text}");
        }
        place.assert_nothing_left();
    };
    place.configure(&ca);
    check(
        "no daemon",
        &image,
        Code::UNAVAILABLE,
        &["cdh.sock", "--cdh-sock"],
    );
    let credential = "kbs:///default/credential/test";
    daemon(&place, Ok(wrong));
    check(
        "wrong login",
        &image,
        Code::UNAUTHENTICATED,
        &[address, "robot", credential],
    );
    daemon(&place, Err(Code::NOT_FOUND));
    check(
        "no login",
        &image,
        Code::UNAUTHENTICATED,
        &[address, credential, "anonymous"],
    );
    assert!(
        place.log().contains("pulled anonymously"),
        "{}",
        place.log()
    );
    daemon(&place, Err(Code::FAILED_PRECONDITION));
    check(
        "a refusal of the daemon",
        &image,
        Code::FAILED_PRECONDITION,
        &[credential, "no such thing"],
    );
    daemon(&place, Ok(broken.into_bytes()));
    check(
        "a broken entry",
        &image,
        Code::FAILED_PRECONDITION,
        &[address, credential],
    );
    daemon(&place, Ok(right.clone()));
    check(
        "a missing tag",
        &missing,
        Code::NOT_FOUND,
        &[address, "tag"],
    );
    daemon(&place, Ok(right.clone()));
    check(
        "no registry",
        "127.0.0.1:1/a/b",
        Code::UNAVAILABLE,
        &["127.0.0.1:1", "network"],
    );
    place.configure("");
    check(
        "an unknown CA",
        &image,
        Code::UNAVAILABLE,
        &[address, "extra_root_certificates"],
    );
    place.configure(&format!(
        "{ca}image_security_policy_uri = \"kbs:///a/b/c\"\n"
    ));
    check(
        "a policy",
        &image,
        Code::FAILED_PRECONDITION,
        &["the image policy kbs:///a/b/c", "repaired"],
    );
    place.configure("[image\nhunter5");
    check(
        "a broken file",
        &image,
        Code::FAILED_PRECONDITION,
        &["cdh.toml"],
    );
    fs::remove_file(place.at("cdh.toml")).unwrap();
    check("no file", &image, Code::FAILED_PRECONDITION, &["cdh.toml"]);
}

/// The credential's place is taken from the configuration, and from the environment before it.
#[test]
fn a_credential_in_a_file_is_used() {
    if !is_root() {
        return;
    }
    let place = Place::new(false);
    let registry = Registry::start_private();
    let image = registry.push(&layout(&place));
    let file = registry.auth_file(PASSWORD);
    let uri = format!("file://{}", file.display());
    place.configure(&format!(
        "{}authenticated_registry_credentials_uri = \"{uri}\"\n",
        with_ca(&registry)
    ));
    place.ask(&recorded(&image, &place.bundle())).digest();
    remove_as_kata_agent_does(&place);
    // A file that is not there is an anonymous pull, as with the daemon.
    fs::remove_file(file).unwrap();
    fs::create_dir(place.bundle()).unwrap();
    let answer = place.ask(&recorded(&image, &place.bundle()));
    assert_eq!(answer.code(), Code::UNAUTHENTICATED, "{}", answer.text());
    assert!(
        answer.text().contains("there is no credential"),
        "{}",
        answer.text()
    );
}

/// Plain HTTP is spoken only with a registry for which it is configured.
#[test]
fn plain_http_must_be_configured() {
    if !is_root() {
        return;
    }
    let place = Place::new(false);
    let registry = Registry::start();
    let image = registry.push(&layout(&place));
    for text in ["", &insecure("127.0.0.1:1"), &insecure("127.0.0.1")] {
        place.configure(text);
        daemon(&place, Err(Code::NOT_FOUND));
        let answer = place.ask(&recorded(&image, &place.bundle()));
        assert_eq!(answer.code(), Code::UNAVAILABLE, "{}", answer.text());
    }
    place.configure(&insecure(&registry.address));
    daemon(&place, Err(Code::NOT_FOUND));
    place.ask(&recorded(&image, &place.bundle())).digest();
    assert!(
        place.log().contains("pulled anonymously"),
        "{}",
        place.log()
    );
    remove_as_kata_agent_does(&place);
}

/// Whatever else comes is answered if it can be, and ends the process in any case.
#[test]
fn odd_requests_are_answered() {
    let place = Place::new(false);
    let good = recorded("r.example/a", &place.bundle());
    let mut other = good.clone();
    other.method = "Other".to_owned();
    let mut garbage = good.clone();
    garbage.payload = vec![0xff; 9];
    for (request, code) in [
        (other, Code::UNIMPLEMENTED),
        (garbage, Code::INVALID_ARGUMENT),
        (
            recorded("https://u:hunter2@r.example/a", &place.bundle()),
            Code::INVALID_ARGUMENT,
        ),
        (recorded("", &place.bundle()), Code::INVALID_ARGUMENT),
        (
            recorded("r.example/a", Path::new("relative")),
            Code::INVALID_ARGUMENT,
        ),
        (
            recorded("r.example/a", &place.at("none")),
            Code::INVALID_ARGUMENT,
        ),
    ] {
        let answer = place.ask(&request);
        assert_eq!(answer.code(), code, "{}", answer.text());
        assert!(!answer.text().contains("hunter"), "{}", answer.text());
    }
    // Not answered: half a frame, one that would be too large, and none.
    for bytes in [&[0, 0, 0, 9, 0, 0, 0, 1, 1, 0, 5][..], &[0xff; 10], &[]] {
        let mut serve = place.serve();
        serve.send_raw(bytes);
        let mut stream = serve.stream.take().unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest);
        assert!(rest.is_empty());
        assert!(!serve.child.wait().unwrap().success());
    }
    // Standard input that is no socket.
    let output = output(&mut guest_pull(&["serve"]));
    assert!(output.1.contains("no unix socket"), "{output:?}");
}

/// A link in the place of the root file system is not followed.
#[test]
fn a_link_as_root_is_refused() {
    if !is_root() {
        return;
    }
    let place = Place::new(false);
    let (_registry, image) = public(&place);
    std::os::unix::fs::symlink("/", place.rootfs()).unwrap();
    let answer = place.ask(&recorded(&image, &place.bundle()));
    assert!(
        answer.text().contains("is not a directory"),
        "{}",
        answer.text()
    );
    fs::remove_file(place.rootfs()).unwrap();
    place.assert_nothing_left();
}

/// A caller that goes away in the middle ends everything at once: no mount, no half-made layer, no process.
#[test]
fn a_caller_that_goes_away_ends_the_pull() {
    let place = Place::new(false);
    let layout = layout(&place);
    for half_close in [false, true] {
        let (mut serve, worker) = stalled(&place, &layout);
        let stream = serve.stream.take().unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        if !half_close {
            drop(stream);
        }
        assert!(!serve.child.wait().unwrap().success());
        assert!(!runs(worker));
        place.assert_nothing_left();
    }
}

/// Neither process leaves a core file, which would have the login.
#[test]
fn no_process_leaves_a_core_file() {
    let place = Place::new(false);
    let (serve, worker) = stalled(&place, &layout(&place));
    for id in [serve.child.id(), worker] {
        let limits = fs::read_to_string(format!("/proc/{id}/limits")).unwrap();
        let core = limits
            .lines()
            .find(|line| line.starts_with("Max core file size"));
        let words: Vec<_> = core.unwrap().split_whitespace().collect();
        assert_eq!(words[4..6], ["0", "0"], "{limits}");
    }
}

/// The caller's deadline ends it too, with an answer that says so.
#[test]
fn the_deadline_ends_the_pull() {
    let place = Place::new(false);
    let stalling = Stalling::start(&layout(&place));
    place.configure(&insecure(&stalling.address));
    daemon(&place, Err(Code::NOT_FOUND));
    let mut request = recorded(&format!("{}/a/b:1", stalling.address), &place.bundle());
    request.timeout_nano = Duration::from_secs(2).as_nanos().try_into().unwrap();
    let answer = place.ask(&request);
    assert_eq!(answer.code(), Code::DEADLINE_EXCEEDED, "{}", answer.text());
    assert!(answer.text().contains("2 s"), "{}", answer.text());
    place.assert_nothing_left();
}

/// If the mounter is killed, so is the worker, and the next pull removes what it left.
#[test]
fn a_killed_pull_leaves_nothing_for_long() {
    if !is_root() {
        return;
    }
    let place = Place::new(false);
    let (mut serve, worker) = stalled(&place, &layout(&place));
    wait_until("the worker makes a layer", || {
        !place.left_in_store().is_empty()
    });
    serve.child.kill().unwrap();
    serve.child.wait().unwrap();
    wait_until("the worker ends", || !runs(worker));
    assert!(!place.left_in_store().is_empty());
    // Another image, so that none of its layers is made anew.
    let registry = Registry::start();
    place.configure(&insecure(&registry.address));
    daemon(&place, Err(Code::NOT_FOUND));
    let answer = place.ask(&recorded(
        &format!("{}/a/none:1", registry.address),
        &place.bundle(),
    ));
    assert_eq!(answer.code(), Code::NOT_FOUND, "{}", answer.text());
    place.assert_nothing_left();
}

/// A caller that closes its end with the answer unread gets no mount.
#[test]
fn an_answer_that_nobody_reads_is_taken_back() {
    if !is_root() {
        return;
    }
    for on_disk in [false, true] {
        let place = Place::new(on_disk);
        let (_registry, image) = public(&place);
        let mut serve = place.serve();
        serve.send(&recorded(&image, &place.bundle()));
        // The answer waits in the socket.
        wait_until("there is an answer", || {
            let mut polled = [nix::poll::PollFd::new(
                std::os::fd::AsFd::as_fd(serve.stream.as_ref().unwrap()),
                nix::poll::PollFlags::POLLIN,
            )];
            nix::poll::poll(&mut polled, 0_u8).unwrap() == 1
        });
        assert!(place.rootfs().join("bin/app").exists());
        serve.stream = None;
        assert!(!serve.child.wait().unwrap().success());
        assert!(place.log().contains("without reading"), "{}", place.log());
        place.assert_nothing_left();
    }
}

/// Where the store is on a disk, what is written goes there, for root alone; as long as an overlay uses it, in whatever
/// mount namespace, it stays, and then the next pull removes it.
#[test]
fn the_writable_layer_is_on_the_disk_and_reclaimed() {
    if !is_root() {
        return;
    }
    let place = Place::new(true);
    let registry = Registry::start();
    let image = registry.push(&layout(&place));
    place.configure(&insecure(&registry.address));
    let writable = || -> Vec<_> {
        let entries = fs::read_dir(place.at("store/writable")).unwrap();
        entries.map(|entry| entry.unwrap().path()).collect()
    };
    // A pull of an image that does not exist opens the store.
    let other_pull = || {
        daemon(&place, Err(Code::NOT_FOUND));
        let answer = place.ask(&recorded(&image.replace(":1", ":2"), &place.bundle()));
        assert_eq!(answer.code(), Code::NOT_FOUND, "{}", answer.text());
    };
    daemon(&place, Err(Code::NOT_FOUND));
    place.ask(&recorded(&image, &place.bundle())).digest();
    let [directory] = &writable()[..] else {
        panic!("{:?}", writable())
    };
    assert_eq!(
        fs::metadata(directory).unwrap().permissions().mode() & 0o7777,
        0o700
    );
    fs::write(place.rootfs().join("written"), "x").unwrap();
    assert!(directory.join("upper/written").exists());
    let in_bundle: Vec<_> = fs::read_dir(place.bundle()).unwrap().collect();
    assert_eq!(in_bundle.len(), 1, "{in_bundle:?}");
    other_pull();
    assert!(place.rootfs().join("written").exists() && directory.exists());
    // A container's own mount namespace holds it after kata-agent has unmounted it, at another place.
    fs::create_dir(place.at("elsewhere")).unwrap();
    let mut container = Command::new("unshare");
    container
        .args(["--mount", "--propagation", "private", "sh", "-c"])
        .arg("mount --bind \"$1\" \"$2\" && echo ready && read line")
        .args([Path::new("sh"), &place.rootfs(), &place.at("elsewhere")]);
    container.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut container = container.spawn().unwrap();
    let mut ready = [0; 6];
    container
        .stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut ready)
        .unwrap();
    remove_as_kata_agent_does(&place);
    fs::create_dir(place.bundle()).unwrap();
    other_pull();
    assert!(directory.exists());
    drop(container.stdin.take());
    container.wait().unwrap();
    // A pull of another test has a copy of all mounts for a moment.
    wait_until("it is removed", || {
        other_pull();
        writable().is_empty()
    });
}

/// A store without room is said, with its directory and what to do, and keeps nothing of the layer.
#[test]
fn a_full_store_is_said() {
    if !is_root() {
        return;
    }
    let place = Place::new(false);
    let (_registry, image) = public(&place);
    let store = place.at("store");
    fs::create_dir(&store).unwrap();
    mount(
        Some("tmpfs"),
        &store,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("size=100k"),
    )
    .unwrap();
    let _mounted = Mounted(store.clone());
    let answer = place.ask(&recorded(&image, &place.bundle()));
    assert_eq!(answer.code(), Code::RESOURCE_EXHAUSTED, "{}", answer.text());
    for part in [store.to_str().unwrap(), "layer 1 of 3", "work_dir"] {
        assert!(answer.text().contains(part), "{}", answer.text());
    }
    place.assert_nothing_left();
}
