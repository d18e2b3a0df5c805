// SPDX-License-Identifier: Apache-2.0

//! The commands, one file each, and the legacy command lines.

mod check;
mod client;
#[cfg(feature = "tools")]
mod document;
mod findings;
mod get;
mod help;
#[cfg(feature = "tools")]
mod keygen;
#[cfg(feature = "tools")]
mod keyprovider;
mod legacy;
#[cfg(feature = "tools")]
mod pack;
mod private_file;
#[cfg(feature = "tools")]
mod seal;
mod serve;
mod service_status;
mod socket_activation;
mod status;
#[cfg(feature = "tools")]
mod unpack;
#[cfg(feature = "tools")]
mod unseal;

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Args as _, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::config::Component;

/// What `--help` and the manual show at the end.
const EXAMPLE: &str = "Example:
  offline-fs-kbc check
  offline-fs-kbc serve --help";

/// Serves registry credentials and other KBS resources from files to kata-agent in a pod VM
#[derive(Parser)]
#[command(name = "offline-fs-kbc", version, after_help = EXAMPLE)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// A command with its arguments.
#[derive(Subcommand)]
pub enum Command {
    Serve(Box<serve::Serve>),
    Get(get::Get),
    Check(Box<check::Check>),
    Status(status::Status),
    #[cfg(feature = "tools")]
    Pack(pack::Pack),
    #[cfg(feature = "tools")]
    Unpack(unpack::Unpack),
    #[cfg(feature = "tools")]
    Keygen(keygen::Keygen),
    #[cfg(feature = "tools")]
    Keyprovider(keyprovider::Keyprovider),
    #[cfg(feature = "tools")]
    Seal(seal::Seal),
    #[cfg(feature = "tools")]
    Unseal(unseal::Unseal),
}

impl Command {
    fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            Self::Serve(serve) => serve.run(),
            Self::Get(get) => get.run(),
            Self::Check(check) => check.run(),
            Self::Status(status) => status.run(),
            #[cfg(feature = "tools")]
            Self::Pack(pack) => pack.run(),
            #[cfg(feature = "tools")]
            Self::Unpack(unpack) => unpack.run(),
            #[cfg(feature = "tools")]
            Self::Keygen(keygen) => keygen.run(),
            #[cfg(feature = "tools")]
            Self::Keyprovider(keyprovider) => keyprovider.run(),
            #[cfg(feature = "tools")]
            Self::Seal(seal) => seal.run(),
            #[cfg(feature = "tools")]
            Self::Unseal(unseal) => unseal.run(),
        }
    }
}

/// Runs the command line. The exit status is 0 for success, 1 for a failure or for problems found, and 2 for
/// an invalid command line.
///
/// # Errors
///
/// Any failure, for the exit status 1.
pub fn run(args: Vec<OsString>) -> anyhow::Result<ExitCode> {
    match parse(args) {
        Ok(command) => command.run(),
        Err(error) => {
            help::print(&error);
            Ok(ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2)))
        }
    }
}

/// The definition of the command line, for the parser and the manual.
pub fn definition() -> clap::Command {
    Cli::command()
}

/// Parses the command line. A legacy one always means `serve`.
///
/// # Errors
///
/// What to print, if the command line is invalid or asks for help.
pub fn parse(args: Vec<OsString>) -> Result<Command, clap::Error> {
    if let Some(component) = legacy_component(&args) {
        let serve = legacy::parse(component, args.get(1..).unwrap_or_default());
        return Ok(Command::Serve(Box::new(serve)));
    }
    let mut command = match parse_serve(&args) {
        Some(serve) => Command::Serve(Box::new(serve)),
        None => Cli::from_arg_matches(&definition().try_get_matches_from(&args)?)?.command,
    };
    if let Command::Serve(serve) = &mut command {
        let by_name = args
            .first()
            .and_then(|arg| legacy::component(Path::new(arg)));
        serve.component = by_name.unwrap_or_default();
    }
    Ok(command)
}

/// Parses `serve` with the definition of that command alone: building the definitions of all commands is a
/// third of what the program does before it serves. If this fails, or the user asks for help, the full parser
/// takes over.
fn parse_serve(args: &[OsString]) -> Option<serve::Serve> {
    let args = args.get(1..)?;
    if args.first()? != "serve" {
        return None;
    }
    let definition = serve::Serve::augment_args(clap::Command::new("serve"));
    let matches = definition.try_get_matches_from(args).ok()?;
    serve::Serve::from_arg_matches(&matches).ok()
}

/// Writes to standard output. It is not a failure if the reader closes the pipe.
fn print(text: impl AsRef<[u8]>) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout
        .write_all(text.as_ref())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("can't write to standard output"),
    }
}

/// Writes a warning to standard error, and ignores a failure to do so.
#[cfg(feature = "tools")]
fn warn(text: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "offline-fs-kbc: warning: {text}");
}

/// The component as which the program was started: by the component's name, or with its flags. The components
/// had no commands, so an argument that is a command means this program under any name.
fn legacy_component(args: &[OsString]) -> Option<Component> {
    let by_name = args
        .first()
        .and_then(|arg| legacy::component(Path::new(arg)));
    match args.get(1).map(|arg| arg.to_string_lossy()) {
        None => by_name,
        Some(first) if ["--help", "-h", "--version", "-V"].contains(&&*first) => None,
        Some(first) if !first.starts_with('-') => None,
        Some(first) if legacy::is_flag(&first) => Some(by_name.unwrap_or_default()),
        Some(_) => by_name,
    }
}
