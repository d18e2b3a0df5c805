// SPDX-License-Identifier: Apache-2.0

//! Attestation, key brokers, key management services and volumes; and what a puller needs of the kernel.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use offline_fs_kbc::proto::api::{GetResourceRequest, SecureMountRequest, UnsealSecretInput};
use offline_fs_kbc_bench::process::leave_service_manager;
use protobuf::Message as _;
use serde_json::json;
use ttrpc::{Code, Request, Response, get_status};

use super::{Point, World, either, plain, point, said};
use crate::subject::{
    ATTESTATION_SOCKET, BUNDLES, Connection, Hub, OWN, Setting, Subject, mounts_below, rootfs,
    wait_until,
};
use crate::tree::Layer;

const MEASURED: &str = "Measurement and secrets";

/// What this project leaves to the stock components.
pub const MORE: &str = "What the stock components do, and this project does not";

pub fn points() -> Vec<Point> {
    vec![
        point(
            MEASURED,
            "measurement",
            "the attestation-agent refuses to measure the image",
            measurement,
        ),
        point(
            MEASURED,
            "sealed",
            "a signed sealed secret whose key is a resource",
            sealed,
        ),
        point(
            MEASURED,
            "sealed-wrong",
            "the same, signed by another key",
            sealed_by_another,
        ),
        point(
            MORE,
            "volumes",
            "a volume with LUKS2 (`SecureMount`)",
            volumes,
        ),
        point(
            MORE,
            "kbs",
            "resources of a key broker (`cc_kbc`)",
            key_broker,
        ),
        point(
            MORE,
            "kms",
            "a sealed secret of a cloud's key service (`aliyun`)",
            key_service,
        ),
        point(
            MORE,
            "evidence",
            "evidence (`GetEvidence` of the attestation-agent)",
            evidence,
        ),
        point(
            MORE,
            "kernel",
            "what a mounted image of two layers takes of the kernel, with the store in memory",
            kernel,
        ),
    ]
}

/// An attestation-agent that notes what it is asked, and refuses all of it.
fn refusing_agent() -> Arc<Mutex<Vec<String>>> {
    let _ = fs::remove_file(ATTESTATION_SOCKET);
    let listener = UnixListener::bind(ATTESTATION_SOCKET).expect("a socket");
    let asked = Arc::<Mutex<Vec<_>>>::default();
    let noted = Arc::clone(&asked);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let noted = Arc::clone(&noted);
            thread::spawn(move || refuse_all(stream, &noted));
        }
    });
    asked
}

fn refuse_all(mut stream: UnixStream, asked: &Mutex<Vec<String>>) -> Option<()> {
    loop {
        let mut header = [0; 10];
        stream.read_exact(&mut header).ok()?;
        let length = u32::from_be_bytes([header[0], header[1], header[2], header[3]]);
        let mut body = vec![0; length as usize];
        stream.read_exact(&mut body).ok()?;
        let request = Request::parse_from_bytes(&body).ok()?;
        asked.lock().expect("no panics").push(request.method);
        let mut response = Response::new();
        response.set_status(get_status(Code::INTERNAL, "no quote today"));
        let body = response.write_to_bytes().ok()?;
        let length = u32::try_from(body.len()).ok()?;
        let frame = [&length.to_be_bytes()[..], &header[4..8], &[2, 0], &body].concat();
        stream.write_all(&frame).ok()?;
    }
}

fn measurement(world: &World) -> String {
    let pushed = world.push_file("measurement", b"text");
    let address = &world.registry.address;
    let hub = Hub::start(&Setting {
        image: plain(address),
        ..Setting::default()
    });
    let asked = refusing_agent();
    let answer = hub.pull(&format!("{address}/{}", pushed.name), "c");
    let is_asked = asked
        .lock()
        .expect("no panics")
        .iter()
        .any(|method| method == "ExtendRuntimeMeasurement");
    let root = rootfs("c").display().to_string();
    let is_mounted = mounts_below(BUNDLES).contains(&root);
    match (&answer, is_asked) {
        (Ok(_), true) => "pulled all the same".to_owned(),
        (Ok(_), false) => "pulled; the agent is not asked".to_owned(),
        (Err(_), _) => {
            let mounted = either(is_mounted, "the image stays mounted", "nothing is mounted");
            format!("the pull fails, and {mounted}")
        }
    }
}

/// Asks for a sealed secret with this setting.
fn unseal(setting: &Setting, secret: &str) -> String {
    let hub = Hub::start(setting);
    let request = UnsealSecretInput {
        secret: secret.as_bytes().to_vec(),
        ..UnsealSecretInput::default()
    };
    let request = request.write_to_bytes().expect("a message encodes");
    match hub.call("api.SealedSecretService", "UnsealSecret", request) {
        Ok(_) => "opened".to_owned(),
        Err(refused) => format!("refused: {}", said(&refused)),
    }
}

/// A key pair for signing: its private half's path, and the public one.
fn signer(world: &World, name: &str) -> (String, Vec<u8>) {
    let path = Path::new(OWN).join(format!("{name}.jwk"));
    let path = path.display().to_string();
    let public =
        crate::registry::run(Command::new(&world.tool).args(["keygen", "--signing", &path]));
    (path, public)
}

fn sealed_with(world: &World, names: [&str; 2]) -> String {
    let [(_, public), (private, _)] = match names {
        [one, other] if one == other => {
            let pair = signer(world, one);
            [pair.clone(), pair]
        }
        [one, other] => [signer(world, one), signer(world, other)],
    };
    let mut seal = Command::new(&world.tool);
    seal.args(["seal", "default/secret/1", "--key", &private]);
    let secret = crate::registry::run(seal.args(["--kid", "kbs:///default/signing-key/1"]));
    let setting = Setting {
        resources: vec![
            ("default/signing-key/1", public),
            ("default/secret/1", b"the secret".to_vec()),
        ],
        ..Setting::default()
    };
    unseal(&setting, &String::from_utf8_lossy(&secret))
}

fn sealed(world: &World) -> String {
    sealed_with(world, ["right", "right"])
}

fn sealed_by_another(world: &World) -> String {
    sealed_with(world, ["expected", "another"])
}

fn volumes(_: &World) -> String {
    let device = Path::new(OWN).join("device");
    fs::write(&device, vec![0; 32 << 20]).expect("a file");
    let options = [
        ("devicePath", &*device.display().to_string()),
        ("sourceType", "empty"),
        ("targetType", "fileSystem"),
        ("filesystemType", "ext4"),
        ("mkfsOpts", ""),
        ("encryptionType", "luks2"),
        ("dataIntegrity", "false"),
    ];
    let options = options.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let request = SecureMountRequest {
        volume_type: "block-device".to_owned(),
        options: options.into_iter().collect(),
        mount_point: format!("{OWN}/volume"),
        ..SecureMountRequest::default()
    };
    let hub = Hub::start(&Setting::default());
    let request = request.write_to_bytes().expect("a message encodes");
    let answer = hub.call("api.SecureMountService", "SecureMount", request);
    let place = format!("{OWN}/volume");
    let is_mounted = mounts_below(OWN).contains(&place);
    if is_mounted {
        let _ = nix::mount::umount2(&*place, nix::mount::MntFlags::MNT_DETACH);
    }
    match (&answer, is_mounted) {
        (Ok(_), true) => "mounted".to_owned(),
        (Ok(_), false) => "accepted".to_owned(),
        (Err(refused), _) if refused.code == Code::UNIMPLEMENTED => {
            format!("refused: {}", said(refused))
        }
        (Err(refused), _) => format!("tries: {}", said(refused)),
    }
}

fn key_broker(_: &World) -> String {
    let hub = Hub::start(&Setting {
        kbc: "[kbc]\nname = \"cc_kbc\"\nurl = \"http://127.0.0.1:1\"\n",
        ..Setting::default()
    });
    let asked = refusing_agent();
    let request = GetResourceRequest {
        ResourcePath: "kbs:///default/secret/1".to_owned(),
        ..GetResourceRequest::default()
    };
    let request = request.write_to_bytes().expect("a message encodes");
    let answer = hub.call("api.GetResourceService", "GetResource", request);
    let asks = asked
        .lock()
        .expect("no panics")
        .iter()
        .any(|method| method == "GetToken");
    match answer {
        _ if asks => "asks the attestation-agent for a token of the key broker".to_owned(),
        Ok(_) => "answered".to_owned(),
        Err(refused) => format!("asks nobody: {}", said(&refused)),
    }
}

fn key_service(_: &World) -> String {
    let payload = json!({"version": "0.1.0", "type": "vault", "name": "secret", "provider": "aliyun",
        "provider_settings": {"client_type": "client_key"}, "annotations": {}});
    let payload = URL_SAFE_NO_PAD.encode(payload.to_string());
    let setting = Setting {
        top: "skip_sealed_secret_verification = true\n",
        ..Setting::default()
    };
    unseal(
        &setting,
        &format!("sealed.fakejwsheader.{payload}.fakesignature"),
    )
}

fn evidence(world: &World) -> String {
    let Subject::Ours { daemon, .. } = &world.subject else {
        return "not played: the stock attestation-agent is another program".to_owned();
    };
    // Its directory.
    let _hub = Hub::start(&Setting::default());
    let mut command = Command::new(daemon);
    leave_service_manager(&mut command);
    command
        .env_remove("INVOCATION_ID")
        .env_remove("SYSTEMD_EXEC_PID");
    command.arg0("attestation-agent").stdin(Stdio::null());
    let mut agent = command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the program");
    let listens = wait_until(|| UnixStream::connect(ATTESTATION_SOCKET).is_ok());
    let answer = listens.then(|| {
        let mut connection = Connection::to(ATTESTATION_SOCKET);
        connection.send(
            1,
            "attestation_agent.AttestationAgentService",
            "GetEvidence",
            Vec::new(),
        );
        connection.answer(1)
    });
    let _ = agent.kill();
    let _ = agent.wait();
    match answer.flatten() {
        Some(Err(refused)) => format!("refused: {}", said(&refused)),
        Some(Ok(_)) => "given".to_owned(),
        None => "no answer".to_owned(),
    }
}

fn kernel(world: &World) -> String {
    let layers = ["one", "two"].map(|name| Layer::new().file(name, 0o644, b"text"));
    world.tree("kernel", layers.into(), |_| {
        let devices = fs::read_dir("/sys/block").expect("Linux").flatten();
        let files = devices
            .filter_map(|entry| fs::read_to_string(entry.path().join("loop/backing_file")).ok());
        let loops = files.filter(|file| file.starts_with(BUNDLES)).count();
        let store = rootfs("c")
            .parent()
            .map(|bundle| bundle.with_file_name("image"));
        let is_erofs = store.is_some_and(|store| has_erofs(&store));
        match (loops, is_erofs) {
            (0, false) => "overlayfs alone".to_owned(),
            (loops, true) => format!("overlayfs, EROFS and {loops} loop devices"),
            (loops, false) => format!("overlayfs and {loops} loop devices"),
        }
    })
}

/// Whether the store has layers as EROFS.
fn has_erofs(store: &Path) -> bool {
    let entries = fs::read_dir(store.join("layers"))
        .into_iter()
        .flatten()
        .flatten();
    let mut files = entries.map(|entry| fs::read(entry.path()).unwrap_or_default());
    files.any(|file| file.get(1024..1028) == Some(&[0xe2, 0xe1, 0xf5, 0xe0]))
}
