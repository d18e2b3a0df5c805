// SPDX-License-Identifier: Apache-2.0

//! Attestation, key brokers, key management services and volumes; and what a puller needs of the kernel.

use std::fs;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use offline_fs_kbc::proto::api::{GetResourceRequest, SecureMountRequest, UnsealSecretInput};
use offline_fs_kbc_bench::process::leave_service_manager;
use protobuf::Message as _;
use serde_json::json;

use super::{Point, World, either, plain, point, said};
use crate::agent::Noted;
use crate::subject::{
    ATTESTATION_SOCKET, BUNDLES, Connection, Hub, OWN, Setting, Subject, mounts_below, rootfs,
    wait_until,
};
use crate::tree::Layer;

const MEASURED: &str = "Measurement and secrets";

/// What this project leaves to the stock components, or takes more for.
const MORE: &str = "Where the stock components do more, or need less";

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
            "window",
            "layers compressed with `zstd --long=26`",
            |world| super::files::zstd(world, 26),
        ),
        point(
            MORE,
            "kernel",
            "what a mounted image of two layers takes of the kernel, with the store in memory",
            kernel,
        ),
    ]
}

fn measurement(world: &World) -> String {
    let asked = Noted::default();
    let pushed = world.push_file("measurement", b"text");
    let address = &world.registry.address;
    let hub = Hub::start(&Setting {
        image: plain(address),
        agent: Some(&asked),
        ..Setting::default()
    });
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
        // The stock hub says more in its log.
        Err(_) if crate::subject::log_text().contains("AliyunKmsError") => {
            "has a client of that service, which finds no login here".to_owned()
        }
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
    let headers = fs::read_dir("/run/confidential-containers/cdh/luks-headers");
    let headers = headers.into_iter().flatten().flatten();
    let is_formatted = headers
        .map(|entry| entry.path())
        .chain([device])
        .any(|path| fs::read(path).is_ok_and(|content| content.starts_with(b"LUKS\xba\xbe\0\x02")));
    if is_mounted {
        let _ = nix::mount::umount2(&*place, nix::mount::MntFlags::MNT_DETACH);
    }
    match (&answer, is_mounted) {
        (Ok(_), true) => "mounted".to_owned(),
        (Ok(_), false) => "accepted".to_owned(),
        (Err(_), _) if is_formatted && !has_device_mapper() => {
            "formats the device with LUKS2; it can't be opened here, as this machine's kernel has no device mapper".to_owned()
        }
        (Err(refused), _) => format!("refused: {}", said(refused)),
    }
}

fn has_device_mapper() -> bool {
    let devices = fs::read_to_string("/proc/misc").unwrap_or_default();
    devices.contains("device-mapper")
}

fn key_broker(_: &World) -> String {
    let asked = Noted::default();
    let hub = Hub::start(&Setting {
        kbc: "[kbc]\nname = \"cc_kbc\"\nurl = \"http://127.0.0.1:1\"\n",
        agent: Some(&asked),
        ..Setting::default()
    });
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
        Err(refused) => format!("looks into its files alone ({:?})", refused.code),
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
    let layers = ["one", "two"].map(|name| Layer::new().file(name, 0o644, b"text of kernel"));
    world.tree("kernel", layers.into(), |_| {
        let store = Path::new(BUNDLES).join("image/layers");
        let entries = fs::read_dir(store).into_iter().flatten().flatten();
        let files: Vec<_> = entries.map(|entry| entry.path()).collect();
        let devices = fs::read_dir("/sys/block").expect("Linux").flatten();
        let backing = devices
            .filter_map(|entry| fs::read_to_string(entry.path().join("loop/backing_file")).ok());
        // Others on this machine have loop devices too; the names are digests.
        let loops = backing.filter(|file| files.iter().any(|path| path == Path::new(file.trim())));
        match (files.iter().any(|path| is_erofs(path)), loops.count()) {
            (false, 0) => "overlayfs alone".to_owned(),
            (true, loops) => format!("overlayfs, EROFS and {loops} loop devices"),
            (false, loops) => format!("overlayfs and {loops} loop devices"),
        }
    })
}

/// Whether a file has the magic of EROFS.
fn is_erofs(path: &Path) -> bool {
    let content = fs::read(path).unwrap_or_default();
    content.get(1024..1028) == Some(&[0xe2, 0xe1, 0xf5, 0xe0])
}
