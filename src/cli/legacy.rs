// SPDX-License-Identifier: Apache-2.0

//! The command lines of the components that this program replaces: attestation-agent and
//! confidential-data-hub.
//!
//! kata-agent starts such a component once, and does not check whether it runs. So the daemon starts whatever
//! the command line says, and logs a warning for what it can't use.

use std::ffi::OsString;
use std::path::Path;

use offline_fs_kbc::text::{Escaped, Quoted};

use crate::cli::serve::Serve;
use crate::config::component::ComponentFile;
use crate::config::{Component, Role};

/// The names under which the program runs as a component.
const NAMES: &[(&str, Component)] = &[
    ("attestation-agent", Component::AttestationAgent),
    // Kata's extension image starts this one in VMs with an NVIDIA GPU.
    ("attestation-agent-nv", Component::AttestationAgent),
    ("confidential-data-hub", Component::ConfidentialDataHub),
];

/// The flags of the components, and the flags of `serve` that are accepted too: all spellings, with the
/// meaning of each.
const FLAGS: &[(&[&str], Meaning)] = &[
    (
        &["getresource_sock", "getresource-sock", "g"],
        Meaning::Socket(Role::GetResource),
    ),
    (
        &["keyprovider_sock", "keyprovider-sock", "k"],
        Meaning::Socket(Role::KeyProvider),
    ),
    (
        &["attestation_sock", "attestation-sock", "a"],
        Meaning::Socket(Role::Attestation),
    ),
    (
        &["cdh-sock", "cdh_sock"],
        Meaning::Socket(Role::ConfidentialDataHub),
    ),
    (
        &["expose-keys"],
        Meaning::Switch(|serve| &mut serve.expose_keys),
    ),
    (
        &["skip-sealed-secret-verification"],
        Meaning::Switch(|serve| &mut serve.skip_sealed_secret_verification),
    ),
    (
        &["config-file", "config_file", "config", "c"],
        Meaning::Config,
    ),
    (
        &["initdata-digest", "initdata_digest", "i"],
        Meaning::InitData,
    ),
    (&["initdata-toml", "initdata_toml", "t"], Meaning::InitData),
];

/// The meaning of a flag.
#[derive(Clone, Copy)]
enum Meaning {
    /// The address of a socket.
    Socket(Role),
    /// A flag of `serve` without a value.
    Switch(fn(&mut Serve) -> &mut bool),
    /// A configuration file.
    Config,
    /// The initdata with which the VM was started, which this program can't verify.
    InitData,
}

/// The component as which the program runs under this name.
pub fn component(name: &Path) -> Option<Component> {
    let name = name.file_name()?;
    let found = NAMES.iter().find(|(known, _)| name == *known);
    found.map(|(_, component)| *component)
}

/// Splits an argument into a flag's name and a value in the same argument.
fn split(arg: &str) -> Option<(&str, Option<&str>)> {
    if let Some(name) = arg.strip_prefix("--") {
        return Some(match name.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (name, None),
        });
    }
    let short = arg.strip_prefix('-')?;
    let (name, value) = short.split_at_checked(1)?;
    let value = value.strip_prefix('=').unwrap_or(value);
    Some((name, Some(value).filter(|value| !value.is_empty())))
}

fn meaning(name: &str) -> Option<Meaning> {
    let found = FLAGS.iter().find(|(names, _)| names.contains(&name));
    found.map(|(_, meaning)| *meaning)
}

/// Whether the argument is one of these flags.
pub fn is_flag(arg: &str) -> bool {
    split(arg).is_some_and(|(name, _)| meaning(name).is_some())
}

/// Parses the arguments, without the program's name.
pub fn parse(component: Component, args: &[OsString]) -> Serve {
    let mut serve = Serve {
        component,
        ..Serve::default()
    };
    let mut config = None;
    let mut args = args.iter().map(|arg| arg.to_string_lossy()).peekable();
    while let Some(arg) = args.next() {
        let Some((name, value)) = split(&arg) else {
            let arg = Quoted(&arg);
            serve.warnings.push(format!("ignored: the argument {arg}"));
            continue;
        };
        if let Some(Meaning::Switch(switch)) = meaning(name) {
            *switch(&mut serve) = true;
            continue;
        }
        let arg = Escaped(&arg);
        let value = match value {
            Some(value) => Some(value.to_owned()),
            // An argument that looks like a flag is not a value.
            None => args
                .next_if(|next| !next.starts_with('-'))
                .map(String::from),
        };
        match (meaning(name), value) {
            (Some(Meaning::Socket(role)), Some(value)) => match value.parse() {
                Ok(choice) => *serve.sockets.choice(role) = Some(choice),
                Err(error) => serve.mistakes.push(format!(
                    "{arg} {}: {error}; the default address is served instead",
                    Quoted(&value)
                )),
            },
            (Some(Meaning::Config), Some(value)) => config = Some(value),
            (Some(Meaning::InitData), _) => serve.warnings.push(format!(
                "ignored: {arg}; the initdata was not measured and not verified"
            )),
            (Some(Meaning::Switch(_)), _) => {}
            (Some(_), None) => serve
                .mistakes
                .push(format!("{arg}: the value is missing; the default is used")),
            (None, _) => serve
                .warnings
                .push(format!("ignored: the unknown flag \"{arg}\"")),
        }
    }
    if let Some(path) = config {
        if component == Component::ConfidentialDataHub {
            serve.hub_config = Some(path.clone().into());
        }
        apply(ComponentFile::read(Path::new(&path)), &mut serve);
    }
    serve
}

/// Applies the configuration file, where no flag overrides it.
fn apply(file: ComponentFile, serve: &mut Serve) {
    let role = match serve.component {
        Component::AttestationAgent => Role::Attestation,
        Component::ConfidentialDataHub => Role::ConfidentialDataHub,
    };
    let choice = serve.sockets.choice(role);
    *choice = choice.take().or(file.socket);
    serve.skip_sealed_secret_verification |= file.skip_sealed_secret_verification;
    serve.log_level = file.log_level.unwrap_or(serve.log_level);
    serve.warnings.extend(file.warnings);
    serve.mistakes.extend(file.mistakes);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::Choice;

    fn parsed(args: &[&str]) -> Serve {
        let args: Vec<_> = args.iter().map(OsString::from).collect();
        parse(Component::AttestationAgent, &args)
    }

    fn address(choice: Option<Choice>) -> Option<String> {
        match choice? {
            Choice::At(address) => Some(address.to_string()),
            Choice::Off => Some("off".to_owned()),
        }
    }

    /// kata-agent's own command lines, and each spelling of the flags.
    #[test]
    fn addresses_are_found_in_every_spelling() {
        for args in [
            &[
                "--getresource_sock",
                "unix:///g",
                "--keyprovider_sock",
                "unix:///k",
                "--attestation_sock",
                "unix:///a",
            ][..],
            &[
                "--getresource_sock=unix:///g",
                "--keyprovider_sock=unix:///k",
                "--attestation_sock=unix:///a",
            ],
            &[
                "--getresource-sock",
                "unix:///g",
                "--keyprovider-sock",
                "unix:///k",
                "--attestation-sock",
                "unix:///a",
            ],
            &["-g", "unix:///g", "-k", "unix:///k", "-a", "unix:///a"],
            &["-gunix:///g", "-k=unix:///k", "-a", "/a"],
        ] {
            let serve = parsed(args);
            assert_eq!(
                address(serve.sockets.getresource_sock).unwrap(),
                "unix:///g",
                "{args:?}"
            );
            assert_eq!(
                address(serve.sockets.keyprovider_sock).unwrap(),
                "unix:///k",
                "{args:?}"
            );
            assert_eq!(
                address(serve.sockets.attestation_sock).unwrap(),
                "unix:///a",
                "{args:?}"
            );
            assert!(serve.warnings.is_empty() && serve.mistakes.is_empty());
        }
        let serve = parsed(&[
            "--expose-keys",
            "--cdh_sock",
            "unix:///c",
            "--skip-sealed-secret-verification",
        ]);
        assert_eq!(address(serve.sockets.cdh_sock).unwrap(), "unix:///c");
        assert!(serve.expose_keys && serve.skip_sealed_secret_verification);
        let serve = parsed(&["--keyprovider_sock", "none"]);
        assert_eq!(address(serve.sockets.keyprovider_sock).unwrap(), "off");
    }

    /// Nothing stops the daemon; each argument that it can't use is reported.
    #[test]
    fn unusable_arguments_are_reported() {
        for (args, said) in [
            (
                &["-c", "/nonexistent/aa.toml"][..],
                "/nonexistent/aa.toml: can't read the file",
            ),
            (&["--initdata-toml", "/x"], "not measured and not verified"),
            (&["-i", "abc"], "not measured and not verified"),
            (&["--brand-new", "value"], "unknown flag \"--brand-new\""),
            (&["word"], "argument \"word\""),
            (&["--getresource_sock"], "the value is missing"),
            (
                &["--getresource_sock", "vsock://1:2"],
                "not a unix socket address",
            ),
        ] {
            let serve = parsed(args);
            let all = [serve.warnings, serve.mistakes].concat();
            assert_eq!(all.len(), 1, "{all:?}");
            assert!(all[0].contains(said), "{all:?}");
        }
    }

    /// A flag wins over the file, the file over the default.
    #[test]
    fn flags_win_over_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("aa.toml");
        std::fs::write(
            &path,
            "socket = \"unix:///file\"\n[log]\nlevel = \"debug\"\n",
        )
        .unwrap();
        let path = path.display().to_string();
        let serve = parsed(&["-c", &path]);
        assert_eq!(
            address(serve.sockets.attestation_sock).unwrap(),
            "unix:///file"
        );
        let serve = parsed(&["-c", &path, "-a", "unix:///flag"]);
        assert_eq!(
            address(serve.sockets.attestation_sock).unwrap(),
            "unix:///flag"
        );
    }
}
