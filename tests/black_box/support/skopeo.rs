// SPDX-License-Identifier: Apache-2.0

//! A stock skopeo, and images for it in OCI layouts.

use std::fs;
use std::io::{Seek as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::both::copy_to;
use super::daemon::output_within;
use super::registry::tar;

/// How long a copy of a small image may take: skopeo starts slowly on a busy machine.
const COPY: Duration = Duration::from_secs(60);

/// Where the Makefile unpacks skopeo.
pub fn skopeo() -> PathBuf {
    let path = match std::env::var_os("SKOPEO") {
        Some(path) => PathBuf::from(path),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("target/skopeo/usr/bin/skopeo"),
    };
    assert!(
        path.exists(),
        "{} is missing; `make skopeo` fetches it",
        path.display()
    );
    path
}

/// A command in `home`, where skopeo finds a policy that accepts any image and no login, and both
/// `skopeo` and `offline-fs-kbc` on its path.
pub fn command_with_skopeo(home: &Path, command: &str) -> Command {
    let config = home.join(".config/containers");
    fs::create_dir_all(&config).unwrap();
    let policy = json!({"default": [{"type": "insecureAcceptAnything"}]});
    fs::write(config.join("policy.json"), policy.to_string()).unwrap();
    let bin = home.join(".bin");
    fs::create_dir_all(&bin).unwrap();
    // guest-pull would be used where it is beside the program.
    let apart = copy_to(&home.join(".apart"), false);
    for (name, path) in [("skopeo", skopeo()), ("offline-fs-kbc", apart)] {
        let wrapper = bin.join(name);
        let _ = fs::remove_file(&wrapper);
        // skopeo's wrapper looks for files next to itself, so it can't be a link.
        fs::write(
            &wrapper,
            format!("#!/bin/sh\nexec '{}' \"$@\"\n", path.display()),
        )
        .unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&wrapper, mode).unwrap();
    }
    let mut path = bin.into_os_string();
    path.push(":");
    path.push(std::env::var_os("PATH").unwrap_or_default());
    let mut command = Command::new(command);
    command
        .current_dir(home)
        .env("PATH", path)
        .env("HOME", home)
        .env_remove("XDG_RUNTIME_DIR")
        .env_remove("REGISTRY_AUTH_FILE")
        .env_remove("OCICRYPT_KEYPROVIDER_CONFIG")
        .stdin(Stdio::null());
    command
}

/// Runs skopeo in `home`, and gives standard output, standard error and exit status.
pub fn run(home: &Path, provider: Option<&Path>, args: &[&str]) -> (String, String, Option<i32>) {
    let mut command = command_with_skopeo(home, "skopeo");
    if let Some(provider) = provider {
        command.env("OCICRYPT_KEYPROVIDER_CONFIG", provider);
    }
    output_within(command.args(args), COPY)
}

/// An image in the layout `dir` under the tag `1`, with a layer for each text.
pub fn write_image(dir: &Path, texts: &[&str]) {
    let archives = texts.iter().map(|text| tar("file", text.as_bytes()));
    write_layers(dir, &archives.collect::<Vec<_>>());
}

/// The same with these layers, tar archives.
pub fn write_layers(dir: &Path, archives: &[Vec<u8>]) {
    fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
    let blob = |kind: &str, content: &[u8]| {
        let digest = hex(content);
        fs::write(dir.join("blobs/sha256").join(&digest), content).unwrap();
        json!({"mediaType": format!("application/vnd.oci.image.{kind}"),
               "digest": format!("sha256:{digest}"), "size": content.len()})
    };
    let ids: Vec<_> = archives
        .iter()
        .map(|archive| format!("sha256:{}", hex(archive)))
        .collect();
    let config = json!({"architecture": "amd64", "os": "linux", "config": {},
        "rootfs": {"type": "layers", "diff_ids": ids}});
    let layers: Vec<_> = archives
        .iter()
        .map(|archive| blob("layer.v1.tar+gzip", &gzip(archive)))
        .collect();
    let manifest = json!({"schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob("config.v1+json", config.to_string().as_bytes()), "layers": layers});
    let mut manifest = blob("manifest.v1+json", manifest.to_string().as_bytes());
    manifest["annotations"] = json!({"org.opencontainers.image.ref.name": "1"});
    let index = json!({"schemaVersion": 2, "manifests": [manifest]});
    fs::write(dir.join("index.json"), index.to_string()).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
}

/// The layers of the one image in a layout: each descriptor with its content.
pub fn layers(dir: &Path) -> Vec<(Value, Vec<u8>)> {
    let read = |descriptor: &Value| {
        let digest = descriptor["digest"].as_str().unwrap();
        let digest = digest.strip_prefix("sha256:").unwrap();
        fs::read(dir.join("blobs/sha256").join(digest)).unwrap()
    };
    let index: Value = serde_json::from_slice(&fs::read(dir.join("index.json")).unwrap()).unwrap();
    let manifest: Value = serde_json::from_slice(&read(&index["manifests"][0])).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    layers
        .iter()
        .map(|layer| (layer.clone(), read(layer)))
        .collect()
}

fn hex(content: &[u8]) -> String {
    let digest = Sha256::digest(content);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn gzip(content: &[u8]) -> Vec<u8> {
    // By a file, so that neither side waits for the other.
    let mut input = tempfile::tempfile().unwrap();
    input.write_all(content).unwrap();
    input.rewind().unwrap();
    let mut command = Command::new("gzip");
    let output = command.arg("-nc").stdin(input).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout
}
