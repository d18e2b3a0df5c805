// SPDX-License-Identifier: Apache-2.0

//! kata-agent starts the program from its extension image, under the components' names.
//!
//! This follows kata-agent of August 2026 (kata-containers 7c6ba40c) step by step: it makes a plan from the image's
//! manifest; it starts nothing if a program is missing; for each process it removes the socket's file, starts the
//! program, and looks for the file once a second; at the end it connects to cdh.sock if it is a socket by then. It never
//! looks again.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::thread;
use std::time::Duration;

use offline_fs_kbc::proto::api::{GetResourceRequest, GetResourceResponse};
use offline_fs_kbc::proto::attestation_agent::{
    ExtendRuntimeMeasurementRequest, ExtendRuntimeMeasurementResponse, RuntimeMeasurementResult,
};

use crate::support::daemon::{ANONYMOUS, Daemon, Root, called_in, complaints, one, program};
use crate::support::wire::call;

/// Where the extension image is mounted.
const EXTENSION: &str = "/run/kata-extensions/coco";

/// The default of kata-agent's option `agent.launch_process_timeout` is 6 s; a machine that runs tests may be slower.
const LAUNCH_PROCESS_TIMEOUT: u64 = 20;

const AGENT_SOCKET: &str = "/run/confidential-containers/attestation-agent/attestation-agent.sock";
const HUB_SOCKET: &str = "/run/confidential-containers/cdh.sock";
const INITDATA: &str = "/run/confidential-containers/initdata";

/// A process of the plan. All paths are those in the VM.
struct Launch {
    path: String,
    args: Vec<String>,
    config: String,
    env: Vec<(&'static str, String)>,
    wait_socket: &'static str,
}

/// The plan that the manifest gives. With a GPU, the first process is another program, with another environment.
fn plan(with_gpu: bool, with_initdata: bool) -> [Launch; 2] {
    let mut args = vec![
        "--attestation_sock".to_owned(),
        format!("unix://{AGENT_SOCKET}"),
    ];
    if with_initdata {
        args.extend([
            "--initdata-toml".to_owned(),
            format!("{INITDATA}/initdata.toml"),
        ]);
    }
    let (agent, libraries) = match with_gpu {
        true => ("attestation-agent-nv", Some("usr/local/lib")),
        false => ("attestation-agent", None),
    };
    let libraries = libraries.map(|path| ("LD_LIBRARY_PATH", format!("{EXTENSION}/{path}")));
    [
        Launch {
            path: format!("{EXTENSION}/usr/local/bin/{agent}"),
            args,
            config: format!("{INITDATA}/aa.toml"),
            env: libraries.into_iter().collect(),
            wait_socket: AGENT_SOCKET,
        },
        Launch {
            path: format!("{EXTENSION}/usr/local/bin/confidential-data-hub"),
            args: Vec::new(),
            config: format!("{INITDATA}/cdh.toml"),
            env: vec![
                (
                    "OCICRYPT_KEYPROVIDER_CONFIG",
                    format!("{EXTENSION}/etc/ocicrypt_config.json"),
                ),
                (
                    "PATH",
                    format!("{EXTENSION}/usr/sbin:/bin:/sbin:/usr/bin:/usr/sbin"),
                ),
            ],
            wait_socket: HUB_SOCKET,
        },
    ]
}

/// A path of the VM, below the test's root.
fn below(root: &Root, path: &str) -> PathBuf {
    root.path(path.trim_start_matches('/'))
}

/// kata-agent's step for one process. It returns when the socket's file is there.
fn launch(root: &Root, process: &Launch) -> Daemon {
    let mut command = called_in(&root.path("run"), &process.path);
    command.args(&process.args);
    if below(root, &process.config).exists() {
        command.args(["-c", &process.config]);
    }
    let socket = below(root, process.wait_socket);
    if socket.exists() {
        fs::remove_file(&socket).unwrap();
    }
    for (name, value) in &process.env {
        command.env(name, value);
    }
    // The only file that it shares with this machine's /etc.
    command.env("OFFLINE_FS_KBC_EXTRA_FILE_PATH", root.resources());
    let daemon = Daemon::spawn(command);
    for _ in 0..=LAUNCH_PROCESS_TIMEOUT {
        // Not to wait for luck: this is how kata-agent waits, the first time too.
        thread::sleep(Duration::from_secs(1));
        if socket.exists() {
            return daemon;
        }
    }
    panic!("kata-agent gives up {}: {}", process.path, daemon.log());
}

/// A root with the extension image, in which each name is the program.
fn root_with_extension() -> Root {
    let root = Root::with(&one("Credential", ANONYMOUS));
    let programs = below(&root, EXTENSION).join("usr/local/bin");
    fs::create_dir_all(&programs).unwrap();
    for name in [
        "attestation-agent",
        "attestation-agent-nv",
        "confidential-data-hub",
    ] {
        symlink(fs::canonicalize(program()).unwrap(), programs.join(name)).unwrap();
    }
    root
}

/// Launches the plan, and asks what kata-agent and the containers of the pod ask then.
fn run(root: &Root, plan: &[Launch; 2]) -> String {
    for process in plan {
        assert!(below(root, &process.path).exists(), "{}", process.path);
    }
    let daemons = plan.each_ref().map(|process| launch(root, process));
    let hub = below(root, HUB_SOCKET);
    assert!(fs::metadata(&hub).unwrap().file_type().is_socket());
    let request = GetResourceRequest {
        ResourcePath: "kbs:///default/credential/test".to_owned(),
        ..GetResourceRequest::default()
    };
    let answer: GetResourceResponse =
        call(&hub, "api.GetResourceService", "GetResource", &request).unwrap();
    assert_eq!(answer.Resource, ANONYMOUS.as_bytes());
    let answer: ExtendRuntimeMeasurementResponse = call(
        &below(root, AGENT_SOCKET),
        "attestation_agent.AttestationAgentService",
        "ExtendRuntimeMeasurement",
        &ExtendRuntimeMeasurementRequest::default(),
    )
    .unwrap();
    assert_eq!(
        answer.Result.enum_value(),
        Ok(RuntimeMeasurementResult::NOT_SUPPORTED)
    );
    daemons.map(|daemon| daemon.log()).concat()
}

/// Without initdata there are no configuration files, and nothing is to be complained about.
#[test]
fn started_from_the_extension_image() {
    let root = root_with_extension();
    let log = run(&root, &plan(false, false));
    assert_eq!(complaints(&log), 0, "{log}");
}

/// With a GPU, with initdata whose aa.toml is empty, and after sockets that nobody answers on any more.
#[test]
fn started_from_the_extension_image_with_a_gpu_and_initdata() {
    let root = root_with_extension();
    for path in [AGENT_SOCKET, HUB_SOCKET] {
        let path = below(&root, path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        drop(UnixListener::bind(path).unwrap());
    }
    fs::create_dir_all(below(&root, INITDATA)).unwrap();
    for (name, text) in [
        (
            "initdata.toml",
            "algorithm = \"sha256\"\nversion = \"0.1.0\"\n\n[data]\n\"aa.toml\" = '''\n'''\n",
        ),
        ("aa.toml", ""),
        (
            "cdh.toml",
            "socket = \"unix:///run/confidential-containers/cdh.sock\"\n[kbc]\nname = \"offline_fs_kbc\"\n\
             [aa]\naa_socket = \"unix:///run/confidential-containers/attestation-agent/attestation-agent.sock\"\n",
        ),
    ] {
        fs::write(below(&root, INITDATA).join(name), text).unwrap();
    }
    let log = run(&root, &plan(true, true));
    assert!(
        log.contains("--initdata-toml; the initdata was not measured and not verified"),
        "{log}"
    );
    assert_eq!(complaints(&log), 1, "{log}");
}
