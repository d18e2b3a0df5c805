// SPDX-License-Identifier: Apache-2.0

//! guest-pull, started by the daemon itself where no service manager started that.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;

use nix::unistd::geteuid;
use ttrpc::Code;

use crate::support::both::{Both, Mounted, program_layer, registry_with};
use crate::support::daemon::{self, Daemon, Root, one};
use crate::support::puller::RECORDED_PULL;
use crate::support::registry::{MOTD, tar};
use crate::support::wait_for;
use crate::support::wire::Wire;

/// A copy that kata-agent started itself starts the program from beside its own, with the address and the configuration
/// file that it was given. Processes that have ended are not left behind.
#[test]
fn the_program_beside_the_daemon_is_started() {
    let root = Root::new();
    let bin = root.path("bin");
    fs::create_dir(&bin).unwrap();
    let hub = bin.join("confidential-data-hub");
    fs::copy(daemon::program(), &hub).unwrap();
    // It answers nothing, and tells how it was started.
    let arguments = root.path("arguments");
    let script = format!(
        "#!/bin/sh\necho \"$@\" >{0}.new\nmv {0}.new {0}\n",
        arguments.display()
    );
    let program = bin.join("guest-pull");
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
    let config = root.path("cdh.toml");
    let address = root.socket_called("cdh.sock");
    let text = format!(
        "socket = \"unix://{}\"\n[image]\nwork_dir = \"/x\"\n",
        address.display()
    );
    fs::write(&config, text).unwrap();
    fs::create_dir_all(address.parent().unwrap()).unwrap();
    let mut command = Command::new(&hub);
    command.arg("-c").arg(&config);
    let daemon = Daemon::start(command, &address);
    let mut client = Wire::connect(&address);
    let (code, text) = client.ask(RECORDED_PULL).unwrap_err();
    assert_eq!(code, Code::UNAVAILABLE);
    assert!(
        text.contains("guest-pull ended without an answer"),
        "{text}"
    );
    let expected = format!(
        "serve --cdh-sock unix://{} --cdh-config {}\n",
        address.display(),
        config.display()
    );
    assert_eq!(fs::read_to_string(&arguments).unwrap(), expected);
    let children = format!("/proc/{0}/task/{0}/children", daemon.pid());
    wait_for("the end of the process", || {
        let children = fs::read_to_string(&children).unwrap();
        children.is_empty().then_some(())
    });
    assert!(!daemon.log().contains("ignored: [image]"));
}

/// From the client's request to a running program: the image of a private registry, whose CA only the configuration has,
/// by the credential that the daemon serves. The image's file system is where kata-agent looks, a program of it runs, and
/// its removal leaves nothing mounted. The second pull fetches no layer.
#[test]
fn an_image_is_pulled_and_runs() {
    let layers = vec![tar("etc/motd", MOTD.as_bytes()), program_layer("/bin/cat")];
    let (registry, image) = registry_with(layers);
    let root = Root::with(&one("Credential", registry.auth_json()));
    let both = Both::start(&root, &registry);
    if !geteuid().is_root() {
        assert!(std::env::var_os("CI").is_none(), "this test needs root");
        return;
    }
    let (bundle, answer) = both.pull(&image, "bundle-1");
    let digest = answer.unwrap();
    assert!(digest.starts_with("sha256:"), "{digest}");
    let rootfs = bundle.join("rootfs");
    let mounted = Mounted(rootfs.clone());
    let mut cat = Command::new("chroot");
    cat.arg(&rootfs).args(["/bin/cat", "/etc/motd"]);
    assert_eq!(
        daemon::output(&mut cat),
        (MOTD.to_owned(), String::new(), Some(0))
    );
    both.daemon.wait_for_log(&format!("pulled {image} in "));
    let (second, answer) = both.pull(&image, "bundle-2");
    assert_eq!(answer.unwrap(), digest);
    let second = Mounted(second.join("rootfs"));
    assert_eq!(fs::read_to_string(second.0.join("etc/motd")).unwrap(), MOTD);
    both.daemon.wait_for_log(", 0 bytes fetched");
    drop((mounted, second));
    fs::remove_dir_all(&bundle).unwrap();
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(
        !mounts.contains(&root.dir().display().to_string()),
        "{mounts}"
    );

    // A refusal reaches the client with the registry's name and without the password, and nothing is mounted.
    let missing = image.replace("private/app", "private/none");
    let (bundle, answer) = both.pull(&missing, "bundle-3");
    let (code, text) = answer.unwrap_err();
    assert_eq!(code, Code::NOT_FOUND, "{text}");
    assert!(text.contains(&registry.host), "{text}");
    root.rename_resources(&one("Credential", registry.auth_json_with("hunter2")));
    let (_, answer) = both.pull(&image, "bundle-3");
    let (code, text) = answer.unwrap_err();
    assert_eq!(code, Code::UNAUTHENTICATED, "{text}");
    assert!(
        !text.contains("hunter2") && text.contains(&registry.host),
        "{text}"
    );
    assert!(!bundle.join("rootfs/etc").exists());
    let log = both.daemon.log();
    assert!(
        !log.contains("hunter2") && !log.contains(&registry.password),
        "{log}"
    );
    let layers = fs::read_dir(both.store.join("layers")).unwrap();
    let names = layers.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let names: Vec<_> = names.filter(|name| name.ends_with(".erofs")).collect();
    assert_eq!(names.len(), 2, "{names:?}");
}
