// SPDX-License-Identifier: Apache-2.0

//! Encrypted layers, made by the command `openssl`: another implementation than the one under test. And the daemon that
//! unwraps their keys, played by a server of the tests.

// Each of the tests' programs uses a part of it.
#![allow(dead_code)]

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use common::client::read_frame;
use common::proto::keyprovider::{
    KeyProviderKeyWrapProtocolInput, KeyProviderKeyWrapProtocolOutput,
};
use guest_pull::digest::Digest;
use protobuf::Message as _;
use serde_json::{Value, json};
use ttrpc::proto::MESSAGE_TYPE_RESPONSE;
use ttrpc::{Code, MessageHeader, Request, Response, get_status};

use crate::host::{PATIENCE, run, text, tool};
use crate::image::Repository;

/// The annotations' common beginning.
pub const ENC: &str = "org.opencontainers.image.enc.";

/// The provider of this project.
pub const OURS: &str = "attestation-agent";

/// An encrypted layer, with all that a manifest and a key provider say of it. Tests change what they like.
#[derive(Clone, Debug)]
pub struct Sealed {
    pub media_type: String,
    pub blob: Vec<u8>,
    pub diff_id: String,
    pub key: Vec<u8>,
    /// What a key provider unwraps.
    pub secret: Value,
    /// What the manifest says.
    pub public: Value,
    /// The other annotations, and the one with `public` if a test wants another.
    pub annotations: Value,
}

fn random(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    let mut source = fs::File::open("/dev/urandom").unwrap();
    source.read_exact(&mut bytes).unwrap();
    bytes
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a program makes of its input.
fn through(command: &mut Command, input: &[u8]) -> Vec<u8> {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut to = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writing = thread::spawn(move || to.write_all(&input));
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap().unwrap();
    assert!(output.status.success(), "{command:?}");
    output.stdout
}

/// Whether the command is there. Where it must be (CI is set), the test fails without it.
pub fn has_openssl() -> bool {
    let found = tool("OPENSSL", "openssl").arg("version").output().is_ok();
    let must = std::env::var_os("CI").is_some();
    assert!(found || !must, "this test needs the command openssl");
    found
}

/// The HMAC-SHA256 of a blob.
pub fn hmac(key: &[u8], blob: &[u8]) -> Vec<u8> {
    let mut command = tool("OPENSSL", "openssl");
    let key = format!("hexkey:{}", hex(key));
    command.args([
        "dgst", "-sha256", "-mac", "HMAC", "-macopt", &key, "-binary",
    ]);
    through(&mut command, blob)
}

/// A blob in counter mode.
pub fn encrypt(key: &[u8], nonce: &[u8], blob: &[u8]) -> Vec<u8> {
    let mut command = tool("OPENSSL", "openssl");
    command.args(["enc", "-aes-256-ctr", "-K", &hex(key), "-iv", &hex(nonce)]);
    through(&mut command, blob)
}

/// How a layer is compressed, as its media type says it.
pub const COMPRESSIONS: [&str; 3] = ["", "+gzip", "+zstd"];

impl Sealed {
    /// Encrypts an archive, with a key of its own.
    pub fn of(archive: &[u8], compression: &str) -> Self {
        let blob = match compression {
            "" => archive.to_vec(),
            "+gzip" => through(Command::new("gzip").arg("-nc"), archive),
            _ => through(Command::new("zstd").args(["-q", "-c"]), archive),
        };
        let (key, nonce) = (random(32), random(16));
        let blob = encrypt(&key, &nonce, &blob);
        let packet = STANDARD.encode(r#"{"kid":"here"}"#);
        Self {
            media_type: format!("application/vnd.oci.image.layer.v1.tar{compression}+encrypted"),
            diff_id: Digest::of(archive).to_string(),
            secret: json!({"symkey": STANDARD.encode(&key), "digest": "",
                "cipheroptions": {"nonce": STANDARD.encode(nonce)}}),
            public: json!({"cipher": "AES_256_CTR_HMAC_SHA256", "cipheroptions": {},
                "hmac": STANDARD.encode(hmac(&key, &blob))}),
            annotations: json!({format!("{ENC}keys.provider.{OURS}"): packet}),
            key,
            blob,
        }
    }

    /// The keys of a provider, each for one recipient.
    pub fn keys(&mut self, provider: &str, packets: &[&str]) {
        let packets: Vec<_> = packets
            .iter()
            .map(|packet| STANDARD.encode(packet))
            .collect();
        self.annotate(&format!("keys.{provider}"), &packets.join(","));
    }

    /// An annotation about encryption.
    pub fn annotate(&mut self, name: &str, value: &str) {
        self.annotations[format!("{ENC}{name}")] = value.into();
    }

    /// No key is in any annotation.
    pub fn remove_keys(&mut self) {
        self.annotations = json!({});
    }

    fn descriptor(&self, repository: &mut Repository) -> Value {
        let mut annotations = self.annotations.clone();
        let public = annotations.as_object_mut().unwrap();
        let options = STANDARD.encode(self.public.to_string());
        public
            .entry(format!("{ENC}pubopts"))
            .or_insert(options.into());
        // How a test says that there is none.
        public.retain(|_, value| !value.is_null());
        json!({"mediaType": self.media_type, "size": self.blob.len(),
            "digest": repository.put(self.blob.clone()), "annotations": annotations})
    }
}

/// A repository of one image with these layers.
pub fn repository(layers: &[Sealed]) -> Repository {
    let mut repository = Repository::default();
    let mut put = |media_type: &str, document: &Value| {
        let text = document.to_string();
        json!({"mediaType": format!("application/vnd.oci.image.{media_type}+json"), "size": text.len(),
            "digest": repository.put(text.into())})
    };
    let diff_ids: Vec<_> = layers.iter().map(|layer| &layer.diff_id).collect();
    let config = json!({"os": "linux", "architecture": "amd64",
        "rootfs": {"type": "layers", "diff_ids": diff_ids}});
    let config = put("config.v1", &config);
    let layers: Vec<_> = layers
        .iter()
        .map(|layer| layer.descriptor(&mut repository))
        .collect();
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers,
        "mediaType": "application/vnd.oci.image.manifest.v1+json"});
    repository.tag = repository.put(manifest.to_string().into());
    repository
}

/// What a key provider unwraps for a packet.
type Unwrapping = dyn Fn(&str) -> Result<Vec<u8>, Code> + Send + Sync;

/// A daemon on a socket that unwraps keys, and tells which packets it was asked for.
pub struct Provider {
    asked: Arc<Mutex<Vec<String>>>,
}

impl Provider {
    pub fn start(
        socket: &Path,
        unwrapping: impl Fn(&str) -> Result<Vec<u8>, Code> + Send + Sync + 'static,
    ) -> Self {
        let asked = Arc::<Mutex<Vec<_>>>::default();
        let started = Self {
            asked: Arc::clone(&asked),
        };
        let listener = UnixListener::bind(socket).unwrap();
        thread::spawn(move || {
            for stream in listener.incoming() {
                answer(stream.unwrap(), &unwrapping, &asked);
            }
        });
        started
    }

    /// One that has the secret options of each layer under `here`, and those of a number under `here-NUMBER`.
    pub fn of(socket: &Path, layers: &[Sealed]) -> Self {
        let secrets: Vec<_> = layers
            .iter()
            .map(|layer| layer.secret.to_string())
            .collect();
        Self::start(socket, move |packet| {
            let kid: Value = serde_json::from_str(packet).map_err(|_| Code::INVALID_ARGUMENT)?;
            let kid = kid["kid"].as_str().ok_or(Code::INVALID_ARGUMENT)?;
            let number = kid.strip_prefix("here").ok_or(Code::NOT_FOUND)?;
            let number: usize = number.trim_start_matches('-').parse().unwrap_or_default();
            Ok(secrets[number].clone().into_bytes())
        })
    }

    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

fn answer(mut stream: UnixStream, unwrapping: &Unwrapping, asked: &Mutex<Vec<String>>) {
    let (header, body) = read_frame(&mut stream, Instant::now() + PATIENCE)
        .unwrap()
        .unwrap();
    let request = Request::parse_from_bytes(&body).unwrap();
    assert_eq!(
        (&*request.service, &*request.method),
        ("keyprovider.KeyProviderService", "UnWrapKey")
    );
    let input = KeyProviderKeyWrapProtocolInput::parse_from_bytes(&request.payload).unwrap();
    let input: Value = serde_json::from_slice(&input.KeyProviderKeyWrapProtocolInput).unwrap();
    assert_eq!(input["op"], "keyunwrap");
    let packet = input["keyunwrapparams"]["annotation"].as_str().unwrap();
    let packet = String::from_utf8(STANDARD.decode(packet).unwrap()).unwrap();
    let mut response = Response::new();
    match unwrapping(&packet) {
        Ok(options) => {
            response.set_status(get_status(Code::OK, ""));
            let output = KeyProviderKeyWrapProtocolOutput {
                KeyProviderKeyWrapProtocolOutput:
                    json!({"keyunwrapresults": {"optsdata": options}})
                        .to_string()
                        .into_bytes(),
                ..Default::default()
            };
            response.payload = output.write_to_bytes().unwrap();
        }
        Err(code) => response.set_status(get_status(code, format!("not for {packet}"))),
    }
    asked.lock().unwrap().push(packet);
    let body = response.write_to_bytes().unwrap();
    let header = MessageHeader {
        length: body.len().try_into().unwrap(),
        stream_id: header.stream_id,
        type_: MESSAGE_TYPE_RESPONSE,
        flags: 0,
    };
    // The client may be gone.
    let _ = stream.write_all(&[Vec::from(header), body].concat());
}

/// Fails if a text shows a key, in any form that a program writes.
pub fn assert_no_key(said: &str, key: &[u8]) {
    let numbers: Vec<_> = key[..4].iter().map(u8::to_string).collect();
    for shown in [
        STANDARD.encode(&key[..30]),
        hex(&key[..8]),
        numbers.join(", "),
        numbers.join(","),
    ] {
        assert!(!said.contains(&shown), "{said}");
    }
}

/// The digests of the files in a store, by their names.
pub fn files(store: &Path) -> Vec<(String, Digest)> {
    let entries = fs::read_dir(store.join("layers")).into_iter().flatten();
    let mut files: Vec<_> = entries
        .map(|entry| entry.unwrap())
        .map(|entry| {
            let content = fs::read(entry.path()).unwrap();
            (
                entry.file_name().into_string().unwrap(),
                Digest::of(&content),
            )
        })
        .collect();
    files.sort();
    files
}

/// Shows that a layer's file is a sound file system.
pub fn check_files(store: &Path) {
    for (name, _) in files(store) {
        if name.ends_with(".erofs") {
            let path = store.join("layers").join(name);
            run(tool("FSCK_EROFS", "fsck.erofs").arg(text(&path)));
        }
    }
}
