// SPDX-License-Identifier: Apache-2.0

//! Everything at once: an encrypted and signed image in a private registry, behind a mirror and a proxy, by one `cdh.toml`.
//! And what the pod's event says when one part of that is broken.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::Receiver;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::proto::attestation_agent::RuntimeMeasurementResult;
use nix::unistd::geteuid;
use serde_json::{Value, json};
use ttrpc::Code;

use crate::agent::{Agent, Event, agent};
use crate::encrypted_images::{keygen, keys_file, provider};
use crate::proxy::{Options, Proxy};
use crate::support::both::{Both, Mounted, configure, program_layer, registry_with};
use crate::support::daemon::{Root, output};
use crate::support::registry::{MOTD, Registry, USER, tar};
use crate::support::skopeo;

/// The image's name without a tag, of a registry that does not exist.
const IMAGE: &str = "registry.invalid/app";

/// Where the mirror is for those who ask the proxy. Nobody listens at that address itself.
const MIRROR: &str = "127.0.0.1:1";

/// Another address where nobody listens, to which the proxy would make connections.
const NOBODY: &str = "127.0.0.1:2";

/// The proxy's login.
const LOGIN: &str = "vm:hunter2";

/// The names of the daemon's resources.
const CREDENTIAL: &str = "default/credential/test";
const POLICY: &str = "default/security-policy/test";
const SIGNING_KEY: &str = "default/cosign-key/1";
const LAYER_KEY: &str = "default/key/k1";

/// The tags of the image, each with the key that signs it and the name that it is signed for, if it isn't the registry's.
type Tag = (&'static str, Option<&'static str>, Option<&'static str>);
const GOOD: Tag = ("good", Some("key"), Some("registry.invalid/app:good"));
const OTHERS: [Tag; 3] = [
    ("unsigned", None, None),
    (
        "by-another",
        Some("another"),
        Some("registry.invalid/app:by-another"),
    ),
    ("for-the-mirror", Some("key"), None),
];

/// What a pull depends on. A case breaks one part of it.
#[derive(Clone)]
struct Parts {
    tag: &'static str,
    /// `cdh.toml` after `work_dir`.
    config: String,
    /// The daemon's resources.
    resources: BTreeMap<&'static str, Vec<u8>>,
}

impl Parts {
    fn image(&self) -> String {
        format!("{IMAGE}:{}", self.tag)
    }

    /// Writes something else into the configuration.
    fn replace(&mut self, from: &str, to: &str) {
        assert_eq!(self.config.matches(from).count(), 1, "{from}");
        self.config = self.config.replace(from, to);
    }

    fn put(&mut self, name: &'static str, content: impl Into<Vec<u8>>) {
        self.resources.insert(name, content.into());
    }

    fn remove(&mut self, name: &str) {
        self.resources.remove(name).unwrap();
    }

    fn write(&self, root: &Root) {
        configure(root, &self.config);
        let resources = self.resources.iter();
        let resources: BTreeMap<_, _> = resources
            .map(|(name, content)| (name, STANDARD.encode(content)))
            .collect();
        root.rename_resources(&json!(resources).to_string());
    }
}

/// An auth.json with this password for the mirror.
fn credential(password: &str) -> String {
    let login = STANDARD.encode(format!("{USER}:{password}"));
    json!({"auths": {MIRROR: {"auth": login}}}).to_string()
}

/// A policy that refuses all images but those of this repository, of which it requires this.
fn policy(requirement: &Value) -> String {
    let scopes = json!({"docker": {IMAGE: [requirement]}});
    json!({"default": [{"type": "reject"}], "transports": scopes}).to_string()
}

/// Has skopeo encrypt an image for each tag, and sign it or not. Gives the registry, and the keys and the login for it.
fn publish(root: &Root, tags: &[Tag]) -> (Registry, BTreeMap<&'static str, Vec<u8>>) {
    let layers = vec![tar("etc/motd", MOTD.as_bytes()), program_layer("/bin/cat")];
    let (registry, plain) = registry_with(layers);

    keygen("kbs:///default/key/k1", &keys_file(root));
    let keys: Value = serde_json::from_slice(&fs::read(keys_file(root)).unwrap()).unwrap();
    let layer_key = STANDARD.decode(keys[LAYER_KEY].as_str().unwrap());
    let provider = provider(root);
    let skopeo = |args: &[&str]| {
        let (_, stderr, code) = skopeo::run(root.dir(), Some(&provider), args);
        assert_eq!(code, Some(0), "{stderr}");
    };
    fs::write(root.path("auth.json"), registry.auth_json()).unwrap();
    fs::write(root.path("passphrase"), "none").unwrap();
    for key in ["key", "another"] {
        let args = ["generate-sigstore-key", "--output-prefix", key];
        skopeo(&[&args[..], &["--passphrase-file", "passphrase"]].concat());
    }
    fs::create_dir(root.path("registries.d")).unwrap();
    let attach = "default-docker:\n  use-sigstore-attachments: true\n";
    fs::write(root.path("registries.d/all.yaml"), attach).unwrap();
    let certificates = registry.cert_dir().display().to_string();
    let from = format!("docker://{plain}");
    for (tag, key, name) in tags {
        let mut args = vec!["--registries.d", "registries.d", "copy"];
        args.extend(["--authfile", "auth.json", "--src-cert-dir", &certificates]);
        args.extend(["--dest-cert-dir", &certificates, "--encryption-key"]);
        args.push("provider:attestation-agent:keyid=kbs:///default/key/k1");
        let key = key.map(|key| format!("{key}.private"));
        if let Some(key) = &key {
            args.extend(["--sign-by-sigstore-private-key", key]);
            args.extend(["--sign-passphrase-file", "passphrase"]);
        }
        if let Some(name) = name {
            args.extend(["--sign-identity", name]);
        }
        let to = from.replace(":1", &format!(":{tag}"));
        skopeo(&[&args[..], &[&from, &to]].concat());
    }
    let signed = json!({"type": "sigstoreSigned", "keyPath": format!("kbs:///{SIGNING_KEY}")});
    let resources = [
        (CREDENTIAL, credential(&registry.password).into()),
        (POLICY, policy(&signed).into()),
        (SIGNING_KEY, fs::read(root.path("key.pub")).unwrap()),
        (LAYER_KEY, layer_key.unwrap()),
    ];
    (registry, resources.into())
}

/// The daemon and all that is around it.
struct Stage {
    root: Root,
    both: Both,
    /// The files with which all works.
    good: Parts,
    /// The line of the configuration that has the registry's CA.
    ca: String,
    registry: Registry,
    proxy: Proxy,
    /// What an attestation-agent was told. At `refusing.sock` is another one.
    events: Receiver<Event>,
}

impl Stage {
    fn start(tags: &[Tag]) -> Self {
        let root = Root::new();
        let (registry, resources) = publish(&root, tags);
        let servers = [(MIRROR, &*registry.host), (NOBODY, NOBODY)];
        let servers = servers.map(|(name, at)| (name.to_owned(), at.to_owned()));
        let proxy = Proxy::start(Options {
            login: Some(LOGIN),
            servers: HashMap::from(servers),
            only_those: true,
            ..Options::default()
        });
        let ok = RuntimeMeasurementResult::OK as i32;
        let events = agent(&root.path("agent.sock"), Agent::Answers(ok));
        agent(&root.path("refusing.sock"), Agent::Refuses);
        let ca = fs::read_to_string(registry.cert_dir().join("ca.crt")).unwrap();
        let ca = format!("extra_root_certificates = ['''\n{ca}''']\n");
        let config = format!(
            "{ca}image_security_policy_uri = 'kbs:///{POLICY}'\n\
             [image.image_pull_proxy]\nhttps_proxy = 'http://{LOGIN}@{}'\nno_proxy = 'other.invalid'\n\
             [[image.registry_config.registry]]\nlocation = 'registry.invalid'\nblocked = false\n\
             [[image.registry_config.registry.mirror]]\nlocation = '{MIRROR}/private'\n\
             [aa]\naa_socket = 'unix://{}'\n",
            proxy.address,
            root.path("agent.sock").display(),
        );
        let good = Parts {
            tag: GOOD.0,
            config,
            resources,
        };
        good.write(&root);
        Self {
            both: Both::start_with(&root, &good.config),
            root,
            good,
            ca,
            registry,
            proxy,
            events,
        }
    }

    /// Pulls the good image, and runs a program of it; gives the digest.
    fn assert_runs(&self) -> String {
        let (bundle, answer) = self.both.pull(&self.good.image(), "bundle");
        let digest = answer.unwrap();
        let rootfs = bundle.join("rootfs");
        let mounted = Mounted(rootfs.clone());
        let mut cat = Command::new("chroot");
        cat.arg(&rootfs).args(["/bin/cat", "/etc/motd"]);
        assert_eq!(output(&mut cat), (MOTD.to_owned(), String::new(), Some(0)));
        drop(mounted);
        digest
    }

    /// That nothing is mounted, and nothing is left in the bundle and the store, but for whole layers if they were pulled.
    fn assert_nothing_left(&self, bundle: &Path, are_layers_pulled: bool) {
        let names = |directory: &Path| {
            let entries = fs::read_dir(directory).into_iter().flatten();
            let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
            names.collect::<Vec<_>>()
        };
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let root = self.root.dir().to_str().unwrap();
        assert!(!mounts.contains(root), "{mounts}");
        assert_eq!(names(bundle), [""; 0]);
        assert_eq!(names(&self.both.store.join("writable")), [""; 0]);
        let mut layers = names(&self.both.store.join("layers"));
        let is_whole = |name: &str| name.ends_with(".erofs") || name.ends_with(".notes");
        layers.retain(|name| !(are_layers_pulled && is_whole(name)));
        assert_eq!(layers, [""; 0]);
    }

    /// That no password and no key is in the text.
    fn assert_no_secret(&self, text: &str) {
        let layer_key = STANDARD.encode(&self.good.resources[LAYER_KEY]);
        for secret in ["hunter", &self.registry.password, &layer_key, "symkey"] {
            assert!(!text.contains(secret), "{secret}: {text}");
        }
    }
}

fn is_root() -> bool {
    let is_root = geteuid().is_root();
    let must = std::env::var_os("CI").is_some();
    assert!(is_root || !must, "this test needs root");
    is_root
}

/// An image that a stock skopeo encrypted and signed is pulled and runs: from a private registry with a CA of its own, which
/// is the mirror of one that does not exist, and to which only a proxy with a login leads.
#[test]
fn an_image_behind_everything_is_pulled_and_runs() {
    if !is_root() {
        return;
    }
    let stage = Stage::start(&[GOOD]);
    let digest = stage.assert_runs();
    let image = stage.good.image();
    let (_, _, content, _) = stage.events.try_recv().unwrap();
    let measured = format!("{{\"image\":\"{image}\", \"digest\":\"{digest}\"}}");
    assert_eq!(content, measured);
    // Nobody else was asked.
    let tunnel = format!("CONNECT {MIRROR}");
    let asked = stage.proxy.asked();
    assert!(!asked.is_empty(), "the proxy was not asked");
    assert!(asked.iter().all(|asked| *asked == tunnel), "{asked:?}");
    let log = stage.both.daemon.log();
    let from = format!("{image}: pulled from the mirror {MIRROR}/private/app:good\n");
    for part in [&*from, "; measured\n"] {
        assert!(log.contains(part), "{part}: {log}");
    }
    stage.assert_no_secret(&log);
}

/// What is broken, how, the code, and parts of the text.
type Case<'c> = (&'static str, &'c dyn Fn(&mut Parts), Code, &'c [&'c str]);

/// Whichever part is broken, the pod's event names it, nothing is mounted or left, and no secret is told; when it is right
/// again, the image is pulled.
#[test]
fn each_broken_part_is_named() {
    if !is_root() {
        return;
    }
    let stage = Stage::start(&[&[GOOD][..], &OTHERS].concat());
    let proxy = stage.proxy.address.as_str();
    let proxy_url = &*format!("the proxy http://{proxy} ");
    let refusing = stage.root.path("refusing.sock").display().to_string();
    let from_mirror = &*format!("before that, {MIRROR}/private/app:good: ");
    let wrong = Code::FAILED_PRECONDITION;
    let by_policy = "the policy does not allow this image: transports.docker \"registry.invalid/app\", sigstoreSigned by \
                     kbs:///default/cosign-key/1: ";
    let cases: &[Case<'_>] = &[
        (
            "no layer key",
            &|parts| parts.remove(LAYER_KEY),
            wrong,
            &["layer ", "it is encrypted", "no key default/key/k1"],
        ),
        (
            "another layer key",
            &|parts| parts.put(LAYER_KEY, [7; 32]),
            wrong,
            &[
                "layer ",
                "it is encrypted",
                "cannot be decrypted with its key",
            ],
        ),
        (
            "no signature",
            &|parts| parts.tag = "unsigned",
            wrong,
            &[by_policy, "there is no signature of sha256:"],
        ),
        (
            "a signature by another key",
            &|parts| parts.tag = "by-another",
            wrong,
            &[by_policy, "a signature of sha256:", "it is by another key"],
        ),
        (
            "a signature for another name",
            &|parts| parts.tag = "for-the-mirror",
            wrong,
            &[
                by_policy,
                "it is for \"",
                "which is not registry.invalid/app:for-the-mirror",
            ],
        ),
        (
            "no signing key",
            &|parts| parts.remove(SIGNING_KEY),
            wrong,
            &["a key of the image policy kbs:///default/cosign-key/1: there is none"],
        ),
        (
            "another thing than a signing key",
            &|parts| parts.put(SIGNING_KEY, "hunter3"),
            wrong,
            &[
                "the image policy kbs:///default/security-policy/test",
                "the key kbs:///default/cosign-key/1 is no public key",
            ],
        ),
        (
            "a policy that rejects",
            &|parts| parts.put(POLICY, policy(&json!({"type": "reject"}))),
            wrong,
            &[
                "the image policy kbs:///default/security-policy/test: it does not allow",
                ": reject",
            ],
        ),
        (
            "no policy",
            &|parts| parts.remove(POLICY),
            wrong,
            &["the image policy kbs:///default/security-policy/test: there is none"],
        ),
        (
            "a mirror that is away",
            &|parts| parts.replace(MIRROR, NOBODY),
            wrong,
            &[
                "before that, 127.0.0.1:2/private/app:good: 127.0.0.1:2 can't be reached: ",
                proxy_url,
                "answers 502",
            ],
        ),
        (
            "another login",
            &|parts| parts.put(CREDENTIAL, credential("hunter3")),
            wrong,
            &[
                from_mirror,
                "refuses the login of pod-vm by the entry 127.0.0.1:1: 401 ",
                "check the login for this registry in the credential kbs:///default/credential/test",
            ],
        ),
        (
            "no login",
            &|parts| parts.put(CREDENTIAL, r#"{"auths":{}}"#),
            wrong,
            &[
                from_mirror,
                "refuses an anonymous pull",
                "the credential kbs:///default/credential/test has no entry for 127.0.0.1:1",
            ],
        ),
        (
            "no credential",
            &|parts| parts.remove(CREDENTIAL),
            wrong,
            &[
                from_mirror,
                "refuses an anonymous pull",
                "there is no credential kbs:///default/credential/test",
            ],
        ),
        (
            "a credential that can't be read",
            &|parts| parts.put(CREDENTIAL, "hunter3"),
            wrong,
            &[
                "the credential kbs:///default/credential/test: ",
                "is broken: it is not an auth.json",
            ],
        ),
        (
            "no CA",
            &|parts| parts.replace(&stage.ca, ""),
            wrong,
            &[
                from_mirror,
                "invalid peer certificate",
                "extra_root_certificates in [image] of cdh.toml",
            ],
        ),
        (
            "a proxy that is away",
            &|parts| parts.replace(proxy, NOBODY),
            Code::UNAVAILABLE,
            &[
                from_mirror,
                "through the proxy http://127.0.0.1:2: Connection refused",
                "image_pull_proxy",
            ],
        ),
        (
            "another login of the proxy",
            &|parts| parts.replace("hunter2", "hunter3"),
            wrong,
            &[
                proxy_url,
                "refuses the login of vm (407); set https_proxy to ",
            ],
        ),
        (
            "no login of the proxy",
            &|parts| parts.replace("vm:hunter2@", ""),
            wrong,
            &[proxy_url, "wants a login (407); set https_proxy to "],
        ),
        (
            "a way past the proxy",
            &|parts| parts.replace("other.invalid", MIRROR),
            wrong,
            &[
                from_mirror,
                "without the proxy, since no_proxy has it: Connection refused",
            ],
        ),
        (
            "a blocked registry",
            &|parts| parts.replace("blocked = false", "blocked = true"),
            wrong,
            &["[[registry]] blocked: the configuration forbids images of registry.invalid"],
        ),
        (
            "an attestation-agent that refuses",
            &|parts| parts.replace("/agent.sock", "/refusing.sock"),
            wrong,
            &[
                "the image can't be measured by the attestation-agent at ",
                &refusing,
                "INTERNAL: no quote today",
            ],
        ),
    ];
    for (number, (what, change, code, said)) in cases.iter().enumerate() {
        let mut parts = stage.good.clone();
        change(&mut parts);
        parts.write(&stage.root);
        let (bundle, answer) = stage.both.pull(&parts.image(), &format!("bundle-{number}"));
        let (found, text) = answer.expect_err(what);
        assert_eq!(found, *code, "{what}: {text}");
        assert!(text.starts_with(&format!("{}: ", parts.image())), "{text}");
        assert!(text.len() <= 2000 && !text.contains('\n'), "{text}");
        for part in *said {
            assert!(text.contains(part), "{what}: {part}: {text}");
        }
        stage.assert_no_secret(&text);
        let is_pulled = what.contains("attestation-agent");
        stage.assert_nothing_left(&bundle, is_pulled);
    }
    stage.assert_no_secret(&stage.both.daemon.log());
    // The image was told to no agent but the one that refused it.
    assert_eq!(stage.events.try_iter().count(), 0);
    fs::remove_dir_all(&stage.both.store).unwrap();
    stage.good.write(&stage.root);
    stage.assert_runs();
}
