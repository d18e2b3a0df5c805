// SPDX-License-Identifier: Apache-2.0

//! Credentials that clients would reject or misread: what is served instead, and what the log says because
//! clients do not.

use serde_json::json;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ttrpc::Code;

use crate::support::daemon::{ANONYMOUS, Daemon, Root, one};
use crate::support::wire::{fields, g1, g2, get};

const CREDENTIAL: &str = "/default/credential/test";

fn served(root: &Root) -> Result<String, (Code, String)> {
    let bytes = get(&root.socket(), &g2(CREDENTIAL))?;
    Ok(String::from_utf8(bytes).unwrap())
}

/// A credential that every client can read is served byte for byte, including white space.
#[test]
fn a_good_credential_is_served_unchanged() {
    let root = Root::new();
    let _daemon = root.start_as_installed();
    for text in [
        ANONYMOUS,
        " {\n\"auths\" : {} , \"credsStore\": \"x\"}\n",
        r#"{"auths":{"q":{"email":1,"auth":"dTpw"}},"x":[ ]}"#,
    ] {
        root.rename_resources(&one("Credential", text));
        assert_eq!(served(&root).unwrap(), text);
    }
}

/// One entry without a login would fail every private pull of the VM: it is repaired or left out, and named.
#[test]
fn an_unusable_entry_costs_only_itself() {
    let text = r#"{"auths":{"quay.io":{"auth":"dTpw"},"ghcr.io":{},"docker.io":{"username":"u","password":"hunter2"}},"credsStore":"x"}"#;
    let root = Root::with(&one("Credential", text));
    let daemon = root.start_as_installed();
    let auth = STANDARD.encode("u:hunter2");
    let expected = format!(
        r#"{{"auths":{{"quay.io":{{"auth":"dTpw"}},"docker.io":{{"username":"u","password":"hunter2","auth":"{auth}"}}}},"credsStore":"x"}}"#
    );
    assert_eq!(served(&root).unwrap(), expected);
    let log = daemon.log();
    for said in [
        "repaired before it is served: registry \"ghcr.io\": left out: no member \"auth\"",
        "repaired before it is served: registry \"docker.io\": \"auth\" is made from \"username\" and \"password\"",
    ] {
        assert_eq!(log.matches(said).count(), 1, "{said}: {log}");
    }
    assert!(!log.contains("hunter2") && !log.contains(&auth), "{log}");
}

/// Base64 that was applied twice, to the whole credential or to `auth`, is undone once.
#[test]
fn base64_twice_is_undone() {
    let root = Root::with(&one("Credential", STANDARD.encode(ANONYMOUS)));
    let daemon = root.start_as_installed();
    assert_eq!(served(&root).unwrap(), ANONYMOUS);
    assert!(daemon.log().contains("base64 was applied once too often"));
    let twice = STANDARD.encode(STANDARD.encode("u:p"));
    let text = json!({"auths": {"q": {"auth": twice}}}).to_string();
    root.rename_resources(&one("Credential", text));
    assert_eq!(served(&root).unwrap(), r#"{"auths":{"q":{"auth":"dTpw"}}}"#);
}

/// A credential that no client can use is refused with the reason, since a client keeps what it gets for the
/// life of the VM.
#[test]
fn an_unrepairable_credential_is_refused() {
    let root = Root::new();
    let daemon = root.start_as_installed();
    for (text, reason) in [
        ("hunter2", "is not an auth.json: not JSON"),
        ("{}", "is not an auth.json: no member \"auths\""),
        (
            r#"{"auths":{"quay.io":{},"ghcr.io":{}}}"#,
            "none of its 2 registries can be used: registry \"quay.io\": no member \"auth\"",
        ),
        (
            r#"{"auths":{"q":{"identitytoken":"hunter2"}}}"#,
            "none of its 1 registry can be used",
        ),
    ] {
        root.rename_resources(&one("Credential", text));
        let (code, message) = served(&root).unwrap_err();
        assert_eq!(code, Code::FAILED_PRECONDITION, "{text}");
        assert!(message.contains(reason), "{message}");
        let log = daemon.log();
        assert!(log.contains(reason), "{log}");
        assert!(!log.contains("hunter2"), "{log}");
    }
}

/// With repair off, the decoded bytes are served as they are, and the log says what a client does with them.
#[test]
fn repair_can_be_switched_off() {
    // With repair on it would be served repaired.
    let text = r#"{"auths":{"q":{"username":"u","password":"p"}}}"#;
    let root = Root::with(&one("Credential", text));
    let daemon = root.start();
    assert_eq!(served(&root).unwrap(), text);
    daemon.wait_for_log(
        "got a credential that it rejects as a whole (--repair-credential is off): a kata-agent of 2023 then pulls \
         anonymously, and private images fail with \"Not authorized\"",
    );
    let log = daemon.log();
    assert!(
        log.contains("no member \"auth\"; it is not repaired (--repair-credential is off), and clients reject"),
        "{log}"
    );
    assert!(
        !log.contains("served repaired") && !log.contains("repaired before"),
        "{log}"
    );
}

/// With `--empty-credential` a client gets an empty credential that it accepts, but only if none is
/// configured: never instead of one that can't be read at the moment.
#[test]
fn an_empty_credential_is_served_on_request() {
    let root = Root::new();
    let daemon = root.start_as_installed();
    assert_eq!(served(&root).unwrap_err().0, Code::NOT_FOUND);
    drop(daemon);
    let mut command = root.serve_as_installed();
    command.arg("--empty-credential");
    let daemon = Daemon::start(command, &root.socket());
    assert_eq!(served(&root).unwrap(), ANONYMOUS);
    daemon.wait_for_log(
        "asked for the credential and got a credential without registries: it pulls anonymously",
    );
    root.rename_resources(&one("Credential", r#"{"auths":{"q":{"auth":"dTpw"}}}"#));
    assert_eq!(served(&root).unwrap(), r#"{"auths":{"q":{"auth":"dTpw"}}}"#);
    std::fs::remove_file(root.resources()).unwrap();
    assert_eq!(served(&root).unwrap(), ANONYMOUS);
    root.write_resources("{\"Cred");
    assert_eq!(served(&root).unwrap_err().0, Code::NOT_FOUND);
}

/// kata-agents of 2023 swallow every error and pull anonymously. The log names each answer that makes one do so: as
/// information if that is normal, otherwise as a warning.
#[test]
fn what_clients_hide_is_logged() {
    let root = Root::new();
    let daemon = root.start_as_installed();
    assert!(served(&root).is_err());
    daemon.wait_for_log(
        "of uid 0 asked for the credential and got NOT_FOUND: no resource default/credential/test (old name: Credential); no resources are configured",
    );
    let line = |part: &str| {
        let log = daemon.log();
        let line = log.lines().find(|line| line.contains(part));
        line.unwrap_or_else(|| panic!("{part}: {log}")).to_owned()
    };
    let normal = line("got NOT_FOUND");
    assert!(normal.contains(" INFO pid "), "{normal}");
    assert!(
        normal.ends_with("then pulls anonymously, which is enough for public images"),
        "{normal}"
    );
    root.write_resources("{\"Cred");
    assert!(served(&root).is_err());
    root.rename_resources(&one("Credential", "{}"));
    assert!(served(&root).is_err());
    assert!(
        get(
            &root.socket(),
            &fields("/default/credential/test", "cc_kbc", "x")
        )
        .is_err()
    );
    assert!(get(&root.socket(), &g1("a/b/c")).is_err());
    let log = daemon.log();
    let explained: Vec<_> = log
        .lines()
        .filter(|line| line.contains("private images fail with \"Not authorized\""))
        .collect();
    assert_eq!(explained.len(), 3, "{log}");
    assert!(
        explained.iter().all(|line| line.contains(" WARN pid ")),
        "{log}"
    );
    assert!(
        explained[1].contains("got FAILED_PRECONDITION: default/credential/test in "),
        "{log}"
    );
    assert!(
        explained[2].contains("got INVALID_ARGUMENT: this is offline_fs_kbc"),
        "{log}"
    );
}
