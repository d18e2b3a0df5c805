// SPDX-License-Identifier: Apache-2.0

//! `guest-pull check`: the kernel is asked by a mount, and a registry for all of an image but the content of its layers. What of
//! a root file system is wrong is in the daemon's own tests.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::caller::Place;
use crate::file_systems::FileSystem;
use crate::host::{guest_pull, is_root, mounts_below, output};
use crate::image::{Repository, archive, noise};
use crate::sealed::{Provider, Sealed, assert_no_key, has_openssl, repository};
use crate::stand_in::StandIn;

/// What `check` says, a line each, and its exit status.
fn lines(command: &mut Command) -> (Vec<Value>, Option<i32>) {
    let (stdout, stderr, code) = output(command);
    let parse = |line: &str| {
        serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}: {stdout}{stderr}"))
    };
    (stdout.lines().map(parse).collect(), code)
}

/// The codes of the findings of these kinds, in order.
fn codes(lines: &[Value], kinds: &[&str]) -> Vec<String> {
    let found = lines.iter().filter(|line| {
        let severity = line["severity"].as_str();
        severity.is_some_and(|severity| kinds.contains(&severity))
    });
    found
        .map(|line| line["code"].as_str().unwrap().to_owned())
        .collect()
}

/// `check` with a store in this directory.
fn check_store(place: &Place, store: &Path) -> Command {
    place.configure(&format!("[image]\nwork_dir = '{}'", store.display()));
    let mut command = guest_pull(&["check", "--format", "json", "--cdh-config"]);
    command.arg(place.at("cdh.toml"));
    command
}

/// An image of one file is mounted, in memory and on a disk, and nothing is left of it: not the store either, which pulls make.
#[test]
fn the_kernel_is_asked() {
    if !is_root() {
        return;
    }
    for memory in [true, false] {
        let at = match memory {
            true => FileSystem::tmpfs("size=64m,mode=0755"),
            false => FileSystem::ext4(64 << 10),
        };
        let place = Place::new(false);
        let before = fs::read_dir(&at.path).unwrap().count();
        let (said, code) = lines(&mut check_store(&place, &at.path.join("a/b")));
        assert_eq!(codes(&said, &["error"]), [""; 0], "{said:?}");
        assert_eq!(code, Some(0));
        assert_eq!(fs::read_dir(&at.path).unwrap().count(), before);
        assert_eq!(mounts_below(&at.path), 1);
    }
}

/// What a pull would fail at is what `check` fails at: it may not mount, or there are no loop devices where there must be some.
#[test]
fn what_the_kernel_refuses_is_found() {
    if !is_root() {
        return;
    }
    let at = FileSystem::tmpfs("size=64m,mode=0755");
    // Not below /dev, which is hidden.
    let place = Place::new(true);
    let check = check_store(&place, &at.path);
    let by = |starter: &[&str]| {
        let mut command = Command::new(starter[0]);
        command
            .args(&starter[1..])
            .arg(check.get_program())
            .args(check.get_args());
        let (said, code) = lines(&mut command);
        assert_eq!(code, Some(1), "{said:?}");
        assert_eq!(fs::read_dir(&at.path).unwrap().count(), 0);
        (codes(&said, &["error"]), said)
    };
    let (found, said) = by(&[
        "setpriv",
        "--bounding-set=-sys_admin",
        "--inh-caps=-sys_admin",
    ]);
    assert_eq!(found, ["kernel-mount"], "{said:?}");
    // The kernel has them, so it is not the unit's to load a module.
    let has_loop = fs::read_to_string("/proc/devices")
        .unwrap()
        .lines()
        .any(|line| line.ends_with(" loop"));
    if has_loop {
        let hide = "mount -t tmpfs none /dev && exec \"$0\" \"$@\"";
        let (found, said) = by(&["unshare", "--mount", "sh", "-c", hide]);
        assert_eq!(found, ["kernel-loop"], "{said:?}");
        assert!(
            said[0]["message"]
                .as_str()
                .unwrap()
                .contains("a loop device for the layer"),
            "{said:?}"
        );
    }
}

/// Who isn't root, and can't mount, gets what the kernel's lists say.
#[test]
fn without_root_lists_are_looked_at() {
    if !is_root() {
        return;
    }
    let place = Place::new(false);
    fs::set_permissions(place.dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    place.configure(&format!(
        "[image]\nwork_dir = '{}'",
        place.at("store").display()
    ));
    // The build's directory may be root's alone.
    let program = place.at("guest-pull");
    fs::copy(env!("CARGO_BIN_EXE_guest-pull"), &program).unwrap();
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(program);
    command
        .args(["check", "--format", "json", "--cdh-config"])
        .arg(place.at("cdh.toml"));
    let (said, code) = lines(&mut command);
    assert_eq!(
        (codes(&said, &["error"]), code),
        (vec![], Some(0)),
        "{said:?}"
    );
}

/// `check --try` of an image at a stand-in for a registry, and of a mirror before it, with a store of its own.
struct Tried {
    place: Place,
    address: String,
}

impl Tried {
    fn new(registry: &StandIn, mirror: Option<&str>) -> Self {
        let place = Place::new(false);
        let address = registry.address.clone();
        let mirror = mirror.map_or_else(String::new, |mirror| {
            format!("[[image.registry_config.registry.mirror]]\nlocation = '{mirror}'\ninsecure = true\n")
        });
        place.configure(&format!(
            "[image]\nwork_dir = '{}'\nauthenticated_registry_credentials_uri = 'file:///nonexistent'\n\
             [[image.registry_config.registry]]\nlocation = '{address}'\ninsecure = true\n{mirror}",
            place.at("store").display()
        ));
        Self { place, address }
    }

    fn image(&self) -> String {
        format!("{}/a/b:1", self.address)
    }

    /// The last line, all of them, and the exit status.
    fn check(&self) -> (Value, Vec<Value>, Option<i32>) {
        let mut command = guest_pull(&["check", "--format", "json", "--try", "--cdh-config"]);
        command.arg(self.place.at("cdh.toml"));
        command.arg("--cdh-sock").arg(self.place.at("cdh.sock"));
        let (said, code) = lines(command.arg(self.image()));
        let last = said.last().unwrap().clone();
        assert_eq!(last["would_pull"] == true, code == Some(0), "{said:?}");
        (last, said, code)
    }

    fn expect_refused(&self, code: &str, words: &[&str]) -> Vec<Value> {
        let (last, said, _) = self.check();
        let verdict = last["verdict"].as_str().unwrap();
        assert!(verdict.starts_with("would not pull: "), "{said:?}");
        for word in words {
            assert!(verdict.contains(word), "{word}: {verdict}");
        }
        assert_eq!(codes(&said, &["error"]), [code], "{said:?}");
        said
    }
}

fn layers() -> [Vec<u8>; 2] {
    [1, 2].map(|seed| archive(&[("file".to_owned(), noise(seed, 100_000))]))
}

/// Each layer is asked for once, and none is stored; those that are stored are not asked for.
#[test]
fn layers_are_asked_for_and_not_fetched() {
    let (repository, image) = Repository::of(&layers());
    let registry = StandIn::start(move |asked| repository.answer(&asked.path));
    let tried = Tried::new(&registry, None);
    let (last, said, _) = tried.check();
    assert_eq!(last["would_pull"], true, "{said:?}");
    assert_eq!((&last["layers"], &last["stored"]), (&2.into(), &0.into()));
    let digest = image.descriptor["digest"].as_str().unwrap();
    assert_eq!(last["digest"], digest);
    let asked_for = |layer: &String| {
        let asked = registry.asked();
        let of_layer = asked.iter().filter(|asked| asked.path.ends_with(&**layer));
        let methods: Vec<_> = of_layer.map(|asked| asked.method.clone()).collect();
        methods
    };
    for layer in &image.layers {
        assert_eq!(asked_for(layer), ["GET"], "{layer}");
    }
    assert!(!tried.place.at("store").exists());

    let store = tried.place.at("store");
    let mut pull = guest_pull(&["pull", "--plain-http", "--store"]);
    let (_, stderr, code) = output(pull.arg(&store).arg(tried.image()));
    assert_eq!(code, Some(0), "{stderr}");
    let (last, said, _) = tried.check();
    assert_eq!(last["stored"], 2, "{said:?}");
    let text = format!("would pull: {}@{digest} (2 layers, ", tried.image());
    let verdict = last["verdict"].as_str().unwrap();
    assert!(
        verdict.starts_with(&text) && verdict.ends_with("; stored already: 2)"),
        "{verdict}"
    );
    // Once by `check`, and once by the pull.
    for layer in &image.layers {
        assert_eq!(asked_for(layer), ["GET"; 2], "{layer}");
    }
}

/// A layer that the registry does not have, or has in another length, is found before a pod finds it.
#[test]
fn a_layer_that_can_not_be_had_is_found() {
    let (repository, image) = Repository::of(&layers());
    let mut without = repository.clone();
    without.blobs.remove(&image.layers[1]);
    let registry = StandIn::start(move |asked| without.answer(&asked.path));
    Tried::new(&registry, None).expect_refused("image-missing", &["layer 2 of 2", "has no blob"]);
    let mut short = repository;
    short.blobs.insert(image.layers[0].clone(), vec![0; 10]);
    let registry = StandIn::start(move |asked| short.answer(&asked.path));
    Tried::new(&registry, None).expect_refused("pull-failed", &["layer 1 of 2", "10 bytes"]);
}

/// A mirror that fails is no reason, if the place that the name means has the image.
#[test]
fn mirrors_are_asked_as_by_a_pull() {
    let (repository, _) = Repository::of(&layers());
    let other = repository.clone();
    let registry = StandIn::start(move |asked| repository.answer(&asked.path));
    let empty = StandIn::start(|_| crate::stand_in::Answer::new(404, ""));
    let (last, said, _) = Tried::new(&registry, Some(&empty.address)).check();
    assert_eq!(last["would_pull"], true, "{said:?}");
    assert!(!empty.asked().is_empty() && !registry.asked().is_empty());
    let full = StandIn::start(move |asked| other.answer(&asked.path));
    let tried = Tried::new(&empty, Some(&full.address));
    let before = empty.asked().len();
    let (last, said, _) = tried.check();
    assert_eq!(last["would_pull"], true, "{said:?}");
    assert_eq!(empty.asked().len(), before);
}

/// The keys of encrypted layers are unwrapped, and shown to nobody; without one, the image would not be pulled.
#[test]
fn keys_are_tried() {
    if !has_openssl() {
        return;
    }
    let mut layer = Sealed::of(&layers()[0], "+gzip");
    layer.keys("provider.attestation-agent", &[r#"{"kid":"here-0"}"#]);
    let layers = [layer];
    let repository = repository(&layers);
    let registry = StandIn::start(move |asked| repository.answer(&asked.path));
    let tried = Tried::new(&registry, None);
    let socket = tried.place.at("cdh.sock");
    {
        let provider = Provider::of(&socket, &layers);
        let (last, said, _) = tried.check();
        assert_eq!(last["would_pull"], true, "{said:?}");
        assert_eq!(provider.asked().len(), 1);
        assert_no_key(&format!("{said:?}"), &layers[0].key);
    }
    fs::remove_file(&socket).unwrap();
    let _none = Provider::start(&socket, |_| Err(ttrpc::Code::NOT_FOUND));
    tried.expect_refused(
        "pull-refused",
        &["layer 1 of 1", "none of its keys can be unwrapped"],
    );
}
