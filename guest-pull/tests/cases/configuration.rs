// SPDX-License-Identifier: Apache-2.0

//! Where the configuration comes from, what each key does, and what `guest-pull plan` says of it.

use std::fs;
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use guest_pull::resource::{Source, Text};
use serde_json::{Value, json};
use ttrpc::Code;

use crate::caller::{Place, daemon, daemon_with, recorded};
use crate::host::{Mounted, PATIENCE, guest_pull, is_root, output};
use crate::image::{Repository, archive, noise};
use crate::stand_in::{Answer, StandIn};

const CREDENTIAL: &str = "CDH_DEFAULT_IMAGE_AUTHENTICATED_REGISTRY_CREDENTIALS";

/// `guest-pull plan`, with the place's configuration and daemon.
fn plan(place: &Place, image: &str) -> Command {
    let (socket, config) = (place.at("cdh.sock"), place.at("cdh.toml"));
    let mut command = guest_pull(&["plan", image, "--cdh-sock"]);
    command.arg(&socket).arg("--cdh-config").arg(&config);
    command.env_remove(CREDENTIAL);
    command
}

fn json_of(command: &mut Command) -> Value {
    let (stdout, stderr, _) = output(command.args(["--format", "json"]));
    serde_json::from_str(&stdout).unwrap_or_else(|error| panic!("{error}: {stdout}{stderr}"))
}

fn assert_refused(place: &Place, parts: &[&str]) {
    let answer = place.ask(&recorded("r.example/a:1", &place.bundle()));
    let text = answer.text();
    assert_eq!(answer.code(), Code::FAILED_PRECONDITION, "{text}");
    for part in parts {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(
        !text.contains("hunter") && !place.log().contains("hunter"),
        "{text}"
    );
}

/// `plan` says what a pull would do, in order, for people and for programs; it asks no registry, and prints no secret.
#[test]
fn what_a_pull_would_do() {
    let place = Place::new(false);
    let server = StandIn::start(|_| Answer::new(404, ""));
    let entry = |user: &str| STANDARD.encode(format!("{user}:hunter2"));
    let text = format!(
        r#"{{"auths":{{"https://index.docker.io/v1/":{{"auth":"{}"}},"m.example/x":{{"auth":"{}"}},"b.example":{{"auth":"hunter3!"}}}}}}"#,
        entry("hub"),
        entry("robot"),
    );
    let asked = daemon(&place, Ok(text.into_bytes()));
    place.configure(&format!(
        "[image]\nwork_dir = '/mnt/x'\nodd = 1\n\
         [image.image_pull_proxy]\nhttps_proxy = 'http://u:hunter4@p.example:3128'\nno_proxy = 'm.example'\n\
         [[image.registry_config.registry]]\nprefix = 'docker.io'\n\
         [[image.registry_config.registry.mirror]]\nlocation = 'm.example/x'\n\
         [[image.registry_config.registry.mirror]]\nlocation = 'b.example'\n\
         [[image.registry_config.registry.mirror]]\nlocation = '{}'\ninsecure = true\n",
        server.address
    ));
    let value = json_of(&mut plan(&place, "alpine:3"));
    assert_eq!(asked.recv().unwrap(), "kbs:///default/credential/test");
    let text = value.to_string();
    assert!(!text.contains("hunter"), "{text}");
    let common = json!({"reference": "3", "mirror": true, "plain_http": false, "user": null, "entry": null, "anonymous": null,
                        "problem": null, "proxy": null, "rules": null});
    let place_with = |more: Value| {
        let mut object = common.as_object().unwrap().clone();
        object.extend(more.as_object().unwrap().clone());
        Value::Object(object)
    };
    let address = &server.address;
    let mut places = value["places"].as_array().unwrap().clone();
    let problem = places[1]["problem"].take();
    assert!(
        problem
            .as_str()
            .unwrap()
            .contains("the entry b.example for b.example can't be used"),
        "{problem}"
    );
    let expected = [
        json!({"image": "m.example/x/library/alpine:3", "registry": "m.example", "repository": "x/library/alpine",
               "user": "robot", "entry": "m.example/x"}),
        json!({"image": "b.example/library/alpine:3", "registry": "b.example", "repository": "library/alpine",
               "proxy": "http://p.example:3128"}),
        json!({"image": format!("{address}/library/alpine:3"), "registry": address, "repository": "library/alpine",
               "plain_http": true,
               "anonymous": format!("the credential kbs:///default/credential/test has no entry for {address}")}),
        json!({"image": "docker.io/library/alpine:3", "registry": "docker.io", "repository": "library/alpine",
               "mirror": false, "proxy": "http://p.example:3128", "user": "hub", "entry": "https://index.docker.io/v1/"}),
    ];
    assert_eq!(places, expected.map(place_with));
    let config = place.at("cdh.toml").display().to_string();
    assert_eq!(value["configuration"], config);
    assert_eq!(
        (&value["work_dir"], &value["layers_at_once"]),
        (&json!("/mnt/x"), &json!(3))
    );
    assert_eq!(
        value["warnings"],
        json!([format!("{config}: [image] odd: unknown, and ignored")])
    );

    let (stdout, stderr, code) = output(&mut plan(&place, "alpine:3"));
    assert_eq!(code, Some(0), "{stderr}");
    for line in [
        "1. m.example/x/library/alpine:3 (mirror): TLS, directly; with the login of robot by the entry m.example/x\n",
        &format!("3. {address}/library/alpine:3 (mirror): plain HTTP, directly; anonymously: "),
        "4. docker.io/library/alpine:3: TLS through the proxy http://p.example:3128; with the login of hub by the entry https://index.docker.io/v1/\n",
        "credential: kbs:///default/credential/test\n",
        "policy: none, so any image is pulled\n",
    ] {
        assert!(stdout.contains(line), "{line}: {stdout}");
    }
    assert!(!stdout.contains("hunter"), "{stdout}");
    assert_eq!(server.asked().len(), 0);

    // Where nothing would be asked, it says why.
    let value = json_of(&mut plan(&place, "b.example/a:1"));
    assert_eq!(value["kind"], "configuration");
    assert!(
        value["error"].as_str().unwrap().contains("can't be used"),
        "{value}"
    );
    let (stdout, stderr, code) = output(&mut plan(&place, "b.example/a:1"));
    assert_eq!((stdout.as_str(), code), ("", Some(1)));
    assert!(
        stderr.contains("can't be used") && !stderr.contains("hunter"),
        "{stderr}"
    );
}

/// The first that there is of initdata's file, peer pods' and the kernel command line; the latter also where the file has
/// no `[image]`. A file that is broken is no reason to look further. The environment names the credential before all.
#[test]
fn places_of_the_configuration() {
    if !is_root() {
        return;
    }
    let place = Place::new(false);
    // In a mount namespace of its own, with these files.
    let run = |files: &[(&str, &str)], environment: &str| {
        let script = "mount -t tmpfs none /run; mkdir -p /run/confidential-containers/initdata /run/peerpod; \
                      dir=$1; shift; cp \"$dir\"/initdata.toml /run/confidential-containers/initdata/cdh.toml || :; \
                      cp \"$dir\"/peer.toml /run/peerpod/cdh.toml || :; mount --bind \"$dir\"/cmdline /proc/cmdline; exec \"$@\"";
        let dir = place.at("files");
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir(&dir).unwrap();
        for (name, text) in files {
            fs::write(dir.join(name), text).unwrap();
        }
        let mut command = Command::new("unshare");
        command.args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-ec",
            script,
            "sh",
        ]);
        command
            .arg(&dir)
            .arg(env!("CARGO_BIN_EXE_guest-pull"))
            .args(["plan", "r.example/a:1"]);
        command.env(CREDENTIAL, environment);
        json_of(&mut command)
    };
    let initdata = (
        "initdata.toml",
        "[image]\nauthenticated_registry_credentials_uri = 'file:///initdata'\n",
    );
    let peer = (
        "peer.toml",
        "[image]\nauthenticated_registry_credentials_uri = 'file:///peer'\n",
    );
    let line = "quiet agent.image_registry_auth=file:///line agent.https_proxy=http://u:hunter2@p.example:1 agent.no_proxy=x";
    let line = ("cmdline", line);
    let of = |files: &[(&str, &str)]| {
        let value = run(files, "");
        let (source, credential) = (&value["configuration"], &value["credential"]);
        (
            source.as_str().unwrap().to_owned(),
            credential.as_str().unwrap().to_owned(),
            value["places"][0]["proxy"].clone(),
        )
    };
    let file = "/run/confidential-containers/initdata/cdh.toml";
    assert_eq!(
        of(&[initdata, peer, line]),
        (file.to_owned(), "/initdata".to_owned(), Value::Null)
    );
    assert_eq!(
        of(&[peer, line]),
        (
            "/run/peerpod/cdh.toml".to_owned(),
            "/peer".to_owned(),
            Value::Null
        )
    );
    let proxy = json!("http://p.example:1");
    assert_eq!(
        of(&[line]),
        (
            "the kernel command line".to_owned(),
            "/line".to_owned(),
            proxy.clone()
        )
    );
    let without = ("initdata.toml", "[kbc]\nname = 'offline_fs_kbc'\n");
    let source = format!("the kernel command line, since {file} has no [image]");
    assert_eq!(
        of(&[without, peer, line]),
        (source, "/line".to_owned(), proxy)
    );

    assert_eq!(
        run(&[initdata, line], "file:///environment")["credential"],
        "/environment"
    );
    assert_eq!(
        run(&[line], "file:///environment")["credential"],
        "/environment"
    );
    let error = run(&[("initdata.toml", "[image\nhunter2"), peer, line], "");
    assert!(
        error["error"]
            .as_str()
            .unwrap()
            .starts_with(&format!("{file}: ")),
        "{error}"
    );
    for (files, name) in [
        (
            &[("cmdline", "agent.http_proxy=socks5://hunter2")][..],
            "agent.http_proxy",
        ),
        (
            &[(
                "cmdline",
                "agent.enable_signature_verification=true agent.image_policy_file=kbs:///a/b/c",
            )],
            "kbs:///a/b/c",
        ),
    ] {
        let error = run(files, "");
        let text = error["error"].as_str().unwrap();
        assert!(text.contains(name) && !text.contains("hunter"), "{error}");
    }
    assert!(
        run(&[line], "hunter2")["error"]
            .as_str()
            .unwrap()
            .contains(CREDENTIAL)
    );
}

/// A value that a key can't have fails the pull, with the name of the key and without the value.
#[test]
fn wrong_values() {
    let place = Place::new(false);
    daemon(&place, Err(Code::NOT_FOUND));
    for (text, key) in [
        ("[image]\nwork_dir = 'hunter2'", "work_dir"),
        (
            "[image]\nextra_root_certificates = ['hunter2']",
            "extra_root_certificates",
        ),
        (
            "[image]\nmax_concurrent_layer_downloads_per_image = 'hunter2'",
            "max_concurrent_layer_downloads_per_image",
        ),
        (
            "[image]\nauthenticated_registry_credentials_uri = 'hunter2'",
            "authenticated_registry_credentials_uri",
        ),
        (
            "[image]\nregistry_configuration_uri = 'hunter2'",
            "registry_configuration_uri",
        ),
        (
            "[image]\nimage_security_policy_uri = 'hunter2'",
            "image_security_policy_uri",
        ),
        (
            "[image.image_pull_proxy]\nhttps_proxy = 'http://u:hunter/2@p'",
            "https_proxy",
        ),
        (
            "[[image.registry_config.registry]]\nlocation = 'https://hunter2.example'",
            "location",
        ),
        ("image = 'hunter2'", "image"),
    ] {
        place.configure(text);
        assert_refused(&place, &["cdh.toml", key, "must be"]);
    }
}

/// A key that nobody knows is warned about, and the pull goes on.
#[test]
fn unknown_keys() {
    if !is_root() {
        return;
    }
    let place = Place::new(false);
    daemon(&place, Err(Code::NOT_FOUND));
    let (repository, _) = Repository::of(&[archive(&[("file".to_owned(), b"x".to_vec())])]);
    let server = StandIn::start(move |asked| repository.answer(&asked.path));
    place.configure(&format!(
        "[image]\nsurprise = 'hunter2'\n[image.registry_config]\nshort-name-mode = 'hunter2'\n\
         [[image.registry_config.registry]]\nlocation = '{}'\ninsecure = true\n",
        server.address
    ));
    let answer = place.ask(&recorded(
        &format!("{}/a:1", server.address),
        &place.bundle(),
    ));
    answer.digest();
    drop(Mounted(place.rootfs()));
    let log = place.log();
    for key in [
        "[image] surprise: unknown",
        "[image.registry_config] short-name-mode: not supported",
    ] {
        assert!(log.contains(key), "{log}");
    }
    assert!(!log.contains("hunter"), "{log}");
}

/// `max_concurrent_layer_downloads_per_image`: so many layers are asked for before one of them comes, and no more.
#[test]
fn layers_at_once() {
    if !is_root() {
        return;
    }
    const AT_ONCE: usize = 2;
    let place = Place::new(false);
    daemon(&place, Err(Code::NOT_FOUND));
    let archives: Vec<_> = (0..6)
        .map(|seed| archive(&[(format!("file{seed}"), noise(seed, 100))]))
        .collect();
    let (repository, image) = Repository::of(&archives);
    // How many are asked for, and how many of these were answered.
    let together = Arc::new((Mutex::new((0_usize, 0_usize)), Condvar::new()));
    let server = StandIn::start(move |asked| {
        if image.layers.iter().any(|layer| asked.path.ends_with(layer)) {
            let (counts, changed) = &*together;
            let mut counts = counts.lock().unwrap();
            counts.0 += 1;
            assert!(counts.0 - counts.1 <= AT_ONCE, "{counts:?}");
            changed.notify_all();
            let is_alone = |counts: &mut (usize, usize)| counts.0 < AT_ONCE;
            let waited = changed.wait_timeout_while(counts, PATIENCE / 4, is_alone);
            let (mut counts, result) = waited.unwrap();
            counts.1 += 1;
            if result.timed_out() {
                return Answer::new(404, "");
            }
        }
        repository.answer(&asked.path)
    });
    place.configure(&format!(
        "[image]\nmax_concurrent_layer_downloads_per_image = {AT_ONCE}\n\
         [[image.registry_config.registry]]\nlocation = '{}'\ninsecure = true\n",
        server.address
    ));
    let answer = place.ask(&recorded(
        &format!("{}/a:1", server.address),
        &place.bundle(),
    ));
    answer.digest();
    drop(Mounted(place.rootfs()));
}

/// `work_dir` is where layers go.
#[test]
fn work_dir() {
    if !is_root() {
        return;
    }
    let place = Place::new(false);
    daemon(&place, Err(Code::NOT_FOUND));
    let (repository, image) = Repository::of(&[archive(&[("file".to_owned(), b"x".to_vec())])]);
    let server = StandIn::start(move |asked| repository.answer(&asked.path));
    let store = place.at("elsewhere");
    place.configure(&format!(
        "[image]\nwork_dir = '{}'\n[[image.registry_config.registry]]\nlocation = '{}'\ninsecure = true\n",
        store.display(), server.address
    ));
    let mut serve = place.serve_into(None);
    serve.send(&recorded(
        &format!("{}/a:1", server.address),
        &place.bundle(),
    ));
    serve.answer().digest();
    drop(Mounted(place.rootfs()));
    let name = image.diff_ids[0].replace("sha256:", "");
    let names: Vec<_> = fs::read_dir(store.join("layers"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert!(
        names
            .iter()
            .any(|found| found.to_str().unwrap().contains(&name)),
        "{names:?}"
    );
}

/// Policies and signatures' places, which can be in the configuration or elsewhere; one that is not there is an error, as it
/// may forbid the image.
#[test]
fn texts_of_policies() {
    let place = Place::new(false);
    daemon_with(&place, |uri| match uri {
        "kbs:///default/security-policy/test" => Ok(b"policy".to_vec()),
        _ => Err(Code::NOT_FOUND),
    });
    let file = place.at("policy.json");
    fs::write(&file, "policy").unwrap();
    let fetch = |text: Text| {
        text.fetch(&place.at("cdh.sock"), "the image policy")
            .map(|text| text.to_vec())
    };
    let at = |uri: &str| Text::At(Source::parse(uri).unwrap());
    for text in [
        Text::Inline("policy".to_owned()),
        at("kbs:///default/security-policy/test"),
        at(&format!("file://{}", file.display())),
    ] {
        assert_eq!(fetch(text), Ok(b"policy".to_vec()));
    }
    for uri in ["kbs:///default/security-policy/other", "file:///nowhere"] {
        let failure = fetch(at(uri)).unwrap_err();
        let path = uri.replace("file://", "");
        assert!(
            failure
                .message
                .contains(&format!("the image policy {path}: there is none")),
            "{failure}"
        );
    }
    for key in [
        "image_security_policy_uri = 'kbs:///a/b/c'",
        "image_security_policy = '{}'",
    ] {
        place.configure(&format!("[image]\n{key}\n"));
        assert_refused(&place, &["the image policy"]);
    }
}
