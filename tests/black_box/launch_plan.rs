// SPDX-License-Identifier: Apache-2.0

//! kata-agent starts the program itself, from its extension image or from `/usr/local/bin`.

use std::fs;
use std::os::unix::fs::{FileTypeExt as _, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use offline_fs_kbc::proto::api::{
    GetResourceRequest, GetResourceResponse, ImagePullRequest, ImagePullResponse,
};
use offline_fs_kbc::proto::attestation_agent::{
    ExtendRuntimeMeasurementRequest, ExtendRuntimeMeasurementResponse, RuntimeMeasurementResult,
};

use crate::support::both::{guest_pull, program_layer, registry_with};
use crate::support::daemon::{ANONYMOUS, Daemon, Root, complaints, one, output, program};
use crate::support::kata_agent::{Launch, add_extension, below, launch, launch_as_root, plan};
use crate::support::registry::{MOTD, tar};
use crate::support::wire::call;

const AGENT_SOCKET: &str = "/run/confidential-containers/attestation-agent/attestation-agent.sock";
const HUB_SOCKET: &str = "/run/confidential-containers/cdh.sock";
const INITDATA: &str = "/run/confidential-containers/initdata";

/// What a kata-agent that ended has left: sockets on which nobody answers.
fn leave_sockets(root: &Root) {
    for path in [AGENT_SOCKET, HUB_SOCKET] {
        let path = below(root, path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        drop(UnixListener::bind(path).unwrap());
    }
}

/// Launches the plan, and asks what kata-agent and the containers of the pod ask then.
fn run(root: &Root, plan: &[Launch]) -> String {
    let ids: Vec<_> = plan.iter().map(|process| process.id.as_str()).collect();
    assert_eq!(ids, ["attestation-agent", "confidential-data-hub"]);
    for process in plan {
        assert!(below(root, &process.path).exists(), "{}", process.path);
    }
    let daemons: Vec<_> = plan.iter().map(|process| launch(root, process)).collect();
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
    daemons.iter().map(Daemon::log).collect()
}

/// Without initdata there are no configuration files, and nothing is to be complained about.
#[test]
fn started_from_the_extension_image() {
    let root = Root::with(&one("Credential", ANONYMOUS));
    let extension = add_extension(&root);
    let log = run(&root, &plan(Some(&extension), &[]));
    assert_eq!(complaints(&log), 0, "{log}");
}

/// With a GPU, with initdata whose aa.toml is empty, and after sockets that nobody answers on any more.
#[test]
fn started_from_the_extension_image_with_a_gpu_and_initdata() {
    let root = Root::with(&one("Credential", ANONYMOUS));
    let extension = add_extension(&root);
    leave_sockets(&root);
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
    let initdata = format!("initdata_toml_path={INITDATA}/initdata.toml");
    let plan = plan(Some(&extension), &["attester_variant=nvidia", &initdata]);
    assert!(
        plan[0].path.ends_with("/attestation-agent-nv"),
        "{}",
        plan[0].path
    );
    let log = run(&root, &plan);
    assert!(
        log.contains("--initdata-toml; the initdata was not measured and not verified"),
        "{log}"
    );
    assert_eq!(complaints(&log), 1, "{log}");
}

/// The hub that kata-agent started, and the requests that it gets.
struct Hub<'r> {
    root: &'r Root,
    daemon: Daemon,
}

impl Hub<'_> {
    /// Has an image pulled into the bundle of a container.
    fn pull(&self, image: &str, container: &str) -> Result<(), String> {
        let bundle = format!("/run/kata-containers/{container}");
        fs::create_dir_all(below(self.root, &bundle)).unwrap();
        let request = ImagePullRequest {
            image_url: image.to_owned(),
            bundle_path: bundle,
            ..ImagePullRequest::default()
        };
        let socket = below(self.root, HUB_SOCKET);
        let answer: Result<ImagePullResponse, _> =
            call(&socket, "api.ImagePullService", "PullImage", &request);
        answer
            .map(|_| ())
            .map_err(|(code, text)| format!("{code:?}: {text}"))
    }

    /// What a command prints that sees the hub's mounts.
    fn sees(&self, command: &[&str]) -> String {
        let mut nsenter = Command::new("nsenter");
        nsenter.args(["--mount", "--target", &self.daemon.pid().to_string()]);
        let (stdout, stderr, code) = output(nsenter.args(command));
        assert_eq!(code, Some(0), "{command:?}: {stderr}");
        stdout
    }

    /// Runs a program of the container's image, and removes the container as kata-agent does.
    fn runs(&self, container: &str) {
        let bundle = format!("/run/kata-containers/{container}");
        let rootfs = format!("{bundle}/rootfs");
        let said = self.sees(&["chroot", &rootfs, "/bin/cat", "/etc/motd"]);
        assert_eq!(said, MOTD);
        self.sees(&["umount", "--lazy", &rootfs]);
        fs::remove_dir_all(below(self.root, &bundle)).unwrap();
        let mounts = self.sees(&["cat", "/proc/self/mountinfo"]);
        assert!(!mounts.contains("kata-containers"), "{mounts}");
    }
}

/// Launches the plan after sockets that nobody answers on any more. An image of a private registry is pulled by the hub,
/// which starts guest-pull from beside its own file; its program runs, and nothing is left of it. So it is after the hub was
/// killed and kata-agent was started again.
fn pulls(root: &Root, plan: &[Launch], image: &str) {
    leave_sockets(root);
    let [agent, hub] = plan else {
        panic!("{} processes", plan.len());
    };
    let _agent = launch_as_root(root, agent);
    let start = || Hub {
        root,
        daemon: launch_as_root(root, hub),
    };
    let mut hub = start();
    for _ in 0..2 {
        hub.pull(image, "container").unwrap();
        hub.daemon.wait_for_log(&format!("pulled {image} in "));
        hub.runs("container");
        hub.daemon.signal(Signal::SIGKILL);
        hub.daemon.wait();
        hub = start();
    }
}

/// A root with a credential for the image, and kata-agent's configuration for the registry's CA.
fn root_for(auth_json: &str, ca: &Path) -> Root {
    let root = Root::with(&one("Credential", auth_json));
    let ca = fs::read_to_string(ca).unwrap();
    let config = below(&root, INITDATA).join("cdh.toml");
    fs::create_dir_all(config.parent().unwrap()).unwrap();
    let text = format!("[image]\nextra_root_certificates = [\"\"\"\n{ca}\"\"\"]\n");
    fs::write(config, text).unwrap();
    root
}

/// From the extension image, and from the places where kata-agent looks without one.
#[test]
fn an_image_is_pulled_by_what_kata_agent_started() {
    if !geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "this test needs root");
        return;
    }
    let layers = vec![tar("etc/motd", MOTD.as_bytes()), program_layer("/bin/cat")];
    let (registry, image) = registry_with(layers);
    let new_root = || root_for(&registry.auth_json(), &registry.cert_dir().join("ca.crt"));

    let root = new_root();
    let extension = add_extension(&root);
    pulls(&root, &plan(Some(&extension), &[]), &image);

    let root = new_root();
    let bin = root.path("usr/local/bin");
    fs::create_dir_all(&bin).unwrap();
    fs::copy(program(), bin.join("offline-fs-kbc")).unwrap();
    for name in ["attestation-agent", "confidential-data-hub"] {
        symlink("offline-fs-kbc", bin.join(name)).unwrap();
    }
    fs::copy(guest_pull(), bin.join("guest-pull")).unwrap();
    pulls(&root, &plan(None, &[]), &image);
}
