// SPDX-License-Identifier: Apache-2.0

//! Secrets do not leak: not into freed memory, and not into any output.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use aes_gcm::aead::AeadInOut as _;
use aes_gcm::{Aes256Gcm, KeyInit as _};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use nix::unistd::geteuid;
use offline_fs_kbc::proto::keyprovider::{
    KeyProviderKeyWrapProtocolInput, KeyProviderKeyWrapProtocolOutput,
};
use serde_json::json;

use crate::marked::{assert_absent, assert_absent_below, assert_closed, count, search, traces};
use crate::proxy::{Options, Proxy};
use crate::support::both::{Both, Mounted, configure, registry_with};
use crate::support::daemon::{Daemon, Root, command, one, output, started_by};
use crate::support::registry::{MOTD, tar};
use crate::support::wait_for;
use crate::support::wire::{Wire, call, g2, get, get_frame};

/// A text that occurs only in the secret.
const MARK: &str = "mArKeD-sEcReT-7f3a91c2e5d8b604";

/// The login of a proxy, with the mark.
const PROXY_LOGIN: &str = "vm:mArKeD-sEcReT-7f3a91c2e5d8b604";

/// How often each trace of the mark is found in the memory of the process.
fn found_in_memory(daemon: &Daemon) -> [usize; 4] {
    search(daemon.pid(), &traces(MARK)).try_into().unwrap()
}

/// Once its file is gone, a secret that was served over a connection that is still open is in no page of the
/// daemon: neither the secret nor the base64 from the file.
#[test]
fn a_dropped_secret_is_in_no_page() {
    if !geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "this test needs root");
        eprintln!("left out: only root may read the memory of a process that is not dumpable");
        return;
    }
    // Secrets of a few bytes, of some pages, and of blocks that the allocator maps separately; the marks are
    // at every alignment. A value with an escape is parsed in another way.
    for (marks, escaped) in [(1, false), (1_000, false), (20_000, false), (1_000, true)] {
        let secret = format!("{MARK}-").repeat(marks);
        let text = one("Credential", &secret);
        let text = if escaped {
            text.replace('b', "\\u0062")
        } else {
            text
        };
        let root = Root::with(&text);
        let mut command = command();
        command.args(["serve", "--repair-credential", "off", "--root"]);
        command.arg(root.dir());
        let daemon = Daemon::start(command, &root.socket());
        let mut wire = Wire::connect(&root.socket());
        let ask = get_frame(1, &g2("/default/credential/test"));
        for _ in 0..3 {
            assert_eq!(wire.ask(&ask).unwrap(), secret.as_bytes());
        }
        assert!(
            found_in_memory(&daemon)[0] >= marks,
            "the search finds what is there"
        );
        // Where the program is not optimised, decoding leaves pieces of what it decodes on the stack, which the next decoding
        // overwrites. The value has another length, so that it gets no block of the heap that the secret had.
        root.rename_resources(&one("Policy", "x".repeat(100)));
        wire.ask(&ask).unwrap_err();
        assert_eq!(found_in_memory(&daemon), [0; 4], "{marks} {escaped}");
    }
}

/// The same for a key and for the layer's key that it unwrapped, which is sent as a list of numbers.
#[test]
fn a_dropped_key_is_in_no_page() {
    if !geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "this test needs root");
        return;
    }
    let key: [u8; 32] = format!("{MARK}--").into_bytes().try_into().unwrap();
    let layer_key = format!("{MARK}-").repeat(1_000);
    let mut wrapped = layer_key.clone().into_bytes();
    let tag = Aes256Gcm::new(&key.into())
        .encrypt_inout_detached(&[0; 12].into(), &[], wrapped.as_mut_slice().into())
        .unwrap();
    wrapped.extend_from_slice(&tag);
    let packet = json!({"kid": "default/key/1", "wrap_type": "A256GCM",
        "iv": STANDARD.encode([0; 12]), "wrapped_data": STANDARD.encode(wrapped)});
    let annotation = STANDARD.encode(packet.to_string());
    let request = json!({"op": "keyunwrap", "keyunwrapparams": {"annotation": annotation}});
    let input = KeyProviderKeyWrapProtocolInput {
        KeyProviderKeyWrapProtocolInput: request.to_string().into_bytes(),
        ..KeyProviderKeyWrapProtocolInput::default()
    };
    let numbers = json!(MARK.as_bytes()).to_string();
    let numbers = numbers.trim_matches(['[', ']']).as_bytes();

    let root = Root::new();
    root.write_keys(&one("default/key/1", key));
    let mut command = command();
    command.args(["serve", "--root"]).arg(root.dir());
    let daemon = Daemon::start(command, &root.socket_called("keyprovider.sock"));
    let unwrap = || {
        let socket = root.socket_called("keyprovider.sock");
        let service = "keyprovider.KeyProviderService";
        call::<KeyProviderKeyWrapProtocolOutput>(&socket, service, "UnWrapKey", &input)
    };
    for _ in 0..3 {
        let answer = unwrap().unwrap().KeyProviderKeyWrapProtocolOutput;
        assert_eq!(count(&answer, &[numbers.to_vec()]), [1_000]);
    }
    assert!(
        found_in_memory(&daemon)[0] > 0,
        "the search finds what is there"
    );
    root.write_keys("{}");
    unwrap().unwrap_err();
    assert_eq!(found_in_memory(&daemon), [0; 4]);
    assert_eq!(search(daemon.pid(), &[numbers.to_vec()]), [0]);
}

/// Every command, on every kind of wrong input, at the most verbose level: no output has the mark.
#[test]
fn no_output_has_a_value() {
    let root = Root::new();
    let encoded = STANDARD.encode(MARK);
    let auth = json!({"auths": {"q": {"auth": STANDARD.encode(MARK)}}}).to_string();
    let texts = [
        MARK.to_owned(),
        json!(MARK).to_string(),
        json!([MARK]).to_string(),
        json!({"Credential": MARK}).to_string(),
        json!({"Credential": {"a": MARK}}).to_string(),
        json!({"Credential": encoded, "Policy": format!("{encoded}!")}).to_string(),
        format!("{{\"Credential\":\"{encoded}\n{encoded}\"}}"),
        format!("{{\"Credential\":\"{encoded}"),
        format!("{{\"{encoded}\"}}"),
        one("Credential", &auth),
        one("Credential", format!("{auth}{MARK}")),
        one("Credential", json!({"auths": {"q": MARK}}).to_string()),
        one(
            "Credential",
            json!({"auths": {"q": {"auth": 1, "x": MARK}}}).to_string(),
        ),
        one("default/key/1", MARK),
    ];
    let traces = traces(MARK);
    let check = |what: &str, text: &str| assert_absent(what, text.as_bytes(), &traces);
    let file = root.path("input").display().to_string();
    let keys = root.path("keys.json").display().to_string();
    let out = root.path("out").display().to_string();
    let resource = format!("a/b/c={file}");
    let daemon = {
        let mut command = root.serve_hub();
        command.env("RUST_LOG", "trace").env("RUST_BACKTRACE", "1");
        Daemon::start(command, &root.socket())
    };
    let dir = root.dir().display().to_string();
    for text in &texts {
        fs::write(&file, text).unwrap();
        fs::write(&keys, text).unwrap();
        root.rename_resources(text);
        root.write_keys(text);
        // As seal wants a private key.
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        for args in [
            &["unpack", &file, "-C", &out, "--force"][..],
            &["unpack", &keys, "-C", &out, "--force"],
            &["pack", "--merge", &file, "-o", "/dev/null"],
            &[
                "pack",
                "--merge",
                &file,
                "--format",
                "cloud-config",
                "-o",
                "/dev/null",
            ],
            &[
                "pack",
                "--resource",
                &resource,
                "--format",
                "cloud-config",
                "--daemon-json",
                &file,
                "-o",
                "/dev/null",
            ],
            &["keygen", "default/key/1", "--keys", &keys],
            &["seal", "a/b/c", "--key", &file, "--kid", "k"],
            &["unseal", "--show", "-", "--key", &file],
            &["unseal", "--show", "-", "--no-verify"],
            &["keyprovider", "--keys", &keys],
            &["check", &file],
            &["check", &keys],
            &["check", "--root", &dir],
            &[
                "check", "--root", &dir, "--format", "json", "--image", "q/a",
            ],
            &["check", "--as", "auth", "--image", "q/a", &file],
            &["check", "--as", "policy", &file],
            &["check", "--as", "user-data", &file],
            &["status", "--root", &dir],
            &["status", "--root", &dir, "--format", "json"],
            &["pack", "--credential", &file, "-o", "/dev/null"],
            &[
                "pack",
                "--credential",
                &file,
                "--policy",
                &file,
                "-o",
                "/nonexistent/x",
            ],
            &["get", "Policy", "--root", &dir, "--output", "/dev/null"],
            &["get", "a/b/c", "--root", &dir],
            &[
                "get",
                "default/key/1",
                "--root",
                &dir,
                "--output",
                "/dev/null",
            ],
        ] {
            let mut command = command();
            command.args(args).env("RUST_BACKTRACE", "1");
            let (stdout, stderr, _) = output(command.stdin(fs::File::open(&file).unwrap()));
            check(&args.join(" "), &stdout);
            check(&args.join(" "), &stderr);
        }
    }
    wait_for("the log", || daemon.log().contains("ERROR").then_some(()));
    check("the log", &daemon.log());
    // Nor is it in an argument or the environment of the process.
    assert_closed(daemon.pid(), &[], &traces);
}

/// guest-pull, started by the daemon: neither an answer, nor the log that both write, nor a file of the store or the bundle
/// has a secret, whatever the credential and the configuration are.
#[test]
fn no_output_of_a_pull_has_a_value() {
    let (registry, image) = registry_with(vec![tar("etc/motd", MOTD.as_bytes())]);
    let root = Root::with(&one("Credential", registry.auth_json()));
    let proxy = Proxy::start(Options {
        login: Some(PROXY_LOGIN),
        ..Options::default()
    });
    let ca = fs::read_to_string(registry.cert_dir().join("ca.crt")).unwrap();
    let ca = format!("extra_root_certificates = ['''\n{ca}''']\n");
    let through = |url: &str| format!("{ca}[image.image_pull_proxy]\nhttps_proxy = '{url}'\n");
    let good = through(&format!("http://{PROXY_LOGIN}@{}", proxy.address));
    let both = Both::start_with(&root, &good);
    let traces = [traces(MARK), traces(&registry.password)].concat();
    let check = |what: &str, bytes: &[u8]| assert_absent(what, bytes, &traces);
    let pull = |what: &str| {
        let (bundle, answer) = both.pull(&image, "bundle");
        let _mounted = answer.is_ok().then(|| Mounted(bundle.join("rootfs")));
        let said = match &answer {
            Ok(digest) => digest.clone(),
            Err((code, text)) => format!("{code:?} {text}"),
        };
        check(what, said.as_bytes());
        check("the log", both.daemon.log().as_bytes());
        assert_absent_below(&bundle, &traces);
        assert_absent_below(&both.store, &traces);
        said
    };
    // So the marks are where they are looked for.
    let said = pull("the good one");
    assert!(
        said.starts_with("sha256:") || !geteuid().is_root(),
        "{said}"
    );
    assert!(!proxy.asked().is_empty());
    let entry = |value: serde_json::Value| json!({"auths": {registry.host.clone(): value}});
    for credential in [
        registry.auth_json_with(MARK),
        entry(json!({"auth": MARK})).to_string(),
        entry(json!({"identitytoken": MARK})).to_string(),
        entry(json!({"registrytoken": MARK})).to_string(),
        entry(json!({"registrytoken": format!("{MARK}\u{1}")})).to_string(),
        entry(json!({"username": "u", "password": MARK})).to_string(),
        entry(json!(MARK)).to_string(),
        json!({"auths": MARK}).to_string(),
        format!("{{\"auths\":{{\"{MARK}"),
        MARK.to_owned(),
    ] {
        root.rename_resources(&one("Credential", &credential));
        pull(&credential);
    }
    root.rename_resources(&one("Credential", registry.auth_json()));
    for config in [
        through(&format!("http://vm:{MARK}@{}", "127.0.0.1:1")),
        through(&format!("http://vm:{MARK}2@{}", proxy.address)),
        through(&format!("http://vm:{MARK}/@{}", proxy.address)),
        through(&format!("socks5://vm:{MARK}@{}", proxy.address)),
        format!("{good}no_proxy = '{MARK}*'\n"),
        format!("{good}{MARK}\n"),
        format!("{good}[image.image_pull_proxy]\nhttp_proxy = '{MARK}'\n"),
        format!("{ca}image_pull_proxy = 'http://vm:{MARK}@p:1'\n"),
        format!("{ca}authenticated_registry_credentials_uri = 'file:///{MARK}\n"),
    ] {
        configure(&root, &config);
        pull(&config);
    }
}

/// Another process of the same user, without root's rights, can't trace the daemon.
#[test]
fn the_process_is_not_traceable() {
    let root = Root::new();
    let daemon = root.start();
    let path = format!("/proc/{}/mem", daemon.pid());
    let mut command = Command::new("setpriv");
    command.args([
        "--bounding-set=-all",
        "--inh-caps=-all",
        "--",
        "head",
        "-c",
        "1",
        &path,
    ]);
    let (_, stderr, code) = output(&mut command);
    assert_ne!(code, Some(0));
    assert!(stderr.contains("Permission denied"), "{stderr}");
}

/// Memory is kept out of swap; if that is not possible, the log says so and what to do.
#[test]
fn memory_is_locked_or_warned_about() {
    let root = Root::with(&one("Credential", "x"));
    let daemon = root.start();
    let refused = |daemon: &Daemon| daemon.log().contains("can't lock memory");
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmLck:"));
    let locked = line.unwrap().trim() != "0 kB";
    assert_ne!(locked, refused(&daemon), "{status}");
    assert!(locked || std::env::var_os("CI").is_none(), "{status}");
    drop(daemon);
    // Without the capability to raise it, the limit applies.
    let powerless = [
        "--memlock=65536:65536",
        "setpriv",
        "--bounding-set=-sys_resource,-ipc_lock",
        "--inh-caps=-all",
    ];
    let command = started_by("prlimit", &powerless, &root.serve());
    let daemon = Daemon::start(command, &root.socket());
    assert!(refused(&daemon), "{}", daemon.log());
    assert_eq!(
        get(&root.socket(), &g2("/default/credential/test")).unwrap(),
        b"x"
    );
}
