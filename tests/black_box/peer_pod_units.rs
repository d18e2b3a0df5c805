// SPDX-License-Identifier: Apache-2.0

//! The program in an image with cloud-api-adaptor's units: they start it, and its own units are out of use.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;
use std::process::Command;

use crate::check_vm::findings_in;
use crate::support::daemon::{ANONYMOUS, Daemon, Root, called, one, output};
use crate::support::wire::{g1, get};
use crate::units::{expect_success, install_into, installed, links, puller, systemd, uninstall};

const AGENT: &str = "attestation-agent.service";
const HUB: &str = "confidential-data-hub.service";
const DROP_IN: &str = "10-offline-fs-kbc.conf";

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// What the units of the upstream's image say that matters here, in their place.
pub fn add_their_units(root: &Path) {
    let etc = "etc/systemd/system";
    for (name, condition) in [
        ("attestation-agent", "/run/peerpod/aa.toml"),
        (
            "confidential-data-hub",
            "/run/confidential-containers/attestation-agent/attestation-agent.sock",
        ),
    ] {
        let text =
            format!("[Path]\nPathExists={condition}\n[Install]\nWantedBy=multi-user.target\n");
        write(root, &format!("{etc}/{name}.path"), &text);
        let program = format!("usr/local/bin/{name}");
        if fs::symlink_metadata(root.join(&program)).is_err() {
            write(root, &program, "#!/bin/sh\n");
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(root.join(&program), mode).unwrap();
        }
    }
    let rest = "Restart=always\nRestartSec=1\n[Install]\nWantedBy=multi-user.target\n";
    let agent = format!(
        "[Unit]\nDescription=a stand-in\nAfter=network.target\n[Service]\nType=simple\n\
         ExecStartPre=/bin/sh -c 'mkdir -p /run/x'\n\
         ExecStart=/usr/local/bin/attestation-agent -c /run/peerpod/aa.toml\n{rest}"
    );
    write(root, &format!("{etc}/{AGENT}"), &agent);
    let hub = format!(
        "[Unit]\nDescription=a stand-in\n[Service]\nType=simple\n\
         Environment=OCICRYPT_KEYPROVIDER_CONFIG=/etc/ocicrypt_config.json\n\
         Environment=\"CDH_DEFAULT_IMAGE_AUTHENTICATED_REGISTRY_CREDENTIALS=file:///run/peerpod/auth.json\"\n\
         ExecStart=/bin/sh -c 'exec /usr/local/bin/confidential-data-hub'\n{rest}"
    );
    write(root, &format!("{etc}/{HUB}"), &hub);
    write(
        root,
        "usr/lib/systemd/system-preset/30-theirs.preset",
        "enable attestation-agent.path\nenable confidential-data-hub.path\n",
    );
    // So that only what is meant to be is enabled.
    write(
        root,
        "usr/lib/systemd/system-preset/99-rest.preset",
        "disable *\n",
    );
}

/// The settings of a unit or drop-in, each with its section, in order.
fn settings(path: &Path) -> Vec<String> {
    let mut section = String::new();
    let text = fs::read_to_string(path).unwrap();
    let lines = text
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .filter_map(|line| {
            if line.starts_with('[') {
                line.clone_into(&mut section);
                return None;
            }
            Some(format!("{section} {line}"))
        })
        .collect()
}

fn drop_in(root: &Path, prefix: &str, unit: &str) -> std::path::PathBuf {
    root.join(format!("{prefix}/lib/systemd/system/{unit}.d/{DROP_IN}"))
}

fn script(root: &Path, args: &[&str]) {
    let mut script = Command::new(root.join("usr/share/offline-fs-kbc/use-peerpod-units"));
    script.arg("--root").arg(root).args(args);
    assert_eq!(expect_success(&mut script), "");
}

/// A unit that runs the program in place of its own has everything that its own has, so that the sandbox and
/// the descriptor store can't be forgotten in one of them.
#[test]
fn the_drop_ins_have_every_setting_of_the_service() {
    for prefix in ["usr", "usr/local"] {
        let prefix_arg = format!("PREFIX=/{prefix}");
        let root = installed(&["IMAGE=peerpod", "CDH=1", &prefix_arg]);
        let system = root.path().join(prefix).join("lib/systemd/system");
        let own = settings(&system.join("offline-fs-kbc.service"));
        let left_out = ["Description=", "After=", "ExecStart="];
        let wanted: Vec<_> = own
            .iter()
            .filter(|line| !line.starts_with("[Install]"))
            .filter(|line| {
                let setting = line.split_once(' ').unwrap().1;
                !left_out.iter().any(|name| setting.starts_with(name))
            })
            .collect();
        assert!(wanted.len() > 50, "{wanted:?}");
        let bin = format!("/{prefix}/bin");
        for (unit, additional) in [
            (
                AGENT,
                vec![
                    "[Unit] ConditionPathExists=/run/peerpod/aa.toml".to_owned(),
                    "[Service] ExecStartPre=".to_owned(),
                    "[Service] ExecStart=".to_owned(),
                    format!("[Service] ExecStart={bin}/attestation-agent -c /run/peerpod/aa.toml"),
                ],
            ),
            (
                HUB,
                vec![
                    "[Service] ExecStart=".to_owned(),
                    format!(
                        "[Service] ExecStart=/bin/sh -c \"if [ -f /run/peerpod/cdh.toml ]; then exec \
                         {bin}/confidential-data-hub -c /run/peerpod/cdh.toml; fi; exec \
                         {bin}/confidential-data-hub\""
                    ),
                ],
            ),
        ] {
            let found = settings(&drop_in(root.path(), prefix, unit));
            let (same, rest) = found.split_at(wanted.len());
            assert_eq!(same.iter().collect::<Vec<_>>(), wanted, "{unit}");
            assert_eq!(rest, additional, "{unit}");
        }
    }
}

/// systemd reads their units with the drop-ins without warnings, wherever these were installed, and the services
/// are as hardened as the program's own.
#[test]
fn systemd_understands_their_units_with_the_drop_ins() {
    for prefix in ["/usr", "/usr/local"] {
        let prefix = format!("PREFIX={prefix}");
        let root = installed(&["IMAGE=peerpod", "CDH=1", "DROP_INS=console", &prefix]);
        add_their_units(root.path());
        for unit in [AGENT, HUB] {
            assert_eq!(
                systemd("systemd-analyze", root.path(), &["verify", unit]),
                ""
            );
            let security = ["security", "--offline=yes", "--no-pager", "--threshold=5"];
            systemd(
                "systemd-analyze",
                root.path(),
                &[&security[..], &[unit]].concat(),
            );
        }
    }
}

/// With their units in use, presets enable theirs alone. What was enabled before is disabled, the alias too.
#[test]
fn only_their_units_are_enabled() {
    let theirs = [
        "multi-user.target.wants/attestation-agent.path",
        "multi-user.target.wants/confidential-data-hub.path",
    ];
    let root = installed(&["PREFIX=/usr", "DROP_INS=attestation-agent-alias"]);
    systemd(
        "systemctl",
        root.path(),
        &["enable", "offline-fs-kbc.service"],
    );
    assert_eq!(links(root.path()).len(), 5);
    add_their_units_but(root.path());
    script(root.path(), &[]);
    assert_eq!(links(root.path()), [""; 0]);
    systemd("systemctl", root.path(), &["preset-all"]);
    assert_eq!(links(root.path()), theirs);
    // Only the program that is installed under this name has a drop-in for it.
    let hub = drop_in(root.path(), "usr", HUB);
    assert!(!hub.exists());

    // Once more: nothing changes, but that a drop-in without its program goes.
    fs::create_dir_all(hub.parent().unwrap()).unwrap();
    fs::write(&hub, "").unwrap();
    script(root.path(), &[]);
    assert!(!hub.parent().unwrap().exists());
    assert!(drop_in(root.path(), "usr", AGENT).exists());
    assert_eq!(links(root.path()), theirs);

    script(root.path(), &["--undo"]);
    assert!(
        !drop_in(root.path(), "usr", AGENT)
            .parent()
            .unwrap()
            .exists()
    );
    systemd("systemctl", root.path(), &["preset-all"]);
    // Both kinds, and the alias.
    assert_eq!(links(root.path()).len(), 2 + 5);
}

/// Who installs again without CDH=1 gives the hub's place back.
#[test]
fn the_hub_s_place_is_given_back() {
    let root = installed(&["IMAGE=peerpod", "CDH=1", "PREFIX=/usr"]);
    let hub = root.path().join("usr/bin/confidential-data-hub");
    assert!(drop_in(root.path(), "usr", HUB).exists() && hub.is_symlink());
    install_into(root.path(), &["IMAGE=peerpod", "PREFIX=/usr"]);
    assert!(!drop_in(root.path(), "usr", HUB).exists() && !hub.is_symlink());
    assert!(drop_in(root.path(), "usr", AGENT).exists());
}

/// Their units in an image where the alias has the place of one of them.
fn add_their_units_but(root: &Path) {
    let alias = root.join("etc/systemd/system").join(AGENT);
    let target = fs::read_link(&alias).unwrap();
    fs::remove_file(&alias).unwrap();
    add_their_units(root);
    fs::rename(&alias, root.join("usr/lib/systemd/system").join(AGENT)).unwrap();
    symlink(target, alias).unwrap();
}

/// `make uninstall` removes the drop-ins, and nothing of theirs.
#[test]
fn uninstall_leaves_their_units() {
    let variables = [
        "PREFIX=/usr",
        "GUEST_PULL=1",
        &puller(),
        "IMAGE=peerpod",
        "DROP_INS=console stock-hub-credential early-2023",
    ];
    let root = installed(&variables);
    add_their_units(root.path());
    for path in [
        // Pulls are logged by the hub and by guest-pull.
        "lib/systemd/system/attestation-agent.service.d/console.conf",
        "lib/systemd/system/confidential-data-hub.service.d/console.conf",
        "lib/systemd/system/guest-pull@.service.d/console.conf",
        "lib/systemd/system/confidential-data-hub.service.d/stock-hub-credential.conf",
        "lib/tmpfiles.d/offline-fs-kbc-early-2023.conf",
    ] {
        assert!(root.path().join("usr").join(path).exists(), "{path}");
    }
    uninstall(root.path(), &variables);
    let mut find = Command::new("find");
    find.arg(root.path()).args(["-name", "*offline-fs-kbc*"]);
    find.args(["-o", "-name", "*.service.d", "-o", "-name", "guest-pull*"]);
    assert_eq!(expect_success(&mut find), "");
    assert!(root.path().join("etc/systemd/system").join(AGENT).exists());
}

/// What does not fit such an image is refused before anything is installed.
#[test]
fn what_does_not_fit_is_refused() {
    for (variables, said) in [
        (&["IMAGE=peerpods"][..], "IMAGE=peerpods: it must be"),
        (
            &["IMAGE=peerpod", "DROP_INS=both-roles"],
            "DROP_INS=both-roles is for the program's own units",
        ),
        (&["DROP_INS=consoles"], "there is no such drop-in"),
    ] {
        let root = tempfile::tempdir().unwrap();
        let mut make = Command::new("make");
        make.current_dir(env!("CARGO_MANIFEST_DIR"));
        make.arg("install").args(variables);
        make.arg(format!("DESTDIR={}", root.path().display()));
        make.env_remove("MAKEFLAGS").env_remove("MAKELEVEL");
        let (_, stderr, code) = output(&mut make);
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.contains(said), "{stderr}");
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 0);
    }
}

/// The hub's command passes the configuration file on if it is there.
#[test]
fn the_hub_gets_its_file_if_there_is_one() {
    let dir = tempfile::tempdir().unwrap();
    let image = installed(&["IMAGE=peerpod", "CDH=1"]);
    let settings = settings(&drop_in(image.path(), "usr/local", HUB));
    let command = settings
        .last()
        .and_then(|line| line.strip_prefix("[Service] ExecStart=/bin/sh -c \""))
        .and_then(|line| line.strip_suffix('"'))
        .expect("a command of the shell");
    let here = dir.path().display();
    let command = command
        .replace("/run/peerpod/", &format!("{here}/"))
        .replace("/usr/local/bin/", &format!("{here}/"));
    write(
        dir.path(),
        "confidential-data-hub",
        "#!/bin/sh\necho \"$#\"\n",
    );
    let program = dir.path().join("confidential-data-hub");
    fs::set_permissions(program, fs::Permissions::from_mode(0o755)).unwrap();
    let run = || output(Command::new("/bin/sh").args(["-c", &command]));
    assert_eq!(run(), ("0\n".to_owned(), String::new(), Some(0)));
    write(dir.path(), "cdh.toml", "");
    assert_eq!(run(), ("2\n".to_owned(), String::new(), Some(0)));
}

/// `check` finds what is wrong with the units of an image, and nothing once it is repaired.
#[test]
fn check_finds_units_that_do_not_fit() {
    let root = installed(&["PREFIX=/usr"]);
    let root = root.path();
    let resources = root.join("etc/aa-offline_fs_kbc-resources.json");
    write(
        root,
        "etc/aa-offline_fs_kbc-resources.json",
        &one("default/credential/test", ANONYMOUS),
    );
    fs::set_permissions(&resources, fs::Permissions::from_mode(0o600)).unwrap();
    let found = || {
        let (found, code) = findings_in(root, &[]);
        let codes = found.into_iter().map(|(code, _)| code);
        let codes: Vec<_> = codes.filter(|code| code != "daemon-absent").collect();
        (codes, code)
    };
    let codes = |codes: &[&str]| {
        codes
            .iter()
            .map(|&code| code.to_owned())
            .collect::<Vec<_>>()
    };
    systemd("systemctl", root, &["preset-all"]);
    assert_eq!(found(), (vec![], Some(0)));

    fs::create_dir_all(root.join("usr/local/bin")).unwrap();
    symlink(
        "../../bin/offline-fs-kbc",
        root.join("usr/local/bin/attestation-agent"),
    )
    .unwrap();
    add_their_units(root);
    let hub = "stock-hub-credential";
    assert_eq!(
        found(),
        (codes(&["units-too-early", "unit-settings", hub]), Some(1))
    );
    // A masked unit starts nothing.
    let path_unit = root.join("etc/systemd/system/attestation-agent.path");
    let text = fs::read(&path_unit).unwrap();
    fs::remove_file(&path_unit).unwrap();
    symlink("/dev/null", &path_unit).unwrap();
    assert_eq!(found(), (codes(&[hub]), Some(0)));
    fs::remove_file(&path_unit).unwrap();
    fs::write(&path_unit, text).unwrap();
    script(root, &[]);
    assert_eq!(found(), (codes(&[hub]), Some(0)));
    let drop_in = "usr/share/offline-fs-kbc/drop-ins/stock-hub-credential.conf";
    let drop_in = fs::read_to_string(root.join(drop_in)).unwrap();
    write(
        root,
        &format!("etc/systemd/system/{HUB}.d/stock-hub-credential.conf"),
        &drop_in,
    );
    assert_eq!(found(), (vec![], Some(0)));
    // The hub looks for the present name, and has no repair.
    for entry in [one("Credential", ANONYMOUS), one("default/other/test", "x")] {
        fs::write(&resources, entry).unwrap();
        let (found, code) = found();
        assert!(found.contains(&hub.to_owned()), "{found:?}");
        assert_eq!(code, Some(1));
    }
    fs::write(&resources, one("default/credential/test", ANONYMOUS)).unwrap();

    // A hub that is this program asks itself, and has this drop-in's place for another one.
    let hub_program = root.join("usr/local/bin/confidential-data-hub");
    fs::remove_file(&hub_program).unwrap();
    symlink("../../bin/offline-fs-kbc", &hub_program).unwrap();
    let pulls_none = "guest-pull-missing";
    assert_eq!(found(), (codes(&["unit-settings", pulls_none]), Some(0)));
    fs::remove_file(&hub_program).unwrap();

    // Another agent is none of this program's business, nor is a hub where no credential was baked.
    script(root, &["--undo"]);
    let agent = root.join("usr/local/bin/attestation-agent");
    fs::remove_file(&agent).unwrap();
    fs::write(agent, "another").unwrap();
    fs::remove_dir_all(root.join(format!("etc/systemd/system/{HUB}.d"))).unwrap();
    fs::write(&resources, one("default/other/test", "x")).unwrap();
    assert_eq!(found().0, codes(&["credential-missing"]));
}

/// The clients of early 2023 get to the sockets through a link in their old place. A kata-agent that starts a
/// copy there finds that the sockets are answered.
#[test]
fn early_clients_come_through_a_link() {
    let image = installed(&["DROP_INS=early-2023"]);
    let conf = "offline-fs-kbc-early-2023.conf";
    systemd("systemd-tmpfiles", image.path(), &["--create", conf]);
    let old = image
        .path()
        .join("opt/confidential-containers/attestation-agent");
    let target = fs::read_link(old).unwrap();
    assert_eq!(
        target,
        Path::new("/run/confidential-containers/attestation-agent")
    );

    let root = Root::with(&one("Credential", ANONYMOUS));
    let _daemon = root.start();
    let sockets = root.socket();
    let link = root.path("opt");
    symlink(sockets.parent().unwrap(), &link).unwrap();
    let at = |name: &str| link.join(format!("{name}.sock"));
    let answer = get(&at("getresource"), &g1("Credential")).unwrap();
    assert_eq!(answer, ANONYMOUS.as_bytes());
    let mut copy = called("attestation-agent");
    for name in ["getresource", "keyprovider"] {
        copy.arg(format!("--{name}_sock"));
        copy.arg(format!("unix://{}", at(name).display()));
    }
    let attestation = root.socket_called("attestation-agent.sock");
    copy.arg("--attestation_sock").arg(attestation);
    assert_eq!(Daemon::spawn(copy).wait().code(), Some(0));
    let answer = get(&at("getresource"), &g1("Credential")).unwrap();
    assert_eq!(answer, ANONYMOUS.as_bytes());
}
