// SPDX-License-Identifier: Apache-2.0

//! Policies, signatures and encrypted layers.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use offline_fs_kbc::proto::api::GetResourceRequest;
use protobuf::Message as _;
use serde_json::json;

use super::{Point, World, either, plain, point, pulled, said};
use crate::registry::{copy_command, layout, run, tool};
use crate::subject::{Hub, OWN, Setting, rootfs};
use crate::tree::{Layer, Packing, write};

const SIGNATURES: &str = "Signatures and encryption";

/// Where the daemon and the stock hub have keys.
const KEYS: &str = "/etc/aa-offline_fs_kbc-keys.json";

pub fn points() -> Vec<Point> {
    vec![
        point(
            SIGNATURES,
            "unsigned",
            "an image without the signature that the policy wants",
            |world| by_policy(world, "unsigned", None, &key_policy),
        ),
        point(
            SIGNATURES,
            "signed",
            "one that cosign 2 signed by the policy's key",
            |world| by_policy(world, "signed", Some(("COSIGN_2", &[])), &key_policy),
        ),
        point(
            SIGNATURES,
            "bundle",
            "one that cosign 3 signed, as a bundle",
            |world| {
                let offline: &[&str] = &["--use-signing-config=false"];
                by_policy(world, "bundle", Some(("COSIGN", offline)), &key_policy)
            },
        ),
        point(
            SIGNATURES,
            "other-name",
            "one whose signature was made for another repository",
            other_name,
        ),
        point(
            SIGNATURES,
            "keyless",
            "a policy with keyless signatures (`fulcio`)",
            |world| {
                by_policy(world, "keyless", None, &|_| {
                    let fulcio = json!({"caData": "", "oidcIssuer": "https://issuer.example",
                    "subjectEmail": "user@example.com"});
                    let rule = json!({"type": "sigstoreSigned", "fulcio": fulcio, "rekorPublicKeyData": ""});
                    json!({"default": [rule], "transports": {}}).to_string()
                })
            },
        ),
        point(
            SIGNATURES,
            "misspelt",
            "a policy with a misspelt member (`signedIdentiy`)",
            |world| {
                by_policy(world, "misspelt", Some(("COSIGN_2", &[])), &|_| {
                    let rule = json!({"type": "sigstoreSigned", "keyPath": key_uri(),
                        "signedIdentiy": {"type": "exactRepository", "dockerRepository": "other.example/a"}});
                    json!({"default": [rule], "transports": {}}).to_string()
                })
            },
        ),
        point(
            SIGNATURES,
            "encrypted",
            "encrypted layers, compressed with gzip",
            |world| encrypted(world, "encrypted", Packing::Gzip),
        ),
        point(
            SIGNATURES,
            "encrypted-zstd",
            "encrypted layers, compressed with zstd",
            |world| encrypted(world, "encrypted-zstd", Packing::Zstd(21)),
        ),
        point(
            SIGNATURES,
            "key",
            "a container asks for the key of encrypted images (`GetResource`)",
            key_asked,
        ),
    ]
}

fn key_directory() -> PathBuf {
    let directory = Path::new(OWN).join("cosign");
    fs::create_dir_all(&directory).expect("a directory");
    directory
}

fn cosign(variable: &str) -> Command {
    let mut command = tool(variable, "cosign");
    let directory = key_directory();
    command.env("COSIGN_PASSWORD", "").env("HOME", &directory);
    command.current_dir(directory);
    command
}

/// The public key, which is made once.
fn public_key() -> PathBuf {
    let path = key_directory().join("own.pub");
    if !path.exists() {
        run(cosign("COSIGN_2").args(["generate-key-pair", "--output-key-prefix=own"]));
    }
    path
}

fn sign(variable: &str, image: &str, more: &[&str]) {
    public_key();
    let mut command = cosign(variable);
    command.args([
        "sign",
        "--yes",
        "--allow-insecure-registry",
        "--tlog-upload=false",
    ]);
    run(command.args(["--key", "own.key"]).args(more).arg(image));
}

/// The public key as policies name it.
fn key_uri() -> String {
    format!("file://{}", public_key().display())
}

/// A policy that wants a signature by the key.
fn key_policy(_: &str) -> String {
    json!({"default": [{"type": "sigstoreSigned", "keyPath": key_uri()}], "transports": {}})
        .to_string()
}

/// Pulls an image of this name under a policy.
fn pull_by_policy(world: &World, name: &str, policy: &str) -> String {
    let (address, authority) = world.registry.with_tls();
    let hub = Hub::start(&Setting {
        image: format!(
            "image_security_policy = '''{policy}'''\nextra_root_certificates = ['''{authority}''']\n"
        ),
        ..Setting::default()
    });
    let answer = hub.pull(&format!("{address}/{name}"), "c");
    match &answer {
        Ok(_) => pulled(&answer),
        Err(refused) => format!("refused: {}", said(refused)),
    }
}

fn by_policy(
    world: &World,
    name: &str,
    signed: Option<(&str, &[&str])>,
    policy: &dyn Fn(&str) -> String,
) -> String {
    let pushed = world.push_file(name, name.as_bytes());
    let (address, _) = world.registry.with_tls();
    if let Some((variable, more)) = signed {
        sign(variable, &format!("{address}/{}", pushed.name), more);
    }
    pull_by_policy(world, &pushed.name, &policy(address))
}

fn other_name(world: &World) -> String {
    let (one, other) = ("signed-here", "claimed-there");
    let (address, _) = world.registry.with_tls();
    let pushed = world.push_file(one, b"signed");
    world.push_file(other, b"signed");
    sign("COSIGN_2", &format!("{address}/{}", pushed.name), &[]);
    // The same image is in both; so its signature is a right one, but not for this name.
    let index = fs::read(layout(one).join("index.json")).expect("a layout");
    let index: serde_json::Value = serde_json::from_slice(&index).expect("JSON");
    let digest = index["manifests"][0]["digest"].as_str().expect("a digest");
    let tag = format!("{}.sig", digest.replace(':', "-"));
    let mut copy = copy_command();
    copy.arg("--src-tls-verify=false");
    copy.arg(format!("docker://{address}/{one}:{tag}"));
    run(copy.arg(format!("docker://{address}/{other}:{tag}")));
    pull_by_policy(world, &format!("{other}:1"), &key_policy(address))
}

/// Makes the key of encrypted images, once.
fn image_key(world: &World) {
    if !Path::new(KEYS).exists() {
        run(Command::new(&world.tool).args(["keygen", "default/key/k1", "--keys", KEYS]));
    }
}

fn encrypted(world: &World, name: &str, packing: Packing) -> String {
    image_key(world);
    let layout = layout(name);
    let layer = Layer::new().file("file", 0o644, b"a secret text");
    write(&layout, vec![layer], packing);
    let provider = Path::new(OWN).join("ocicrypt.conf");
    let args = json!(["keyprovider", "--keys", KEYS]);
    let text = json!({"key-providers": {"attestation-agent":
        {"cmd": {"path": world.tool, "args": args}}}});
    fs::write(&provider, text.to_string()).expect("a file");
    let mut command = copy_command();
    command.env("OCICRYPT_KEYPROVIDER_CONFIG", provider);
    command.args([
        "--encryption-key",
        "provider:attestation-agent:keyid=kbs:///default/key/k1",
    ]);
    world.registry.copy(&layout, name, &mut command);
    let address = &world.registry.address;
    let hub = Hub::start(&Setting {
        image: plain(address),
        ..Setting::default()
    });
    let answer = hub.pull(&format!("{address}/{name}:1"), "c");
    match &answer {
        Ok(_) => {
            let text = fs::read(rootfs("c").join("file")).unwrap_or_default();
            either(text == b"a secret text", "decrypted", "another content")
        }
        Err(_) => pulled(&answer),
    }
}

fn key_asked(world: &World) -> String {
    image_key(world);
    let hub = Hub::start(&Setting::default());
    let request = GetResourceRequest {
        ResourcePath: "kbs:///default/key/k1".to_owned(),
        ..GetResourceRequest::default()
    };
    let request = request.write_to_bytes().expect("a message encodes");
    match hub.call("api.GetResourceService", "GetResource", request) {
        Ok(_) => "gets it".to_owned(),
        Err(refused) => format!("refused: {}", said(&refused)),
    }
}
