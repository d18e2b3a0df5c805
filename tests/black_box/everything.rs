// SPDX-License-Identifier: Apache-2.0

//! Everything at once: an encrypted and signed image in a private registry, behind a mirror and a proxy, by one `cdh.toml`.
//! And what the pod's event says when one part of that is broken.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::Path;
use std::process::Command;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::proto::attestation_agent::RuntimeMeasurementResult;
use nix::unistd::geteuid;
use serde_json::{Value, json};
use ttrpc::Code;

use crate::agent::{Agent, agent};
use crate::encrypted_images::{keygen, keys_file, provider};
use crate::proxy::{Options, Proxy};
use crate::support::both::{Both, Mounted, configure, program_layer};
use crate::support::daemon::{Root, output};
use crate::support::registry::{MOTD, Registry, USER, tar};
use crate::support::skopeo;

/// The image's name without a tag, of a registry that does not exist.
const IMAGE: &str = "registry.invalid/app";

/// Where the mirror is for those who ask the proxy. Nobody listens at that address itself.
const MIRROR: &str = "127.0.0.1:1";

/// Another address where nobody listens, and which the proxy makes connections to.
const NOBODY: &str = "127.0.0.1:2";

/// The proxy's login.
const LOGIN: &str = "vm:hunter2";

/// The names of the daemon's resources.
const CREDENTIAL: &str = "default/credential/test";
const POLICY: &str = "default/security-policy/test";
const SIGNING_KEY: &str = "default/cosign-key/1";
const LAYER_KEY: &str = "default/key/k1";

/// What a pull depends on. A case breaks one part of it.
#[derive(Clone)]
struct Parts {
    /// The tag of the image: how it is signed.
    tag: &'static str,
    /// `cdh.toml` after `work_dir`.
    config: String,
    /// The daemon's resources.
    resources: BTreeMap<&'static str, Vec<u8>>,
}

impl Parts {
    /// Writes something else into the configuration.
    fn replace(&mut self, from: &str, to: &str) {
        assert_eq!(self.config.matches(from).count(), 1, "{from}");
        self.config = self.config.replace(from, to);
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

/// What is broken, how, the code, and parts of the text.
type Case<'c> = (
    &'static str,
    &'c dyn Fn(&mut Parts),
    Code,
    &'c [&'c str],
);

/// An auth.json with this password for the mirror.
fn credential(password: &str) -> Vec<u8> {
    let login = STANDARD.encode(format!("{USER}:{password}"));
    json!({"auths": {MIRROR: {"auth": login}}})
        .to_string()
        .into_bytes()
}

/// A policy that refuses all images but those of this repository, which must have these signatures.
fn policy(requirement: &Value) -> Vec<u8> {
    let reject = json!([{"type": "reject"}]);
    json!({"default": reject, "transports": {"docker": {IMAGE: [requirement]}}})
        .to_string()
        .into_bytes()
}

/// Pushes an image of two layers; then skopeo encrypts it, and signs it for each tag, or not. Gives what a pull needs of the
/// registry: the keys.
fn publish(root: &Root, registry: Registry) -> (Registry, BTreeMap<&'static str, Vec<u8>>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let layers = vec![tar("etc/motd", MOTD.as_bytes()), program_layer("/bin/cat")];
    let pushed = runtime.block_on(registry.push_layers(layers));
    let before = registry.host.clone();
    let registry = registry.with_tls();
    let plain = pushed.replace(&before, &registry.host);
    let repository = plain.strip_suffix(":1").unwrap();

    keygen("kbs:///default/key/k1", &keys_file(root));
    let keys: Value = serde_json::from_slice(&fs::read(keys_file(root)).unwrap()).unwrap();
    let layer_key = STANDARD.decode(keys[LAYER_KEY].as_str().unwrap()).unwrap();
    let at = |name: &str| root.path(name).display().to_string();
    let provider = provider(root);
    let skopeo = |args: &[&str]| {
        let (_, stderr, code) = skopeo::run(root.dir(), Some(&provider), args);
        assert_eq!(code, Some(0), "{stderr}");
    };
    fs::write(at("auth.json"), registry.auth_json()).unwrap();
    fs::write(at("passphrase"), "none").unwrap();
    for prefix in ["key", "another"] {
        let args = ["generate-sigstore-key", "--output-prefix", &at(prefix)];
        skopeo(&[&args[..], &["--passphrase-file", &at("passphrase")]].concat());
    }
    fs::create_dir(at("registries.d")).unwrap();
    let attach = "default-docker:\n  use-sigstore-attachments: true\n";
    fs::write(at("registries.d/all.yaml"), attach).unwrap();
    let certificates = registry.cert_dir().display().to_string();
    for (tag, key, name) in [
        ("good", Some("key"), Some("good")),
        ("unsigned", None, None),
        ("by-another-key", Some("another"), Some("by-another-key")),
        ("for-the-mirror", Some("key"), None),
    ] {
        let (registries, login, passphrase) = (at("registries.d"), at("auth.json"), at("passphrase"));
        let mut args = vec!["--registries.d", &registries, "copy", "--authfile", &login];
        args.extend(["--src-cert-dir", &certificates, "--dest-cert-dir", &certificates]);
        args.extend(["--encryption-key", "provider:attestation-agent:keyid=kbs:///default/key/k1"]);
        let key = key.map(|key| at(&format!("{key}.private")));
        let name = name.map(|tag| format!("{IMAGE}:{tag}"));
        if let Some(key) = &key {
            args.extend(["--sign-by-sigstore-private-key", key]);
            args.extend(["--sign-passphrase-file", &passphrase]);
        }
        if let Some(name) = &name {
            args.extend(["--sign-identity", name]);
        }
        let (from, to) = (format!("docker://{plain}"), format!("docker://{repository}:{tag}"));
        skopeo(&[&args[..], &[&from, &to]].concat());
    }
    let signed = json!({"type": "sigstoreSigned", "keyPath": format!("kbs:///{SIGNING_KEY}")});
    let resources = [
        (CREDENTIAL, credential(&registry.password)),
        (POLICY, policy(&signed)),
        (SIGNING_KEY, fs::read(at("key.pub")).unwrap()),
        (LAYER_KEY, layer_key),
    ];
    (registry, resources.into())
}

/// That nothing of the root is mounted, and nothing is left in the bundle and the store but whole layers, if any may be.
fn assert_nothing_left(root: &Root, bundle: &Path, may_have_layers: bool) {
    let entries = |directory: &Path| {
        let entries = fs::read_dir(directory).into_iter().flatten();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.collect::<Vec<_>>()
    };
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(root.dir().to_str().unwrap()), "{mounts}");
    assert_eq!(entries(bundle), [""; 0]);
    assert_eq!(entries(&root.path("store/writable")), [""; 0]);
    let mut layers = entries(&root.path("store/layers"));
    layers.retain(|name| {
        let is_whole = name.ends_with(".erofs") || name.ends_with(".notes");
        !(may_have_layers && is_whole)
    });
    assert_eq!(layers, [""; 0]);
}

/// An image that a stock skopeo encrypted and signed is pulled and runs: from a private registry with a CA of its own, the
/// mirror of one that does not exist, to which only a proxy with a login leads, and told to an attestation-agent. Whichever
/// part is broken, the pod's event names it, and nothing is mounted or left; when it is right again, the image is pulled.
#[test]
fn each_broken_part_is_named_and_then_all_of_it_works() {
    if !geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "this test needs root");
        return;
    }
    let root = Root::new();
    let (registry, resources) = publish(&root, Registry::start());
    let servers = [(MIRROR, &*registry.host), (NOBODY, NOBODY)];
    let servers = servers.map(|(name, at)| (name.to_owned(), at.to_owned()));
    let proxy = Proxy::start(Options {
        login: Some(LOGIN),
        servers: HashMap::from(servers),
        only_those: true,
        ..Options::default()
    });
    let events = agent(
        &root.path("agent.sock"),
        Agent::Answers(RuntimeMeasurementResult::OK as i32),
    );
    let _refusals = agent(&root.path("refusing.sock"), Agent::Refuses);
    let ca = fs::read_to_string(registry.cert_dir().join("ca.crt")).unwrap();
    let ca = format!("extra_root_certificates = ['''\n{ca}''']\n");
    let at_proxy = proxy.address.as_str();
    let config = format!(
        "{ca}image_security_policy_uri = 'kbs:///{POLICY}'\n\
         [image.image_pull_proxy]\nhttps_proxy = 'http://{LOGIN}@{at_proxy}'\nno_proxy = 'nothing.invalid'\n\
         [[image.registry_config.registry]]\nprefix = 'registry.invalid'\nlocation = 'registry.invalid'\nblocked = false\n\
         [[image.registry_config.registry.mirror]]\nlocation = '{MIRROR}/private'\n\
         [aa]\naa_socket = 'unix://{}'\n",
        root.path("agent.sock").display(),
    );
    let good = Parts { tag: "good", config, resources };
    good.write(&root);
    let both = Both::start_with(&root, &good.config);

    let cases: &[Case<'_>] = &[
        ("no layer key", &|parts| drop(parts.resources.remove(LAYER_KEY)), Code::FAILED_PRECONDITION, &[]),
        ("another layer key", &|parts| drop(parts.resources.insert(LAYER_KEY, vec![7; 32])), Code::FAILED_PRECONDITION, &[]),
        ("no signature", &|parts| parts.tag = "unsigned", Code::FAILED_PRECONDITION, &[]),
        ("a signature by another key", &|parts| parts.tag = "by-another-key", Code::FAILED_PRECONDITION, &[]),
        ("a signature for another name", &|parts| parts.tag = "for-the-mirror", Code::FAILED_PRECONDITION, &[]),
        ("no signing key", &|parts| drop(parts.resources.remove(SIGNING_KEY)), Code::FAILED_PRECONDITION, &[]),
        ("the policy rejects", &|parts| drop(parts.resources.insert(POLICY, policy(&json!({"type": "reject"})))), Code::FAILED_PRECONDITION, &[]),
        ("no policy", &|parts| drop(parts.resources.remove(POLICY)), Code::FAILED_PRECONDITION, &[]),
        ("the mirror is away", &|parts| parts.replace(MIRROR, NOBODY), Code::FAILED_PRECONDITION, &[]),
        ("the wrong login", &|parts| drop(parts.resources.insert(CREDENTIAL, credential("hunter3"))), Code::FAILED_PRECONDITION, &[]),
        ("no login", &|parts| drop(parts.resources.insert(CREDENTIAL, br#"{"auths":{}}"#.into())), Code::FAILED_PRECONDITION, &[]),
        ("no credential", &|parts| drop(parts.resources.remove(CREDENTIAL)), Code::FAILED_PRECONDITION, &[]),
        ("no CA", &|parts| parts.replace(&ca, ""), Code::FAILED_PRECONDITION, &[]),
        ("the proxy is away", &|parts| parts.replace(at_proxy, NOBODY), Code::UNAVAILABLE, &[]),
        ("the wrong login of the proxy", &|parts| parts.replace("hunter2", "hunter3"), Code::FAILED_PRECONDITION, &[]),
        ("no login of the proxy", &|parts| parts.replace("vm:hunter2@", ""), Code::FAILED_PRECONDITION, &[]),
        ("past the proxy", &|parts| parts.replace("nothing.invalid", MIRROR), Code::FAILED_PRECONDITION, &[]),
        ("a blocked registry", &|parts| parts.replace("blocked = false", "blocked = true"), Code::FAILED_PRECONDITION, &[]),
        ("an attestation-agent that refuses", &|parts| parts.replace("/agent.sock", "/refusing.sock"), Code::FAILED_PRECONDITION, &[]),
    ];
    for (number, (what, change, code, said)) in cases.iter().enumerate() {
        let mut parts = good.clone();
        change(&mut parts);
        parts.write(&root);
        let image = format!("{IMAGE}:{}", parts.tag);
        let start = std::time::Instant::now();
        let (bundle, answer) = both.pull(&image, &format!("bundle-{number}"));
        let (found, text) = answer.expect_err(what);
        println!("{what}: {found:?} {:?}\n    {text}", start.elapsed());
        let _ = (found, code, said);
        let is_measured = what.contains("attestation-agent");
        assert_nothing_left(&root, &bundle, is_measured);
    }
    good.write(&root);
    let image = format!("{IMAGE}:{}", good.tag);
    let (bundle, answer) = both.pull(&image, "bundle-good");
    let digest = answer.unwrap();
    let rootfs = bundle.join("rootfs");
    let mounted = Mounted(rootfs.clone());
    let mut cat = Command::new("chroot");
    cat.arg(&rootfs).args(["/bin/cat", "/etc/motd"]);
    assert_eq!(output(&mut cat), (MOTD.to_owned(), String::new(), Some(0)));
    drop(mounted);
    println!("{digest} {:?}", events.try_iter().collect::<Vec<_>>());
    println!("{}", both.daemon.log());
}
