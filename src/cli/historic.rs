// SPDX-License-Identifier: Apache-2.0

//! The command line of the attestation-agent that this program stands in for.
//!
//! kata-agent starts it, never looks again and starts no second one. So whatever the command line
//! says, the daemon starts: what it can't honour it warns about.

use std::ffi::OsString;
use std::process::ExitCode;

use crate::cli::serve::Serve;

/// The historic flags: all spellings, and what becomes of each.
const FLAGS: &[(&[&str], Meaning)] = &[
    (
        &["getresource_sock", "getresource-sock", "g"],
        Meaning::GetResource,
    ),
    (
        &["keyprovider_sock", "keyprovider-sock", "k"],
        Meaning::NotServed,
    ),
    (
        &["attestation_sock", "attestation-sock", "a"],
        Meaning::NotServed,
    ),
    (
        &["config-file", "config_file", "config", "c"],
        Meaning::Ignored("no configuration file is read"),
    ),
    (
        &["initdata-digest", "initdata_digest", "i"],
        Meaning::Ignored(INITDATA),
    ),
    (
        &["initdata-toml", "initdata_toml", "t"],
        Meaning::Ignored(INITDATA),
    ),
];

const INITDATA: &str = "nothing was measured or verified";

/// What becomes of a historic flag.
#[derive(Clone, Copy)]
enum Meaning {
    /// The address of getresource.sock.
    GetResource,
    /// The address of a socket that this version doesn't have.
    NotServed,
    /// Nothing, and why that matters.
    Ignored(&'static str),
}

/// A flag as it was written: its name, and a value in the same argument.
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

/// Whether the argument is one of the historic flags.
pub fn is_flag(arg: &str) -> bool {
    split(arg).is_some_and(|(name, _)| meaning(name).is_some())
}

/// Serves as the arguments (without the program's name) say.
///
/// # Errors
///
/// As serving fails.
pub fn run(args: &[OsString]) -> anyhow::Result<ExitCode> {
    parse(args).run()
}

fn parse(args: &[OsString]) -> Serve {
    let mut serve = Serve::default();
    let mut args = args.iter().map(|arg| arg.to_string_lossy()).peekable();
    while let Some(arg) = args.next() {
        let Some((name, value)) = split(&arg) else {
            serve
                .warnings
                .push(format!("ignored: the argument {arg:?}"));
            continue;
        };
        let meaning = meaning(name);
        let value = match value {
            Some(value) => Some(value.to_owned()),
            // A known flag's value follows; an unknown one's, if that doesn't look like a flag.
            None => args
                .next_if(|next| !next.starts_with('-'))
                .map(String::from),
        };
        match (meaning, value) {
            (Some(Meaning::GetResource), Some(value)) => match value.parse() {
                Ok(address) => serve.getresource_sock = Some(address),
                Err(error) => serve.mistakes.push(format!(
                    "{arg} {value:?}: {error}; the default address is served instead"
                )),
            },
            (Some(Meaning::GetResource), None) => {
                serve
                    .mistakes
                    .push(format!("{arg}: no address follows; the default is served"));
            }
            (Some(Meaning::NotServed), _) => {
                serve
                    .warnings
                    .push(format!("{arg}: this version does not serve that socket"));
            }
            (Some(Meaning::Ignored(why)), _) => {
                serve.warnings.push(format!("ignored: {arg}; {why}"))
            }
            (None, _) => serve
                .warnings
                .push(format!("ignored: the unknown flag {arg:?}")),
        }
    }
    serve
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(args: &[&str]) -> (Option<String>, Vec<String>) {
        let args: Vec<_> = args.iter().map(OsString::from).collect();
        let serve = parse(&args);
        let address = serve.getresource_sock.map(|address| address.to_string());
        (address, [serve.warnings, serve.mistakes].concat())
    }

    /// kata-agent's own command lines, and each spelling of the flag.
    #[test]
    fn the_address_is_found_in_every_spelling() {
        let address = Some("unix:///run/g.sock".to_owned());
        for args in [
            &["--getresource_sock", "unix:///run/g.sock"][..],
            &["--getresource_sock=unix:///run/g.sock"],
            &["--getresource-sock", "unix:///run/g.sock"],
            &["-g", "unix:///run/g.sock"],
            &["-gunix:///run/g.sock"],
            &["-g=unix:///run/g.sock"],
            &[
                "--keyprovider_sock",
                "unix:///run/k.sock",
                "--getresource_sock",
                "unix:///run/g.sock",
            ],
        ] {
            assert_eq!(parsed(args).0, address, "{args:?}");
        }
    }

    /// Nothing stops the daemon; everything that is not honoured is said.
    #[test]
    fn what_is_not_honoured_is_warned_about() {
        for (args, warned) in [
            (
                &["-c", "/run/peerpod/aa.toml"][..],
                "-c; no configuration file",
            ),
            (&["--initdata-toml", "/x"], "nothing was measured"),
            (&["-k", "unix:///run/k.sock"], "-k: this version does not"),
            (&["--brand-new", "value"], "unknown flag \"--brand-new\""),
            (&["word"], "argument \"word\""),
            (&["--getresource_sock"], "no address"),
            (
                &["--getresource_sock", "vsock://1:2"],
                "not a unix socket address",
            ),
        ] {
            let (address, warnings) = parsed(args);
            assert_eq!(address, None);
            assert_eq!(warnings.len(), 1, "{warnings:?}");
            assert!(warnings[0].contains(warned), "{warnings:?}");
        }
    }
}
